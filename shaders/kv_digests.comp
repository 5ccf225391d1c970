// Digests of stored blocks to where they belong.
//
// One block per workgroup in z, one layer in y. Digests of a block (layers, digest_words) lie in
// memory that is pinned on the host: the floor is the bus, 64 KiB at 50 GB/s take 1.3 us.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint THREADS = 256;

layout(push_constant) uniform Push {
    Addresses digest;       // (layers)
    Words4 staging;         // (blocks, layers, digest_words)
    Words block;            // (blocks)
    uint digest_words;      // 16-byte words of a block in one layer
};

void main()
{
    uint i = gl_WorkGroupID.z, layer = gl_WorkGroupID.y, layers = gl_NumWorkGroups.y;
    uint word = gl_WorkGroupID.x * THREADS + gl_LocalInvocationIndex;
    Words4 dst = Words4(digest.v[layer]);
    if (word < digest_words)
        dst.v[block.v[i] * digest_words + word] =
            staging.v[(i * layers + layer) * digest_words + word];
}
