// Protects weights and products of the Vulkan executor: every format bit by bit in device memory,
// products against double precision, and that an output's bits depend neither on the batch around
// its row nor on the kernel that integer dot products come from.
#include "tests/test.h"
#include <errno.h>
#include <math.h>
#include "base/clock.h"
#include "engine/exec/vulkan/matmul.h"
#include "engine/exec/vulkan/weights.h"
#include "tests/blocks.h"
#include "tests/vk_device.h"

TEST_MAIN

#define WAIT_NS (300 * NS_PER_S)        // some devices compile in a kernel's first step
#define ROWS_MAX 300
#define OUTPUTS_MAX 70
#define PART_BYTES ((size_t)1 << 20)
#define SLOT_BYTES ((size_t)1 << 16)
#define QUANT_STEP (TEST_SANITIZED ? 4 : 1)     // every format has its own kernels

// ---- a program of one operation ---------------------------------------------------------------

struct rig {
    struct plan   plan;
    struct op     op;
    struct vk_op  vk_op;
    struct vk_program g;
    struct tensor tensor[OP_W_MAX], bias[OP_W_MAX];
    struct vk_cmd *cmd;
};

static bool matrices;                   // products on matrix units
static bool bytes;                      // with wide teams, on matrices of bytes from one row on
static const struct vk_bytes_cut usual_cut;
static enum slot result[] = { SLOT_Q, SLOT_K, SLOT_V };

static struct tensor random_tensor(const struct quant *q, uint32_t n_in, uint32_t n_out)
{
    size_t n = (size_t)n_in * n_out / q->block_elems;
    uint8_t *p = malloc(n * q->block_bytes);
    REQUIRE(p && n_in % q->block_elems == 0);
    blocks_fill(q, p, n);
    return (struct tensor){ .name = "test", .quant = q, .dim = { n_in, n_out, 1, 1 },
                            .n_dims = 2, .data = p, .bytes = n * q->block_bytes };
}

// An operation without matrices yet.
static void rig_init(struct rig *r, uint32_t n_in, bool exact)
{
    need_device();
    *r = (struct rig){ .op.kind = OP_MATMUL, .op.src[0] = SLOT_H };
    r->plan.slot_width[SLOT_H] = n_in;
    r->g.exact = exact;
}

static void rig_mat(struct rig *r, const struct quant *q, uint32_t n_out, bool bias)
{
    unsigned k = r->op.n_w++;
    r->tensor[k] = random_tensor(q, r->plan.slot_width[SLOT_H], n_out);
    r->op.w[k] = &r->tensor[k];
    if (bias) {
        r->bias[k] = random_tensor(&quants[QUANT_f32], n_out, 1);
        r->op.bias[k] = &r->bias[k];
    }
    r->op.dst[k] = result[k];
    r->plan.slot_width[result[k]] = n_out;
}

static void rig_memory(struct rig *r)
{
    struct err err;
    struct vk_program *g = &r->g;
    for (unsigned s = 0; s < SLOT_COUNT; s++) {
        g->stride[s] = ALIGN_UP(r->plan.slot_width[s], 32u);
        if (g->stride[s])
            REQUIRE_OK(vk_alloc(vk, VK_HOME_HOST, ROWS_MAX * g->stride[s] * sizeof(float),
                                &g->slot[s], &err), err);
    }
    if (g->n_vocab)
        REQUIRE_OK(vk_alloc(vk, VK_HOME_HOST, OUTPUTS_MAX * g->n_vocab * sizeof(float),
                            &g->logits, &err), err);
    REQUIRE_OK(vk_alloc(vk, VK_HOME_UPLOAD, sizeof(struct step_head), &g->step.head, &err), err);
    REQUIRE_OK(vk_cmd_create(vk, &r->cmd, &err), err);
}

static void rig_program(struct rig *r)
{
    struct vk_program *g = &r->g;
    r->plan.op = &r->op;
    r->plan.n_ops = 1;
    r->vk_op = (struct vk_op){ .op = &r->op, .gathered = r->op.kind == OP_LOGITS };
    g->vk = vk;
    g->plan = &r->plan;
    g->op = &r->vk_op;
    g->params.rows_max = ROWS_MAX;
    g->params.outputs_max = OUTPUTS_MAX;
    g->n_vocab = r->op.kind == OP_LOGITS ? (uint32_t)r->tensor[0].dim[1] : 0;
}

