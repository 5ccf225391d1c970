// OP_ROPE: the host works out cosines and sines of a step's rows in double, once for all layers,
// and the kernel rotates.
//
// A position is a number of ROPE_DIGITS digits, and its rotation the product of its digits', which
// stand in a table. That is what makes thousands of rows cheap, and a position's values depend on
// nothing but itself.
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "engine/exec/rope_freq.h"
#include "engine/exec/vulkan/vulkan.h"
#include "base/base.h"

#define ROPE_DIGITS 3
#define ROPE_BASE 256
#define THREADS 64

static_assert(CTX_MAX <= 1 << 24, "a position has ROPE_DIGITS digits");

struct rope_push {                      // rows_rope.comp
    VkDeviceAddress q, k, turn, head;
    uint32_t q_stride, k_stride, n_heads, n_kv_heads, head_dim, half;
};

// ---- tables -----------------------------------------------------------------------------------

static double *entry(const struct vk_rope *t, uint32_t digit, uint32_t value)
{
    return t->table + ((size_t)digit * ROPE_BASE + value) * 2 * t->half;
}

static void fill_table(struct vk_rope *t, const double *freq)
{
    double tokens = 1;                  // of one step of the digit
    for (uint32_t digit = 0; digit < ROPE_DIGITS; digit++, tokens *= ROPE_BASE)
        for (uint32_t value = 0; value < ROPE_BASE; value++) {
            double *c = entry(t, digit, value), *s = c + t->half;
            for (uint32_t i = 0; i < t->half; i++)
                sincos(value * tokens * freq[i], &s[i], &c[i]);
        }
}

static int init_table(struct vk_program *g, struct vk_rope *t, const struct rope_cfg *cfg,
                      struct err *err)
{
    double freq[HEAD_DIM_MAX / 2];
    t->half = cfg->n_rot / 2;
    t->magnitude = rope_magnitude(cfg);
    t->table = calloc((size_t)ROPE_DIGITS * ROPE_BASE * 2 * t->half, sizeof(*t->table));
    t->scratch = calloc((size_t)2 * t->half, sizeof(*t->scratch));
    if (!t->table || !t->scratch)
        return err_set(err, -ENOMEM, "no memory for RoPE tables");
    rope_frequencies(cfg, g->model->weights.rope_freqs, freq);
    fill_table(t, freq);
    return vk_alloc(g->vk, VK_HOME_UPLOAD,
                    (size_t)g->params.rows_max * 2 * t->half * sizeof(float), &t->turn, err);
}

int vk_rope_init(struct vk_program *g, struct err *err)
{
    int r = 0;
    for (uint32_t i = 0; r == 0 && i < g->plan->n_ops; i++) {
        struct vk_op *o = &g->op[i];
        bool turns = o->op->kind == OP_ROPE || o->op->kind == OP_QKV_STORE;
        if (!turns || vk_rope_cfg(g, o->op)->kind == ROPE_NONE)
            continue;
        struct vk_rope *t = &g->rope[o->op->rope.local];
        if (!t->table)
            r = init_table(g, t, vk_rope_cfg(g, o->op), err);
        const uint32_t spec[] = { THREADS, vk_rope_cfg(g, o->op)->kind == ROPE_ADJACENT };
        if (r == 0 && o->op->kind == OP_ROPE)
            r = vk_kernel(g->vk, KERNEL_rows_rope, spec, ARRAY_LEN(spec), &o->kernel, err);
    }
    return r;
}

void vk_rope_finish(struct vk_program *g)
{
    for (unsigned i = 0; i < ARRAY_LEN(g->rope); i++) {
        vk_free(g->vk, &g->rope[i].turn);
        free(g->rope[i].table);
        free(g->rope[i].scratch);
        g->rope[i] = (struct vk_rope){0};
    }
}

// ---- a step -----------------------------------------------------------------------------------

// (c, s) turned by (dc, ds), n of them.
static void turn(double *restrict c, double *restrict s, const double *restrict dc,
                 const double *restrict ds, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        double re = c[i] * dc[i] - s[i] * ds[i], im = c[i] * ds[i] + s[i] * dc[i];
        c[i] = re;
        s[i] = im;
    }
}

static void fill_row(struct vk_rope *t, uint32_t pos, float *dst)
{
    double *c = t->scratch, *s = c + t->half;
    memcpy(c, entry(t, 0, pos % ROPE_BASE), (size_t)2 * t->half * sizeof(*c));
    for (uint32_t digit = 1; digit < ROPE_DIGITS; digit++) {
        const double *by = entry(t, digit, (pos >> 8 * digit) % ROPE_BASE);
        turn(c, s, by, by + t->half, t->half);
    }
    for (uint32_t i = 0; i < t->half; i++) {
        dst[2 * i] = (float)(c[i] * (double)t->magnitude);
        dst[2 * i + 1] = (float)(s[i] * (double)t->magnitude);
    }
}

void vk_rope_fill(struct vk_program *g)
{
    for (unsigned k = 0; k < ARRAY_LEN(g->rope); k++) {
        struct vk_rope *t = &g->rope[k];
        float *dst = t->turn.map;
        for (uint32_t i = 0; t->table && i < g->batch->n_seqs; i++) {
            const struct batch_seq *s = &g->batch->seq[i];
            for (uint32_t row = 0; row < s->n_rows; row++, dst += 2 * t->half)
                fill_row(t, s->pos0 + row, dst);
        }
    }
}

void vk_rope_record(struct vk_program *g, struct vk_cmd *c, const struct vk_op *o,
                    const struct shape *s)
{
    if (!o->kernel)
        return;
    const uint8_t *slot = o->op->dst;
    const struct vk_rope *t = &g->rope[o->op->rope.local];
    const struct rope_push push = {
        .q = g->slot[slot[0]].addr, .k = g->slot[slot[1]].addr, .turn = t->turn.addr,
        .head = g->step.head.addr, .q_stride = g->stride[slot[0]], .k_stride = g->stride[slot[1]],
        .n_heads = g->cfg->n_heads, .n_kv_heads = g->cfg->n_kv_heads,
        .head_dim = g->cfg->head_dim, .half = t->half,
    };
    const struct vk_use uses[] = { vk_writes(&g->slot[slot[0]]), vk_writes(&g->slot[slot[1]]) };
    uint32_t pairs = (push.n_heads + push.n_kv_heads) * push.half;
    const struct vk_groups n = { DIV_UP(pairs, THREADS), vk_op_rows(o, s), 1 };
    vk_dispatch(c, o->kernel, "rope", &push, sizeof(push), n, uses, ARRAY_LEN(uses));
}
