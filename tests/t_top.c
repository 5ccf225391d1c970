// Protects engine/run/sample_top: from what an executor picked out of a row comes the token, and
// come the logprobs, that the whole row gives; bit by bit, or not at all.
#include "tests/top.h"
#include <errno.h>
#include <math.h>
#include "base/base.h"
#include "engine/run/sample.h"
#include "tests/test.h"

TEST_MAIN

#define N_MAX 5000

static const struct gen_params plain = {
    .temperature = 1, .top_p = 1, .repeat_penalty = 1, .logprobs = -1,
};

static uint64_t rng_state = 1;

static uint32_t rng(uint32_t n)
{
    rng_state = rng_state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)(rng_state >> 33) % n;
}

// Logits of some shape: flat or peaked, with ties or without, some of them minus infinity.
static void fill(float *x, uint32_t n)
{
    static const float spreads[] = { 0, 0.3f, 1, 3, 8 };
    float spread = spreads[rng(ARRAY_LEN(spreads))];
    uint32_t grid = rng(3), holes = rng(4) == 0 ? 1 + rng(n) : 0;
    uint64_t seed = rng(1u << 30);
    for (uint32_t i = 0; i < n; i++) {
        double a = sampler_uniform(seed, 2 * i), b = sampler_uniform(seed, 2 * i + 1);
        x[i] = (float)(spread * sqrt(-2 * log(1 - a)) * cos(6.283185307179586 * b));
        if (grid)
            x[i] = roundf(x[i] * (float)grid) / (float)grid;     // zeros of both signs too
    }
    for (uint32_t i = 0; i < holes; i++)
        x[rng(n)] = -INFINITY;
    x[rng(n)] = 0.25f;                  // never all of them
}

// ---- one row, both ways ----

struct source { const float *row; uint32_t n_vocab; uint64_t n_read; };

static int read_row(void *ctx, uint32_t first, uint32_t n, float *dst, struct err *err)
{
    struct source *s = ctx;
    (void)err;
    REQUIRE(first + n <= s->n_vocab);
    memcpy(dst, s->row + first, n * sizeof(*dst));
    s->n_read += n;
    return 0;
}

static struct { uint32_t tried, whole; } count;     // whole: the picks did not tell
static struct sampler_scratch scratch;
static struct top_row picked;

static bool same_logprobs(const struct token_logprob *a, const struct token_logprob *b)
{
    if (a->token != b->token || a->n_top != b->n_top ||
        memcmp(&a->logprob, &b->logprob, sizeof(a->logprob)) != 0)
        return false;
    for (uint32_t i = 0; i < a->n_top; i++)
        if (a->top[i].token != b->top[i].token ||
            memcmp(&a->top[i].logprob, &b->top[i].logprob, sizeof(float)) != 0)
            return false;
    return true;
}

// Takes the next token of a from the row and that of b from picks, of which there are at most
// n_given. Where these do not tell, b takes the row too.
static void step(struct sampler *a, struct sampler *b, const float *x, uint32_t n_given, bool near)
{
    struct out_want want;
    struct out_top t;
    struct source source = { x, a->n_vocab, 0 };
    struct row_reader reader = { read_row, &source };
    struct token_logprob la = {0}, lb = {0};
    struct token_logprob *pa = a->params.logprobs >= 0 ? &la : NULL, *pb = pa ? &lb : NULL;
    struct err ea = {0}, eb = {0};
    int32_t ta = -1, tb = -1;
    sampler_want(b, &want);
    REQUIRE(want.n_top <= OUT_TOP_MAX && want.n_top <= b->n_vocab);
    want.n_top = MIN(want.n_top, n_given);
    top_pick(x, b->n_vocab, &want, near, &picked, &t);
    int ra = sampler_pick(a, &scratch, x, &ta, pa, &ea);
    int rb = sampler_pick_top(b, &scratch, &t, &reader, &tb, pb, &eb);
    count.tried++;
    if (rb == -EAGAIN) {
        REQUIRE(tb == -1 && b->step + 1 == a->step + (ra < 0));
        count.whole++;
        rb = sampler_pick(b, &scratch, x, &tb, pb, &eb);
    }
    if (ra != rb || ta != tb || (pa && ra == 0 && !same_logprobs(pa, pb)))
        TEST_FAIL("T %g k %d p %g m %g n %u given %u: %d token %d, not %d token %d",
                  (double)a->params.temperature, a->params.top_k, (double)a->params.top_p,
                  (double)a->params.min_p, a->n_vocab, t.n, rb, tb, ra, ta);
    REQUIRE_STR(eb.msg, ea.msg);
    REQUIRE(source.n_read <= OUT_SUM_TOKENS);
    REQUIRE(!near || source.n_read == 0 || t.n_near == 0);
}

// ---- random cases ----

