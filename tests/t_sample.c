// Protects engine/run/sample: the kept tokens and their frequencies are those of a plain
// computation in double precision, and a draw depends on seed and number alone.
#include "tests/test.h"
#include <errno.h>
#include <math.h>
#include "base/base.h"
#include "engine/run/sample.h"
#include "engine/run/sample_row.h"

TEST_MAIN

#define N_MAX 5000

static const struct gen_params plain = {
    .temperature = 1, .top_p = 1, .repeat_penalty = 1, .logprobs = -1,
};

// Logits like a model's; a coarse grid makes many ties.
static void fill(float *x, uint32_t n, uint64_t seed, float spread, bool grid)
{
    for (uint32_t i = 0; i < n; i++) {
        double a = sampler_uniform(seed, 2 * i), b = sampler_uniform(seed, 2 * i + 1);
        x[i] = (float)(spread * sqrt(-2 * log(1 - a)) * cos(6.283185307179586 * b));
        if (grid)
            x[i] = roundf(x[i] * 2) / 2;
    }
}

// ---- the reference -----------------------------------------------------------------------------

struct item { float logit; double p; int32_t token; };

static int by_rank(const void *va, const void *vb)
{
    const struct item *a = va, *b = vb;
    if (a->logit != b->logit)
        return a->logit > b->logit ? -1 : 1;
    return a->token < b->token ? -1 : 1;
}

// All tokens by rank; p is relative to the first's.
static void rank(const struct gen_params *g, const float *x, uint32_t n, struct item *item)
{
    for (uint32_t i = 0; i < n; i++)
        item[i] = (struct item){ x[i], 0, (int32_t)i };
    qsort(item, n, sizeof(*item), by_rank);
    for (uint32_t i = 0; i < n; i++)
        item[i].p = exp(((double)item[i].logit - item[0].logit) / g->temperature);
}

// How many of the ranked tokens stay when the boundaries of top_p and min_p are moved by slack.
static uint32_t n_kept(const struct gen_params *g, const struct item *item, uint32_t n,
                       double slack)
{
    uint32_t k = g->top_k > 0 ? MIN((uint32_t)g->top_k, n) : n, m = 0;
    double total = 0, sum = 0;
    for (uint32_t i = 0; i < k; i++)
        total += item[i].p;
    if (g->top_p < 1) {
        while (m < k && (m == 0 || sum < (g->top_p + slack) * total))
            sum += item[m++].p;
        k = m;
    }
    for (m = 1; m < k && item[m].p >= g->min_p - slack; m++)
        continue;
    return m;
}

static int by_token(const void *a, const void *b)
{
    return *(const int32_t *)a < *(const int32_t *)b ? -1 : 1;
}

static void check_kept(const struct gen_params *g, const struct sampler_scratch *w, const float *x,
                       int32_t picked)
{
    static struct item item[N_MAX];
    static int32_t want[N_MAX];
    rank(g, x, w->n_vocab, item);
    // Within rounding of a boundary either answer is right.
    uint32_t lo = n_kept(g, item, w->n_vocab, -1e-6), hi = n_kept(g, item, w->n_vocab, 1e-6);
    uint32_t a = MIN(lo, hi), b = MAX(lo, hi);
    if (w->n_kept < a || w->n_kept > b)
        TEST_FAIL("n %u T %g k %d p %g m %g: kept %u, not %u to %u", w->n_vocab,
                  (double)g->temperature, g->top_k, (double)g->top_p, (double)g->min_p, w->n_kept,
                  a, b);
    for (uint32_t i = 0; i < w->n_kept; i++)
        want[i] = item[i].token;
    qsort(want, w->n_kept, sizeof(*want), by_token);
    REQUIRE(memcmp(want, w->token, w->n_kept * sizeof(*want)) == 0);
    bool found = false;
    for (uint32_t i = 0; i < w->n_kept; i++)
        found |= want[i] == picked;
    REQUIRE(found);
}

static int32_t pick(const struct gen_params *g, struct sampler_scratch *w, const float *x)
{
    struct sampler s;
    struct err e = {0};
    int32_t token = -1;
    REQUIRE(sampler_init(&s, g, w->n_vocab, NULL, 0) == 0);
    REQUIRE_OK(sampler_pick(&s, w, x, &token, NULL, &e), e);
    sampler_finish(&s);
    return token;
}

