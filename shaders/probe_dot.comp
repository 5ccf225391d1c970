// dst[i] = a[i] . b[i], signed bytes of n words: tests of the device layer.
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_integer_dot_product : require
#include "common.glsl"

layout(local_size_x_id = 0) in;

layout(push_constant) uniform Push {
    Words dst, a, b;
    uint n;
};

void main()
{
    uint i = gl_GlobalInvocationID.x;
    if (i < n)
        dst.v[i] = uint(dotPacked4x8EXT(int(a.v[i]), int(b.v[i])));
}
