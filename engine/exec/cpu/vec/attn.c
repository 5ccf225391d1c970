// Kernels of attention: products with a block of K or V, the online softmax, and block scores.
#include "engine/exec/cpu/vec/kernels.h"
#include "engine/kv/layout.h"

#define Q8_K_BYTES (VEC_PANEL * sizeof(uint16_t) + KV_Q8_GROUP * VEC_PANEL)     // of 32 rows
// Twelve sums, four vectors of B and three broadcasts of A: the 16 registers, with B one at a time.
#define TILE_ROWS 3
#define TILE_VECTORS (VEC_PANEL / LANES)

static_assert(KV_Q8_GROUP == VEC_PANEL, "a panel of V is one group of a row");

// One panel of B: columns [n0, n0 + w) of n_k rows.
struct panel {
    const float    *f32;
    const uint16_t *f16;
    const int8_t   *q8;                 // of Q8_K with the scales between
    uint32_t        w;
    float           row_scale[KV_BLOCK_TOKENS];     // (n_k) of Q8_V
};

SIMD void panel_init(struct panel *p, enum vec_form form, const void *b, uint32_t n_k, uint32_t n0,
                     uint32_t w)
{
    const int8_t *base = b;
    size_t at = (size_t)n_k * n0;       // elements before it
    p->w = w;
    p->f32 = NULL;
    p->f16 = NULL;
    p->q8 = NULL;
    switch (form) {
    case VEC_F32: p->f32 = (const float *)b + at; break;
    case VEC_F16: p->f16 = (const uint16_t *)b + at; break;
    case VEC_Q8_K: p->q8 = base + at / (KV_Q8_GROUP * VEC_PANEL) * Q8_K_BYTES; break;
    case VEC_Q8_V: {
        const uint16_t *scale = (const uint16_t *)(const void *)(base + at + at / VEC_PANEL * 2);
        assert(n_k == KV_BLOCK_TOKENS);
        for (uint32_t k = 0; k < KV_BLOCK_TOKENS; k += LANES)
            vf_store(p->row_scale + k, vf_from_f16(scale + k));
        p->q8 = (const int8_t *)(scale + n_k);
        break;
    }
    case VEC_FORM_COUNT: break;
    }
}

// The scales of Q8_K for rows [k, k + 32), columns from `lane`.
SIMD vf group_scale(const struct panel *p, uint32_t k, uint32_t lane)
{
    const int8_t *group = p->q8 + k / KV_Q8_GROUP * Q8_K_BYTES;
    return vf_from_f16((const uint16_t *)(const void *)group + lane);
}

// Row k of a panel.
SIMD const void *row_at(enum vec_form form, const struct panel *p, uint32_t k)
{
    switch (form) {
    case VEC_F32: return p->f32 + (size_t)k * p->w;
    case VEC_F16: return p->f16 + (size_t)k * p->w;
    case VEC_Q8_K:
        return p->q8 + k / KV_Q8_GROUP * Q8_K_BYTES + VEC_PANEL * sizeof(uint16_t) +
               k % KV_Q8_GROUP * VEC_PANEL;
    case VEC_Q8_V: return p->q8 + (size_t)k * VEC_PANEL;
    case VEC_FORM_COUNT: break;
    }
    return NULL;
}

// Eight columns of a row, without the scales of Q8.
SIMD vf element(enum vec_form form, const void *row, uint32_t lane)
{
    if (form == VEC_F32)
        return vf_load((const float *)row + lane);
    if (form == VEC_F16)
        return vf_from_f16((const uint16_t *)row + lane);
    return vf_from_i8((const int8_t *)row + lane);
}

// sum (nr, nv) += a (nr) rows [k0, k1) times nv vectors of columns. nr, nv and form are constants;
// `ahead` is known not to be zero, or is the constant zero.
SIMD void accumulate(enum vec_form form, uint32_t nr, uint32_t nv, const float *const *a,
                     const struct panel *p, uint32_t k0, uint32_t k1, uint32_t lane,
                     ptrdiff_t ahead, vf sum[TILE_ROWS][TILE_VECTORS])
{
    for (uint32_t k = k0; k < k1; k++) {
        const void *row = row_at(form, p, k);
        vf x[TILE_ROWS];
        if (ahead)
            __builtin_prefetch((const char *)row + ahead);
        for (uint32_t i = 0; i < nr; i++)
            x[i] = vf_set(a[i][k]);
        for (uint32_t v = 0; v < nv; v++) {
            vf b = element(form, row, lane + v * LANES);
            for (uint32_t i = 0; i < nr; i++)
                sum[i][v] = vf_fma(x[i], b, sum[i][v]);
        }
    }
}

// Integers are summed by groups that share their scales.
SIMD void accumulate_groups(uint32_t nr, uint32_t nv, const float *const *a, const struct panel *p,
                            uint32_t n_k, uint32_t lane, ptrdiff_t ahead,
                            vf sum[TILE_ROWS][TILE_VECTORS])
{
    for (uint32_t k = 0; k < n_k; k += KV_Q8_GROUP) {
        vf part[TILE_ROWS][TILE_VECTORS];
        for (uint32_t i = 0; i < nr; i++)
            for (uint32_t v = 0; v < nv; v++)
                part[i][v] = vf_set(0.0f);
        accumulate(VEC_Q8_K, nr, nv, a, p, k, k + KV_Q8_GROUP, lane, ahead, part);
        for (uint32_t v = 0; v < nv; v++) {
            vf scale = group_scale(p, k, lane + v * LANES);
            for (uint32_t i = 0; i < nr; i++)
                sum[i][v] = vf_fma(part[i][v], scale, sum[i][v]);
        }
    }
}

