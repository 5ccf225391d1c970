// Weight formats: one row of shaders/quant.def and one file engine/quant/NAME.c each.
//
// Layouts follow the GGUF specification as the `gguf` Python package decodes it.
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// Every integer format is groups of consecutive elements with value = scale * q + min.
// q is what the integer kernels multiply; scale and min stay float.
#define QUANT_GROUP_NONE 0
struct quant_ints {
    uint32_t group;             // elements that share scale and min: 16 or 32; 0: a float format
    int8_t   q_min, q_max;      // of q (q4_*: 0..15, q5_*: 0..31, q6_k: 0..63, q8_0: -128..127)
    // n elements, a multiple of the block: q (n), scale (n / group), min (n / group).
    // NULL in float formats.
    void   (*decode)(const void *src, size_t n, int8_t *q, float *scale, float *min);
};

struct quant {
    const char *name;           // lower case, as in the row
    uint32_t    gguf_id;
    uint32_t    block_elems, block_bytes;
    // Exact decode of n elements (a multiple of block_elems) in float32, rounded exactly as the
    // `gguf` package does it. src needs no alignment.
    void      (*decode)(const void *src, size_t n, float *dst);
    const struct quant_ints *ints;      // never NULL
};

enum quant_id {
#define QUANT(name, gguf_id, elems, bytes) QUANT_##name,
#include "shaders/quant.def"
#undef QUANT
    QUANT_COUNT
};

extern const struct quant quants[QUANT_COUNT];

const struct quant *quant_by_gguf_id(uint32_t gguf_id);     // NULL: unknown or unsupported
const struct quant *quant_by_name(const char *name);        // NULL: unknown

// What each format's file provides.
#define QUANT(name, gguf_id, elems, bytes) \
    void quant_decode_##name(const void *src, size_t n, float *dst); \
    extern const struct quant_ints quant_ints_##name;
#include "shaders/quant.def"
#undef QUANT

// Half precision, scalar, exact. f32_to_f16 rounds to nearest even.
float    f16_to_f32(uint16_t h);
uint16_t f32_to_f16(float f);
