// Protects what the Vulkan executor picks out of rows of logits: it is what is computed plainly
// from the row, bit by bit, whatever other rows there are; and requests get the tokens and logprobs
// that whole rows give.
#include "tests/test.h"
#include <errno.h>
#include <math.h>
#include "base/base.h"
#include "base/clock.h"
#include "engine/exec/vulkan/top.h"
#include "engine/run/priv.h"
#include "engine/run/sample_row.h"
#include "tests/ask.h"
#include "tests/top.h"

TEST_MAIN

#define WAIT_NS (60 * NS_PER_S)
#define ROWS_MAX 6
#define VOCAB_MOST 70001

static struct vk *vk;

static void close_device(void)
{
    vk_close(vk);
    vk = NULL;
}

static void need_device(void)
{
    struct err err;
    if (vk)
        return;
    if (vk_open(&vk, NULL, &err) && vk_open(&vk, "llvmpipe", &err))
        SKIP("no usable Vulkan device");
    atexit(close_device);
}

static uint64_t rng_state = 1;

static uint32_t rng(uint32_t n)
{
    rng_state = rng_state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)(rng_state >> 33) % n;
}

static float uniform(void)
{
    return (float)rng(1 << 24) * 0x1p-24f;
}

// ---- the kernels alone ------------------------------------------------------------------------

struct rig {
    struct vk_program g;
    struct batch      b;
    struct out_want   want[ROWS_MAX];
    struct vk_mem     host;             // (ROWS_MAX, n_vocab) rows on their way to the device
    struct vk_cmd    *cmd;
};

static void rig_init(struct rig *r, uint32_t n_vocab)
{
    struct err err;
    struct vk_program *g = &r->g;
    need_device();
    *r = (struct rig){ .g = { .vk = vk, .n_vocab = n_vocab, .params.outputs_max = ROWS_MAX } };
    g->batch = &r->b;
    r->b.want = r->want;
    REQUIRE_OK(vk_alloc(vk, VK_HOME_UPLOAD, sizeof(struct step_head), &g->step.head, &err), err);
    REQUIRE_OK(vk_alloc(vk, VK_HOME_HOST, (size_t)n_vocab * ROWS_MAX * sizeof(float), &r->host,
                        &err), err);
    REQUIRE_OK(vk_top_init(g, &err), err);
    REQUIRE_OK(vk_cmd_create(vk, &r->cmd, &err), err);
}

static void rig_finish(struct rig *r)
{
    vk_cmd_destroy(r->cmd);
    vk_top_finish(&r->g);
    vk_free(vk, &r->host);
    vk_free(vk, &r->g.step.head);
}

static float *row_of(const struct rig *r, uint32_t i)
{
    return (float *)r->host.map + (size_t)i * r->g.n_vocab;
}

// The step after its logits; recorded for as many outputs as there may be.
static void rig_run(struct rig *r, uint32_t n_out)
{
    struct err err;
    struct vk_program *g = &r->g;
    r->b.n_out = n_out;
    g->batch = &r->b;
    *(struct step_head *)g->step.head.map = (struct step_head){ .n_out = n_out };
    struct shape shape = { .n_out = ROWS_MAX, .outputs = vk_top_prepare(g) };
    REQUIRE(shape.outputs != VK_OUTPUTS_ROWS && vk_top_rows(g, &shape) == &g->top->rows);
    vk_cmd_begin(r->cmd);
    vk_copy(r->cmd, &g->top->rows, 0, &r->host, 0, r->host.bytes);
    vk_top_record(g, r->cmd, &shape);
    REQUIRE_OK(vk_cmd_end(r->cmd, &err), err);
    REQUIRE_OK(vk_run(vk, r->cmd, WAIT_NS, &err), err);
    vk_top_take(g);
    g->batch = NULL;
    REQUIRE(!r->b.logits && r->b.top);
}

// ---- what comes back --------------------------------------------------------------------------