// Rows [r, r + nr) of c, nv vectors of columns from n0 + lane.
SIMD void tile(enum vec_form form, uint32_t nr, uint32_t nv, const struct vec_mul *m,
               const struct panel *p, uint32_t r, uint32_t n0, uint32_t lane, ptrdiff_t ahead)
{
    vf sum[TILE_ROWS][TILE_VECTORS];
    const float *a[TILE_ROWS];
    float scaled[TILE_ROWS][KV_BLOCK_TOKENS];       // of Q8_V: a with the scales of its panel
    for (uint32_t i = 0; i < nr; i++) {
        float *c = m->c[r + i] + n0 + lane;
        vf keep = vf_set(m->keep ? m->keep[r + i] : 0.0f);
        for (uint32_t v = 0; v < nv; v++)
            sum[i][v] = m->keep ? vf_load(c + v * LANES) * keep : keep;
        a[i] = m->a[r + i];
        if (form != VEC_Q8_V)
            continue;
        for (uint32_t k = 0; k < KV_BLOCK_TOKENS; k += LANES)
            vf_store(scaled[i] + k, vf_load(a[i] + k) * vf_load(p->row_scale + k));
        a[i] = scaled[i];
    }
    if (form == VEC_Q8_K)
        accumulate_groups(nr, nv, a, p, m->n_k, lane, ahead, sum);
    else
        accumulate(form, nr, nv, a, p, 0, m->n_k, lane, ahead, sum);
    for (uint32_t i = 0; i < nr; i++)
        for (uint32_t v = 0; v < nv; v++)
            vf_store(m->c[r + i] + n0 + lane + v * LANES, sum[i][v]);
}

// The columns of a narrow last panel that fill no vector; only the plain forms have such. One
// scalar chain each.
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

// nv vectors of columns for all rows. The first rows also fetch what is read next.
SIMD void strip(enum vec_form form, uint32_t nv, const struct vec_mul *m, const struct panel *p,
                uint32_t n0, uint32_t lane)
{
    uint32_t r = 0, n = m->n_rows;
    if (m->ahead && n >= TILE_ROWS && n != 4) {
        tile(form, TILE_ROWS, nv, m, p, 0, n0, lane, m->ahead);
        r = TILE_ROWS;
    }
    for (; n - r >= TILE_ROWS && n - r != 4; r += TILE_ROWS)
        tile(form, TILE_ROWS, nv, m, p, r, n0, lane, 0);
    for (; n - r >= 2; r += 2)          // 4 are better cut as 2 + 2 than as 3 + 1
        tile(form, 2, nv, m, p, r, n0, lane, m->ahead);
    if (r < n)
        tile(form, 1, nv, m, p, r, n0, lane, m->ahead);
}

SIMD void mul(enum vec_form form, const struct vec_mul *m)
{
    for (uint32_t n0 = 0; n0 < m->n_n; n0 += VEC_PANEL) {
        uint32_t lane = 0, w = MIN((uint32_t)VEC_PANEL, m->n_n - n0);
        struct panel p;
        panel_init(&p, form, m->b, m->n_k, n0, w);
        if (w == VEC_PANEL) {
            strip(form, TILE_VECTORS, m, &p, n0, 0);
            continue;
        }
        for (; lane + LANES <= w; lane += LANES)
            strip(form, 1, m, &p, n0, lane);
        columns(form, m, &p, n0, lane);
    }
}

#define FORM(name, form) \
    void VEC(mul_##name)(const struct vec_mul *m) \
    { \
        mul(form, m); \
    }
FORM(f32, VEC_F32)
FORM(f16, VEC_F16)
FORM(q8_k, VEC_Q8_K)
FORM(q8_v, VEC_Q8_V)

// Lanes of tokens [i, i + 8) that are visible.
SIMD vi visible_lanes(uint64_t visible, uint32_t i)
{
    const vi bit = { 1, 2, 4, 8, 16, 32, 64, 128 };
    return (vi_set((int32_t)(visible >> i & 255)) & bit) != vi_set(0);
}

float VEC(softmax_block)(float *s, uint64_t visible, float softcap, float *m, float *l)
{
    vf x[KV_BLOCK_TOKENS / LANES], largest = vf_set(-INFINITY);
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
        vf_store(s + i * LANES, x[i]);
    }
    vf sum = ((x[0] + x[1]) + (x[2] + x[3])) + ((x[4] + x[5]) + (x[6] + x[7]));
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

// n_q dot products that load x once.
SIMD void dots(uint32_t n_q, float *s, size_t s_stride, const float *q, const uint16_t *x,
               uint32_t n)
{
    vf sum[4] = {0};
    uint32_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        vf b = vf_from_f16(x + i);
        for (uint32_t h = 0; h < n_q; h++)
            sum[h] = vf_fma(vf_load(q + h * n + i), b, sum[h]);
    }
    for (uint32_t h = 0; h < n_q; h++) {
        float r = vf_sum(sum[h]);
        for (uint32_t k = i; k < n; k++)
            r += q[h * n + k] * f16_to_f32(x[k]);
        s[h * s_stride] = r;
    }
}

void VEC(score)(float *s, size_t s_stride, const float *q, uint32_t n_q, const uint16_t *x,
                uint32_t n)
{
    for (; n_q >= 4; n_q -= 4, q += 4 * n, s += 4 * s_stride)
        dots(4, s, s_stride, q, x, n);
    if (n_q == 3)
        dots(3, s, s_stride, q, x, n);
    else if (n_q == 2)
        dots(2, s, s_stride, q, x, n);
    else if (n_q == 1)
        dots(1, s, s_stride, q, x, n);
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
