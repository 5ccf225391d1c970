// Warming up: steps before the first request, so that it finds what the tenth one would.
//
// The first steps of an executor build what later ones only use, and the scheduler must have seen
// what steps cost before it dares to run large ones. So prompts of random tokens run, each twice as
// long as the one before, and then some rows as if generated. Of all that only the memory of
// what steps cost stays: the blocks go back to the pool without keys, and nothing is counted.
//
// What is warmed must not keep anybody waiting: prompts grow only while they are quick, so on a
// slow machine hardly anything runs; there small chunks are as good as large ones anyway.
#include <errno.h>
#include "engine/run/paged.h"
#include "base/clock.h"

// No step begins that would end later. The first one says nothing of others and is not counted, but
// ends it all if it takes that long itself.
#define WARM_NS NS_PER_S
#define GENERATED_ROWS 4
#define MEASURED_MAX 32
// What was measured is learned over and over: from one look at it the scheduler takes only so much.
#define LESSONS 16

struct measured { struct step_work work; uint64_t ns; };

struct warm_call {
    struct engine_call        call;
    const struct attn_policy *attn;
    struct kv_table           table;
    struct sampler            sampler;
    uint32_t                  rows_max;     // of a prompt
    uint64_t                  start_ns, random;
    int32_t                   picked;       // after the last step
    struct measured           step[MEASURED_MAX];
    uint32_t                  n_steps;
};

static int32_t random_token(const struct engine *e, struct warm_call *w)
{
    w->random = w->random * UINT64_C(6364136223846793005) + 1442695040888963407;
    return (int32_t)((w->random >> 33) % e->info.n_vocab);
}

// The batch's rows as one step, and the token that follows them.
static int compute(struct engine *e, struct warm_call *w, uint32_t n_rows)
{
    e->batch_out[0] = n_rows - 1;
    sampler_want(&w->sampler, &e->batch_want[0]);
    e->batch.want = e->x->ops->logits_read ? e->batch_want : NULL;
    int r = engine_run_batch(e, n_rows, 1, 1, w->call.err);
    e->batch.want = NULL;
    return r < 0 ? r : engine_pick(e, &w->sampler, 0, &w->picked, NULL, w->call.err);
}

static int run_rows(struct engine *e, struct warm_call *w, uint32_t pos0, uint32_t n_rows,
                    bool decode)
{
    for (uint32_t i = 0; i < n_rows; i++)
        e->batch_token[i] = decode ? w->picked : random_token(e, w);
    e->batch_seq[0] = (struct batch_seq){
        .block = w->table.block, .n_blocks = DIV_UP(pos0 + n_rows, KV_BLOCK_TOKENS),
        .n_rows = n_rows, .pos0 = pos0, .decode = decode, .attn = *w->attn,
    };
    uint64_t start_ns = clock_now_ns();
    int r = compute(e, w, n_rows);
    if (r)
        return r;
    assert(w->n_steps < MEASURED_MAX);
    w->step[w->n_steps++] = (struct measured){
        cost_add((struct step_work){0}, pos0, n_rows), clock_now_ns() - start_ns,
    };
    return 0;
}

static const struct measured *last(const struct warm_call *w)
{
    assert(w->n_steps > 0);
    return &w->step[w->n_steps - 1];
}

// Whether n_rows may be computed after a step that was measured. Twice the rows take at most twice
// the time.
static bool has_time(const struct engine *e, const struct warm_call *w, const struct measured *m,
                     uint32_t n_rows)
{
    double left_ns = (double)WARM_NS - (double)(clock_now_ns() - w->start_ns);
    return m->ns <= e->limits.max_step_ns && (double)m->ns * n_rows / m->work.rows <= left_ns;
}

// Prompts of 1, 2, 4, .. rows.
static int run_prompts(struct engine *e, struct warm_call *w)
{
    int r = run_rows(e, w, 0, 1, false);
    for (uint32_t n = 1; n < w->rows_max && r == 0;) {
        n = MIN(2 * n, w->rows_max);
        if (!has_time(e, w, last(w), n))
            break;
        r = run_rows(e, w, 0, n, false);
    }
    // A step that found no memory never began, and smaller ones did.
    return r == -ENOMEM && w->n_steps > 0 ? 0 : r;
}

// Rows behind the longest prompt; at the last position where there is no room for more.
static int run_generated(struct engine *e, struct warm_call *w)
{
    uint32_t pos = (uint32_t)last(w)->work.rows;
    int r = 0;
    for (uint32_t i = 0; i < GENERATED_ROWS && r == 0 && has_time(e, w, &w->step[0], 1); i++)
        r = run_rows(e, w, MIN(pos + i, w->rows_max - 1), 1, true);
    return r;
}

static void teach(struct engine *e, const struct warm_call *w)
{
    for (unsigned lesson = 0; lesson < LESSONS; lesson++)
        for (uint32_t i = 0; i < w->n_steps; i++)
            sched_learn_work(e->sched, w->step[i].work, w->step[i].ns);
}

static int run_steps(struct engine *e, struct warm_call *w)
{
    if (!kv_table_grow(&w->table, e->pool, w->rows_max))
        return err_set(w->call.err, -ENOSPC, "%u tokens need %u KV blocks, the pool has %u left",
                       w->rows_max, DIV_UP(w->rows_max, KV_BLOCK_TOKENS),
                       kv_pool_n_available(e->pool));
    int r = run_rows(e, w, 0, 1, false);
    if (r < 0 || last(w)->ns > WARM_NS)
        return r;
    w->n_steps = 0;
    w->start_ns = clock_now_ns();
    r = run_prompts(e, w);
    if (r == 0)
        r = run_generated(e, w);
    if (r == 0)
        teach(e, w);
    return r;
}

// An executor that fails, or gives no numbers, is lost before it served anybody.
static int run_warm(struct engine *e, struct engine_call *c)
{
    struct warm_call *w = container_of(c, struct warm_call, call);
    struct gen_params gen = gen_params_default();
    gen.seed = 1;
    int r = sampler_init(&w->sampler, &gen, e->info.n_vocab, NULL, 0);
    if (r == 0)
        r = kv_table_init(&w->table, w->rows_max);
    if (r < 0)
        return err_set(c->err, r, "no memory to warm up");
    r = run_steps(e, w);
    kv_table_clear(&w->table, e->pool);
    kv_table_finish(&w->table);
    sampler_finish(&w->sampler);
    if (r < 0)
        err_prefix(c->err, "warming up");
    return r;
}

int engine_warm(struct engine *e, const struct attn_policy *attn, struct err *err)
{
    uint64_t blocks = e->paged ? paged_memory_blocks(e->paged) : e->info.kv_blocks;
    uint64_t room = MIN(e->info.ctx_tokens, blocks * KV_BLOCK_TOKENS);
    struct warm_call w = {
        .call = {.run = run_warm, .err = err}, .attn = attn, .random = 1,
        .rows_max = (uint32_t)MIN(e->limits.rows_max, room),
    };
    return engine_call(e, &w.call);
}
