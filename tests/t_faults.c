// The engine and its executor: what batches say, and what becomes of requests when logits are no
// numbers, memory is short or the device is lost.
#include "tests/ask.h"
#include <errno.h>
#include <math.h>
#include <stdatomic.h>
#include <time.h>
#include "engine/exec/null/null.h"
#include "engine/run/priv.h"
#include "base/clock.h"

static struct answer answer, other;

// ---- what executors are given ----

// An executor around the null one that looks at each entry of a batch. Dense attention ignores
// sink_tokens: these say how long the sequence's prompt is.
static struct executor_ops watch_ops;
static uint32_t watch_rows[2], watch_again;     // by decode; generated rows that ran again
static struct batch *watch_batch;

static int watch_submit(struct program *g, struct batch *b, struct err *err)
{
    watch_batch = b;
    for (uint32_t i = 0; i < b->n_seqs; i++) {
        const struct batch_seq *s = &b->seq[i];
        uint32_t n_prompt = s->attn.sink_tokens;
        if (s->decode != (s->pos0 >= n_prompt) || (!s->decode && s->pos0 + s->n_rows > n_prompt))
            TEST_FAIL("rows %u to %u of a prompt of %u: decode %d", s->pos0, s->pos0 + s->n_rows,
                      n_prompt, s->decode);
        watch_rows[s->decode] += s->n_rows;
        watch_again += s->decode ? s->n_rows - 1 : 0;
    }
    return executor_null.submit(g, b, err);
}

TEST(generated_rows_are_told_from_prompts)
{
    struct engine *e = open_engine("null", (struct engine_params){0});
    uint64_t block = engine_info(e)->kv_block_bytes;
    engine_close(e);
    e = open_engine("null", (struct engine_params){.kv_memory_bytes = 12 * block,
                                                   .ctx_tokens = 512, .prefix_cache = 1});
    watch_ops = executor_null;
    watch_ops.submit = watch_submit;
    e->x->ops = &watch_ops;
    int32_t prompt[8][100];
    struct stream *s[8];
    for (uint32_t i = 0; i < 8; i++) {
        for (int32_t j = 0; j < 100; j++)
            prompt[i][j] = (int32_t)(1000 + i * 100) + j;
        struct request r = request_of(prompt[i], 30 + 10 * i, 250);
        r.gen.ignore_end = true;
        r.attn.sink_tokens = r.n_tokens;
        s[i] = submit(e, &r);
    }
    for (int i = 0; i < 8; i++) {
        collect(s[i], &answer);
        REQUIRE_INT(answer.n_tokens, 250);
    }
    struct engine_stats st;
    engine_stats(e, &st);
    REQUIRE(st.preemptions > 0 && watch_again > 0);     // in chunks of more than one row
    // the last token of an answer is not computed; whoever was preempted computed all again
    REQUIRE(watch_rows[true] > 8 * 249 && watch_rows[false] > 8 * 65);
    e->x->ops = &executor_null;
    engine_close(e);
}

// How long the executor had, and how long the engine until it came again.
static uint64_t within_ns, between_ns, entered_ns, left_ns;

static int clocked_submit(struct program *g, struct batch *b, struct err *err)
{
    entered_ns = clock_now_ns();
    between_ns += left_ns ? entered_ns - left_ns : 0;
    return executor_null.submit(g, b, err);
}

static int clocked_wait(struct program *g, uint64_t timeout_ns, struct err *err)
{
    int r = executor_null.wait(g, timeout_ns, err);
    left_ns = clock_now_ns();
    within_ns += left_ns - entered_ns;
    return r;
}

TEST(sampling_is_part_of_a_step)
{
    static struct executor_ops clocked;
    struct engine *e = open_engine("null", (struct engine_params){0});
    clocked = executor_null;
    clocked.submit = clocked_submit;
    clocked.wait = clocked_wait;
    e->x->ops = &clocked;
    int32_t prompt[2] = {1000, 1001};
    struct request r = request_of(prompt, 2, 200);
    r.gen.temperature = 2;                  // a pass over the whole vocabulary, at least
    r.gen.logprobs = 20;
    r.gen.ignore_end = true;
    ask(e, &r, &answer);
    require_idle(e);
    struct engine_stats st;
    engine_stats(e, &st);
    REQUIRE(between_ns > within_ns);        // else this test says nothing
    REQUIRE(st.step_ns > within_ns + between_ns / 2);
    e->x->ops = &executor_null;
    engine_close(e);
}

// ---- faults ----

static void lose_device(struct engine *e, uint64_t step, int code)
{
    struct null_settings ns = null_settings(e->prog);
    ns.fail_step = step;
    ns.fail_code = code;
    null_set(e->prog, &ns);
}

// No step begins before the gate is open, so that all requests are there when the device is lost.
static atomic_bool gate_open;

