// What is taken of a Vulkan device's memory.
#pragma once
#include "engine/exec/vulkan/vk_int.h"

static inline uint32_t pieces_taken(const struct vk *vk)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < vk->n_slabs; i++)
        n += vk->slab[i] ? vk->slab[i]->space.n_pieces : 0;
    return n;
}
