// Protects the CPU executor: every operation against the oracle of ref.c, KV in blocks, and that a
// row's result depends neither on the batch, nor on chunks, nor on threads.
#include "tests/test.h"
#include <errno.h>
#include <math.h>
#include "base/base.h"
#include "engine/exec/cpu/vec.h"
#include "engine/exec/executor.h"
#include "tests/ref.h"

TEST_MAIN

#define ROWS_MAX 1024
#define OPS_MAX 64
#define TENSORS_MAX 32
#define THREADS_DEFAULT 2

// ---- a small model by hand --------------------------------------------------------------------

struct rig {
    struct model  model;
    struct plan   plan;
    struct op     op[OPS_MAX];
    struct tensor tensor[TENSORS_MAX];
    uint32_t      n_tensors;
    uint32_t      threads;              // 0: THREADS_DEFAULT
    bool          fast;                 // not exact
    enum kv_type  k_type, v_type;

    struct executor *x;
    struct program  *g;
    struct kv_layout layout;
    uint32_t         n_blocks;
};

static uint32_t seed = 1;

static float random_float(void)
{
    float sum = 0;                      // about a normal distribution
    for (int i = 0; i < 4; i++) {
        seed = seed * 1664525 + 1013904223;
        sum += (float)(seed >> 8) / 8388608.0f - 1.0f;
    }
    return sum * 0.87f;
}

static const struct tensor *add_tensor(struct rig *r, uint32_t n_in, uint32_t n_out, float scale,
                                       float offset)
{
    struct tensor *t = &r->tensor[r->n_tensors++];
    size_t n = (size_t)n_in * n_out;
    float *p = malloc(n * sizeof(float));
    REQUIRE(r->n_tensors <= TENSORS_MAX && p);
    for (size_t i = 0; i < n; i++)
        p[i] = random_float() * scale + offset;
    *t = (struct tensor){
        .name = "test", .quant = &quants[QUANT_f32], .dim = { n_in, n_out, 1, 1 }, .n_dims = 2,
        .data = p, .bytes = n * sizeof(float),
    };
    return t;
}

static struct op *add_op(struct rig *r, enum op_kind kind)
{
    REQUIRE(r->plan.n_ops < OPS_MAX);
    struct op *op = &r->op[r->plan.n_ops++];
    *op = (struct op){ .kind = kind };
    r->plan.op = r->op;
    return op;
}

// A rig with heads and no operations yet.
static void rig_init(struct rig *r, uint32_t heads, uint32_t kv_heads, uint32_t dim)
{
    *r = (struct rig){ .k_type = KV_F32, .v_type = KV_F32 };
    struct model_cfg *c = &r->model.cfg;
    c->n_layers = 1;
    c->n_heads = heads;
    c->n_kv_heads = kv_heads;
    c->head_dim = dim;
    c->n_vocab = 50;
    uint32_t *w = r->plan.slot_width;
    w[SLOT_Q] = w[SLOT_A] = heads * dim;
    w[SLOT_K] = w[SLOT_V] = kv_heads * dim;
}

static void rig_close(struct rig *r)
{
    if (r->g)
        r->x->ops->unload(r->g);
    if (r->x)
        r->x->ops->close(r->x);
    r->g = NULL;
    r->x = NULL;
}

static void rig_finish(struct rig *r)
{
    rig_close(r);
    for (uint32_t i = 0; i < r->n_tensors; i++)
        free((void *)(uintptr_t)r->tensor[i].data);
}

static void rig_open(struct rig *r, uint32_t n_blocks)
{
    struct err err;
    struct executor_params xp = {
        .threads = r->threads ? r->threads : THREADS_DEFAULT, .exact = !r->fast,
    };
    struct load_params lp = {
        .rows_max = ROWS_MAX, .seqs_max = 64, .outputs_max = ROWS_MAX, .k_type = r->k_type,
        .v_type = r->v_type,
    };
    r->plan.op = r->op;
    REQUIRE_OK(executor_cpu.open(&r->x, &xp, &err), err);
    REQUIRE_OK(r->x->ops->load(r->x, &r->model, &r->plan, &lp, &r->g, &err), err);
    r->n_blocks = n_blocks;
    if (n_blocks)
        REQUIRE_OK(r->x->ops->kv_alloc(r->g, n_blocks, &r->layout, &err), err);
}

