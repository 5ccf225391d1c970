// Matrix kernels of the CPU: every weight format, against double precision, with every set of
// kernels that this processor has; and bit by bit the same result however rows and panels are
// divided.
#include "tests/test.h"
#include <errno.h>
#include <math.h>
#include <sys/mman.h>
#include <unistd.h>
#include "base/base.h"
#include "engine/exec/cpu/matmul.h"
#include "tests/blocks.h"

TEST_MAIN

static const char *const kernel_names[] = { "portable", "AVX2", "AVX-512 VNNI" };

// n bytes that end where an inaccessible page begins: the kernels are built without sanitizers.
static void *guarded(size_t n)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), all = ALIGN_UP(n, page) + page;
    uint8_t *p = mmap(NULL, all, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    REQUIRE(p != MAP_FAILED);
    REQUIRE_INT(mprotect(p + all - page, page, PROT_NONE), 0);
    return p + all - page - n;
}

static void guarded_free(void *p, size_t n)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), all = ALIGN_UP(n, page) + page;
    munmap((uint8_t *)p + n + page - all, all);
}

// A random matrix, packed; everything freed by matrix_free.
struct matrix {
    struct tensor  t;
    struct cpu_mat m;
    uint8_t       *data;
    void          *panel;           // as allocated; m's is a guarded copy
    float         *w;               // (n_out, n_in) decoded
    uint32_t       n_in, n_out;
};

static size_t panels_bytes(const struct matrix *a)
{
    return a->m.n_panels * a->m.panel_bytes;
}

static void matrix_make(struct matrix *a, const struct quant *q, uint32_t n_out, uint32_t n_in,
                        bool exact)
{
    struct err err;
    size_t n = (size_t)n_in * n_out, n_blocks = n / q->block_elems;
    *a = (struct matrix){ .n_in = n_in, .n_out = n_out };
    a->data = malloc(n_blocks * q->block_bytes);
    a->w = malloc(n * sizeof(float));
    REQUIRE(a->data && a->w);
    blocks_fill(q, a->data, n_blocks);
    q->decode(a->data, n, a->w);
    a->t = (struct tensor){ .name = "test", .quant = q, .dim = { n_in, n_out, 1, 1 }, .n_dims = 2,
                            .data = a->data, .bytes = n_blocks * q->block_bytes };
    REQUIRE_OK(cpu_mat_init(&a->m, &a->t, exact, &err), err);
    // In pieces, as threads do.
    uint32_t half = a->m.n_panels / 2;
    cpu_mat_pack(&a->m, half, a->m.n_panels);
    cpu_mat_pack(&a->m, 0, half);
    a->panel = a->m.panel;
    a->m.panel = memcpy(guarded(panels_bytes(a)), a->panel, panels_bytes(a));
}

static void matrix_free(struct matrix *a)
{
    guarded_free(a->m.panel, panels_bytes(a));
    a->m.panel = a->panel;
    cpu_mat_finish(&a->m);
    free(a->data);
    free(a->w);
}

static float *random_rows(uint32_t n_rows, uint32_t n_in)
{
    float *x = malloc((size_t)n_rows * n_in * sizeof(float));
    REQUIRE(x);
    for (size_t i = 0; i < (size_t)n_rows * n_in; i++)
        x[i] = blocks_float();
    return x;
}

// Freed by release.
static uint8_t *prepare(const float *x, uint32_t n_rows, uint32_t n_in, bool exact)
{
    size_t bytes = cpu_act_bytes(n_in, exact);
    REQUIRE(bytes % 64 == 0);
    uint8_t *act = guarded(n_rows * bytes);
    for (uint32_t r = 0; r < n_rows; r++)
        cpu_act_prepare(x + (size_t)r * n_in, n_in, exact, act + r * bytes);
    return act;
}

static void release(uint8_t *act, uint32_t n_rows, uint32_t n_in, bool exact)
{
    guarded_free(act, n_rows * cpu_act_bytes(n_in, exact));
}

