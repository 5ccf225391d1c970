// Warming an engine up: what the first request then finds, that nothing else of it is left, and
// that a slow or broken executor is noticed.
#include "tests/ask.h"
#include <errno.h>
#include <math.h>
#include <time.h>
#include "engine/exec/null/null.h"
#include "engine/run/priv.h"
#include "base/clock.h"

enum { PROMPT = 512 };
static struct answer answer;

// ---- an executor whose steps take time ----

static struct {
    uint64_t         step_ns, row_ns, rows;
    _Atomic uint32_t chunks;        // steps with more than a generated row and one of a prompt
} pace;

static int paced_submit(struct program *g, struct batch *b, struct err *err)
{
    pace.rows = b->n_rows;
    pace.chunks += b->n_rows > 2;
    return executor_null.submit(g, b, err);
}

static int paced_wait(struct program *g, uint64_t timeout_ns, struct err *err)
{
    uint64_t ns = pace.step_ns + pace.rows * pace.row_ns;
    nanosleep(&(struct timespec){(time_t)(ns / NS_PER_S), (long)(ns % NS_PER_S)}, NULL);
    return executor_null.wait(g, timeout_ns, err);
}

static struct executor_ops paced_ops;

static struct engine *paced_engine(struct engine_params p, uint64_t step_ns, uint64_t row_ns)
{
    struct engine *e = open_engine("null", p);
    paced_ops = executor_null;
    paced_ops.submit = paced_submit;
    paced_ops.wait = paced_wait;
    pace.step_ns = step_ns;
    pace.row_ns = row_ns;
    e->x->ops = &paced_ops;
    return e;
}

// Much faster than the scheduler's first guess, and than its goal.
static struct engine *quick_engine(void)
{
    struct engine_params p = {.max_step_ms = 1000, .prefix_cache = 1};
    return paced_engine(p, NS_PER_MS, NS_PER_MS / 50);
}

static void close_engine(struct engine *e)
{
    e->x->ops = &executor_null;
    engine_close(e);
}

static int warm(struct engine *e, struct err *err)
{
    struct attn_policy attn = attn_policy_dense();
    return engine_warm(e, &attn, err);
}

// ---- requests ----

static struct request prompt_of(int32_t *token, uint32_t n_tokens, uint32_t max_tokens)
{
    for (uint32_t i = 0; i < PROMPT; i++)
        token[i] = (int32_t)(1000 + i);
    struct request r = request_of(token, n_tokens, max_tokens);
    r.gen.ignore_end = true;
    return r;
}

// How many steps the prompt takes, but for single rows.
static uint32_t n_chunks(struct engine *e)
{
    int32_t token[PROMPT];
    struct request r = prompt_of(token, PROMPT, 1);
    uint32_t before = pace.chunks;
    ask(e, &r, &answer);
    return pace.chunks - before;
}

TEST(the_first_prompt_is_cut_as_the_tenth)
{
    uint32_t chunks[2][10];
    for (int warmed = 0; warmed < 2; warmed++) {
        struct engine *e = quick_engine();
        struct err err = {0};
        if (warmed)
            REQUIRE_OK(warm(e, &err), err);
        for (int i = 0; i < 10; i++)
            chunks[warmed][i] = n_chunks(e);
        close_engine(e);
    }
    REQUIRE_INT(chunks[1][0], chunks[1][9]);
    REQUIRE_INT(chunks[1][0], 1);
    REQUIRE(chunks[0][0] > 2);              // else this says nothing
}

// While somebody waits for the next token, a step has a sixteenth of the time.
TEST(beside_a_stream_too)
{
    for (int warmed = 0; warmed < 2; warmed++) {
        struct engine *e = quick_engine();
        struct err err = {0};
        if (warmed)
            REQUIRE_OK(warm(e, &err), err);
        int32_t token[PROMPT];
        struct request r = prompt_of(token, 2, 4000);
        struct stream *s = submit(e, &r);
        REQUIRE(stream_wait(s, 20 * NS_PER_S));
        uint32_t n = n_chunks(e);
        REQUIRE(warmed ? n <= 2 : n > 2);   // the stream's rows are of the step
        stream_close(s);
        require_idle(e);
        close_engine(e);
    }
}

// ---- nothing is left ----

static void require_fresh(struct engine *e)
{
    struct engine_stats st;
    engine_stats(e, &st);
    st.last_step_ns = 0;
    REQUIRE(memcmp(&st, &(struct engine_stats){0}, sizeof st) == 0);
    REQUIRE_INT(kv_pool_n_available(e->pool), kv_pool_n_blocks(e->pool));
}

