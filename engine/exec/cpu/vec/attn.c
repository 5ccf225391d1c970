// Kernels of attention: products with a block of K or V, the online softmax, and block scores.
#include "engine/exec/cpu/vec/kernels.h"
#include "engine/kv/layout.h"

#define Q8_K_BYTES (VEC_KV_PANEL * sizeof(uint16_t) + KV_Q8_GROUP * VEC_KV_PANEL)  // of 32 rows
#define TILE_ROWS_MAX 6

static_assert(KV_Q8_GROUP == VEC_KV_PANEL, "a panel of V is one group of a row");

// One panel of B: columns [n0, n0 + w) of n_k rows.
struct panel {
    const float    *f32;
    const uint16_t *f16;                // halves, or the scales of Q8_V
    const uint8_t  *q8;
    uint32_t        w;
};

SIMD struct panel panel_at(enum vec_form form, const void *b, uint32_t n_k, uint32_t n0, uint32_t w)
{
    struct panel p = { .w = w };
    const uint8_t *base = b;
    size_t at = (size_t)n_k * n0;       // elements before it
    switch (form) {
    case VEC_F32: p.f32 = (const float *)b + at; break;
    case VEC_F16: p.f16 = (const uint16_t *)b + at; break;
    case VEC_Q8_K: p.q8 = base + at / (KV_Q8_GROUP * VEC_KV_PANEL) * Q8_K_BYTES; break;
    case VEC_Q8_V:
        p.f16 = (const uint16_t *)(const void *)(base + at + at / VEC_KV_PANEL * 2);
        p.q8 = (const uint8_t *)(p.f16 + n_k);
        break;
    case VEC_FORM_COUNT: break;
    }
    return p;
}

// The scales of Q8_K for rows [k, k + 32), columns from `lane`.
SIMD vf group_scale(enum vec_form form, const struct panel *p, uint32_t k, uint32_t lane)
{
    if (form != VEC_Q8_K)
        return vf_set(1.0f);
    const uint8_t *group = p->q8 + k / KV_Q8_GROUP * Q8_K_BYTES;
    return vf_from_f16((const uint16_t *)(const void *)group + lane);
}

SIMD float row_scale(enum vec_form form, const struct panel *p, uint32_t k)
{
    return form == VEC_Q8_V ? f16_to_f32(p->f16[k]) : 1.0f;
}

// Eight columns of row k. Scale times integer is exact in a float.
SIMD vf element(enum vec_form form, const struct panel *p, uint32_t k, uint32_t lane, vf group,
                float row)
{
    switch (form) {
    case VEC_F32: return vf_load(p->f32 + (size_t)k * p->w + lane);
    case VEC_F16: return vf_from_f16(p->f16 + (size_t)k * p->w + lane);
    case VEC_Q8_K: {
        const uint8_t *q = p->q8 + k / KV_Q8_GROUP * Q8_K_BYTES + VEC_KV_PANEL * sizeof(uint16_t) +
                           k % KV_Q8_GROUP * VEC_KV_PANEL + lane;
        return vf_from_i8((const int8_t *)q) * group;
    }
    case VEC_Q8_V:
        return vf_from_i8((const int8_t *)p->q8 + (size_t)k * VEC_KV_PANEL + lane) * vf_set(row);
    case VEC_FORM_COUNT: break;
    }
    return vf_set(0.0f);
}

