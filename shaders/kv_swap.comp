// Pages from slot to slot: one from device memory into pinned host memory, or the other way.
//
// One copy per workgroup in y. The floor is the bus: 256 KiB at 50 GB/s take 5 us.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint THREADS = 256;

struct Copy { Words4 src, dst; };       // struct page_copy
layout(buffer_reference, std430, buffer_reference_align = 16) readonly buffer Copies { Copy v[]; };

layout(push_constant) uniform Push {
    Copies copy;
    uint page_words;        // of 16 bytes
};

const uint WORDS = 8;                   // of an invocation

void main()
{
    Copy c = copy.v[gl_WorkGroupID.y];
    uint first = gl_WorkGroupID.x * THREADS * WORDS + gl_LocalInvocationIndex;
    for (uint i = 0, word = first; i < WORDS; i++, word += THREADS)
        if (word < page_words)
            c.dst.v[word] = c.src.v[word];
}