// Which kernels the device would get, had it no matrices.
static struct vk_matmul_choice usual_choice(void)
{
    need_device();
    return (struct vk_matmul_choice){
        .int_dot = vk_kernel_runs(vk, KERNEL_matvec_dot + QUANT_q4_0),
        .wide = bytes || vk_info(vk)->subgroup > 8, .bytes_from = bytes,
    };
}

static void rig_take(struct rig *r, size_t part_bytes, size_t slot_bytes,
                     struct vk_matmul_choice choice)
{
    struct err err;
    rig_program(r);
    rig_memory(r);
    REQUIRE_OK(vk_weights_take(&r->g, part_bytes, slot_bytes, &err), err);
    if (matrices)
        REQUIRE_OK(vk_matmul_init(&r->g, &err), err);
    else
        REQUIRE_OK(vk_matmul_take(&r->g, &choice, &err), err);
}

static void rig_open(struct rig *r)
{
    rig_take(r, PART_BYTES, SLOT_BYTES, usual_choice());
}

static void rig_close(struct rig *r)
{
    vk_cmd_destroy(r->cmd);
    r->cmd = NULL;
    vk_matmul_finish(&r->g);
    vk_weights_finish(&r->g);
    for (unsigned s = 0; s < SLOT_COUNT; s++)
        vk_free(vk, &r->g.slot[s]);
    vk_free(vk, &r->g.logits);
    vk_free(vk, &r->g.step.head);
}

static void rig_finish(struct rig *r)
{
    rig_close(r);
    for (unsigned k = 0; k < OP_W_MAX; k++) {
        free((void *)(uintptr_t)r->tensor[k].data);
        free((void *)(uintptr_t)r->bias[k].data);
    }
}

static void put_rows(struct rig *r, enum slot s, const float *x, uint32_t n_rows)
{
    uint32_t width = r->plan.slot_width[s];
    for (uint32_t i = 0; i < n_rows; i++)
        memcpy((float *)r->g.slot[s].map + (size_t)i * r->g.stride[s], x + (size_t)i * width,
               width * sizeof(float));
}

// Runs the operation on rows of x (n_rows, n_in), in a shape for more of them.
static void run(struct rig *r, const float *x, uint32_t n_rows, uint32_t n_shape)
{
    struct err err;
    bool logits = r->op.kind == OP_LOGITS;
    struct shape shape = { .n_prompt = logits ? 0 : n_shape, .n_out = logits ? n_shape : 0 };
    *(struct step_head *)r->g.step.head.map = (struct step_head){
        .n_rows = logits ? 1 : n_rows, .n_out = logits ? n_rows : 0,
    };
    put_rows(r, SLOT_H, x, n_rows);
    vk_cmd_begin(r->cmd);
    vk_matmul_record(&r->g, r->cmd, &r->vk_op, &shape);
    REQUIRE_OK(vk_cmd_end(r->cmd, &err), err);
    REQUIRE_OK(vk_run(vk, r->cmd, WAIT_NS, &err), err);
}

// Element o of row i of result k.
static float *at(const struct rig *r, unsigned k, uint32_t i, uint32_t o)
{
    if (r->op.kind == OP_LOGITS)
        return (float *)r->g.logits.map + (size_t)i * r->g.n_vocab + o;
    return (float *)r->g.slot[result[k]].map + (size_t)i * r->g.stride[result[k]] + o;
}

static float *random_rows(uint32_t n_rows, uint32_t n_in)
{
    float *x = malloc((size_t)n_rows * n_in * sizeof(float));
    REQUIRE(x);
    for (size_t i = 0; i < (size_t)n_rows * n_in; i++)
        x[i] = blocks_float();
    return x;
}

static float *decoded(const struct tensor *t)
{
    size_t n = t->dim[0] * t->dim[1];
    float *w = malloc(n * sizeof(float));
    REQUIRE(w);
    t->quant->decode(t->data, n, w);
    return w;
}

