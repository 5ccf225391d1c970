// Rotates pairs of dimensions of the q and k heads in place by the row's angles. An invocation has
// one pair; dimensions beyond 2 * half stay.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "step.glsl"

layout(local_size_x_id = 0) in;
layout(constant_id = 1) const bool ADJACENT = false;    // (2 i, 2 i + 1), else (i, i + half)

layout(push_constant) uniform Push {
    Floats q, k;
    Floats2 turn;           // (rows_max, half) cos and sin
    StepHead head;
    uint q_stride, k_stride, n_heads, n_kv_heads, head_dim, half_rot;
};

void rotate(Floats x, uint first, vec2 by, uint i)
{
    uint at_a = first + (ADJACENT ? 2 * i : i), at_b = ADJACENT ? at_a + 1 : at_a + half_rot;
    precise float a = x.v[at_a], b = x.v[at_b];
    precise float ra = fma(a, by.x, -(b * by.y)), rb = fma(a, by.y, b * by.x);
    x.v[at_a] = ra;
    x.v[at_b] = rb;
}

void main()
{
    uint row = gl_WorkGroupID.y, h = gl_GlobalInvocationID.x / half_rot;
    uint i = gl_GlobalInvocationID.x % half_rot;
    if (row >= head.n_rows || h >= n_heads + n_kv_heads)
        return;
    vec2 by = turn.v[row * half_rot + i];
    if (h < n_heads)
        rotate(q, row * q_stride + h * head_dim, by, i);
    else
        rotate(k, row * k_stride + (h - n_heads) * head_dim, by, i);
}
