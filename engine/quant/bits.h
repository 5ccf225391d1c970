// Inside of the weight formats: reading packed blocks. Blocks are structs of bytes, so a cast from
// any address is fine; the loops are plain so that the compiler can vectorise them.
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include "base/base.h"
#include "engine/quant/quant.h"

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "blocks are read in place");

static inline float float_of_bits(uint32_t bits)
{
    float f;
    memcpy(&f, &bits, sizeof(f));
    return f;
}

static inline uint32_t bits_of_float(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof(bits));
    return bits;
}

// Exact, and touches no denormal float, so it does not depend on flush-to-zero modes.
static inline float half_to_float(uint16_t h)
{
    const uint32_t rebias = (uint32_t)(127 - 15) << 23;
    uint32_t mag = h & 0x7fff, sign = (uint32_t)(h & 0x8000) << 16;
    uint32_t normal = (mag << 13) + rebias;
    uint32_t special = normal + rebias;                             // infinity, NaN
    uint32_t denormal = bits_of_float((float)(int32_t)mag * 0x1p-24f);
    return float_of_bits(sign | (mag < 0x400 ? denormal : mag < 0x7c00 ? normal : special));
}

static inline float load_half(const uint8_t p[2])
{
    return half_to_float((uint16_t)(p[0] | p[1] << 8));
}

// n bytes of two nibbles: the low ones are elements 0..n-1, the high ones n..2n-1.
static inline void unpack_nibbles(const uint8_t *src, size_t n, int8_t *restrict q)
{
    for (size_t i = 0; i < n; i++) {
        q[i] = (int8_t)(src[i] & 15);
        q[n + i] = (int8_t)(src[i] >> 4);
    }
}

// ORs bit i of bits[] into q[i] as 16, for 8 * n_bytes elements.
static inline void or_fifth_bits(const uint8_t *bits, size_t n_bytes, int8_t *restrict q)
{
    for (size_t i = 0; i < n_bytes; i++) {
        // Byte k keeps bit k of bits[i]; adding 0x7f turns any kept bit into the top bit.
        uint64_t q8, spread = bits[i] * UINT64_C(0x0101010101010101) & UINT64_C(0x8040201008040201);
        spread += UINT64_C(0x7f7f7f7f7f7f7f7f);
        spread = (spread & UINT64_C(0x8080808080808080)) >> 3;
        memcpy(&q8, q + 8 * i, sizeof(q8));
        q8 |= spread;
        memcpy(q + 8 * i, &q8, sizeof(q8));
    }
}

// The 6-bit scales and minimums of the eight groups of a q4_k or q5_k block.
static inline void unpack_k_scales(const uint8_t src[12], uint8_t scale[8], uint8_t min[8])
{
    for (int i = 0; i < 4; i++) {
        scale[i] = src[i] & 63;
        min[i] = src[4 + i] & 63;
        scale[4 + i] = (uint8_t)((src[8 + i] & 15) | (src[i] >> 2 & 48));
        min[4 + i] = (uint8_t)(src[8 + i] >> 4 | (src[4 + i] >> 2 & 48));
    }
}

static inline void put_affine(const int8_t *q, size_t n, float scale, float min, float *dst)
{
    for (size_t i = 0; i < n; i++)
        dst[i] = scale * (float)q[i] + min;
}

// Values around `zero`. In exact arithmetic put_affine with min = -zero * scale, but the sign of a
// zero result is that of the `gguf` package.
static inline void put_centred(const int8_t *q, size_t n, int zero, float scale, float *dst)
{
    for (size_t i = 0; i < n; i++)
        dst[i] = scale * (float)(q[i] - zero);
}
