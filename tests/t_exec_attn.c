// Protects attention on any executor: rows, blocks and digests against the oracle of ref.c, and
// that a row's bits depend neither on the batch, nor on chunks, nor on threads. TEST_DEVICE names
// the device.
#include "tests/rig.h"
#include <math.h>
#include "base/base.h"
#include "engine/exec/cpu/vec.h"

TEST_MAIN

// A Vulkan device compiles kernels anew for each head_dim, KV type and number of query heads of a
// KV head: cases share those where it does not matter.

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
    struct op *op = rig_op(r, OP_KV_WRITE);
    op->src[0] = SLOT_K;
    op->src[1] = SLOT_V;
    op = rig_op(r, OP_ATTN);
    op->dst[0] = SLOT_A;
    op->src[0] = SLOT_Q;
    op->attn.scale = 1.0f / sqrtf((float)c->dim);
    op->attn.softcap = c->softcap;
    op->attn.window = c->window;
    rig_open(r, 3 * DIV_UP(RIG_ROWS_MAX, KV_BLOCK_TOKENS));
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
    uint32_t table[RIG_ROWS_MAX / KV_BLOCK_TOKENS], n_blocks = DIV_UP(x->n, KV_BLOCK_TOKENS);
    struct batch_seq sum = {0};
    table_fill(table, first_block, n_blocks);
    for (uint32_t pos = 0, i = 0, n; pos < x->n; pos += n, i++) {
        n = MIN(chunk[i % n_chunks], x->n - pos);
        rows_put(r, x, pos, n, 0);
        struct batch_seq s = rig_step_one(r, table, n_blocks, pos, n, attn);
        sum.blocks_read += s.blocks_read;
        sum.blocks_held += s.blocks_held;
        r->x->ops->slot_read(r->g, SLOT_A, 0, n, x->a + (size_t)pos * r->plan.slot_width[SLOT_A]);
    }
    return sum;
}

static void ref_attention(const struct rig *r, const struct attn_case *c, const struct rows *x,
                          struct ref *ref)
{
    ref_init(ref, &r->model, &r->plan, x->n);
    ref->k_type = c->k_type;
    ref->v_type = c->v_type;
    ref->attn = c->attn;
    rows_to_ref(x, ref);
    ref_run(ref);
}

// Row by row; on a device that is slow at it only the last ones.
#define SINGLES (KV_BLOCK_TOKENS + 6)

static uint32_t single_rows(uint32_t n, uint32_t chunk[SINGLES + 1])
{
    bool few = !rig_is_cpu() && n > SINGLES;
    chunk[0] = few ? n - SINGLES : 1;
    for (uint32_t i = 1; i <= SINGLES; i++)
        chunk[i] = 1;
    return few ? SINGLES + 1 : 1;
}