TEST(kept_tokens_are_those_of_the_reference)
{
    static const uint32_t size[] = { 1, 7, 64, 65, 200, 1000, N_MAX };
    static const float temperature[] = { 0.3f, 1, 2 }, spread[] = { 0, 0.3f, 2, 6 };
    static const int32_t top_k[] = { 0, 1, 5, 40, 3000 };
    static const float top_p[] = { 1, 0.95f, 0.5f, 0.01f, 0 }, min_p[] = { 0, 0.05f, 0.5f, 1 };
    static float x[N_MAX];
    const size_t n_cases = 3 * 5 * 5 * 4 * 4 * 2;
    for (size_t n = 0; n < ARRAY_LEN(size); n++) {
        struct sampler_scratch w;
        REQUIRE(sampler_scratch_init(&w, size[n]) == 0);
        for (size_t i = 0; i < n_cases; i++) {
            size_t j = i;
            struct gen_params g = plain;
            g.temperature = temperature[j % ARRAY_LEN(temperature)], j /= ARRAY_LEN(temperature);
            g.top_k = top_k[j % ARRAY_LEN(top_k)], j /= ARRAY_LEN(top_k);
            g.top_p = top_p[j % ARRAY_LEN(top_p)], j /= ARRAY_LEN(top_p);
            g.min_p = min_p[j % ARRAY_LEN(min_p)], j /= ARRAY_LEN(min_p);
            g.seed = i;
            if (i % (size[n] > 200 ? 61 : 3))       // a large vocabulary is slow to rank
                continue;
            if (g.top_k == 0 && g.top_p == 1 && g.min_p == 0)
                continue;                   // keeps everything and lists nothing
            fill(x, size[n], i, spread[j % ARRAY_LEN(spread)], j / ARRAY_LEN(spread));
            int32_t picked = pick(&g, &w, x);
            check_kept(&g, &w, x, picked);
        }
        sampler_scratch_finish(&w);
    }
}

// Draws many and compares the counts by their normal deviation.
static void check_frequencies(struct gen_params g, uint32_t n, float spread)
{
    enum { DRAWS = 8000 };
    static float x[N_MAX];
    static struct item item[N_MAX];
    static uint32_t count[N_MAX];
    struct sampler_scratch w;
    struct sampler s;
    double total = 0, chi2 = 0, dof = 0, rest_want = 0, rest_got = 0;
    fill(x, n, 3, spread, false);
    rank(&g, x, n, item);
    uint32_t kept = n_kept(&g, item, n, 0);
    memset(count, 0, sizeof(count));
    REQUIRE(sampler_scratch_init(&w, n) == 0 && sampler_init(&s, &g, n, NULL, 0) == 0);
    for (int i = 0; i < DRAWS; i++) {
        int32_t token = -1;
        REQUIRE(sampler_pick(&s, &w, x, &token, NULL, NULL) == 0);
        count[token]++;
    }
    for (uint32_t i = 0; i < kept; i++)
        total += item[i].p;
    for (uint32_t i = 0; i < n; i++) {
        double want = i < kept ? DRAWS * item[i].p / total : 0, got = count[item[i].token];
        REQUIRE(i < kept || got == 0);
        if (want >= 10) {
            chi2 += (got - want) * (got - want) / want;
            dof++;
        } else {
            rest_want += want;
            rest_got += got;
        }
    }
    if (rest_want >= 10) {
        chi2 += (rest_got - rest_want) * (rest_got - rest_want) / rest_want;
        dof++;
    }
    // Five deviations of chi-square; the seed is fixed, so this passes always or never.
    if (fabs(chi2 - dof) > 5 * sqrt(2 * dof) + 5)
        TEST_FAIL("n %u k %d p %g: chi2 %.1f for %g bins", n, g.top_k, (double)g.top_p, chi2, dof);
    sampler_finish(&s);
    sampler_scratch_finish(&w);
}

TEST(frequencies_are_the_probabilities)
{
    for (uint64_t seed = 0; seed < 2; seed++) {
        struct gen_params g = plain;
        g.seed = seed;
        check_frequencies(g, 50, 1);
        check_frequencies(g, 1000, 2);
        g.temperature = 0.7f;
        check_frequencies(g, 333, 1);
        g.top_k = 20;
        check_frequencies(g, 1000, 1);
        g.top_p = 0.8f;
        check_frequencies(g, 1000, 1);
        g.min_p = 0.3f;
        check_frequencies(g, 1000, 1);
        g.top_k = 0;
        check_frequencies(g, 1000, 1);
    }
}