// Inputs of a shape for a format: whole blocks, or for formats without blocks an odd number.
static uint32_t inputs(const struct quant *q, uint32_t n)
{
    return q->block_elems == 1 ? n + 5 : ALIGN_UP(n, q->block_elems);
}

// ---- weights ----------------------------------------------------------------------------------

// The identity times the matrix is the matrix: each element by itself, exactly.
static void check_values(const struct quant *q, uint32_t n_in, uint32_t n_out)
{
    struct rig r;
    rig_init(&r, n_in, true);
    rig_mat(&r, q, n_out, false);
    rig_open(&r);
    float *w = decoded(&r.tensor[0]), *x = calloc((size_t)ROWS_MAX * n_in, sizeof(float));
    REQUIRE(x);
    for (uint32_t first = 0, n; first < n_in; first += n) {
        n = MIN(n_in - first, (uint32_t)ROWS_MAX);
        memset(x, 0, (size_t)n * n_in * sizeof(float));
        for (uint32_t i = 0; i < n; i++)
            x[(size_t)i * n_in + first + i] = 1.0f;
        run(&r, x, n, n);
        for (uint32_t i = 0; i < n; i++)
            for (uint32_t o = 0; o < n_out; o++)
                if (*at(&r, 0, i, o) != w[(size_t)o * n_in + first + i])
                    TEST_FAIL("%s: element %u of row %u is %g, not %g", q->name, first + i, o,
                              *at(&r, 0, i, o), w[(size_t)o * n_in + first + i]);
    }
    free(w);
    free(x);
    rig_finish(&r);
}

TEST(values)
{
    for (unsigned q = 0; q < QUANT_COUNT; q++) {
        check_values(&quants[q], inputs(&quants[q], 32), 49);
        check_values(&quants[q], inputs(&quants[q], 480), 7);
    }
}

// Several parts, and many slots on the way to them.
TEST(parts)
{
    for (unsigned q = QUANT_f16; q <= QUANT_q4_0; q++) {
        struct rig r;
        uint32_t n_in = inputs(&quants[q], 64), n_out = 500;
        rig_init(&r, n_in, true);
        rig_mat(&r, &quants[q], n_out, true);
        rig_take(&r, 5000, 1000, usual_choice());
        REQUIRE(r.g.mat[0].n_parts > 3);
        float *w = decoded(&r.tensor[0]), *x = calloc(n_in, sizeof(float));
        const float *bias = r.bias[0].data;
        x[n_in - 1] = 1.0f;
        run(&r, x, 1, 1);
        for (uint32_t o = 0; o < n_out; o++)
            REQUIRE(*at(&r, 0, 0, o) == w[(size_t)o * n_in + n_in - 1] + bias[o]);
        free(w);
        free(x);
        rig_finish(&r);
    }
}

static int stop_at_half(void *ctx, uint64_t done_bytes, uint64_t total_bytes)
{
    (*(uint32_t *)ctx)++;
    return done_bytes > total_bytes / 2;
}

static int count_calls(void *ctx, uint64_t done_bytes, uint64_t total_bytes)
{
    uint64_t *sum = ctx;
    REQUIRE(done_bytes > *sum && done_bytes <= total_bytes);
    *sum = done_bytes;
    return 0;
}

TEST(progress)
{
    struct err err;
    struct rig r;
    uint32_t calls = 0;
    uint64_t done = 0;
    rig_init(&r, 256, false);
    rig_mat(&r, &quants[QUANT_q8_0], 1000, false);
    rig_program(&r);
    r.g.params.progress = stop_at_half;
    r.g.params.progress_ctx = &calls;
    REQUIRE_INT(vk_weights_take(&r.g, PART_BYTES, 10000, &err), -ECANCELED);
    REQUIRE(calls > 3);
    rig_close(&r);
    r.g.params.progress = count_calls;
    r.g.params.progress_ctx = &done;
    REQUIRE_OK(vk_weights_take(&r.g, PART_BYTES, 10000, &err), err);
    REQUIRE_INT(done, r.tensor[0].bytes);
    rig_finish(&r);
}

