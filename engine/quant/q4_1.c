// q4_1: 32 elements of 4 bits, scale and minimum.
#include "engine/quant/bits.h"

#define ELEMS 32

struct block {
    uint8_t scale[2];               // f16
    uint8_t min[2];                 // f16
    uint8_t low[16];                // nibbles: elements 0..15 low, 16..31 high
};
static_assert(sizeof(struct block) == 20, "as in quant.def");

static void unpack(const struct block *b, int8_t *q)
{
    unpack_nibbles(b->low, sizeof(b->low), q);
}

void quant_decode_q4_1(const void *src, size_t n, float *dst)
{
    int8_t q[ELEMS];
    for (const struct block *b = src, *end = b + n / ELEMS; b < end; b++, dst += ELEMS) {
        unpack(b, q);
        put_affine(q, ELEMS, load_half(b->scale), load_half(b->min), dst);
    }
}

static void decode_ints(const void *src, size_t n, int8_t *q, float *scale, float *min)
{
    const struct block *b = src, *end = b + n / ELEMS;
    for (; b < end; b++, q += ELEMS, scale++, min++) {
        unpack(b, q);
        scale[0] = load_half(b->scale);
        min[0] = load_half(b->min);
    }
}

const struct quant_ints quant_ints_q4_1 = { ELEMS, 0, 15, decode_ints };
