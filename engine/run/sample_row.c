// Passes over a row of logits, eight lanes at a time. The source is the same for all machines: the
// compiler lowers the lanes to what the target has, and the order of operations stays.
#include "engine/run/sample_row.h"
#include <math.h>
#include <stdint.h>
#include <string.h>
#include "base/base.h"

#define LANES 8
typedef float lanes_f __attribute__((vector_size(LANES * sizeof(float))));
typedef int32_t lanes_i __attribute__((vector_size(LANES * sizeof(int32_t))));

#define INLINE static inline __attribute__((always_inline))

// Defines NAME from the inline function NAME_any, compiled for the base architecture and, where the
// machine turns out to have them, for wider vectors. (Not target_clones: its resolvers run before
// the thread sanitizer does.)
#if defined(__x86_64__)
#define BOTH_WIDTHS(type, name, params, ...) \
    __attribute__((target("avx2"))) static type name##_wide params \
    { \
        return name##_any(__VA_ARGS__); \
    } \
    type name params \
    { \
        return __builtin_cpu_supports("avx2") ? name##_wide(__VA_ARGS__) \
                                              : name##_any(__VA_ARGS__); \
    }
#else
#define BOTH_WIDTHS(type, name, params, ...) type name params { return name##_any(__VA_ARGS__); }
#endif

// Vectors go by pointer: by value they would depend on the target's calling convention. Comparisons
// are the sign of a difference, since gcc 12 turns vector comparisons that are wider than the
// target into scalar ones.

// *a = *a < *b ? *b : *a. Of two equal infinities either is right.
INLINE void raise(lanes_f *a, const lanes_f *b)
{
    lanes_i less = (lanes_i)(*a - *b) >> 31;
    *a = (lanes_f)(((lanes_i)*a & ~less) | ((lanes_i)*b & less));
}

// Negative in lanes that are NaN.
INLINE void mark_nan(lanes_i *mark, const lanes_f *x)
{
    *mark |= 0x7f800000 - ((lanes_i)*x & 0x7fffffff);
}

// e^x for x <= 0 within 2 units of the last place; 0 below -85.
INLINE void exp_lanes(lanes_f *x)
{
    const float log2e = 0x1.715476p+0f, ln2_hi = 0x1.62e4p-1f, ln2_lo = 0x1.7f7d1cp-20f;
    const float to_int = 0x1.8p23f;         // adding it rounds to an integer
    const lanes_f floor = (lanes_f){0} - 85;
    lanes_i outside = (lanes_i)(*x - floor) >> 31;
    lanes_f v = *x;
    raise(&v, &floor);
    lanes_f k = v * log2e + to_int - to_int;
    lanes_f r = v - k * ln2_hi - k * ln2_lo;
    lanes_f p = r * (1.0f / 5040) + 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r + 1;
    p = p * r + 1;
    lanes_i two_to_k = (__builtin_convertvector(k, lanes_i) + 127) << 23;
    *x = (lanes_f)((lanes_i)(p * (lanes_f)two_to_k) & ~outside);
}

INLINE void load(lanes_f *v, const float *x)
{
    memcpy(v, x, sizeof(*v));
}

INLINE float largest(const lanes_f *v)
{
    float m = (*v)[0];
    for (int i = 1; i < LANES; i++)
        m = (*v)[i] > m ? (*v)[i] : m;
    return m;
}

// Lanes are added as a tree: 0+4, 1+5, ...
INLINE float sum(const lanes_f *v)
{
    const lanes_f x = *v;
    return ((x[0] + x[4]) + (x[2] + x[6])) + ((x[1] + x[5]) + (x[3] + x[7]));
}

// The last block, filled up with minus infinity.
INLINE const float *padded(const float *x, size_t n, float *pad)
{
    if (n >= ROW_BLOCK)
        return x;
    memcpy(pad, x, n * sizeof(*x));
    for (size_t i = n; i < ROW_BLOCK; i++)
        pad[i] = -INFINITY;
    return pad;
}

INLINE bool row_max_any(const float *x, size_t n, float *block_max, float *max)
{
    float pad[ROW_BLOCK], best = -INFINITY;
    lanes_i nan = {0};
    for (size_t at = 0; at < n; at += ROW_BLOCK) {
        const float *p = padded(x + at, n - at, pad);
        lanes_f m = (lanes_f){0} - INFINITY, m2 = m, v, v2;     // two chains keep the machine busy
        for (int i = 0; i < ROW_BLOCK; i += 2 * LANES) {
            load(&v, p + i);
            load(&v2, p + i + LANES);
            mark_nan(&nan, &v);
            mark_nan(&nan, &v2);
            raise(&m, &v);
            raise(&m2, &v2);
        }
        raise(&m, &m2);
        block_max[at / ROW_BLOCK] = largest(&m);
        best = MAX(best, block_max[at / ROW_BLOCK]);
    }
    *max = best;
    int32_t any = 0;
    for (int i = 0; i < LANES; i++)
        any |= nan[i];
    return any < 0;
}
BOTH_WIDTHS(bool, row_max, (const float *x, size_t n, float *block_max, float *max),
            x, n, block_max, max)

INLINE double row_sum_exp_any(const float *x, size_t n, float max, float scale, float *block_sum)
{
    float pad[ROW_BLOCK];
    double total = 0;
    for (size_t at = 0; at < n; at += ROW_BLOCK) {
        const float *p = padded(x + at, n - at, pad);
        lanes_f s = {0}, v;
        for (int i = 0; i < ROW_BLOCK; i += LANES) {
            load(&v, p + i);
            v = (v - max) * scale;
            exp_lanes(&v);
            s += v;
        }
        block_sum[at / ROW_BLOCK] = sum(&s);
        total += block_sum[at / ROW_BLOCK];
    }
    return total;
}
BOTH_WIDTHS(double, row_sum_exp,
            (const float *x, size_t n, float max, float scale, float *block_sum),
            x, n, max, scale, block_sum)

INLINE double row_exp_any(float *x, size_t n, float max, float scale)
{
    double total = 0;
    for (size_t at = 0; at < n; at += LANES) {
        size_t count = MIN(n - at, (size_t)LANES);
        lanes_f v = (lanes_f){0} - INFINITY;
        memcpy(&v, x + at, count * sizeof(*x));
        v = (v - max) * scale;
        exp_lanes(&v);
        memcpy(x + at, &v, count * sizeof(*x));
        total += sum(&v);
    }
    return total;
}
BOTH_WIDTHS(double, row_exp, (float *x, size_t n, float max, float scale), x, n, max, scale)
