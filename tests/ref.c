// See ref.h. Written from the formulas, for reading; speed is no concern.
#include "tests/ref.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "base/base.h"

#define BLOCK KV_BLOCK_TOKENS

void ref_init(struct ref *r, const struct model *m, const struct plan *plan, uint32_t n)
{
    const struct model_cfg *c = &m->cfg;
    size_t kv = (size_t)MAX(c->n_layers, 1u) * n * c->n_kv_heads * c->head_dim;
    *r = (struct ref){ .model = m, .plan = plan, .n = n };
    for (unsigned s = 0; s < SLOT_COUNT; s++)
        r->slot[s] = calloc((size_t)n * plan->slot_width[s] + 1, sizeof(double));
    r->k = calloc(kv + 1, sizeof(double));
    r->v = calloc(kv + 1, sizeof(double));
    r->weight = calloc(n + 1, sizeof(double));
    r->score = calloc(n + 1, sizeof(double));
    r->one = calloc(n + 1, sizeof(double));
    r->read = calloc(n + 1, sizeof(bool));
}

void ref_finish(struct ref *r)
{
    for (unsigned s = 0; s < SLOT_COUNT; s++)
        free(r->slot[s]);
    free(r->k);
    free(r->v);
    free(r->logits);
    free(r->weight);
    free(r->score);
    free(r->one);
    free(r->read);
}

static double *row(struct ref *r, unsigned slot, uint32_t i)
{
    return r->slot[slot] + (size_t)i * r->plan->slot_width[slot];
}

static float *decoded(const struct tensor *t)
{
    size_t n = (size_t)(t->dim[0] * t->dim[1]);
    float *p = malloc(n * sizeof(float));
    t->quant->decode(t->data, n, p);
    return p;
}

static void run_embed(struct ref *r, const struct op *op)
{
    float *w = decoded(op->w[0]);
    size_t width = (size_t)op->w[0]->dim[0];
    for (uint32_t i = 0; i < r->n; i++)
        for (size_t k = 0; k < width; k++)
            row(r, op->dst[0], i)[k] = w[(size_t)r->token[i] * width + k] * (double)op->embed.scale;
    free(w);
}

static void run_norm(struct ref *r, const struct op *op, uint32_t n)
{
    float *w = decoded(op->w[0]);
    uint32_t width = r->plan->slot_width[op->src[0]], piece = op->norm.piece;
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t p = 0; p < width; p += piece) {
            double *x = row(r, op->src[0], i) + p, *y = row(r, op->dst[0], i) + p, sum = 0;
            for (uint32_t k = 0; k < piece; k++)
                sum += x[k] * x[k];
            double scale = 1 / sqrt(sum / piece + (double)op->norm.eps);
            for (uint32_t k = 0; k < piece; k++) {
                double result = x[k] * scale * w[k];
                y[k] = op->flags & OP_ADD ? y[k] + result * (double)op->norm.scale
                                          : result * (double)op->norm.scale;
            }
        }
    free(w);
}

static void multiply(const struct tensor *t, const struct tensor *bias, const double *x, double *y)
{
    float *w = decoded(t), *b = bias ? decoded(bias) : NULL;
    for (size_t o = 0; o < t->dim[1]; o++) {
        double sum = b ? b[o] : 0;
        for (size_t k = 0; k < t->dim[0]; k++)
            sum += w[o * t->dim[0] + k] * x[k];
        y[o] = sum;
    }
    free(w);
    free(b);
}

static void run_matmul(struct ref *r, const struct op *op, uint32_t n)
{
    for (unsigned m = 0; m < op->n_w; m++) {
        size_t n_out = (size_t)op->w[m]->dim[1];
        double *y = malloc(n_out * sizeof(double));
        for (uint32_t i = 0; i < n; i++) {
            double *dst = row(r, op->dst[m], i);
            multiply(op->w[m], op->bias[m], row(r, op->src[0], i), y);
            for (size_t o = 0; o < n_out; o++)
                dst[o] = op->flags & OP_ADD ? dst[o] + y[o] * (double)op->matmul.scale : y[o];
        }
        free(y);
    }
}