static float one_of(const float *x, size_t n) { return x[rng((uint32_t)n)]; }
#define ONE_OF(...) one_of((const float[]){ __VA_ARGS__ }, \
                           sizeof((float[]){ __VA_ARGS__ }) / sizeof(float))

static struct logit_bias bias[40];

static struct gen_params random_params(uint32_t n_vocab, bool adjusts)
{
    struct gen_params g = plain;
    g.temperature = ONE_OF(0, 0.3f, 0.7f, 1, 1, 2);
    g.top_k = (int32_t)ONE_OF(0, 0, 1, 5, 40, 256, 300);
    g.top_p = ONE_OF(1, 1, 0.999f, 0.95f, 0.5f, 0.01f, 0);
    g.min_p = ONE_OF(0, 0, 0.05f, 0.5f, 1);
    g.logprobs = (int)ONE_OF(-1, -1, 0, 3, 20);
    g.seed = rng(1u << 30);
    if (!adjusts)
        return g;
    g.repeat_penalty = ONE_OF(1, 1.3f, 2, 0.9f);
    g.frequency_penalty = ONE_OF(0, 0, 0.4f, -0.3f);
    g.presence_penalty = ONE_OF(0, 0, 1.5f, -1);
    g.bias = bias;
    g.n_bias = rng(3) == 0 ? rng(ARRAY_LEN(bias)) : 0;
    for (uint32_t i = 0; i < g.n_bias; i++)         // the same token twice, too
        bias[i] = (struct logit_bias){ (int32_t)(rng(n_vocab) / 2), ONE_OF(-100, -3, -1, 0, 2) };
    return g;
}

// An answer of several tokens, so that penalties have what they look at.
static void answer(const struct gen_params *g, uint32_t n_vocab, uint32_t n_steps)
{
    static float x[N_MAX];
    static int32_t prompt[20];
    struct sampler a, b;
    for (size_t i = 0; i < ARRAY_LEN(prompt); i++)
        prompt[i] = (int32_t)rng(n_vocab);
    REQUIRE(sampler_init(&a, g, n_vocab, prompt, ARRAY_LEN(prompt)) == 0);
    REQUIRE(sampler_init(&b, g, n_vocab, prompt, ARRAY_LEN(prompt)) == 0);
    fill(x, n_vocab);
    for (uint32_t i = 0; i < n_steps; i++) {
        if (rng(3) == 0)
            fill(x, n_vocab);
        step(&a, &b, x, rng(4) == 0 ? 1 + rng(16) : OUT_TOP_MAX, rng(2));
    }
    sampler_finish(&a);
    sampler_finish(&b);
}

static void random_answers(uint32_t n_answers, bool adjusts)
{
    static const uint32_t size[] = { 1, 7, 64, 65, 200, 1000, N_MAX };
    for (size_t n = 0; n < ARRAY_LEN(size); n++) {
        REQUIRE(sampler_scratch_init(&scratch, size[n]) == 0);
        top_row_init(&picked, size[n]);
        for (uint32_t i = 0; i < n_answers; i++) {
            struct gen_params g = random_params(size[n], adjusts);
            answer(&g, size[n], 8);
        }
        top_row_finish(&picked);
        sampler_scratch_finish(&scratch);
    }
}

TEST(picks_give_what_the_row_gives)
{
    count.tried = count.whole = 0;
    random_answers(600, false);
    // Few picks were given on purpose in every fourth case; most others are enough.
    REQUIRE(count.whole > count.tried / 100 && count.whole < count.tried / 3);
}

TEST(picks_give_what_the_row_gives_with_penalties)
{
    count.tried = count.whole = 0;
    random_answers(600, true);
    REQUIRE(count.whole > count.tried / 100 && count.whole < count.tried * 4 / 5);
}

// A penalty brings token 100 level with the end of the list: token 6, which is not on it, ranks
// before.
TEST(ties_with_the_end_of_the_list)
{
    static float x[200];
    struct gen_params g = plain;
    REQUIRE(sampler_scratch_init(&scratch, 200) == 0);
    top_row_init(&picked, 200);
    g.presence_penalty = 1;
    g.top_k = 2;
    for (g.seed = 0; g.seed < 20; g.seed++) {
        struct sampler a, b;
        int32_t token;
        REQUIRE(sampler_init(&a, &g, 200, NULL, 0) == 0 && sampler_init(&b, &g, 200, NULL, 0) == 0);
        memset(x, 0, sizeof(x));
        x[100] = 50;
        REQUIRE(sampler_pick(&a, &scratch, x, &token, NULL, NULL) == 0 && token == 100);
        REQUIRE(sampler_pick(&b, &scratch, x, &token, NULL, NULL) == 0 && token == 100);
        x[100] = 2;
        x[5] = x[6] = 1;
        step(&a, &b, x, 2, false);
        sampler_finish(&a);
        sampler_finish(&b);
    }
    top_row_finish(&picked);
    sampler_scratch_finish(&scratch);
}

// ---- rows that must not be needed ----

