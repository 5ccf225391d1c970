// Matrix kernels for AVX2 + FMA + F16C: panels of 8 outputs, one register lane each.
//
// Weights (unsigned bytes) meet broadcast activations (signed bytes) in vpmaddubsw; its 16-bit sums
// are collected as long as they cannot overflow, and only then widened to 32 bits, made float and
// scaled. Formats without a min start these sums at -offset * sum(activations), so that 16 bits hold
// a whole group although single products are not centred (wrap-around on the way does no harm).
// 8-bit weights are two 4-bit ones: two products of 8 bits would already fill 16.
#include "engine/exec/cpu/matmul_impl.h"
#include <cpuid.h>
#include <immintrin.h>
#include "base/base.h"

#define INLINE static inline __attribute__((always_inline))

enum { PR = 8, V = PR * 4, N_V = 8 };      // panel rows; bytes of a vector of integers; of a group

// A group of a panel, unpacked.
struct ints {
    __m256i v[N_V];
    __m256  scale;
    union {
        __m256  min;
        __m256i sub[2];         // LAYOUT_6_SUPER: int16 pairs, factors of both halves
        __m256i high[N_V];      // LAYOUT_8: weight = 16 * (high - 8) + v
    };
};

INLINE __m256i load(const void *p)
{
    return _mm256_loadu_si256(p);
}

INLINE __m256 load_f16(const void *p)
{
    return _mm256_cvtph_ps(_mm_loadu_si128(p));
}

INLINE __m256 load_u8(const void *p)
{
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(p)));
}

// Signed bytes s0 s1 .. s7 -> int16 s0 s0 s1 s1 .. s7 s7.
INLINE __m256i load_sub(const void *p)
{
    __m128i s = _mm_loadl_epi64(p);
    return _mm256_cvtepi8_epi16(_mm_unpacklo_epi8(s, s));
}

// Bits [at, at + n) of every byte, moved to bit 4 on; at and n are constants.
INLINE __m256i high_bits(__m256i h, int at, int n)
{
    __m256i mask = _mm256_set1_epi8((char)(((1 << n) - 1) << 4));
    return _mm256_and_si256(at < 4 ? _mm256_slli_epi16(h, 4 - at) : _mm256_srli_epi16(h, at - 4),
                            mask);
}

INLINE void unpack_v(enum cpu_layout l, const uint8_t *p, __m256i v[N_V])
{
    int bits = cpu_shapes[l].bits;
    __m256i low = _mm256_set1_epi8(15), h0 = low, h1 = low;
    if (bits > 4)
        h0 = load(p + 4 * V);
    if (bits > 5)
        h1 = load(p + 5 * V);
    for (int j = 0; j < 4; j++) {
        __m256i x = load(p + j * V);
        v[j] = _mm256_and_si256(x, low);
        v[j + 4] = _mm256_and_si256(_mm256_srli_epi16(x, 4), low);
        if (bits == 5) {
            v[j] = _mm256_or_si256(v[j], high_bits(h0, j, 1));
            v[j + 4] = _mm256_or_si256(v[j + 4], high_bits(h0, j + 4, 1));
        } else if (bits == 6) {
            v[j] = _mm256_or_si256(v[j], high_bits(h0, 2 * j, 2));
            v[j + 4] = _mm256_or_si256(v[j + 4], high_bits(h1, 2 * j, 2));
        }
    }
}

INLINE void unpack_bytes(const uint8_t *p, struct ints *e)
{
    __m256i low = _mm256_set1_epi8(15);
    for (int j = 0; j < N_V; j++) {
        __m256i x = load(p + j * V);
        e->v[j] = _mm256_and_si256(x, low);
        e->high[j] = _mm256_and_si256(_mm256_srli_epi16(x, 4), low);
    }
}

INLINE void unpack(enum cpu_layout l, const uint8_t *panel, uint32_t g, struct ints *e)
{
    uint32_t groups = cpu_shapes[l].groups, header = cpu_shapes[l].header * PR;
    uint32_t i = g % groups;
    const uint8_t *b = panel + g / groups * cpu_block_bytes(l, PR);
    if (l == LAYOUT_8)
        unpack_bytes(b + header, e);
    else
        unpack_v(l, b + header + i * cpu_group_bytes(l, PR), e->v);
    switch (l) {
    case LAYOUT_4_MIN: case LAYOUT_5_MIN:
        e->scale = load_f16(b);
        e->min = load_f16(b + PR * 2);
        break;
    case LAYOUT_4_SUPER: case LAYOUT_5_SUPER:
        e->scale = _mm256_mul_ps(load_f16(b), load_u8(b + PR * (4 + i * 2)));
        e->min = _mm256_mul_ps(load_f16(b + PR * 2), load_u8(b + PR * (5 + i * 2)));
        e->min = _mm256_xor_ps(e->min, _mm256_set1_ps(-0.0f));
        break;
    case LAYOUT_6_SUPER:
        e->scale = _mm256_loadu_ps((const float *)(const void *)b);
        e->sub[0] = load_sub(b + PR * (4 + i * 2));
        e->sub[1] = load_sub(b + PR * (5 + i * 2));
        break;
    default:
        e->scale = load_f16(b);
    }
}

