// Packing: rows of a tensor in its file's format -> panels (layouts in matmul_impl.h).
//
// Integers come from the format's own quant_ints.decode, 256 inputs of a row at a time; here they
// are only rearranged. Scales are copied from the blocks as they are there, half floats and small
// integers, so that a panel is hardly wider than the file.
#include <string.h>
#include "base/base.h"
#include "engine/exec/cpu/matmul_impl.h"

enum { CHUNK = 256, CHUNK_GROUPS = CHUNK / GROUP };

// The same inputs of all rows of a panel, unpacked.
struct chunk {
    uint32_t n;                                 // inputs
    int8_t   q[PANEL_ROWS_MAX][CHUNK];
    const uint8_t *block[PANEL_ROWS_MAX];       // where its data is in the file; NULL: no such row
    uint32_t block_bytes;
};

static uint16_t le16(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}

// Row r's data from input `input` on, or NULL past the last row.
static const uint8_t *row_data(const struct cpu_mat *m, uint32_t row, uint32_t input)
{
    const struct quant *q = m->t->quant;
    size_t row_bytes = (size_t)(m->n_in / q->block_elems) * q->block_bytes;
    if (row >= m->n_out)
        return NULL;
    return (const uint8_t *)m->t->data + row * row_bytes +
           (size_t)(input / q->block_elems) * q->block_bytes;
}

static void load_chunk(const struct cpu_mat *m, uint32_t panel, uint32_t input, struct chunk *c)
{
    float scale[CHUNK / 16], min[CHUNK / 16];
    c->n = MIN(CHUNK, m->n_in - input);
    c->block_bytes = m->t->quant->block_bytes;
    for (uint32_t r = 0; r < m->panel_rows; r++) {
        c->block[r] = row_data(m, panel * m->panel_rows + r, input);
        if (c->block[r])
            m->t->quant->ints->decode(c->block[r], c->n, c->q[r], scale, min);
        else
            memset(c->q[r], 0, sizeof(c->q[r]));
    }
}

static void put16(uint8_t *dst, uint16_t v)
{
    memcpy(dst, &v, sizeof(v));
}

// q4_0, q4_1, q5_0, q5_1, q8_0: a block is a group and begins with f16 scale and, if it has one,
// f16 min.
static uint8_t *put_scales(const struct chunk *c, uint32_t pr, uint32_t g, bool has_min,
                           uint8_t *dst)
{
    static const uint8_t zero[4];
    for (uint32_t r = 0; r < pr; r++) {
        const uint8_t *b = c->block[r] ? c->block[r] + g * c->block_bytes : zero;
        put16(dst + r * 2, le16(b));
        if (has_min)
            put16(dst + (pr + r) * 2, le16(b + 2));
    }
    return dst + pr * (has_min ? 4 : 2);
}

// The 6-bit scale and min of group g in the 12 bytes of a q4_k or q5_k block: four of each in the
// low bits of bytes 0..3 and 4..7; of the other four the low nibbles in bytes 8..11 and the high
// two bits on top of bytes 0..7.
static void scale_min_k(const uint8_t *s, uint32_t g, uint8_t *scale, uint8_t *min)
{
    if (g < 4) {
        *scale = s[g] & 63;
        *min = s[g + 4] & 63;
    } else {
        *scale = (uint8_t)((s[g + 4] & 15) | (s[g - 4] >> 6) << 4);
        *min = (uint8_t)(s[g + 4] >> 4 | (s[g] >> 6) << 4);
    }
}

// q4_k, q5_k: a block begins with f16 d, f16 dmin, 12 bytes of scales. The panel's min is added.
static uint8_t *put_super_min(const struct chunk *c, uint32_t pr, uint8_t *dst)
{
    static const uint8_t zero[16];
    for (uint32_t r = 0; r < pr; r++) {
        const uint8_t *b = c->block[r] ? c->block[r] : zero;
        put16(dst + r * 2, le16(b));
        put16(dst + (pr + r) * 2, le16(b + 2));
        for (uint32_t g = 0; g < CHUNK_GROUPS; g++) {
            uint8_t *s = dst + pr * 4 + g * pr * 2 + r;
            scale_min_k(b + 4, g, s, s + pr);
        }
    }
    return dst + pr * 20;
}

// q6_k: a block is 128 low nibble bytes, 64 high bit bytes, 16 signed scales, f16 d.
static uint8_t *put_super16(const struct chunk *c, uint32_t pr, uint8_t *dst)
{
    static const uint8_t zero[210];
    for (uint32_t r = 0; r < pr; r++) {
        const uint8_t *b = c->block[r] ? c->block[r] : zero;
        float d = f16_to_f32(le16(b + 208));
        memcpy(dst + r * 4, &d, sizeof(d));
        for (uint32_t i = 0; i < 16; i++)
            dst[pr * 4 + i * pr + r] = b[192 + i];
    }
    return dst + pr * 20;
}

