// f32: plain little-endian floats.
#include "engine/quant/bits.h"

const struct quant_ints quant_ints_f32 = { .group = QUANT_GROUP_NONE };

void quant_decode_f32(const void *src, size_t n, float *dst)
{
    memcpy(dst, src, n * sizeof(*dst));
}
