// Protects executors: row-wise operations and whole models against the oracle of ref.c, and that a
// row's result depends neither on the batch, nor on chunks, nor on threads. TEST_DEVICE names the
// device.
#include "tests/rig.h"
#include <errno.h>
#include <math.h>
#include "base/base.h"
#include "engine/exec/cpu/vec.h"

TEST_MAIN

// ---- row-wise operations ----------------------------------------------------------------------

static void check_norm(uint32_t width, uint32_t piece, uint32_t rows, bool add)
{
    struct rig r;
    struct ref ref;
    rig_init(&r, 1, 1, 8);
    r.plan.slot_width[SLOT_X] = r.plan.slot_width[SLOT_H] = width;
    struct op *op = rig_op(&r, OP_NORM);
    op->dst[0] = SLOT_H;
    op->src[0] = SLOT_X;
    op->w[0] = rig_tensor(&r, piece, 1, 0.2f, 1.0f);
    op->norm.piece = piece;
    op->norm.eps = 1e-5f;
    op->norm.scale = add ? 0.7f : 1.0f;
    op->flags = add ? OP_ADD : 0;
    rig_open(&r, 0);
    ref_init(&ref, &r.model, &r.plan, rows);
    rig_fill_slot(&r, &ref, SLOT_X, 3.0f);
    rig_fill_slot(&r, &ref, SLOT_H, 1.0f);
    rig_step_one(&r, NULL, 0, 0, rows, attn_policy_dense());
    ref_run(&ref);
    REQUIRE_BELOW(rig_slot_error(&r, &ref, SLOT_H), 4e-7);
    ref_finish(&ref);
    rig_finish(&r);
}

TEST(norm)
{
    check_norm(576, 576, 1, false);
    check_norm(576, 576, 37, true);
    check_norm(256, 64, 5, false);
    check_norm(33, 33, 3, false);
    check_norm(7, 7, 2, true);
    check_norm(60, 20, 3, true);
}

static void check_glu(enum act_kind act, uint32_t width, uint32_t rows, float scale)
{
    struct rig r;
    struct ref ref;
    rig_init(&r, 1, 1, 8);
    r.plan.slot_width[SLOT_G] = r.plan.slot_width[SLOT_U] = width;
    struct op *op = rig_op(&r, OP_GLU);
    op->dst[0] = op->src[0] = SLOT_G;
    op->src[1] = SLOT_U;
    op->glu.act = act;
    rig_open(&r, 0);
    ref_init(&ref, &r.model, &r.plan, rows);
    rig_fill_slot(&r, &ref, SLOT_G, scale);
    rig_fill_slot(&r, &ref, SLOT_U, 1.0f);
    rig_step_one(&r, NULL, 0, 0, rows, attn_policy_dense());
    ref_run(&ref);
    REQUIRE_BELOW(rig_slot_error(&r, &ref, SLOT_G), 4e-7);
    ref_finish(&ref);
    rig_finish(&r);
}

TEST(glu)
{
    for (int act = ACT_SILU; act <= ACT_GELU_TANH; act++)
        for (float scale = 0.01f; scale < 1000.0f; scale *= 10.0f) {
            check_glu((enum act_kind)act, 1536, 3, scale);
            check_glu((enum act_kind)act, 13, 2, scale);
        }
}

// Relative accuracy element by element, not only against the largest.
TEST(glu_is_accurate_where_it_is_small)
{
    struct rig r;
    enum { N = 2000 };
    static float x[N], one[N], y[N];
    for (int act = ACT_SILU; act <= ACT_GELU_TANH; act++) {
        rig_init(&r, 1, 1, 8);
        r.plan.slot_width[SLOT_G] = r.plan.slot_width[SLOT_U] = N;
        struct op *op = rig_op(&r, OP_GLU);
        op->dst[0] = op->src[0] = SLOT_G;
        op->src[1] = SLOT_U;
        op->glu.act = (enum act_kind)act;
        rig_open(&r, 0);
        for (int i = 0; i < N; i++) {
            x[i] = (float)(i - N / 2) * 0.005f;
            one[i] = 1.0f;
        }
        r.x->ops->slot_write(r.g, SLOT_G, 0, 1, x);
        r.x->ops->slot_write(r.g, SLOT_U, 0, 1, one);
        rig_step_one(&r, NULL, 0, 0, 1, attn_policy_dense());
        r.x->ops->slot_read(r.g, SLOT_G, 0, 1, y);
        for (int i = 0; i < N; i++) {
            double a = x[i], u = act == ACT_SILU ? a : 2 * sqrt(2 / acos(-1.0)) *
                                                           (a + 0.044715 * a * a * a);
            double want = a / (1 + exp(-u));
            // An exponential of a large argument turns its rounding into a relative error.
            REQUIRE_BELOW(fabs(y[i] - want), (4e-7 + 2.5e-7 * fabs(u)) * fabs(want));
        }
        rig_finish(&r);
    }
}

