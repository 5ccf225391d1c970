// Matrix kernels for AVX-512 with VNNI: panels of 16 outputs, one register lane each.
//
// vpdpbusd adds four products of unsigned weights and signed activations to a 32-bit sum, which
// holds any group. Formats without a min start it at -offset * sum(activations), which is exact.
#include <immintrin.h>
#include "engine/exec/cpu/matmul_impl.h"

#define PR 16
typedef __m512 vfloat;
#include "engine/exec/cpu/matmul_simd.inc"

// A group of a panel, unpacked.
struct ints {
    __m512i v[N_V];
    __m512  scale;
    union {
        __m512  min;
        __m512i sub[2];         // LAYOUT_6_SUPER: factors of both halves
    };
};

INLINE __m512i load(const void *p)
{
    return _mm512_loadu_si512(p);
}

INLINE __m512 load_f16(const void *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256(p));
}

INLINE __m512 load_u8(const void *p)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(p)));
}

INLINE __m512i load_i8(const void *p)
{
    return _mm512_cvtepi8_epi32(_mm_loadu_si128(p));
}

// Bits [at, at + n) of every byte, moved to bit 4 on; at and n are constants.
INLINE __m512i high_bits(__m512i h, int at, int n)
{
    __m512i mask = _mm512_set1_epi8((char)(((1 << n) - 1) << 4));
    return _mm512_and_si512(at < 4 ? _mm512_slli_epi16(h, (unsigned)(4 - at))
                                   : _mm512_srli_epi16(h, (unsigned)(at - 4)), mask);
}

INLINE void unpack_v(enum cpu_layout l, const uint8_t *p, __m512i v[N_V])
{
    int bits = cpu_shapes[l].bits;
    __m512i low = _mm512_set1_epi8(15), h0 = low, h1 = low;
    if (bits == 8) {
        for (int j = 0; j < N_V; j++)
            v[j] = load(p + j * V);
        return;
    }
    if (bits > 4)
        h0 = load(p + 4 * V);
    if (bits > 5)
        h1 = load(p + 5 * V);
    for (int j = 0; j < 4; j++) {
        __m512i x = load(p + j * V);
        v[j] = _mm512_and_si512(x, low);
        v[j + 4] = _mm512_and_si512(_mm512_srli_epi16(x, 4), low);
        if (bits == 5) {
            v[j] = _mm512_or_si512(v[j], high_bits(h0, j, 1));
            v[j + 4] = _mm512_or_si512(v[j + 4], high_bits(h0, j + 4, 1));
        } else if (bits == 6) {
            v[j] = _mm512_or_si512(v[j], high_bits(h0, 2 * j, 2));
            v[j + 4] = _mm512_or_si512(v[j + 4], high_bits(h1, 2 * j, 2));
        }
    }
}

INLINE void unpack(enum cpu_layout l, const uint8_t *panel, uint32_t g, struct ints *e)
{
    uint32_t groups = cpu_shapes[l].groups, header = cpu_shapes[l].header * PR;
    uint32_t i = g % groups;
    const uint8_t *b = panel + g / groups * cpu_block_bytes(l, PR);
    unpack_v(l, b + header + i * cpu_group_bytes(l, PR), e->v);
    switch (l) {
    case LAYOUT_4_MIN: case LAYOUT_5_MIN:
        e->scale = load_f16(b);
        e->min = load_f16(b + PR * 2);
        break;
    case LAYOUT_4_SUPER: case LAYOUT_5_SUPER:
        e->scale = _mm512_mul_ps(load_f16(b), load_u8(b + PR * (4 + i * 2)));
        e->min = _mm512_mul_ps(load_f16(b + PR * 2), load_u8(b + PR * (5 + i * 2)));
        e->min = _mm512_sub_ps(_mm512_setzero_ps(), e->min);
        break;
    case LAYOUT_6_SUPER:
        e->scale = _mm512_loadu_ps(b);
        e->sub[0] = load_i8(b + PR * (4 + i * 2));
        e->sub[1] = load_i8(b + PR * (5 + i * 2));
        break;
    default:
        e->scale = load_f16(b);
    }
}

