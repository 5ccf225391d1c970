// q5_1: nibbles (16 bytes a group) | fifth bits (4 bytes a group) | scale, min (two halves a
// group).
#include "quant.glsl"
#define QUANT_ZERO 0
#define QUANT_MIN

struct QuantRaw { uvec4 low; uint high, scale_min; };

QuantRaw quant_load(QuantPart w, uint row, uint group)
{
    return QuantRaw(Words4(quant_plane(w, row, 0)).v[group],
                    Words(quant_plane(w, row, w.n_in / 2)).v[group],
                    Words(quant_plane(w, row, w.n_in / 8 * 5)).v[group]);
}

QuantGroup quant_unpack(QuantRaw r, uint group)
{
    QuantGroup q;
    vec2 d = unpackHalf2x16(r.scale_min);
    unpack_nibbles(r.low, q.lo, q.hi);
    unpack_fifth_bits(r.high, q.lo, q.hi);
    q.scale = d.x;
    q.min = d.y;
    q.sub = ivec2(1);
    return q;
}

void quant_eight(QuantPart w, uint row, uint chunk, out vec4 lo, out vec4 hi)
{
    uint group = chunk / 4;
    uvec2 q = chunk_nibbles(quant_plane(w, row, 0), group, chunk % 4);
    q |= chunk_fifth_bits(Words(quant_plane(w, row, w.n_in / 2)).v[group], chunk % 4);
    vec2 d = unpackHalf2x16(Words(quant_plane(w, row, w.n_in / 8 * 5)).v[group]);
    affine_eight(q, d.x, d.y, lo, hi);
}

void quant_pack(QuantPart w, uint row, uint group)
{
    Words4(quant_plane(w, row, 0)).v[group] = raw_words(8);
    Words(quant_plane(w, row, w.n_in / 2)).v[group] = pack_fifth_bits(raw_word(4));
    Words(quant_plane(w, row, w.n_in / 8 * 5)).v[group] = raw_word(0);
}
