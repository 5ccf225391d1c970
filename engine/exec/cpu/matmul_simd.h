// The loops around the arithmetic of one set of SIMD kernels, included twice by its file: first for
// the declarations, which need PR (panel rows) and vfloat (a vector of PR floats), then, with
// KERNELS_BODY defined, for the functions, which need
//     unpack       a group of a panel of integers -> struct ints
//     group_ints   acc += products of a group of integers
//     load_float   PR weights of one input as floats
//     fma_float    w * x + sum
// Everything is inlined into one function per layout and tile, with layout, n_p and n_r constant.
#ifndef KERNELS_BODY

#define INLINE static inline __attribute__((always_inline))

enum { V = PR * 4, N_V = 8 };           // bytes of a vector of integers; vectors of a group

struct ints;

// A tile of the product. Its size, n_p panels by n_r rows, travels beside it: clang does not see
// constants through this structure.
struct operands {
    const struct ints      *e;              // (n_p)
    const struct act_group *a[TILE_ROWS];   // (n_r)
};
typedef vfloat accumulators[TILE_PANELS][TILE_ROWS];

#define EACH(p, r) \
    for (int p = 0; p < n_p; p++) \
        for (int r = 0; r < n_r; r++)

#else

INLINE void load_acc(const float *src, int n_p, int n_r, accumulators acc)
{
    EACH(p, r)
        acc[p][r] = *(const vfloat *)(const void *)(src + (r * n_p + p) * PR);
}

INLINE void store_acc(float *dst, int n_p, int n_r, accumulators acc)
{
    EACH(p, r)
        *(vfloat *)(void *)(dst + (r * n_p + p) * PR) = acc[p][r];
}

INLINE void set_rows(struct operands *o, int n_r, struct act_rows a)
{
    for (int r = 0; r < n_r; r++)
        o->a[r] = (const void *)(a.p + r * a.stride);
}

// Fetches n bytes that come a little after p: the processor's own prefetching alone reaches three
// quarters of the speed of memory.
INLINE void fetch_ahead(const uint8_t *p, size_t n)
{
    for (size_t i = 0; i < n; i += 64)
        __builtin_prefetch(p + 2048 + i);
}

INLINE void tile_ints(enum cpu_layout l, const struct ints *e, uint32_t n_groups, struct act_rows a,
                      int n_p, int n_r, float *dst)
{
    struct operands o;
    accumulators acc;
    load_acc(dst, n_p, n_r, acc);
    for (uint32_t g = 0; g < n_groups; g++, e += n_p, a.p += sizeof(struct act_group)) {
        o.e = e;
        set_rows(&o, n_r, a);
        group_ints(l, &o, n_p, n_r, acc);
    }
    store_acc(dst, n_p, n_r, acc);
}

INLINE void direct_ints(enum cpu_layout l, const uint8_t *panel, uint32_t n_groups,
                        struct act_rows a, int n_r, float *dst)
{
    size_t step = cpu_block_bytes(l, PR) / cpu_shapes[l].groups;
    struct ints e;
    struct operands o = { .e = &e };
    const int n_p = 1;
    accumulators acc;
    load_acc(dst, n_p, n_r, acc);
    for (uint32_t g = 0; g < n_groups; g++, a.p += sizeof(struct act_group)) {
        fetch_ahead(panel + g * step, step);
        unpack(l, panel, g, &e);
        set_rows(&o, n_r, a);
        group_ints(l, &o, n_p, n_r, acc);
    }
    store_acc(dst, n_p, n_r, acc);
}

// A group of float weights is summed by itself, then added, which keeps rounding errors small.
INLINE void group_floats(enum cpu_layout l, const uint8_t *w, size_t panel_stride,
                         struct act_rows a, int n_p, int n_r, accumulators acc)
{
    size_t step = cpu_group_bytes(l, PR) / GROUP;
    float room[TILE_ROWS][GROUP] __attribute__((aligned(64)));
    const float *x[TILE_ROWS];
    accumulators s;
    for (int r = 0; r < n_r; r++)
        x[r] = act_floats(a.p + r * a.stride, a.exact, room[r]);
    EACH(p, r)
        s[p][r] = (vfloat){ 0 };
#pragma GCC unroll 8
    for (int k = 0; k < GROUP; k++) {
        vfloat wk[TILE_PANELS];
        for (int p = 0; p < n_p; p++)
            wk[p] = load_float(l, w + p * panel_stride + k * step);
        EACH(p, r)
            s[p][r] = fma_float(wk[p], x[r][k], s[p][r]);
    }
    EACH(p, r)
        acc[p][r] += s[p][r];
}

INLINE void tile_floats(const uint8_t *w, uint32_t n_groups, struct act_rows a, int n_p, int n_r,
                        float *dst)
{
    const size_t panel_stride = cpu_group_bytes(LAYOUT_F32, PR);
    size_t group_bytes = cpu_act_group_bytes(a.exact);
    accumulators acc;
    load_acc(dst, n_p, n_r, acc);
    for (uint32_t g = 0; g < n_groups; g++, w += n_p * panel_stride, a.p += group_bytes)
        group_floats(LAYOUT_F32, w, panel_stride, a, n_p, n_r, acc);
    store_acc(dst, n_p, n_r, acc);
}

