#version 460
#extension GL_EXT_bfloat16 : require
layout(local_size_x = 1) in;
shared bfloat16_t r;
void main() { r = bfloat16_t(1.0); }
