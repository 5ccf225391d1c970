// What the kernels of attention share: rows as the host describes them, and the arithmetic of a
// softmax that runs in parts. The same expressions in every kernel, so that a row's bits do not
// depend on which of them did the work.
#include "common.glsl"
#include "step.glsl"
#include "kv.glsl"

const uint SPLIT_BLOCKS = 4;            // ATTN_SPLIT_BLOCKS
const uint SPLIT_TOKENS = SPLIT_BLOCKS * BLOCK_TOKENS;
const float LOWEST = -3.0e38;           // for minus infinity, which a compiler may assume away

struct AttnRow {                        // struct attn_row
    uint start, sink;                   // visible: position < sink, or start <= position <= its own
    uint n, n_sink, first;              // entries of its list, as struct row_view has them
    uint list;                          // where its lists begin, n for each KV head; NO_LIST
};
layout(buffer_reference, std430, buffer_reference_align = 8) readonly buffer AttnRows {
    AttnRow v[];
};
const uint NO_LIST = 0xffffffffu;

// Entry i of the list of a row's KV head: a block of its sequence. A driver may load whether there
// is a list or not: the address is always good.
uint list_entry(AttnRow r, Words list, uint kv_head, uint i)
{
    bool has_list = r.list != NO_LIST;
    uint at = has_list ? r.list + kv_head * r.n + i : 0;
    if (has_list)
        return list.v[at];
    return i < r.n_sink ? i : r.first + i - r.n_sink;
}

bool token_visible(AttnRow r, uint pos, uint token)
{
    return token <= pos && (token >= r.start || token < r.sink);
}

vec4 attn_exp(vec4 x)
{
    return vec4(exp_of(x.x), exp_of(x.y), exp_of(x.z), exp_of(x.w));
}

float attn_exp(float x)
{
    return exp_of(x);
}

// tanh within a few units in the last place: near zero, where the formula cancels, Cephes' odd
// polynomial.
vec4 attn_tanh(vec4 x)
{
    precise vec4 a = abs(x), z = x * x;
    precise vec4 far = 1.0 - 2.0 / (attn_exp(a + a) + 1.0);
    precise vec4 near = vec4(-5.70498872745e-3);
    near = fma(near, z, vec4(2.06390887954e-2));
    near = fma(near, z, vec4(-5.37397155531e-2));
    near = fma(near, z, vec4(1.33314422036e-1));
    near = fma(near, z, vec4(-3.33332819422e-1));
    near = fma(near * z, x, x);
    return mix(far * sign(x), near, lessThan(a, vec4(0.625)));
}

vec4 attn_softcap(vec4 s, float cap)
{
    if (cap > 0.0)
        s = cap * attn_tanh(s / cap);
    return s;
}

// What is kept of a sum whose largest score was `from`, when that becomes `to`.
vec4 attn_keep(vec4 from, vec4 to)
{
    return attn_exp(from - to);
}

// A total and one more part.
float attn_merge(float total, float keep, float part, float weight)
{
    precise float kept = total * keep;
    return fma(part, weight, kept);
}

float attn_inverse(float l)
{
    precise float r = 1.0 / l;
    return r;
}
