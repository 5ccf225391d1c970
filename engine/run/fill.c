// Filling the prefix cache without computing it, for benchmarks.
//
// The order of elements in a block is the executor's own, so nothing is made up here: the first
// blocks of the first text are computed, and copies of them, keys, values and digests, stand for
// all other blocks.
#include <errno.h>
#include <string.h>
#include "engine/kv/key.h"
#include "engine/run/priv.h"

#define SEEDS_MAX 32                    // computed blocks

struct fill_call {
    struct engine_call        call;
    const int32_t *const     *text;     // (n_texts, n_tokens)
    uint32_t                  n_texts, n_tokens;
    const struct attn_policy *attn;
};

static int compute(struct engine *e, const struct fill_call *f, const struct kv_table *t,
                   uint32_t n_tokens)
{
    int r = 0;
    for (uint32_t from = 0, to; from < n_tokens && r == 0; from = to) {
        to = MIN(from + e->limits.rows_max, n_tokens);
        memcpy(e->batch_token, &f->text[0][from], (to - from) * sizeof *e->batch_token);
        e->batch_seq[0] = (struct batch_seq){
            .block = t->block, .n_blocks = DIV_UP(to, KV_BLOCK_TOKENS), .n_rows = to - from,
            .pos0 = from, .attn = *f->attn,
        };
        r = engine_run_batch(e, to - from, 1, 0, f->call.err);
    }
    return r;
}

static int grow(struct engine *e, const struct fill_call *f, struct kv_table *t)
{
    if (kv_table_grow(t, e->pool, f->n_tokens))
        return 0;
    return err_set(f->call.err, -ENOSPC, "%u texts of %u tokens need %u KV blocks, the pool has %u",
                   f->n_texts, f->n_tokens, f->n_texts * (f->n_tokens / KV_BLOCK_TOKENS),
                   kv_pool_n_blocks(e->pool));
}

// The text's blocks can be found from now on.
static void publish(struct engine *e, const struct fill_call *f, const struct kv_table *t,
                    const int32_t *token)
{
    struct hash key;
    engine_key_root(e, f->attn, &(struct hash){0}, &key);
    for (uint32_t i = 0; i < t->n_blocks; i++, token += KV_BLOCK_TOKENS) {
        struct hash parent = key;
        kv_key_next(&parent, i * KV_BLOCK_TOKENS, token, &key);
        kv_pool_publish(e->pool, t->block[i], &key, token);
    }
}

static int fill_text(struct engine *e, const struct fill_call *f, uint32_t text,
                     const struct kv_table *seeds, uint32_t n_seeds)
{
    struct kv_table t;
    if (kv_table_init(&t, f->n_tokens) < 0)
        return err_set(f->call.err, -ENOMEM, "no memory for %u tokens", f->n_tokens);
    int r = grow(e, f, &t);
    for (uint32_t i = 0; i < t.n_blocks; i++)
        e->x->ops->kv_copy(e->prog, t.block[i], seeds->block[(text + i) % n_seeds]);
    if (r == 0)
        publish(e, f, &t, f->text[text]);
    kv_table_clear(&t, e->pool);
    kv_table_finish(&t);
    return r;
}

static int fill(struct engine *e, const struct fill_call *f, struct kv_table *first)
{
    uint32_t n_seeds = MIN(SEEDS_MAX, f->n_tokens / KV_BLOCK_TOKENS);
    int r = grow(e, f, first);
    if (r == 0)
        r = compute(e, f, first, n_seeds * KV_BLOCK_TOKENS);
    if (r < 0)
        return r;
    for (uint32_t i = n_seeds; i < first->n_blocks; i++)
        e->x->ops->kv_copy(e->prog, first->block[i], first->block[i % n_seeds]);
    publish(e, f, first, f->text[0]);
    for (uint32_t i = 1; i < f->n_texts && r == 0; i++)
        r = fill_text(e, f, i, first, n_seeds);
    return r;
}

static int run_fill(struct engine *e, struct engine_call *c)
{
    const struct fill_call *f = container_of(c, struct fill_call, call);
    struct kv_table first;
    if (kv_table_init(&first, f->n_tokens) < 0)
        return err_set(c->err, -ENOMEM, "no memory for %u tokens", f->n_tokens);
    int r = fill(e, f, &first);
    kv_table_clear(&first, e->pool);
    kv_table_finish(&first);
    return r;
}

int engine_bench_fill(struct engine *e, const int32_t *const *text, uint32_t n_texts,
                      uint32_t n_tokens, const struct attn_policy *attn, struct err *err)
{
    assert(n_tokens % KV_BLOCK_TOKENS == 0);
    if (e->stored)
        return err_set(err, -EINVAL, "what is not computed must not get into a block store");
    struct fill_call f = {
        .call = {.run = run_fill, .err = err},
        .text = text, .n_texts = n_texts, .n_tokens = n_tokens, .attn = attn,
    };
    int r = 0;
    for (uint32_t i = 0; i < n_texts && r == 0; i++)
        r = engine_check_text(e, text[i], n_tokens, err);
    return r < 0 || n_texts == 0 || n_tokens == 0 ? r : engine_call(e, &f.call);
}