static struct top_row oracle;
static uint32_t n_near_missed;

static void check_sums(const float *got, const float *want, uint32_t n, const char *what)
{
    REQUIRE(!got == !want);
    for (uint32_t i = 0; want && i < n; i++)
        if (memcmp(&got[i], &want[i], sizeof(float)) != 0)
            TEST_FAIL("%s %u of %u is %a, not %a", what, i, n, (double)got[i], (double)want[i]);
}

static void check_near(const struct rig *r, uint32_t row, const struct out_top *t,
                       const struct out_top *plain)
{
    uint32_t n = r->g.n_vocab;
    REQUIRE((t->n_near > 0) == (plain->n_near > 0));
    if (t->n_near == 0)
        return;
    REQUIRE(t->near0 < n && t->n_near <= n - t->near0);
    REQUIRE(memcmp(t->near, row_of(r, row) + t->near0, t->n_near * sizeof(float)) == 0);
    uint32_t at = plain->near0 + (plain->near0 > 0 ? OUT_SUM_TOKENS : 0);       // of the draw
    n_near_missed += at < t->near0 || MIN(at + OUT_SUM_TOKENS, n) > t->near0 + t->n_near;
}

static void check_row(const struct rig *r, uint32_t row)
{
    const struct out_top *t = &r->b.top[row];
    struct out_top plain;
    top_pick(row_of(r, row), r->g.n_vocab, &r->want[row], true, &oracle, &plain);
    REQUIRE_INT(t->nan, plain.nan);
    REQUIRE_INT(t->n, plain.n);
    if (plain.nan || plain.n == 0)
        return;
    for (uint32_t i = 0; i < plain.n; i++)
        if (t->token[i] != plain.token[i] ||
            memcmp(&t->logit[i], &plain.logit[i], sizeof(float)) != 0)
            TEST_FAIL("best %u of %u: token %d %g, not %d %g", i, plain.n, t->token[i],
                      (double)t->logit[i], plain.token[i], (double)plain.logit[i]);
    check_sums(t->sum, plain.sum, r->g.top->n_sums, "sum");
    check_sums(t->sum1, plain.sum1, r->g.top->n_sums, "sum1");
    check_near(r, row, t, &plain);
}

static void check(struct rig *r, uint32_t n_out)
{
    rig_run(r, n_out);
    for (uint32_t i = 0; i < n_out; i++)
        check_row(r, i);
}

// ---- rows -------------------------------------------------------------------------------------

static void fill_normal(float *x, uint32_t n)
{
    float spread = 1 + (float)rng(6);
    for (uint32_t i = 0; i < n; i++)
        x[i] = spread * (uniform() + uniform() + uniform() + uniform() - 2);
}

static void fill_ties(float *x, uint32_t n)
{
    uint32_t levels = 1 + rng(40);
    for (uint32_t i = 0; i < n; i++)    // zeros of both signs too
        x[i] = ((float)rng(levels) - (float)(levels / 2)) * (rng(2) ? 0.25f : -0.25f);
}

static void fill_equal(float *x, uint32_t n)
{
    float value = 4 * uniform() - 2;
    for (uint32_t i = 0; i < n; i++)
        x[i] = value;
}

static void fill_ascending(float *x, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        x[i] = (float)i * 1e-3f - 10;
}

// All that is any good in one slice.
static void fill_together(float *x, uint32_t n)
{
    uint32_t at = rng(n);
    fill_normal(x, n);
    for (uint32_t i = at; i < MIN(at + 300, n); i++)
        x[i] = 20 + uniform();
}

static void fill_infinite(float *x, uint32_t n)
{
    fill_normal(x, n);
    for (uint32_t i = 0; i < n; i++)
        if (rng(3))
            x[i] = -INFINITY;
    x[rng(n)] = 1;
    for (uint32_t i = rng(3); i > 0; i--)
        x[rng(n)] = INFINITY;
}

static void fill_nothing(float *x, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        x[i] = -INFINITY;
}