static void check_rope(struct rope_cfg rope, bool local, bool divisors, uint32_t dim, uint32_t rows)
{
    struct rig r;
    struct ref ref;
    rig_init(&r, 6, 2, dim);
    r.model.cfg.rope = r.model.cfg.rope_local = (struct rope_cfg){ .kind = ROPE_NONE };
    *(local ? &r.model.cfg.rope_local : &r.model.cfg.rope) = rope;
    if (divisors)
        r.model.weights.rope_freqs = rig_tensor(&r, rope.n_rot / 2, 1, 0.5f, 3.0f);
    struct op *op = rig_op(&r, OP_ROPE);
    op->dst[0] = SLOT_Q;
    op->dst[1] = SLOT_K;
    op->rope.local = local;
    rig_open(&r, 0);
    ref_init(&ref, &r.model, &r.plan, rows);
    rig_fill_slot(&r, &ref, SLOT_Q, 1.0f);
    rig_fill_slot(&r, &ref, SLOT_K, 1.0f);
    rig_step_one(&r, NULL, 0, 0, rows, attn_policy_dense());
    ref_run(&ref);
    REQUIRE_BELOW(rig_slot_error(&r, &ref, SLOT_Q), 2e-7);
    REQUIRE_BELOW(rig_slot_error(&r, &ref, SLOT_K), 2e-7);
    ref_finish(&ref);
    rig_finish(&r);
}

TEST(rope)
{
    struct rope_cfg c = { .kind = ROPE_ADJACENT, .n_rot = 64, .base = 10000, .factor = 1 };
    check_rope(c, false, false, 64, 300);
    check_rope(c, false, true, 64, 20);
    c.kind = ROPE_HALVES;
    check_rope(c, false, false, 64, 300);
    check_rope(c, true, false, 128, 3);             // n_rot < head_dim
    c.n_rot = 20;
    check_rope(c, false, false, 32, 9);
    c.n_rot = 64;
    c.scaling = ROPE_SCALING_LINEAR;
    c.factor = 8;
    check_rope(c, true, false, 64, 100);
    c.scaling = ROPE_SCALING_YARN;
    c.attn_factor = 1.1f;
    c.beta_fast = 32;
    c.beta_slow = 1;
    c.orig_ctx_tokens = 4096;
    check_rope(c, false, false, 64, 100);
    c.kind = ROPE_ADJACENT;
    check_rope(c, false, true, 128, 100);
}
// Every row-wise operation in one plan: H = norm(X), G = act(G) * U, Q and K normed by heads and
// rotated.
static void rig_rows(struct rig *r, enum act_kind act)
{
    rig_init(r, 6, 2, 64);
    uint32_t *w = r->plan.slot_width;
    w[SLOT_X] = w[SLOT_H] = 576;
    w[SLOT_G] = w[SLOT_U] = 777;
    r->model.cfg.rope = (struct rope_cfg){
        .kind = ROPE_HALVES, .n_rot = 32, .base = 1e4f, .factor = 1 };
    struct op *op = rig_op(r, OP_NORM);
    op->dst[0] = SLOT_H;
    op->src[0] = SLOT_X;
    op->w[0] = rig_tensor(r, 576, 1, 0.2f, 1.0f);
    op->norm.piece = 576;
    op->norm.eps = 1e-5f;
    op->norm.scale = 0.7f;
    op->flags = OP_ADD;
    op = rig_op(r, OP_GLU);
    op->dst[0] = op->src[0] = SLOT_G;
    op->src[1] = SLOT_U;
    op->glu.act = act;
    op = rig_op(r, OP_NORM);
    op->dst[0] = op->src[0] = SLOT_Q;
    op->w[0] = rig_tensor(r, 64, 1, 0.2f, 1.0f);
    op->norm.piece = 64;
    op->norm.eps = 1e-5f;
    op->norm.scale = 1.0f;
    op = rig_op(r, OP_ROPE);
    op->dst[0] = SLOT_Q;
    op->dst[1] = SLOT_K;
    rig_open(r, 0);
}

