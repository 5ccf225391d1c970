// Weight matrices: memory, the choice of kernels, and the loops over panels, rows and inputs around
// them. The arithmetic is in matmul_portable.c, matmul_avx2.c and matmul_avx512.c.
#include "engine/exec/cpu/matmul_impl.h"
#include <errno.h>
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include "base/base.h"

enum {
    MAP_MIN      = 128 << 10,   // bytes of a matrix from which on it has a map of its own
    FEW_ROWS     = 4,
    ROWS_BLOCK   = 128,         // rows whose activations stay in the second-level cache
    SCRATCH_BYTES = 32 << 10,   // expanded weights, most of which stay in the first-level cache
};

static const struct cpu_kernels *const all_kernels[] = {     // best first
#ifdef __x86_64__
    &cpu_kernels_avx512, &cpu_kernels_avx2,
#endif
    &cpu_kernels_portable,
};

static _Atomic(const struct cpu_kernels *) chosen;

static const struct cpu_kernels *kernels(void)
{
    const struct cpu_kernels *k = atomic_load_explicit(&chosen, memory_order_acquire);
    for (size_t i = 0; !k; i++)
        if (all_kernels[i]->supported())
            k = all_kernels[i];
    atomic_store_explicit(&chosen, k, memory_order_release);
    return k;
}

const char *cpu_kernels_name(void)
{
    return kernels()->name;
}

int cpu_kernels_force(const char *name)
{
    for (size_t i = 0; i < ARRAY_LEN(all_kernels); i++) {
        if (strcmp(all_kernels[i]->name, name) != 0 || !all_kernels[i]->supported())
            continue;
        atomic_store_explicit(&chosen, all_kernels[i], memory_order_release);
        return 0;
    }
    return -ENOTSUP;
}

enum cpu_layout cpu_layout_of(const struct quant *q, bool exact)
{
    // A format that is not here runs as decoded float32.
    static const struct { enum quant_id id; enum cpu_layout layout; } table[] = {
        { QUANT_f16,  LAYOUT_F16 },     { QUANT_bf16, LAYOUT_BF16 },    // exact as they are
        { QUANT_q4_0, LAYOUT_4 },       { QUANT_q4_1, LAYOUT_4_MIN },
        { QUANT_q5_0, LAYOUT_5 },       { QUANT_q5_1, LAYOUT_5_MIN },
        { QUANT_q8_0, LAYOUT_8 },       { QUANT_q4_k, LAYOUT_4_SUPER },
        { QUANT_q5_k, LAYOUT_5_SUPER }, { QUANT_q6_k, LAYOUT_6_SUPER },
    };
    for (size_t i = 0; i < ARRAY_LEN(table); i++)
        if (q == &quants[table[i].id] && (!exact || cpu_is_float(table[i].layout)))
            return table[i].layout;
    return LAYOUT_F32;
}

// Matrices map their memory: neighbouring maps become one area, which the kernel fills with huge
// pages even where each matrix is smaller than one. A matrix is read once per step from end to end,
// so that address translation would cost several percent of memory speed.
static void *panel_alloc(size_t bytes)
{
    if (bytes < MAP_MIN)
        return aligned_alloc(64, ALIGN_UP(bytes, 64));
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        return NULL;
    (void)madvise(p, bytes, MADV_HUGEPAGE);
    return p;
}

static void panel_free(void *p, size_t bytes)
{
    if (bytes < MAP_MIN)
        free(p);
    else if (p)
        munmap(p, bytes);
}

