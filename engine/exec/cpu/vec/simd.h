// Eight floats at a time, for kernels that are compiled once per instruction set (VEC_ISA). Written
// on the compilers' vector types: what has no AVX2 gets the same program in narrower registers.
// Included only by vec/*.c. Products and sums are fused exactly where vf_fma says so.
#pragma once
#include <math.h>
#include <stdint.h>
#include <string.h>
#include "base/base.h"
#include "engine/quant/quant.h"
#ifdef __AVX2__
#include <immintrin.h>
#endif

#define VEC_CAT_(name, isa) name##_##isa
#define VEC_CAT(name, isa) VEC_CAT_(name, isa)
#define VEC(name) VEC_CAT(name, VEC_ISA)

#define LANES 8
#define SIMD static inline __attribute__((always_inline, unused))

typedef float   vf __attribute__((vector_size(32)));
typedef int32_t vi __attribute__((vector_size(32)));

SIMD vf vf_load(const float *p)
{
    vf r;
    memcpy(&r, p, sizeof(r));
    return r;
}

SIMD void vf_store(float *p, vf x)
{
    memcpy(p, &x, sizeof(x));
}

SIMD vf vf_set(float x)
{
    return (vf){ x, x, x, x, x, x, x, x };
}

SIMD vi vi_set(int32_t x)
{
    return (vi){ x, x, x, x, x, x, x, x };
}

// a * b + c
SIMD vf vf_fma(vf a, vf b, vf c)
{
#ifdef __FMA__
    return (vf)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
    return a * b + c;
#endif
}

SIMD vf vf_select(vi mask, vf yes, vf no)
{
    return (vf)((mask & (vi)yes) | (~mask & (vi)no));
}

// Of vf_max and vf_min: b where one of them is NaN, so what must not lose a NaN is given second.
SIMD vf vf_max(vf a, vf b)
{
#ifdef __AVX2__
    return (vf)_mm256_max_ps((__m256)a, (__m256)b);
#else
    return vf_select(a > b, a, b);
#endif
}

SIMD vf vf_min(vf a, vf b)
{
#ifdef __AVX2__
    return (vf)_mm256_min_ps((__m256)a, (__m256)b);
#else
    return vf_select(a < b, a, b);
#endif
}

SIMD vf vf_abs(vf x)
{
    return (vf)((vi)x & vi_set(INT32_MAX));
}

// ((0 + 4) + (2 + 6)) + ((1 + 5) + (3 + 7))
SIMD float vf_sum(vf x)
{
#ifdef __AVX2__
    __m128 four = _mm_add_ps(_mm256_castps256_ps128((__m256)x),
                             _mm256_extractf128_ps((__m256)x, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
#else
    return ((x[0] + x[4]) + (x[2] + x[6])) + ((x[1] + x[5]) + (x[3] + x[7]));
#endif
}

SIMD float vf_max_lane(vf x)
{
#ifdef __AVX2__
    __m128 four = _mm_max_ps(_mm256_castps256_ps128((__m256)x),
                             _mm256_extractf128_ps((__m256)x, 1));
    __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
#else
    float a = MAX(MAX(x[0], x[4]), MAX(x[2], x[6])), b = MAX(MAX(x[1], x[5]), MAX(x[3], x[7]));
    return MAX(a, b);
#endif
}

// The first n lanes from p, zeros after them.
SIMD vf vf_load_part(const float *p, uint32_t n)
{
    vf r = {0};
    memcpy(&r, p, n * sizeof(float));
    return r;
}

SIMD void vf_store_part(float *p, vf x, uint32_t n)
{
    memcpy(p, &x, n * sizeof(float));
}

SIMD vf vf_from_i8(const int8_t *p)
{
#ifdef __AVX2__
    __m128i bytes = _mm_loadl_epi64((const __m128i *)(const void *)p);
    return (vf)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes));
#else
    return (vf){ p[0], p[1], p[2], p[3], p[4], p[5], p[6], p[7] };
#endif
}

SIMD vf vf_from_f16(const uint16_t *p)
{
#ifdef __F16C__
    return (vf)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)p));
#else
    vi h = { p[0], p[1], p[2], p[3], p[4], p[5], p[6], p[7] };
    vi magnitude = h & vi_set(0x7fff);
    // As the bits of a float, a half is too small by 2^112; infinities and NaN keep their exponent.
    vf x = (vf)(magnitude << 13) * vf_set(0x1p112f);
    vi special = magnitude >= vi_set(0x7c00);
    x = vf_select(special, (vf)((magnitude << 13) | vi_set(0x7f800000)), x);
    return (vf)((vi)x | ((h & vi_set(0x8000)) << 16));
#endif
}

// Rounds to nearest even; beyond the largest half, to that.
SIMD void vf_to_f16(uint16_t *p, vf x)
{
    x = vf_min(vf_set(65504.0f), vf_max(vf_set(-65504.0f), x));
#ifdef __F16C__
    __m128i h = _mm256_cvtps_ph((__m256)x, _MM_FROUND_TO_NEAREST_INT);
    _mm_storeu_si128((__m128i *)(void *)p, h);
#else
    for (int i = 0; i < LANES; i++)
        p[i] = f32_to_f16(x[i]);
#endif
}

// e^x within two units in the last place; 0 below -87.33, and about 2.4e38 above 88.37.
SIMD vf vf_exp(vf x)
{
    const vf ln2_high = vf_set(0.693359375f), ln2_low = vf_set(-2.12194440e-4f);
    const vf shift = vf_set(0x1.8p23f);     // leaves the rounded integer in the low bits
    vi under = x < vf_set(-87.33654f);
    x = vf_min(vf_set(88.37f), vf_max(vf_set(-87.33654f), x));
    vf t = vf_fma(x, vf_set(1.44269504088896f), shift);
    vf n = t - shift;
    x = vf_fma(n, -ln2_high, x);
    x = vf_fma(n, -ln2_low, x);
    // Taylor: |x| <= ln 2 / 2, so the first term left out is below 6e-9.
    vf y = vf_set(1.0f / 5040);
    y = vf_fma(y, x, vf_set(1.0f / 720));
    y = vf_fma(y, x, vf_set(1.0f / 120));
    y = vf_fma(y, x, vf_set(1.0f / 24));
    y = vf_fma(y, x, vf_set(1.0f / 6));
    y = vf_fma(y, x, vf_set(0.5f));
    y = vf_fma(y, x, vf_set(1.0f));
    y = vf_fma(y, x, vf_set(1.0f));
    vi exponent = ((vi)t - (vi)shift + vi_set(127)) << 23;
    return vf_select(under, vf_set(0.0f), y * (vf)exponent);
}

// tanh within a few units in the last place.
SIMD vf vf_tanh(vf x)
{
    vf a = vf_abs(x), z = x * x;
    vf far = vf_set(1.0f) - vf_set(2.0f) / (vf_exp(a + a) + vf_set(1.0f));
    far = (vf)((vi)far | ((vi)x & vi_set(INT32_MIN)));
    // Near zero the formula above cancels: odd polynomial (Cephes, tanhf).
    vf near = vf_set(-5.70498872745e-3f);
    near = vf_fma(near, z, vf_set(2.06390887954e-2f));
    near = vf_fma(near, z, vf_set(-5.37397155531e-2f));
    near = vf_fma(near, z, vf_set(1.33314422036e-1f));
    near = vf_fma(near, z, vf_set(-3.33332819422e-1f));
    near = vf_fma(near * z, x, x);
    return vf_select(a < vf_set(0.625f), near, far);
}
