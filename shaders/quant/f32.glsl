// f32: floats.
#include "quant.glsl"

void quant_eight(QuantPart w, uint row, uint chunk, out vec4 lo, out vec4 hi)
{
    Floats4 plane = Floats4(quant_plane(w, row, 0));
    lo = plane.v[2 * chunk];
    hi = plane.v[2 * chunk + 1];
}

void quant_pack(QuantPart w, uint row, uint group)
{
    uint n = min(w.n_in - group * 32, 32u);
    for (uint k = 0; k < (n + 7 & ~7u); k++)
        Words(quant_plane(w, row, 0)).v[group * 32 + k] = k < n ? raw_word(4 * k) : 0;
}
