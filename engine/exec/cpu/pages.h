// KV pages and digests of the CPU executor: all of a pool's, or with paging (engine/kv/paging.h) as
// many pages as a cap allows.
//
// Without paging a page's place follows from its number. With it each page has an entry, one word:
// the slot it lies in and how many threads hold it there. Whoever reads a page holds it meanwhile;
// only what nobody holds, and is backed, gives up its slot, roughly the least recently used first.
// Pages that steps write are never backed, so they stay.
//
// Thread-safety: pages_hold(), pages_release(), pages_ask() and pages_wait() by any thread of the
// step; the others by the engine thread between two steps, or inside the disk's poll().
#pragma once
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include "engine/exec/mem.h"
#include "engine/kv/layout.h"
#include "engine/kv/paging.h"

struct page_entry {
    _Atomic uint64_t place;             // slot + 1 in the upper half, 0: none; holders in the lower
    _Atomic uint32_t used;              // when it was read last, by pages_tick()
    bool             fetching, lost;    // under the lock
};

struct pages {
    struct kv_layout layout;
    uint32_t         n_blocks;
    struct mem       digest;            // (n_blocks, layout.digest_bytes)
    struct mem      *slab;              // (n_slabs) of slots, owned
    uint32_t         n_slabs, slots_per_slab;

    // Paging:
    struct kv_disk  *disk;              // NULL: every page has its slot
    uint64_t         memory_bytes;
    struct page_entry *entry;           // (n_blocks, n_layers), owned
    uint32_t        *owner;             // (n_slots) page, PAGE_NONE, owned
    uint32_t        *free;              // (n_free) slots without a page, owned
    bool            *backed;            // (n_blocks), owned
    uint32_t         n_slots, n_free, hand;
    _Atomic uint32_t now;
    pthread_mutex_t  lock;              // of the disk, and of what gets and gives up slots
    _Atomic uint64_t hits, wait_ns;
    uint64_t         missed;            // sequences, each once a step
    struct kv_page_stats count;         // but for those; under the lock
};

// Pages of n_blocks blocks; with paging if pages_limit() was called on the zeroed struct before.
// Returns 0, -ENOMEM, -EINVAL (the cap holds not even a few blocks).
int  pages_init(struct pages *p, const struct kv_layout *l, uint32_t n_blocks, struct err *err);
void pages_limit(struct pages *p, struct kv_disk *disk, uint64_t memory_bytes);
void pages_finish(struct pages *p);                 // a zeroed one is fine

static inline uint8_t *pages_digest(const struct pages *p, uint32_t block)
{
    assert(block < p->n_blocks);
    return (uint8_t *)p->digest.p + block * p->layout.digest_bytes;
}

static inline uint32_t page_number(const struct pages *p, uint32_t block, uint32_t layer)
{
    assert(block < p->n_blocks);
    return block * p->layout.n_layers + layer;
}

// ---- by threads of a step ----

// The page, which stays until it is released; NULL: it is not in memory.
uint8_t *pages_hold(struct pages *p, uint32_t page);
void     pages_release(struct pages *p, uint32_t page);
// Where it lies now, if it does: somebody may take it away any moment.
uint8_t *pages_peek(const struct pages *p, uint32_t page);
// Starts fetching it, if it is not there. False: the disk is busy, or it is lost.
bool     pages_ask(struct pages *p, uint32_t page);
// As pages_hold(), but waits for it until the time comes. Returns NULL if it is lost (*lost) or
// late. Counts the fault.
uint8_t *pages_wait(struct pages *p, uint32_t page, uint64_t until_ns, bool *lost);

// ---- between steps ----

// The page in memory, for the one that writes it. It must be there.
uint8_t *pages_at(const struct pages *p, uint32_t page);
// All pages of a block that is not backed get slots. Returns 0 or -ENOMEM.
int      pages_claim(struct pages *p, uint32_t block);
void     pages_set_backed(struct pages *p, uint32_t block, bool backed);
// What is read from now on is newer than what was read before.
void     pages_tick(struct pages *p);
void     pages_stats(const struct pages *p, struct kv_page_stats *ret);