// What 8-bit groups make of a row, by the definition: q is the nearest even of x * (127 / amax),
// its scale the one that brings q nearest to x.
static void quantise(float *x, size_t n)
{
    for (size_t g = 0; g < n; g += 32) {
        float amax = 0;
        size_t end = MIN(g + 32, n);
        for (size_t i = g; i < end; i++)
            amax = fmaxf(amax, fabsf(x[i]));
        float inverse = amax > 0 ? 127 / amax : 0;
        double xq = 0, qq = 0;
        for (size_t i = g; i < end; i++) {
            float q = rintf(x[i] * inverse);
            xq += (double)x[i] * q;
            qq += (double)q * q;
            x[i] = q;
        }
        for (size_t i = g; i < end && qq > 0; i++)
            x[i] *= (float)(xq / qq);
    }
}

// Sum of squared errors of y (n_rows, n_out) against products in double, over the sum of squares of
// all terms, which unlike that of the products cannot be small by chance.
static double nmse(const struct matrix *a, const float *x, const float *y, uint32_t n_rows)
{
    double err = 0, all = 0;
    for (uint32_t r = 0; r < n_rows; r++) {
        for (uint32_t o = 0; o < a->n_out; o++) {
            double s = 0;
            for (uint32_t k = 0; k < a->n_in; k++) {
                double d = (double)a->w[(size_t)o * a->n_in + k] * x[(size_t)r * a->n_in + k];
                s += d;
                all += d * d;
            }
            s -= y[(size_t)r * a->n_out + o];
            err += s * s;
        }
    }
    return err / all;
}

static void multiply(const struct matrix *a, const uint8_t *act, uint32_t n_rows, float *y)
{
    struct cpu_mul p = { .act = act, .n_rows = n_rows, .dst = y, .dst_stride = a->n_out,
                         .scale = 1 };
    cpu_mat_mul(&a->m, 0, a->m.n_panels, &p);
}

// Inputs of a shape for a format: as many blocks, or for formats without blocks an odd number.
static uint32_t inputs(const struct quant *q, uint32_t n)
{
    return q->block_elems == 1 ? n + 5 : ALIGN_UP(n, q->block_elems);
}

static const struct { uint32_t n_out, n_in, n_rows; } shapes[] = {
    { 8, 32, 1 }, { 1, 64, 3 }, { 35, 96, 5 }, { 16, 256, 4 }, { 41, 800, 13 }, { 24, 2048, 7 },
    { 7, 4864, 2 }, { 19, 1536, 40 },
};

static void check_errors(const struct quant *q, bool exact)
{
    for (size_t i = 0; i < ARRAY_LEN(shapes); i++) {
        struct matrix a;
        uint32_t n_rows = shapes[i].n_rows, n_in = inputs(q, shapes[i].n_in);
        matrix_make(&a, q, shapes[i].n_out, n_in, exact);
        float *x = random_rows(n_rows, n_in);
        size_t y_bytes = (size_t)n_rows * a.n_out * sizeof(float);
        float *y = guarded(y_bytes);
        uint8_t *act = prepare(x, n_rows, n_in, a.m.exact);
        multiply(&a, act, n_rows, y);
        double e = nmse(&a, x, y, n_rows), bound = a.m.exact ? 1e-12 : 3e-4;
        if (!(e < bound))
            TEST_FAIL("%s %s %u x %u, %u rows: NMSE %g", cpu_kernels_name(), q->name, a.n_out, n_in,
                      n_rows, e);
        if (!a.m.exact) {
            for (uint32_t r = 0; r < n_rows; r++)
                quantise(x + (size_t)r * n_in, n_in);
            e = nmse(&a, x, y, n_rows);
            if (!(e < 1e-12))
                TEST_FAIL("%s %s %u x %u, %u rows: NMSE %g of quantised operands",
                          cpu_kernels_name(), q->name, a.n_out, n_in, n_rows, e);
        }
        free(x);
        guarded_free(y, y_bytes);
        release(act, n_rows, n_in, a.m.exact);
        matrix_free(&a);
    }
}

