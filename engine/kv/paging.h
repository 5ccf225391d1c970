// Paging: an executor holds only some pages of its pool in memory and fetches the others, when a
// step needs them, from where the engine has stored their blocks.
//
// A block is *backed* while its stored form (kv_layout) can be fetched; only pages of backed blocks
// may leave memory, so what a step writes stays until it is stored. Digests never leave: a selector
// chooses among all blocks, and what it chose is fetched. Nothing is skipped because it is not
// there: a sequence whose pages do not come in time is *missed* in this step (struct batch_seq),
// all that the step did for it is void, and it runs again.
//
// Thread-safety: fetch() and poll() are called inside submit() and wait(), one at a time, by
// whatever thread of the executor. arrived() is called from poll() or, between two steps, by the
// engine thread; so are kv_backed() and kv_write_digests() of an executor.
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "engine/kv/homes.h"

struct kv_disk {                        // the engine's
    // Starts to fetch the page of a backed block; false: too much is under way, so poll first. It
    // ends with arrived(), unless the block ceased to be backed meanwhile.
    bool (*fetch)(struct kv_disk *d, uint32_t block, uint32_t layer, bool prefetch);
    // Moves on what is under way. Waits for nothing.
    void (*poll)(struct kv_disk *d);
    // Readable when poll() has something to do, perhaps for whoever polls first: wait for it no
    // longer than a fraction of a millisecond. -1: there is none.
    int    fd;

    // The executor's, set before the first fetch. page (layout.page_bytes) is valid during the
    // call; NULL: it cannot be had, now and later.
    void (*arrived)(void *ctx, uint32_t block, uint32_t layer, const void *page);
    void  *arrived_ctx;
};