TEST(refusals)
{
    struct err err;
    struct rig r;
    rig_init(&r, 256, false);
    rig_mat(&r, &quants[QUANT_q4_k], 10, false);
    r.tensor[0].dim[0] = 288;
    rig_program(&r);
    REQUIRE_INT(vk_weights_take(&r.g, PART_BYTES, SLOT_BYTES, &err), -EINVAL);
    REQUIRE(strstr(err.msg, "test"));
    rig_close(&r);
    r.tensor[0].dim[0] = 256;
    REQUIRE_INT(vk_weights_take(&r.g, 100, SLOT_BYTES, &err), -ENOTSUP);
    rig_finish(&r);
}

// A tensor that is used twice is taken in once.
TEST(tied)
{
    struct err err;
    struct rig r;
    rig_init(&r, 64, false);
    rig_mat(&r, &quants[QUANT_q8_0], 96, false);
    rig_mat(&r, &quants[QUANT_q8_0], 96, false);
    r.op.w[1] = r.op.w[0];
    rig_program(&r);
    REQUIRE_OK(vk_weights_take(&r.g, PART_BYTES, SLOT_BYTES, &err), err);
    REQUIRE_INT(r.g.n_mats, 1);
    REQUIRE(r.vk_op.mat[0] == r.vk_op.mat[1]);
    rig_finish(&r);
}

// ---- products ---------------------------------------------------------------------------------

// What 8-bit groups make of a row, by the definition: q is the nearest even of x * (127 / amax),
// its scale the one that brings q nearest to x.
static void quantise(float *x, size_t n)
{
    for (float *end = x + n; x < end; x += 32) {
        float amax = 0;
        double xq = 0, qq = 0;
        for (int i = 0; i < 32; i++)
            amax = fmaxf(amax, fabsf(x[i]));
        float inverse = amax > 0 ? 127 / amax : 0;
        for (int i = 0; i < 32; i++) {
            float q = rintf(x[i] * inverse);
            xq += (double)x[i] * q;
            qq += (double)q * q;
            x[i] = q;
        }
        for (int i = 0; i < 32 && qq > 0; i++)
            x[i] *= (float)(xq / qq);
    }
}

// Sum of squared errors of result 0 against products in double, over the sum of squares of all
// terms, which unlike that of the products cannot be small by chance.
static double nmse(const struct rig *r, const float *w, const float *x, uint32_t n_rows)
{
    size_t n_in = r->plan.slot_width[SLOT_H], n_out = r->tensor[0].dim[1];
    double err = 0, all = 0;
    for (uint32_t i = 0; i < n_rows; i++)
        for (size_t o = 0; o < n_out; o++) {
            double s = 0;
            for (size_t k = 0; k < n_in; k++) {
                double d = (double)w[o * n_in + k] * x[i * n_in + k];
                s += d;
                all += d * d;
            }
            s -= *at(r, 0, i, (uint32_t)o);
            err += s * s;
        }
    return err / all;
}

static const struct { uint32_t n_in, n_out, n_rows; } shapes[] = {
    { 32, 8, 1 }, { 64, 49, 2 }, { 576, 129, 3 }, { 640, 33, 8 }, { 896, 31, 65 }, { 2048, 17, 5 },
};

static void check_product(const struct quant *q, unsigned i, bool exact)
{
    struct rig r;
    uint32_t n_in = inputs(q, shapes[i].n_in), n_rows = shapes[i].n_rows;
    bool floats = exact || q->ints->group == QUANT_GROUP_NONE;
    rig_init(&r, n_in, exact);
    rig_mat(&r, q, shapes[i].n_out, false);
    rig_open(&r);
    float *w = decoded(&r.tensor[0]), *x = random_rows(n_rows, n_in);
    run(&r, x, n_rows, n_rows);
    double e = nmse(&r, w, x, n_rows), bound = floats ? 1e-12 : 3e-4;
    if (matrices && !exact) {           // operands are halves
        bound = 1e-6;
        floats = true;
    }
    if (!(e < bound))
        TEST_FAIL("%s %u x %u, %u rows: NMSE %g", q->name, shapes[i].n_out, n_in, n_rows, e);
    if (!floats) {
        quantise(x, (size_t)n_rows * n_in);
        e = nmse(&r, w, x, n_rows);
        // A device may divide with an error of a few units; then a tie can be rounded otherwise.
        if (!(e < 1e-7))
            TEST_FAIL("%s %u x %u, %u rows: NMSE %g of quantised operands", q->name,
                      shapes[i].n_out, n_in, n_rows, e);
    }
    free(w);
    free(x);
    rig_finish(&r);
}