// Rows [r, r + nr) of c, nv vectors of columns from n0 + lane. nr, nv and form are constants.
SIMD void tile(enum vec_form form, uint32_t nr, uint32_t nv, const struct vec_mul *m,
               const struct panel *p, uint32_t r, uint32_t n0, uint32_t lane)
{
    vf sum[TILE_ROWS_MAX][4];
    const float *a[TILE_ROWS_MAX];
    for (uint32_t i = 0; i < nr; i++) {
        a[i] = m->a[r + i];
        vf keep = vf_set(m->keep ? m->keep[r + i] : 0.0f);
        for (uint32_t v = 0; v < nv; v++)
            sum[i][v] = m->keep ? vf_load(m->c[r + i] + n0 + lane + v * LANES) * keep : keep;
    }
    for (uint32_t k0 = 0; k0 < m->n_k; k0 += KV_Q8_GROUP) {
        vf group[4];
        for (uint32_t v = 0; v < nv; v++)
            group[v] = group_scale(form, p, k0, lane + v * LANES);
        uint32_t k1 = MIN(k0 + KV_Q8_GROUP, m->n_k);
        for (uint32_t k = k0; k < k1; k++) {
            float row = row_scale(form, p, k);
            vf b[4];
            for (uint32_t v = 0; v < nv; v++)
                b[v] = element(form, p, k, lane + v * LANES, group[v], row);
            for (uint32_t i = 0; i < nr; i++) {
                vf x = vf_set(a[i][k]);
                for (uint32_t v = 0; v < nv; v++)
                    sum[i][v] = vf_fma(x, b[v], sum[i][v]);
            }
        }
    }
    for (uint32_t i = 0; i < nr; i++)
        for (uint32_t v = 0; v < nv; v++)
            vf_store(m->c[r + i] + n0 + lane + v * LANES, sum[i][v]);
}

// The columns of a narrow last panel that fill no vector; only the plain forms have such. One scalar
// chain each.
SIMD void columns(enum vec_form form, const struct vec_mul *m, const struct panel *p, uint32_t n0,
                  uint32_t lane)
{
    for (uint32_t r = 0; r < m->n_rows; r++)
        for (uint32_t n = lane; n < p->w; n++) {
            float *c = m->c[r] + n0 + n, sum = m->keep ? *c * m->keep[r] : 0.0f;
            for (uint32_t k = 0; k < m->n_k; k++) {
                size_t at = (size_t)k * p->w + n;
                sum += m->a[r][k] * (form == VEC_F32 ? p->f32[at] : f16_to_f32(p->f16[at]));
            }
            *c = sum;
        }
}

// nv vectors of columns for all rows, in tiles that leave room for b in the registers.
SIMD void strip(enum vec_form form, uint32_t nv, const struct vec_mul *m, const struct panel *p,
                uint32_t n0, uint32_t lane)
{
    uint32_t r = 0, n = m->n_rows;
    if (nv == 2)
        for (; n - r >= 6; r += 6)
            tile(form, 6, nv, m, p, r, n0, lane);
    for (; n - r >= 3; r += 3)
        tile(form, 3, nv, m, p, r, n0, lane);
    if (n - r == 2)
        tile(form, 2, nv, m, p, r, n0, lane);
    else if (n - r == 1)
        tile(form, 1, nv, m, p, r, n0, lane);
}

SIMD void mul(enum vec_form form, const struct vec_mul *m)
{
    const uint32_t width = form == VEC_F32 ? VEC_F32_PANEL : VEC_KV_PANEL, nv = width / LANES;
    for (uint32_t n0 = 0; n0 < m->n_n; n0 += width) {
        uint32_t lane = 0, w = MIN(width, m->n_n - n0);
        struct panel p = panel_at(form, m->b, m->n_k, n0, w);
        if (w == width) {
            strip(form, nv, m, &p, n0, 0);
            continue;
        }
        for (; lane + LANES <= w; lane += LANES)
            strip(form, 1, m, &p, n0, lane);
        columns(form, m, &p, n0, lane);
    }
}

SIMD void unpack(enum vec_form form, float *dst, const void *b, uint32_t n_k, uint32_t n_n)
{
    const uint32_t width = VEC_KV_PANEL;
    for (uint32_t n0 = 0; n0 < n_n; n0 += LANES) {
        uint32_t at = n0 / width * width, w = MIN(width, n_n - at);
        struct panel p = panel_at(form, b, n_k, at, w);
        uint32_t to = n0 / VEC_F32_PANEL * VEC_F32_PANEL, to_w = MIN(VEC_F32_PANEL, n_n - to);
        float *column = dst + (size_t)n_k * to + n0 - to;
        for (uint32_t k = 0; k < n_k; k++) {
            vf group = group_scale(form, &p, k, n0 - at);
            if (n0 + LANES <= n_n)
                vf_store(column + (size_t)k * to_w,
                         element(form, &p, k, n0 - at, group, row_scale(form, &p, k)));
            else
                for (uint32_t n = n0; n < n_n; n++)
                    column[(size_t)k * to_w + n - n0] =
                        f16_to_f32(p.f16[(size_t)k * w + n - at]);
        }
    }
}

