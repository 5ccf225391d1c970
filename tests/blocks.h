// Random weights of any format, for tests.
#pragma once
#include <string.h>
#include "base/base.h"
#include "engine/quant/quant.h"

static inline uint32_t blocks_random(void)
{
    static uint64_t seed = 1;
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(seed >> 32);
}

// Roughly normal.
static inline float blocks_float(void)
{
    float s = 0;
    for (int i = 0; i < 4; i++)
        s += (float)(blocks_random() & 0xffff) / 65536 - 0.5f;
    return s * 1.7f;
}

static inline void blocks_put_f16(uint8_t *p, float x)
{
    uint16_t h = f32_to_f16(x);
    memcpy(p, &h, sizeof(h));
}

// One block; the values of whole formats are about as large as those of others.
static inline void blocks_fill_one(const struct quant *q, uint8_t *p)
{
    // Byte offsets of the f16 scales in a block, and their size; the rest may be any bits.
    static const struct { enum quant_id id; uint32_t n, at[2]; float d[2]; } scales[] = {
        { QUANT_q4_0, 1, { 0 }, { 0.1f } },         { QUANT_q4_1, 2, { 0, 2 }, { 0.1f, -0.8f } },
        { QUANT_q5_0, 1, { 0 }, { 0.1f } },         { QUANT_q5_1, 2, { 0, 2 }, { 0.1f, -1.5f } },
        { QUANT_q8_0, 1, { 0 }, { 0.01f } },        { QUANT_q4_k, 2, { 0, 2 }, { 0.01f, 0.08f } },
        { QUANT_q5_k, 2, { 0, 2 }, { 0.01f, 0.15f } },
        { QUANT_q6_k, 1, { 208 }, { 0.001f } },
    };
    if (q->ints->group == QUANT_GROUP_NONE) {
        float x = blocks_float();
        if (q == &quants[QUANT_f16])
            blocks_put_f16(p, x);
        else    // bf16 is the upper half
            memcpy(p, (uint8_t *)&x + sizeof(x) - q->block_bytes, q->block_bytes);
        return;
    }
    for (uint32_t i = 0; i < q->block_bytes; i++)
        p[i] = (uint8_t)blocks_random();
    for (size_t i = 0; i < ARRAY_LEN(scales); i++)
        for (uint32_t j = 0; q == &quants[scales[i].id] && j < scales[i].n; j++)
            blocks_put_f16(p + scales[i].at[j],
                           scales[i].d[j] * (0.5f + (float)(blocks_random() & 255) / 255));
}

static inline void blocks_fill(const struct quant *q, uint8_t *p, size_t n_blocks)
{
    for (size_t i = 0; i < n_blocks; i++)
        blocks_fill_one(q, p + i * q->block_bytes);
}