typedef __m512i sums[TILE_PANELS][TILE_ROWS];

// s += products over v[j0 .. j0 + n).
INLINE void add_products(const struct operands *o, int n_p, int n_r, int j0, int n, sums s)
{
#pragma GCC unroll 8
    for (int j = j0; j < j0 + n; j++) {
        for (int r = 0; r < n_r; r++) {
            __m512i x = _mm512_set1_epi32(*(const int32_t *)(const void *)(o->a[r]->q + j * 4));
            for (int p = 0; p < n_p; p++)
                s[p][r] = _mm512_dpbusd_epi32(s[p][r], o->e[p].v[j], x);
        }
    }
}

// s = -(1 << shift) * sum of activations; which: see act_group.neg.
INLINE void start(const struct operands *o, int n_p, int n_r, int which, unsigned shift, sums s)
{
    EACH(p, r)
        s[p][r] = _mm512_slli_epi32(_mm512_set1_epi32(o->a[r]->neg[which]), shift);
}

// 32-bit dot products of a group. For LAYOUT_6_SUPER they include the factors of its halves.
INLINE void dots(enum cpu_layout l, const struct operands *o, int n_p, int n_r, sums s)
{
    sums t;
    switch (l) {
    case LAYOUT_4:
        start(o, n_p, n_r, 2, 3, s);
        add_products(o, n_p, n_r, 0, 8, s);
        break;
    case LAYOUT_5:
        start(o, n_p, n_r, 2, 4, s);
        add_products(o, n_p, n_r, 0, 8, s);
        break;
    case LAYOUT_8:
        start(o, n_p, n_r, 2, 7, s);
        add_products(o, n_p, n_r, 0, 8, s);
        break;
    case LAYOUT_6_SUPER:
        start(o, n_p, n_r, 0, 5, t);
        add_products(o, n_p, n_r, 0, 4, t);
        start(o, n_p, n_r, 1, 5, s);
        add_products(o, n_p, n_r, 4, 4, s);
        EACH(p, r)
            s[p][r] = _mm512_add_epi32(_mm512_mullo_epi32(t[p][r], o->e[p].sub[0]),
                                       _mm512_mullo_epi32(s[p][r], o->e[p].sub[1]));
        break;
    default:
        EACH(p, r)
            s[p][r] = _mm512_setzero_si512();
        add_products(o, n_p, n_r, 0, 8, s);
    }
}

INLINE void group_ints(enum cpu_layout l, const struct operands *o, int n_p, int n_r,
                       accumulators acc)
{
    sums s;
    dots(l, o, n_p, n_r, s);
    EACH(p, r) {
        __m512 scale = _mm512_mul_ps(o->e[p].scale, _mm512_set1_ps(o->a[r]->scale));
        acc[p][r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(s[p][r]), scale, acc[p][r]);
        if (cpu_has_min(l))
            acc[p][r] = _mm512_fmadd_ps(o->e[p].min, _mm512_set1_ps(o->a[r]->sum), acc[p][r]);
    }
}

// The weights of one input.
INLINE __m512 load_float(enum cpu_layout l, const uint8_t *p)
{
    if (l == LAYOUT_F32)
        return _mm512_loadu_ps(p);
    if (l == LAYOUT_F16)
        return load_f16(p);
    __m256i x = _mm256_loadu_si256((const void *)p);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16));
}

INLINE __m512 fma_float(__m512 w, float x, __m512 sum)
{
    return _mm512_fmadd_ps(w, _mm512_set1_ps(x), sum);
}

#define KERNELS_BODY
#include "engine/exec/cpu/matmul_simd.inc"

static bool supported(void)
{
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vnni");
}

const struct cpu_kernels cpu_kernels_avx512 = {
    .name = "AVX-512 VNNI",
    .panel_rows = PR,
    .supported = supported,
    .act_prepare = cpu_act_prepare_avx2,
    .mat = KERNEL_TABLE,
};
