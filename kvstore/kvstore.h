// A key -> block store on NVMe: working set, prefix cache and session store at once.
//
// The store knows no model: it gets a key and bytes. A block is complete or absent, never wrong:
// every failure is a miss and the caller computes again. A key names its content, so writing an
// existing key is a no-op. Records are small named values (a session) that pin blocks: record and
// pins commit together. docs/kvstore.md has the format, its invariants and the version rules.
//
// Thread-safety: none. One thread owns a store, submits operations and calls kv_store_poll(). That
// thread never waits for the disk: reads and writes are asynchronous, commits of the index (fsync)
// run on a thread of the store's own. What it pays is hashing, about 0.1 ms for each MiB.
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "base/err.h"
#include "base/hash.h"

#define KV_UNIT_BYTES 4096u             // offsets, lengths and buffers are multiples of it
#define KV_BLOCK_BYTES_MAX (64u << 20)
#define KV_CAPACITY_BYTES_MIN (4u << 20)
#define KV_RECORD_NAME_MAX 127u
#define KV_RECORD_BYTES_MAX (16u << 20) // value and 32 bytes for each pin
#define KV_PINS_MAX (1u << 18)          // of one record

struct kv_store;
struct kv_sim;                          // kvstore/sim.h

// Zero means the default where one is named. Without capacity_bytes and block_bytes_max an existing
// store is opened as it is, whatever its size; it is made only with both. With read_only such a
// store is looked at: nothing of it changes, a damaged index is -EUCLEAN, and whatever would change
// something, RECORD_GET too, ends with -EIO.
struct kv_store_params {
    const char *path;                   // folder; created if missing
    uint64_t    capacity_bytes;         // hard cap of all files together
    uint32_t    block_bytes_max;        // multiple of KV_UNIT_BYTES
    uint32_t    blocks_max;             // entries in memory, 128 bytes each; capacity / 64 KiB
    uint32_t    records_max;            // 65536
    uint64_t    segment_bytes;          // of one preallocated file; 64 MiB or capacity / 128
    uint32_t    inflight_max;           // disk requests at once; 64
    uint32_t    buffers;                // of block_bytes_max, for kv_store_buffer()
    void       *memory;                 // the caller's own buffers, registered if possible, and
                                        // then not inherited by children of fork();
    uint64_t    memory_bytes;           // borrowed until close
    uint64_t    sums_bytes_max;         // memory for checksums of partly read blocks; 64 MiB
    uint64_t    write_bytes_per_day;    // wear budget; 0: none
    bool        read_only;
    const char *backend;                // "io_uring", "posix"; NULL: the best that works
    struct kv_sim *sim;                 // a simulated machine instead of path and backend; borrowed
};

enum kv_io_kind {
    KV_IO_GET, KV_IO_PUT, KV_IO_DELETE, // one block
    KV_IO_RECORD_GET, KV_IO_RECORD_PUT, KV_IO_RECORD_DELETE,
    KV_IO_FLUSH,                        // done when every change submitted before it is
};

// What goes first when disk requests are scarce. The last two never take the last quarter of them.
enum kv_priority {
    KV_FAULT,                           // a step waits for it
    KV_RESTORE,                         // a request waits for it
    KV_PREFETCH,
    KV_WRITE_BEHIND,
    KV_PRIORITY_COUNT
};

// One operation. Owned by the caller, untouched by it from submit until done() was called; done()
// is only called by kv_store_poll() and kv_store_close(), and may submit and free operations.
// Results: 0, or
//   -ENOENT     a miss, or a failure of any kind that became one (GET, DELETE, RECORD_*); a record
//               names a block that is not there (RECORD_PUT)
//   -ENOSPC     no room for the block: everything is pinned or in use, or the disk is full; too
//               many records, or too long ones (RECORD_PUT)
//   -EDQUOT     over the wear budget of today
//   -EIO        the disk failed: the block was not stored (PUT), the change was not made (RECORD_*)
//   -ENOBUFS    the value is longer than buf: value_bytes says how long (RECORD_GET)
//   -ECANCELED  kv_store_cancel()
struct kv_io {
    enum kv_io_kind  kind;
    enum kv_priority priority;
    struct hash      key;
    void            *buf;               // aligned to KV_UNIT_BYTES for blocks. GET: what it holds
                                        // after a failure is undefined
    uint64_t         offset_bytes;      // GET: where a part of the block begins, such as one head
    uint32_t         bytes;             // of buf; multiple of KV_UNIT_BYTES for blocks
    uint32_t         ttl_s;             // PUT, RECORD_PUT: how long it is wanted; 0: no limit
    const char      *name;              // RECORD_*: of at most KV_RECORD_NAME_MAX bytes
    const struct hash *pin;             // RECORD_PUT: (n_pins) blocks that stay while it exists
    uint32_t         n_pins;
    uint32_t         value_bytes;       // RECORD_GET: length of the value
    int              result;
    void           (*done)(struct kv_io *io);
    void            *ctx;               // the caller's

    struct {                            // the store's, while in flight
        struct kv_io *next, *wait_next;
        uint64_t      seq, name_hash;
        uint32_t      entry, n_parts, issued_bytes, flush_left;
        uint32_t      wear_bytes;       // PUT: of the budget, still to be written
        int           status;
        bool          in_queue;
        void         *header;           // GET of a part: the slot's header as it is read
        void         *record;           // RECORD_PUT: what it will be
    } priv;
};

