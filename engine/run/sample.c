// The sampler of one sequence. What makes it fast: maxima and sums of blocks of the row are taken
// in one pass, so that only blocks with candidates are looked at again; and cuts are found by the
// digits of ordered integers instead of sorting.
#include "engine/run/sample.h"
#include <errno.h>
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "base/base.h"
#include "engine/run/sample_priv.h"
#include "engine/run/sample_row.h"

// Below this the distribution is a single token, and 1 / temperature must stay finite.
#define TEMPERATURE_MIN 1e-6f

// ---- scratch ----------------------------------------------------------------------------------

int sampler_scratch_init(struct sampler_scratch *w, uint32_t n_vocab)
{
    assert(n_vocab > 0 && n_vocab <= VOCAB_MAX);
    size_t n = n_vocab, blocks = DIV_UP(n, ROW_BLOCK);
    *w = (struct sampler_scratch){
        .n_vocab = n_vocab,
        .row = malloc(n * sizeof(*w->row)),
        .block_max = malloc(blocks * sizeof(*w->block_max)),
        .block_sum = malloc(blocks * sizeof(*w->block_sum)),
        .key = malloc(n * sizeof(*w->key)),
        .weight = malloc(n * sizeof(*w->weight)),
        .token = malloc(n * sizeof(*w->token)),
        .bin_n = malloc(SAMPLER_BINS * sizeof(*w->bin_n)),
        .bin_mass = malloc(SAMPLER_BINS * sizeof(*w->bin_mass)),
    };
    if (w->row && w->block_max && w->block_sum && w->key && w->weight && w->token && w->bin_n &&
        w->bin_mass)
        return 0;
    sampler_scratch_finish(w);
    return -ENOMEM;
}

void sampler_scratch_finish(struct sampler_scratch *w)
{
    free(w->row);
    free(w->block_max);
    free(w->block_sum);
    free(w->key);
    free(w->weight);
    free(w->token);
    free(w->bin_n);
    free(w->bin_mass);
    *w = (struct sampler_scratch){0};
}

// ---- tokens seen --------------------------------------------------------------------------------

static uint64_t mix(uint64_t x)
{
    // The finaliser of splitmix64 (Steele, Lea and Flood 2014).
    x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
    return x ^ x >> 31;
}

static struct seen *seen_slot(const struct sampler_seen *t, int32_t token)
{
    uint32_t i = (uint32_t)mix((uint32_t)token) & (t->n_slots - 1);
    while (t->slot[i].token >= 0 && t->slot[i].token != token)
        i = (i + 1) & (t->n_slots - 1);
    return &t->slot[i];
}

// Makes sure that one more token fits. At most half of the slots are used.
static int seen_reserve(struct sampler_seen *t)
{
    if (2 * (t->n + 1) <= t->n_slots)
        return 0;
    struct sampler_seen bigger = { .n = t->n, .n_slots = MAX(2 * t->n_slots, 64u) };
    bigger.slot = malloc(bigger.n_slots * sizeof(*bigger.slot));
    if (!bigger.slot)
        return -ENOMEM;
    for (uint32_t i = 0; i < bigger.n_slots; i++)
        bigger.slot[i] = (struct seen){ .token = -1 };
    for (uint32_t i = 0; i < t->n_slots; i++)
        if (t->slot[i].token >= 0)
            *seen_slot(&bigger, t->slot[i].token) = t->slot[i];
    free(t->slot);
    *t = bigger;
    return 0;
}

// There must be room.
static struct seen *seen_add(struct sampler_seen *t, int32_t token)
{
    struct seen *e = seen_slot(t, token);
    if (e->token < 0) {
        e->token = token;
        t->n++;
    }
    return e;
}

static bool has_penalties(const struct gen_params *p)
{
    return p->repeat_penalty != 1 || p->frequency_penalty != 0 || p->presence_penalty != 0;
}

int sampler_reserve(struct sampler *s, struct err *err)
{
    if (has_penalties(&s->params) && seen_reserve(&s->seen) < 0)
        return err_set(err, -ENOMEM, "out of memory");
    return 0;
}

void sampler_remember(struct sampler *s, int32_t token)
{
    if (has_penalties(&s->params))
        seen_add(&s->seen, token)->generated++;
    s->step++;
}

