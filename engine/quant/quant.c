// The table of weight formats, and half precision.
#include "engine/quant/quant.h"
#include "engine/quant/bits.h"

const struct quant quants[QUANT_COUNT] = {
#define QUANT(name, gguf_id, elems, bytes) \
    [QUANT_##name] = { #name, gguf_id, elems, bytes, quant_decode_##name, &quant_ints_##name },
#include "shaders/quant.def"
#undef QUANT
};

const struct quant *quant_by_gguf_id(uint32_t gguf_id)
{
    for (size_t i = 0; i < QUANT_COUNT; i++)
        if (quants[i].gguf_id == gguf_id)
            return &quants[i];
    return NULL;
}

const struct quant *quant_by_name(const char *name)
{
    for (size_t i = 0; i < QUANT_COUNT; i++)
        if (strcmp(quants[i].name, name) == 0)
            return &quants[i];
    return NULL;
}

float f16_to_f32(uint16_t h)
{
    return half_to_float(h);
}

uint16_t f32_to_f16(float f)
{
    uint32_t bits = bits_of_float(f), mag = bits & 0x7fffffff;
    uint16_t sign = (uint16_t)(bits >> 16 & 0x8000);
    if (mag > 0x7f800000)                           // NaN stays NaN, quiet
        return (uint16_t)(sign | 0x7e00 | (mag >> 13 & 0x1ff));
    if (mag >= 0x477ff000)                          // 65520 and more round to infinity
        return sign | 0x7c00;
    if (mag < 0x38800000)                           // below 2^-14: the unit of 0.5f is 2^-24
        return (uint16_t)(sign | (bits_of_float(float_of_bits(mag) + 0.5f) - 0x3f000000));
    mag += 0xfff + (mag >> 13 & 1);                 // to nearest, ties to even
    return (uint16_t)(sign | ((mag >> 13) - (112 << 10)));
}