static int gated_submit(struct program *g, struct batch *b, struct err *err)
{
    while (!atomic_load(&gate_open))
        nanosleep(&(struct timespec){.tv_nsec = NS_PER_MS}, NULL);
    return executor_null.submit(g, b, err);
}

TEST(a_lost_device_ends_everything)
{
    static const int code[] = {-EIO, -ETIMEDOUT};
    static struct executor_ops gated;
    gated = executor_null;
    gated.submit = gated_submit;
    for (uint32_t c = 0; c < ARRAY_LEN(code); c++) {
        struct engine *e = open_engine("null", (struct engine_params){.seqs_max = 3});
        lose_device(e, 20, code[c]);
        atomic_store(&gate_open, false);
        e->x->ops = &gated;
        int32_t prompt[2] = {1000, 1001};
        struct request r = request_of(prompt, 2, 1000);
        r.gen.ignore_end = true;
        struct stream *s[4], *more = NULL;
        for (int i = 0; i < 4; i++)
            s[i] = submit(e, &r);
        atomic_store(&gate_open, true);
        for (int i = 0; i < 4; i++) {       // the last one only waited
            collect(s[i], &answer);
            REQUIRE_INT(answer.done.reason, FINISH_ERROR);
            REQUIRE_INT(answer.done.err.code, code[c]);
            REQUIRE(i < 3 ? answer.n_tokens > 0 : answer.n_tokens == 0);
        }
        struct engine_stats st;
        engine_stats(e, &st);
        REQUIRE(st.failed);
        REQUIRE_STR(st.failure.msg, "the null executor was told to fail");
        REQUIRE_INT(st.requests_error, 4);
        struct err err = {0};
        REQUIRE_INT(engine_submit(e, &r, &more, &err), -EIO);
        REQUIRE_INT(engine_eval(e, prompt, 2, &r.attn, NULL, NULL, &err), -EIO);
        require_idle(e);
        e->x->ops = &executor_null;
        engine_close(e);
    }
}

static int read_fails(struct program *g, uint32_t out, uint32_t first, uint32_t n, float *dst,
                      struct err *err)
{
    (void)g, (void)out, (void)first, (void)n, (void)dst;
    return err_set(err, -EIO, "the row is gone");
}

static int wait_keeps_rows(struct program *g, uint64_t timeout_ns, struct err *err)
{
    static const struct out_top nothing[64];
    int r = executor_null.wait(g, timeout_ns, err);
    watch_batch->logits = NULL;
    watch_batch->top = nothing;
    return r;
}

TEST(a_device_lost_while_a_row_is_read)
{
    static struct executor_ops ops;
    struct engine *e = open_engine("null", (struct engine_params){0});
    ops = executor_null;
    ops.submit = watch_submit;
    ops.wait = wait_keeps_rows;
    ops.logits_read = read_fails;
    e->x->ops = &ops;
    int32_t prompt[2] = {1000, 1001};
    struct request r = request_of(prompt, 2, 1000);
    r.attn.sink_tokens = 2;
    struct stream *more = NULL;
    ask(e, &r, &answer);
    REQUIRE_INT(answer.done.reason, FINISH_ERROR);
    REQUIRE_INT(answer.done.err.code, -EIO);
    REQUIRE_STR(answer.done.err.msg, "the row is gone");
    REQUIRE_INT(engine_submit(e, &r, &more, NULL), -EIO);
    e->x->ops = &executor_null;
    engine_close(e);
}

TEST(a_device_lost_in_an_evaluation_is_lost)
{
    struct engine *e = open_engine("null", (struct engine_params){0});
    lose_device(e, 1, -EIO);
    int32_t prompt[2] = {1000, 1001};
    struct request r = request_of(prompt, 2, 10);
    struct stream *s = NULL;
    struct err err = {0};
    REQUIRE_INT(engine_eval(e, prompt, 2, &r.attn, NULL, NULL, &err), -EIO);
    REQUIRE_INT(engine_submit(e, &r, &s, &err), -EIO);
    engine_close(e);
}

enum { BAD_TOKEN = 4321 };

static void set_bad(struct engine *e, int32_t token, float logit)
{
    struct null_settings ns = null_settings(e->prog);
    ns.bad_token = token;
    ns.bad_logit = logit;
    null_set(e->prog, &ns);
}