int sampler_init(struct sampler *s, const struct gen_params *p, uint32_t n_vocab,
                 const int32_t *prompt, uint32_t n_prompt)
{
    struct sampler r = { .params = *p, .n_vocab = n_vocab };
    for (uint32_t i = 0; i < p->n_bias; i++)
        assert(p->bias[i].token >= 0 && (uint32_t)p->bias[i].token < n_vocab);
    for (uint32_t i = 0; p->repeat_penalty != 1 && i < n_prompt; i++) {
        assert(prompt[i] >= 0 && (uint32_t)prompt[i] < n_vocab);
        if (seen_reserve(&r.seen) < 0) {
            sampler_finish(&r);
            return -ENOMEM;
        }
        seen_add(&r.seen, prompt[i])->prompt = true;
    }
    *s = r;
    return 0;
}

void sampler_finish(struct sampler *s)
{
    free(s->seen.slot);
    *s = (struct sampler){0};
}

// ---- logits ----------------------------------------------------------------------------------

bool sampler_adjusts(const struct sampler *s)
{
    return s->params.n_bias > 0 || s->seen.n > 0;
}

const struct seen *sampler_find_seen(const struct sampler *s, int32_t token)
{
    const struct seen *e = s->seen.n_slots ? seen_slot(&s->seen, token) : NULL;
    return e && e->token >= 0 ? e : NULL;
}

float sampler_penalised(const struct gen_params *p, const struct seen *e, float logit)
{
    logit = logit > 0 ? logit / p->repeat_penalty : logit * p->repeat_penalty;
    logit -= (float)e->generated * p->frequency_penalty;
    return e->generated ? logit - p->presence_penalty : logit;
}

// The logits with bias and penalties: in w->row, or as they are where there are none.
static const float *adjusted(const struct sampler *s, struct sampler_scratch *w,
                             const float *logits)
{
    const struct gen_params *p = &s->params;
    if (!sampler_adjusts(s))
        return logits;
    memcpy(w->row, logits, s->n_vocab * sizeof(*w->row));
    for (uint32_t i = 0; i < p->n_bias; i++)
        w->row[p->bias[i].token] += p->bias[i].bias;
    for (uint32_t i = 0; i < s->seen.n_slots; i++) {
        const struct seen *e = &s->seen.slot[i];
        if (e->token >= 0)
            w->row[e->token] = sampler_penalised(p, e, w->row[e->token]);
    }
    return w->row;
}

int sampler_check_max(float max, struct err *err)
{
    if (isfinite(max))
        return 0;
    return err_set(err, -EDOM, max > 0 ? "a logit is infinite" : "no logit is finite");
}

// Fills w->block_max.
static int scan(struct sampler_scratch *w, const float *row, float *max, struct err *err)
{
    if (row_max(row, w->n_vocab, w->block_max, max))
        return err_set(err, -EDOM, "a logit is no number");
    return sampler_check_max(*max, err);
}

static int32_t first_at(const struct sampler_scratch *w, const float *row, float value)
{
    size_t b = 0;
    while (w->block_max[b] != value)
        b++;
    size_t i = b * ROW_BLOCK;
    while (row[i] != value)
        i++;
    return (int32_t)i;
}

// ---- candidates --------------------------------------------------------------------------------

// Integers that order as the floats do; both zeros are one.
static uint32_t key_of(float f)
{
    uint32_t bits;
    f += 0.0f;
    memcpy(&bits, &f, sizeof(bits));
    return bits ^ (bits >> 31 ? UINT32_MAX : UINT32_C(1) << 31);
}

static float float_of_key(uint32_t key)
{
    float f;
    uint32_t bits = key ^ (key >> 31 ? UINT32_C(1) << 31 : UINT32_MAX);
    memcpy(&f, &bits, sizeof(f));
    return f;
}

// Keeps keys above, and so many of the equal ones.
struct cut { uint32_t key; size_t ties; };

