// KV blocks in this executor's memory: slabs, and how rows become elements of a slice.
//
// K and V slices are the panels of vec.h, so that attention multiplies with them as they lie:
//   K (head_dim, 64 tokens): VEC_F32, VEC_F16 or VEC_Q8_K;  V (64 tokens, head_dim): VEC_Q8_V
// Rows of a block that are not written yet are zeros or rows of a copied block, never garbage:
// attention multiplies them by zero.
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "engine/exec/cpu/cpu.h"
#include "base/base.h"

#define SLAB_BYTES ((size_t)1 << 30)
#define TOKENS KV_BLOCK_TOKENS

// Blocks take memory only once they are written, which may be too late to say no.
static int check_memory(uint32_t n_blocks, size_t block_bytes, struct err *err)
{
    double have = (double)mem_machine_bytes();
    double need = (double)n_blocks * (double)block_bytes;
    if (need <= have)
        return 0;
    return err_set(err, -ENOMEM, "%u KV blocks need %.0f MiB, this machine has %.0f MiB", n_blocks,
                   need / 0x1p20, have / 0x1p20);
}

int cpu_kv_alloc(struct program *p, uint32_t n_blocks, struct kv_layout *ret, struct err *err)
{
    struct cpu_program *g = container_of(p, struct cpu_program, p);
    struct kv_slabs kv = { .n_blocks = n_blocks };
    assert(n_blocks > 0 && !g->kv.slab);
    int r = kv_layout_init(&kv.layout, g->cfg, g->params.k_type, g->params.v_type,
                           CPU_LAYOUT_VERSION, err);
    if (r)
        return r;
    size_t block = kv.layout.block_bytes;
    r = check_memory(n_blocks, block, err);
    if (r)
        return r;
    kv.blocks_per_slab = (uint32_t)CLAMP(SLAB_BYTES / block, (size_t)1, (size_t)n_blocks);
    kv.n_slabs = DIV_UP(n_blocks, kv.blocks_per_slab);
    kv.slab = calloc(kv.n_slabs, sizeof(*kv.slab));
    if (!kv.slab)
        r = -ENOMEM;
    for (uint32_t i = 0; r == 0 && i < kv.n_slabs; i++) {
        uint32_t n = MIN(kv.blocks_per_slab, n_blocks - i * kv.blocks_per_slab);
        r = mem_map(&kv.slab[i], n * block);
    }
    if (r) {
        kv_finish(&kv);
        return err_set(err, r, "no memory for %u KV blocks of %zu bytes", n_blocks, block);
    }
    g->kv = kv;
    *ret = kv.layout;
    return 0;
}

void kv_finish(struct kv_slabs *kv)
{
    for (uint32_t i = 0; kv->slab && i < kv->n_slabs; i++)
        mem_unmap(&kv->slab[i]);
    free(kv->slab);
    kv->slab = NULL;
}

uint8_t *kv_block(const struct kv_slabs *kv, uint32_t block)
{
    assert(block < kv->n_blocks);
    return (uint8_t *)kv->slab[block / kv->blocks_per_slab].p +
           block % kv->blocks_per_slab * kv->layout.block_bytes;
}

void cpu_kv_copy(struct program *p, uint32_t dst_block, uint32_t src_block)
{
    const struct kv_slabs *kv = &container_of(p, struct cpu_program, p)->kv;
    memcpy(kv_block(kv, dst_block), kv_block(kv, src_block), kv->layout.block_bytes);
}

void cpu_kv_read(struct program *p, uint32_t block, void *dst)
{
    const struct kv_slabs *kv = &container_of(p, struct cpu_program, p)->kv;
    memcpy(dst, kv_block(kv, block), kv->layout.block_bytes);
}

void cpu_kv_write(struct program *p, uint32_t block, const void *src)
{
    const struct kv_slabs *kv = &container_of(p, struct cpu_program, p)->kv;
    memcpy(kv_block(kv, block), src, kv->layout.block_bytes);
}

enum vec_form kv_k_form(enum kv_type t)
{
    return t == KV_F32 ? VEC_F32 : t == KV_F16 ? VEC_F16 : VEC_Q8_K;
}

enum vec_form kv_v_form(enum kv_type t)
{
    return t == KV_F32 ? VEC_F32 : t == KV_F16 ? VEC_F16 : VEC_Q8_V;
}

// Scales and integers of 32 tokens and 32 dimensions.
static uint8_t *q8_k_group(void *slice, uint32_t dim, uint32_t panel, uint32_t group)
{
    size_t bytes = VEC_PANEL * sizeof(uint16_t) + KV_Q8_GROUP * VEC_PANEL;
    return (uint8_t *)slice + (panel * (dim / KV_Q8_GROUP) + group) * bytes;
}