static double rope_frequency(const struct rope_cfg *c, const float *divisor, uint32_t i)
{
    const double pi = acos(-1.0), n = c->n_rot;
    double f = pow((double)c->base, -2.0 * i / n) / (divisor ? divisor[i] : 1.0);
    if (c->scaling == ROPE_SCALING_LINEAR)
        return f / (double)c->factor;
    if (c->scaling == ROPE_SCALING_NONE)
        return f;
    double corr[2];
    const double beta[2] = { c->beta_fast, c->beta_slow };
    for (int k = 0; k < 2; k++)
        corr[k] = n * log(c->orig_ctx_tokens / (2 * pi * beta[k])) / (2 * log((double)c->base));
    double low = fmax(0, floor(corr[0])), high = fmin(n - 1, ceil(corr[1]));
    double y = (i - low) / fmax(0.001, high - low), mix = 1 - fmin(fmax(y, 0), 1);
    return f / (double)c->factor * (1 - mix) + f * mix;
}

static void run_rope(struct ref *r, const struct op *op)
{
    const struct model_cfg *c = &r->model->cfg;
    const struct rope_cfg *rope = op->rope.local ? &c->rope_local : &c->rope;
    const struct tensor *t = r->model->weights.rope_freqs;
    float *divisor = t ? decoded(t) : NULL;
    uint32_t half = rope->n_rot / 2;
    double size = rope->scaling == ROPE_SCALING_YARN
                      ? (double)rope->attn_factor * (1 + 0.1 * log((double)rope->factor)) : 1;
    for (uint32_t pos = 0; pos < r->n; pos++)
        for (unsigned d = 0; d < 2; d++)
            for (uint32_t h = 0; h < (d ? c->n_kv_heads : c->n_heads); h++)
                for (uint32_t i = 0; i < half; i++) {
                    double *x = row(r, op->dst[d], pos) + h * c->head_dim;
                    bool adjacent = rope->kind == ROPE_ADJACENT;
                    double *a = &x[adjacent ? 2 * i : i], *b = &x[adjacent ? 2 * i + 1 : i + half];
                    double angle = pos * rope_frequency(rope, divisor, i), a0 = *a, b0 = *b;
                    *a = (a0 * cos(angle) - b0 * sin(angle)) * size;
                    *b = (a0 * sin(angle) + b0 * cos(angle)) * size;
                }
    free(divisor);
}

// ---- KV and attention -------------------------------------------------------------------------

static double as_half(double x)
{
    return f16_to_f32(f32_to_f16((float)x));
}

double ref_kv_value(enum kv_type t, const double *group, uint32_t i)
{
    if (t == KV_F32)
        return (float)group[i];
    if (t == KV_F16)
        return as_half(group[i]);
    double largest = 0;
    for (int k = 0; k < KV_Q8_GROUP; k++)
        largest = fmax(largest, fabs(group[k]));
    double scale = as_half(largest / 127);
    return scale > 0 ? scale * fmin(fmax(rint(group[i] / scale), -127), 127) : 0;
}

static double *kv_row(const struct ref *r, double *kv, uint32_t layer, uint32_t pos, uint32_t head)
{
    const struct model_cfg *c = &r->model->cfg;
    return kv + (((size_t)layer * r->n + pos) * c->n_kv_heads + head) * c->head_dim;
}

static void store_rows(struct ref *r, enum kv_type type, double *kv, const struct op *op,
                       unsigned slot)
{
    const struct model_cfg *c = &r->model->cfg;
    for (uint32_t pos = 0; pos < r->n; pos++)
        for (uint32_t h = 0; h < c->n_kv_heads; h++)
            for (uint32_t d = 0; d < c->head_dim; d++) {
                uint32_t first = type == KV_Q8_0 ? d - d % KV_Q8_GROUP : d;
                const double *src = row(r, slot, pos) + h * c->head_dim + first;
                kv_row(r, kv, op->layer, pos, h)[d] = ref_kv_value(type, src, d - first);
            }
}

static double dot(const double *a, const double *b, uint32_t n)
{
    double sum = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += a[i] * b[i];
    return sum;
}

