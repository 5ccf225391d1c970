// f16: halves.
#include "quant.glsl"
#define QUANT_F16

void quant_eight(QuantPart w, uint row, uint chunk, out vec4 lo, out vec4 hi)
{
    uvec4 v = Words4(quant_plane(w, row, 0)).v[chunk];
    lo = vec4(unpackHalf2x16(v.x), unpackHalf2x16(v.y));
    hi = vec4(unpackHalf2x16(v.z), unpackHalf2x16(v.w));
}

void quant_pack(QuantPart w, uint row, uint group)
{
    pack_halves(w, row, group);
}