static void fill_nan(float *x, uint32_t n)
{
    fill_normal(x, n);
    x[rng(n)] = rng(2) ? NAN : -NAN;
    x[rng(n)] = rng(2) ? INFINITY : 1;
    x[rng(n)] = rng(2) ? NAN : 1;
}

// Weights down to where they end, and the bits of every exponent on the way.
static void fill_deep(float *x, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        x[i] = 7 - 90 * uniform() * (rng(2) ? 1 : uniform() * uniform());
    x[rng(n)] = 7;
    x[rng(n)] = 7 - 85;
    x[rng(n)] = nextafterf(7 - 85, -INFINITY);
}

static void (*const fills[])(float *x, uint32_t n) = {
    fill_normal, fill_ties, fill_equal, fill_ascending, fill_together, fill_infinite, fill_nothing,
    fill_nan, fill_deep, fill_normal, fill_deep,
};

// ---- tests ------------------------------------------------------------------------------------

static void random_want(struct out_want *w)
{
    static const uint32_t n_top[] = { 1, 1, 2, 20, 40, 255, 256 };
    static const float scale[] = { 0, 1, 1 / 0.7f, 0.5f, 10 };
    *w = (struct out_want){ .n_top = n_top[rng(ARRAY_LEN(n_top))],
                            .scale = scale[rng(ARRAY_LEN(scale))], .lse = rng(2), .draw = -1 };
    if (w->scale > 0 && rng(2))
        w->draw = (double)uniform();
}

static void random_rows(uint32_t n_vocab, uint32_t n_runs)
{
    static struct rig r;
    rig_init(&r, n_vocab);
    top_row_init(&oracle, n_vocab);
    for (uint32_t run = 0; run < n_runs; run++) {
        uint32_t n_out = 1 + rng(ROWS_MAX);
        for (uint32_t i = 0; i < n_out; i++) {
            fills[(run + i) % ARRAY_LEN(fills)](row_of(&r, i), n_vocab);
            random_want(&r.want[i]);
            r.want[i].n_top = MIN(r.want[i].n_top, n_vocab);
        }
        check(&r, n_out);
    }
    top_row_finish(&oracle);
    rig_finish(&r);
}

TEST(rows_of_every_kind)
{
    static const uint32_t size[] = { 1, 2, 63, 65, 257, 4095, 4097, 8200, 32003 };
    n_near_missed = 0;
    for (uint32_t i = 0; i < ARRAY_LEN(size); i++)
        random_rows(size[i], 22);
    REQUIRE(n_near_missed <= 1);        // rounding may do that
}

// More slices than a byte of the search tells apart at once, and more than an invocation takes.
TEST(a_large_vocabulary)
{
    n_near_missed = 0;
    random_rows(VOCAB_MOST, 6);
    random_rows(TOP_SLICE_TOKENS * 260 + 7, 2);
    REQUIRE(n_near_missed <= 1);
}

// exp() of the device is that of the host, bit by bit: blocks with but one weight that matters not
// less than it.
TEST(every_weight_is_the_hosts)
{
    static struct rig r;
    static float host[VOCAB_MOST];
    rig_init(&r, VOCAB_MOST);
    top_row_init(&oracle, VOCAB_MOST);
    r.want[0] = (struct out_want){ .n_top = 1, .scale = 0.37f, .lse = true, .draw = -1 };
    for (uint32_t run = 0; run < 20; run++) {
        float *x = row_of(&r, 0);
        fill_nothing(x, VOCAB_MOST);
        for (uint32_t i = 0; i < VOCAB_MOST; i += OUT_SUM_TOKENS)
            x[i + rng(MIN(OUT_SUM_TOKENS, VOCAB_MOST - i))] = -86 * uniform();
        x[0] = 0;
        check(&r, 1);
        memcpy(host, x, sizeof(host));
        row_exp(host, VOCAB_MOST, r.b.top[0].logit[0], 1);
        for (uint32_t i = OUT_SUM_TOKENS; i < VOCAB_MOST; i++)
            REQUIRE(host[i] == 0 || r.b.top[0].sum1[i / OUT_SUM_TOKENS] == host[i]);
    }
    top_row_finish(&oracle);
    rig_finish(&r);
}