// Blocks of a sequence in an order that is not theirs: table[i] = first + (i * 7) % n.
static void make_table(uint32_t *table, uint32_t first, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        table[i] = first + (n % 7 ? i * 7 % n : i);
}

static void step(struct rig *r, struct batch *b)
{
    struct err err;
    REQUIRE_OK(r->x->ops->submit(r->g, b, &err), err);
    REQUIRE_OK(r->x->ops->wait(r->g, UINT64_MAX, &err), err);
}

// Rows [0, n) as one sequence at pos0.
static struct batch_seq step_one(struct rig *r, const uint32_t *table, uint32_t n_blocks,
                                 uint32_t pos0, uint32_t n, struct attn_policy attn)
{
    struct batch_seq seq = {
        .block = table, .n_blocks = n_blocks, .n_rows = n, .pos0 = pos0, .attn = attn,
    };
    struct batch b = { .n_rows = n, .n_seqs = 1, .seq = &seq };
    step(r, &b);
    return seq;
}

// ---- row-wise operations ----------------------------------------------------------------------

// Fills a slot of both sides with the same floats.
static void fill_slot(struct rig *r, struct ref *ref, enum slot s, float scale)
{
    size_t n = (size_t)ref->n * r->plan.slot_width[s];
    float *x = malloc(n * sizeof(float));
    for (size_t i = 0; i < n; i++)
        ref->slot[s][i] = x[i] = random_float() * scale;
    r->x->ops->slot_write(r->g, s, 0, ref->n, x);
    free(x);
}

static double slot_error(struct rig *r, const struct ref *ref, enum slot s)
{
    size_t n = (size_t)ref->n * r->plan.slot_width[s];
    float *x = malloc(n * sizeof(float));
    r->x->ops->slot_read(r->g, s, 0, ref->n, x);
    double e = ref_error(x, ref->slot[s], n);
    free(x);
    return e;
}

