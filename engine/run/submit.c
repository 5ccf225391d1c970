// Admitting a request: checks, copies, the queue. All of it on the caller's thread, so that the
// engine thread finds everything made.
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "engine/run/priv.h"
#include "engine/kv/key.h"
#include "engine/run/sessions.h"
#include "base/clock.h"

struct gen_params gen_params_default(void)
{
    struct gen_params g = {
        .max_tokens = UINT32_MAX, .temperature = 1, .top_p = 1, .repeat_penalty = 1, .logprobs = -1,
    };
    random_bytes(&g.seed, sizeof g.seed);
    return g;
}

// ---- how long it may become ----

// Clips the tokens to the context. Without a limit of its own a request also takes what the pool
// has.
static int length_max(const struct engine *e, const struct request *r, uint32_t *ret,
                      struct err *err)
{
    const struct engine_info *info = &e->info;
    if (r->n_tokens > info->ctx_tokens)
        return err_set(err, -E2BIG, "the prompt has %u tokens, the context %u", r->n_tokens,
                       info->ctx_tokens);
    uint64_t pool = (uint64_t)info->kv_blocks * KV_BLOCK_TOKENS;
    uint64_t n = MIN((uint64_t)r->n_tokens + r->gen.max_tokens, info->ctx_tokens);
    if (r->gen.max_tokens == UINT32_MAX)
        n = MAX(MIN(n, pool), r->n_tokens);
    if (n > pool)
        return err_set(err, -ENOSPC, "%llu tokens need %llu KV blocks, the pool has %u",
                       (unsigned long long)n, (unsigned long long)DIV_UP(n, KV_BLOCK_TOKENS),
                       info->kv_blocks);
    *ret = (uint32_t)n;
    return 0;
}

static int check_tokens(const struct engine *e, const struct request *r, struct err *err)
{
    if (r->n_tokens == 0)
        return err_set(err, -EINVAL, "the prompt is empty");
    for (uint32_t i = 0; i < r->n_tokens; i++)
        if (r->token[i] < 0 || (uint32_t)r->token[i] >= e->info.n_vocab)
            return err_set(err, -EINVAL, "token %u of the prompt is %d, the vocabulary has %u", i,
                           r->token[i], e->info.n_vocab);
    return 0;
}

// ---- the job ----

void engine_key_root(const struct engine *e, const struct attn_policy *attn,
                     const struct hash *salt, struct hash *ret)
{
    struct kv_identity id = {
        .model = e->kv_model, .executor = e->kv_executor, .layout = e->layout,
        .exact = e->exact, .salt = *salt,
        .attn = {attn->selector, attn->budget_tokens, attn->window_tokens, attn->sink_tokens},
    };
    kv_key_root(&id, ret);
}

void job_destroy(struct job *j)
{
    if (!j)
        return;
    seq_finish(&j->seq);
    sampler_finish(&j->sampler);
    stop_finish(&j->stop);
    free(j->bias);
    free(j);
}

static int copy_gen(struct job *j, const struct gen_params *g)
{
    j->gen = *g;
    j->gen.stop = NULL;             // j->stop has its own copy
    j->gen.bias = NULL;
    if (g->n_bias == 0)
        return 0;
    j->bias = malloc(g->n_bias * sizeof *j->bias);
    if (!j->bias)
        return -ENOMEM;
    memcpy(j->bias, g->bias, g->n_bias * sizeof *j->bias);
    j->gen.bias = j->bias;
    return 0;
}

static int job_create(struct job **ret, const struct engine *e, const struct request *r,
                      uint32_t n_max)
{
    struct job *j = calloc(1, sizeof *j);
    if (!j)
        return -ENOMEM;
    struct seq_params sp = {
        .token = r->token, .n_tokens = r->n_tokens, .n_max = n_max,
        .reuse = e->prefix_cache, .score = r->gen.prompt_logprobs, .client = r->client,
    };
    engine_key_root(e, &r->attn, r->session ? session_salt(r->session) : &r->salt, &sp.root);
    int rc = seq_init(&j->seq, &sp);
    if (rc == 0)
        rc = copy_gen(j, &r->gen);
    if (rc == 0)
        rc = sampler_init(&j->sampler, &j->gen, e->info.n_vocab, r->token, r->n_tokens);
    if (rc == 0)
        rc = stop_init(&j->stop, r->gen.stop, r->gen.n_stop);
    if (rc < 0) {
        job_destroy(j);
        return rc;
    }
    j->attn = r->attn;
    j->session = r->session;
    j->session_append = r->session_append;
    j->deadline_ns = r->deadline_ns;
    j->submitted_ns = clock_now_ns();
    j->usage.prompt_tokens = r->n_tokens;
    *ret = j;
    return 0;
}

// ---- the queue ----

static int refusal_locked(struct engine *e, struct err *err)
{
    if (e->stats.failed)
        return err_set(err, -EIO, "the device is lost");
    if (e->draining)
        return err_set(err, -ESHUTDOWN, "the engine is shutting down");
    if (e->n_live >= e->limits.live_max)
        return err_set(err, -EBUSY, "%u requests are running or waiting", e->n_live);
    return 0;
}

// Takes a place, before anything is made for the request: a full queue refuses at once.
static int reserve(struct engine *e, struct err *err)
{
    pthread_mutex_lock(&e->lock);
    int r = refusal_locked(e, err);
    if (r == 0)
        e->n_live++;
    else
        e->stats.requests_rejected++;
    pthread_mutex_unlock(&e->lock);
    return r;
}

static void unreserve(struct engine *e)
{
    pthread_mutex_lock(&e->lock);
    e->n_live--;
    pthread_mutex_unlock(&e->lock);
}

static void enqueue(struct engine *e, struct job *j)
{
    pthread_mutex_lock(&e->lock);
    *e->queue_end = j;
    e->queue_end = &j->next;
    pthread_mutex_unlock(&e->lock);
    engine_wake(e);
}

int engine_submit(struct engine *e, const struct request *r, struct stream **ret, struct err *err)
{
    uint32_t n_max = 0;
    int rc = check_tokens(e, r, err);
    if (rc == 0)
        rc = length_max(e, r, &n_max, err);
    if (rc == 0)
        rc = reserve(e, err);
    if (rc < 0)
        return rc;
    struct job *j = NULL;
    struct stream *s = NULL;
    rc = job_create(&j, e, r, n_max);
    if (rc == 0)
        rc = stream_create(&s, r->wake, r->wake_ctx);
    if (rc < 0) {
        job_destroy(j);
        unreserve(e);
        return err_set(err, rc, "no memory for a request of %u tokens", n_max);
    }
    j->stream = s;
    *ret = s;
    enqueue(e, j);
    return 0;
}