TEST(a_row_does_not_depend_on_others)
{
    static struct rig r;
    static struct top_best alone;
    const uint32_t n_vocab = 9001;
    rig_init(&r, n_vocab);
    fill_ties(row_of(&r, 0), n_vocab);
    memcpy(row_of(&r, 3), row_of(&r, 0), n_vocab * sizeof(float));
    fill_nan(row_of(&r, 1), n_vocab);
    fill_normal(row_of(&r, 2), n_vocab);
    for (uint32_t i = 0; i < 4; i++)
        r.want[i] = (struct out_want){ .n_top = i % 3 ? 40 : 256, .scale = 1, .draw = -1 };
    rig_run(&r, 1);
    memcpy(alone.token, r.b.top[0].token, sizeof(alone.token));
    memcpy(alone.logit, r.b.top[0].logit, sizeof(alone.logit));
    rig_run(&r, 4);
    REQUIRE(memcmp(alone.token, r.b.top[3].token, sizeof(alone.token)) == 0);
    REQUIRE(memcmp(alone.logit, r.b.top[3].logit, sizeof(alone.logit)) == 0);
    rig_finish(&r);
}

TEST(what_is_not_wanted)
{
    static struct rig r;
    const uint32_t n_vocab = 5000;
    rig_init(&r, n_vocab);
    top_row_init(&oracle, n_vocab);
    for (uint32_t i = 0; i < 3; i++)
        fill_normal(row_of(&r, i), n_vocab);
    r.want[0] = (struct out_want){ .n_top = 1, .draw = -1 };
    r.want[1] = (struct out_want){ .draw = -1 };
    r.want[2] = (struct out_want){ .n_top = 5, .draw = -1 };
    check(&r, 3);
    // For one of two, both whole rows come.
    r.g.batch = &r.b;
    r.b.n_out = 2;
    REQUIRE_INT(vk_top_prepare(&r.g), VK_OUTPUTS_ROWS);
    r.b.want = NULL;
    r.b.n_out = 3;
    REQUIRE_INT(vk_top_prepare(&r.g), VK_OUTPUTS_ROWS);
    top_row_finish(&oracle);
    rig_finish(&r);
}

TEST(parts_of_rows)
{
    static struct rig r;
    static float part[5000];
    struct err err;
    const uint32_t n_vocab = 5000;
    rig_init(&r, n_vocab);
    for (uint32_t i = 0; i < ROWS_MAX; i++) {
        fill_normal(row_of(&r, i), n_vocab);
        r.want[i] = (struct out_want){ .n_top = 1, .draw = -1 };
    }
    rig_run(&r, ROWS_MAX);
    for (uint32_t i = 0; i < 40; i++) {
        uint32_t row = rng(ROWS_MAX), first = rng(n_vocab), n = i ? rng(n_vocab - first) + 1 : 0;
        REQUIRE_OK(vulkan_logits_read(&r.g.p, row, first, n, part, &err), err);
        REQUIRE(memcmp(part, row_of(&r, row) + first, n * sizeof(float)) == 0);
    }
    rig_finish(&r);
}

static void read_fails(enum vk_fault fault, int code)
{
    static struct rig r;
    struct err err;
    float part[10], none[10] = {0};
    rig_init(&r, 100);
    fill_normal(row_of(&r, 0), 100);
    r.want[0] = (struct out_want){ .n_top = 1, .draw = -1 };
    rig_run(&r, 1);
    memset(part, 0, sizeof(part));
    vk_inject(vk, fault, 0);
    REQUIRE_INT(vulkan_logits_read(&r.g.p, 0, 20, 10, part, &err), code);
    REQUIRE(err.msg[0]);
    REQUIRE_INT(vulkan_logits_read(&r.g.p, 0, 20, 10, part, &err), -EIO);
    REQUIRE(memcmp(part, none, sizeof(part)) == 0);
    rig_finish(&r);
    close_device();
}

