// Protects attention and KV of the Vulkan executor where its own workings could go wrong: splits
// and whole rows, generated rows in batches, choices among very many blocks, pages moved about.
// What all executors share is t_exec_attn's.
#include "tests/test.h"
#include <errno.h>
#include <math.h>
#include "base/base.h"
#include "base/clock.h"
#include "engine/exec/vulkan/attn.h"
#include "tests/rows.h"
#include "tests/vk_device.h"

TEST_MAIN

#define WAIT_NS (300 * NS_PER_S)        // some devices compile in a kernel's first step
#define ROWS_MAX 1024
#define TABLE_MAX 40000
#define BLOCKS 40

// ---- a program of KV_WRITE and ATTN -----------------------------------------------------------

struct rig {
    struct model  model;
    struct plan   plan;
    struct op     op[2];
    struct vk_op  vk_op[2];
    struct vk_program g;
    struct kv_layout layout;
    struct vk_mem host;                 // the widest slot, or whatever is read back
    struct vk_cmd *cmd;
    uint32_t      dropped;
};

static struct rig *current;

// step.c keeps recorded command buffers; here every step is recorded anew.
void vk_recorded_drop(struct vk_program *g)
{
    REQUIRE(g == &current->g);
    current->dropped++;
}

// Devices compile kernels anew for each head_dim, KV type and number of query heads of a KV head:
// cases share those where it does not matter.
struct shape_case {
    uint32_t heads, kv_heads, dim, window;
    float    softcap;
    enum kv_type k_type, v_type;
    uint32_t n_blocks;                  // 0: BLOCKS
};

static void make_plan(struct rig *r, const struct shape_case *c)
{
    r->model.cfg = (struct model_cfg){
        .n_layers = 1, .n_heads = c->heads, .n_kv_heads = c->kv_heads, .head_dim = c->dim,
    };
    r->op[0] = (struct op){ .kind = OP_KV_WRITE, .src = { SLOT_K, SLOT_V } };
    r->op[1] = (struct op){ .kind = OP_ATTN, .src = { SLOT_Q }, .dst = { SLOT_A } };
    r->op[1].attn.scale = 1.0f / sqrtf((float)c->dim);
    r->op[1].attn.softcap = c->softcap;
    r->op[1].attn.window = c->window;
    r->plan = (struct plan){ .op = r->op, .n_ops = 2 };
    r->plan.slot_width[SLOT_Q] = r->plan.slot_width[SLOT_A] = c->heads * c->dim;
    r->plan.slot_width[SLOT_K] = r->plan.slot_width[SLOT_V] = c->kv_heads * c->dim;
    r->vk_op[0].op = &r->op[0];
    r->vk_op[1].op = &r->op[1];
}

static void alloc(enum vk_home home, size_t bytes, struct vk_mem *m)
{
    struct err err;
    REQUIRE_OK(vk_alloc(vk, home, bytes, m, &err), err);
}

static void rig_open(struct rig *r, const struct shape_case *c)
{
    struct err err;
    need_device();
    *r = (struct rig){0};
    current = r;
    make_plan(r, c);
    struct vk_program *g = &r->g;
    *g = (struct vk_program){
        .vk = vk, .exact = true, .model = &r->model, .cfg = &r->model.cfg, .plan = &r->plan,
        .op = r->vk_op,
        .params = { .rows_max = ROWS_MAX, .seqs_max = 64, .k_type = c->k_type,
                    .v_type = c->v_type },
    };
    for (unsigned s = 0; s < SLOT_COUNT; s++) {
        g->stride[s] = ALIGN_UP(r->plan.slot_width[s], 32u);
        if (g->stride[s])
            alloc(VK_HOME_DEVICE, ROWS_MAX * g->stride[s] * sizeof(float), &g->slot[s]);
    }
    alloc(VK_HOME_UPLOAD, sizeof(struct step_head), &g->step.head);
    alloc(VK_HOME_UPLOAD, ROWS_MAX * sizeof(struct step_row), &g->step.row);
    alloc(VK_HOME_UPLOAD, TABLE_MAX * sizeof(uint32_t), &g->step.table);
    alloc(VK_HOME_HOST, (size_t)8 << 20, &r->host);
    REQUIRE_OK(vk_cmd_create(vk, &r->cmd, &err), err);
    REQUIRE_OK(vk_kv_init(g, &err), err);
    REQUIRE_OK(vk_attn_init(g, &err), err);
    REQUIRE_OK(vulkan_kv_alloc(&g->p, c->n_blocks ? c->n_blocks : BLOCKS, &r->layout, &err), err);
}

