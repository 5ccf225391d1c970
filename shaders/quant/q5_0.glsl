// q5_0: nibbles (16 bytes a group) | fifth bits (4 bytes a group) | scales (halves).
#include "quant.glsl"
#define QUANT_ZERO 16

struct QuantRaw { uvec4 low; uint high; float scale; };

QuantRaw quant_load(QuantPart w, uint row, uint group)
{
    return QuantRaw(Words4(quant_plane(w, row, 0)).v[group],
                    Words(quant_plane(w, row, w.n_in / 2)).v[group],
                    half_at(quant_plane(w, row, w.n_in / 8 * 5), group));
}

QuantGroup quant_unpack(QuantRaw r, uint group)
{
    QuantGroup q;
    unpack_nibbles(r.low, q.lo, q.hi);
    unpack_fifth_bits(r.high, q.lo, q.hi);
    q.scale = r.scale;
    q.min = 0.0;
    q.sub = ivec2(1);
    return q;
}

void quant_eight(QuantPart w, uint row, uint chunk, out vec4 lo, out vec4 hi)
{
    uint group = chunk / 4;
    uvec2 q = chunk_nibbles(quant_plane(w, row, 0), group, chunk % 4);
    q |= chunk_fifth_bits(Words(quant_plane(w, row, w.n_in / 2)).v[group], chunk % 4);
    float scale = half_at(quant_plane(w, row, w.n_in / 8 * 5), group);
    affine_eight(q, scale, -16.0 * scale, lo, hi);
}

void quant_pack(QuantPart w, uint row, uint group)
{
    Words4(quant_plane(w, row, 0)).v[group] = raw_words(6);
    Words(quant_plane(w, row, w.n_in / 2)).v[group] = pack_fifth_bits(raw_word(2));
    Shorts(quant_plane(w, row, w.n_in / 8 * 5)).v[group] = uint16_t(raw_half(0));
}
