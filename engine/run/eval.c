// Evaluation for tools: the logits of every row of one text.
#include <errno.h>
#include "engine/run/priv.h"

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
    int r = engine_run_batch(e, to - from, 1, to - from, c->err);
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
            return err_set(c->err, -ENOSPC, "%u tokens need %u KV blocks, the pool has %u", c->n,
                           DIV_UP(c->n, KV_BLOCK_TOKENS), kv_pool_n_blocks(e->pool));
        r = eval_rows(e, c, t, from, to);
        from = to;
    }
    return r;
}

void engine_run_eval(struct engine *e, struct eval_call *c)
{
    struct kv_table t;
    c->result = kv_table_init(&t, c->n);
    if (c->result < 0) {
        err_set(c->err, c->result, "no memory for %u tokens", c->n);
        return;
    }
    c->result = eval_text(e, c, &t);
    kv_table_clear(&t, e->pool);
    kv_table_finish(&t);
}

static int check_eval(const struct engine *e, const int32_t *token, uint32_t n, struct err *err)
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
        .token = token, .n = n, .attn = attn, .row = row, .ctx = ctx, .err = err,
    };
    int r = check_eval(e, token, n, err);
    if (r < 0)
        return r;
    pthread_mutex_lock(&e->lock);
    if (e->draining || e->stats.failed) {
        r = err_set(err, e->draining ? -ESHUTDOWN : -EIO, "the engine takes no more work");
    } else if (e->n_live > 0 || e->eval) {
        r = err_set(err, -EBUSY, "requests are running");
    } else {
        e->eval = &c;
        pthread_cond_signal(&e->wakeup);
        while (!c.finished)
            pthread_cond_wait(&e->eval_done, &e->lock);
        r = c.result;
    }
    pthread_mutex_unlock(&e->lock);
    return r;
}