TEST(product)
{
    for (unsigned q = 0; q < QUANT_COUNT; q += QUANT_STEP)
        for (unsigned i = 0; i < ARRAY_LEN(shapes); i++)
            check_product(&quants[q], i, false);
}

TEST(product_exact)
{
    for (unsigned q = 0; q < QUANT_COUNT; q++)
        for (unsigned i = q % 2; i < ARRAY_LEN(shapes); i += 2)
            check_product(&quants[q], i, true);
}

static void need_matrices(void)
{
    need_device();
    if (!vk_kernel_runs(vk, KERNEL_matmul))
        SKIP("a device or a build without cooperative matrices");
}

TEST(product_on_matrices)
{
    need_matrices();
    matrices = true;
    for (unsigned q = 0; q < QUANT_COUNT; q += QUANT_STEP)
        for (unsigned i = 0; i < ARRAY_LEN(shapes); i++)
            check_product(&quants[q], i, false);
    matrices = false;
}

// Bits of results for `n` rows from row `first` of x, in a shape for n_shape rows, against those of
// all rows at once.
static void require_rows(struct rig *r, const float *x, const float *all, uint32_t first,
                         uint32_t n, uint32_t n_shape)
{
    uint32_t n_in = r->plan.slot_width[SLOT_H], n_out = (uint32_t)r->tensor[0].dim[1];
    run(r, x + (size_t)first * n_in, n, n_shape);
    for (uint32_t i = 0; i < n; i++)
        if (memcmp(at(r, 0, i, 0), all + (size_t)(first + i) * n_out, n_out * sizeof(float)) != 0)
            TEST_FAIL("%s: row %u differs among %u", r->tensor[0].quant->name, first + i, n);
}

static void check_bits(const struct quant *q, bool exact, bool wide)
{
    enum { ROWS = 40, N_OUT = 37 };
    static const uint32_t counts[] = { 1, 2, 3, 5, 8, 13, 16, 17, 33 };
    static float all[ROWS * N_OUT];
    struct rig r;
    uint32_t n_in = inputs(q, 1280);
    rig_init(&r, n_in, exact);
    rig_mat(&r, q, N_OUT, false);
    float *x = random_rows(ROWS, n_in);
    for (int int_dot = 0; int_dot <= usual_choice().int_dot; int_dot++) {
        const struct vk_matmul_choice choice = { .int_dot = int_dot, .wide = wide };
        rig_take(&r, PART_BYTES, SLOT_BYTES, choice);
        run(&r, x, ROWS, ROWS);
        for (uint32_t i = 0; i < ROWS; i++) {
            if (int_dot && memcmp(all + i * N_OUT, at(&r, 0, i, 0), N_OUT * sizeof(float)) != 0)
                TEST_FAIL("%s: integer dot products differ", q->name);
            memcpy(all + i * N_OUT, at(&r, 0, i, 0), N_OUT * sizeof(float));
        }
        for (unsigned i = 0; i < ARRAY_LEN(counts); i++)
            require_rows(&r, x, all, i, MIN(counts[i], ROWS - i), counts[i] + i % 2 * 3);
        rig_close(&r);
    }
    free(x);
    rig_finish(&r);
}

TEST(same_bits)
{
    bool wide = usual_choice().wide;
    for (unsigned q = 0; q < QUANT_COUNT; q += QUANT_STEP)
        check_bits(&quants[q], false, wide);
    check_bits(&quants[QUANT_q4_k], true, wide);
}