TEST(a_draw_depends_on_seed_and_number_alone)
{
    static float x[1000], y[1000];
    struct sampler_scratch w, other;
    struct sampler a, b;
    struct gen_params g = plain;
    int32_t ta, tb;
    unsigned equal = 0;
    fill(x, 1000, 1, 2, false);
    fill(y, 1000, 2, 2, false);
    g.seed = 42;
    g.top_p = 0.99f;
    REQUIRE(sampler_scratch_init(&w, 1000) == 0 && sampler_scratch_init(&other, 1000) == 0);
    REQUIRE(sampler_init(&a, &g, 1000, NULL, 0) == 0 && sampler_init(&b, &g, 1000, NULL, 0) == 0);
    for (int i = 0; i < 200; i++) {
        REQUIRE(sampler_pick(&a, &w, x, &ta, NULL, NULL) == 0);
        pick(&g, &w, y);                            // somebody else's, on the same scratch
        REQUIRE(sampler_pick(&b, &other, i % 2 ? x : y, &tb, NULL, NULL) == 0);
        REQUIRE(i % 2 == 0 || ta == tb);            // b's earlier tokens differ; the draw does not
    }
    g.seed = 43;
    for (int i = 0; i < 200; i++)
        equal += sampler_uniform(42, (uint64_t)i) == sampler_uniform(43, (uint64_t)i);
    REQUIRE_INT(equal, 0);
    sampler_finish(&a);
    sampler_finish(&b);
    sampler_scratch_finish(&w);
    sampler_scratch_finish(&other);
}

TEST(ties_go_to_the_lower_id)
{
    static float x[300];
    struct sampler_scratch w;
    struct gen_params g = plain;
    g.temperature = 0;
    REQUIRE(sampler_scratch_init(&w, 300) == 0);
    REQUIRE_INT(pick(&g, &w, x), 0);
    x[0] = -0.0f;                                   // equal to zero
    REQUIRE_INT(pick(&g, &w, x), 0);
    x[70] = x[200] = x[299] = 1;
    REQUIRE_INT(pick(&g, &w, x), 70);
    g.temperature = 1;
    g.top_k = 5;
    pick(&g, &w, x);
    static const int32_t want[] = { 0, 1, 70, 200, 299 };
    REQUIRE_INT(w.n_kept, 5);
    REQUIRE(memcmp(w.token, want, sizeof(want)) == 0);
    g.top_k = 2;
    pick(&g, &w, x);
    REQUIRE(w.n_kept == 2 && w.token[0] == 70 && w.token[1] == 200);
    sampler_scratch_finish(&w);
}

static void check_refused(struct sampler_scratch *w, const float *x, const char *message)
{
    static const float temperature[] = { 0, 1 };
    for (int i = 0; i < 4; i++) {
        struct gen_params g = plain;
        struct sampler s;
        struct err e = {0};
        int32_t token = 77;
        g.temperature = temperature[i & 1];
        g.top_k = i & 2 ? 4 : 0;
        REQUIRE(sampler_init(&s, &g, w->n_vocab, NULL, 0) == 0);
        REQUIRE_INT(sampler_pick(&s, w, x, &token, NULL, &e), -EDOM);
        REQUIRE_STR(e.msg, message);
        REQUIRE(token == 77 && s.step == 0);
        sampler_finish(&s);
    }
}

TEST(logits_that_are_no_numbers_are_refused)
{
    static const uint32_t at[] = { 0, 63, 64, 127, 128, 130 };
    static float x[131];
    struct sampler_scratch w;
    REQUIRE(sampler_scratch_init(&w, 131) == 0);
    for (size_t i = 0; i < ARRAY_LEN(at); i++) {
        x[at[i]] = i % 2 ? NAN : -NAN;
        check_refused(&w, x, "a logit is no number");
        x[at[i]] = INFINITY;
        check_refused(&w, x, "a logit is infinite");
        x[at[i]] = 0;
    }
    for (int i = 0; i < 131; i++)
        x[i] = -INFINITY;
    check_refused(&w, x, "no logit is finite");
    sampler_scratch_finish(&w);
}

TEST(one_finite_logit_is_always_taken)
{
    static float x[131];
    struct sampler_scratch w;
    REQUIRE(sampler_scratch_init(&w, 131) == 0);
    for (int i = 0; i < 131; i++)
        x[i] = -INFINITY;
    x[129] = -3;
    for (uint64_t i = 0; i < 16; i++) {
        struct gen_params g = plain;
        g.seed = i;
        g.temperature = i & 1 ? 1 : 0;
        g.top_k = i & 2 ? 40 : 0;
        g.top_p = i & 4 ? 0.9f : 1;
        g.min_p = i & 8 ? 0.1f : 0;
        REQUIRE_INT(pick(&g, &w, x), 129);
    }
    sampler_scratch_finish(&w);
}

