// dst[i] = src[out_row[i]], four elements an invocation.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "step.glsl"

layout(local_size_x_id = 0) in;

layout(push_constant) uniform Push {
    Floats4 src, dst;
    Words out_row;          // (n_out)
    StepHead head;
    uint src_stride, dst_stride, width;
};

void main()
{
    uint row = gl_WorkGroupID.y, i = gl_GlobalInvocationID.x;
    if (row < head.n_out && i < width)
        dst.v[row * dst_stride + i] = src.v[out_row.v[row] * src_stride + i];
}
