// Which parts of a slab are free: first by size, then by address, so that it is the same in every
// run. Calls no Vulkan.
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct vk_gap { size_t at, bytes; };

struct vk_space {
    struct vk_gap *gap;                 // (n_gaps) ascending, never touching; owned
    uint32_t       n_gaps, gaps_cap;
    uint32_t       n_pieces;            // taken and not given back
};

// [at, at + bytes) is free. 0 or -ENOMEM.
int  vk_space_init(struct vk_space *s, size_t at, size_t bytes);
void vk_space_finish(struct vk_space *s);
// The smallest gap that `bytes` fit, or 0: none does.
size_t vk_space_fit(const struct vk_space *s, size_t bytes);
// Takes a piece out of that gap. 0, -ENOSPC, -ENOMEM.
int  vk_space_take(struct vk_space *s, size_t bytes, size_t *at);
void vk_space_give(struct vk_space *s, size_t at, size_t bytes);    // cannot fail