int cpu_mat_init(struct cpu_mat *m, const struct tensor *t, bool exact, struct err *err)
{
    const struct cpu_kernels *k = kernels();
    uint64_t n_in = t->dim[0], n_out = t->dim[1];
    if (n_in == 0 || n_out == 0 || n_in > INT32_MAX || n_out > INT32_MAX ||
        n_in % t->quant->block_elems != 0)
        return err_set(err, -EINVAL, "%s: %llu x %llu is no matrix of %s", t->name,
                       (unsigned long long)n_out, (unsigned long long)n_in, t->quant->name);
    enum cpu_layout l = cpu_layout_of(t->quant, exact);
    struct cpu_mat r = {
        .t = t, .n_out = (uint32_t)n_out, .n_in = (uint32_t)n_in,
        .panel_rows = k->panel_rows, .n_panels = (uint32_t)DIV_UP(n_out, k->panel_rows),
        .exact = exact, .layout = l, .kernel = &k->mat[l],
    };
    size_t n_blocks = DIV_UP(n_in, (size_t)GROUP * cpu_shapes[l].groups), bytes;
    r.panel_bytes = n_blocks * cpu_block_bytes(l, k->panel_rows);
    if (!mul_size(r.panel_bytes, r.n_panels, &bytes))
        return err_set(err, -EINVAL, "%s: too large", t->name);
    r.panel = panel_alloc(bytes);
    if (!r.panel)
        return err_set(err, -ENOMEM, "%s: no memory for %zu bytes of weights", t->name, bytes);
    *m = r;
    return 0;
}

void cpu_mat_pack(struct cpu_mat *m, uint32_t panel0, uint32_t panel1)
{
    assert(panel0 <= panel1 && panel1 <= m->n_panels);
    for (uint32_t i = panel0; i < panel1; i++)
        cpu_pack_panel(m, m->layout, i);
}

void cpu_mat_finish(struct cpu_mat *m)
{
    if (!m)
        return;
    panel_free(m->panel, m->panel_bytes * m->n_panels);
    *m = (struct cpu_mat){ 0 };
}

size_t cpu_act_bytes(uint32_t n_in, bool exact)
{
    return DIV_UP((size_t)n_in, GROUP) * cpu_act_group_bytes(exact);
}

void cpu_act_prepare(const float *src, uint32_t n_in, bool exact, void *dst)
{
    if (exact) {
        memcpy(dst, src, n_in * sizeof(*src));
        memset((float *)dst + n_in, 0, cpu_act_bytes(n_in, true) - n_in * sizeof(*src));
        return;
    }
    uint32_t n = n_in / GROUP, rest = n_in % GROUP;
    kernels()->act_prepare(src, n, dst);
    if (rest) {                             // of float formats, which have no blocks
        float last[GROUP] = { 0 };
        memcpy(last, src + n * GROUP, rest * sizeof(*src));
        kernels()->act_prepare(last, 1, (struct act_group *)dst + n);
    }
}

typedef float vec4 __attribute__((vector_size(16), aligned(4), may_alias));

// N sums -> outputs o.. of row `row`.
#define STORE(N, T) \
    for (uint32_t i = 0; i < (N); i += sizeof(T) / sizeof(float)) { \
        T v = *(const T *)(acc + i); \
        if (p.bias) \
            v += *(const T *)(p.bias + o + i); \
        v *= p.scale; \
        if (p.add) \
            v += *(const T *)(dst + i); \
        *(T *)(dst + i) = v; \
    }

// acc (row1 - row0, n_panels * panel_rows) of panels from `panel` on -> rows [row0, row1).
static void store_rows(const struct cpu_mat *m, struct cpu_mul p, uint32_t panel, uint32_t n_panels,
                       uint32_t row0, uint32_t row1, const float *acc)
{
    uint32_t width = n_panels * m->panel_rows, o = panel * m->panel_rows;
    uint32_t n = MIN(width, m->n_out - o);
    for (uint32_t row = row0; row < row1; row++, acc += width) {
        float *dst = p.dst + row * p.dst_stride + o;
        if (n == width)
            STORE(width, vec4)
        else
            STORE(n, float)
    }
}

static struct act_rows act_rows(const struct cpu_mat *m, const struct cpu_mul *p)
{
    return (struct act_rows){ p->act, cpu_act_bytes(m->n_in, m->exact), m->exact };
}

