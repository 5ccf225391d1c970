// Prepared inputs of integer products: groups of 32 elements as x = scale * q, q signed bytes. The
// rule is the CPU executor's (engine/exec/cpu/matmul_impl.h): q is x * 127 / max, to nearest even,
// and the scale then the one that brings q nearest to x.
//
// A row is three planes, so that neighbouring invocations read neighbouring words:
//     q of elements 0..15 of every group | of elements 16..31 | (scale, sums of q of both halves)
// The sums are 16 bits each, the first half's low.

uint act_row_bytes(uint n_in)
{
    return (n_in / 32 * 40 + 15) & ~15u;
}

// For act_store: of every invocation's four elements.
shared uint act_max[THREADS];
shared uvec4 act_part[THREADS];         // q, sum of x * q, sum of q * q, sum of q

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

// Four elements of a row, the quad-th; all invocations of a workgroup call it together, with
// ascending quads from a multiple of 8 on. At or past the end of the row nothing is written.
void act_store(uint64_t row, uint n_in, uint quad, vec4 x)
{
    uint me = gl_LocalInvocationIndex, first = me & ~7u, n_groups = n_in / 32;
    uvec4 u = floatBitsToUint(x) & 0x7fffffffu;
    uint most = max(max(u.x, u.y), max(u.z, u.w));      // as integers: a NaN is above infinity
    act_max[me] = most;
    barrier();
    for (uint i = 0; i < 8; i++)
        most = max(most, act_max[first + i]);
    float largest = uintBitsToFloat(most);
    float inverse = most < 0x7f800000u && largest > 1e-30 ? 127.0 / largest : 0.0;
    ActQuad a = act_quantize(x, inverse);
    act_part[me] = uvec4(a.q, floatBitsToUint(a.xq), uint(a.qq), uint(a.sum));
    barrier();
    uint group = quad / 8, part = me - first;
    if (group >= n_groups || part > 2)
        return;
    if (part < 2) {
        uint at = first + part * 4;
        Words4(row).v[part * n_groups + group] =
            uvec4(act_part[at].x, act_part[at + 1].x, act_part[at + 2].x, act_part[at + 3].x);
        return;
    }
    float xq = 0.0;
    int qq = 0, sum[2] = int[2](0, 0);
    for (uint i = 0; i < 8; i++) {
        uvec4 p = act_part[first + i];
        xq += uintBitsToFloat(p.y);
        qq += int(p.z);
        sum[i / 4] += int(p.w);
    }
    float scale = inverse > 0.0 ? xq / float(qq) : largest / 127.0;
    Words2(row + 32 * n_groups).v[group] =
        uvec2(floatBitsToUint(scale), uint(sum[0] & 0xffff) | uint(sum[1]) << 16);
}