static void rig_close(struct rig *r)
{
    vk_cmd_destroy(r->cmd);
    vk_attn_finish(&r->g);
    vk_kv_finish(&r->g);
    for (unsigned s = 0; s < SLOT_COUNT; s++)
        vk_free(vk, &r->g.slot[s]);
    vk_free(vk, &r->g.step.head);
    vk_free(vk, &r->g.step.row);
    vk_free(vk, &r->g.step.table);
    vk_free(vk, &r->host);
}

static void run(struct rig *r)
{
    struct err err;
    REQUIRE_OK(vk_cmd_end(r->cmd, &err), err);
    REQUIRE_OK(vk_run(vk, r->cmd, WAIT_NS, &err), err);
}

static void slot_write(struct rig *r, enum slot s, uint32_t row, uint32_t n, const float *x)
{
    uint32_t width = r->plan.slot_width[s], stride = r->g.stride[s];
    for (uint32_t i = 0; i < n; i++)
        memcpy((float *)r->host.map + (size_t)i * stride, x + (size_t)i * width,
               width * sizeof(float));
    vk_cmd_begin(r->cmd);
    vk_copy(r->cmd, &r->g.slot[s], (size_t)row * stride * 4, &r->host, 0, (size_t)n * stride * 4);
    run(r);
}

static void slot_read(struct rig *r, enum slot s, uint32_t row, uint32_t n, float *x)
{
    uint32_t width = r->plan.slot_width[s], stride = r->g.stride[s];
    vk_cmd_begin(r->cmd);
    vk_copy(r->cmd, &r->host, 0, &r->g.slot[s], (size_t)row * stride * 4, (size_t)n * stride * 4);
    run(r);
    for (uint32_t i = 0; i < n; i++)
        memcpy(x + (size_t)i * width, (float *)r->host.map + (size_t)i * stride,
               width * sizeof(float));
}

enum { WRITE = 1, READ = 2 };

// One step of the batch, or a half of it.
static struct shape step(struct rig *r, struct batch *b, unsigned what)
{
    struct err err;
    struct vk_program *g = &r->g;
    struct step_head *head = g->step.head.map;
    struct step_row *row = g->step.row.map;
    uint32_t *table = g->step.table.map, at = 0;
    struct shape s = {0};
    g->batch = b;
    *head = (struct step_head){ .n_rows = b->n_rows, .n_seqs = b->n_seqs };
    for (uint32_t i = 0; i < b->n_seqs; i++) {
        const struct batch_seq *q = &b->seq[i];
        REQUIRE(at + q->n_blocks <= TABLE_MAX);
        memcpy(table + at, q->block, q->n_blocks * sizeof(uint32_t));
        for (uint32_t k = 0; k < q->n_rows; k++)
            row[q->row0 + k] = (struct step_row){ 0, q->pos0 + k, at, i };
        head->n_decode += q->decode ? q->n_rows : 0;
        at += q->n_blocks;
    }
    s.n_decode = head->n_decode;
    s.n_prompt = b->n_rows - head->n_decode + 3;        // rounded up
    REQUIRE_OK(vk_attn_prepare(g, &s, &err), err);
    vk_cmd_begin(r->cmd);
    if (what & WRITE)
        vk_kv_record(g, r->cmd, &r->vk_op[0], &s);
    if (what & READ)
        vk_attn_record(g, r->cmd, &r->vk_op[1], &s);
    run(r);
    return s;
}

// ---- sequences --------------------------------------------------------------------------------