INLINE void direct_floats(enum cpu_layout l, const uint8_t *panel, uint32_t n_groups,
                          struct act_rows a, int n_r, float *dst)
{
    const size_t step = cpu_group_bytes(l, PR);
    size_t group_bytes = cpu_act_group_bytes(a.exact);
    const int n_p = 1;
    accumulators acc;
    load_acc(dst, n_p, n_r, acc);
    for (uint32_t g = 0; g < n_groups; g++, panel += step, a.p += group_bytes) {
        fetch_ahead(panel, step);
        group_floats(l, panel, 0, a, n_p, n_r, acc);
    }
    store_acc(dst, n_p, n_r, acc);
}

INLINE void expand_floats(enum cpu_layout l, const uint8_t *w, float *dst)
{
    for (int k = 0; k < GROUP; k++)
        *(vfloat *)(void *)(dst + k * PR) =
            load_float(l, w + k * (cpu_group_bytes(l, PR) / GROUP));
}

INLINE void expand(enum cpu_layout l, const uint8_t *panel, uint32_t g0, uint32_t n, uint8_t *dst,
                   size_t stride)
{
    for (uint32_t g = g0; g < g0 + n; g++, dst += stride) {
        if (cpu_is_float(l))
            expand_floats(l, panel + g * cpu_group_bytes(l, PR), (float *)(void *)dst);
        else
            unpack(l, panel, g, (struct ints *)(void *)dst);
    }
}

INLINE void direct(enum cpu_layout l, const uint8_t *panel, uint32_t n_groups, struct act_rows a,
                   int n_r, float *acc)
{
    if (cpu_is_float(l))
        direct_floats(l, panel, n_groups, a, n_r, acc);
    else
        direct_ints(l, panel, n_groups, a, n_r, acc);
}

INLINE void tile(enum cpu_layout l, const void *src, uint32_t n_groups, struct act_rows a, int n_p,
                 int n_r, float *acc)
{
    if (cpu_is_float(l))
        tile_floats(src, n_groups, a, n_p, n_r, acc);
    else
        tile_ints(l, src, n_groups, a, n_p, n_r, acc);
}

// The functions of one layout.
#define KERNEL(l) \
    static void direct_##l(const void *panel, uint32_t n_groups, struct act_rows a, \
                           uint32_t n_rows, float *acc) \
    { \
        switch (n_rows) { \
        case 1:  direct(LAYOUT_##l, panel, n_groups, a, 1, acc); break; \
        case 2:  direct(LAYOUT_##l, panel, n_groups, a, 2, acc); break; \
        case 3:  direct(LAYOUT_##l, panel, n_groups, a, 3, acc); break; \
        default: direct(LAYOUT_##l, panel, n_groups, a, 4, acc); \
        } \
    } \
    static void expand_##l(const void *panel, uint32_t g0, uint32_t n, void *dst, size_t stride) \
    { \
        expand(LAYOUT_##l, panel, g0, n, dst, stride); \
    } \
    static void tile_##l(const void *src, uint32_t n_groups, uint32_t n_panels, struct act_rows a, \
                         uint32_t n_rows, float *acc) \
    { \
        switch ((n_panels - 1) * TILE_ROWS + n_rows) { \
        case 1:  tile(LAYOUT_##l, src, n_groups, a, 1, 1, acc); break; \
        case 2:  tile(LAYOUT_##l, src, n_groups, a, 1, 2, acc); break; \
        case 3:  tile(LAYOUT_##l, src, n_groups, a, 1, 3, acc); break; \
        case 4:  tile(LAYOUT_##l, src, n_groups, a, 1, 4, acc); break; \
        case 5:  tile(LAYOUT_##l, src, n_groups, a, 2, 1, acc); break; \
        case 6:  tile(LAYOUT_##l, src, n_groups, a, 2, 2, acc); break; \
        case 7:  tile(LAYOUT_##l, src, n_groups, a, 2, 3, acc); break; \
        default: tile(LAYOUT_##l, src, n_groups, a, 2, 4, acc); \
        } \
    }

KERNEL(4)
KERNEL(4_MIN)
KERNEL(4_SUPER)
KERNEL(5)
KERNEL(5_MIN)
KERNEL(5_SUPER)
KERNEL(6_SUPER)
KERNEL(8)
KERNEL(F16)
KERNEL(BF16)
KERNEL(F32)

#define KERNEL_ROW(l) \
    [LAYOUT_##l] = { direct_##l, expand_##l, tile_##l, \
                     cpu_is_float(LAYOUT_##l) ? GROUP * PR * sizeof(float) : sizeof(struct ints) }

#define KERNEL_TABLE { \
        KERNEL_ROW(4), KERNEL_ROW(4_MIN), KERNEL_ROW(4_SUPER), KERNEL_ROW(5), KERNEL_ROW(5_MIN), \
        KERNEL_ROW(5_SUPER), KERNEL_ROW(6_SUPER), KERNEL_ROW(8), KERNEL_ROW(F16), \
        KERNEL_ROW(BF16), KERNEL_ROW(F32), \
    }

#endif