#define MANY 64
static const enum slot rows_slot[] = { SLOT_X, SLOT_H, SLOT_G, SLOT_U, SLOT_Q, SLOT_K };
#define ROWS_SLOTS ARRAY_LEN(rows_slot)

// Rows [row, row + n) of what x holds become the rows of a step, and y gets what they turn into.
static void run_rows(struct rig *r, float *const *x, float *const *y, uint32_t row, uint32_t n)
{
    for (size_t i = 0; i < ROWS_SLOTS; i++)
        r->x->ops->slot_write(r->g, rows_slot[i], 0, n,
                              x[i] + row * r->plan.slot_width[rows_slot[i]]);
    rig_step_one(r, NULL, 0, 1000 + row, n, attn_policy_dense());
    for (size_t i = 0; i < ROWS_SLOTS; i++)
        r->x->ops->slot_read(r->g, rows_slot[i], 0, n, y[i]);
}

static void check_row_bits(enum act_kind act)
{
    float *x[ROWS_SLOTS], *many[ROWS_SLOTS], *y[ROWS_SLOTS];
    struct rig r;
    rig_rows(&r, act);
    const uint32_t *w = r.plan.slot_width;
    for (size_t i = 0; i < ROWS_SLOTS; i++) {
        size_t n = (size_t)MANY * w[rows_slot[i]];
        x[i] = malloc(n * sizeof(float));
        many[i] = malloc(n * sizeof(float));
        y[i] = malloc(n * sizeof(float));
        for (size_t k = 0; k < n; k++)
            x[i][k] = random_float() * 2.0f;
    }
    run_rows(&r, x, many, 0, MANY);
    run_rows(&r, x, y, 0, MANY);
    for (size_t i = 0; i < ROWS_SLOTS; i++)
        REQUIRE(memcmp(many[i], y[i], (size_t)MANY * w[rows_slot[i]] * sizeof(float)) == 0);
    for (uint32_t row = 0; row < MANY; row += 21) {
        run_rows(&r, x, y, row, 1);
        for (size_t i = 0; i < ROWS_SLOTS; i++)
            REQUIRE(memcmp(many[i] + row * w[rows_slot[i]], y[i],
                           w[rows_slot[i]] * sizeof(float)) == 0);
    }
    for (size_t i = 0; i < ROWS_SLOTS; i++) {
        free(x[i]);
        free(many[i]);
        free(y[i]);
    }
    rig_finish(&r);
}

TEST(a_row_alone_twice_or_among_many)
{
    check_row_bits(ACT_SILU);
    check_row_bits(ACT_GELU_TANH);
}

// A NaN stays one, and in its row.
TEST(nan_in_a_row)
{
    enum { ROWS = 2, AT = 5 };
    static float x[ROWS * 777], y[ROWS * 777];
    for (int act = ACT_SILU; act <= ACT_GELU_TANH; act++) {
        struct rig r;
        rig_rows(&r, (enum act_kind)act);
        for (size_t i = 0; i < ROWS_SLOTS; i++) {
            uint32_t width = r.plan.slot_width[rows_slot[i]];
            for (uint32_t k = 0; k < ROWS * width; k++)
                x[k] = random_float();
            x[width + AT] = rows_slot[i] == SLOT_H || rows_slot[i] == SLOT_U ? 1.0f : NAN;
            r.x->ops->slot_write(r.g, rows_slot[i], 0, ROWS, x);
        }
        rig_step_one(&r, NULL, 0, 0, ROWS, attn_policy_dense());
        for (size_t i = 0; i < ROWS_SLOTS; i++) {
            uint32_t width = r.plan.slot_width[rows_slot[i]];
            r.x->ops->slot_read(r.g, rows_slot[i], 0, ROWS, y);
            REQUIRE(isnan(y[width + AT]) == (rows_slot[i] != SLOT_U));
            for (uint32_t k = 0; k < width; k++)
                REQUIRE(!isnan(y[k]));
        }
        rig_finish(&r);
    }
}

// ---- a whole model ----------------------------------------------------------------------------

#define VOCAB 131

struct shape {
    uint32_t layers, width, heads, kv_heads, dim, ff, window;
    bool qk_norm, post_norms, bias, tied;
    float softcap;
};