INLINE __m256i bcast32(const void *p)
{
    return _mm256_set1_epi32(*(const int32_t *)p);
}

INLINE __m256i pairs_to_32(__m256i x)
{
    return _mm256_madd_epi16(x, _mm256_set1_epi16(1));
}

// s += d. In assembly because compilers, when they see all additions of a tile, put most of them off and
// spill the products until then.
INLINE void add16(__m256i *s, __m256i d)
{
    __asm__("vpaddw %1, %0, %0" : "+x"(*s) : "x"(d));
}

enum part { LOW, HIGH };

// 16-bit sums of v (or high) [j0 .. j0 + n) for n_p panels and n_r rows; they begin at s, or at zero with !add.
INLINE void sums16(const struct ints *e, enum part part, const struct act_group *const *a, int n_p, int n_r, int j0,
                   int n, bool add, __m256i s[TILE_PANELS][TILE_ROWS])
{
#pragma GCC unroll 8
    for (int j = j0; j < j0 + n; j++) {
        for (int r = 0; r < n_r; r++) {
            __m256i x = bcast32(a[r]->q + j * 4);
            for (int p = 0; p < n_p; p++) {
                __m256i d = _mm256_maddubs_epi16(part == LOW ? e[p].v[j] : e[p].high[j], x);
                if (j > j0 || add)
                    add16(&s[p][r], d);
                else
                    s[p][r] = d;
            }
        }
    }
}

// -offset * sum of activations, spread over the lanes as vpmaddubsw will; which: see act_group.neg.
INLINE void start16(const struct act_group *const *a, int n_p, int n_r, int which, int shift,
                    __m256i s[TILE_PANELS][TILE_ROWS])
{
    for (int r = 0; r < n_r; r++) {
        __m256i x = _mm256_slli_epi16(bcast32(a[r]->neg[which]), shift);
        for (int p = 0; p < n_p; p++)
            s[p][r] = x;
    }
}

#define EACH(p, r) \
    for (int p = 0; p < n_p; p++) \
        for (int r = 0; r < n_r; r++)

// 32-bit dot products of a group. For LAYOUT_6_SUPER they include the factors of its halves.
INLINE void dots(enum cpu_layout l, const struct ints *e, const struct act_group *const *a, int n_p,
                 int n_r, __m256i s[TILE_PANELS][TILE_ROWS])
{
    __m256i t[TILE_PANELS][TILE_ROWS];
    switch (l) {
    case LAYOUT_4_MIN: case LAYOUT_4_SUPER:         // 16 products of 15 * 127 fit
        sums16(e, LOW, a, n_p, n_r, 0, 8, false, s);
        EACH(p, r)
            s[p][r] = pairs_to_32(s[p][r]);
        break;
    case LAYOUT_5_MIN: case LAYOUT_5_SUPER:         // 8 products of 31 * 127 fit
        sums16(e, LOW, a, n_p, n_r, 0, 4, false, t);
        EACH(p, r)
            t[p][r] = pairs_to_32(t[p][r]);
        sums16(e, LOW, a, n_p, n_r, 4, 4, false, s);
        EACH(p, r)
            s[p][r] = _mm256_add_epi32(t[p][r], pairs_to_32(s[p][r]));
        break;
    case LAYOUT_4: case LAYOUT_5:                   // centred: 16 products of 16 * 127 fit
        start16(a, n_p, n_r, 2, l == LAYOUT_4 ? 3 : 4, s);
        sums16(e, LOW, a, n_p, n_r, 0, 8, true, s);
        EACH(p, r)
            s[p][r] = pairs_to_32(s[p][r]);
        break;
    case LAYOUT_6_SUPER:                            // centred: 8 products of 32 * 127 fit
        start16(a, n_p, n_r, 0, 5, t);
        sums16(e, LOW, a, n_p, n_r, 0, 4, true, t);
        EACH(p, r)
            t[p][r] = _mm256_madd_epi16(t[p][r], e[p].sub[0]);
        start16(a, n_p, n_r, 1, 5, s);
        sums16(e, LOW, a, n_p, n_r, 4, 4, true, s);
        EACH(p, r)
            s[p][r] = _mm256_add_epi32(t[p][r], _mm256_madd_epi16(s[p][r], e[p].sub[1]));
        break;
    default:                                        // LAYOUT_8
        sums16(e, LOW, a, n_p, n_r, 0, 8, false, t);
        EACH(p, r)
            t[p][r] = pairs_to_32(t[p][r]);
        __asm__ volatile("" ::: "memory");          // reload activations rather than spill them
        start16(a, n_p, n_r, 2, 3, s);
        sums16(e, HIGH, a, n_p, n_r, 0, 8, true, s);
        EACH(p, r)
            s[p][r] = _mm256_add_epi32(t[p][r], _mm256_madd_epi16(s[p][r], _mm256_set1_epi16(16)));
    }
}

