// Products for few rows: what is chosen by the device, for tests and benchmarks to choose.
#pragma once
#include "engine/exec/vulkan/vulkan.h"

struct vk_matmul_choice {
    bool int_dot;               // integer dot products; bits are the same
    bool wide;                  // teams for subgroups of 32, which any device can run
    uint32_t outs, teams;       // outputs of a team, teams of a workgroup; 0: as usual
};

// vk_matmul_init with another choice.
int vk_matmul_take(struct vk_program *g, const struct vk_matmul_choice *choice, struct err *err);
