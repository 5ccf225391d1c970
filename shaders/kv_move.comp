// A whole block from one place to another: its pages, wherever they lie, or staging memory in the
// order of kv_layout (the digests of all layers, then their pages). Staging memory is pinned on the
// host, so this is also the copy over the bus.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint THREADS = 256;

layout(push_constant) uniform Push {
    Addresses page;         // (layers, blocks)
    Addresses digest;       // (layers)
    Words4 staging;
    uint n_blocks;
    uint src, dst;          // blocks; STAGING
    uint page_words, digest_words;      // 16-byte words of a block in one layer
};

const uint STAGING = 0xffffffffu;
const uint WORDS = 8;                   // of an invocation

Words4 place(uint block, uint layer, uint word)
{
    uint layers = gl_NumWorkGroups.y;
    if (word < page_words) {
        if (block == STAGING)
            return Words4(uint64_t(staging) +
                          16 * uint64_t(layers * digest_words + layer * page_words + word));
        return Words4(page.v[layer * n_blocks + block] + 16 * word);
    }
    word -= page_words;
    if (block == STAGING)
        return Words4(uint64_t(staging) + 16 * uint64_t(layer * digest_words + word));
    return Words4(digest.v[layer] + 16 * (uint64_t(block) * digest_words + word));
}

void main()
{
    uint layer = gl_WorkGroupID.y, n = page_words + digest_words;
    uint first = gl_WorkGroupID.x * THREADS * WORDS + gl_LocalInvocationIndex;
    for (uint i = 0, word = first; i < WORDS; i++, word += THREADS)
        if (word < n)
            place(dst, layer, word).v[0] = place(src, layer, word).v[0];
}
