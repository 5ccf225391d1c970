// dst = act(gate) * up, four elements an invocation.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "math.glsl"
#include "step.glsl"

layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint THREADS = 128;
layout(constant_id = 1) const uint ACT = 0;         // enum act_kind

layout(push_constant) uniform Push {
    Floats4 gate, up, dst;
    StepHead head;
    uint gate_stride, up_stride, dst_stride, width;
    uint gathered;          // rows are output rows
};

const uint SILU = 0, GELU_TANH = 1;

// x / (1 + exp(-u)), without an overflow for any u.
float gated(float x, float u)
{
    precise float t = exp_of(-abs(u));
    precise float s = u >= 0.0 ? x : x * t;
    return quotient(s, 1.0 + t);
}

float act(float x)
{
    if (ACT == SILU)
        return gated(x, x);
    // x / 2 * (1 + tanh(u)) = x / (1 + exp(-2 u))
    precise float u = 1.5957691216057307 * fma(0.044715 * x * x, x, x);
    return gated(x, u);
}

void main()
{
    uint row = gl_WorkGroupID.y, i = gl_GlobalInvocationID.x;
    if (row >= (gathered != 0 ? head.n_out : head.n_rows) || i >= width)
        return;
    vec4 x = gate.v[row * gate_stride + i];
    dst.v[row * dst_stride + i] =
        vec4(act(x.x), act(x.y), act(x.z), act(x.w)) * up.v[row * up_stride + i];
}
