// See top.h.
#include "tests/top.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "base/base.h"
#include "engine/run/sample_row.h"

static uint32_t n_sums(uint32_t n_vocab) { return DIV_UP(n_vocab, OUT_SUM_TOKENS); }

void top_row_init(struct top_row *r, uint32_t n_vocab)
{
    r->sum = calloc(n_sums(n_vocab), sizeof *r->sum);
    r->sum1 = calloc(n_sums(n_vocab), sizeof *r->sum1);
    assert(r->sum && r->sum1);
}

void top_row_finish(struct top_row *r)
{
    free(r->sum);
    free(r->sum1);
}

// Ids ascend, so that of equal logits the first to come stays before.
static void insert(struct top_row *r, uint32_t *n, uint32_t n_max, int32_t token, float logit)
{
    if (*n == n_max && !(logit > r->logit[n_max - 1]))
        return;
    uint32_t i = *n < n_max ? (*n)++ : n_max - 1;
    for (; i > 0 && logit > r->logit[i - 1]; i--) {
        r->logit[i] = r->logit[i - 1];
        r->token[i] = r->token[i - 1];
    }
    r->logit[i] = logit;
    r->token[i] = token;
}

// The block of the draw and its neighbours.
static void pick_near(const float *row, uint32_t n_vocab, double draw, struct out_top *t)
{
    double sum = 0, total = 0;
    uint32_t b = 0;
    for (uint32_t i = 0; i < n_sums(n_vocab); i++)
        total += t->sum[i];
    while (b + 1 < n_sums(n_vocab) && (sum += t->sum[b]) <= draw * total)
        b++;
    uint32_t from = b > 0 ? (b - 1) * OUT_SUM_TOKENS : 0;
    t->near0 = from;
    t->n_near = MIN((b + 2) * OUT_SUM_TOKENS, n_vocab) - from;
    t->near = row + from;
}

void top_pick(const float *row, uint32_t n_vocab, const struct out_want *want, bool near,
              struct top_row *r, struct out_top *ret)
{
    uint32_t n = 0, n_max = MIN(want->n_top, (uint32_t)OUT_TOP_MAX);
    *ret = (struct out_top){ .token = r->token, .logit = r->logit };
    for (uint32_t i = 0; i < n_vocab; i++) {
        ret->nan |= isnan(row[i]);
        if (n_max > 0)
            insert(r, &n, n_max, (int32_t)i, row[i]);
    }
    ret->n = n;
    if (n == 0 || ret->nan || !isfinite(r->logit[0]))
        return;
    if (want->scale > 0) {
        row_sum_exp(row, n_vocab, r->logit[0], want->scale, r->sum);
        ret->sum = r->sum;
    }
    if (want->lse) {
        row_sum_exp(row, n_vocab, r->logit[0], 1, r->sum1);
        ret->sum1 = r->sum1;
    }
    if (near && ret->sum && want->draw >= 0)
        pick_near(row, n_vocab, want->draw, ret);
}

// ---- the executor -----------------------------------------------------------------------------

static const struct executor_ops *inner;
static struct executor_ops outer;
static struct batch *batch;
static const float *rows;               // (n_out, n_vocab) of the last step
static uint32_t vocab, n_rows_max;
static struct top_row *row_of;          // (n_rows_max)
static struct out_top *tops;            // (n_rows_max)
static struct top_counts counts;

static int submit(struct program *g, struct batch *b, struct err *err)
{
    batch = b;
    b->top = NULL;
    return inner->submit(g, b, err);
}

static int wait(struct program *g, uint64_t timeout_ns, struct err *err)
{
    int r = inner->wait(g, timeout_ns, err);
    if (r < 0 || !batch->want)
        return r;
    rows = batch->logits;
    for (uint32_t i = 0; i < batch->n_out; i++) {
        top_pick(rows + (size_t)i * vocab, vocab, &batch->want[i], i % 2, &row_of[i], &tops[i]);
        counts.picked += tops[i].n > 0;
    }
    batch->logits = NULL;
    batch->top = tops;
    return 0;
}

static int logits_read(struct program *g, uint32_t out, uint32_t first, uint32_t n, float *dst,
                       struct err *err)
{
    (void)g, (void)err;
    assert(out < batch->n_out && first + n <= vocab);
    memcpy(dst, rows + (size_t)out * vocab + first, n * sizeof *dst);
    counts.read_tokens += n;
    return 0;
}

void top_wrap(struct executor *x, uint32_t n_vocab, uint32_t outputs_max)
{
    inner = x->ops;
    outer = *inner;
    outer.submit = submit;
    outer.wait = wait;
    outer.logits_read = logits_read;
    vocab = n_vocab;
    n_rows_max = outputs_max;
    row_of = calloc(n_rows_max, sizeof *row_of);
    tops = calloc(n_rows_max, sizeof *tops);
    assert(row_of && tops);
    for (uint32_t i = 0; i < n_rows_max; i++)
        top_row_init(&row_of[i], vocab);
    counts = (struct top_counts){0};
    x->ops = &outer;
}

struct top_counts top_unwrap(struct executor *x)
{
    x->ops = inner;
    for (uint32_t i = 0; i < n_rows_max; i++)
        top_row_finish(&row_of[i]);
    free(row_of);
    free(tops);
    return counts;
}
