// Rows as the bytes that integer products take (act.glsl), four elements an invocation: groups are
// made alone, so that even one row is work for many workgroups.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "math.glsl"

layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint THREADS = 128;

#include "act.glsl"

layout(push_constant) uniform Push {
    Floats src;             // (rows, n_in rounded up to 32)
    uint64_t act;           // (rows, act_row_bytes)
    Words limit;            // rows that there are
    uint n_in;
};

void main()
{
    uint row = gl_WorkGroupID.y, quad = gl_WorkGroupID.x * THREADS + act_me;
    if (row >= limit.v[0])
        return;
    vec4 x = vec4(0.0);
    if (quad < n_in / 4)
        x = Floats4(uint64_t(src) + 4 * uint64_t(row * ((n_in + 31) / 32 * 32))).v[quad];
    act_store(act + row * act_row_bytes(n_in), n_in, quad, x);
}
