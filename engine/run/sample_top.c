// Sampling from the best tokens of a row and its sums (struct out_top) instead of the row itself.
//
// Tokens that the list does not have rank behind its last one, and bias or penalties that could
// raise one of them are left to whole rows. So the tokens that rank up to that last one after bias
// and penalties, the known ones, begin the ranking of the whole vocabulary; what top_k, top_p and
// min_p keep is found among them, or the row is needed.
#include <errno.h>
#include <math.h>
#include <string.h>
#include "engine/run/sample_priv.h"
#include "engine/run/sample_row.h"

static_assert(OUT_SUM_TOKENS == ROW_BLOCK, "executors add up what the passes over rows do");

// Every bias is looked for in the list.
#define BIAS_LOOKED_FOR_MAX 32
// Weights are nearly monotonic: this far below min_p none is above it.
#define MIN_P_SLACK 0.999f

struct pick {
    const struct sampler    *s;
    struct sampler_scratch  *w;         // token[], weight[]: (n) the known ones, by rank; logits
    const struct out_top    *t;
    const struct row_reader *reader;
    uint32_t                 n;
    bool                     whole;     // all tokens with any probability are known
    int32_t                  token;     // out
    float                    logit;     // out: as the model gave it
};

// ---- what is wanted ----

// Whether bias or penalties could lift a token over others that have none.
static bool may_raise(const struct gen_params *p)
{
    return p->repeat_penalty < 1 || p->frequency_penalty < 0 || p->presence_penalty < 0 ||
           p->n_bias > BIAS_LOOKED_FOR_MAX;
}

// Whether the draw depends on the probability of every token.
static bool needs_sum(const struct gen_params *p)
{
    return p->temperature > 0 && p->top_k <= 0 && (p->top_p < 1 || p->min_p <= 0);
}

static bool is_for_rows(const struct sampler *s)
{
    const struct gen_params *p = &s->params;
    if (sampler_adjusts(s) && (may_raise(p) || needs_sum(p)))
        return true;
    return p->temperature > 0 && p->top_k > OUT_TOP_MAX;
}

static uint32_t best_wanted(const struct sampler *s)
{
    const struct gen_params *p = &s->params;
    if (sampler_adjusts(s))
        return OUT_TOP_MAX;             // some of them will fall
    if (p->temperature <= 0 || sampler_is_unfiltered(p))
        return 1;
    return p->top_k > 0 ? (uint32_t)p->top_k : OUT_TOP_MAX;
}

void sampler_want(const struct sampler *s, struct out_want *ret)
{
    const struct gen_params *p = &s->params;
    *ret = (struct out_want){ .draw = -1 };
    if (is_for_rows(s))
        return;
    ret->n_top = MIN(MAX(best_wanted(s), (uint32_t)MAX(p->logprobs, 0)), s->n_vocab);
    ret->lse = p->logprobs >= 0;
    if (needs_sum(p))
        ret->scale = sampler_scale(p);
    if (p->temperature > 0 && sampler_is_unfiltered(p))
        ret->draw = sampler_uniform(p->seed, s->step);
}

// ---- the known tokens ----

static uint32_t find(const int32_t *token, uint32_t n, int32_t which)
{
    uint32_t i = 0;
    while (i < n && token[i] != which)
        i++;
    return i;
}

// Adds bias and penalties. Returns 0, or -EAGAIN: a token outside the list has a positive bias.
static int adjust(struct pick *k)
{
    const struct gen_params *p = &k->s->params;
    for (uint32_t i = 0; i < p->n_bias; i++) {
        uint32_t at = find(k->w->token, k->n, p->bias[i].token);
        if (at < k->n)
            k->w->weight[at] += p->bias[i].bias;
        else if (p->bias[i].bias > 0 && !k->whole)
            return -EAGAIN;
    }
    for (uint32_t i = 0; i < k->n; i++) {
        const struct seen *e = sampler_find_seen(k->s, k->w->token[i]);
        if (e)
            k->w->weight[i] = sampler_penalised(p, e, k->w->weight[i]);
    }
    return 0;
}

