// Writes value = base + i over n words: tests of the device layer, and the smallest example of a
// kernel. Arguments come as push constants, memory as addresses in them.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(local_size_x_id = 0) in;

layout(push_constant) uniform Push {
    Words dst;
    uint n, base;
};

void main()
{
    uint i = gl_GlobalInvocationID.x;
    if (i < n)
        dst.v[i] = base + i;
}