static void softmax(double *x, uint32_t n)
{
    double largest = -INFINITY, sum = 0;
    for (uint32_t i = 0; i < n; i++)
        largest = fmax(largest, x[i]);
    for (uint32_t i = 0; i < n; i++)
        sum += x[i] = exp(x[i] - largest);
    for (uint32_t i = 0; i < n; i++)
        x[i] /= sum;
}

// Score of every block before the row's local ones, by its half-precision mean key.
static void score_blocks(struct ref *r, const struct op *op, uint32_t pos, uint32_t kv_head,
                         uint32_t sink, uint32_t n, double *score)
{
    const struct model_cfg *c = &r->model->cfg;
    uint32_t group = c->n_heads / c->n_kv_heads;
    double mean[HEAD_DIM_MAX], *one = r->one;
    memset(score, 0, n * sizeof(double));
    for (uint32_t h = 0; h < group; h++) {
        const double *q = row(r, op->src[0], pos) + (kv_head * group + h) * c->head_dim;
        for (uint32_t b = 0; b < n; b++) {
            for (uint32_t d = 0; d < c->head_dim; d++) {
                mean[d] = 0;
                for (uint32_t j = 0; j < BLOCK; j++)
                    mean[d] += kv_row(r, r->k, op->layer, (sink + b) * BLOCK + j, kv_head)[d];
                mean[d] = as_half(mean[d] / BLOCK);
            }
            one[b] = dot(q, mean, c->head_dim) * (double)op->attn.scale;
        }
        softmax(one, n);
        for (uint32_t b = 0; b < n; b++)
            score[b] += one[b];
    }
}

// Marks the blocks that a row reads.
static void select_blocks(struct ref *r, const struct op *op, uint32_t pos, uint32_t kv_head,
                          bool *read)
{
    uint32_t held = pos / BLOCK + 1;
    for (uint32_t b = 0; b < held; b++)
        read[b] = true;
    if (op->attn.window || r->attn.selector != SELECT_topk || r->attn.budget_tokens > pos)
        return;
    uint32_t sink = MAX(1u, DIV_UP(r->attn.sink_tokens, BLOCK));
    uint32_t budget = r->attn.budget_tokens / BLOCK, local = MAX(2u, budget / 4);
    if (MAX(budget, sink + local) >= held)
        return;
    uint32_t chosen = MAX(budget, sink + local) - sink - local, n = held - sink - local;
    double *score = r->score;
    score_blocks(r, op, pos, kv_head, sink, n, score);
    for (uint32_t b = 0; b < n; b++)
        read[sink + b] = false;
    for (uint32_t i = 0; i < chosen; i++) {
        uint32_t best = 0;
        for (uint32_t b = 1; b < n; b++)
            if (score[b] > score[best])
                best = b;
        read[sink + best] = true;
        score[best] = -1;
    }
}

static bool token_visible(const struct ref *r, const struct op *op, uint32_t pos, uint32_t j)
{
    if (op->attn.window)
        return pos - j < op->attn.window;
    if (r->attn.selector == SELECT_window)
        return j < r->attn.sink_tokens || pos - j < r->attn.window_tokens;
    return true;
}

static void attend_head(struct ref *r, const struct op *op, uint32_t pos, uint32_t head,
                        const bool *read)
{
    const struct model_cfg *c = &r->model->cfg;
    uint32_t kv_head = head / (c->n_heads / c->n_kv_heads);
    const double *q = row(r, op->src[0], pos) + head * c->head_dim;
    double *o = row(r, op->dst[0], pos) + head * c->head_dim, *p = r->weight;
    for (uint32_t j = 0; j <= pos; j++) {
        double s = dot(q, kv_row(r, r->k, op->layer, j, kv_head), c->head_dim) *
                   (double)op->attn.scale, cap = (double)op->attn.softcap;
        s = cap > 0 ? cap * tanh(s / cap) : s;
        p[j] = read[j / BLOCK] && token_visible(r, op, pos, j) ? s : -INFINITY;
    }
    softmax(p, pos + 1);
    memset(o, 0, c->head_dim * sizeof(double));
    for (uint32_t j = 0; j <= pos; j++)
        for (uint32_t d = 0; d < c->head_dim; d++)
            o[d] += p[j] * kv_row(r, r->v, op->layer, j, kv_head)[d];
}

