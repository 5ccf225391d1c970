// A disk of KV pages in memory, for tests of paging: it takes a while, lets later pages overtake,
// takes only some at once and cannot read one block.
#pragma once
#include "tests/test.h"
#include "base/base.h"
#include "engine/exec/executor.h"

#define PAGE_FETCHES 8                  // under way at most

struct page_fetch { uint32_t block, layer, polls; };

struct page_disk {
    struct kv_disk d;
    const struct kv_layout *layout;
    uint8_t *stored;                    // (blocks, block_bytes), owned
    struct page_fetch fetch[PAGE_FETCHES];
    uint32_t n, polls;                  // under way; polls that a fetch takes
    uint32_t bad_block;                 // cannot be read
    uint32_t n_fetched, n_refused;
};

static inline bool page_disk_fetch(struct kv_disk *d, uint32_t block, uint32_t layer,
                                   bool prefetch)
{
    struct page_disk *k = container_of(d, struct page_disk, d);
    (void)prefetch;
    if (k->n == PAGE_FETCHES) {
        k->n_refused++;
        return false;
    }
    k->fetch[k->n++] = (struct page_fetch){ block, layer, k->polls };
    k->n_fetched++;
    return true;
}

static inline uint8_t *page_disk_block(const struct page_disk *k, uint32_t block)
{
    return k->stored + block * k->layout->block_bytes;
}

// The last of those that are due is the first to arrive.
static inline void page_disk_poll(struct kv_disk *d)
{
    struct page_disk *k = container_of(d, struct page_disk, d);
    for (uint32_t i = k->n; i-- > 0;) {
        struct page_fetch f = k->fetch[i];
        if (f.polls > 0) {
            k->fetch[i].polls--;
            continue;
        }
        k->fetch[i] = k->fetch[--k->n];
        const uint8_t *page = page_disk_block(k, f.block) + kv_page_offset(k->layout, f.layer);
        d->arrived(d->arrived_ctx, f.block, f.layer, f.block == k->bad_block ? NULL : page);
    }
}

static inline struct page_disk page_disk_of(const struct kv_layout *layout)
{
    return (struct page_disk){ .d = { .fetch = page_disk_fetch, .poll = page_disk_poll, .fd = -1 },
                               .layout = layout, .bad_block = UINT32_MAX };
}

// A block that is not backed yet.
static inline void page_disk_store(struct page_disk *k, struct program *g, uint32_t block)
{
    g->x->ops->kv_read(g, block, page_disk_block(k, block));
    g->x->ops->kv_backed(g, block, true);
}