static void rows_put(struct rig *r, const struct rows *x, uint32_t pos, uint32_t n, uint32_t row)
{
    const uint32_t *w = r->plan.slot_width;
    slot_write(r, SLOT_Q, row, n, x->q + (size_t)pos * w[SLOT_Q]);
    slot_write(r, SLOT_K, row, n, x->k + (size_t)pos * w[SLOT_K]);
    slot_write(r, SLOT_V, row, n, x->v + (size_t)pos * w[SLOT_V]);
}

// The sequence in chunks of the given sizes, cyclically; outputs from row `first` on into x->a.
static void run_chunks(struct rig *r, struct rows *x, const uint32_t *chunk, uint32_t n_chunks,
                       uint32_t first_block, struct attn_policy attn, uint32_t first, bool decode)
{
    uint32_t table[BLOCKS], n_blocks = DIV_UP(x->n, KV_BLOCK_TOKENS);
    table_fill(table, first_block, n_blocks);
    for (uint32_t pos = 0, i = 0, n; pos < x->n; pos += n, i++) {
        n = MIN(chunk[i % n_chunks], x->n - pos);
        if (pos < first)
            n = MIN(n, first - pos);
        rows_put(r, x, pos, n, 0);
        struct batch_seq seq = {
            .block = table, .n_blocks = n_blocks, .n_rows = n, .pos0 = pos, .attn = attn,
            .decode = decode,
        };
        struct batch b = { .n_rows = n, .n_seqs = 1, .seq = &seq };
        step(r, &b, pos < first ? WRITE : WRITE | READ);
        if (pos >= first)
            slot_read(r, SLOT_A, 0, n, x->a + (size_t)pos * r->plan.slot_width[SLOT_A]);
    }
}

// Of rows from `first` on.
static double error_of(const struct rig *r, const struct shape_case *c, const struct rows *x,
                       struct attn_policy attn, uint32_t first)
{
    struct ref ref;
    ref_init(&ref, &r->model, &r->plan, x->n);
    ref.k_type = c->k_type;
    ref.v_type = c->v_type;
    ref.attn = attn;
    rows_to_ref(x, &ref);
    ref_run(&ref);
    size_t at = (size_t)first * x->width;
    double e = ref_error(x->a + at, ref.slot[SLOT_A] + at, (size_t)(x->n - first) * x->width);
    ref_finish(&ref);
    return e;
}

// The rows from `first` on have the same bits however they came about, near those of the oracle:
// cut into chunks, and generated ones in splits or whole.
static void check_rows(struct rig *r, const struct shape_case *c, struct rows *x, uint32_t first,
                       struct attn_policy attn, bool decode)
{
    static const uint32_t whole[] = { ROWS_MAX }, odd[] = { 3, 64, 1, 130, 17 };
    size_t at = (size_t)first * r->plan.slot_width[SLOT_A];
    size_t bytes = (size_t)(x->n - first) * r->plan.slot_width[SLOT_A] * sizeof(float);
    float *want = malloc(bytes);
    run_chunks(r, x, whole, 1, 0, attn, first, decode);
    REQUIRE_BELOW(error_of(r, c, x, attn, first), 2e-6);
    memcpy(want, x->a + at, bytes);
    run_chunks(r, x, odd, ARRAY_LEN(odd), 7, attn, first, decode);
    REQUIRE(memcmp(want, x->a + at, bytes) == 0);
    r->g.attn->splits_max = 0;
    if (decode) {
        run_chunks(r, x, whole, 1, 0, attn, first, decode);
        REQUIRE(memcmp(want, x->a + at, bytes) == 0);
    }
    free(want);
}

// Rows of prompts on matrix units, in halves.
static void check_matrices(const struct shape_case *c, uint32_t n, struct attn_policy attn)
{
    static const uint32_t whole[] = { ROWS_MAX }, odd[] = { 3, 64, 1, 130, 17 };
    struct rig r;
    struct rows x;
    struct err err;
    rig_open(&r, c);
    r.g.exact = false;
    REQUIRE_OK(attn_make_readers(&r.g, vk_info(vk)->subgroup > 8, &err), err);
    rows_init(&x, &r.plan, n);
    run_chunks(&r, &x, whole, 1, 0, attn, 0, false);
    REQUIRE_BELOW(error_of(&r, c, &x, attn, 0), 2e-3);
    float *want = malloc(rows_bytes(&x));
    memcpy(want, x.a, rows_bytes(&x));
    run_chunks(&r, &x, odd, ARRAY_LEN(odd), 7, attn, 0, false);
    REQUIRE(memcmp(want, x.a, rows_bytes(&x)) == 0);
    free(want);
    rows_finish(&x);
    rig_close(&r);
}

