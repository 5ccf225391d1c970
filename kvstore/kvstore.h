// A key -> block store on NVMe: working set, prefix cache and session store at once.
//
// The contract only: no backend stands behind it yet, and nothing calls it. The engine's side is
// already shaped for it: blocks have content keys (engine/kv/key.h), sequences have the state
// LOADING, executors move whole blocks (kv_read, kv_write of engine/exec/executor.h).
//
// The store knows no model: it gets a key and bytes. A block is complete or absent, never wrong:
// every failure is a miss and the caller recomputes. Writing an existing key is a no-op.
// Thread-safety: none. One thread owns a store and calls kv_store_poll().
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "base/err.h"
#include "base/hash.h"

struct kv_store;

struct kv_store_params {
    const char *path;               // folder; created if missing
    uint64_t    capacity_bytes;     // hard cap of the files
    uint32_t    block_bytes_max;    // multiple of 4096
    uint32_t    inflight_max;       // reads plus writes
    uint64_t    write_bytes_per_day;    // wear budget; 0: none
    const char *backend;            // "io_uring", "posix", "sim"; NULL: the best that works
};

enum kv_io_kind { KV_IO_GET, KV_IO_PUT, KV_IO_DELETE };

// One operation. Owned by the caller, untouched by it from submit until done() was called.
struct kv_io {
    enum kv_io_kind kind;
    struct hash     key;
    void           *buf;            // 4096-aligned, from kv_store_buffer()
    uint64_t        offset_bytes;   // GET: a part of the block, such as one head of one layer
    uint32_t        bytes;          // multiples of 4096
    int             result;         // 0, -ENOENT (miss, or a failure that became one), -ENOSPC
    void          (*done)(struct kv_io *io);
    struct kv_io   *next;           // the store's, while in flight
};

int  kv_store_open(struct kv_store **ret, const struct kv_store_params *p, struct err *err);
void kv_store_close(struct kv_store *s);        // waits for what is in flight; NULL is fine
void *kv_store_buffer(struct kv_store *s, uint32_t bytes);  // aligned, lent; NULL: none free
void kv_store_buffer_free(struct kv_store *s, void *buf);
void kv_store_submit(struct kv_store *s, struct kv_io *io);
// Completes what is ready; with wait_ns > 0 waits that long for the first. Returns completions.
uint32_t kv_store_poll(struct kv_store *s, uint64_t wait_ns);
bool kv_store_has(struct kv_store *s, const struct hash *key);
void kv_store_pin(struct kv_store *s, const struct hash *key, bool pin);
