// q4_k: 256 elements of 4 bits in 8 groups; 6-bit scales and minimums of the groups are multiplied
// by two halves of the block.
#include "engine/quant/bits.h"

#define GROUP 32
#define GROUPS 8
#define ELEMS (GROUP * GROUPS)

struct block {
    uint8_t scale[2], min[2];       // f16, of the group scales and minimums
    uint8_t group[12];              // see unpack_k_scales
    uint8_t low[ELEMS / 2];         // 32 bytes for two groups: nibbles, the even group low
};
static_assert(sizeof(struct block) == 144, "as in quant.def");

static void unpack(const struct block *b, int8_t *q)
{
    for (int g = 0; g < GROUPS; g += 2, q += 2 * GROUP)
        unpack_nibbles(b->low + g / 2 * GROUP, GROUP, q);
}

static void unpack_scales(const struct block *b, float scale[GROUPS], float min[GROUPS])
{
    uint8_t s[GROUPS], m[GROUPS];
    unpack_k_scales(b->group, s, m);
    float d = load_half(b->scale), dmin = load_half(b->min);
    for (int g = 0; g < GROUPS; g++) {
        scale[g] = d * (float)s[g];
        min[g] = -(dmin * (float)m[g]);
    }
}

void quant_decode_q4_k(const void *src, size_t n, float *dst)
{
    int8_t q[ELEMS];
    float scale[GROUPS], min[GROUPS];
    for (const struct block *b = src, *end = b + n / ELEMS; b < end; b++) {
        unpack(b, q);
        unpack_scales(b, scale, min);
        for (int g = 0; g < GROUPS; g++, dst += GROUP)
            put_affine(q + g * GROUP, GROUP, scale[g], min[g], dst);
    }
}

static void decode_ints(const void *src, size_t n, int8_t *q, float *scale, float *min)
{
    const struct block *b = src, *end = b + n / ELEMS;
    for (; b < end; b++, q += ELEMS, scale += GROUPS, min += GROUPS) {
        unpack(b, q);
        unpack_scales(b, scale, min);
    }
}

const struct quant_ints quant_ints_q4_k = { GROUP, 0, 15, decode_ints };
