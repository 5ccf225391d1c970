// Kernels over one row: norm, activations, soft-cap, RoPE, conversions.
#include "engine/exec/cpu/vec/kernels.h"
#include "engine/kv/layout.h"

// Four sums of eight lanes: short chains keep a wide row's sum as exact as a narrow one's.
static float sum_of_squares(const float *x, uint32_t n)
{
    vf sum[4] = {0};
    uint32_t i = 0;
    for (; i + 4 * LANES <= n; i += 4 * LANES)
        for (uint32_t k = 0; k < 4; k++) {
            vf v = vf_load(x + i + k * LANES);
            sum[k] = vf_fma(v, v, sum[k]);
        }
    for (; i < n; i += LANES) {
        vf v = vf_load_part(x + i, MIN((uint32_t)LANES, n - i));
        sum[0] = vf_fma(v, v, sum[0]);
    }
    return vf_sum((sum[0] + sum[1]) + (sum[2] + sum[3]));
}

void VEC(norm)(float *dst, const float *x, const float *w, uint32_t n, float eps, float scale,
               bool add)
{
    float r = 1.0f / sqrtf(sum_of_squares(x, n) / (float)n + eps);
    for (uint32_t i = 0; i < n; i++) {
        float y = x[i] * r * w[i] * scale;
        dst[i] = add ? dst[i] + y : y;
    }
}

SIMD vf silu(vf x)
{
    return x / (vf_set(1.0f) + vf_exp(-x));
}

// x / 2 * (1 + tanh(u)) without the cancellation for negative u.
SIMD vf gelu_tanh(vf x)
{
    vf cube = x * x * x;
    vf u = vf_set(0.79788456080286536f) * vf_fma(vf_set(0.044715f), cube, x);
    return x / (vf_set(1.0f) + vf_exp(vf_set(-2.0f) * u));
}

#define GLU(act) \
    uint32_t i = 0; \
    for (; i + LANES <= n; i += LANES) \
        vf_store(dst + i, act(vf_load(gate + i)) * vf_load(up + i)); \
    if (i < n) { \
        vf y = act(vf_load_part(gate + i, n - i)) * vf_load_part(up + i, n - i); \
        vf_store_part(dst + i, y, n - i); \
    }

void VEC(glu_silu)(float *dst, const float *gate, const float *up, uint32_t n)
{
    GLU(silu)
}

void VEC(glu_gelu_tanh)(float *dst, const float *gate, const float *up, uint32_t n)
{
    GLU(gelu_tanh)
}

void VEC(softcap)(float *x, size_t n, float cap)
{
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        vf_store(x + i, vf_set(cap) * vf_tanh(vf_load(x + i) / vf_set(cap)));
    uint32_t rest = (uint32_t)(n - i);
    vf_store_part(x + i, vf_set(cap) * vf_tanh(vf_load_part(x + i, rest) / vf_set(cap)), rest);
}

void VEC(scale)(float *dst, const float *x, size_t n, float scale)
{
    for (size_t i = 0; i < n; i++)
        dst[i] = x[i] * scale;
}

void VEC(rope_adjacent)(float *x, const float *cos, const float *sin, uint32_t n_rot)
{
    for (uint32_t i = 0; i < n_rot / 2; i++) {
        float a = x[2 * i], b = x[2 * i + 1];
        x[2 * i] = a * cos[i] - b * sin[i];
        x[2 * i + 1] = a * sin[i] + b * cos[i];
    }
}

void VEC(rope_halves)(float *x, const float *cos, const float *sin, uint32_t n_rot)
{
    float *lo = x, *hi = x + n_rot / 2;
    for (uint32_t i = 0; i < n_rot / 2; i++) {
        float a = lo[i], b = hi[i];
        lo[i] = a * cos[i] - b * sin[i];
        hi[i] = a * sin[i] + b * cos[i];
    }
}

void VEC(to_f16)(uint16_t *dst, const float *x, uint32_t n)
{
    uint32_t i = 0;
    for (; i + LANES <= n; i += LANES)
        vf_to_f16(dst + i, vf_load(x + i));
    if (i < n) {
        uint16_t last[LANES];
        vf_to_f16(last, vf_load_part(x + i, n - i));
        memcpy(dst + i, last, (n - i) * sizeof(*dst));
    }
}

void VEC(from_f16)(float *dst, const uint16_t *x, uint32_t n)
{
    uint32_t i = 0;
    for (; i + LANES <= n; i += LANES)
        vf_store(dst + i, vf_from_f16(x + i));
    if (i < n) {
        uint16_t last[LANES] = {0};
        memcpy(last, x + i, (n - i) * sizeof(*x));
        vf_store_part(dst + i, vf_from_f16(last), n - i);
    }
}

// The scale is rounded to half precision first, so that the integers fit what is stored. A NaN
// lives on in the scale.
uint16_t VEC(to_q8)(int8_t *dst, const float *x)
{
    uint32_t magnitude, bits = 0;       // as integers, NaN is the largest of all
    for (uint32_t i = 0; i < KV_Q8_GROUP; i++) {
        memcpy(&magnitude, &x[i], sizeof(magnitude));
        bits = MAX(bits, magnitude & INT32_MAX);
    }
    float largest;
    memcpy(&largest, &bits, sizeof(largest));
    uint16_t half = f32_to_f16(largest > 127.0f * 65504.0f ? 65504.0f : largest / 127.0f);
    float scale = f16_to_f32(half), inverse = scale > 0.0f ? 1.0f / scale : 0.0f;
    for (uint32_t i = 0; i < KV_Q8_GROUP; i++)
        dst[i] = (int8_t)CLAMP(rintf(x[i] * inverse), -127.0f, 127.0f);
    return half;
}