TEST(same_bits_on_matrices)
{
    need_matrices();
    matrices = true;
    check_bits(&quants[QUANT_q4_k], false, true);
    check_bits(&quants[QUANT_q8_0], false, true);
    check_bits(&quants[QUANT_f16], false, true);
    matrices = false;
}

static void need_bytes(void)
{
    need_device();
    if (!vk_matmul_has_bytes(vk))
        SKIP("a device or a build without matrices of bytes");
}

TEST(product_on_bytes)
{
    need_bytes();
    bytes = true;
    for (unsigned q = QUANT_q4_0; q < QUANT_COUNT; q += QUANT_STEP)
        for (unsigned i = q % 3; i < ARRAY_LEN(shapes); i += 3)
            check_product(&quants[q], i, false);
    bytes = false;
}

// What an operation makes of rows of x, those that the shape has and the step has not included.
static float *results(struct rig *r, struct vk_matmul_choice choice, const float *x,
                      uint32_t n_rows, uint32_t n_shape)
{
    uint32_t n_w = r->op.flags & OP_GLU_OUT ? 1 : r->op.n_w, n = 0;
    float *y = calloc((size_t)OP_W_MAX * n_shape * OUTPUTS_MAX, sizeof(*y));
    REQUIRE(y);
    rig_take(r, PART_BYTES, SLOT_BYTES, choice);
    for (unsigned k = 0; k < n_w; k++)
        for (uint32_t i = 0; i < n_shape; i++)
            for (uint32_t o = 0; o < r->tensor[k].dim[1]; o++)
                *at(r, k, i, o) = (float)(i + o) / 8;
    run(r, x, n_rows, n_shape);
    for (unsigned k = 0; k < n_w; k++)
        for (uint32_t i = 0; i < n_shape; i++)
            for (uint32_t o = 0; o < r->tensor[k].dim[1]; o++)
                y[n++] = *at(r, k, i, o);
    REQUIRE(n <= OP_W_MAX * n_shape * OUTPUTS_MAX);
    rig_close(r);
    return y;
}

// Matrices of bytes, in this cut, against vectors.
static void require_same(struct rig *r, uint32_t n_rows, uint32_t n_shape,
                         struct vk_bytes_cut cut)
{
    struct vk_matmul_choice choice = { .outs = 1, .depth = 1, .wide = true, .cut = cut };
    float *x = random_rows(n_rows, r->plan.slot_width[SLOT_H]);
    float *want = results(r, choice, x, n_rows, n_shape);
    choice.bytes_from = 1;
    float *got = results(r, choice, x, n_rows, n_shape);
    for (uint32_t i = 0; i < OP_W_MAX * n_shape * OUTPUTS_MAX; i++)
        if (memcmp(&got[i], &want[i], sizeof(float)) != 0)
            TEST_FAIL("%s, %u inputs, %u rows: result %u is %a, not %a", r->tensor[0].quant->name,
                      r->plan.slot_width[SLOT_H], n_rows, i, (double)got[i], (double)want[i]);
    free(x);
    free(want);
    free(got);
}

// Classes of groups of equal and of different lengths, and without any; odd outputs; all counts of
// rows of a tile.
TEST(same_bits_on_bytes)
{
    static const struct { uint32_t n_in, n_out, n_rows, n_shape; } sizes[] = {
        { 32, 8, 1, 1 }, { 96, 33, 7, 8 }, { 512, 17, 16, 16 }, { 1024, 49, 64, 64 },
        { 1280, 37, 13, 16 }, { 2304, 70, 33, 48 },
    };
    need_bytes();
    for (unsigned q = QUANT_q4_0; q < QUANT_COUNT; q += QUANT_STEP)
        for (unsigned i = 0; i < ARRAY_LEN(sizes); i++) {
            struct rig r;
            rig_init(&r, inputs(&quants[q], sizes[i].n_in), false);
            rig_mat(&r, &quants[q], sizes[i].n_out, i % 2);
            r.op.flags = i / 2 % 2 ? OP_ADD : 0;
            r.op.matmul.scale = 0.75f;
            require_same(&r, sizes[i].n_rows, sizes[i].n_shape, usual_cut);
            rig_finish(&r);
        }
}