#define FORM(name, form) \
    void VEC(mul_##name)(const struct vec_mul *m) { mul(form, m); } \
    void VEC(unpack_##name)(float *dst, const void *b, uint32_t n_k, uint32_t n_n) \
    { \
        unpack(form, dst, b, n_k, n_n); \
    }
FORM(f16, VEC_F16)
FORM(q8_k, VEC_Q8_K)
FORM(q8_v, VEC_Q8_V)

void VEC(mul_f32)(const struct vec_mul *m)
{
    mul(VEC_F32, m);
}

void VEC(unpack_f32)(float *dst, const void *b, uint32_t n_k, uint32_t n_n)
{
    memcpy(dst, b, (size_t)n_k * n_n * sizeof(float));
}

// Lanes of tokens [i, i + 8) that are visible.
SIMD vi visible_lanes(uint64_t visible, uint32_t i)
{
    const vi bit = { 1, 2, 4, 8, 16, 32, 64, 128 };
    return (vi_set((int32_t)(visible >> i & 255)) & bit) != vi_set(0);
}

float VEC(softmax_block)(float *s, uint64_t visible, float softcap, float *m, float *l)
{
    vf x[KV_BLOCK_TOKENS / LANES], largest = vf_set(-INFINITY), sum = vf_set(0.0f);
    for (uint32_t i = 0; i < ARRAY_LEN(x); i++) {
        x[i] = vf_load(s + i * LANES);
        if (softcap > 0.0f)
            x[i] = vf_set(softcap) * vf_tanh(x[i] / vf_set(softcap));
        if (visible != UINT64_MAX)
            x[i] = vf_select(visible_lanes(visible, i * LANES), x[i], vf_set(-INFINITY));
        largest = vf_max(largest, x[i]);
    }
    float to = MAX(*m, vf_max_lane(largest)), keep = vf_exp(vf_set(*m - to))[0];
    for (uint32_t i = 0; i < ARRAY_LEN(x); i++) {
        x[i] = vf_exp(x[i] - vf_set(to));
        sum += x[i];
        vf_store(s + i * LANES, x[i]);
    }
    *m = to;
    *l = *l * keep + vf_sum(sum);
    return keep;
}

void VEC(merge)(float *m, float *l, float *o, float split_m, float split_l, const float *split_o,
                uint32_t n)
{
    float to = MAX(*m, split_m);
    vf factor = vf_exp((vf){ *m - to, split_m - to });
    float old = factor[0], new = factor[1];
    for (uint32_t i = 0; i < n; i++)
        o[i] = o[i] * old + split_o[i] * new;
    *m = to;
    *l = *l * old + split_l * new;
}

float VEC(dot_f16)(const float *q, const uint16_t *x, uint32_t n)
{
    vf sum = vf_set(0.0f);
    uint32_t i = 0;
    for (; i + LANES <= n; i += LANES)
        sum = vf_fma(vf_load(q + i), vf_from_f16(x + i), sum);
    float r = vf_sum(sum);
    for (; i < n; i++)
        r += q[i] * f16_to_f32(x[i]);
    return r;
}

void VEC(softmax_add)(float *sum, float *s, uint32_t n)
{
    float largest = -INFINITY, total = 0.0f;
    for (uint32_t i = 0; i < n; i++)
        largest = MAX(largest, s[i]);
    uint32_t k = 0;
    for (; k + LANES <= n; k += LANES)
        vf_store(s + k, vf_exp(vf_load(s + k) - vf_set(largest)));
    vf_store_part(s + k, vf_exp(vf_load_part(s + k, n - k) - vf_set(largest)), n - k);
    for (uint32_t i = 0; i < n; i++)
        total += s[i];
    float inverse = 1.0f / total;
    for (uint32_t i = 0; i < n; i++)
        sum[i] += s[i] * inverse;
}