TEST(extreme_temperatures_work)
{
    static float x[131];
    struct sampler_scratch w;
    struct gen_params g = plain;
    fill(x, 131, 1, 3, false);
    REQUIRE(sampler_scratch_init(&w, 131) == 0);
    g.temperature = 0;
    int32_t best = pick(&g, &w, x);
    g.temperature = 1e-42f;
    REQUIRE_INT(pick(&g, &w, x), best);
    g.top_p = 0.9f;
    REQUIRE_INT(pick(&g, &w, x), best);
    g.temperature = 1e6f;
    pick(&g, &w, x);
    REQUIRE_INT(w.n_kept, 118);                     // 0.9 of a flat distribution
    sampler_scratch_finish(&w);
}

TEST(bias_and_penalties)
{
    static const int32_t prompt[] = { 3, 4, 4 };
    static const struct logit_bias bias[] = { { 9, 100 } }, ban[] = { { 5, -100 } };
    static float x[70];
    struct sampler_scratch w;
    struct sampler s;
    struct gen_params g = plain;
    int32_t token;
    REQUIRE(sampler_scratch_init(&w, 70) == 0);
    g.temperature = 0;

    x[5] = 2;
    g.bias = bias, g.n_bias = 1;
    REQUIRE_INT(pick(&g, &w, x), 9);
    g.bias = ban;
    REQUIRE_INT(pick(&g, &w, x), 0);
    g.n_bias = 0;

    // Repetition: of prompt and answer; divides what is positive, multiplies what is negative.
    x[3] = 3, x[4] = 3, x[5] = 2;
    g.repeat_penalty = 2;
    REQUIRE(sampler_init(&s, &g, 70, prompt, 3) == 0);
    REQUIRE(sampler_pick(&s, &w, x, &token, NULL, NULL) == 0 && token == 5);    // 2 > 3/2
    REQUIRE(sampler_pick(&s, &w, x, &token, NULL, NULL) == 0 && token == 3);    // 3/2 > 2/2
    sampler_finish(&s);
    for (int i = 0; i < 70; i++)
        x[i] = -4;
    x[3] = x[4] = -3;
    REQUIRE(sampler_init(&s, &g, 70, prompt, 3) == 0);
    REQUIRE(sampler_pick(&s, &w, x, &token, NULL, NULL) == 0 && token == 0);    // -4 > -6
    sampler_finish(&s);

    // Frequency counts, presence does not; the prompt is no part of either.
    memset(x, 0, sizeof(x));
    x[3] = 3, x[5] = 2.6f;
    g.repeat_penalty = 1;
    g.frequency_penalty = 0.25f;
    REQUIRE(sampler_init(&s, &g, 70, prompt, 3) == 0);
    static const int32_t by_frequency[] = { 3, 3, 5, 3, 5, 3, 3 };  // 3, 2.75, 2.6, 2.5, 2.35, 2.25
    for (int i = 0; i < 6; i++) {
        REQUIRE(sampler_pick(&s, &w, x, &token, NULL, NULL) == 0);
        REQUIRE_INT(token, by_frequency[i]);
    }
    sampler_finish(&s);
    g.frequency_penalty = 0;
    g.presence_penalty = 2;
    REQUIRE(sampler_init(&s, &g, 70, prompt, 3) == 0);
    static const int32_t by_presence[] = { 3, 5, 3, 3, 3 };         // 3, 2.6, then 1, 0.6
    for (int i = 0; i < 5; i++) {
        REQUIRE(sampler_pick(&s, &w, x, &token, NULL, NULL) == 0);
        REQUIRE_INT(token, by_presence[i]);
    }
    sampler_finish(&s);
    sampler_scratch_finish(&w);
}

// The table of seen tokens grows: everything is taken once, best first.
TEST(presence_over_a_whole_vocabulary)
{
    static float x[2000];
    struct sampler_scratch w;
    struct sampler s;
    struct gen_params g = plain;
    g.temperature = 0;
    g.presence_penalty = 2;
    for (int i = 0; i < 2000; i++)
        x[i] = (float)i / 2000;
    REQUIRE(sampler_scratch_init(&w, 2000) == 0 && sampler_init(&s, &g, 2000, NULL, 0) == 0);
    for (int i = 0; i < 4000; i++) {
        int32_t token = -1;
        REQUIRE(sampler_pick(&s, &w, x, &token, NULL, NULL) == 0);
        REQUIRE_INT(token, i < 2000 ? 1999 - i : 1999);
    }
    sampler_finish(&s);
    sampler_scratch_finish(&w);
}

