// Rows of a slot as inputs of integer products.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint THREADS = 64;    // a multiple of 8

#include "act.glsl"

layout(push_constant) uniform Push {
    Floats4 src;
    uint64_t dst;           // (rows, act_row_bytes)
    Words limit;            // rows that there are, at least one
    uint n_in;
    uint src_stride;        // vec4s of a row
};

void main()
{
    uint row = gl_WorkGroupID.y, quad = gl_GlobalInvocationID.x;
    if (row > 0 && row >= limit.v[0])
        return;
    vec4 x = quad < n_in / 4 ? src.v[row * src_stride + quad] : vec4(0.0);
    act_store(dst + row * act_row_bytes(n_in), n_in, quad, x);
}
