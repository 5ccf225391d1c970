// Activations to 8-bit groups, for AVX2: the same values as cpu_act_prepare_portable.
#include <immintrin.h>
#include "engine/exec/cpu/matmul_impl.h"

// The largest of all lanes, as bits: for magnitudes integer order is float order, with NaN on top.
static inline int32_t max_bits(__m256i x)
{
    __m128i m = _mm_max_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0x4e));
    m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0xb1));
    return _mm_cvtsi128_si32(m);
}

static inline float sum_lanes(__m256 x)
{
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

// Of q * q; magnitudes go up to 127.
static inline int32_t sum_squares(__m256i q)
{
    __m256i m = _mm256_abs_epi8(q);
    __m256i s = _mm256_madd_epi16(_mm256_maddubs_epi16(m, m), _mm256_set1_epi16(1));
    __m128i t = _mm_add_epi32(_mm256_castsi256_si128(s), _mm256_extracti128_si256(s, 1));
    t = _mm_add_epi32(t, _mm_shuffle_epi32(t, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(t, _mm_shuffle_epi32(t, 0xb1)));
}

// Fills the sums from q. Products with 1 give int16 of inputs 0, 1 and 2, 3 modulo 4 side by side.
static inline void put_sums(__m256i q, struct act_group *dst)
{
    __m256i x = _mm256_maddubs_epi16(_mm256_set1_epi8(1), q);      // (half, 4, 2)
    x = _mm256_add_epi16(x, _mm256_shuffle_epi32(x, 0x4e));
    x = _mm256_add_epi16(x, _mm256_shuffle_epi32(x, 0xb1));
    __m256i neg = _mm256_sub_epi16(_mm256_setzero_si256(), x);
    int32_t half[2] = { _mm256_extract_epi32(neg, 0), _mm256_extract_epi32(neg, 4) };
    __m256i s = _mm256_madd_epi16(x, _mm256_set1_epi16(1));
    __m128i all = _mm_add_epi16(_mm256_castsi256_si128(neg), _mm256_extracti128_si256(neg, 1));
    __builtin_memcpy(dst->neg16[0], &half[0], 4);
    __builtin_memcpy(dst->neg16[1], &half[1], 4);
    _mm_storeu_si32(dst->neg16[2], all);
    dst->neg[0] = -_mm256_extract_epi32(s, 0);
    dst->neg[1] = -_mm256_extract_epi32(s, 4);
    dst->neg[2] = dst->neg[0] + dst->neg[1];
    dst->sum = dst->scale * (float)-dst->neg[2];
}

void cpu_act_prepare_avx2(const float *src, uint32_t n_groups, struct act_group *dst)
{
    const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
    for (uint32_t g = 0; g < n_groups; g++, src += GROUP, dst++) {
        __m256 x[4];
        for (int i = 0; i < 4; i++)
            x[i] = _mm256_loadu_ps(src + i * 8);
        __m256i m = _mm256_and_si256(_mm256_castps_si256(x[0]), magnitude);
        for (int i = 1; i < 4; i++)
            m = _mm256_max_epi32(m, _mm256_and_si256(_mm256_castps_si256(x[i]), magnitude));
        float inverse = act_scale(max_bits(m), &dst->scale);
        __m256i q[4];
        for (int i = 0; i < 4; i++)
            q[i] = _mm256_cvtps_epi32(_mm256_mul_ps(x[i], _mm256_set1_ps(inverse)));
        // The packs work within 128-bit halves: 4-byte pieces come out as 0 2 4 6 | 1 3 5 7.
        __m256i b = _mm256_packs_epi16(_mm256_packs_epi32(q[0], q[1]),
                                       _mm256_packs_epi32(q[2], q[3]));
        b = _mm256_permutevar8x32_epi32(b, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
        _mm256_store_si256((__m256i *)(void *)dst->q, b);
        __m256 xq = _mm256_setzero_ps();
        for (int i = 0; i < 4; i++)
            xq = _mm256_add_ps(xq, _mm256_mul_ps(x[i], _mm256_cvtepi32_ps(q[i])));
        dst->scale = act_best_scale(dst->scale, inverse, sum_lanes(xq), sum_squares(b));
        put_sums(b, dst);
    }
}