static void random_layer(struct rig *r, const struct shape *s, struct layer_weights *w)
{
    float in = 1.0f / sqrtf((float)s->width), ff = 1.0f / sqrtf((float)s->ff);
    uint32_t q = s->heads * s->dim, kv = s->kv_heads * s->dim;
    *w = (struct layer_weights){
        .attn_norm = rig_tensor(r, s->width, 1, 0.1f, 1.0f),
        .q = rig_tensor(r, s->width, q, in, 0), .k = rig_tensor(r, s->width, kv, in, 0),
        .v = rig_tensor(r, s->width, kv, in, 0),
        .attn_out = rig_tensor(r, q, s->width, in, 0),
        .ff_norm = rig_tensor(r, s->width, 1, 0.1f, 1.0f),
        .ff_gate = rig_tensor(r, s->width, s->ff, in, 0),
        .ff_up = rig_tensor(r, s->width, s->ff, in, 0),
        .ff_down = rig_tensor(r, s->ff, s->width, ff, 0),
    };
    if (s->bias) {
        w->q_bias = rig_tensor(r, q, 1, 0.3f, 0);
        w->k_bias = rig_tensor(r, kv, 1, 0.3f, 0);
        w->v_bias = rig_tensor(r, kv, 1, 0.3f, 0);
    }
    if (s->qk_norm) {
        w->q_norm = rig_tensor(r, s->dim, 1, 0.1f, 1.0f);
        w->k_norm = rig_tensor(r, s->dim, 1, 0.1f, 1.0f);
    }
    if (s->post_norms) {
        w->attn_post_norm = rig_tensor(r, s->width, 1, 0.1f, 1.0f);
        w->ff_post_norm = rig_tensor(r, s->width, 1, 0.1f, 1.0f);
    }
}

// A model through plan_build.
static void rig_model(struct rig *r, const struct shape *s, struct layer_weights *layer)
{
    struct err err;
    struct plan *plan;
    rig_init(r, s->heads, s->kv_heads, s->dim);
    struct model_cfg *c = &r->model.cfg;
    c->n_layers = s->layers;
    c->width = s->width;
    c->ff_width = s->ff;
    c->n_vocab = VOCAB;
    c->norm_eps = 1e-6f;
    c->rope = (struct rope_cfg){ .kind = ROPE_HALVES, .n_rot = s->dim, .base = 1e4f, .factor = 1 };
    c->rope_local = c->rope;
    c->rope_local.base = 1e3f;
    c->window = s->window;
    c->window_period = 2;
    c->embed_scale = 1.5f;
    c->attn_scale = 1.0f / sqrtf((float)s->dim);
    c->residual_scale = 0.9f;
    c->logit_scale = 0.8f;
    c->logit_softcap = s->softcap;
    c->act = s->post_norms ? ACT_GELU_TANH : ACT_SILU;
    c->qk_norm = s->qk_norm;
    c->post_norms = s->post_norms;
    struct weights *w = &r->model.weights;
    w->embed = rig_tensor(r, s->width, c->n_vocab, 1.0f, 0);
    w->out = s->tied ? w->embed : rig_tensor(r, s->width, c->n_vocab, 0.2f, 0);
    w->out_norm = rig_tensor(r, s->width, 1, 0.1f, 1.0f);
    w->layer = layer;
    for (uint32_t i = 0; i < s->layers; i++)
        random_layer(r, s, &layer[i]);
    REQUIRE_OK(plan_build(&plan, c, w, &err), err);
    REQUIRE(plan->n_ops <= RIG_OPS_MAX);
    memcpy(r->op, plan->op, plan->n_ops * sizeof(struct op));
    r->plan = *plan;
    r->plan.op = r->op;
    plan_free(plan);
}

// Logits of the last row of every chunk, in order.
static void run_model(struct rig *r, const int32_t *token, uint32_t n, const uint32_t *chunk,
                      uint32_t n_chunks, float *logits, uint32_t *n_logits)
{
    uint32_t table[16], n_vocab = r->model.cfg.n_vocab;
    table_fill(table, 0, DIV_UP(n, KV_BLOCK_TOKENS));
    *n_logits = 0;
    for (uint32_t pos = 0, i = 0, rows; pos < n; pos += rows, i++) {
        rows = MIN(chunk[i % n_chunks], n - pos);
        uint32_t out = rows - 1;
        struct batch_seq seq = {
            .block = table, .n_blocks = DIV_UP(n, KV_BLOCK_TOKENS), .n_rows = rows, .pos0 = pos,
        };
        struct batch b = {
            .n_rows = rows, .n_seqs = 1, .n_out = 1, .token = token + pos, .seq = &seq,
            .out_row = &out,
        };
        rig_step(r, &b);
        memcpy(logits + (size_t)(*n_logits)++ * n_vocab, b.logits, n_vocab * sizeof(float));
    }
}

