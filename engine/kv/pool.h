// The block pool: which KV blocks are in use, and by content key which full ones can be shared.
//
// The pool knows numbers only; the bytes of a block are the executor's.
//   1. Only the table that took a block writes to it, and only while it is FILLING.
//   2. A FULL block is immutable; every table that holds it has one reference.
//   3. A FULL block with a key and without references stays cached until its room is needed; the
//      one released longest ago goes first.
// Thread-safety: none; the engine thread owns the pool. No allocation after kv_pool_create.
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "base/err.h"
#include "base/hash.h"
#include "engine/limits.h"

#define KV_BLOCK_NONE UINT32_MAX

enum kv_block_state { KV_FREE, KV_FILLING, KV_FULL };

struct kv_pool;

// Returns 0 or -ENOMEM.
int  kv_pool_create(struct kv_pool **ret, uint32_t n_blocks, struct err *err);
void kv_pool_destroy(struct kv_pool *p);                // NULL is fine

// A FILLING block with one reference, or KV_BLOCK_NONE when every block is referenced.
uint32_t kv_pool_take(struct kv_pool *p);
void     kv_pool_ref(struct kv_pool *p, uint32_t block);    // of a FULL block
void     kv_pool_unref(struct kv_pool *p, uint32_t block);

// FILLING -> FULL, private to those who are handed it.
void kv_pool_seal(struct kv_pool *p, uint32_t block);
// FILLING -> FULL, found by its key from now on. False: another block has that key already; this
// one then is sealed without a key.
bool kv_pool_publish(struct kv_pool *p, uint32_t block, const struct hash *key,
                     const int32_t *token);
// FULL -> FILLING for the only holder; nobody finds it any more. False: it is shared.
bool kv_pool_reopen(struct kv_pool *p, uint32_t block);
// Takes the key off a block whose content must not be believed.
void kv_pool_forget(struct kv_pool *p, uint32_t block);
// A new reference to the block with this key and these tokens (KV_BLOCK_TOKENS), or KV_BLOCK_NONE.
uint32_t kv_pool_find(struct kv_pool *p, const struct hash *key, const int32_t *token);

// Whether the block can be found by this key: then it holds what belongs to it.
bool kv_pool_has(const struct kv_pool *p, uint32_t block, const struct hash *key);

// The key of a block that can be found; NULL: it has none.
const struct hash *kv_pool_key(const struct kv_pool *p, uint32_t block);
// The block that can be found by this key, or KV_BLOCK_NONE.
uint32_t kv_pool_lookup(const struct kv_pool *p, const struct hash *key);
// The cached block that was released longest ago becomes a free one. False: nothing is cached.
bool kv_pool_evict(struct kv_pool *p);
// gone() is told whenever a block ceases to have its key (NULL: it had none, and is free now), and
// whether somebody still uses what it holds.
void kv_pool_watch(struct kv_pool *p,
                   void (*gone)(void *ctx, uint32_t block, const struct hash *key, bool used),
                   void *ctx);

uint32_t kv_pool_n_blocks(const struct kv_pool *p);
uint32_t kv_pool_n_used(const struct kv_pool *p);       // referenced
uint32_t kv_pool_n_cached(const struct kv_pool *p);     // unreferenced, can still be found
uint32_t kv_pool_n_available(const struct kv_pool *p);  // what kv_pool_take could give
// Grows with every change that could let a refused sequence in: compare for inequality.
uint64_t kv_pool_changes(const struct kv_pool *p);

enum kv_block_state kv_pool_state(const struct kv_pool *p, uint32_t block);
uint32_t            kv_pool_refs(const struct kv_pool *p, uint32_t block);
