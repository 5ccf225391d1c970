// KV pages on disk: what the engine does for an executor that holds only some pages in memory
// (engine/kv/paging.h).
//
// A block is dirty from the first row that a step writes into it until the block store has it; then
// it is backed, and the store holds it as long as the pool may find it. Dirty blocks are all in
// memory, so only so many may be begun: the store's pace becomes that of prompts. Where the store
// takes nothing any more, cached blocks are given up, then the youngest sequences wait for the
// others, and the last one ends.
// Pages are fetched by the executor through struct kv_disk, within a step; each has a buffer until
// it arrives, and what is under way for a block that is no more is let go.
//
// Thread-safety: none; the engine thread owns it, and lends struct kv_disk to a step.
#pragma once
#include "engine/run/priv.h"

struct kv_store;
struct paged;

// Tells the executor, which has no blocks yet, that its pages may take memory_bytes. Returns 0 or
// -ENOMEM.
int   paged_create(struct paged **ret, struct engine *e, uint64_t memory_bytes, struct err *err);
void  paged_destroy(struct paged *p);               // behind the store; NULL is fine
// Blocks that the pool gets, with a store of so many bytes.
uint64_t paged_blocks(const struct paged *p, uint64_t store_bytes);
// What fetched pages are read into, for the store to register.
void *paged_buffers(const struct paged *p, uint64_t *bytes);
// The pool and the store are there; the store stays the caller's.
int   paged_start(struct paged *p, struct kv_store *store, struct err *err);

uint64_t paged_memory_blocks(const struct paged *p);        // constant
// For struct sched_params: dirty blocks that memory has room for.
uint32_t paged_room(void *paged);

// All that follows does nothing without paging (p NULL).

// A step writes into this block.
void  paged_write(struct paged *p, uint32_t block);
// All of this block is in memory, and only there.
bool  paged_is_dirty(const struct paged *p, uint32_t block);     // true without paging
// The store has this block of the pool, KV_BLOCK_NONE being none.
void  paged_stored(struct paged *p, uint32_t block, const struct hash *key);
// This block is about to have the content of that key, of which memory gets the digests only.
// False: the store has it no more.
bool  paged_adopt(struct paged *p, uint32_t block, const struct hash *key);
// Whether a sequence of n_blocks should come with digests only: its rows choose what they read, or
// memory has no room for all.
bool  paged_by_index(const struct paged *p, const struct attn_policy *attn, uint32_t n_blocks);

// How long a step of these sequences may wait for pages.
uint64_t paged_stall_ns(const struct paged *p, const struct sched_step *t);
// The step is over: sequences that it missed are marked in t and held. Returns whether there are
// none, and how long it waited for the disk.
bool  paged_step_end(struct paged *p, const struct sched_step *t, uint64_t *wait_ns);
// So many of its blocks were lost that it will never end.
bool  paged_is_hopeless(const struct sequence *q);
// Between two steps: lets sequences go on whose pages are there.
void  paged_turn(struct paged *p);
// Nothing is being written: if nothing else goes on, because no block can be begun, makes room or
// ends a request. `retry` has the store take a dirty block once more.
void  paged_rescue(struct paged *p, void (*retry)(void *ctx, uint32_t block), void *ctx);
void  paged_stats(const struct paged *p, struct engine_paging *ret);
