// The table of compiled kernels, made by shaders/meson.build. Tests of the device layer link this
// file with kernels of their own in it.
#include "engine/exec/vulkan/spirv.h"
#include <assert.h>
#include "shaders/spirv_kernels_includes.inc"
#ifdef TEST_KERNELS
#include "shaders/spirv_test_kernels_includes.inc"
#endif

#define SPIRV(id) { .name = #id, .word = spirv_##id, .bytes = sizeof(spirv_##id) }

static const struct spirv table[KERNEL_COUNT] = {
#include "shaders/spirv_kernels.inc"
#ifdef TEST_KERNELS
#include "shaders/spirv_test_kernels.inc"
#endif
};

const struct spirv *spirv_of(enum kernel_id id)
{
    assert(id < KERNEL_COUNT);
    return &table[id];
}