TEST(reads_from_a_device_that_is_lost)
{
    read_fails(VK_FAULT_LOST, -EIO);
    read_fails(VK_FAULT_TIMEOUT, -ETIMEDOUT);
}

// ---- samplers ---------------------------------------------------------------------------------

// What a request wants, next to greedy.
static void set_gen(struct gen_params *g, uint32_t i)
{
    *g = (struct gen_params){ .top_p = 1, .repeat_penalty = 1, .logprobs = -1, .seed = i,
                              .temperature = i > 1 ? 0.9f : 0, .ignore_end = true };
    switch (i) {
    case 1: g->logprobs = 20; break;
    case 2: g->top_k = 40; g->top_p = 0.95f; g->min_p = 0.02f; break;
    case 3: g->logprobs = 3; break;
    case 4: g->top_p = 0.9f; break;
    case 5: g->min_p = 0.05f; g->logprobs = 0; break;
    case 6: g->repeat_penalty = 1.3f; g->presence_penalty = 0.5f; g->top_k = 40; break;
    case 7: g->temperature = 0; g->frequency_penalty = 0.7f; break;
    case 8: g->repeat_penalty = 1.1f; break;                    // takes whole rows
    }
}

#define KINDS 9

struct pair { struct sampler whole, picks; };
struct source { struct rig *r; uint32_t row, n_reads; };

static int read_part(void *ctx, uint32_t first, uint32_t n, float *dst, struct err *err)
{
    struct source *s = ctx;
    s->n_reads++;
    return vulkan_logits_read(&s->r->g.p, s->row, first, n, dst, err);
}

static bool same_logprobs(const struct token_logprob *a, const struct token_logprob *b)
{
    bool is_same = a->n_top == b->n_top && a->logprob == b->logprob;
    for (uint32_t i = 0; is_same && i < a->n_top; i++)
        is_same = a->top[i].token == b->top[i].token && a->top[i].logprob == b->top[i].logprob;
    return is_same;
}

// The next token of both. Returns whether the picks were enough.
static bool next_token(struct rig *r, uint32_t row, struct pair *p, struct sampler_scratch *w)
{
    struct source source = { r, row, 0 };
    struct row_reader reader = { read_part, &source };
    struct token_logprob la = {0}, lb = {0};
    struct err err;
    int32_t a = -1, b = -2;
    bool logprobs = p->whole.params.logprobs >= 0;
    REQUIRE_OK(sampler_pick(&p->whole, w, row_of(r, row), &a, logprobs ? &la : NULL, &err), err);
    int code = sampler_pick_top(&p->picks, w, &r->b.top[row], &reader, &b, logprobs ? &lb : NULL,
                                &err);
    bool enough = code == 0 && source.n_reads == 0;
    if (code == -EAGAIN)
        code = sampler_pick(&p->picks, w, row_of(r, row), &b, logprobs ? &lb : NULL, &err);
    REQUIRE_OK(code, err);
    REQUIRE_INT(b, a);
    REQUIRE(same_logprobs(&lb, &la));
    return enough;
}