static void run_attn(struct ref *r, const struct op *op)
{
    const struct model_cfg *c = &r->model->cfg;
    uint32_t group = c->n_heads / c->n_kv_heads;
    for (uint32_t pos = 0; pos < r->n; pos++)
        for (uint32_t g = 0; g < c->n_kv_heads; g++) {
            uint32_t held = pos / BLOCK + 1;
            bool *read = r->read;
            select_blocks(r, op, pos, g, read);
            for (uint32_t b = 0; b < held; b++) {
                bool any = false;
                for (uint32_t j = b * BLOCK; j < (b + 1) * BLOCK && j <= pos; j++)
                    any |= token_visible(r, op, pos, j);
                r->blocks_read += read[b] && any;
            }
            r->blocks_held += held;
            for (uint32_t h = 0; h < group; h++)
                attend_head(r, op, pos, g * group + h, read);
        }
}

static void run_glu(struct ref *r, const struct op *op)
{
    const double pi = acos(-1.0);
    for (size_t i = 0; i < (size_t)r->n * r->plan->slot_width[op->dst[0]]; i++) {
        double x = r->slot[op->src[0]][i];
        double act = op->glu.act == ACT_SILU
                         ? x / (1 + exp(-x))
                         : x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x * x * x)));
        r->slot[op->dst[0]][i] = act * r->slot[op->src[1]][i];
    }
}

static void run_gather(struct ref *r, const struct op *op)
{
    for (unsigned k = 0; k < op->n_w; k++)
        for (uint32_t i = 0; i < r->n_out; i++)
            memcpy(row(r, op->dst[k], i), row(r, op->src[k], r->out_row[i]),
                   r->plan->slot_width[op->dst[k]] * sizeof(double));
}

static void run_logits(struct ref *r, const struct op *op)
{
    size_t n_vocab = (size_t)op->w[0]->dim[1];
    double cap = (double)op->logits.softcap;
    r->logits = malloc(r->n_out * n_vocab * sizeof(double) + 1);
    for (uint32_t i = 0; i < r->n_out; i++)
        multiply(op->w[0], op->bias[0], row(r, op->src[0], i), r->logits + i * n_vocab);
    for (size_t i = 0; i < r->n_out * n_vocab; i++) {
        double x = r->logits[i] * (double)op->logits.scale;
        r->logits[i] = cap > 0 ? cap * tanh(x / cap) : x;
    }
}

void ref_run(struct ref *r)
{
    uint32_t n = r->n;                  // rows of norm and matmul: fewer after the gather
    for (uint32_t i = 0; i < r->plan->n_ops; i++) {
        const struct op *op = &r->plan->op[i];
        switch (op->kind) {
        case OP_EMBED: run_embed(r, op); break;
        case OP_NORM: run_norm(r, op, n); break;
        case OP_MATMUL: run_matmul(r, op, n); break;
        case OP_ROPE: run_rope(r, op); break;
        case OP_KV_WRITE:
            store_rows(r, r->k_type, r->k, op, op->src[0]);
            store_rows(r, r->v_type, r->v, op, op->src[1]);
            break;
        case OP_ATTN: run_attn(r, op); break;
        case OP_GLU: run_glu(r, op); break;
        case OP_GATHER: run_gather(r, op); n = r->n_out; break;
        case OP_LOGITS: run_logits(r, op); break;
        case OP_QKV_STORE:              // the oracle runs plans as they were built
        case OP_KIND_COUNT: break;
        }
    }
}

double ref_error(const float *got, const double *want, size_t n)
{
    double error = 0, largest = 1e-30;
    for (size_t i = 0; i < n; i++) {
        double e = fabs(got[i] - want[i]);
        error = e > error || isnan(e) ? e : error;
        largest = fmax(largest, fabs(want[i]));
    }
    return isnan(error) ? INFINITY : error / largest;
}
