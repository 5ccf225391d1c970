// The table of compiled kernels, made by shaders/meson.build.
#include "engine/exec/vulkan/spirv.h"
#include <assert.h>
#include "shaders/spirv_includes.inc"

#define SPIRV(id) { .name = #id, .word = spirv_##id, .bytes = sizeof(spirv_##id) }

static const struct spirv table[KERNEL_COUNT] = {
#include "shaders/spirv_table.inc"
};

const struct spirv *spirv_of(enum kernel_id id)
{
    assert(id < KERNEL_COUNT);
    return &table[id];
}
