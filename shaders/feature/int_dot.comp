#version 460
#extension GL_EXT_integer_dot_product : require
layout(local_size_x = 1) in;
layout(push_constant) uniform Push { uint a, b; };
shared int r;
void main() { r = dotPacked4x8EXT(int(a), int(b)); }
