// q8_0: elements 0..15 of all groups | elements 16..31 of all groups | scales (halves).
#include "quant.glsl"
#define QUANT_ZERO 0
#define QUANT_SIGNED

struct QuantRaw { uvec4 lo, hi; float scale; };

QuantRaw quant_load(QuantPart w, uint row, uint group)
{
    return QuantRaw(Words4(quant_plane(w, row, 0)).v[group],
                    Words4(quant_plane(w, row, w.n_in / 2)).v[group],
                    half_at(quant_plane(w, row, w.n_in), group));
}

QuantGroup quant_unpack(QuantRaw r, uint group)
{
    return QuantGroup(r.lo, r.hi, r.scale, 0.0, ivec2(1));
}

void quant_eight(QuantPart w, uint row, uint chunk, out vec4 lo, out vec4 hi)
{
    uint group = chunk / 4, k = chunk % 4;
    uvec2 q = Words2(quant_plane(w, row, k / 2 * (w.n_in / 2))).v[group * 2 + k % 2];
    float scale = half_at(quant_plane(w, row, w.n_in), group);
    affine_eight(q ^ 0x80808080u, scale, -128.0 * scale, lo, hi);
}

void quant_pack(QuantPart w, uint row, uint group)
{
    Words4(quant_plane(w, row, 0)).v[group] = raw_words(2);
    Words4(quant_plane(w, row, w.n_in / 2)).v[group] = raw_words(18);
    Shorts(quant_plane(w, row, w.n_in)).v[group] = uint16_t(raw_half(0));
}
