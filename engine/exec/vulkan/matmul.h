// Products: what they want of their inputs, and choices of the device that tests and benchmarks
// make.
#pragma once
#include "engine/exec/vulkan/vulkan.h"

// Kernels read whole tiles of rows of prepared inputs: room after the last one.
#define ACT_ROWS_SLACK 64
// Elements of a group of act.glsl.
#define ACT_GROUP 32
// Generated rows from which on products are of matrices of bytes, where the device has them: up to
// 16 dot products are as fast on an H100.
#define VK_BYTES_FROM 17

// How matdot.glsl cuts its work: rows and outputs of a workgroup, steps asked for at once, and
// subgroups of a class.
struct vk_bytes_cut { uint32_t rows, outs, depth, split; };

struct vk_matmul_choice {
    bool int_dot;               // integer dot products; bits are the same
    bool wide;                  // teams for subgroups of 32, which any device can run
    // Outputs of a team, teams of a workgroup, groups of inputs asked for at once; 0: as usual.
    uint32_t outs, teams, depth;
    // Rows from which on matrices of bytes are used, if the device and the operation can; 0: never.
    // And how they are cut, if not as usual; 0 rows: as usual.
    uint32_t bytes_from;
    struct vk_bytes_cut cut;
};

// The device multiplies matrices of bytes as matdot.glsl wants it.
bool vk_matmul_has_bytes(const struct vk *vk);
// vk_matmul_init with another choice.
int vk_matmul_take(struct vk_program *g, const struct vk_matmul_choice *choice, struct err *err);

bool vk_multiplies(const struct op *op);
// In which forms a product's matrices want its input: of NORM_FLOATS, NORM_BYTES, NORM_HALVES. And
// the bytes of a row in g->act.
uint32_t vk_matmul_forms(const struct vk_program *g, const struct vk_op *o);
uint32_t vk_matmul_act_bytes(const struct vk_program *g, const struct vk_op *o);
uint32_t vk_matrix_act_bytes(uint32_t n_in);
// Rows of prompts run on matrix units.
bool vk_matrix_takes(const struct vk_program *g, const struct vk_op *o);
// Where it finds the floats.
static inline enum slot vk_input_slot(const struct op *op)
{
    return (enum slot)(op->normed.w ? op->normed.slot : op->src[0]);
}
