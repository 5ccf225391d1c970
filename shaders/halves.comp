// Inputs of tiled products: the rows of prompts in a slot as halves, each row scaled by a power of
// two so that its largest element is just below 1024. Nothing overflows then, however large a row
// is, and the scale itself rounds nothing. One workgroup per row.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint THREADS = 128;

layout(push_constant) uniform Push {
    Floats4 src;
    Words2 dst;             // (rows) halves, zeros to a multiple of 64, then in
                            // 16 bytes more the scale
    Words limit;            // rows that there are
    uint n_in;              // a multiple of 4
    uint src_stride;        // vec4s of a row
    uint dst_stride;        // 8-byte words of a row
};

const int LARGEST_LOG2 = 10;

shared float largest[THREADS];

float row_largest(uint row)
{
    uint me = gl_LocalInvocationIndex;
    float m = 0.0;
    for (uint i = me; i < n_in / 4; i += THREADS) {
        vec4 x = abs(src.v[row * src_stride + i]);
        m = max(max(m, max(x.x, x.y)), max(x.z, x.w));
    }
    largest[me] = m;
    for (uint n = THREADS / 2; n > 0; n /= 2) {
        barrier();
        if (me < n)
            largest[me] = max(largest[me], largest[me + n]);
    }
    barrier();
    return largest[0];
}

void main()
{
    uint row = gl_WorkGroupID.x;
    if (row >= limit.v[0])
        return;
    float m = row_largest(row);
    int e = LARGEST_LOG2;
    if (m > 0.0 && !isinf(m))
        frexp(m, e);
    e = clamp(e, LARGEST_LOG2 - 126, LARGEST_LOG2 + 126);
    float up = ldexp(1.0, LARGEST_LOG2 - e);
    for (uint i = gl_LocalInvocationIndex; i < dst_stride - 2; i += THREADS) {
        vec4 x = i < n_in / 4 ? src.v[row * src_stride + i] * up : vec4(0.0);
        dst.v[row * dst_stride + i] = uvec2(packHalf2x16(x.xy), packHalf2x16(x.zw));
    }
    if (gl_LocalInvocationIndex == 0)
        dst.v[(row + 1) * dst_stride - 2].x = floatBitsToUint(ldexp(1.0, e - LARGEST_LOG2));
}
