// A group of 32 weights as halves, for matrix units: element 8 i + 2 c and the next in word[i][c].
// They are the weights times WEIGHT_UP, so that those of small scale are no denormals; weights that
// are halves already stay as they are.
#extension GL_EXT_shader_explicit_arithmetic_types_float16 : require

#ifdef QUANT_F16
const float WEIGHT_UP = 1.0;
#else
const float WEIGHT_UP = 64.0;
#endif

#ifdef QUANT_ZERO
#ifdef QUANT_SIGNED
const uint BYTE_FLIP = 0x80808080u, BYTE_ZERO = 128 + QUANT_ZERO;
#else
const uint BYTE_FLIP = 0, BYTE_ZERO = QUANT_ZERO;
#endif

#define HalvesRaw QuantRaw
#define halves_load quant_load

// Two bytes become the low bits of the half 1024, and so numbers without a conversion.
f16vec2 byte_halves(uint two, f16vec2 scale, f16vec2 offset)
{
    f16vec2 q = unpackFloat2x16(two | 0x64006400u) - f16vec2(1024.0 + float(BYTE_ZERO));
    return fma(q, scale, offset);
}

uvec2 word_halves(uint word, f16vec2 scale, f16vec2 offset)
{
    word ^= BYTE_FLIP;
    return uvec2(packFloat2x16(byte_halves(word & 0xffu | (word & 0xff00u) << 8, scale, offset)),
                 packFloat2x16(byte_halves(word >> 16 & 0xffu | word >> 8 & 0xff0000u, scale,
                                           offset)));
}

void halves_unpack(HalvesRaw raw, uint group, out uvec4 word[4])
{
    QuantGroup q = quant_unpack(raw, group);
    f16vec2 offset = f16vec2(float16_t(q.min * WEIGHT_UP));
    f16vec2 lo = f16vec2(float16_t(q.scale * float(q.sub.x) * WEIGHT_UP));
    f16vec2 hi = f16vec2(float16_t(q.scale * float(q.sub.y) * WEIGHT_UP));
    word[0] = uvec4(word_halves(q.lo.x, lo, offset), word_halves(q.lo.y, lo, offset));
    word[1] = uvec4(word_halves(q.lo.z, lo, offset), word_halves(q.lo.w, lo, offset));
    word[2] = uvec4(word_halves(q.hi.x, hi, offset), word_halves(q.hi.y, hi, offset));
    word[3] = uvec4(word_halves(q.hi.z, hi, offset), word_halves(q.hi.w, hi, offset));
}
#elif defined(QUANT_F16) || defined(QUANT_BF16)
struct HalvesRaw { uvec4 word[4]; };

HalvesRaw halves_load(QuantPart w, uint row, uint group)
{
    HalvesRaw r;
    [[unroll]] for (uint i = 0; i < 4; i++)
        r.word[i] = group * 32 + i * 8 < w.n_in ?
            Words4(quant_plane(w, row, 0)).v[group * 4 + i] : uvec4(0);
    return r;
}

uint pair_halves(uint two)
{
#ifdef QUANT_F16
    return two;
#else
    return packHalf2x16(uintBitsToFloat(uvec2(two << 16, two & 0xffff0000u)) * WEIGHT_UP);
#endif
}

void halves_unpack(HalvesRaw r, uint group, out uvec4 word[4])
{
    [[unroll]] for (uint i = 0; i < 4; i++)
        [[unroll]] for (uint c = 0; c < 4; c++)
            word[i][c] = pair_halves(r.word[i][c]);
}
#else
struct HalvesRaw { vec4 lo[4], hi[4]; };

HalvesRaw halves_load(QuantPart w, uint row, uint group)
{
    HalvesRaw r;
    [[unroll]] for (uint i = 0; i < 4; i++)
        if (group * 32 + i * 8 < w.n_in)
            quant_eight(w, row, group * 4 + i, r.lo[i], r.hi[i]);
        else
            r.lo[i] = r.hi[i] = vec4(0.0);
    return r;
}

void halves_unpack(HalvesRaw r, uint group, out uvec4 word[4])
{
    [[unroll]] for (uint i = 0; i < 4; i++) {
        vec4 lo = r.lo[i] * WEIGHT_UP, hi = r.hi[i] * WEIGHT_UP;
        word[i] = uvec4(packHalf2x16(lo.xy), packHalf2x16(lo.zw), packHalf2x16(hi.xy),
                        packHalf2x16(hi.zw));
    }
}
#endif
