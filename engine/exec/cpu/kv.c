// KV blocks as they are moved, and how rows become elements of a slice.
//
// K and V slices are the panels of vec.h, so that attention multiplies with them as they lie:
//   K (head_dim, 64 tokens): VEC_F32, VEC_F16 or VEC_Q8_K;  V (64 tokens, head_dim): VEC_Q8_V
// Rows of a block that are not written yet are zeros or rows of a copied block, never garbage:
// attention multiplies them by zero.
#include <string.h>
#include "engine/exec/cpu/cpu.h"
#include "base/base.h"

#define TOKENS KV_BLOCK_TOKENS

void cpu_kv_page(struct program *p, struct kv_disk *disk, uint64_t memory_bytes)
{
    pages_limit(&container_of(p, struct cpu_program, p)->kv, disk, memory_bytes);
}

int cpu_kv_alloc(struct program *p, uint32_t n_blocks, struct kv_layout *ret, struct err *err)
{
    struct cpu_program *g = container_of(p, struct cpu_program, p);
    struct kv_layout l;
    int r = kv_layout_init(&l, g->cfg, g->params.k_type, g->params.v_type, CPU_LAYOUT_VERSION,
                           err);
    if (r == 0)
        r = pages_init(&g->kv, &l, n_blocks, err);
    if (r == 0)
        *ret = l;
    return r;
}

// Whole blocks are moved while their pages are in memory: to be stored, or not stored at all.

void cpu_kv_copy(struct program *p, uint32_t dst_block, uint32_t src_block)
{
    struct pages *kv = &container_of(p, struct cpu_program, p)->kv;
    memcpy(pages_digest(kv, dst_block), pages_digest(kv, src_block), kv->layout.digest_bytes);
    for (uint32_t i = 0; i < kv->layout.n_layers; i++)
        memcpy(pages_at(kv, page_number(kv, dst_block, i)),
               pages_at(kv, page_number(kv, src_block, i)), kv->layout.page_bytes);
}

void cpu_kv_read(struct program *p, uint32_t block, void *dst)
{
    struct pages *kv = &container_of(p, struct cpu_program, p)->kv;
    memcpy(dst, pages_digest(kv, block), kv->layout.digest_bytes);
    for (uint32_t i = 0; i < kv->layout.n_layers; i++)
        memcpy((uint8_t *)dst + kv_page_offset(&kv->layout, i),
               pages_at(kv, page_number(kv, block, i)), kv->layout.page_bytes);
}

void cpu_kv_write(struct program *p, uint32_t block, const void *src)
{
    struct pages *kv = &container_of(p, struct cpu_program, p)->kv;
    int r = pages_claim(kv, block);
    assert(r == 0);
    (void)r;
    memcpy(pages_digest(kv, block), src, kv->layout.digest_bytes);
    for (uint32_t i = 0; i < kv->layout.n_layers; i++)
        memcpy(pages_at(kv, page_number(kv, block, i)),
               (const uint8_t *)src + kv_page_offset(&kv->layout, i), kv->layout.page_bytes);
}

void cpu_kv_backed(struct program *p, uint32_t block, bool backed)
{
    pages_set_backed(&container_of(p, struct cpu_program, p)->kv, block, backed);
}

void cpu_kv_write_digests(struct program *p, uint32_t block, const void *digests)
{
    struct pages *kv = &container_of(p, struct cpu_program, p)->kv;
    pages_set_backed(kv, block, false);
    memcpy(pages_digest(kv, block), digests, kv->layout.digest_bytes);
    pages_set_backed(kv, block, true);
}

void cpu_kv_page_stats(const struct program *p, struct kv_page_stats *ret)
{
    pages_stats(&container_of(p, const struct cpu_program, p)->kv, ret);
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
static void write_digest(const struct cpu_program *g, uint32_t block, uint32_t layer,
                         uint32_t head, const uint8_t *k)
{
    const struct kv_layout *l = &g->kv.layout;
    float mean[HEAD_DIM_MAX], x[TOKENS];
    for (uint32_t d = 0; d < l->head_dim; d++) {
        read_k(g->cpu->vec, l->k_type, k, l->head_dim, d, x);
        mean[d] = 0.0f;
        for (uint32_t j = 0; j < TOKENS; j++)
            mean[d] += x[j];
        mean[d] /= TOKENS;
    }
    uint8_t *digest = pages_digest(&g->kv, block) + kv_digest_offset(l, layer, head);
    g->cpu->vec->to_f16((uint16_t *)(void *)digest, mean, l->head_dim);
}

void kv_write_tile(struct cpu_program *g, const struct op *op, const struct tile *t,
                   uint32_t head)
{
    const struct kv_layout *l = &g->kv.layout;
    const struct batch_seq *seq = &g->batch->seq[t->seq];
    const struct vec *vec = g->cpu->vec;
    uint32_t block = seq->block[t->pos0 / TOKENS];
    uint8_t *page = pages_at(&g->kv, page_number(&g->kv, block, op->layer));
    uint8_t *k = page + kv_k_offset(l, head), *v = page + kv_v_offset(l, head);
    uint32_t j0 = t->pos0 % TOKENS, at = head * l->head_dim;
    if (j0 == 0 && t->n_rows < TOKENS)
        memset(k, 0, l->head_bytes);
    for (uint32_t i = 0; i < t->n_rows; i++) {
        write_k(vec, l->k_type, k, slot_row(g, op->src[0], t->row0 + i) + at, l->head_dim, j0 + i);
        write_v(vec, l->v_type, v, slot_row(g, op->src[1], t->row0 + i) + at, l->head_dim, j0 + i);
    }
    if (j0 + t->n_rows == TOKENS)
        write_digest(g, block, op->layer, head, k);
}