// The shortest list of best candidates that holds max_n of them or max_mass of weight; all of the
// candidates where neither is reached. Narrows the key down by digits: linear in n. Without a
// max_mass (UINT64_MAX) weights are not looked at.
static struct cut find_cut(const struct sampler_scratch *w, size_t n, size_t max_n,
                           uint64_t max_mass)
{
    static const struct { uint32_t shift, bins; } digit[] = {
        { 21, SAMPLER_BINS }, { 10, SAMPLER_BINS }, { 0, SAMPLER_BINS / 2 },
    };
    uint32_t known = 0, mask = 0, b = 0;
    size_t above = 0, rest = n;
    uint64_t mass = 0;
    bool weighs = max_mass < UINT64_MAX;
    assert(n > 0 && max_n > 0);
    for (size_t d = 0; d < ARRAY_LEN(digit); d++) {
        uint32_t shift = digit[d].shift, bins = digit[d].bins;
        memset(w->bin_n, 0, bins * sizeof(*w->bin_n));
        memset(w->bin_mass, 0, bins * sizeof(*w->bin_mass));
        for (size_t i = 0; i < n; i++) {
            if ((w->key[i] & mask) == known) {
                b = w->key[i] >> shift & (bins - 1);
                w->bin_n[b]++;
                w->bin_mass[b] += weighs ? mass_of(w->weight[i]) : 0;
            }
        }
        // rest counts the candidates of this digit that are not above.
        for (b = bins - 1; w->bin_n[b] < rest; b--) {
            if (w->bin_n[b] == 0)
                continue;
            if (above + w->bin_n[b] >= max_n || mass + w->bin_mass[b] >= max_mass)
                break;
            above += w->bin_n[b];
            rest -= w->bin_n[b];
            mass += w->bin_mass[b];
        }
        rest = w->bin_n[b];
        known |= b << shift;
        mask |= (bins - 1) << shift;
    }
    size_t ties = MIN(rest, max_n - above);
    uint64_t each = w->bin_mass[b] / rest;      // equal keys have equal weights
    if (each > 0)
        ties = (size_t)MIN(MAX(DIV_UP(max_mass - mass, each), 1), ties);
    return (struct cut){ known, ties };
}

// Returns how many candidates are left.
static size_t keep(struct sampler_scratch *w, size_t n, struct cut cut)
{
    size_t kept = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t key = w->key[i];
        if (key < cut.key || (key == cut.key && cut.ties == 0))
            continue;
        cut.ties -= key == cut.key;
        w->key[kept] = key;
        w->weight[kept] = w->weight[i];
        w->token[kept++] = w->token[i];
    }
    return kept;
}

static size_t keep_weight(struct sampler_scratch *w, size_t n, float min)
{
    size_t kept = 0;
    for (size_t i = 0; i < n; i++) {
        if (w->weight[i] < min)
            continue;
        w->weight[kept] = w->weight[i];
        w->token[kept++] = w->token[i];
    }
    return kept;
}

// Makes candidates, by id, of the logits from `least` up. Their weight is the logit still.
static size_t collect(struct sampler_scratch *w, const float *row, float least)
{
    size_t n = 0;
    for (size_t at = 0; at < w->n_vocab; at += ROW_BLOCK) {
        if (w->block_max[at / ROW_BLOCK] < least)
            continue;
        size_t end = MIN(at + ROW_BLOCK, (size_t)w->n_vocab);
        for (size_t i = at; i < end; i++) {
            w->key[n] = key_of(row[i]);
            w->weight[n] = row[i];
            w->token[n] = (int32_t)i;
            n += row[i] >= least;           // no branch to guess
        }
    }
    return n;
}

// A logit that at least k logits reach, and few more: the k-th largest of the blocks' largest.
static float least_of_best(struct sampler_scratch *w, size_t k)
{
    size_t blocks = DIV_UP(w->n_vocab, ROW_BLOCK);
    if (k >= blocks)
        return -FLT_MAX;
    for (size_t i = 0; i < blocks; i++)
        w->key[i] = key_of(w->block_max[i]);
    return MAX(float_of_key(find_cut(w, blocks, k, UINT64_MAX).key), -FLT_MAX);
}

// The k best by logit as candidates; their weight is the logit still.
static size_t collect_best(struct sampler_scratch *w, const float *row, size_t k)
{
    size_t n = collect(w, row, least_of_best(w, k));
    return n > k ? keep(w, n, find_cut(w, n, k, UINT64_MAX)) : n;
}

