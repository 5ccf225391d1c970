// The compiled kernels, as words inside the program.
#pragma once
#include <stddef.h>
#include <stdint.h>
#include "engine/quant/quant.h"

#define KERNEL_SPAN_one 1
#define KERNEL_SPAN_each QUANT_COUNT
#define KERNEL_SPAN_ints QUANT_COUNT

// KERNEL_x of shaders/kernels.def; for one that there is for each format, KERNEL_x + QUANT_y. The
// last format has all of them.
enum kernel_id {
#define KERNEL(name, source, formats, needs) \
    KERNEL_##name, KERNEL_##name##_last = KERNEL_##name + KERNEL_SPAN_##formats - 1,
#include "shaders/kernels.def"
#include "shaders/test_kernels.def"
#undef KERNEL
    KERNEL_COUNT
};

struct spirv { const char *name; const uint32_t *word; size_t bytes; };

// name is NULL where this build's compiler could not make it.
const struct spirv *spirv_of(enum kernel_id id);