// Answers of several samplers in one batch: the same tokens and logprobs, and few of those that are
// meant to do without the row need it.
TEST(samplers_get_what_whole_rows_give)
{
    static struct rig r;
    static struct pair pair[ROWS_MAX];
    struct sampler_scratch scratch;
    struct gen_params gen;
    const uint32_t n_vocab = 12345;
    const int32_t prompt[] = { 3, 77, 12000 };
    uint32_t n_enough = 0, n_tokens = 0;
    rig_init(&r, n_vocab);
    REQUIRE(sampler_scratch_init(&scratch, n_vocab) == 0);
    for (uint32_t run = 0; run < 6; run++) {
        for (uint32_t i = 0; i < ROWS_MAX; i++) {
            set_gen(&gen, (run + i) % KINDS);
            REQUIRE(sampler_init(&pair[i].whole, &gen, n_vocab, prompt, ARRAY_LEN(prompt)) == 0);
            REQUIRE(sampler_init(&pair[i].picks, &gen, n_vocab, prompt, ARRAY_LEN(prompt)) == 0);
        }
        for (uint32_t step = 0; step < 12; step++) {
            for (uint32_t i = 0; i < ROWS_MAX; i++) {
                fills[i == 3 ? 4 : i % 2](row_of(&r, i), n_vocab);
                sampler_want(&pair[i].picks, &r.want[i]);
            }
            rig_run(&r, ROWS_MAX);
            for (uint32_t i = 0; i < ROWS_MAX; i++)
                n_enough += next_token(&r, i, &pair[i], &scratch);
            n_tokens += ROWS_MAX;
        }
        for (uint32_t i = 0; i < ROWS_MAX; i++) {
            sampler_finish(&pair[i].whole);
            sampler_finish(&pair[i].picks);
        }
    }
    REQUIRE(n_enough > n_tokens / 2 && n_enough < n_tokens);
    sampler_scratch_finish(&scratch);
    rig_finish(&r);
}

// ---- requests ---------------------------------------------------------------------------------

#define PROMPT_TOKENS 2
#define ANSWER_TOKENS 3                 // a software device takes seconds for each

static struct answer answers[2][KINDS];
static uint64_t n_reads;

static int count_read(struct program *g, uint32_t out, uint32_t first, uint32_t n, float *dst,
                      struct err *err)
{
    n_reads++;
    return vulkan_logits_read(g, out, first, n, dst, err);
}

// All at once, on an executor with these operations.
static void ask_all(struct engine *e, const struct executor_ops *ops, struct answer *ret)
{
    static int32_t prompt[KINDS][PROMPT_TOKENS];
    struct stream *s[KINDS];
    e->x->ops = ops;
    for (uint32_t i = 0; i < KINDS; i++) {
        for (uint32_t k = 0; k < PROMPT_TOKENS; k++)
            prompt[i][k] = (int32_t)(1000 + (i * 7919 + k * 104729) % 20000);
        struct request r = request_of(prompt[i], PROMPT_TOKENS, ANSWER_TOKENS);
        set_gen(&r.gen, i);
        r.gen.max_tokens = ANSWER_TOKENS;
        r.gen.prompt_logprobs = i == 1;
        s[i] = submit(e, &r);
    }
    for (uint32_t i = 0; i < KINDS; i++)
        collect(s[i], &ret[i]);
    require_idle(e);
}

TEST(requests_get_what_whole_rows_give)
{
    static struct executor_ops with_rows, counted;
    char device[300];
    need_device();
    snprintf(device, sizeof(device), "vulkan:%s", vk_info(vk)->name);
    struct engine *e = open_engine(device, (struct engine_params){0});
    with_rows = counted = executor_vulkan;
    with_rows.logits_read = NULL;
    counted.logits_read = count_read;
    n_reads = 0;
    ask_all(e, &with_rows, answers[0]);
    REQUIRE(n_reads == 0);
    ask_all(e, &counted, answers[1]);
    for (uint32_t i = 0; i < KINDS; i++)
        if (!same(&answers[0][i], &answers[1][i]))
            TEST_FAIL("request %u: \"%s\", not \"%s\"", i, answers[1][i].text.p,
                      answers[0][i].text.p);
    // The last takes whole rows, so does the prompt of one, and few others do.
    REQUIRE(n_reads >= ANSWER_TOKENS + 1);
    if (n_reads > KINDS * ANSWER_TOKENS / 2)
        TEST_FAIL("%llu rows were read", (unsigned long long)n_reads);
    e->x->ops = &executor_vulkan;
    engine_close(e);
}
