// bf16: the upper half of a float.
#include "engine/quant/bits.h"

const struct quant_ints quant_ints_bf16 = { .group = QUANT_GROUP_NONE };

void quant_decode_bf16(const void *src, size_t n, float *dst)
{
    const uint8_t *p = src;
    for (size_t i = 0; i < n; i++) {
        uint16_t h;
        memcpy(&h, p + 2 * i, sizeof(h));
        dst[i] = float_of_bits((uint32_t)h << 16);
    }
}
