// q8_0: 32 signed bytes, one scale.
#include "engine/quant/bits.h"

#define ELEMS 32

struct block {
    uint8_t scale[2];               // f16
    int8_t  q[ELEMS];
};
static_assert(sizeof(struct block) == 34, "as in quant.def");

void quant_decode_q8_0(const void *src, size_t n, float *dst)
{
    for (const struct block *b = src, *end = b + n / ELEMS; b < end; b++, dst += ELEMS)
        put_centred(b->q, ELEMS, 0, load_half(b->scale), dst);
}

static void decode_ints(const void *src, size_t n, int8_t *q, float *scale, float *min)
{
    const struct block *b = src, *end = b + n / ELEMS;
    for (; b < end; b++, q += ELEMS, scale++, min++) {
        memcpy(q, b->q, ELEMS);
        scale[0] = load_half(b->scale);
        min[0] = 0;
    }
}

const struct quant_ints quant_ints_q8_0 = { ELEMS, -128, 127, decode_ints };