static bool ranks_before(float a, int32_t token_a, float b, int32_t token_b)
{
    return a > b || (a == b && token_a < token_b);
}

static void swap(struct sampler_scratch *w, uint32_t i, uint32_t j)
{
    float f = w->weight[i];
    int32_t t = w->token[i];
    w->weight[i] = w->weight[j];
    w->token[i] = w->token[j];
    w->weight[j] = f;
    w->token[j] = t;
}

// Few of them are out of place.
static void sort_by_rank(struct sampler_scratch *w, uint32_t n)
{
    for (uint32_t i = 1; i < n; i++)
        for (uint32_t j = i; j > 0 && ranks_before(w->weight[j], w->token[j], w->weight[j - 1],
                                                   w->token[j - 1]); j--)
            swap(w, j, j - 1);
}

static void sort_by_id(struct sampler_scratch *w, uint32_t n)
{
    for (uint32_t i = 1; i < n; i++)
        for (uint32_t j = i; j > 0 && w->token[j] < w->token[j - 1]; j--)
            swap(w, j, j - 1);
}

// Returns 0, or -EAGAIN when nothing is known for sure.
static int load_known(struct pick *k)
{
    const struct out_top *t = k->t;
    struct sampler_scratch *w = k->w;
    float last = t->logit[t->n - 1];
    k->n = t->n;
    k->whole = t->n == k->s->n_vocab || last == -INFINITY;
    memcpy(w->token, t->token, t->n * sizeof(*w->token));
    memcpy(w->weight, t->logit, t->n * sizeof(*w->weight));
    if (sampler_adjusts(k->s)) {
        int rc = adjust(k);
        if (rc < 0)
            return rc;
        sort_by_rank(w, k->n);
    }
    // Behind the last one of the list others may come between.
    while (k->n > 0 && !k->whole && ranks_before(last, t->token[t->n - 1], w->weight[k->n - 1],
                                                 w->token[k->n - 1]))
        k->n--;
    while (k->n > 0 && w->weight[k->n - 1] == -INFINITY)
        k->n--;
    return k->n > 0 ? 0 : -EAGAIN;
}

// ---- picking ----

static int pick_best(struct pick *k)
{
    k->token = k->w->token[0];
    return 0;
}

// With top_k: the same candidates as from the row, and from there the same steps.
static int pick_of_k(struct pick *k, float scale)
{
    const struct gen_params *p = &k->s->params;
    float max = k->w->weight[0];
    uint32_t n = MIN(k->n, (uint32_t)p->top_k);
    if (n < (uint32_t)p->top_k && !k->whole)
        return -EAGAIN;
    sort_by_id(k->w, n);
    sampler_set_keys(k->w, n);
    double sum = row_exp(k->w->weight, n, max, scale);
    k->token = sampler_draw_kept(k->s, k->w, sampler_keep_mass(k->w, n, sampler_mass(p, sum)));
    return 0;
}

static double sum_of(const float *x, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += x[i];
    return sum;
}

static size_t n_sums(const struct pick *k)
{
    return DIV_UP(k->s->n_vocab, OUT_SUM_TOKENS);
}

// With top_p, min_p or both: down the ranking until there is enough, or too little left.
static int pick_of_mass(struct pick *k, float scale)
{
    const struct gen_params *p = &k->s->params;
    struct sampler_scratch *w = k->w;
    uint64_t mass = 0, target = UINT64_MAX;
    uint32_t n = 0;
    if (p->top_p < 1)
        target = sampler_mass(p, sum_of(k->t->sum, n_sums(k)));
    row_exp(w->weight, k->n, w->weight[0], scale);
    bool enough = false;
    while (n < k->n && !enough) {
        mass += mass_of(w->weight[n]);
        enough = mass >= target || w->weight[n] < p->min_p * MIN_P_SLACK;
        n++;
    }
    if (!enough && !k->whole)
        return -EAGAIN;
    sort_by_id(w, n);
    k->token = sampler_draw_kept(k->s, w, n);
    return 0;
}

