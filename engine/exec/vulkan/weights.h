// Weight matrices in device memory, as kernels get them.
#pragma once
#include "engine/exec/vulkan/vulkan.h"

struct vk_part {                        // QuantPart of shaders/quant.glsl
    VkDeviceAddress addr;
    uint32_t row_bytes, n_in;
};

static inline struct vk_part vk_mat_part(const struct vk_mat *m, uint32_t part)
{
    return (struct vk_part){ m->part[part].addr, (uint32_t)m->row_bytes, m->n_in };
}

static inline uint32_t vk_mat_part_rows(const struct vk_mat *m, uint32_t part)
{
    uint32_t left = m->n_out - part * m->part_rows;
    return left < m->part_rows ? left : m->part_rows;
}

static inline enum quant_id vk_mat_quant(const struct vk_mat *m)
{
    return (enum quant_id)(m->t->quant - quants);
}

// vk_weights_init with other sizes, for tests: of a part, and of a slot of pinned memory that
// weights pass through (a row at least).
int vk_weights_take(struct vk_program *g, size_t part_bytes, size_t slot_bytes, struct err *err);
