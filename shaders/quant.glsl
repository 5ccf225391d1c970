// What weight formats share, and what quant/NAME.glsl of each provides. A kernel that there is for
// each format gets this and common.glsl with its format's file.
//
// A matrix lies in device memory by rows; a row is planes, one after the other: integers, scales
// and so on, each without gaps, so that neighbouring invocations read neighbouring words. Rows are
// padded with zeros to a multiple of 16 bytes. The planes hold what the file holds, bit by bit:
// repack.glsl only moves it.
//
// Every format:
//     quant_eight(w, row, chunk, lo, hi)  elements [8 chunk, 8 chunk + 8), as the file means them
//     quant_pack(w, row, group)           a group of 32 elements from the file into the planes
// Integer formats define QUANT_ZERO, and QUANT_MIN or QUANT_SUB if they use these:
//     element i of a group of 32 = scale * sub[i / 16] * (q[i] - QUANT_ZERO) + min
//     quant_load(w, row, group)           the words of a group, to be asked for early
//     quant_unpack(raw, group)            those as QuantGroup
// All of it is exact: products of these scales have few bits, so only adding min rounds.
#include "common.glsl"
#extension GL_EXT_control_flow_attributes : require

struct QuantPart {                      // rows of a matrix: struct vk_part of weights.h
    uint64_t addr;
    uint row_bytes, n_in;
};

struct QuantGroup {
    uvec4 lo, hi;                       // q of elements 0..15 and 16..31, a byte each
    float scale, min;
    ivec2 sub;                          // of each half
};

void quant_eight(QuantPart w, uint row, uint chunk, out vec4 lo, out vec4 hi);

// For quant_pack, from repack.glsl: bytes of the file, `at` from the start of the group's block;
// float formats have no blocks, so theirs starts with the group.
uint raw_half(uint at);
uint raw_word(uint at);

// Element i of a row.
float quant_value(QuantPart w, uint row, uint i)
{
    vec4 lo, hi;
    quant_eight(w, row, i / 8, lo, hi);
    return i % 8 < 4 ? lo[i % 4] : hi[i % 4];
}

// Start of a plane.
uint64_t quant_plane(QuantPart w, uint row, uint at)
{
    return w.addr + (row * w.row_bytes + at);   // a part is smaller than 4 GiB
}

// ---- unpacking --------------------------------------------------------------------------------

// Half i of a plane of halves.
float half_at(uint64_t plane, uint i)
{
    return unpackHalf2x16(Words(plane).v[i / 2] >> (i % 2) * 16).x;
}

// Nibbles of 32 elements: byte b of word j is element 4 j + b and, above it, 16 + 4 j + b. Then a
// word of fifth bits: bit j of byte b is that of element 4 j + b. Then two words of two bits more:
// bits 2 j of byte b of word h are those of element 16 h + 4 j + b.
void unpack_nibbles(uvec4 v, out uvec4 lo, out uvec4 hi)
{
    lo = v & 0x0f0f0f0fu;
    hi = v >> 4 & 0x0f0f0f0fu;
}

void unpack_fifth_bits(uint h, inout uvec4 lo, inout uvec4 hi)
{
    lo |= uvec4(h << 4, h << 3, h << 2, h << 1) & 0x10101010u;
    hi |= uvec4(h, h >> 1, h >> 2, h >> 3) & 0x10101010u;
}

void unpack_high_pairs(uvec2 h, inout uvec4 lo, inout uvec4 hi)
{
    lo |= uvec4(h.x << 4, h.x << 2, h.x, h.x >> 2) & 0x30303030u;
    hi |= uvec4(h.y << 4, h.y << 2, h.y, h.y >> 2) & 0x30303030u;
}

// Of chunk k (0..3) of a group: eight bytes.
uvec2 chunk_nibbles(uint64_t plane, uint group, uint k)
{
    return Words2(plane).v[group * 2 + k % 2] >> k / 2 * 4 & 0x0f0f0f0fu;
}

uvec2 chunk_fifth_bits(uint h, uint k)
{
    return (uvec2(h >> 2 * k, h >> 2 * k + 1) & 0x01010101u) << 4;
}

uvec2 chunk_high_pairs(uvec2 h, uint k)
{
    uint word = h[k / 2] >> k % 2 * 4;
    return (uvec2(word, word >> 2) & 0x03030303u) << 4;
}

vec4 byte_values(uint word)
{
    return vec4(uvec4(word, word >> 8, word >> 16, word >> 24) & 0xffu);
}

// scale * (q - zero) + min for eight bytes. Exact but for adding min.
void affine_eight(uvec2 q, float scale, float offset, out vec4 lo, out vec4 hi)
{
    lo = fma(byte_values(q.x), vec4(scale), vec4(offset));
    hi = fma(byte_values(q.y), vec4(scale), vec4(offset));
}

// A block of q4_k or q5_k: two halves, then of the eight groups the low four bits of scale and min
// in a byte, then the high two bits of both in a nibble.
void unpack_k_scales(uvec4 block, uint group, out float scale, out float min)
{
    uint j = group % 8;
    uint low = (j < 4 ? block.y : block.z) >> j % 4 * 8, high = block.w >> j * 4;
    vec2 d = unpackHalf2x16(block.x);
    scale = d.x * float(low & 15u | (high & 3u) << 4);
    min = -(d.y * float(low >> 4 & 15u | (high & 12u) << 2));
}

// ---- packing, the way back --------------------------------------------------------------------

BUFFER(Shorts, uint16_t, 2);

// Words j of elements 4 j + b, all bits in bits 0..3, as unpack_nibbles wants them.
uvec4 pack_nibbles(uint word[8])
{
    uvec4 v;
    for (uint j = 0; j < 4; j++)
        v[j] = word[j] & 0x0f0f0f0fu | (word[j + 4] & 0x0f0f0f0fu) << 4;
    return v;
}

// Bit i is the fifth bit of element i.
uint pack_fifth_bits(uint bits)
{
    uint h = 0;
    for (uint j = 0; j < 8; j++)        // the factor takes bit b of four to bit 8 b
        h |= ((bits >> 4 * j & 15u) * 0x00204081u & 0x01010101u) << j;
    return h;
}

// Eight scales and minimums of 6 bits (engine/quant/bits.h), from byte 4 of a block.
uvec4 pack_k_scales()
{
    uint a = raw_word(4), b = raw_word(8), high = 0;
    for (uint j = 0; j < 4; j++) {
        uint pair = a >> 8 * j + 4 & 15u, min_pair = b >> 8 * j + 4 & 15u;
        high |= (pair & 3u | (min_pair & 3u) << 2) << 4 * j;
        high |= (pair >> 2 | min_pair >> 2 << 2) << 4 * j + 16;
    }
    return uvec4(raw_word(0), a & 0x0f0f0f0fu | (b & 0x0f0f0f0fu) << 4, raw_word(12), high);
}

uvec4 raw_words(uint at)
{
    return uvec4(raw_word(at), raw_word(at + 4), raw_word(at + 8), raw_word(at + 12));
}

// A group of 16-bit floats.
void pack_halves(QuantPart w, uint row, uint group)
{
    uint n = min(w.n_in - group * 32, 32u);
    for (uint k = 0; k < (n + 7) / 8; k++) {
        uvec4 v = uvec4(0);
        for (uint i = 0; i < 8; i++)
            if (8 * k + i < n)
                v[i / 2] |= raw_half(16 * k + 2 * i) << i % 2 * 16;
        Words4(quant_plane(w, row, 0)).v[group * 4 + k] = v;
    }
}