TEST(nan_ends_only_its_request_and_is_not_cached)
{
    struct engine *e = open_engine("null", (struct engine_params){0});
    int32_t prompt[2][200];
    for (int i = 0; i < 200; i++)
        prompt[0][i] = prompt[1][i] = 1000 + i;
    prompt[1][0] = 999;                     // nothing is shared
    prompt[1][199] = BAD_TOKEN;
    struct request good = request_of(prompt[0], 200, 30), bad = request_of(prompt[1], 200, 30);
    set_bad(e, BAD_TOKEN, NAN);
    struct stream *b = submit(e, &bad), *g = submit(e, &good);
    collect(b, &answer);
    REQUIRE_INT(answer.done.reason, FINISH_ERROR);
    REQUIRE_INT(answer.done.err.code, -EDOM);
    REQUIRE_STR(answer.done.err.msg, "after 200 tokens: a logit is no number");
    REQUIRE_INT(answer.n_tokens, 0);
    collect(g, &answer);
    REQUIRE_INT(answer.n_tokens, 30);
    set_bad(e, BAD_TOKEN, 0);
    ask(e, &bad, &other);                   // the same text again: computed anew
    REQUIRE_INT(other.done.usage.cached_tokens, 0);
    REQUIRE_INT(other.n_tokens, 30);
    ask(e, &bad, &other);
    REQUIRE_INT(other.done.usage.cached_tokens, 192);
    struct engine_stats st;
    engine_stats(e, &st);
    REQUIRE_INT(st.nonfinite, 1);
    REQUIRE_INT(st.requests_error, 1);
    REQUIRE(!st.failed);
    require_idle(e);
    engine_close(e);
}

// The first token from `from` on that the answer did not have before.
static uint32_t first_new(const struct answer *a, uint32_t from)
{
    for (uint32_t i = from; i < a->n_tokens; i++) {
        uint32_t j = 0;
        while (a->token[j] != a->token[i])
            j++;
        if (j == i)
            return i;
    }
    TEST_FAIL("no new token after %u", from);
    return 0;
}

// What was good until then is shown; blocks that the answer filled are dropped too.
TEST(an_answer_ends_where_a_logit_becomes_infinite)
{
    static const float bad[] = {INFINITY, NAN};
    int32_t prompt[250];
    for (int i = 0; i < 100; i++)
        prompt[i] = 1000 + i;
    struct request r = request_of(prompt, 100, 150);
    r.gen.ignore_end = true;
    struct engine *e = open_engine("null", (struct engine_params){0});
    ask(e, &r, &answer);
    engine_close(e);
    uint32_t at = first_new(&answer, 60);
    memcpy(prompt + 100, answer.token, 150 * sizeof(int32_t));
    for (uint32_t i = 0; i < ARRAY_LEN(bad); i++) {
        e = open_engine("null", (struct engine_params){0});
        set_bad(e, answer.token[at], bad[i]);
        ask(e, &r, &other);
        REQUIRE_INT(other.done.reason, FINISH_ERROR);
        REQUIRE_INT(other.done.err.code, -EDOM);
        REQUIRE_INT(other.n_tokens, at + 1);
        REQUIRE(memcmp(other.token, answer.token, (at + 1) * sizeof(int32_t)) == 0);
        set_bad(e, 0, 0);
        struct request longer = request_of(prompt, 250, 1);
        ask(e, &longer, &other);
        REQUIRE_INT(other.done.usage.cached_tokens, 0);
        engine_close(e);
    }
}

TEST(nan_in_the_logprobs_of_a_prompt)
{
    struct engine *e = open_engine("null", (struct engine_params){0});
    int32_t prompt[50];
    for (int i = 0; i < 50; i++)
        prompt[i] = 1000 + i;
    struct request r = request_of(prompt, 50, 4);
    r.gen.prompt_logprobs = true;
    set_bad(e, prompt[20], NAN);
    ask(e, &r, &answer);
    REQUIRE_INT(answer.done.reason, FINISH_ERROR);
    REQUIRE_INT(answer.done.err.code, -EDOM);
    REQUIRE_INT(answer.n_prompt, 21);       // the first has no logprob, row 20 scores token 21
    REQUIRE_INT(answer.n_tokens, 0);
    engine_close(e);
}

static struct executor_ops poor_ops;
static atomic_bool poor;

static int poor_submit(struct program *g, struct batch *b, struct err *err)
{
    return poor ? err_set(err, -ENOMEM, "no memory for a batch") : executor_null.submit(g, b, err);
}

TEST(no_memory_for_a_step_ends_only_its_requests)
{
    struct engine *e = open_engine("null", (struct engine_params){0});
    poor_ops = executor_null;
    poor_ops.submit = poor_submit;
    e->x->ops = &poor_ops;
    int32_t prompt[200];
    for (int i = 0; i < 200; i++)
        prompt[i] = 1000 + i;
    struct request r = request_of(prompt, 200, 10);
    poor = true;
    ask(e, &r, &answer);
    REQUIRE_INT(answer.done.reason, FINISH_ERROR);
    REQUIRE_INT(answer.done.err.code, -ENOMEM);
    poor = false;
    ask(e, &r, &answer);
    REQUIRE_INT(answer.n_tokens, 10);
    REQUIRE_INT(answer.done.usage.cached_tokens, 0);    // the lost step gave nothing to share
    require_idle(e);
    e->x->ops = &executor_null;
    engine_close(e);
}

TEST_MAIN