TEST(nothing_is_left)
{
    static struct answer cold;
    int32_t token[PROMPT];
    struct request r = prompt_of(token, 130, 8);
    struct err err = {0};
    r.gen.temperature = 1;
    struct engine *e = open_engine("cpu", (struct engine_params){0});
    ask(e, &r, &cold);
    engine_close(e);
    e = open_engine("cpu", (struct engine_params){0});
    REQUIRE_OK(warm(e, &err), err);
    require_fresh(e);
    ask(e, &r, &answer);
    REQUIRE_INT(answer.done.usage.cached_tokens, 0);
    REQUIRE(same(&answer, &cold));
    engine_close(e);
}

TEST(it_fits_into_any_engine)
{
    static const struct engine_params p[] = {
        {.ctx_tokens = 1}, {.ctx_tokens = 70}, {.kv_blocks = 1}, {.kv_blocks = 3},
        {.seqs_max = 1}, {.seqs_max = 600},
    };
    for (size_t i = 0; i < ARRAY_LEN(p); i++) {
        struct engine *e = open_engine("null", p[i]);
        struct err err = {0};
        REQUIRE_OK(warm(e, &err), err);
        require_fresh(e);
        REQUIRE(null_steps(e->prog) >= 2);
        engine_close(e);
    }
}

// ---- the slow and the broken ----

// Returns how many steps ran.
static uint64_t warm_slowly(uint32_t max_step_ms, uint64_t step_ms)
{
    struct engine_params p = {.max_step_ms = max_step_ms};
    struct engine *e = paced_engine(p, step_ms * NS_PER_MS, 0);
    struct err err = {0};
    REQUIRE_OK(warm(e, &err), err);
    uint64_t n = null_steps(e->prog), rows = 0;
    for (uint64_t i = 0; i < n; i++)
        rows = MAX(rows, null_record(e->prog, i).n_rows);
    REQUIRE(rows <= 2);
    close_engine(e);
    return n;
}

TEST(a_slow_executor_is_left_alone)
{
    REQUIRE_INT(warm_slowly(10, 30), 2);        // a step is too long
    REQUIRE(warm_slowly(60000, 300) <= 4);      // all together are
    REQUIRE_INT(warm_slowly(60000, 600), 2);
    REQUIRE_INT(warm_slowly(60000, 1100), 1);
}

static void require_broken(struct null_settings ns, int code, const char *why)
{
    struct engine *e = open_engine("null", (struct engine_params){0});
    struct err err = {0};
    ns.end_token = -1;
    null_set(e->prog, &ns);
    REQUIRE_INT(warm(e, &err), code);
    REQUIRE(strstr(err.msg, "warming up") && strstr(err.msg, why));
    REQUIRE_INT(kv_pool_n_available(e->pool), kv_pool_n_blocks(e->pool));
    engine_close(e);
}

static struct executor_ops no_memory_ops;
static uint32_t rows_with_memory;
static int submit_without_memory(struct program *g, struct batch *b, struct err *err)
{
    if (b->n_rows > rows_with_memory)
        return err_set(err, -ENOMEM, "no memory for %u rows", b->n_rows);
    return executor_null.submit(g, b, err);
}

TEST(a_broken_executor_is_noticed)
{
    require_broken((struct null_settings){.fail_step = 1, .fail_code = -EIO}, -EIO, "told to fail");
    require_broken((struct null_settings){.fail_step = 5, .fail_code = -ETIMEDOUT}, -ETIMEDOUT,
                   "told to fail");
}

// Without memory for long prompts others are served; without any, none.
TEST(a_step_without_memory_ends_the_growth)
{
    struct engine *e = open_engine("null", (struct engine_params){0});
    struct err err = {0};
    no_memory_ops = executor_null;
    no_memory_ops.submit = submit_without_memory;
    e->x->ops = &no_memory_ops;
    rows_with_memory = 100;
    REQUIRE_OK(warm(e, &err), err);
    rows_with_memory = 0;
    REQUIRE_INT(warm(e, &err), -ENOMEM);
    REQUIRE_STR(err.msg, "warming up: no memory for 1 rows");
    close_engine(e);
}

static float *nan_row;
static int wait_nan(struct program *g, uint64_t timeout_ns, struct err *err)
{
    int r = executor_null.wait(g, timeout_ns, err);
    *nan_row = NAN;
    return r;
}

static int submit_nan(struct program *g, struct batch *b, struct err *err)
{
    int r = executor_null.submit(g, b, err);
    nan_row = b->logits;
    return r;
}

TEST(what_is_no_number_is_noticed)
{
    static struct executor_ops nan_ops;
    struct engine *e = open_engine("null", (struct engine_params){0});
    struct err err = {0};
    nan_ops = executor_null;
    nan_ops.submit = submit_nan;
    nan_ops.wait = wait_nan;
    e->x->ops = &nan_ops;
    REQUIRE_INT(warm(e, &err), -EDOM);
    REQUIRE(strstr(err.msg, "warming up"));
    close_engine(e);
}

TEST_MAIN