TEST(logprobs_are_of_the_unchanged_model)
{
    static const struct logit_bias bias[] = { { 7, 50 } };
    static float x[1000];
    static struct item item[1000];
    struct sampler_scratch w;
    struct gen_params g = plain;
    double sum = 0;
    fill(x, 1000, 4, 3, true);
    rank(&plain, x, 1000, item);
    for (int i = 0; i < 1000; i++)
        sum += item[i].p;
    double lse = item[0].logit + log(sum);
    REQUIRE(sampler_scratch_init(&w, 1000) == 0);
    for (int n = 0; n <= LOGPROBS_MAX; n++) {
        struct sampler s;
        struct token_logprob lp;
        int32_t token = -1;
        g.temperature = n % 2 ? 0.5f : 0;
        g.top_k = 3;
        g.logprobs = n;
        g.bias = bias, g.n_bias = 1;
        REQUIRE(sampler_init(&s, &g, 1000, NULL, 0) == 0);
        REQUIRE(sampler_pick(&s, &w, x, &token, &lp, NULL) == 0);
        REQUIRE(token == 7 && lp.token == 7 && fabs(lp.logprob - (x[7] - lse)) < 1e-5);
        REQUIRE_INT(lp.n_top, n);
        for (int i = 0; i < n; i++) {
            REQUIRE_INT(lp.top[i].token, item[i].token);
            REQUIRE(fabs(lp.top[i].logprob - (item[i].logit - lse)) < 1e-5);
        }
        sampler_finish(&s);
    }
    sampler_scratch_finish(&w);
}

TEST(logprobs_of_a_tiny_vocabulary)
{
    static const float x[] = { 0, 1 };
    struct sampler_scratch w;
    struct token_logprob lp;
    REQUIRE(sampler_scratch_init(&w, 2) == 0);
    REQUIRE(sampler_logprob(&w, x, 0, 5, &lp, NULL) == 0);
    REQUIRE(lp.n_top == 2 && lp.top[0].token == 1 && lp.top[1].token == 0);
    REQUIRE(fabs(exp(lp.top[0].logprob) + exp(lp.top[1].logprob) - 1) < 1e-6);
    sampler_scratch_finish(&w);
}

// ---- the passes over rows ----------------------------------------------------------------------

TEST(weights_are_exponentials)
{
    float x[16];
    for (float base = 0; base > -85; base -= 0.37f) {
        for (int i = 0; i < 16; i++)
            x[i] = base - (float)i / 43;
        float in[16];
        memcpy(in, x, sizeof(x));
        row_exp(x, 16, 0, 1);
        for (int i = 0; i < 16; i++)
            REQUIRE(in[i] < -85 || fabs(x[i] / exp((double)in[i]) - 1) < 2.4e-7);
    }
    float edge[] = { 0, -86, -1e30f, -INFINITY };
    REQUIRE(row_exp(edge, 4, 0, 1) == 1);
    REQUIRE(edge[0] == 1 && edge[1] == 0 && edge[2] == 0 && edge[3] == 0);
}

// The same bits on every machine and with every compiler: a seed gives the same text everywhere.
TEST(sums_are_the_same_bits_everywhere)
{
    static float x[1000], block[16];
    float max;
    double sum, want = 0;
    uint64_t bits;
    for (int i = 0; i < 1000; i++)
        x[i] = (float)((i * 7919) % 1000) / 37;
    for (int i = 0; i < 1000; i++)
        want += exp((x[i] - 27.0) * (double)0.7f);
    REQUIRE(!row_max(x, 1000, block, &max));
    REQUIRE(max == 27.0f);
    sum = row_sum_exp(x, 1000, max, 0.7f, block);
    memcpy(&bits, &sum, sizeof(bits));
    REQUIRE(fabs(sum / want - 1) < 1e-6);
    if (bits != UINT64_C(0x404aadea88000000))
        TEST_FAIL("%a %llx", sum, (unsigned long long)bits);
}

TEST(block_maxima_of_all_lengths)
{
    static float x[200], block[4];
    float max;
    for (size_t n = 1; n <= 200; n++) {
        for (size_t i = 0; i < n; i++) {
            memset(x, 0, sizeof(x));
            x[i] = 5;
            REQUIRE(!row_max(x, n, block, &max));
            REQUIRE(max == 5 && block[i / ROW_BLOCK] == 5);
            REQUIRE(n <= ROW_BLOCK || block[i < ROW_BLOCK] == 0);
        }
    }
}