static const uint8_t *panel_at(const struct cpu_mat *m, uint32_t panel)
{
    return (const uint8_t *)m->panel + panel * m->panel_bytes;
}

// Few rows: the time goes into reading the packed weights, once.
static void mul_few(const struct cpu_mat *m, uint32_t panel0, uint32_t panel1,
                    const struct cpu_mul *p)
{
    uint32_t n_groups = DIV_UP(m->n_in, GROUP);
    for (uint32_t panel = panel0; panel < panel1; panel++) {
        struct act_rows a = act_rows(m, p);
        for (uint32_t row = 0; row < p->n_rows; row += TILE_ROWS, a.p += TILE_ROWS * a.stride) {
            uint32_t n = MIN(TILE_ROWS, p->n_rows - row);
            float acc[TILE_ROWS * PANEL_ROWS_MAX] __attribute__((aligned(64)));
            memset(acc, 0, n * m->panel_rows * sizeof(*acc));
            m->kernel->direct(panel_at(m, panel), n_groups, a, n, acc);
            store_rows(m, *p, panel, 1, row, row + n, acc);
        }
    }
}

// Rows [row0, row1) of n_panels panels: weights are expanded piece by piece, every piece meets all
// rows, and sums wait in acc (row1 - row0, n_panels * panel_rows).
static void mul_block(const struct cpu_mat *m, uint32_t panel, uint32_t n_panels,
                      const struct cpu_mul *p, uint32_t row0, uint32_t row1, float *acc)
{
    uint8_t scratch[SCRATCH_BYTES] __attribute__((aligned(64)));
    const struct cpu_mat_kernel *k = m->kernel;
    size_t stride = (size_t)n_panels * k->expanded_bytes;
    uint32_t n_groups = DIV_UP(m->n_in, GROUP), width = n_panels * m->panel_rows;
    uint32_t step = SCRATCH_BYTES / (TILE_PANELS * k->expanded_bytes);
    for (uint32_t g = 0; g < n_groups; g += step) {
        uint32_t n = MIN(step, n_groups - g);
        for (uint32_t i = 0; i < n_panels; i++)
            k->expand(panel_at(m, panel + i), g, n, scratch + i * k->expanded_bytes, stride);
        struct act_rows a = act_rows(m, p);
        a.p += row0 * a.stride + g * cpu_act_group_bytes(m->exact);
        for (uint32_t row = row0; row < row1; row += TILE_ROWS, a.p += TILE_ROWS * a.stride)
            k->tile(scratch, n, n_panels, a, MIN(TILE_ROWS, row1 - row),
                    acc + (row - row0) * width);
    }
}

static void mul_many(const struct cpu_mat *m, uint32_t panel0, uint32_t panel1,
                     const struct cpu_mul *p)
{
    float acc[ROWS_BLOCK * TILE_PANELS * PANEL_ROWS_MAX] __attribute__((aligned(64)));
    for (uint32_t row0 = 0; row0 < p->n_rows; row0 += ROWS_BLOCK) {
        uint32_t row1 = MIN(row0 + ROWS_BLOCK, p->n_rows);
        for (uint32_t panel = panel0; panel < panel1; panel += TILE_PANELS) {
            uint32_t n_panels = MIN(TILE_PANELS, panel1 - panel), pr = m->panel_rows;
            memset(acc, 0, (row1 - row0) * n_panels * pr * sizeof(*acc));
            mul_block(m, panel, n_panels, p, row0, row1, acc);
            store_rows(m, *p, panel, n_panels, row0, row1, acc);
        }
    }
}

void cpu_mat_mul(const struct cpu_mat *m, uint32_t panel0, uint32_t panel1, const struct cpu_mul *p)
{
    assert(panel0 <= panel1 && panel1 <= m->n_panels);
    if (p->n_rows <= FEW_ROWS || !m->kernel->expand)
        mul_few(m, panel0, panel1, p);
    else
        mul_many(m, panel0, panel1, p);
}