#define REQUIRE_BELOW(value, limit) \
    do { \
        double v_ = (value), l_ = (limit); \
        if (!(v_ <= l_)) \
            TEST_FAIL("%s = %g, more than %g", #value, v_, l_); \
    } while (0)

static void check_norm(uint32_t width, uint32_t piece, uint32_t rows, bool add)
{
    struct rig r;
    struct ref ref;
    rig_init(&r, 1, 1, 8);
    r.plan.slot_width[SLOT_X] = r.plan.slot_width[SLOT_H] = width;
    struct op *op = add_op(&r, OP_NORM);
    op->dst[0] = SLOT_H;
    op->src[0] = SLOT_X;
    op->w[0] = add_tensor(&r, piece, 1, 0.2f, 1.0f);
    op->norm.piece = piece;
    op->norm.eps = 1e-5f;
    op->norm.scale = add ? 0.7f : 1.0f;
    op->flags = add ? OP_ADD : 0;
    rig_open(&r, 0);
    ref_init(&ref, &r.model, &r.plan, rows);
    fill_slot(&r, &ref, SLOT_X, 3.0f);
    fill_slot(&r, &ref, SLOT_H, 1.0f);
    step_one(&r, NULL, 0, 0, rows, attn_policy_dense());
    ref_run(&ref);
    REQUIRE_BELOW(slot_error(&r, &ref, SLOT_H), 4e-7);
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
    struct op *op = add_op(&r, OP_GLU);
    op->dst[0] = op->src[0] = SLOT_G;
    op->src[1] = SLOT_U;
    op->glu.act = act;
    rig_open(&r, 0);
    ref_init(&ref, &r.model, &r.plan, rows);
    fill_slot(&r, &ref, SLOT_G, scale);
    fill_slot(&r, &ref, SLOT_U, 1.0f);
    step_one(&r, NULL, 0, 0, rows, attn_policy_dense());
    ref_run(&ref);
    REQUIRE_BELOW(slot_error(&r, &ref, SLOT_G), 4e-7);
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
        struct op *op = add_op(&r, OP_GLU);
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
        step_one(&r, NULL, 0, 0, 1, attn_policy_dense());
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
        r.model.weights.rope_freqs = add_tensor(&r, rope.n_rot / 2, 1, 0.5f, 3.0f);
    struct op *op = add_op(&r, OP_ROPE);
    op->dst[0] = SLOT_Q;
    op->dst[1] = SLOT_K;
    op->rope.local = local;
    rig_open(&r, 0);
    ref_init(&ref, &r.model, &r.plan, rows);
    fill_slot(&r, &ref, SLOT_Q, 1.0f);
    fill_slot(&r, &ref, SLOT_K, 1.0f);
    step_one(&r, NULL, 0, 0, rows, attn_policy_dense());
    ref_run(&ref);
    REQUIRE_BELOW(slot_error(&r, &ref, SLOT_Q), 2e-7);
    REQUIRE_BELOW(slot_error(&r, &ref, SLOT_K), 2e-7);
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

// ---- attention --------------------------------------------------------------------------------

struct attn_case {
    uint32_t heads, kv_heads, dim, n, window;
    float    softcap;
    enum kv_type k_type, v_type;
    struct attn_policy attn;
    uint32_t threads;
};

static void rig_attention(struct rig *r, const struct attn_case *c)
{
    rig_init(r, c->heads, c->kv_heads, c->dim);
    r->k_type = c->k_type;
    r->v_type = c->v_type;
    r->threads = c->threads;
    struct op *op = add_op(r, OP_KV_WRITE);
    op->src[0] = SLOT_K;
    op->src[1] = SLOT_V;
    op = add_op(r, OP_ATTN);
    op->dst[0] = SLOT_A;
    op->src[0] = SLOT_Q;
    op->attn.scale = 1.0f / sqrtf((float)c->dim);
    op->attn.softcap = c->softcap;
    op->attn.window = c->window;
    rig_open(r, 3 * DIV_UP(ROWS_MAX, KV_BLOCK_TOKENS));
}

// Floats of a whole sequence, (n, width) each.
struct rows { uint32_t n; float *q, *k, *v, *a; };

static void rows_init(struct rows *x, const struct rig *r, uint32_t n)
{
    const uint32_t *w = r->plan.slot_width;
    float **p[] = { &x->q, &x->k, &x->v, &x->a };
    const uint32_t width[] = { w[SLOT_Q], w[SLOT_K], w[SLOT_V], w[SLOT_A] };
    x->n = n;
    for (int i = 0; i < 4; i++) {
        *p[i] = malloc((size_t)n * width[i] * sizeof(float));
        for (size_t k = 0; k < (size_t)n * width[i]; k++)
            (*p[i])[k] = random_float() * (i == 0 ? 2.0f : 1.0f);
    }
}

static void rows_finish(struct rows *x)
{
    free(x->q);
    free(x->k);
    free(x->v);
    free(x->a);
}

static void rows_put(struct rig *r, const struct rows *x, uint32_t pos, uint32_t n, uint32_t row)
{
    const uint32_t *w = r->plan.slot_width;
    r->x->ops->slot_write(r->g, SLOT_Q, row, n, x->q + (size_t)pos * w[SLOT_Q]);
    r->x->ops->slot_write(r->g, SLOT_K, row, n, x->k + (size_t)pos * w[SLOT_K]);
    r->x->ops->slot_write(r->g, SLOT_V, row, n, x->v + (size_t)pos * w[SLOT_V]);
}

// The sequence in chunks of the given sizes, cyclically; outputs into x->a. Returns the counts.
static struct batch_seq run_chunks(struct rig *r, struct rows *x, const uint32_t *chunk,
                                   uint32_t n_chunks, uint32_t first_block,
                                   struct attn_policy attn)
{
    uint32_t table[ROWS_MAX / KV_BLOCK_TOKENS], n_blocks = DIV_UP(x->n, KV_BLOCK_TOKENS);
    struct batch_seq sum = {0};
    make_table(table, first_block, n_blocks);
    for (uint32_t pos = 0, i = 0, n; pos < x->n; pos += n, i++) {
        n = MIN(chunk[i % n_chunks], x->n - pos);
        rows_put(r, x, pos, n, 0);
        struct batch_seq s = step_one(r, table, n_blocks, pos, n, attn);
        sum.blocks_read += s.blocks_read;
        sum.blocks_held += s.blocks_held;
        r->x->ops->slot_read(r->g, SLOT_A, 0, n, x->a + (size_t)pos * r->plan.slot_width[SLOT_A]);
    }
    return sum;
}

static size_t rows_bytes(const struct rig *r, const struct rows *x)
{
    return (size_t)x->n * r->plan.slot_width[SLOT_A] * sizeof(float);
}

static void ref_attention(const struct rig *r, const struct attn_case *c, const struct rows *x,
                          struct ref *ref)
{
    ref_init(ref, &r->model, &r->plan, x->n);
    ref->k_type = c->k_type;
    ref->v_type = c->v_type;
    ref->attn = c->attn;
    const uint32_t *w = r->plan.slot_width;
    for (size_t i = 0; i < (size_t)x->n * w[SLOT_Q]; i++)
        ref->slot[SLOT_Q][i] = x->q[i];
    for (size_t i = 0; i < (size_t)x->n * w[SLOT_K]; i++) {
        ref->slot[SLOT_K][i] = x->k[i];
        ref->slot[SLOT_V][i] = x->v[i];
    }
    ref_run(ref);
}

static void check_attention(const struct attn_case *c)
{
    static const uint32_t whole[] = { ROWS_MAX }, single[] = { 1 }, odd[] = { 3, 64, 1, 130, 17 };
    struct rig r;
    struct rows x;
    struct ref ref;
    rig_attention(&r, c);
    rows_init(&x, &r, c->n);
    struct batch_seq counts = run_chunks(&r, &x, whole, 1, 0, c->attn);
    ref_attention(&r, c, &x, &ref);
    REQUIRE_BELOW(ref_error(x.a, ref.slot[SLOT_A], (size_t)x.n * r.plan.slot_width[SLOT_A]), 2e-6);
    REQUIRE_INT(counts.blocks_read, ref.blocks_read);
    REQUIRE_INT(counts.blocks_held, ref.blocks_held);
    float *first = malloc(rows_bytes(&r, &x));
    memcpy(first, x.a, rows_bytes(&r, &x));
    counts = run_chunks(&r, &x, single, 1, 20, c->attn);
    REQUIRE(memcmp(first, x.a, rows_bytes(&r, &x)) == 0);
    REQUIRE_INT(counts.blocks_read, ref.blocks_read);
    run_chunks(&r, &x, odd, ARRAY_LEN(odd), 7, c->attn);
    REQUIRE(memcmp(first, x.a, rows_bytes(&r, &x)) == 0);
    for (uint32_t threads = 1; threads <= 3; threads += 2) {
        rig_close(&r);
        r.threads = threads;
        rig_open(&r, r.n_blocks);
        run_chunks(&r, &x, threads == 1 ? whole : odd, threads == 1 ? 1 : ARRAY_LEN(odd), 0,
                   c->attn);
        REQUIRE(memcmp(first, x.a, rows_bytes(&r, &x)) == 0);
    }
    free(first);
    ref_finish(&ref);
    rows_finish(&x);
    rig_finish(&r);
}

TEST(attention_dense)
{
    static const struct { uint32_t heads, kv_heads, dim; } shape[] = {
        { 9, 3, 64 }, { 14, 2, 64 }, { 4, 1, 256 }, { 4, 4, 128 }, { 3, 1, 80 }, { 2, 1, 20 },
        { 5, 1, 8 },
    };
    for (size_t i = 0; i < ARRAY_LEN(shape); i++)
        for (uint32_t n = 1; n < 400; n += 64 + 131 * (n > 64)) {
            struct attn_case c = {
                .heads = shape[i].heads, .kv_heads = shape[i].kv_heads, .dim = shape[i].dim,
                .n = n,
            };
            check_attention(&c);
        }
}

TEST(attention_kv_types)
{
    for (int k = 0; k < KV_TYPE_COUNT; k++)
        for (int v = 0; v < KV_TYPE_COUNT; v++) {
            struct attn_case c = {
                .heads = 3, .kv_heads = 1, .dim = k == KV_F16 ? 96 : 64, .n = 270,
                .k_type = (enum kv_type)k, .v_type = (enum kv_type)v,
            };
            check_attention(&c);
        }
}

TEST(attention_softcap)
{
    struct attn_case c = { .heads = 4, .kv_heads = 2, .dim = 64, .n = 150, .softcap = 2.0f };
    check_attention(&c);
    c.softcap = 50.0f;
    check_attention(&c);
}

// The layer's window and the request's, with edges on and off block ends.
// A NaN in a key or value reaches the outputs that read it: what is poisoned must not look sound.
static void check_nan(enum kv_type type, bool in_value)
{
    static const uint32_t whole[] = { ROWS_MAX };
    const uint32_t at = 70;
    struct attn_case c = {
        .heads = 2, .kv_heads = 1, .dim = 64, .n = 90, .k_type = type, .v_type = type,
    };
    struct rig r;
    struct rows x;
    rig_attention(&r, &c);
    rows_init(&x, &r, c.n);
    (in_value ? x.v : x.k)[at * c.dim + 5] = NAN;
    run_chunks(&r, &x, whole, 1, 0, c.attn);
    for (uint32_t i = 0; i < c.n; i++) {
        bool is_nan = isnan(x.a[i * c.heads * c.dim + 5]);
        if (i >= at)
            REQUIRE(is_nan);
        else if (!in_value || i < KV_BLOCK_TOKENS)      // 0 * NaN: a block's values go together
            REQUIRE(!is_nan);
    }
    rows_finish(&x);
    rig_finish(&r);
}

TEST(nan_is_not_lost)
{
    for (int type = 0; type < KV_TYPE_COUNT; type++) {
        check_nan((enum kv_type)type, false);
        check_nan((enum kv_type)type, true);
    }
}

TEST(attention_windows)
{
    static const uint32_t windows[] = { 1, 63, 64, 65, 100, 264 };
    for (size_t i = 0; i < ARRAY_LEN(windows); i++) {
        struct attn_case c = { .heads = 2, .kv_heads = 1, .dim = 16, .n = 270 };
        c.window = windows[i];
        check_attention(&c);
        // A layer's own window is not the request's to change.
        c.attn = (struct attn_policy){ SELECT_topk, 64, 0, 64 };
        check_attention(&c);
        c.window = 0;
        c.attn = (struct attn_policy){ SELECT_window, 0, windows[i], (uint32_t)i * 37 };
        check_attention(&c);
    }
}

TEST(attention_topk)
{
    static const uint32_t budgets[] = { 0, 256, 320 };
    for (size_t i = 0; i < ARRAY_LEN(budgets); i++) {
        struct attn_case c = {
            .heads = 6, .kv_heads = 2, .dim = 32, .n = 520,
            .k_type = i % 2 ? KV_F16 : KV_F32, .v_type = KV_F16,
            .attn = { SELECT_topk, budgets[i], 0, (uint32_t)i * 50 },
        };
        check_attention(&c);
    }
}

TEST(topk_with_the_whole_budget_is_dense)
{
    static const uint32_t chunks[] = { 100, 1, 64 };
    struct attn_case c = { .heads = 6, .kv_heads = 2, .dim = 64, .k_type = KV_F16 };
    struct rig r;
    struct rows x;
    rig_attention(&r, &c);
    rows_init(&x, &r, 700);
    run_chunks(&r, &x, chunks, 3, 0, attn_policy_dense());
    float *dense = malloc(rows_bytes(&r, &x));
    memcpy(dense, x.a, rows_bytes(&r, &x));
    struct attn_policy all = { SELECT_topk, 700, 0, 64 }, less = { SELECT_topk, 640, 0, 64 };
    run_chunks(&r, &x, chunks, 3, 0, all);
    REQUIRE(memcmp(dense, x.a, rows_bytes(&r, &x)) == 0);
    run_chunks(&r, &x, chunks, 3, 0, less);
    REQUIRE(memcmp(dense, x.a, rows_bytes(&r, &x)) != 0);
    // The rows that fit even the smaller budget are dense too.
    size_t fit = 640 * r.plan.slot_width[SLOT_A] * sizeof(float);
    REQUIRE(memcmp(dense, x.a, fit) == 0);
    free(dense);
    rows_finish(&x);
    rig_finish(&r);
}

// Several sequences at different depths and with different policies in one batch, each bit for bit
// what it is alone.
TEST(alone_or_in_a_batch)
{
    enum { SEQS = 5 };
    static const struct { uint32_t before, now; struct attn_policy attn; } s[SEQS] = {
        { 0, 70, { SELECT_dense, 0, 0, 0 } },   { 500, 1, { SELECT_dense, 0, 0, 0 } },
        { 600, 1, { SELECT_topk, 256, 0, 64 } }, { 130, 33, { SELECT_window, 0, 90, 10 } },
        { 300, 1, { SELECT_window, 0, 90, 10 } },
    };
    struct attn_case c = { .heads = 6, .kv_heads = 2, .dim = 64, .k_type = KV_F16 };
    struct rig r;
    struct rows x[SEQS];
    uint32_t table[SEQS][16], n_rows = 0;
    struct batch_seq seq[SEQS];
    rig_attention(&r, &c);
    uint32_t width = r.plan.slot_width[SLOT_A];
    for (uint32_t i = 0, first = 0; i < SEQS; first += DIV_UP(x[i].n, KV_BLOCK_TOKENS), i++) {
        uint32_t n_blocks = DIV_UP(s[i].before + s[i].now, KV_BLOCK_TOKENS);
        rows_init(&x[i], &r, s[i].before + s[i].now);
        make_table(table[i], first, n_blocks);
        if (s[i].before) {
            rows_put(&r, &x[i], 0, s[i].before, 0);
            step_one(&r, table[i], n_blocks, 0, s[i].before, s[i].attn);
        }
        // Alone; then the same rows are written again by the batch.
        rows_put(&r, &x[i], s[i].before, s[i].now, 0);
        step_one(&r, table[i], n_blocks, s[i].before, s[i].now, s[i].attn);
        r.x->ops->slot_read(r.g, SLOT_A, 0, s[i].now, x[i].a);
        seq[i] = (struct batch_seq){
            .block = table[i], .n_blocks = n_blocks, .row0 = n_rows, .n_rows = s[i].now,
            .pos0 = s[i].before, .attn = s[i].attn,
        };
        n_rows += s[i].now;
    }
    for (uint32_t i = 0; i < SEQS; i++)
        rows_put(&r, &x[i], s[i].before, s[i].now, seq[i].row0);
    struct batch b = { .n_rows = n_rows, .n_seqs = SEQS, .seq = seq };
    step(&r, &b);
    for (uint32_t i = 0; i < SEQS; i++) {
        float *a = malloc((size_t)s[i].now * width * sizeof(float));
        r.x->ops->slot_read(r.g, SLOT_A, seq[i].row0, s[i].now, a);
        REQUIRE(memcmp(a, x[i].a, (size_t)s[i].now * width * sizeof(float)) == 0);
        REQUIRE(seq[i].blocks_read <= seq[i].blocks_held && seq[i].blocks_read > 0);
        free(a);
    }
    for (uint32_t i = 0; i < SEQS; i++)
        rows_finish(&x[i]);
    rig_finish(&r);
}

// ---- blocks -----------------------------------------------------------------------------------

static void check_digest(const struct rig *r, const struct ref *ref, uint32_t block,
                         const uint8_t *bytes)
{
    const struct model_cfg *c = &r->model.cfg;
    for (uint32_t h = 0; h < c->n_kv_heads; h++)
        for (uint32_t d = 0; d < c->head_dim; d++) {
            double mean = 0;
            for (uint32_t j = 0; j < KV_BLOCK_TOKENS; j++)
                mean += ref->k[((size_t)(block * KV_BLOCK_TOKENS + j) * c->n_kv_heads + h) *
                               c->head_dim + d] / KV_BLOCK_TOKENS;
            uint16_t half;
            memcpy(&half, bytes + kv_digest_offset(&r->layout, 0, h) + d * 2, 2);
            REQUIRE_BELOW(fabs(f16_to_f32(half) - mean), 0x1p-11 * fabs(mean) + 2e-7);
        }
}

TEST(digests_and_blocks_do_not_depend_on_chunks)
{
    static const uint32_t whole[] = { 200 }, odd[] = { 1, 62, 2, 66 };
    for (int type = 0; type < KV_TYPE_COUNT; type++) {
        struct attn_case c = { .heads = 2, .kv_heads = 2, .dim = 64 };
        c.k_type = c.v_type = (enum kv_type)type;
        struct rig r;
        struct rows x;
        struct ref ref;
        rig_attention(&r, &c);
        rows_init(&x, &r, 200);
        uint32_t table[4];
        run_chunks(&r, &x, whole, 1, 0, attn_policy_dense());
        run_chunks(&r, &x, odd, 4, 4, attn_policy_dense());
        ref_attention(&r, &c, &x, &ref);
        make_table(table, 0, 4);
        uint8_t *a = malloc(r.layout.block_bytes), *b = malloc(r.layout.block_bytes);
        for (uint32_t i = 0; i < 4; i++) {
            r.x->ops->kv_read(r.g, table[i], a);
            r.x->ops->kv_read(r.g, table[i] + 4, b);
            REQUIRE(memcmp(a, b, r.layout.block_bytes) == 0);
            if (i < 3)
                check_digest(&r, &ref, i, a);
        }
        free(a);
        free(b);
        ref_finish(&ref);
        rows_finish(&x);
        rig_finish(&r);
    }
}

// A sequence goes on in copied and in exported blocks as in its own.
TEST(blocks_copied_and_moved)
{
    struct attn_case c = { .heads = 2, .kv_heads = 1, .dim = 64, .v_type = KV_Q8_0 };
    struct rig r;
    struct rows x;
    uint32_t own[2] = { 0, 1 }, other[2] = { 2, 3 };
    float want[128], got[128];
    rig_attention(&r, &c);
    rows_init(&x, &r, 100);
    rows_put(&r, &x, 0, 99, 0);
    step_one(&r, own, 2, 0, 99, attn_policy_dense());
    r.x->ops->kv_copy(r.g, 2, 0);
    uint8_t *block = malloc(r.layout.block_bytes);
    r.x->ops->kv_read(r.g, 1, block);
    r.x->ops->kv_write(r.g, 3, block);
    free(block);
    rows_put(&r, &x, 99, 1, 0);
    step_one(&r, own, 2, 99, 1, attn_policy_dense());
    r.x->ops->slot_read(r.g, SLOT_A, 0, 1, want);
    step_one(&r, other, 2, 99, 1, attn_policy_dense());
    r.x->ops->slot_read(r.g, SLOT_A, 0, 1, got);
    REQUIRE(memcmp(want, got, sizeof(want)) == 0);
    rows_finish(&x);
    rig_finish(&r);
}

// What a freed block holds, even NaN, never reaches its next owner.
TEST(stale_blocks_do_not_leak)
{
    for (int type = 0; type < KV_TYPE_COUNT; type++) {
        struct attn_case c = { .heads = 2, .kv_heads = 1, .dim = 64 };
        c.k_type = c.v_type = (enum kv_type)type;
        struct rig r;
        struct rows x;
        uint32_t fresh[2] = { 0, 1 }, stale[2] = { 2, 3 };
        float want[70 * 128], got[70 * 128];
        rig_attention(&r, &c);
        rows_init(&x, &r, 70);
        uint8_t *garbage = malloc(r.layout.block_bytes);
        memset(garbage, 0xff, r.layout.block_bytes);
        r.x->ops->kv_write(r.g, 2, garbage);
        r.x->ops->kv_write(r.g, 3, garbage);
        free(garbage);
        rows_put(&r, &x, 0, 70, 0);
        step_one(&r, fresh, 2, 0, 70, attn_policy_dense());
        r.x->ops->slot_read(r.g, SLOT_A, 0, 70, want);
        step_one(&r, stale, 2, 0, 70, attn_policy_dense());
        r.x->ops->slot_read(r.g, SLOT_A, 0, 70, got);
        REQUIRE(memcmp(want, got, sizeof(want)) == 0);
        rows_finish(&x);
        rig_finish(&r);
    }
}

// ---- a whole model ----------------------------------------------------------------------------

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
        .attn_norm = add_tensor(r, s->width, 1, 0.1f, 1.0f),
        .q = add_tensor(r, s->width, q, in, 0), .k = add_tensor(r, s->width, kv, in, 0),
        .v = add_tensor(r, s->width, kv, in, 0),
        .attn_out = add_tensor(r, q, s->width, in, 0),
        .ff_norm = add_tensor(r, s->width, 1, 0.1f, 1.0f),
        .ff_gate = add_tensor(r, s->width, s->ff, in, 0),
        .ff_up = add_tensor(r, s->width, s->ff, in, 0),
        .ff_down = add_tensor(r, s->ff, s->width, ff, 0),
    };
    if (s->bias) {
        w->q_bias = add_tensor(r, q, 1, 0.3f, 0);
        w->k_bias = add_tensor(r, kv, 1, 0.3f, 0);
        w->v_bias = add_tensor(r, kv, 1, 0.3f, 0);
    }
    if (s->qk_norm) {
        w->q_norm = add_tensor(r, s->dim, 1, 0.1f, 1.0f);
        w->k_norm = add_tensor(r, s->dim, 1, 0.1f, 1.0f);
    }
    if (s->post_norms) {
        w->attn_post_norm = add_tensor(r, s->width, 1, 0.1f, 1.0f);
        w->ff_post_norm = add_tensor(r, s->width, 1, 0.1f, 1.0f);
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
    c->n_vocab = 131;
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
    w->embed = add_tensor(r, s->width, c->n_vocab, 1.0f, 0);
    w->out = s->tied ? w->embed : add_tensor(r, s->width, c->n_vocab, 0.2f, 0);
    w->out_norm = add_tensor(r, s->width, 1, 0.1f, 1.0f);
    w->layer = layer;
    for (uint32_t i = 0; i < s->layers; i++)
        random_layer(r, s, &layer[i]);
    REQUIRE_OK(plan_build(&plan, c, w, &err), err);
    REQUIRE(plan->n_ops <= OPS_MAX);
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
    make_table(table, 0, DIV_UP(n, KV_BLOCK_TOKENS));
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
        step(r, &b);
        memcpy(logits + (size_t)(*n_logits)++ * n_vocab, b.logits, n_vocab * sizeof(float));
    }
}

