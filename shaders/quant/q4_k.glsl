// q4_k: nibbles (16 bytes a group) | of each 8 groups 16 bytes of scales (unpack_k_scales).
#include "quant.glsl"
#define QUANT_ZERO 0
#define QUANT_MIN

struct QuantRaw { uvec4 low, scales; };

QuantRaw quant_load(QuantPart w, uint row, uint group)
{
    return QuantRaw(Words4(quant_plane(w, row, 0)).v[group],
                    Words4(quant_plane(w, row, w.n_in / 2)).v[group / 8]);
}

QuantGroup quant_unpack(QuantRaw r, uint group)
{
    QuantGroup q;
    unpack_nibbles(r.low, q.lo, q.hi);
    unpack_k_scales(r.scales, group, q.scale, q.min);
    q.sub = ivec2(1);
    return q;
}

void quant_eight(QuantPart w, uint row, uint chunk, out vec4 lo, out vec4 hi)
{
    uint group = chunk / 4;
    uvec2 q = chunk_nibbles(quant_plane(w, row, 0), group, chunk % 4);
    float scale, min;
    unpack_k_scales(Words4(quant_plane(w, row, w.n_in / 2)).v[group / 8], group, scale, min);
    affine_eight(q, scale, min, lo, hi);
}

// In the file two groups share 32 bytes, a nibble of each.
void quant_pack(QuantPart w, uint row, uint group)
{
    uint word[8], j = group % 8;
    for (uint k = 0; k < 8; k++)
        word[k] = raw_word(16 + j / 2 * 32 + 4 * k) >> j % 2 * 4;
    Words4(quant_plane(w, row, 0)).v[group] = pack_nibbles(word);
    if (j == 0)
        Words4(quant_plane(w, row, w.n_in / 2)).v[group / 8] = pack_k_scales();
}