TEST(prompts_on_matrices)
{
    struct shape_case c = { .heads = 4, .kv_heads = 2, .dim = 64, .k_type = KV_F16,
                            .v_type = KV_F16 };
    need_device();
    if (!vk_kernel_runs(vk, KERNEL_attn_prompt))
        SKIP("no matrices");
    check_matrices(&c, 150, attn_policy_dense());
    check_matrices(&c, 420, (struct attn_policy){ SELECT_topk, 256, 0, 64 });
    c = (struct shape_case){ .heads = 7, .kv_heads = 1, .dim = 32, .k_type = KV_Q8_0,
                             .v_type = KV_F16, .softcap = 9.0f };
    check_matrices(&c, 200, (struct attn_policy){ SELECT_window, 0, 90, 10 });
}

// With the kernels for narrow subgroups or for wide ones.
static void check(const struct shape_case *c, uint32_t n, uint32_t first, struct attn_policy attn,
                  bool is_wide)
{
    struct rig r;
    struct rows x;
    struct err err;
    rig_open(&r, c);
    rows_init(&x, &r.plan, n);
    REQUIRE_OK(attn_make_readers(&r.g, is_wide, &err), err);
    check_rows(&r, c, &x, first, attn, true);
    check_rows(&r, c, &x, first, attn, false);
    rows_finish(&x);
    rig_close(&r);
}

TEST(shapes)
{
    static const struct shape_case shape[] = {
        { .heads = 2, .kv_heads = 1, .dim = 32, .k_type = KV_F16, .v_type = KV_F16 },
        { .heads = 14, .kv_heads = 2, .dim = 64, .k_type = KV_F16, .v_type = KV_F16 },
        { .heads = 3, .kv_heads = 1, .dim = 80, .k_type = KV_F16, .v_type = KV_F32 },
        { .heads = 12, .kv_heads = 1, .dim = 96, .k_type = KV_Q8_0, .v_type = KV_F16 },
        { .heads = 2, .kv_heads = 2, .dim = 128, .k_type = KV_F16, .v_type = KV_Q8_0 },
        { .heads = 4, .kv_heads = 1, .dim = 256, .k_type = KV_Q8_0, .v_type = KV_Q8_0 },
        { .heads = 5, .kv_heads = 1, .dim = 512, .k_type = KV_F32, .v_type = KV_F32 },
        { .heads = 2, .kv_heads = 1, .dim = 20, .softcap = 5.0f },
    };
    for (size_t i = TEST_SANITIZED; i < ARRAY_LEN(shape); i += TEST_SANITIZED ? 3 : 1)
        check(&shape[i], 266 + (uint32_t)i, 240, attn_policy_dense(), i % 2);
}

TEST(windows_and_sinks)
{
    struct shape_case c = { .heads = 6, .kv_heads = 2, .dim = 32, .k_type = KV_F16 };
    check(&c, 400, 350, (struct attn_policy){ SELECT_window, 0, 90, 70 }, false);
    c.window = 300;
    check(&c, 400, 350, (struct attn_policy){ SELECT_topk, 64, 0, 64 }, false);
}

TEST(topk)
{
    struct shape_case c = {
        .heads = TEST_SANITIZED ? 3 : 7, .kv_heads = 1, .dim = 32, .k_type = KV_F16 };
    check(&c, 520, 490, (struct attn_policy){ SELECT_topk, 320, 0, 100 }, true);
}

// ---- batches ----------------------------------------------------------------------------------