static void check_attention(const struct attn_case *c)
{
    static const uint32_t whole[] = { RIG_ROWS_MAX }, odd[] = { 3, 64, 1, 130, 17 };
    uint32_t single[SINGLES + 1];
    struct rig r;
    struct rows x;
    struct ref ref;
    rig_attention(&r, c);
    rows_init(&x, &r.plan, c->n);
    struct batch_seq counts = run_chunks(&r, &x, whole, 1, 0, c->attn);
    ref_attention(&r, c, &x, &ref);
    REQUIRE_BELOW(ref_error(x.a, ref.slot[SLOT_A], (size_t)x.n * r.plan.slot_width[SLOT_A]), 2e-6);
    REQUIRE_INT(counts.blocks_read, ref.blocks_read);
    REQUIRE_INT(counts.blocks_held, ref.blocks_held);
    float *first = malloc(rows_bytes(&x));
    memcpy(first, x.a, rows_bytes(&x));
    counts = run_chunks(&r, &x, single, single_rows(c->n, single), 20, c->attn);
    REQUIRE(memcmp(first, x.a, rows_bytes(&x)) == 0);
    REQUIRE_INT(counts.blocks_read, ref.blocks_read);
    run_chunks(&r, &x, odd, ARRAY_LEN(odd), 7, c->attn);
    REQUIRE(memcmp(first, x.a, rows_bytes(&x)) == 0);
    for (uint32_t threads = 1; rig_is_cpu() && threads <= 3; threads += 2) {
        rig_close(&r);
        r.threads = threads;
        rig_open(&r, r.n_blocks);
        run_chunks(&r, &x, threads == 1 ? whole : odd, threads == 1 ? 1 : ARRAY_LEN(odd), 0,
                   c->attn);
        REQUIRE(memcmp(first, x.a, rows_bytes(&x)) == 0);
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
    for (size_t i = 0; i < ARRAY_LEN(shape); i += rig_is_cpu() ? 1 : TEST_SANITIZED ? 3 : 2)
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
            // Of a device's kernels t_vkattn has most other pairs.
            bool skipped = v != (k + 1) % KV_TYPE_COUNT || (TEST_SANITIZED && k != KV_F16);
            if (!rig_is_cpu() && skipped)
                continue;
            struct attn_case c = {
                .heads = 4, .kv_heads = 2, .dim = k == KV_F16 ? 96 : 64, .n = 270,
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

// A NaN in a key or value reaches the outputs that read it: what is poisoned must not look sound.
static void check_nan(enum kv_type type, bool in_value)
{
    static const uint32_t whole[] = { RIG_ROWS_MAX };
    const uint32_t at = 70;
    struct attn_case c = {
        .heads = 2, .kv_heads = 1, .dim = 64, .n = 90, .k_type = type, .v_type = type,
    };
    struct rig r;
    struct rows x;
    rig_attention(&r, &c);
    rows_init(&x, &r.plan, c.n);
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

// The layer's window and the request's, with edges on and off block ends.
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
    rows_init(&x, &r.plan, 700);
    run_chunks(&r, &x, chunks, 3, 0, attn_policy_dense());
    float *dense = malloc(rows_bytes(&x));
    memcpy(dense, x.a, rows_bytes(&x));
    struct attn_policy all = { SELECT_topk, 700, 0, 64 }, less = { SELECT_topk, 640, 0, 64 };
    run_chunks(&r, &x, chunks, 3, 0, all);
    REQUIRE(memcmp(dense, x.a, rows_bytes(&x)) == 0);
    run_chunks(&r, &x, chunks, 3, 0, less);
    REQUIRE(memcmp(dense, x.a, rows_bytes(&x)) != 0);
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
        rows_init(&x[i], &r.plan, s[i].before + s[i].now);
        table_fill(table[i], first, n_blocks);
        if (s[i].before) {
            rows_put(&r, &x[i], 0, s[i].before, 0);
            rig_step_one(&r, table[i], n_blocks, 0, s[i].before, s[i].attn);
        }
        // Alone; then the same rows are written again by the batch.
        rows_put(&r, &x[i], s[i].before, s[i].now, 0);
        rig_step_one(&r, table[i], n_blocks, s[i].before, s[i].now, s[i].attn);
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
    rig_step(&r, &b);
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
        struct attn_case c = { .heads = 4, .kv_heads = 2, .dim = 64 };
        c.k_type = c.v_type = (enum kv_type)type;
        struct rig r;
        struct rows x;
        struct ref ref;
        rig_attention(&r, &c);
        rows_init(&x, &r.plan, 200);
        uint32_t table[4];
        run_chunks(&r, &x, whole, 1, 0, attn_policy_dense());
        run_chunks(&r, &x, odd, 4, 4, attn_policy_dense());
        ref_attention(&r, &c, &x, &ref);
        table_fill(table, 0, 4);
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
    rows_init(&x, &r.plan, 100);
    rows_put(&r, &x, 0, 99, 0);
    rig_step_one(&r, own, 2, 0, 99, attn_policy_dense());
    r.x->ops->kv_copy(r.g, 2, 0);
    uint8_t *block = malloc(r.layout.block_bytes);
    r.x->ops->kv_read(r.g, 1, block);
    r.x->ops->kv_write(r.g, 3, block);
    free(block);
    rows_put(&r, &x, 99, 1, 0);
    rig_step_one(&r, own, 2, 99, 1, attn_policy_dense());
    r.x->ops->slot_read(r.g, SLOT_A, 0, 1, want);
    rig_step_one(&r, other, 2, 99, 1, attn_policy_dense());
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
        rows_init(&x, &r.plan, 70);
        uint8_t *garbage = malloc(r.layout.block_bytes);
        memset(garbage, 0xff, r.layout.block_bytes);
        r.x->ops->kv_write(r.g, 2, garbage);
        r.x->ops->kv_write(r.g, 3, garbage);
        free(garbage);
        rows_put(&r, &x, 0, 70, 0);
        rig_step_one(&r, fresh, 2, 0, 70, attn_policy_dense());
        r.x->ops->slot_read(r.g, SLOT_A, 0, 70, want);
        rig_step_one(&r, stale, 2, 0, 70, attn_policy_dense());
        r.x->ops->slot_read(r.g, SLOT_A, 0, 70, got);
        REQUIRE(memcmp(want, got, sizeof(want)) == 0);
        rows_finish(&x);
        rig_finish(&r);
    }
}

// The same without AVX2: what other processors run.
TEST(portable_kernels)
{
    if (!rig_is_cpu())
        SKIP("kernels of the CPU executor");
    REQUIRE_INT(vec_force("portable"), 0);
    rig_forget();
    for (int type = 0; type < KV_TYPE_COUNT; type++) {
        struct attn_case c = {
            .heads = 4, .kv_heads = 1, .dim = type == KV_F16 ? 20 : 32, .n = 330, .softcap = 9.0f,
            .k_type = (enum kv_type)type, .v_type = (enum kv_type)type,
            .attn = { SELECT_topk, 64, 0, 64 },
        };
        check_attention(&c);
    }
    REQUIRE_INT(vec_force(NULL), 0);
    rig_forget();
}