// Logits of tokens [at, at + n).
static int read_logits(const struct pick *k, uint32_t at, uint32_t n, float *dst, struct err *err)
{
    const struct out_top *t = k->t;
    if (at < t->near0 || at + n > t->near0 + t->n_near)
        return k->reader->read(k->reader->ctx, at, n, dst, err);
    memcpy(dst, t->near + (at - t->near0), n * sizeof(*dst));
    return 0;
}

// From the whole vocabulary: the sums say in which block, its logits which token.
static int pick_of_all(struct pick *k, float scale, struct err *err)
{
    float logit[OUT_SUM_TOKENS], weight[OUT_SUM_TOKENS];
    const float *sum = k->t->sum;
    double u = sampler_uniform(k->s->params.seed, k->s->step);
    double target = u * sum_of(sum, n_sums(k));
    size_t b = sampler_pass(sum, n_sums(k), target);
    uint32_t at = (uint32_t)(b * OUT_SUM_TOKENS);
    uint32_t n = MIN(OUT_SUM_TOKENS, k->s->n_vocab - at);
    int rc = read_logits(k, at, n, logit, err);
    if (rc < 0)
        return rc;
    for (size_t i = 0; i < b; i++)
        target -= sum[i];
    memcpy(weight, logit, n * sizeof(*weight));
    row_exp(weight, n, k->t->logit[0], scale);
    size_t i = sampler_pass(weight, n, target);
    k->token = (int32_t)(at + i);
    k->logit = logit[i];
    return 0;
}

static int pick(struct pick *k, struct err *err)
{
    const struct gen_params *p = &k->s->params;
    float scale = sampler_scale(p);
    bool all = p->temperature > 0 && sampler_is_unfiltered(p);
    if (needs_sum(p) && !k->t->sum)
        return -EAGAIN;
    if (all)
        return pick_of_all(k, scale, err);
    int rc = load_known(k);
    if (rc == 0)
        rc = p->temperature <= 0 ? pick_best(k)
             : p->top_k > 0      ? pick_of_k(k, scale)
                                 : pick_of_mass(k, scale);
    if (rc == 0)
        k->logit = k->t->logit[find(k->t->token, k->t->n, k->token)];
    return rc;
}

// ---- logprobs ----

static int put_logprobs(const struct pick *k, struct token_logprob *ret)
{
    const struct out_top *t = k->t;
    uint32_t n_top = MIN((uint32_t)MAX(k->s->params.logprobs, 0), k->s->n_vocab);
    if (!t->sum1 || (t->n < n_top && t->logit[t->n - 1] > -INFINITY))
        return -EAGAIN;
    double lse = t->logit[0] + log(sum_of(t->sum1, n_sums(k)));
    ret->token = k->token;
    ret->logprob = (float)((double)k->logit - lse);
    ret->n_top = 0;
    for (uint32_t i = 0; i < MIN(n_top, t->n) && t->logit[i] > -INFINITY; i++) {
        ret->top[i].token = t->token[i];
        ret->top[i].logprob = (float)((double)t->logit[i] - lse);
        ret->n_top++;
    }
    return 0;
}

// ---- the outside ----

static int check(const struct out_top *t, struct err *err)
{
    if (t->nan)
        return err_set(err, -EDOM, "a logit is no number");
    return t->n > 0 ? sampler_check_max(t->logit[0], err) : -EAGAIN;
}

int sampler_pick_top(struct sampler *s, struct sampler_scratch *w, const struct out_top *t,
                     const struct row_reader *reader, int32_t *token, struct token_logprob *lp,
                     struct err *err)
{
    struct pick k = { .s = s, .w = w, .t = t, .reader = reader };
    assert(s->n_vocab == w->n_vocab && t->n <= s->n_vocab);
    int rc = check(t, err);
    if (rc == 0 && is_for_rows(s))
        rc = -EAGAIN;
    if (rc == 0)
        rc = sampler_reserve(s, err);
    if (rc == 0)
        rc = pick(&k, err);
    if (rc == 0 && lp)
        rc = put_logprobs(&k, lp);
    if (rc < 0)
        return rc;
    sampler_remember(s, k.token);
    *token = k.token;
    return 0;
}
