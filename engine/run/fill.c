// Filling the prefix cache without computing it, for benchmarks.
//
// The order of elements in a block is the executor's own, so nothing is made up here: the first
// blocks of the first text are computed, and copies of them, keys, values and digests, stand for
// all other blocks.
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "engine/kv/key.h"
#include "engine/run/paged.h"
#include "engine/run/stored.h"
#include "base/clock.h"

#define SEEDS_MAX 32                    // computed blocks
#define ROOM_NS (60 * NS_PER_S)         // that a store may take for one block

struct fill_call {
    struct engine_call        call;
    const int32_t *const     *text;     // (n_texts, n_tokens)
    uint32_t                  n_texts, n_tokens;
    const struct attn_policy *attn;
    const struct hash        *salt;
    struct kv_table          *first;    // of the first text, whose first blocks are the seeds
    uint32_t                  n_seeds;
    uint8_t                  *seed;     // (n_seeds, block_bytes), owned; with paging
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

// Waits until memory has room for a block that the store does not have. False: it takes nothing.
static bool wait_room(struct engine *e)
{
    uint64_t until = clock_now_ns() + ROOM_NS;
    while (e->paged && paged_room(e->paged) == 0) {
        stored_turn(e->stored, false);
        if (clock_now_ns() > until)
            return false;
        nanosleep(&(struct timespec){.tv_nsec = NS_PER_MS / 10}, NULL);
    }
    return true;
}

// Block i of a text gets a seed's content and its own key.
static int place(struct engine *e, struct fill_call *f, const struct kv_table *t, uint32_t i,
                 const int32_t *token, const struct hash *key)
{
    uint32_t block = t->block[i], seed = i % f->n_seeds;
    if (t != f->first || i >= f->n_seeds) {
        if (!wait_room(e))
            return err_set(f->call.err, -ENOSPC, "the block store takes no more");
        paged_write(e->paged, block);
        if (e->paged)
            e->x->ops->kv_write(e->prog, block, f->seed + seed * e->layout.block_bytes);
        else
            e->x->ops->kv_copy(e->prog, block, f->first->block[seed]);
    }
    kv_pool_publish(e->pool, block, key, token);
    stored_put(e->stored, block, key);
    return 0;
}

static int fill_text(struct engine *e, struct fill_call *f, const struct kv_table *t,
                     const int32_t *token)
{
    struct hash key;
    int r = 0;
    engine_key_root(e, f->attn, f->salt, &key);
    for (uint32_t i = 0; i < t->n_blocks && r == 0; i++, token += KV_BLOCK_TOKENS) {
        struct hash parent = key;
        kv_key_next(&parent, i * KV_BLOCK_TOKENS, token, &key);
        r = place(e, f, t, i, token, &key);
    }
    return r;
}

// With paging a seed may leave memory while others are copied.
static int keep_seeds(struct engine *e, struct fill_call *f)
{
    size_t bytes = e->layout.block_bytes;
    if (!e->paged)
        return 0;
    f->seed = malloc(f->n_seeds * bytes);
    if (!f->seed)
        return err_set(f->call.err, -ENOMEM, "no memory for %u blocks", f->n_seeds);
    for (uint32_t i = 0; i < f->n_seeds; i++)
        e->x->ops->kv_read(e->prog, f->first->block[i], f->seed + i * bytes);
    return 0;
}

static int fill_first(struct engine *e, struct fill_call *f)
{
    int r = grow(e, f, f->first);
    if (r == 0)
        r = compute(e, f, f->first, f->n_seeds * KV_BLOCK_TOKENS);
    if (r == 0)
        r = keep_seeds(e, f);
    return r ? r : fill_text(e, f, f->first, f->text[0]);
}

static int fill_next(struct engine *e, struct fill_call *f, const int32_t *token)
{
    struct kv_table t;
    if (kv_table_init(&t, f->n_tokens) < 0)
        return err_set(f->call.err, -ENOMEM, "no memory for %u tokens", f->n_tokens);
    int r = grow(e, f, &t);
    if (r == 0)
        r = fill_text(e, f, &t, token);
    kv_table_clear(&t, e->pool);
    kv_table_finish(&t);
    return r;
}

// Whether the store has all of a text, from an earlier process perhaps.
static bool is_stored(const struct engine *e, const struct fill_call *f, const int32_t *token)
{
    struct hash key;
    engine_key_root(e, f->attn, f->salt, &key);
    for (uint32_t i = 0; i < f->n_tokens / KV_BLOCK_TOKENS; i++, token += KV_BLOCK_TOKENS) {
        struct hash parent = key;
        kv_key_next(&parent, i * KV_BLOCK_TOKENS, token, &key);
        if (!e->stored || !stored_has(e->stored, &key))
            return false;
    }
    return true;
}

static int run_fill(struct engine *e, struct engine_call *c)
{
    struct fill_call *f = container_of(c, struct fill_call, call);
    struct kv_table first;
    uint32_t n_stored = 0;
    while (n_stored < f->n_texts && is_stored(e, f, f->text[n_stored]))
        n_stored++;
    if (n_stored == f->n_texts)
        return 0;
    if (kv_table_init(&first, f->n_tokens) < 0)
        return err_set(c->err, -ENOMEM, "no memory for %u tokens", f->n_tokens);
    f->first = &first;
    f->n_seeds = MIN(SEEDS_MAX, f->n_tokens / KV_BLOCK_TOKENS);
    if (e->paged)
        f->n_seeds = CLAMP(paged_room(e->paged) / 2, 1u, f->n_seeds);
    int r = fill_first(e, f);
    for (uint32_t i = 1; i < f->n_texts && r == 0; i++)
        r = fill_next(e, f, f->text[i]);
    kv_table_clear(&first, e->pool);
    kv_table_finish(&first);
    free(f->seed);
    return r;
}

int engine_bench_fill(struct engine *e, const int32_t *const *text, uint32_t n_texts,
                      uint32_t n_tokens, const struct attn_policy *attn, const struct hash *salt,
                      struct err *err)
{
    assert(n_tokens % KV_BLOCK_TOKENS == 0);
    struct fill_call f = {
        .call = {.run = run_fill, .err = err}, .text = text, .n_texts = n_texts,
        .n_tokens = n_tokens, .attn = attn, .salt = salt,
    };
    int r = 0;
    for (uint32_t i = 0; i < n_texts && r == 0; i++)
        r = engine_check_text(e, text[i], n_tokens, err);
    return r < 0 || n_texts == 0 || n_tokens == 0 ? r : engine_call(e, &f.call);
}
