// Matrix kernels in portable C, in the layouts of the AVX2 kernels: slow, and easy to check.
#include <math.h>
#include <string.h>
#include "base/base.h"
#include "engine/exec/cpu/matmul_impl.h"

enum { PR = 8, V = PR * 4 };

// A group of a panel, unpacked: value = scale * q + min; q of the format's own range.
struct ints {
    int8_t q[8 * V];                        // (8, PR, 4)
    float  scale[2][PR], min[2][PR];        // of both halves
};

static float load_f16(const uint8_t *p)
{
    uint16_t h;
    memcpy(&h, p, sizeof(h));
    return f16_to_f32(h);
}

static uint32_t high_bits(const uint8_t *p, uint32_t bits, uint32_t j, uint32_t i)
{
    if (bits == 5)
        return (p[i] >> j & 1u) << 4;
    if (bits == 6)
        return (p[j / 4 * V + i] >> (j % 4 * 2) & 3u) << 4;
    return 0;
}

static void unpack_q(uint32_t bits, const uint8_t *p, int8_t *q)
{
    if (bits == 8) {
        for (uint32_t i = 0; i < 8 * V; i++)
            q[i] = (int8_t)(p[i] - 128);
        return;
    }
    for (uint32_t j = 0; j < 8; j++) {
        for (uint32_t i = 0; i < V; i++) {
            uint32_t low = p[j % 4 * V + i] >> (j / 4 * 4) & 15u;
            q[j * V + i] = (int8_t)(low | high_bits(p + 4 * V, bits, j, i));
        }
    }
}

// Scale and min of panel row r in half h of group i of the block b.
static void unpack_scale(enum cpu_layout l, const uint8_t *b, uint32_t i, uint32_t h, uint32_t r,
                         float *scale, float *min)
{
    float d = load_f16(b + r * 2);
    switch (l) {
    case LAYOUT_4: case LAYOUT_5:
        *scale = d;
        *min = d * (l == LAYOUT_4 ? -8 : -16);
        break;
    case LAYOUT_4_MIN: case LAYOUT_5_MIN:
        *scale = d;
        *min = load_f16(b + (PR + r) * 2);
        break;
    case LAYOUT_4_SUPER: case LAYOUT_5_SUPER:
        *scale = d * b[PR * (4 + i * 2) + r];
        *min = -load_f16(b + (PR + r) * 2) * b[PR * (5 + i * 2) + r];
        break;
    case LAYOUT_6_SUPER:
        memcpy(&d, b + r * 4, sizeof(d));
        *scale = d * (int8_t)b[PR * (4 + i * 2 + h) + r];
        *min = *scale * -32;
        break;
    default:
        *scale = d;
        *min = 0;
    }
}

static void unpack(enum cpu_layout l, const uint8_t *panel, uint32_t g, struct ints *e)
{
    const struct cpu_shape *shape = &cpu_shapes[l];
    uint32_t i = g % shape->groups;
    const uint8_t *b = panel + g / shape->groups * cpu_block_bytes(l, PR);
    unpack_q(shape->bits, b + shape->header * PR + i * cpu_group_bytes(l, PR), e->q);
    for (uint32_t h = 0; h < 2; h++)
        for (uint32_t r = 0; r < PR; r++)
            unpack_scale(l, b, i, h, r, &e->scale[h][r], &e->min[h][r]);
}

static void group_ints(const struct ints *e, const struct act_group *a, float *acc)
{
    for (uint32_t h = 0; h < 2; h++) {
        for (uint32_t r = 0; r < PR; r++) {
            int32_t s = 0;
            for (uint32_t k = 0; k < 16; k++)
                s += e->q[(h * 4 + k / 4) * V + r * 4 + k % 4] * a->q[h * 16 + k];
            acc[r] += (float)s * (e->scale[h][r] * a->scale);
            acc[r] += (float)-a->neg[h] * (e->min[h][r] * a->scale);
        }
    }
}

