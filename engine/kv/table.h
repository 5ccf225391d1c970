// The block table of one sequence: which block holds tokens [64 i, 64 i + 64).
//
// Leading blocks are FULL and may be shared; only the last ones are FILLING and this table's alone.
// Thread-safety: none; the engine thread owns tables and pool.
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "engine/kv/pool.h"

struct kv_table {
    uint32_t *block;                // (cap_blocks), owned
    uint32_t  n_blocks, cap_blocks;
};

// Copies the bytes of a block: the executor's kv_copy.
struct kv_copier {
    void (*copy)(void *ctx, uint32_t dst_block, uint32_t src_block);
    void  *ctx;
};

// Room for n_tokens. Returns 0 or -ENOMEM.
int  kv_table_init(struct kv_table *t, uint32_t n_tokens);
void kv_table_finish(struct kv_table *t);       // must be empty; a zeroed table is fine

// Takes blocks until the table covers n_tokens. False: the pool is dry, the table is as before.
bool kv_table_grow(struct kv_table *t, struct kv_pool *p, uint32_t n_tokens);
// Appends a FULL block, whose reference passes to the table.
void kv_table_append(struct kv_table *t, const struct kv_pool *p, uint32_t block);
// Makes the empty dst hold the first n_tokens of src: full blocks are shared, a partial last one is
// copied. Returns 0 or -ENOSPC (the pool is dry; dst stays empty).
int  kv_table_fork(struct kv_table *dst, const struct kv_table *src, struct kv_pool *p,
                   uint32_t n_tokens, const struct kv_copier *copier);
// Keeps the first n_tokens; the next token may be written again. Returns 0 or -ENOSPC (a shared
// last block cannot be copied because the pool is dry; the table is as before).
int  kv_table_truncate(struct kv_table *t, struct kv_pool *p, uint32_t n_tokens,
                       const struct kv_copier *copier);
// Gives all blocks back, the last one first: the end of a text is evicted before its beginning.
void kv_table_clear(struct kv_table *t, struct kv_pool *p);