// Row j of K: a column, so its elements lie a panel's width apart.
static void write_k(const struct vec *vec, enum kv_type type, void *slice, const float *x,
                    uint32_t dim, uint32_t j)
{
    uint16_t half[HEAD_DIM_MAX];
    uint32_t panel = j / VEC_PANEL, lane = j % VEC_PANEL;
    size_t at = (size_t)panel * VEC_PANEL * dim + lane;
    if (type == KV_F32) {
        for (uint32_t d = 0; d < dim; d++)
            ((float *)slice)[at + d * VEC_PANEL] = x[d];
        return;
    }
    if (type == KV_F16) {
        uint16_t *p = (uint16_t *)slice + at;
        vec->to_f16(half, x, dim);
        for (uint32_t d = 0; d < dim; d++)
            p[d * VEC_PANEL] = half[d];
        return;
    }
    for (uint32_t i = 0; i < dim / KV_Q8_GROUP; i++) {
        uint8_t *p = q8_k_group(slice, dim, panel, i);
        int8_t q[KV_Q8_GROUP];
        uint16_t scale = vec->to_q8(q, x + i * KV_Q8_GROUP);
        memcpy(p + lane * sizeof(scale), &scale, sizeof(scale));
        p += VEC_PANEL * sizeof(uint16_t) + lane;
        for (uint32_t d = 0; d < KV_Q8_GROUP; d++)
            p[d * VEC_PANEL] = (uint8_t)q[d];
    }
}

// Row j of V: contiguous in each panel.
static void write_v(const struct vec *vec, enum kv_type type, void *slice, const float *x,
                    uint32_t dim, uint32_t j)
{
    for (uint32_t d = 0; d < dim; d += VEC_PANEL) {
        uint32_t w = MIN((uint32_t)VEC_PANEL, dim - d);
        size_t at = (size_t)TOKENS * d + (size_t)j * w;
        if (type == KV_F32) {
            memcpy((float *)slice + at, x + d, w * sizeof(float));
        } else if (type == KV_F16) {
            vec->to_f16((uint16_t *)slice + at, x + d, w);
        } else {
            uint8_t *p = (uint8_t *)slice + d / VEC_PANEL * (TOKENS * (VEC_PANEL + 2));
            int8_t *q = (int8_t *)p + TOKENS * sizeof(uint16_t) + j * VEC_PANEL;
            uint16_t scale = vec->to_q8(q, x + d);
            memcpy(p + j * sizeof(scale), &scale, sizeof(scale));
        }
    }
}

// Dimension d of the 64 K rows as stored, in token order.
static void read_k(const struct vec *vec, enum kv_type type, const uint8_t *slice, uint32_t dim,
                   uint32_t d, float *x)
{
    for (uint32_t panel = 0; panel < TOKENS / VEC_PANEL; panel++, x += VEC_PANEL) {
        size_t at = ((size_t)panel * dim + d) * VEC_PANEL;
        if (type == KV_F32) {
            memcpy(x, (const float *)(const void *)slice + at, VEC_PANEL * sizeof(*x));
        } else if (type == KV_F16) {
            vec->from_f16(x, (const uint16_t *)(const void *)slice + at, VEC_PANEL);
        } else {
            const uint8_t *group = q8_k_group((uint8_t *)(uintptr_t)slice, dim, panel,
                                              d / KV_Q8_GROUP);
            const int8_t *q = (const int8_t *)group + VEC_PANEL * sizeof(uint16_t) +
                              d % KV_Q8_GROUP * VEC_PANEL;
            vec->from_f16(x, (const uint16_t *)(const void *)group, VEC_PANEL);
            for (uint32_t i = 0; i < VEC_PANEL; i++)
                x[i] *= q[i];
        }
    }
}

// The mean of the K rows as stored. Sums run over the tokens in order, whatever wrote them.
static void write_digest(const struct cpu_program *g, uint8_t *block, uint32_t layer,
                         uint32_t head)
{
    const struct kv_layout *l = &g->kv.layout;
    float mean[HEAD_DIM_MAX], x[TOKENS];
    for (uint32_t d = 0; d < l->head_dim; d++) {
        read_k(g->cpu->vec, l->k_type, block + kv_k_offset(l, layer, head), l->head_dim, d, x);
        mean[d] = 0.0f;
        for (uint32_t j = 0; j < TOKENS; j++)
            mean[d] += x[j];
        mean[d] /= TOKENS;
    }
    g->cpu->vec->to_f16((uint16_t *)(void *)(block + kv_digest_offset(l, layer, head)), mean,
                        l->head_dim);
}

void kv_write_tile(struct cpu_program *g, const struct op *op, const struct tile *t,
                   uint32_t head)
{
    const struct kv_layout *l = &g->kv.layout;
    const struct batch_seq *seq = &g->batch->seq[t->seq];
    const struct vec *vec = g->cpu->vec;
    uint8_t *block = kv_block(&g->kv, seq->block[t->pos0 / TOKENS]);
    uint8_t *k = block + kv_k_offset(l, op->layer, head);
    uint8_t *v = block + kv_v_offset(l, op->layer, head);
    uint32_t j0 = t->pos0 % TOKENS, at = head * l->head_dim;
    if (j0 == 0 && t->n_rows < TOKENS)
        memset(k, 0, l->head_bytes);
    for (uint32_t i = 0; i < t->n_rows; i++) {
        write_k(vec, l->k_type, k, slot_row(g, op->src[0], t->row0 + i) + at, l->head_dim, j0 + i);
        write_v(vec, l->v_type, v, slot_row(g, op->src[1], t->row0 + i) + at, l->head_dim, j0 + i);
    }
    if (j0 + t->n_rows == TOKENS)
        write_digest(g, block, op->layer, head);
}