static void never_whole(struct gen_params g)
{
    static float x[N_MAX];
    struct sampler a, b;
    REQUIRE(sampler_scratch_init(&scratch, N_MAX) == 0);
    REQUIRE(sampler_init(&a, &g, N_MAX, NULL, 0) == 0 && sampler_init(&b, &g, N_MAX, NULL, 0) == 0);
    top_row_init(&picked, N_MAX);
    count.whole = 0;
    for (int i = 0; i < 200; i++) {
        fill(x, N_MAX);
        step(&a, &b, x, OUT_TOP_MAX, i % 2);
    }
    REQUIRE_INT(count.whole, 0);
    top_row_finish(&picked);
    sampler_finish(&a);
    sampler_finish(&b);
    sampler_scratch_finish(&scratch);
}

TEST(common_requests_need_no_row)
{
    for (int lp = -1; lp <= LOGPROBS_MAX; lp += LOGPROBS_MAX + 1) {
        struct gen_params g = plain;
        g.logprobs = lp;
        never_whole(g);                     // from the whole vocabulary
        g.temperature = 0;
        never_whole(g);
        g.presence_penalty = 0.5f;
        never_whole(g);
        g.temperature = 0.7f;
        g.top_k = 20;
        g.top_p = 0.8f;
        never_whole(g);
        g.presence_penalty = 0;
        never_whole(g);
        g.top_k = OUT_TOP_MAX;
        never_whole(g);
    }
}

// Peaked rows, as models have them mostly, keep little within top_p and min_p.
TEST(a_peak_needs_no_row)
{
    static float x[N_MAX];
    struct gen_params g = plain;
    struct sampler a, b;
    REQUIRE(sampler_scratch_init(&scratch, N_MAX) == 0);
    top_row_init(&picked, N_MAX);
    for (int i = 0; i < 60; i++) {
        g.top_p = i % 3 ? 0.95f : 1;
        g.min_p = i % 3 == 1 ? 0 : 0.05f;
        REQUIRE(sampler_init(&a, &g, N_MAX, NULL, 0) == 0);
        REQUIRE(sampler_init(&b, &g, N_MAX, NULL, 0) == 0);
        fill(x, N_MAX);
        for (uint32_t j = 0; j < N_MAX; j++)
            x[j] *= 0.1f;
        for (int j = 0; j < 30; j++)
            x[rng(N_MAX)] = 8 + (float)rng(20) / 10;
        count.whole = 0;
        step(&a, &b, x, OUT_TOP_MAX, false);
        REQUIRE_INT(count.whole, 0);
        sampler_finish(&a);
        sampler_finish(&b);
    }
    top_row_finish(&picked);
    sampler_scratch_finish(&scratch);
}

// ---- bad rows ----

TEST(bad_rows_are_refused_alike)
{
    static const float bad[] = { NAN, INFINITY };
    static float x[200];
    REQUIRE(sampler_scratch_init(&scratch, 200) == 0);
    top_row_init(&picked, 200);
    for (int i = 0; i < 300; i++) {
        struct gen_params g = random_params(200, i % 2);
        struct sampler a, b;
        REQUIRE(sampler_init(&a, &g, 200, NULL, 0) == 0 && sampler_init(&b, &g, 200, NULL, 0) == 0);
        fill(x, 200);
        if (i % 3 == 2)
            for (int j = 0; j < 200; j++)
                x[j] = -INFINITY;
        else
            x[rng(200)] = bad[i % 3];
        step(&a, &b, x, OUT_TOP_MAX, false);
        REQUIRE_INT(a.step, 0);
        REQUIRE_INT(b.step, 0);
        sampler_finish(&a);
        sampler_finish(&b);
    }
    top_row_finish(&picked);
    sampler_scratch_finish(&scratch);
}

static int read_nothing(void *ctx, uint32_t first, uint32_t n, float *dst, struct err *err)
{
    (void)ctx, (void)first, (void)n, (void)dst;
    return err_set(err, -EIO, "gone");
}

TEST(a_read_that_fails_changes_nothing)
{
    static float x[200];
    struct out_want want;
    struct out_top t;
    struct sampler s;
    struct err err = {0};
    struct row_reader reader = { read_nothing, NULL };
    int32_t token = -1;
    REQUIRE(sampler_scratch_init(&scratch, 200) == 0);
    REQUIRE(sampler_init(&s, &plain, 200, NULL, 0) == 0);
    top_row_init(&picked, 200);
    fill(x, 200);
    sampler_want(&s, &want);
    top_pick(x, 200, &want, false, &picked, &t);
    REQUIRE_INT(sampler_pick_top(&s, &scratch, &t, &reader, &token, NULL, &err), -EIO);
    REQUIRE_STR(err.msg, "gone");
    REQUIRE(token == -1 && s.step == 0);
    top_row_finish(&picked);
    sampler_finish(&s);
    sampler_scratch_finish(&scratch);
}
