// Prepared inputs of integer products: groups of 32 elements as x = scale * q, q signed bytes. The
// rule is the CPU executor's (engine/exec/cpu/matmul_impl.h): q is x * 127 / max, to nearest even,
// and the scale then the one that brings q nearest to x.
// The same bits in every kernel that makes them, so nothing is left to a compiler. Needs
// common.glsl and math.glsl.
//
// A row is three planes, so that neighbouring invocations read neighbouring words:
//     q of elements 0..15 of every group | of elements 16..31 | (scale, sums of q of both halves)
// The sums are 16 bits each, the first half's low.

#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_shuffle : require
#extension GL_EXT_control_flow_attributes : require

uint act_row_bytes(uint n_in)
{
    return (n_in / 32 * 40 + 15) & ~15u;
}

// What numbers the invocations of a workgroup here: neighbours are in one subgroup.
uint act_me = gl_SubgroupID * gl_SubgroupSize + gl_SubgroupInvocationID;

struct ActQuad { uint q; float xq; int qq, sum; };

ActQuad act_quantize(vec4 x, float inverse)
{
    ActQuad a = ActQuad(0, 0.0, 0, 0);
    for (uint i = 0; i < 4; i++) {
        // Infinities and NaN survive in the scale.
        float v = inverse > 0.0 ? clamp(roundEven(x[i] * inverse), -127.0, 127.0) : 0.0;
        int q = int(v);
        a.q |= uint(q & 0xff) << 8 * i;
        a.xq = fma(x[i], v, a.xq);
        a.qq += q * q;
        a.sum += q;
    }
    return a;
}

// What an invocation has of a group after act_piece(): of its eight the first two 16 bytes of q
// each, the third (scale, sums), the others nothing.
struct ActPiece { uint part; uvec4 words; };
const uint ACT_HEAD = 2;

// Invocations 8 i to 8 i + 7, which all come here, have four elements each of one group.
ActPiece act_piece(vec4 x)
{
    uint first = gl_SubgroupInvocationID & ~7u, part = gl_SubgroupInvocationID & 7u;
    uvec4 u = floatBitsToUint(x) & 0x7fffffffu;
    uint most = max(max(u.x, u.y), max(u.z, u.w));      // as integers: a NaN is above infinity
    [[unroll]] for (uint d = 1; d < 8; d *= 2)
        most = max(most, subgroupShuffleXor(most, d));
    float largest = uintBitsToFloat(most);
    float inverse = most < 0x7f800000u && largest > 1e-30 ? quotient(127.0, largest) : 0.0;
    ActQuad a = act_quantize(x, inverse);
    precise float xq = 0.0;
    int qq = a.qq, sum = a.sum;
    [[unroll]] for (uint i = 0; i < 8; i++)
        xq += subgroupShuffle(a.xq, first + i);
    [[unroll]] for (uint d = 1; d < 8; d *= 2)
        qq += subgroupShuffleXor(qq, d);
    [[unroll]] for (uint d = 1; d < 4; d *= 2)
        sum += subgroupShuffleXor(sum, d);
    int sum_lo = subgroupShuffle(sum, first), sum_hi = subgroupShuffle(sum, first + 4);
    ActPiece p = ActPiece(part, uvec4(0));
    [[unroll]] for (uint i = 0; i < 4; i++)
        p.words[i] = subgroupShuffle(a.q, first + (part & 1u) * 4 + i);
    precise float scale = inverse > 0.0 ? quotient(xq, float(qq)) : largest * (1.0 / 127.0);
    if (part == ACT_HEAD)
        p.words.xy = uvec2(floatBitsToUint(scale), uint(sum_lo & 0xffff) | uint(sum_hi) << 16);
    return p;
}

// Four elements of a row, the quad-th; invocation act_me has quad act_me plus a multiple of 8. At
// or past the end of the row nothing is written.
void act_store(uint64_t row, uint n_in, uint quad, vec4 x)
{
    uint group = quad / 8, n_groups = n_in / 32;
    ActPiece p = act_piece(x);
    if (group < n_groups && p.part < ACT_HEAD)
        Words4(row).v[p.part * n_groups + group] = p.words;
    if (group < n_groups && p.part == ACT_HEAD)
        Words2(row + 32 * n_groups).v[group] = p.words.xy;
}