static void check_model(const struct shape *s, double limit)
{
    static const uint32_t whole[] = { 200 }, odd[] = { 100, 1, 1, 98 };
    enum { N = 200 };
    static float a[4 * 131], b[4 * 131];
    struct layer_weights layer[2];
    struct rig r;
    struct ref ref;
    int32_t token[N];
    uint32_t n, last = N - 1;
    rig_model(&r, s, layer);
    rig_open(&r, 8);
    for (int i = 0; i < N; i++)
        token[i] = (int32_t)((uint32_t)i * 2654435761u >> 8) % 131;
    ref_init(&ref, &r.model, &r.plan, N);
    ref.token = token;
    ref.out_row = &last;
    ref.n_out = 1;
    ref_run(&ref);
    run_model(&r, token, N, whole, 1, a, &n);
    REQUIRE_BELOW(ref_error(a, ref.logits, 131), limit);
    run_model(&r, token, N, odd, 4, b, &n);
    REQUIRE(memcmp(a, b + 3 * 131, 131 * sizeof(float)) == 0);
    for (uint32_t threads = 1; threads <= 3; threads += 2) {
        rig_close(&r);
        r.threads = threads;
        rig_open(&r, 8);
        run_model(&r, token, N, odd, 4, b, &n);
        REQUIRE(memcmp(a, b + 3 * 131, 131 * sizeof(float)) == 0);
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

// The same program without AVX2: what other processors run.
TEST(portable_kernels)
{
    struct rope_cfg rope = { .kind = ROPE_HALVES, .n_rot = 32, .base = 1e4f, .factor = 1 };
    REQUIRE_INT(vec_force("no such"), -ENOTSUP);
    REQUIRE_INT(vec_force("portable"), 0);
    check_norm(60, 20, 3, true);
    check_glu(ACT_SILU, 77, 2, 3.0f);
    check_glu(ACT_GELU_TANH, 77, 2, 3.0f);
    check_rope(rope, false, false, 32, 5);
    for (int type = 0; type < KV_TYPE_COUNT; type++) {
        struct attn_case c = {
            .heads = 4, .kv_heads = 1, .dim = type == KV_F16 ? 20 : 32, .n = 330, .softcap = 9.0f,
            .k_type = (enum kv_type)type, .v_type = (enum kv_type)type,
            .attn = { SELECT_topk, 64, 0, 64 },
        };
        check_attention(&c);
    }
    REQUIRE_INT(vec_force(NULL), 0);
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
    struct executor_params xp = { .threads = 2 };
    struct load_params lp = {
        .rows_max = 4, .seqs_max = 1, .outputs_max = 1, .progress = stop_at_once,
        .progress_ctx = &calls,
    };
    REQUIRE_OK(executor_cpu.open(&r.x, &xp, &err), err);
    REQUIRE_INT(r.x->ops->load(r.x, &r.model, &r.plan, &lp, &r.g, &err), -ECANCELED);
    REQUIRE(!r.g && calls >= 1);
    lp.progress = watch;
    lp.progress_ctx = &left;
    REQUIRE_OK(r.x->ops->load(r.x, &r.model, &r.plan, &lp, &r.g, &err), err);
    REQUIRE_INT(left, 0);
    char text[100];
    r.x->ops->describe(r.x, text, sizeof(text));
    REQUIRE(strncmp(text, "cpu: 2 threads, ", 16) == 0);
    rig_finish(&r);
}
