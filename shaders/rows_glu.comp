// dst = act(gate) * up, four elements an invocation.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "math.glsl"
#include "glu.glsl"
#include "step.glsl"

layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint THREADS = 128;
layout(constant_id = 1) const uint ACT = 0;         // enum act_kind

layout(push_constant) uniform Push {
    Floats4 gate, up, dst;
    StepHead head;
    uint gate_stride, up_stride, dst_stride, width;
    uint gathered;          // rows are output rows
    uint prompts;           // only rows of prompts
};

void main()
{
    uint row = gl_WorkGroupID.y + (prompts != 0 ? head.n_decode : 0), i = gl_GlobalInvocationID.x;
    if (row >= (gathered != 0 ? head.n_out : head.n_rows) || i >= width)
        return;
    vec4 x = gate.v[row * gate_stride + i];
    vec4 y = vec4(glu_act(ACT, x.x), glu_act(ACT, x.y), glu_act(ACT, x.z), glu_act(ACT, x.w));
    dst.v[row * dst_stride + i] = y * up.v[row * up_stride + i];
}
