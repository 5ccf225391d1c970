// f16: IEEE half precision.
#include "engine/quant/bits.h"

const struct quant_ints quant_ints_f16 = { .group = QUANT_GROUP_NONE };

void quant_decode_f16(const void *src, size_t n, float *dst)
{
    const uint8_t *p = src;
    for (size_t i = 0; i < n; i++) {
        uint16_t h;
        memcpy(&h, p + 2 * i, sizeof(h));
        dst[i] = half_to_float(h);
    }
}
