// Block tables: growing, sharing, forking and truncating lists of block numbers.
#include <errno.h>
#include <stdlib.h>
#include "engine/kv/table.h"
#include "base/base.h"

int kv_table_init(struct kv_table *t, uint32_t n_tokens)
{
    uint32_t cap = MAX(DIV_UP(n_tokens, KV_BLOCK_TOKENS), 1);
    uint32_t *block = calloc(cap, sizeof *block);
    if (!block)
        return -ENOMEM;
    *t = (struct kv_table){.block = block, .cap_blocks = cap};
    return 0;
}

void kv_table_finish(struct kv_table *t)
{
    assert(t->n_blocks == 0);
    free(t->block);
    *t = (struct kv_table){0};
}

static void drop_to(struct kv_table *t, struct kv_pool *p, uint32_t n_blocks)
{
    while (t->n_blocks > n_blocks)
        kv_pool_unref(p, t->block[--t->n_blocks]);
}

bool kv_table_grow(struct kv_table *t, struct kv_pool *p, uint32_t n_tokens)
{
    uint32_t want = DIV_UP(n_tokens, KV_BLOCK_TOKENS);
    assert(want <= t->cap_blocks);
    if (want <= t->n_blocks)
        return true;
    if (want - t->n_blocks > kv_pool_n_available(p))
        return false;
    while (t->n_blocks < want)
        t->block[t->n_blocks++] = kv_pool_take(p);
    return true;
}

void kv_table_append(struct kv_table *t, const struct kv_pool *p, uint32_t block)
{
    assert(t->n_blocks < t->cap_blocks);
    assert(kv_pool_state(p, block) == KV_FULL);
    t->block[t->n_blocks++] = block;
}

int kv_table_fork(struct kv_table *dst, const struct kv_table *src, struct kv_pool *p,
                  uint32_t n_tokens, const struct kv_copier *copier)
{
    uint32_t n_full = n_tokens / KV_BLOCK_TOKENS;
    assert(dst->n_blocks == 0);
    assert(DIV_UP(n_tokens, KV_BLOCK_TOKENS) <= src->n_blocks);
    for (uint32_t i = 0; i < n_full; i++) {
        kv_pool_ref(p, src->block[i]);
        kv_table_append(dst, p, src->block[i]);
    }
    if (n_tokens % KV_BLOCK_TOKENS == 0)
        return 0;
    if (!kv_table_grow(dst, p, n_tokens)) {
        kv_table_clear(dst, p);
        return -ENOSPC;
    }
    copier->copy(copier->ctx, dst->block[n_full], src->block[n_full]);
    return 0;
}

int kv_table_truncate(struct kv_table *t, struct kv_pool *p, uint32_t n_tokens,
                      const struct kv_copier *copier)
{
    uint32_t keep = DIV_UP(n_tokens, KV_BLOCK_TOKENS);
    assert(keep <= t->n_blocks);
    if (n_tokens % KV_BLOCK_TOKENS != 0) {
        uint32_t *last = &t->block[keep - 1];
        if (kv_pool_state(p, *last) == KV_FULL && !kv_pool_reopen(p, *last)) {
            uint32_t own = kv_pool_take(p);
            if (own == KV_BLOCK_NONE)
                return -ENOSPC;
            copier->copy(copier->ctx, own, *last);
            kv_pool_unref(p, *last);
            *last = own;
        }
    }
    drop_to(t, p, keep);
    return 0;
}

void kv_table_clear(struct kv_table *t, struct kv_pool *p)
{
    drop_to(t, p, 0);
}
