// q6_k: nibbles (16 bytes a group) | two more bits (8 bytes a group) | factors of the halves of a
// group (two signed bytes) | scales (a half for 8 groups).
#include "quant.glsl"
#define QUANT_ZERO 32
#define QUANT_SUB

struct QuantRaw { uvec4 low; uvec2 high; uint sub; float scale; };

uint load_sub(QuantPart w, uint row, uint group)
{
    return Words(quant_plane(w, row, w.n_in / 4 * 3)).v[group / 2] >> group % 2 * 16;
}

float load_scale(QuantPart w, uint row, uint group)
{
    return half_at(quant_plane(w, row, w.n_in / 16 * 13), group / 8);
}

QuantRaw quant_load(QuantPart w, uint row, uint group)
{
    return QuantRaw(Words4(quant_plane(w, row, 0)).v[group],
                    Words2(quant_plane(w, row, w.n_in / 2)).v[group],
                    load_sub(w, row, group), load_scale(w, row, group));
}

QuantGroup quant_unpack(QuantRaw r, uint group)
{
    QuantGroup q;
    unpack_nibbles(r.low, q.lo, q.hi);
    unpack_high_pairs(r.high, q.lo, q.hi);
    q.scale = r.scale;
    q.min = 0.0;
    q.sub = ivec2(int(r.sub << 24) >> 24, int(r.sub << 16) >> 24);
    return q;
}

void quant_eight(QuantPart w, uint row, uint chunk, out vec4 lo, out vec4 hi)
{
    uint group = chunk / 4, k = chunk % 4;
    uvec2 q = chunk_nibbles(quant_plane(w, row, 0), group, k);
    q |= chunk_high_pairs(Words2(quant_plane(w, row, w.n_in / 2)).v[group], k);
    int sub = int(load_sub(w, row, group) << (k < 2 ? 24 : 16)) >> 24;
    float scale = load_scale(w, row, group) * float(sub);
    affine_eight(q, scale, -32.0 * scale, lo, hi);
}

// In the file four groups share 64 bytes of nibbles and 32 of pairs of bits.
void quant_pack(QuantPart w, uint row, uint group)
{
    uint word[8], j = group % 8, part = j / 4, k = j % 4;
    uvec2 high = uvec2(0);
    for (uint i = 0; i < 8; i++) {
        word[i] = raw_word(part * 64 + k % 2 * 32 + 4 * i) >> k / 2 * 4;
        high[i / 4] |= (raw_word(128 + part * 32 + 4 * i) >> 2 * k & 0x03030303u) << i % 4 * 2;
    }
    Words4(quant_plane(w, row, 0)).v[group] = pack_nibbles(word);
    Words2(quant_plane(w, row, w.n_in / 2)).v[group] = high;
    Shorts(quant_plane(w, row, w.n_in / 4 * 3)).v[group] = uint16_t(raw_half(192 + 2 * j));
    if (j == 0)
        Shorts(quant_plane(w, row, w.n_in / 16 * 13)).v[group / 8] = uint16_t(raw_half(208));
}