void sampler_set_keys(struct sampler_scratch *w, size_t n)
{
    for (size_t i = 0; i < n; i++)
        w->key[i] = key_of(w->weight[i]);
}

size_t sampler_keep_mass(struct sampler_scratch *w, size_t n, uint64_t mass)
{
    return mass < UINT64_MAX ? keep(w, n, find_cut(w, n, n, mass)) : n;
}

// ---- drawing ----------------------------------------------------------------------------------

double sampler_uniform(uint64_t seed, uint64_t draw)
{
    const uint64_t weyl = UINT64_C(0x9e3779b97f4a7c15);
    return (double)(mix(mix(seed + weyl) + draw * weyl) >> 11) * 0x1p-53;
}

uint64_t sampler_mass(const struct gen_params *p, double sum)
{
    return p->top_p < 1 ? (uint64_t)ceil((double)p->top_p * sum * MASS_ONE) : UINT64_MAX;
}

float sampler_scale(const struct gen_params *p)
{
    return 1 / MAX(p->temperature, TEMPERATURE_MIN);
}

bool sampler_is_unfiltered(const struct gen_params *p)
{
    return p->top_k <= 0 && p->top_p >= 1 && p->min_p <= 0;
}

size_t sampler_pass(const float *weight, size_t n, double target)
{
    double sum = 0;
    size_t last = 0;
    for (size_t i = 0; i < n; i++) {
        if (weight[i] <= 0)
            continue;
        last = i;
        sum += weight[i];
        if (sum > target)
            break;
    }
    return last;
}

// From the whole vocabulary.
static int32_t draw_all(struct sampler_scratch *w, const float *row, float max, float scale,
                        double u)
{
    float weight[ROW_BLOCK];
    size_t blocks = DIV_UP(w->n_vocab, ROW_BLOCK);
    double target = u * row_sum_exp(row, w->n_vocab, max, scale, w->block_sum);
    size_t b = sampler_pass(w->block_sum, blocks, target), at = b * ROW_BLOCK;
    size_t n = MIN((size_t)ROW_BLOCK, w->n_vocab - at);
    for (size_t i = 0; i < b; i++)
        target -= w->block_sum[i];
    memcpy(weight, row + at, n * sizeof(*weight));
    row_exp(weight, n, max, scale);
    return (int32_t)(at + sampler_pass(weight, n, target));
}

static uint64_t mass(const struct sampler_scratch *w, size_t n)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += mass_of(w->weight[i]);
    return sum;
}

// Candidates that hold all of what top_p and min_p keep of the whole vocabulary.
static size_t collect_mass(const struct gen_params *p, struct sampler_scratch *w, const float *row,
                           float max, float scale, uint64_t *target)
{
    // Below min_p nothing matters. The slack covers rounding; weights decide in the end.
    float floor = p->min_p > 0 ? logf(p->min_p) - 1e-3f : -INFINITY;
    *target = UINT64_MAX;
    if (p->top_p < 1)
        *target = sampler_mass(p, row_sum_exp(row, w->n_vocab, max, scale, w->block_sum));
    // Few tokens near the best one mostly hold enough: look further only where they do not.
    for (float depth = p->top_p < 1 ? -6 : -INFINITY;; depth *= 2) {
        float least = MAX(max + MAX(depth, floor) / scale, -FLT_MAX);
        size_t n = collect(w, row, least);
        row_exp(w->weight, n, max, scale);
        if (depth <= floor || depth < -85 || mass(w, n) >= *target)     // from there weights are 0
            return n;
    }
}

// Makes the tokens that top_k and top_p keep candidates, with weights. Returns their number, at
// least 1.
static size_t filter(const struct gen_params *p, struct sampler_scratch *w, const float *row,
                     float max, float scale)
{
    size_t n;
    uint64_t target;
    if (p->top_k > 0) {
        n = collect_best(w, row, (size_t)p->top_k);
        target = sampler_mass(p, row_exp(w->weight, n, max, scale));
    } else {
        n = collect_mass(p, w, row, max, scale, &target);
    }
    return sampler_keep_mass(w, n, target);
}