INLINE void group_ints(enum cpu_layout l, const struct ints *e, const struct act_group *const *a,
                       int n_p, int n_r, __m256 acc[TILE_PANELS][TILE_ROWS])
{
    bool has_min = l == LAYOUT_4_MIN || l == LAYOUT_4_SUPER || l == LAYOUT_5_MIN ||
                   l == LAYOUT_5_SUPER;
    __m256i s[TILE_PANELS][TILE_ROWS];
    dots(l, e, a, n_p, n_r, s);
    EACH(p, r) {
        __m256 scale = _mm256_mul_ps(e[p].scale, _mm256_set1_ps(a[r]->scale));
        acc[p][r] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(s[p][r]), scale, acc[p][r]);
        if (has_min)
            acc[p][r] = _mm256_fmadd_ps(e[p].min, _mm256_set1_ps(a[r]->sum), acc[p][r]);
    }
}

INLINE void load_acc(const float *src, int n_p, int n_r, __m256 acc[TILE_PANELS][TILE_ROWS])
{
    EACH(p, r)
        acc[p][r] = _mm256_load_ps(src + (r * n_p + p) * PR);
}

INLINE void store_acc(float *dst, int n_p, int n_r, __m256 acc[TILE_PANELS][TILE_ROWS])
{
    EACH(p, r)
        _mm256_store_ps(dst + (r * n_p + p) * PR, acc[p][r]);
}

INLINE void tile_ints(enum cpu_layout l, const struct ints *e, uint32_t n_groups, struct act_rows a,
                      int n_p, int n_r, float *dst)
{
    __m256 acc[TILE_PANELS][TILE_ROWS];
    load_acc(dst, n_p, n_r, acc);
    for (uint32_t g = 0; g < n_groups; g++, e += n_p, a.p += sizeof(struct act_group)) {
        const struct act_group *row[TILE_ROWS];
        for (int r = 0; r < n_r; r++)
            row[r] = (const void *)(a.p + r * a.stride);
        group_ints(l, e, row, n_p, n_r, acc);
    }
    store_acc(dst, n_p, n_r, acc);
}

// Fetches n bytes that come a little after p: the processor's own prefetching alone reaches three
// quarters of the speed of memory.
INLINE void fetch_ahead(const uint8_t *p, size_t n)
{
    for (size_t i = 0; i < n; i += 64)
        _mm_prefetch((const char *)p + 2048 + i, _MM_HINT_T0);
}

INLINE void direct_ints(enum cpu_layout l, const uint8_t *panel, uint32_t n_groups,
                        struct act_rows a, int n_r, float *dst)
{
    size_t step = cpu_block_bytes(l, PR) / cpu_shapes[l].groups;
    __m256 acc[TILE_PANELS][TILE_ROWS];
    load_acc(dst, 1, n_r, acc);
    for (uint32_t g = 0; g < n_groups; g++, a.p += sizeof(struct act_group)) {
        const struct act_group *row[TILE_ROWS];
        struct ints e;
        for (int r = 0; r < n_r; r++)
            row[r] = (const void *)(a.p + r * a.stride);
        fetch_ahead(panel + g * step, step);
        unpack(l, panel, g, &e);
        group_ints(l, &e, row, 1, n_r, acc);
    }
    store_acc(dst, 1, n_r, acc);
}

// A float weight vector of one input.
INLINE __m256 load_float(enum cpu_layout l, const uint8_t *p)
{
    if (l == LAYOUT_F32)
        return _mm256_loadu_ps((const float *)(const void *)p);
    if (l == LAYOUT_F16)
        return load_f16(p);
    return _mm256_castsi256_ps(
        _mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const void *)p)), 16));
}