static uint8_t *put_header(const struct chunk *c, enum cpu_layout l, uint32_t pr, uint32_t g,
                           uint8_t *dst)
{
    switch (l) {
    case LAYOUT_4_SUPER: case LAYOUT_5_SUPER:
        return put_super_min(c, pr, dst);
    case LAYOUT_6_SUPER:
        return put_super16(c, pr, dst);
    default:
        return put_scales(c, pr, g, cpu_has_min(l), dst);
    }
}

// Group g's integers, interleaved: v (8, pr * 4).
static void interleave(const struct chunk *c, uint32_t pr, uint32_t g, uint64_t *v)
{
    for (uint32_t r = 0; r < pr; r++)
        for (uint32_t j = 0; j < 8; j++)
            memcpy((uint8_t *)v + (j * pr + r) * 4, &c->q[r][g * GROUP + j * 4], 4);
}

// The stored form of v, eight bytes at a time; w of these are a vector.
static uint8_t *put_ints(const uint64_t *restrict v, uint32_t bits, uint32_t pr, uint8_t *dst)
{
    const uint64_t each = 0x0101010101010101;
    uint32_t w = pr / 2, n = w * bits;
    uint64_t out[8 * PANEL_ROWS_MAX / 2];
    if (bits == 8) {
        for (uint32_t i = 0; i < 8 * w; i++)
            out[i] = v[i] ^ each * 0x80;
    } else {
        for (uint32_t i = 0; i < 4 * w; i++)
            out[i] = (v[i] & each * 15) | (v[i + 4 * w] & each * 15) << 4;
    }
    for (uint32_t i = 0; i < w && bits == 5; i++) {
        uint64_t h = 0;
        for (uint32_t j = 0; j < 8; j++)
            h |= (v[j * w + i] >> 4 & each) << j;
        out[4 * w + i] = h;
    }
    for (uint32_t i = 0; i < 2 * w && bits == 6; i++) {
        const uint64_t *u = v + i / w * 4 * w + i % w;
        out[4 * w + i] = (u[0] >> 4 & each * 3) | (u[w] >> 4 & each * 3) << 2 |
                         (u[2 * w] >> 4 & each * 3) << 4 | (u[3 * w] >> 4 & each * 3) << 6;
    }
    memcpy(dst, out, n * sizeof(*out));
    return dst + n * sizeof(*out);
}

// pr is m->panel_rows, as a constant.
static inline __attribute__((always_inline)) void
pack_ints(const struct cpu_mat *m, enum cpu_layout l, uint32_t panel, uint32_t pr, uint8_t *dst)
{
    const struct cpu_shape *shape = &cpu_shapes[l];
    struct chunk c;
    for (uint32_t input = 0; input < m->n_in; input += CHUNK) {
        load_chunk(m, panel, input, &c);
        for (uint32_t g = 0; g < c.n / GROUP; g++) {
            uint64_t v[8 * PANEL_ROWS_MAX / 2];
            if (g % shape->groups == 0)
                dst = put_header(&c, l, pr, g, dst);
            interleave(&c, pr, g, v);
            dst = put_ints(v, shape->bits, pr, dst);
        }
    }
}

// f16 and bf16 as they are.
static void pack_16(const struct cpu_mat *m, uint32_t panel, uint8_t *dst)
{
    uint32_t pr = m->panel_rows;
    for (uint32_t r = 0; r < pr; r++) {
        const uint8_t *src = row_data(m, panel * pr + r, 0);
        for (uint32_t k = 0; src && k < m->n_in; k++)
            memcpy(dst + (k * (size_t)pr + r) * 2, src + k * (size_t)2, 2);
    }
}

// Anything, decoded.
static void pack_32(const struct cpu_mat *m, uint32_t panel, float *dst)
{
    uint32_t pr = m->panel_rows;
    float x[CHUNK];
    for (uint32_t r = 0; r < pr; r++) {
        for (uint32_t input = 0; input < m->n_in; input += CHUNK) {
            const uint8_t *src = row_data(m, panel * pr + r, input);
            uint32_t n = MIN(CHUNK, m->n_in - input);
            if (src)
                m->t->quant->decode(src, n, x);
            for (uint32_t k = 0; src && k < n; k++)
                dst[(input + k) * (size_t)pr + r] = x[k];
        }
    }
}

void cpu_pack_panel(const struct cpu_mat *m, enum cpu_layout l, uint32_t panel)
{
    uint8_t *dst = (uint8_t *)m->panel + panel * m->panel_bytes;
    if (!cpu_is_float(l)) {
        if (m->panel_rows == 8)
            pack_ints(m, l, panel, 8, dst);
        else
            pack_ints(m, l, panel, 16, dst);
        return;
    }
    // Inputs and rows past the matrix stay zero.
    if (m->n_in % GROUP != 0 || panel * m->panel_rows + m->panel_rows > m->n_out)
        memset(dst, 0, m->panel_bytes);
    if (l == LAYOUT_F32)
        pack_32(m, panel, (float *)(void *)dst);
    else
        pack_16(m, panel, dst);
}