int32_t sampler_draw_kept(const struct sampler *s, struct sampler_scratch *w, size_t n)
{
    double u = sampler_uniform(s->params.seed, s->step), total = 0;
    if (s->params.min_p > 0)
        n = keep_weight(w, n, s->params.min_p);
    assert(n > 0);
    w->n_kept = (uint32_t)n;
    for (size_t i = 0; i < n; i++)
        total += w->weight[i];
    return w->token[sampler_pass(w->weight, n, u * total)];
}

static int32_t draw(const struct sampler *s, struct sampler_scratch *w, const float *row, float max)
{
    const struct gen_params *p = &s->params;
    float scale = sampler_scale(p);
    w->n_kept = w->n_vocab;
    if (sampler_is_unfiltered(p))
        return draw_all(w, row, max, scale, sampler_uniform(p->seed, s->step));
    return sampler_draw_kept(s, w, filter(p, w, row, max, scale));
}

// ---- the outside --------------------------------------------------------------------------------

// Puts a logit in its place among the best so far, the last of which falls out when there are k.
// (top[].logprob is the logit still.)
static void top_insert(struct token_logprob *t, uint32_t k, int32_t token, float logit)
{
    uint32_t j = t->n_top < k ? t->n_top++ : k - 1;
    for (; j > 0 && t->top[j - 1].logprob < logit; j--)
        t->top[j] = t->top[j - 1];
    t->top[j].token = token;
    t->top[j].logprob = logit;
}

// The k best: descending logit, then ascending id. One pass that looks only into blocks whose
// largest logit beats the worst of the best so far.
static void put_top(const struct sampler_scratch *w, const float *logits, double lse, uint32_t k,
                    struct token_logprob *ret)
{
    float least = -INFINITY;
    ret->n_top = 0;
    for (size_t at = 0; k > 0 && at < w->n_vocab; at += ROW_BLOCK) {
        if (w->block_max[at / ROW_BLOCK] <= least)
            continue;
        size_t end = MIN(at + ROW_BLOCK, (size_t)w->n_vocab);
        for (size_t i = at; i < end; i++) {
            if (logits[i] <= least)
                continue;
            top_insert(ret, k, (int32_t)i, logits[i]);
            if (ret->n_top == k)
                least = ret->top[k - 1].logprob;
        }
    }
    for (uint32_t i = 0; i < ret->n_top; i++)
        ret->top[i].logprob = (float)((double)ret->top[i].logprob - lse);
}

// After scan() of the same row, whose largest logit is max.
static void put_logprobs(struct sampler_scratch *w, const float *logits, float max, int32_t token,
                         uint32_t n_top, struct token_logprob *ret)
{
    double lse = max + log(row_sum_exp(logits, w->n_vocab, max, 1, w->block_sum));
    ret->token = token;
    ret->logprob = (float)((double)logits[token] - lse);
    put_top(w, logits, lse, n_top, ret);
}

int sampler_logprob(struct sampler_scratch *w, const float *logits, int32_t token, uint32_t n_top,
                    struct token_logprob *ret, struct err *err)
{
    float max = 0;
    assert(token >= 0 && (uint32_t)token < w->n_vocab && n_top <= LOGPROBS_MAX);
    int rc = scan(w, logits, &max, err);
    if (rc == 0)
        put_logprobs(w, logits, max, token, n_top, ret);
    return rc;
}

int sampler_pick(struct sampler *s, struct sampler_scratch *w, const float *logits, int32_t *token,
                 struct token_logprob *lp, struct err *err)
{
    float max = 0;
    assert(s->n_vocab == w->n_vocab);
    const float *row = adjusted(s, w, logits);
    int rc = sampler_reserve(s, err);
    if (rc == 0)
        rc = scan(w, row, &max, err);
    if (rc < 0)
        return rc;
    int32_t picked = s->params.temperature > 0 ? draw(s, w, row, max) : first_at(w, row, max);
    if (lp && row != logits)
        rc = scan(w, logits, &max, err);
    if (rc < 0)
        return rc;
    if (lp)
        put_logprobs(w, logits, max, picked, (uint32_t)MAX(s->params.logprobs, 0), lp);
    sampler_remember(s, picked);
    *token = picked;
    return 0;
}