// A group of float weights: summed by itself, then added, which keeps rounding errors small.
INLINE void group_floats(enum cpu_layout l, const uint8_t *w, size_t panel_stride, struct act_rows a,
                         int n_p, int n_r, __m256 acc[TILE_PANELS][TILE_ROWS])
{
    size_t step = cpu_group_bytes(l, PR) / GROUP;
    __m256 s[TILE_PANELS][TILE_ROWS];
    EACH(p, r)
        s[p][r] = _mm256_setzero_ps();
    for (int k = 0; k < GROUP; k++) {
        for (int r = 0; r < n_r; r++) {
            __m256 x = _mm256_broadcast_ss((const float *)(const void *)(a.p + r * a.stride) + k);
            for (int p = 0; p < n_p; p++)
                s[p][r] = _mm256_fmadd_ps(load_float(l, w + p * panel_stride + k * step), x,
                                          s[p][r]);
        }
    }
    EACH(p, r)
        acc[p][r] = _mm256_add_ps(acc[p][r], s[p][r]);
}

INLINE void mul_floats(enum cpu_layout l, const uint8_t *w, size_t panel_stride, size_t group_stride,
                       uint32_t n_groups, struct act_rows a, int n_p, int n_r, float *dst)
{
    __m256 acc[TILE_PANELS][TILE_ROWS];
    load_acc(dst, n_p, n_r, acc);
    for (uint32_t g = 0; g < n_groups; g++, w += group_stride, a.p += GROUP * sizeof(float)) {
        if (panel_stride == 0)
            fetch_ahead(w, group_stride);
        group_floats(l, w, panel_stride, a, n_p, n_r, acc);
    }
    store_acc(dst, n_p, n_r, acc);
}

enum { FLOATS_BYTES = GROUP * PR * sizeof(float) };     // an expanded group of floats

INLINE void expand(enum cpu_layout l, const uint8_t *panel, uint32_t g0, uint32_t n, uint8_t *dst,
                   size_t stride)
{
    for (uint32_t g = g0; g < g0 + n; g++, dst += stride) {
        if (l < LAYOUT_F16) {
            unpack(l, panel, g, (struct ints *)(void *)dst);
            continue;
        }
        const uint8_t *w = panel + g * cpu_group_bytes(l, PR);
        for (int k = 0; k < GROUP; k++)
            _mm256_store_ps((float *)(void *)dst + k * PR,
                            load_float(l, w + k * (cpu_group_bytes(l, PR) / GROUP)));
    }
}

INLINE void direct(enum cpu_layout l, const uint8_t *panel, uint32_t n_groups, struct act_rows a,
                   int n_r, float *acc)
{
    if (l < LAYOUT_F16)
        direct_ints(l, panel, n_groups, a, n_r, acc);
    else
        mul_floats(l, panel, 0, cpu_group_bytes(l, PR), n_groups, a, 1, n_r, acc);
}

INLINE void tile(enum cpu_layout l, const void *src, uint32_t n_groups, struct act_rows a, int n_p,
                 int n_r, float *acc)
{
    if (l < LAYOUT_F16)
        tile_ints(l, src, n_groups, a, n_p, n_r, acc);
    else
        mul_floats(LAYOUT_F32, src, FLOATS_BYTES, (size_t)n_p * FLOATS_BYTES, n_groups, a, n_p, n_r,
                   acc);
}

// The functions of one layout: everything above, with its constants folded in.
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

static bool supported(void)
{
    unsigned a, b, c = 0, d;
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}

#define ROW(l, bytes) [LAYOUT_##l] = { direct_##l, expand_##l, tile_##l, bytes }

const struct cpu_kernels cpu_kernels_avx2 = {
    .name = "AVX2",
    .panel_rows = PR,
    .supported = supported,
    .act_prepare = cpu_act_prepare_avx2,
    .mat = {
        ROW(4, sizeof(struct ints)), ROW(4_MIN, sizeof(struct ints)),
        ROW(4_SUPER, sizeof(struct ints)), ROW(5, sizeof(struct ints)),
        ROW(5_MIN, sizeof(struct ints)), ROW(5_SUPER, sizeof(struct ints)),
        ROW(6_SUPER, sizeof(struct ints)), ROW(8, sizeof(struct ints)),
        ROW(F16, FLOATS_BYTES), ROW(BF16, FLOATS_BYTES), ROW(F32, FLOATS_BYTES),
    },
};
