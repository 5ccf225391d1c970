// bf16: upper halves of floats.
#include "quant.glsl"
#define QUANT_BF16

vec4 upper_halves(uvec2 v)
{
    return uintBitsToFloat(uvec4(v.x << 16, v.x & 0xffff0000u, v.y << 16, v.y & 0xffff0000u));
}

void quant_eight(QuantPart w, uint row, uint chunk, out vec4 lo, out vec4 hi)
{
    uvec4 v = Words4(quant_plane(w, row, 0)).v[chunk];
    lo = upper_halves(v.xy);
    hi = upper_halves(v.zw);
}

void quant_pack(QuantPart w, uint row, uint group)
{
    pack_halves(w, row, group);
}