// Generated rows of many sequences at once, at all depths and of all policies, each bit for bit
// what it is alone; and the same whether splits are merged or walked.
TEST(generated_rows_alone_or_among_64)
{
    enum { SEQS = 64, DEPTH = 520 };
    static const struct attn_policy policy[] = {
        { SELECT_dense, 0, 0, 0 }, { SELECT_topk, 256, 0, 64 }, { SELECT_window, 0, 130, 10 } };
    struct shape_case c = { .heads = 4, .kv_heads = 2, .dim = 64, .k_type = KV_F16,
                            .v_type = KV_Q8_0 };
    struct rig r;
    struct rows x;
    uint32_t table[9];
    struct batch_seq seq[SEQS];
    rig_open(&r, &c);
    rows_init(&x, &r.plan, DEPTH);
    table_fill(table, 0, 9);
    struct batch_seq all = { .block = table, .n_blocks = 9, .n_rows = DEPTH };
    struct batch b = { .n_rows = DEPTH, .n_seqs = 1, .seq = &all };
    rows_put(&r, &x, 0, DEPTH, 0);
    step(&r, &b, WRITE | READ);
    uint32_t width = r.plan.slot_width[SLOT_A];
    static float alone[SEQS * 256], among[SEQS * 256];
    for (uint32_t i = 0; i < SEQS; i++) {
        uint32_t pos = i * 8 + i % 7;
        seq[i] = (struct batch_seq){
            .block = table, .n_blocks = 9, .n_rows = 1, .pos0 = pos, .decode = true,
            .attn = policy[i % 3],
        };
        b = (struct batch){ .n_rows = 1, .n_seqs = 1, .seq = &seq[i] };
        rows_put(&r, &x, pos, 1, 0);
        step(&r, &b, READ);
        slot_read(&r, SLOT_A, 0, 1, alone + i * width);
        seq[i].row0 = i;
    }
    for (uint32_t i = 0; i < SEQS; i++)
        rows_put(&r, &x, seq[i].pos0, 1, i);
    b = (struct batch){ .n_rows = SEQS, .n_seqs = SEQS, .seq = seq };
    struct shape s = step(&r, &b, READ);
    REQUIRE(!s.attn_whole && s.attn_slices == 1);
    slot_read(&r, SLOT_A, 0, SEQS, among);
    REQUIRE(memcmp(alone, among, sizeof(alone)) == 0);
    r.g.attn->splits_max = 7;
    REQUIRE(step(&r, &b, READ).attn_whole);
    slot_read(&r, SLOT_A, 0, SEQS, among);
    REQUIRE(memcmp(alone, among, sizeof(alone)) == 0);
    rows_finish(&x);
    rig_close(&r);
}

// ---- a million tokens -------------------------------------------------------------------------