// Returns 0 or, with the reason in err: -EINVAL (params), -EBUSY (another process has the store),
// -EEXIST (the folder holds something else), -ENOTSUP (another or newer format), -EUCLEAN (both
// superblocks damaged), or what the system said. A damaged index is rebuilt from the slots.
int  kv_store_open(struct kv_store **ret, const struct kv_store_params *p, struct err *err);
// Ends what is in flight (queued reads are cancelled), commits, frees. NULL is fine.
void kv_store_close(struct kv_store *s);

// A buffer of block_bytes_max, aligned, lent; NULL: none is free.
void *kv_store_buffer(struct kv_store *s);
void kv_store_buffer_free(struct kv_store *s, void *buf);   // NULL is fine
// All of them are one range of memory, which a GPU may import. Returns its first byte.
void *kv_store_buffers(struct kv_store *s, uint64_t *bytes);

void kv_store_submit(struct kv_store *s, struct kv_io *io);
// A queued read and a put that waits for room end with -ECANCELED; what waits for a put of its key
// ends with that, changes go on, and a read that the disk has ends when the disk lets go of its
// buffer, with whatever result. A caller that gives up on a slow read must leave its buffer alone
// until then.
void kv_store_cancel(struct kv_store *s, struct kv_io *io);
// Moves everything on and calls done() of what is ready; with wait_ns > 0 waits that long for the
// first. Returns how many. To be called whenever kv_store_fd() is readable, and once a second.
uint32_t kv_store_poll(struct kv_store *s, uint64_t wait_ns);
// An eventfd, readable when kv_store_poll() has something to do. -1 for a simulated machine.
int  kv_store_fd(const struct kv_store *s);
bool kv_store_idle(const struct kv_store *s);   // nothing is in flight or queued

// Is a block there (or being written)? No I/O. *bytes (may be NULL) is its length.
bool kv_store_has(const struct kv_store *s, const struct hash *key, uint32_t *bytes);
// Counted; while it is held a block is not evicted. Ends with the process (a record's pins do not).
// False: it is not there, or not durable yet.
bool kv_store_hold(struct kv_store *s, const struct hash *key);
void kv_store_release(struct kv_store *s, const struct hash *key);
void kv_store_touch(struct kv_store *s, const struct hash *key);    // counts as a use
// Drops what has not been used for longest, until so many bytes of slots are free. Returns bytes.
uint64_t kv_store_evict(struct kv_store *s, uint64_t bytes);

struct kv_block_info {
    struct hash key;
    uint32_t    bytes, slot_bytes;
    uint32_t    pins, holds;
    uint64_t    generation, last_use;   // counters
    uint64_t    expires_s;              // seconds since 1970; 0: never
};
struct kv_record_info { const char *name; uint32_t value_bytes, n_pins; uint64_t expires_s; };

// Iterate: *cursor starts at 0. Returns false at the end. What is stored or dropped meanwhile may
// or may not be seen. The name is valid until the record is changed or deleted.
bool kv_store_next(const struct kv_store *s, uint32_t *cursor, struct kv_block_info *ret);
bool kv_store_next_record(const struct kv_store *s, uint32_t *cursor, struct kv_record_info *ret);

struct kv_stats {
    const char *backend;                // "io_uring", "posix", "sim"
    char        note[160];              // why not a better one; "" if there is nothing to say
    bool        direct, registered_files, registered_buffers;
    bool        degraded;               // stores nothing any more: too many writes failed
    bool        rebuilt;                // the index was damaged when the store was opened
    uint64_t    capacity_bytes, data_bytes, index_bytes;    // cap; files of slots; index
    uint64_t    blocks, records, used_bytes;                // used_bytes: slots with blocks
    uint64_t    pinned_bytes;
    // Since the store was opened:
    uint64_t    gets, hits, get_bytes;
    uint64_t    puts, stored, stored_bytes; // stored: durable, without those that were there
    uint64_t    evicted, expired, deleted;
    uint64_t    corrupt;                // checksum or header did not match: dropped
    uint64_t    read_errors, write_errors, sync_errors, commit_errors;
    uint64_t    retries, short_transfers;
    uint64_t    over_budget, no_space;
    uint64_t    commits, committed;     // transactions; changes in them
    uint64_t    commit_ns, commit_ns_max;
    uint64_t    disk_written_bytes;     // slots with their headers
    uint64_t    index_written_bytes;
    // For good:
    uint64_t    written_today_bytes;    // all of it
    uint64_t    written_total_bytes;
};
void kv_store_stats(const struct kv_store *s, struct kv_stats *ret);
// Bytes written for each byte stored, since the store was opened; 0 if nothing was stored.
double kv_write_amplification(const struct kv_stats *st);

// ---- fsck.c ------------------------------------------------------------------------------------

struct kv_fsck {
    uint64_t blocks, records;           // good ones
    uint64_t bad_blocks;                // header or contents do not match the index
    uint64_t lost_pins;                 // of records, to blocks that are not there
    uint64_t bad_files;                 // no segment, or not of its size
    uint64_t strays;                    // slots with a whole block that the index does not know
    bool     bad_super;                 // one of its two copies
    bool     bad_index;
    bool     repaired;
};
static inline bool kv_fsck_clean(const struct kv_fsck *f)
{
    return !f->bad_blocks && !f->lost_pins && !f->bad_files && !f->bad_super && !f->bad_index;
}
// Reads every block of a store that nobody has open. With repair, drops what is bad; without,
// changes nothing. `say` (may be NULL) gets one line for each finding. Returns 0 (whatever was
// found is in ret) or what kept it from looking: see kv_store_open().
int kv_store_fsck(const char *path, bool repair, void (*say)(void *ctx, const char *line),
                  void *ctx, struct kv_fsck *ret, struct err *err);