// Runs f with every set of kernels and format.
static void with_all(void (*f)(const struct quant *q, bool exact), bool exact)
{
    const char *best = cpu_kernels_name();
    for (size_t i = 0; i < ARRAY_LEN(kernel_names); i++) {
        if (cpu_kernels_force(kernel_names[i]) != 0)
            continue;
        for (size_t q = 0; q < QUANT_COUNT; q++)
            f(&quants[q], exact);
    }
    REQUIRE_INT(cpu_kernels_force(best), 0);
}

TEST(product) { with_all(check_errors, false); }
TEST(product_exact) { with_all(check_errors, true); }

// Every row alone gives what it gives among others, and panels may be done in any order and number.
static void check_bits(const struct quant *q, bool exact)
{
    enum { ROWS = 40 };
    static const uint32_t counts[] = { 1, 2, 3, 4, 5, 6, 7, 8, 11, 16, 25, 39 };
    struct matrix a;
    uint32_t n_in = inputs(q, 1280);
    matrix_make(&a, q, 53, n_in, exact);
    float *x = random_rows(ROWS, n_in);
    uint8_t *act = prepare(x, ROWS, n_in, a.m.exact);
    size_t bytes = cpu_act_bytes(n_in, a.m.exact), n = ROWS * (size_t)a.n_out * sizeof(float);
    float *all = malloc(n), *y = malloc(n);
    multiply(&a, act, ROWS, all);
    for (size_t i = 0; i < ARRAY_LEN(counts); i++) {
        memset(y, 0xff, n);
        for (uint32_t r = 0; r < ROWS; r += counts[i])
            multiply(&a, act + r * bytes, MIN(counts[i], ROWS - r), y + r * a.n_out);
        if (memcmp(all, y, n) != 0)
            TEST_FAIL("%s %s: rows by %u differ", cpu_kernels_name(), q->name, counts[i]);
    }
    struct cpu_mul p = { .act = act, .n_rows = ROWS, .dst = y, .dst_stride = a.n_out, .scale = 1 };
    for (uint32_t step = 1; step < a.m.n_panels; step++) {
        memset(y, 0xff, n);
        for (uint32_t end = a.m.n_panels; end > 0; end -= MIN(step, end))
            cpu_mat_mul(&a.m, end - MIN(step, end), end, &p);
        if (memcmp(all, y, n) != 0)
            TEST_FAIL("%s %s: panels by %u differ", cpu_kernels_name(), q->name, step);
    }
    free(x);
    release(act, ROWS, n_in, a.m.exact);
    free(all);
    free(y);
    matrix_free(&a);
}

TEST(same_bits) { with_all(check_bits, false); }
TEST(same_bits_exact) { with_all(check_bits, true); }

// More rows than one block of the loops.
TEST(many_rows)
{
    enum { ROWS = 300, N_IN = 64, N_OUT = 24 };
    struct matrix a;
    matrix_make(&a, &quants[QUANT_q4_1], N_OUT, N_IN, false);
    float *x = random_rows(ROWS, N_IN), y[ROWS * N_OUT], one[N_OUT];
    uint8_t *act = prepare(x, ROWS, N_IN, false);
    multiply(&a, act, ROWS, y);
    for (uint32_t r = 0; r < ROWS; r++) {
        multiply(&a, act + r * cpu_act_bytes(N_IN, false), 1, one);
        REQUIRE(memcmp(one, y + r * N_OUT, sizeof(one)) == 0);
    }
    free(x);
    release(act, ROWS, N_IN, false);
    matrix_free(&a);
}