// A choice among more blocks than one walk of the list takes, and than Mesa 22.3 lets a loop take
// steps: the blocks that topk_choose takes for the same scores.
TEST(choice_among_very_many_blocks)
{
    enum { HELD = 34000, DIM = 32 };
    struct shape_case c = {
        .heads = 3, .kv_heads = 1, .dim = DIM, .k_type = KV_F16, .n_blocks = 8 };
    struct rig r;
    struct rows x;
    rig_open(&r, &c);
    rows_init(&x, &r.plan, 8 * KV_BLOCK_TOKENS);
    // Few blocks, taken again and again: very many ties.
    uint32_t *table = malloc(HELD * sizeof(uint32_t)), own[8];
    for (uint32_t i = 0; i < HELD; i++)
        table[i] = (i * 2654435761u >> 16) % 8;
    table_fill(own, 0, 8);
    struct batch_seq seq = { .block = own, .n_blocks = 8, .n_rows = x.n };
    struct batch b = { .n_rows = x.n, .n_seqs = 1, .seq = &seq };
    rows_put(&r, &x, 0, x.n, 0);
    step(&r, &b, WRITE | READ);
    struct attn_policy attn = { SELECT_topk, 1024 * 64, 0, 100 };
    seq = (struct batch_seq){ .block = table, .n_blocks = HELD, .n_rows = 1, .decode = true,
                              .pos0 = HELD * KV_BLOCK_TOKENS - 9, .attn = attn };
    b.n_rows = 1;
    REQUIRE_INT(step(&r, &b, READ).attn_slices, 1);
    REQUIRE_INT(seq.blocks_read, 1024);
    REQUIRE_INT(seq.blocks_held, HELD);

    // So many splits are folded in several goes.
    float split[3 * DIM], whole[3 * DIM];
    slot_read(&r, SLOT_A, 0, 1, split);
    r.g.attn->splits_max = 0;
    step(&r, &b, READ);
    slot_read(&r, SLOT_A, 0, 1, whole);
    REQUIRE(memcmp(split, whole, sizeof(split)) == 0);

    struct topk_split k = topk_split_for(&attn, seq.pos0);
    uint32_t n = HELD - k.sink - k.local, want[1024];
    REQUIRE(n > 32768 && k.sink + k.chosen + k.local == 1024);
    size_t score_bytes = (size_t)n * 16, list_bytes = 1024 * sizeof(uint32_t);
    vk_cmd_begin(r.cmd);
    vk_copy(r.cmd, &r.host, 0, &r.g.attn->scores, 0, score_bytes);
    vk_copy(r.cmd, &r.host, score_bytes, &r.g.attn->list, 0, list_bytes);
    run(&r);
    const uint32_t *key = r.host.map, *list = (uint32_t *)r.host.map + (size_t)n * 4;
    float *score = malloc(n * sizeof(float));
    uint32_t *scratch = malloc(n * sizeof(uint32_t));
    for (uint32_t i = 0; i < n; i++) {
        uint32_t bits = key[4 * i] ^ 0x80000000u;       // of a positive float
        memcpy(&score[i], &bits, sizeof(bits));
    }
    topk_choose(score, n, k.chosen, want + k.sink, scratch);
    for (uint32_t i = 0; i < 1024; i++) {
        if (i >= k.sink && i < k.sink + k.chosen)
            want[i] += k.sink;
        else
            want[i] = i < k.sink ? i : HELD - 1024 + i;
        REQUIRE_INT(list[i], want[i]);
    }
    float sum = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += score[i];
    REQUIRE_BELOW(fabsf(sum - 3.0f), 1e-3);             // a softmax for each query head
    free(score);
    free(scratch);
    free(table);
    rows_finish(&x);
    rig_close(&r);
}

// Rows that choose are taken in as many slices as their scores need.
TEST(slices)
{
    struct shape_case c = { .heads = 3, .kv_heads = 1, .dim = 32, .k_type = KV_F16 };
    struct attn_policy attn = { SELECT_topk, 256, 0, 64 };
    static const uint32_t whole[] = { ROWS_MAX };
    struct rig r;
    struct rows x;
    rig_open(&r, &c);
    rows_init(&x, &r.plan, 400);
    run_chunks(&r, &x, whole, 1, 0, attn, 0, false);
    float *first = malloc(rows_bytes(&x));
    memcpy(first, x.a, rows_bytes(&x));
    r.g.attn->score_bytes_max = 40 * 16;                // of one row at a time, or few
    run_chunks(&r, &x, whole, 1, 0, attn, 0, false);
    REQUIRE(r.g.attn->slice.bytes >= 16 * sizeof(struct attn_slice));
    REQUIRE(memcmp(first, x.a, rows_bytes(&x)) == 0);
    free(first);
    rows_finish(&x);
    rig_close(&r);
}

// ---- pages ------------------------------------------------------------------------------------

