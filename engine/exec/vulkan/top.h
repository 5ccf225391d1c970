// Picking out of rows of logits on the device (struct out_top): of a step that wants no whole rows,
// these stay there, and what comes back is a few kilobytes each.
//
// A row is cut into slices. Each gives its best tokens (top_slice.comp), one workgroup makes the
// row's list of them (top_merge.comp). Where sums are wanted, they follow (top_sums.comp) with the
// bits that the host would get, and the logits where a draw probably falls (top_near.comp).
#pragma once
#include "engine/exec/vulkan/vulkan.h"

#define TOP_SLICE_TOKENS 4096
#define TOP_NEAR_TOKENS (3 * OUT_SUM_TOKENS)

// As shaders/top.glsl, top_merge.comp and top_near.comp have them.
struct top_want { uint32_t n_top; float scale; uint32_t lse; float draw; };
struct top_best { int32_t token[OUT_TOP_MAX]; float logit[OUT_TOP_MAX]; };
struct top_near { uint32_t first; float logit[TOP_NEAR_TOKENS]; };

struct vk_top {
    const struct vk_kernel *slice, *merge, *sums, *near;
    uint32_t n_slices, n_sums;          // of a row
    enum vk_outputs outputs;            // of the last step

    struct vk_mem rows;                 // (outputs_max, n_vocab) float32
    struct vk_mem want;                 // (outputs_max) struct top_want, upload
    struct vk_mem peak;                 // (outputs_max, n_slices) uint64: best of each slice
    struct vk_mem candidate;            // (outputs_max, n_slices, OUT_TOP_MAX) uint64
    struct vk_mem weight;               // (outputs_max, n_sums) float32: sums again, for near

    struct vk_mem best;                 // (outputs_max) struct top_best, host
    struct vk_mem sum;                  // (outputs_max, 2, n_sums) float32, host: sum, sum1
    struct vk_mem window;               // (outputs_max) struct top_near, host
    struct out_top *top;                // (outputs_max), owned

    struct vk_mem  part;                // (n_vocab) float32, host: of a row that is read
    struct vk_cmd *read;
};
