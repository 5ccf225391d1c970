// Rows of K and V as pages keep them, and the conversions to and from them.
//
//   page  = KV head 0 (K slice, V slice) | KV head 1 | ...
//   slice = 64 rows of HEAD_DIM elements; of q8_0 the codes of all rows, then their half scales
//
// A slice is read in 16-byte chunks: it starts at a multiple of 64 bytes, rows at multiples of 16.
#include "math.glsl"

BUFFER(Shorts, uint16_t, 2);

const uint KV_F32 = 0, KV_F16 = 1, KV_Q8_0 = 2;         // enum kv_type
const uint KV_Q8_GROUP = 32;
const uint LARGEST_HALF = 0x7bff;

uint kv_row_bytes(uint type, uint dim)
{
    return type == KV_F32 ? 4 * dim : type == KV_F16 ? 2 * dim : dim;
}

uint kv_slice_bytes(uint type, uint dim)
{
    uint row = kv_row_bytes(type, dim) + (type == KV_Q8_0 ? dim / KV_Q8_GROUP * 2 : 0);
    return (row * BLOCK_TOKENS + 63) & ~63u;
}

// To half precision in integers, since a device may round its own conversion either way. Rounds to
// nearest even; what is beyond the largest half becomes that; a NaN stays one.
uint half_bits(float x)
{
    uint u = floatBitsToUint(x), sign = u >> 16 & 0x8000u;
    u &= 0x7fffffffu;
    if (u > 0x7f800000u)
        return sign | 0x7e00u;
    uint h;
    if (u < 0x38800000u) {              // below the smallest normal half: units of 2^-24
        uint shift = min(126 - (u >> 23), 31u);
        uint m = (u & 0x7fffffu) | 0x800000u;
        uint low = m & ((1u << shift) - 1), tie = 1u << (shift - 1);
        h = m >> shift;
        h += uint(low > tie || (low == tie && (h & 1) != 0));
    } else {
        uint low = u & 0x1fffu;
        h = (u >> 13) - (112u << 10);
        h += uint(low > 0x1000u || (low == 0x1000u && (h & 1) != 0));
    }
    return sign | min(h, LARGEST_HALF);
}

float half_value(uint h)
{
    return unpackHalf2x16(h).x;
}

// Four codes of q8_0 as numbers: the byte becomes the low bits of 2^23 + 128.
vec4 code_values(uint codes)
{
    uint u = codes ^ 0x80808080u;
    uvec4 b = uvec4(u, u >> 8, u >> 16, u >> 24) & 0xffu;
    return uintBitsToFloat(b | 0x4b000000u) - 8388736.0;
}

// Elements [4 k, 4 k + 4) of a chunk. `scale` is q8_0's.
vec4 chunk_values(uint type, uvec4 chunk, float scale, uint k)
{
    if (type == KV_F32)
        return uintBitsToFloat(chunk);
    if (type == KV_F16)
        return vec4(unpackHalf2x16(chunk[2 * k]), unpackHalf2x16(chunk[2 * k + 1]));
    return code_values(chunk[k]) * scale;
}

// The scale of element `at` of row j.
float q8_scale(uint64_t slice, uint dim, uint j, uint at)
{
    Shorts scale = Shorts(slice + BLOCK_TOKENS * dim);
    return half_value(uint(scale.v[(j * dim + at) / KV_Q8_GROUP]));
}
