// Evaluation for tools: the logits of every row of one text.
#include <errno.h>
#include "engine/run/priv.h"

struct eval_call {
    struct engine_call        call;
    const int32_t            *token;
    uint32_t                  n;
    const struct attn_policy *attn;
    int                     (*row)(void *ctx, uint32_t i, const float *logits, uint32_t n_vocab);
    void                     *ctx;
};

// The rows [from, to) as one batch of which every row is an output.
static int eval_rows(struct engine *e, struct eval_call *c, const struct kv_table *t, uint32_t from,
                     uint32_t to)
{
    for (uint32_t i = 0; i < to - from; i++) {
        e->batch_token[i] = c->token[from + i];
        e->batch_out[i] = i;
    }
    e->batch_seq[0] = (struct batch_seq){
        .block = t->block, .n_blocks = DIV_UP(to, KV_BLOCK_TOKENS), .n_rows = to - from,
        .pos0 = from, .attn = *c->attn,
    };
    int r = engine_run_batch(e, to - from, 1, to - from, c->call.err);
    for (uint32_t i = 0; r == 0 && i < to - from; i++)
        r = c->row(c->ctx, from + i, &e->batch.logits[(size_t)i * e->info.n_vocab],
                   e->info.n_vocab);
    return r;
}

static int eval_text(struct engine *e, struct eval_call *c, struct kv_table *t)
{
    int r = 0;
    for (uint32_t from = 0; from < c->n && r == 0;) {
        uint32_t to = MIN(from + e->limits.outputs_max, c->n);
        if (!kv_table_grow(t, e->pool, to))
            return err_set(c->call.err, -ENOSPC, "%u tokens need %u KV blocks, the pool has %u",
                           c->n, DIV_UP(c->n, KV_BLOCK_TOKENS), kv_pool_n_blocks(e->pool));
        r = eval_rows(e, c, t, from, to);
        from = to;
    }
    return r;
}

static int run_eval(struct engine *e, struct engine_call *call)
{
    struct eval_call *c = container_of(call, struct eval_call, call);
    struct kv_table t;
    if (kv_table_init(&t, c->n) < 0)
        return err_set(call->err, -ENOMEM, "no memory for %u tokens", c->n);
    int r = eval_text(e, c, &t);
    kv_table_clear(&t, e->pool);
    kv_table_finish(&t);
    return r;
}

int engine_check_text(const struct engine *e, const int32_t *token, uint32_t n, struct err *err)
{
    if (n > e->info.ctx_tokens)
        return err_set(err, -E2BIG, "the text has %u tokens, the context %u", n,
                       e->info.ctx_tokens);
    for (uint32_t i = 0; i < n; i++)
        if (token[i] < 0 || (uint32_t)token[i] >= e->info.n_vocab)
            return err_set(err, -EINVAL, "token %u is %d, the vocabulary has %u", i, token[i],
                           e->info.n_vocab);
    return 0;
}

int engine_eval(struct engine *e, const int32_t *token, uint32_t n, const struct attn_policy *attn,
                int (*row)(void *ctx, uint32_t i, const float *logits, uint32_t n_vocab), void *ctx,
                struct err *err)
{
    struct eval_call c = {
        .call = {.run = run_eval, .err = err},
        .token = token, .n = n, .attn = attn, .row = row, .ctx = ctx,
    };
    int r = engine_check_text(e, token, n, err);
    return r < 0 ? r : engine_call(e, &c.call);
}
