// dst = src * mul + add over n words: a command that depends on the one before, for tests of the
// device layer.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(local_size_x_id = 0) in;

layout(push_constant) uniform Push {
    Words dst, src;
    uint n, mul, add;
};

void main()
{
    uint i = gl_GlobalInvocationID.x;
    if (i < n)
        dst.v[i] = src.v[i] * mul + add;
}