// dst = or += (product + bias) * scale, in rows wider than the matrix.
static void check_epilogue(const struct quant *q, bool exact)
{
    enum { ROWS = 9, N_OUT = 21, STRIDE = 30 };
    struct matrix a;
    uint32_t n_in = inputs(q, 256);
    matrix_make(&a, q, N_OUT, n_in, exact);
    float *x = random_rows(ROWS, n_in), y[ROWS * N_OUT], z[ROWS * STRIDE], bias[N_OUT];
    uint8_t *act = prepare(x, ROWS, n_in, a.m.exact);
    multiply(&a, act, ROWS, y);
    for (int i = 0; i < N_OUT; i++)
        bias[i] = blocks_float();
    for (int add = 0; add < 2; add++) {
        for (int i = 0; i < ROWS * STRIDE; i++)
            z[i] = (float)i;
        struct cpu_mul p = { .act = act, .n_rows = ROWS, .dst = z, .dst_stride = STRIDE,
                             .bias = bias, .scale = 0.75f, .add = add };
        cpu_mat_mul(&a.m, 0, a.m.n_panels, &p);
        for (int i = 0; i < ROWS * STRIDE; i++) {
            int o = i % STRIDE;
            float was = (float)i, want = was;
            if (o < N_OUT)
                want = (y[i / STRIDE * N_OUT + o] + bias[o]) * 0.75f + (add ? was : 0);
            REQUIRE(fabsf(z[i] - want) <= 1e-5f * fmaxf(1, fabsf(want)));
        }
    }
    free(x);
    release(act, ROWS, n_in, a.m.exact);
    matrix_free(&a);
}

TEST(epilogue) { with_all(check_epilogue, false); }

// The same activations from all kernels, also for zero, tiny and non-finite groups.
TEST(activations)
{
    enum { N = 32 * 64 };
    static float x[N];
    static const float special[] = { 0, 1e-38f, 1e-30f, INFINITY, NAN, -INFINITY, 3e38f, 0.5f };
    const char *best = cpu_kernels_name();
    for (int i = 0; i < N; i++)
        x[i] = blocks_float() * (float)(i / 32 + 1);
    for (size_t i = 0; i < ARRAY_LEN(special); i++) {
        for (int k = 0; k < 32 && special[i] < 1e-20f; k++)
            x[i * 32 + k] = 0;
        x[i * 32 + i] = special[i];
    }
    size_t bytes = cpu_act_bytes(N, false);
    uint8_t *first = NULL;
    for (size_t i = 0; i < ARRAY_LEN(kernel_names); i++) {
        if (cpu_kernels_force(kernel_names[i]) != 0)
            continue;
        uint8_t *act = prepare(x, 1, N, false);
        if (first && memcmp(first, act, bytes) != 0)
            TEST_FAIL("%s prepares other activations", kernel_names[i]);
        if (!first)
            first = act;
        else
            release(act, 1, N, false);
    }
    release(first, 1, N, false);
    REQUIRE_INT(cpu_kernels_force(best), 0);
}

// A NaN or an infinity in a row must reach its outputs.
TEST(poison)
{
    struct matrix a;
    matrix_make(&a, &quants[QUANT_q4_1], 8, 64, false);
    float *x = random_rows(1, 64), y[8];
    static const float bad[] = { NAN, INFINITY, -INFINITY };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        x[40] = bad[i];
        uint8_t *act = prepare(x, 1, 64, false);
        multiply(&a, act, 1, y);
        for (int o = 0; o < 8; o++)
            REQUIRE(!isfinite(y[o]));
        release(act, 1, 64, false);
    }
    free(x);
    matrix_free(&a);
}

TEST(refusals)
{
    struct err err;
    struct cpu_mat m;
    uint8_t data[144];
    struct tensor t = { .name = "odd", .quant = &quants[QUANT_q4_k], .dim = { 288, 1, 1, 1 },
                        .n_dims = 2, .data = data };
    REQUIRE_INT(cpu_mat_init(&m, &t, false, &err), -EINVAL);
    REQUIRE(strstr(err.msg, "odd"));
    t.dim[0] = 256;
    t.dim[1] = 0;
    REQUIRE_INT(cpu_mat_init(&m, &t, false, &err), -EINVAL);
    REQUIRE_INT(cpu_kernels_force("abacus"), -ENOTSUP);
    cpu_mat_finish(NULL);
}