static void check_model(const struct shape *s, double limit)
{
    static const uint32_t whole[] = { 200 }, odd[] = { 100, 1, 1, 98 };
    enum { N = 200 };
    static float a[4 * VOCAB], b[4 * VOCAB];
    struct layer_weights layer[2];
    struct rig r;
    struct ref ref;
    int32_t token[N];
    uint32_t n, last = N - 1;
    rig_model(&r, s, layer);
    rig_open(&r, 8);
    for (int i = 0; i < N; i++)
        token[i] = (int32_t)((uint32_t)i * 2654435761u >> 8) % VOCAB;
    ref_init(&ref, &r.model, &r.plan, N);
    ref.token = token;
    ref.out_row = &last;
    ref.n_out = 1;
    ref_run(&ref);
    run_model(&r, token, N, whole, 1, a, &n);
    REQUIRE_BELOW(ref_error(a, ref.logits, VOCAB), limit);
    run_model(&r, token, N, odd, 4, b, &n);
    REQUIRE(memcmp(a, b + 3 * VOCAB, VOCAB * sizeof(float)) == 0);
    for (uint32_t threads = 1; rig_is_cpu() && threads <= 3; threads += 2) {
        rig_close(&r);
        r.threads = threads;
        rig_open(&r, 8);
        run_model(&r, token, N, odd, 4, b, &n);
        REQUIRE(memcmp(a, b + 3 * VOCAB, VOCAB * sizeof(float)) == 0);
    }
    ref_finish(&ref);
    rig_finish(&r);
}

TEST(whole_models)
{
    static const struct shape llama = { 2, 96, 6, 2, 16, 160, 0, .tied = true };
    static const struct shape qwen = { 2, 64, 4, 1, 32, 96, 0, .bias = true };
    static const struct shape gemma = {
        2, 64, 4, 1, 32, 96, 70, .qk_norm = true, .post_norms = true, .tied = true,
        .softcap = 3.0f,
    };
    check_model(&llama, 4e-6);
    check_model(&qwen, 4e-6);
    check_model(&gemma, 4e-6);
}
#define SEQS 40                         // the last one is a prompt

static uint32_t seq_tokens(uint32_t i)
{
    return i == SEQS - 1 ? 90 : 1 + i * 3;
}

static int32_t seq_token(uint32_t i, uint32_t pos)
{
    return (int32_t)((i * 64 + pos) * 2654435761u >> 8) % VOCAB;
}

// The last token of sequence i as if it had been generated, or for a prompt all of them.
static struct batch_seq last_rows(uint32_t i, const uint32_t *table, int32_t *token)
{
    uint32_t n = seq_tokens(i);
    struct batch_seq s = {
        .block = table + 2 * i, .n_blocks = 2, .n_rows = i == SEQS - 1 ? n : 1,
        .decode = i != SEQS - 1,
    };
    s.pos0 = n - s.n_rows;
    for (uint32_t k = 0; k < s.n_rows; k++)
        token[k] = seq_token(i, s.pos0 + k);
    return s;
}

static void prefill(struct rig *r, uint32_t i, const uint32_t *table)
{
    int32_t token[RIG_ROWS_MAX];
    struct batch_seq s = { .block = table + 2 * i, .n_blocks = 2, .n_rows = seq_tokens(i) - 1 };
    struct batch b = { .n_rows = s.n_rows, .n_seqs = 1, .seq = &s, .token = token };
    for (uint32_t k = 0; k < s.n_rows; k++)
        token[k] = seq_token(i, k);
    if (s.n_rows && i != SEQS - 1)
        rig_step(r, &b);
}

// All sequences in one batch; logits (SEQS, VOCAB).
static void run_all(struct rig *r, const uint32_t *table, float *logits)
{
    int32_t token[RIG_ROWS_MAX];
    uint32_t out[SEQS], n = 0;
    struct batch_seq seq[SEQS];
    for (uint32_t i = 0; i < SEQS; i++) {
        seq[i] = last_rows(i, table, token + n);
        seq[i].row0 = n;
        n += seq[i].n_rows;
        out[i] = n - 1;
    }
    struct batch b = {
        .n_rows = n, .n_seqs = SEQS, .n_out = SEQS, .token = token, .seq = seq, .out_row = out,
    };
    rig_step(r, &b);
    memcpy(logits, b.logits, sizeof(float) * SEQS * VOCAB);
}