static float load_float(enum cpu_layout l, const uint8_t *w, uint32_t i)
{
    float f;
    uint32_t u;
    if (l == LAYOUT_F32) {
        memcpy(&f, w + i * 4, sizeof(f));
    } else if (l == LAYOUT_F16) {
        f = load_f16(w + i * 2);
    } else {
        u = (uint32_t)w[i * 2] << 16 | (uint32_t)w[i * 2 + 1] << 24;
        memcpy(&f, &u, sizeof(f));
    }
    return f;
}

static void group_floats(enum cpu_layout l, const uint8_t *w, const float *a, float *acc)
{
    float s[PR] = { 0 };
    for (uint32_t k = 0; k < GROUP; k++)
        for (uint32_t r = 0; r < PR; r++)
            s[r] += load_float(l, w, k * PR + r) * a[k];
    for (uint32_t r = 0; r < PR; r++)
        acc[r] += s[r];
}

static void direct(enum cpu_layout l, const uint8_t *panel, uint32_t n_groups, struct act_rows a,
                   uint32_t n_rows, float *acc)
{
    for (uint32_t g = 0; g < n_groups; g++) {
        struct ints e;
        if (!cpu_is_float(l))
            unpack(l, panel, g, &e);
        for (uint32_t r = 0; r < n_rows; r++) {
            const uint8_t *x = a.p + r * a.stride + g * cpu_act_group_bytes(a.exact);
            float room[GROUP];
            if (!cpu_is_float(l))
                group_ints(&e, (const void *)x, acc + r * PR);
            else
                group_floats(l, panel + g * cpu_group_bytes(l, PR), act_floats(x, a.exact, room),
                             acc + r * PR);
        }
    }
}

void cpu_act_prepare_portable(const float *src, uint32_t n_groups, struct act_group *dst)
{
    for (uint32_t g = 0; g < n_groups; g++, src += GROUP, dst++) {
        uint32_t max = 0;
        for (uint32_t k = 0; k < GROUP; k++) {
            uint32_t u;
            memcpy(&u, &src[k], sizeof(u));
            max = MAX(max, u & 0x7fffffff);
        }
        float inverse = act_scale((int32_t)max, &dst->scale);
        int32_t s[2][2] = { 0 };            // by half; of inputs 0, 1 and 2, 3 modulo 4
        int32_t qq = 0;
        float xq[8] = { 0 };                // as the lanes of a vector
        for (uint32_t k = 0; k < GROUP; k++) {
            float x = rintf(src[k] * inverse);
            dst->q[k] = (int8_t)(x >= -128 && x <= 127 ? x : -128);
            s[k / 16][k / 2 % 2] += dst->q[k];
            qq += dst->q[k] * dst->q[k];
            xq[k % 8] += src[k] * dst->q[k];
        }
        float sum = ((xq[0] + xq[4]) + (xq[2] + xq[6])) + ((xq[1] + xq[5]) + (xq[3] + xq[7]));
        dst->scale = act_best_scale(dst->scale, inverse, sum, qq);
        for (uint32_t i = 0; i < 2; i++) {
            dst->neg[i] = -s[i][0] - s[i][1];
            dst->neg16[0][i] = (int16_t)-s[0][i];
            dst->neg16[1][i] = (int16_t)-s[1][i];
            dst->neg16[2][i] = (int16_t)-(s[0][i] + s[1][i]);
        }
        dst->neg[2] = dst->neg[0] + dst->neg[1];
        dst->sum = dst->scale * (float)-dst->neg[2];
    }
}

static bool supported(void)
{
    return true;
}

#define KERNEL(l) \
    static void direct_##l(const void *panel, uint32_t n_groups, struct act_rows a, \
                           uint32_t n_rows, float *acc) \
    { \
        direct(LAYOUT_##l, panel, n_groups, a, n_rows, acc); \
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

#define ROW(l) [LAYOUT_##l] = { .direct = direct_##l }

const struct cpu_kernels cpu_kernels_portable = {
    .name = "portable",
    .panel_rows = PR,
    .supported = supported,
    .act_prepare = cpu_act_prepare_portable,
    .mat = {
        ROW(4), ROW(4_MIN), ROW(4_SUPER), ROW(5), ROW(5_MIN), ROW(5_SUPER), ROW(6_SUPER), ROW(8),
        ROW(F16), ROW(BF16), ROW(F32),
    },
};
