// q6_k: 256 elements of 6 bits around 32 in 16 groups; signed byte scales of the groups are
// multiplied by a half of the block.
#include "engine/quant/bits.h"

#define GROUP 16
#define GROUPS 16
#define ELEMS (GROUP * GROUPS)
#define ZERO 32

struct block {
    uint8_t low[ELEMS / 2];         // nibbles; per half of the block: 64 low, then 64 high
    uint8_t high[ELEMS / 4];        // 2 bits; per half of the block: four runs of 32, lowest first
    int8_t  group[GROUPS];
    uint8_t scale[2];               // f16
};
static_assert(sizeof(struct block) == 210, "as in quant.def");

static void unpack(const struct block *b, int8_t *q)
{
    for (int half = 0; half < 2; half++, q += ELEMS / 2) {
        const uint8_t *high = b->high + half * 32;
        unpack_nibbles(b->low + half * 64, 64, q);
        for (int i = 0; i < 32; i++) {
            q[i] = (int8_t)(q[i] | (high[i] & 3) << 4);
            q[32 + i] = (int8_t)(q[32 + i] | (high[i] >> 2 & 3) << 4);
            q[64 + i] = (int8_t)(q[64 + i] | (high[i] >> 4 & 3) << 4);
            q[96 + i] = (int8_t)(q[96 + i] | (high[i] >> 6) << 4);
        }
    }
}

void quant_decode_q6_k(const void *src, size_t n, float *dst)
{
    int8_t q[ELEMS];
    for (const struct block *b = src, *end = b + n / ELEMS; b < end; b++) {
        float d = load_half(b->scale);
        unpack(b, q);
        for (int g = 0; g < GROUPS; g++, dst += GROUP)
            put_centred(q + g * GROUP, GROUP, ZERO, d * (float)b->group[g], dst);
    }
}

static void decode_ints(const void *src, size_t n, int8_t *q, float *scale, float *min)
{
    const struct block *b = src, *end = b + n / ELEMS;
    for (; b < end; b++, q += ELEMS, scale += GROUPS, min += GROUPS) {
        float d = load_half(b->scale);
        unpack(b, q);
        for (int g = 0; g < GROUPS; g++) {
            scale[g] = d * (float)b->group[g];
            min[g] = -ZERO * scale[g];
        }
    }
}

const struct quant_ints quant_ints_q6_k = { GROUP, 0, 63, decode_ints };