TEST(same_bits_of_cuts_on_bytes)
{
    static const enum quant_id id[] = { QUANT_q5_k, QUANT_q6_k };
    need_bytes();
    uint32_t m = vk_info(vk)->tile_s8.m;
    const struct vk_bytes_cut cut[] = {
        { 2 * m, 2 * m, 2, 2 }, { 2 * m, m, 1, 1 }, { 3 * m, m, 3, 1 },
    };
    for (unsigned q = 0; q < ARRAY_LEN(id); q++)
        for (unsigned i = 0; i < ARRAY_LEN(cut); i++) {
            struct rig r;
            rig_init(&r, 1792, false);
            rig_mat(&r, &quants[id[q]], 39, true);
            require_same(&r, 35, 48, cut[i]);
            rig_finish(&r);
        }
}

TEST(same_bits_on_bytes_of_several)
{
    static const enum quant_id id[] = { QUANT_q4_k, QUANT_q4_k, QUANT_q6_k };
    struct rig r;
    need_bytes();
    rig_init(&r, 768, false);
    for (unsigned k = 0; k < 3; k++)
        rig_mat(&r, &quants[id[k]], 33 + 16 * k, k == 1);
    require_same(&r, 19, 32, usual_cut);
    rig_finish(&r);
}

TEST(same_bits_on_bytes_of_gates)
{
    static const enum quant_id id[] = { QUANT_q4_0, QUANT_q4_k, QUANT_q5_1, QUANT_q6_k };
    need_bytes();
    for (unsigned i = 0; i < ARRAY_LEN(id); i++) {
        struct rig r;
        rig_init(&r, 1280, false);
        rig_mat(&r, &quants[id[i]], 45, true);
        rig_mat(&r, &quants[id[i]], 45, i % 2);
        r.op.flags = OP_GLU_OUT;
        r.op.matmul.act = i % 2 ? ACT_SILU : ACT_GELU_TANH;
        require_same(&r, 21, 32, usual_cut);
        rig_finish(&r);
    }
}

TEST(same_bits_on_bytes_of_logits)
{
    struct rig r;
    need_bytes();
    rig_init(&r, 1280, false);
    rig_mat(&r, &quants[QUANT_q6_k], 69, false);
    r.op.kind = OP_LOGITS;
    r.op.logits.scale = 0.3f;
    r.op.logits.softcap = 2.5f;
    require_same(&r, 18, 32, usual_cut);
    rig_finish(&r);
}

// On a device with small subgroups too.
TEST(same_bits_of_wide_teams)
{
    check_bits(&quants[QUANT_q6_k], false, true);
}

// Rows that the shape has and the step has not stay as they are.
TEST(rows_past_the_end)
{
    struct rig r;
    rig_init(&r, 64, false);
    rig_mat(&r, &quants[QUANT_q4_1], 21, false);
    rig_open(&r);
    float *x = random_rows(1, 64);
    for (uint32_t i = 0; i < 40; i++)
        for (uint32_t o = 0; o < 21; o++)
            *at(&r, 0, i, o) = 77.0f;
    run(&r, x, 1, 40);
    REQUIRE(*at(&r, 0, 0, 20) != 77.0f);
    for (uint32_t i = 1; i < 40; i++)
        for (uint32_t o = 0; o < 21; o++)
            REQUIRE(*at(&r, 0, i, o) == 77.0f);
    free(x);
    rig_finish(&r);
}