// Shaders find a page wherever the table says it is, in memory of the host too.
TEST(pages_may_lie_anywhere)
{
    static const uint32_t whole[] = { ROWS_MAX };
    struct shape_case c = { .heads = 4, .kv_heads = 2, .dim = 64, .k_type = KV_F16,
                            .v_type = KV_Q8_0 };
    struct rig r;
    struct rows x;
    rig_open(&r, &c);
    rows_init(&x, &r.plan, 200);
    run_chunks(&r, &x, whole, 1, 0, attn_policy_dense(), 199, true);
    uint32_t width = r.plan.slot_width[SLOT_A];
    float want[256], got[256];
    memcpy(want, x.a + 199 * width, width * sizeof(float));

    // Its second block through the host into pinned memory, and the old page overwritten.
    struct vk_mem elsewhere;
    uint32_t table[4], block;
    table_fill(table, 0, 4);
    block = table[1];
    uint8_t *bytes = malloc(r.layout.block_bytes);
    alloc(VK_HOME_HOST, r.layout.block_bytes, &elsewhere);
    vulkan_kv_read(&r.g.p, block, bytes);
    uint8_t *garbage = malloc(r.layout.block_bytes);
    memset(garbage, 0xff, r.layout.block_bytes);
    vulkan_kv_write(&r.g.p, block, garbage);
    ((uint64_t *)r.g.kv.page.map)[block] = elsewhere.addr;
    vulkan_kv_write(&r.g.p, block, bytes);
    REQUIRE(memcmp(elsewhere.map, bytes + kv_page_offset(&r.layout, 0), r.layout.page_bytes) == 0);
    struct batch_seq seq = { .block = table, .n_blocks = 4, .n_rows = 1, .pos0 = 199,
                             .decode = true };
    struct batch b = { .n_rows = 1, .n_seqs = 1, .seq = &seq };
    rows_put(&r, &x, 199, 1, 0);
    step(&r, &b, WRITE | READ);
    slot_read(&r, SLOT_A, 0, 1, got);
    REQUIRE(memcmp(want, got, width * sizeof(float)) == 0);
    vulkan_kv_read(&r.g.p, block, garbage);
    REQUIRE(memcmp(garbage, bytes, r.layout.block_bytes) == 0);
    free(bytes);
    free(garbage);
    vk_free(vk, &elsewhere);
    rows_finish(&x);
    rig_close(&r);
}

// Matrix units multiply rows that are not there yet by zero: a NaN of their last owner would stay.
TEST(rows_not_yet_written_are_zeros)
{
    static const uint32_t odd[] = { 66, 4 };
    for (int type = 0; type < KV_TYPE_COUNT; type++) {
        struct shape_case c = { .heads = 2, .kv_heads = 2, .dim = 96, .k_type = (enum kv_type)type,
                                .v_type = (enum kv_type)type };
        struct rig r;
        struct rows x;
        uint32_t table[2];
        rig_open(&r, &c);
        rows_init(&x, &r.plan, 70);
        uint8_t *block = malloc(r.layout.block_bytes);
        table_fill(table, 0, 2);
        memset(block, 0xff, r.layout.block_bytes);
        vulkan_kv_write(&r.g.p, table[1], block);
        run_chunks(&r, &x, odd, 2, 0, attn_policy_dense(), x.n, false);
        vulkan_kv_read(&r.g.p, table[1], block);
        size_t row = type == KV_F32 ? 96 * 4 : type == KV_F16 ? 96 * 2 : 96, scale = 96 / 32 * 2;
        for (uint32_t i = 0; i < 4; i++) {              // K and V of both heads
            const uint8_t *slice = block + kv_page_offset(&r.layout, 0) +
                                   kv_k_offset(&r.layout, i / 2) + i % 2 * r.layout.k_slice_bytes;
            for (size_t k = 6 * row; k < 64 * row; k++)
                REQUIRE_INT(slice[k], 0);
            REQUIRE(slice[6 * row - 1] != 0xff || slice[5 * row] != 0xff);
            for (size_t k = 6 * scale; type == KV_Q8_0 && k < 64 * scale; k++)
                REQUIRE_INT(slice[64 * row + k], 0);
        }
        free(block);
        rows_finish(&x);
        rig_close(&r);
    }
}

TEST(heads_that_do_not_fit_chunks)
{
    struct err err;
    struct rig r = {0};
    struct shape_case c = { .heads = 1, .kv_heads = 1, .dim = 20, .k_type = KV_F16 };
    need_device();
    make_plan(&r, &c);
    r.g = (struct vk_program){
        .vk = vk, .cfg = &r.model.cfg, .plan = &r.plan, .op = r.vk_op,
        .params = { .k_type = KV_F16 } };
    REQUIRE_INT(vk_kv_init(&r.g, &err), -ENOTSUP);
    REQUIRE(strstr(err.msg, "multiple of 8, not 20"));
}
