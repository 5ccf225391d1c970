// Which commands have to wait for earlier ones: ranges of memory read and written since a
// barrier. Calls no Vulkan.
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "engine/exec/vulkan/vk.h"

#define VK_RANGES_MAX 1024              // of one command at most

struct vk_range  { VkDeviceAddress lo, hi; };       // [lo, hi)
struct vk_ranges {                      // ascending, neither overlapping nor touching
    struct vk_range item[VK_RANGES_MAX];
    uint32_t        n;
};
struct vk_hazards { struct vk_ranges reads, writes; };

void vk_hazards_clear(struct vk_hazards *h);
// A command with these uses has to wait.
bool vk_hazards_meet(const struct vk_hazards *h, const struct vk_use *uses, uint32_t n);
// Takes its uses in. false: there is no room for them all; a barrier makes some.
bool vk_hazards_add(struct vk_hazards *h, const struct vk_use *uses, uint32_t n);
// Moves all of src to dst. false: there is no room, and src is as it was, dst void.
bool vk_hazards_move(struct vk_hazards *dst, struct vk_hazards *src);