// Several matrices of any formats, with and without biases, set or added.
static void check_epilogue(enum quant_id a, enum quant_id b, bool add)
{
    enum { ROWS = 3, N_IN = 256 };
    static const uint32_t n_out[] = { 70, 33, 33 };
    const enum quant_id id[] = { a, b, a };
    struct rig r;
    rig_init(&r, N_IN, true);
    for (unsigned k = 0; k < 3; k++)
        rig_mat(&r, &quants[id[k]], n_out[k], k != 1);
    r.op.flags = add ? OP_ADD : 0;
    r.op.matmul.scale = 0.75f;
    rig_open(&r);
    float *x = random_rows(ROWS, N_IN);
    for (unsigned k = 0; k < 3; k++)
        for (uint32_t i = 0; i < ROWS * n_out[k]; i++)
            *at(&r, k, i / n_out[k], i % n_out[k]) = (float)i;
    run(&r, x, ROWS, ROWS);
    for (unsigned k = 0; k < 3; k++) {
        float *w = decoded(&r.tensor[k]);
        const float *bias = r.bias[k].data;
        for (uint32_t i = 0; i < ROWS * n_out[k]; i++) {
            uint32_t row = i / n_out[k], o = i % n_out[k];
            double want = bias ? bias[o] : 0, size = i + 1;
            for (uint32_t j = 0; j < N_IN; j++) {
                want += (double)w[o * N_IN + j] * x[row * N_IN + j];
                size += fabs((double)w[o * N_IN + j] * x[row * N_IN + j]);
            }
            want = add ? want * 0.75 + i : want;
            REQUIRE(fabs(*at(&r, k, row, o) - want) <= 1e-6 * size);
        }
        free(w);
    }
    free(x);
    rig_finish(&r);
}

TEST(epilogue)
{
    check_epilogue(QUANT_q4_k, QUANT_q4_k, false);
    check_epilogue(QUANT_q4_k, QUANT_q6_k, true);
    check_epilogue(QUANT_f16, QUANT_f16, true);
}

static void check_logits(float softcap)
{
    enum { ROWS = 5, N_IN = 64, N_OUT = 300 };
    struct rig r;
    rig_init(&r, N_IN, true);
    rig_mat(&r, &quants[QUANT_q8_0], N_OUT, false);
    r.op.kind = OP_LOGITS;
    r.op.logits.scale = 0.3f;
    r.op.logits.softcap = softcap;
    rig_open(&r);
    float *x = random_rows(ROWS, N_IN), *w = decoded(&r.tensor[0]);
    run(&r, x, ROWS, 8);
    for (uint32_t i = 0; i < ROWS * N_OUT; i++) {
        double want = 0;
        for (uint32_t j = 0; j < N_IN; j++)
            want += (double)w[i % N_OUT * N_IN + j] * x[i / N_OUT * N_IN + j];
        want *= (double)0.3f;
        if (softcap > 0)
            want = (double)softcap * tanh(want / (double)softcap);
        REQUIRE(fabs(*at(&r, 0, i / N_OUT, i % N_OUT) - want) <= 4e-6 * fmax(1, fabs(want)));
    }
    free(x);
    free(w);
    rig_finish(&r);
}

TEST(logits)
{
    check_logits(0.0f);
    check_logits(2.5f);
}

// A NaN or an infinity in a row must reach its outputs, and only those.
TEST(poison)
{
    static const float bad[] = { NAN, INFINITY, -INFINITY };
    static const enum quant_id id[] = { QUANT_q4_0, QUANT_q4_1, QUANT_q6_k, QUANT_f16 };
    for (unsigned k = 0; k < ARRAY_LEN(id); k++)
        for (unsigned i = 0; i < ARRAY_LEN(bad); i++) {
            struct rig r;
            rig_init(&r, 256, false);
            rig_mat(&r, &quants[id[k]], 9, false);
            rig_open(&r);
            float *x = random_rows(3, 256);
            x[256 + 40] = bad[i];
            run(&r, x, 3, 3);
            for (uint32_t j = 0; j < 27; j++)
                REQUIRE(isfinite(*at(&r, 0, j / 9, j % 9)) == (j / 9 != 1));
            free(x);
            rig_finish(&r);
        }
}

// Groups of zeros and of tiny numbers.
TEST(zeros)
{
    struct rig r;
    rig_init(&r, 256, false);
    rig_mat(&r, &quants[QUANT_q4_k], 9, false);
    rig_open(&r);
    float *x = calloc(256, sizeof(*x));
    x[3] = 1e-38f;
    x[70] = -1e-33f;
    run(&r, x, 1, 1);
    for (uint32_t o = 0; o < 9; o++)
        REQUIRE(fabsf(*at(&r, 0, 0, o)) < 1e-30f);
    free(x);
    rig_finish(&r);
}