// Logits of many sequences in one batch, generating and prompt, are each one's alone.
static void check_batch(const struct shape *s, bool fast)
{
    static float alone[SEQS * VOCAB], all[SEQS * VOCAB], again[SEQS * VOCAB];
    struct layer_weights layer[2];
    struct rig r;
    uint32_t table[2 * SEQS];
    rig_model(&r, s, layer);
    r.fast = fast;
    table_fill(table, 0, 2 * SEQS);
    rig_open(&r, 2 * SEQS);
    for (uint32_t i = 0; i < SEQS; i++) {
        int32_t token[RIG_ROWS_MAX];
        prefill(&r, i, table);
        struct batch_seq seq = last_rows(i, table, token);
        uint32_t out = seq.n_rows - 1;
        struct batch b = {
            .n_rows = seq.n_rows, .n_seqs = 1, .n_out = 1, .token = token, .seq = &seq,
            .out_row = &out,
        };
        rig_step(&r, &b);
        memcpy(alone + i * VOCAB, b.logits, sizeof(float) * VOCAB);
    }
    run_all(&r, table, all);
    run_all(&r, table, again);
    REQUIRE(memcmp(all, again, sizeof(all)) == 0);
    for (uint32_t i = 0; i < SEQS; i++)
        if (memcmp(all + i * VOCAB, alone + i * VOCAB, sizeof(float) * VOCAB))
            TEST_FAIL("sequence %u of %u", i, SEQS);
    rig_finish(&r);
}

TEST(a_sequence_alone_twice_or_among_many)
{
    static const struct shape llama = { 2, 96, 6, 2, 16, 160, 0, .tied = true };
    static const struct shape gemma = {
        2, 64, 4, 1, 32, 96, 70, .qk_norm = true, .post_norms = true, .softcap = 3.0f,
    };
    check_batch(&llama, false);
    check_batch(&gemma, false);
    check_batch(&llama, true);
}

// The same program without AVX2: what other processors run.
TEST(portable_kernels)
{
    struct rope_cfg rope = { .kind = ROPE_HALVES, .n_rot = 32, .base = 1e4f, .factor = 1 };
    if (!rig_is_cpu())
        SKIP("kernels of the CPU executor");
    REQUIRE_INT(vec_force("no such"), -ENOTSUP);
    REQUIRE_INT(vec_force("portable"), 0);
    rig_forget();
    check_norm(60, 20, 3, true);
    check_glu(ACT_SILU, 77, 2, 3.0f);
    check_glu(ACT_GELU_TANH, 77, 2, 3.0f);
    check_rope(rope, false, false, 32, 5);
    REQUIRE_INT(vec_force(NULL), 0);
    rig_forget();
}

// ---- the rest ---------------------------------------------------------------------------------

static int stop_at_once(void *ctx, uint64_t done_bytes, uint64_t total_bytes)
{
    (void)done_bytes, (void)total_bytes;
    ++*(int *)ctx;
    return 1;
}

static int watch(void *ctx, uint64_t done_bytes, uint64_t total_bytes)
{
    REQUIRE(done_bytes <= total_bytes);
    *(uint64_t *)ctx = total_bytes - done_bytes;
    return 0;
}

TEST(load_tells_its_progress_and_stops)
{
    static const struct shape s = { 1, 64, 2, 1, 32, 96, 0 };
    struct layer_weights layer[1];
    struct rig r;
    struct err err;
    uint64_t left = 1;
    int calls = 0;
    rig_model(&r, &s, layer);
    struct load_params lp = {
        .rows_max = 4, .seqs_max = 1, .outputs_max = 1, .progress = stop_at_once,
        .progress_ctx = &calls,
    };
    r.fast = true;
    r.x = rig_executor(&r);
    REQUIRE_INT(r.x->ops->load(r.x, &r.model, &r.plan, &lp, &r.g, &err), -ECANCELED);
    REQUIRE(!r.g && calls >= 1);
    lp.progress = watch;
    lp.progress_ctx = &left;
    REQUIRE_OK(r.x->ops->load(r.x, &r.model, &r.plan, &lp, &r.g, &err), err);
    REQUIRE_INT(left, 0);
    char text[400];
    r.x->ops->describe(r.x, text, sizeof(text));
    const char *start = rig_is_cpu() ? "cpu: 2 threads, " : "vulkan: ";
    REQUIRE(strncmp(text, start, strlen(start)) == 0);
    rig_finish(&r);
}
