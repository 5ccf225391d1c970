// topk, second half: the blocks that a row's KV head reads, ascending. Per query head the softmax
// over the candidates, summed over the group; of the sums the highest, ties to the lower block,
// found as topk_choose finds them: the k-th highest key by its bytes from the top, then one walk in
// order.
//
// One workgroup per KV head and row. Candidate i belongs to invocation i modulo THREADS wherever it
// is visited, so nobody reads a sum that another wrote.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "select.glsl"

layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint THREADS = 256;       // as many as a byte has values
layout(constant_id = 1) const uint GROUP = 4;           // query heads of a KV head

layout(push_constant) uniform Push {
    Selects select;
    Slices slice;
    Floats4 score;          // (selects of the slice, KV heads, HV, slice.stride)
    Words list;
    Words table;
    StepRows row;
    Shorts used;            // (blocks) of this layer, or nowhere
    uint n_slice;
};

const uint HV = (GROUP + 3) / 4;
const uint MASK_WORDS = 1024;           // candidates of one walk / 32

shared vec4 lane[THREADS];
shared uint count[2 * THREADS], found_byte, found_rest;
shared bool found_all;
shared uint above[MASK_WORDS], equal[MASK_WORDS];
shared uvec2 before[2 * THREADS];

uint me;
uint first_block;                       // of the row's sequence, in the table

// Entry `at` of the lists: a block that the row reads. The host cannot know which, so a mark tells;
// all that store there store the same.
void add_to_list(uint at, uint block)
{
    list.v[at] = block;
    if (uint64_t(used) != 0)
        used.v[table.v[first_block + block]] = uint16_t(1);
}

// ---- scores -----------------------------------------------------------------------------------

vec4 max_of_all(vec4 x)
{
    barrier();
    lane[me] = x;
    for (uint n = THREADS / 2; n > 0; n /= 2) {
        barrier();
        if (me < n)
            lane[me] = max(lane[me], lane[me + n]);
    }
    barrier();
    return lane[0];
}

vec4 sum_of_all(vec4 x)
{
    barrier();
    lane[me] = x;
    for (uint n = THREADS / 2; n > 0; n /= 2) {
        barrier();
        if (me < n) {
            precise vec4 sum = lane[me] + lane[me + n];
            lane[me] = sum;
        }
    }
    barrier();
    return lane[0];
}

// Unsigned integers in the order of the floats; equal zeros, and NaN beyond everything.
uint ordered(float x)
{
    uint u = floatBitsToUint(x);
    u = u == 0x80000000u ? 0 : u;
    return (u & 0x80000000u) != 0 ? ~u : u | 0x80000000u;
}

// The sums of candidates' softmaxes, as ordered keys in the place of their first scores.
void find_keys(uint at, uint stride, uint n)
{
    vec4 largest[HV], inverse[HV];
    for (uint v = 0; v < HV; v++) {
        vec4 m = vec4(LOWEST);
        for (uint i = me; i < n; i += THREADS)
            m = max(m, score.v[at + v * stride + i]);
        largest[v] = max_of_all(m);
        precise vec4 sum = vec4(0.0);
        for (uint i = me; i < n; i += THREADS)
            sum += attn_exp(score.v[at + v * stride + i] - largest[v]);
        inverse[v] = 1.0 / sum_of_all(sum);
    }
    for (uint i = me; i < n; i += THREADS) {
        precise float sum = 0.0;
        for (uint v = 0; v < HV; v++) {
            precise vec4 p = attn_exp(score.v[at + v * stride + i] - largest[v]) * inverse[v];
            for (uint k = 0; k < min(4, GROUP - v * 4); k++)
                sum += p[k];
        }
        score.v[at + i].x = uintBitsToFloat(ordered(sum));
    }
}

uint key_of(uint at, uint i)
{
    return floatBitsToUint(score.v[at + i].x);
}

// ---- the k-th highest -------------------------------------------------------------------------

// The value of the byte at `shift` for which fewer than k keys that match `known` are higher.
// found_rest is what is left of k in that byte, found_all that this is everything that has it.
void find_byte(uint at, uint n, uint known, uint value, uint shift, uint k)
{
    barrier();
    count[me] = 0;
    barrier();
    for (uint i = me; i < n; i += THREADS) {
        uint key = key_of(at, i);
        if ((key & known) == value)
            atomicAdd(count[key >> shift & 255], 1);
    }
    uint from = 0;                      // sums of this byte and all higher ones
    for (uint step = 1; step < THREADS; step *= 2) {
        barrier();
        uint sum = count[from + me];
        if (me + step < THREADS)
            sum += count[from + me + step];
        from ^= THREADS;
        count[from + me] = sum;
    }
    barrier();
    uint higher = me + 1 < THREADS ? count[from + me + 1] : 0;
    if (higher < k && count[from + me] >= k) {
        found_byte = me;
        found_rest = k - higher;
        found_all = found_rest == count[from + me] - higher;
    }
    barrier();
}

// Sums of all lanes before this one.
uvec2 sums_before(uvec2 x)
{
    barrier();
    before[me] = x;
    uint from = 0;
    for (uint step = 1; step < THREADS; step *= 2) {
        barrier();
        uvec2 sum = before[from + me];
        if (me >= step)
            sum += before[from + me - step];
        from ^= THREADS;
        before[from + me] = sum;
    }
    barrier();
    return before[from + me] - x;
}

// Marks candidates [first, first + n) and lists the chosen. done: keys above and equal ones so far;
// returns them with these.
uvec2 list_chosen(uint at, uint first, uint n, uint known, uint value, uint n_equal, uvec2 done,
                  uint to, uint sink)
{
    const uint EACH = MASK_WORDS / THREADS;
    barrier();
    for (uint i = 0; i < EACH; i++) {
        above[me * EACH + i] = 0;
        equal[me * EACH + i] = 0;
    }
    barrier();
    for (uint i = me; i < n; i += THREADS) {
        uint key = key_of(at, first + i) & known;
        if (key > value)
            atomicOr(above[i / 32], 1u << i % 32);
        if (key == value)
            atomicOr(equal[i / 32], 1u << i % 32);
    }
    barrier();
    uvec2 mine = uvec2(0);
    for (uint i = 0; i < EACH; i++)
        mine += uvec2(bitCount(above[me * EACH + i]), bitCount(equal[me * EACH + i]));
    uvec2 rank = done + sums_before(mine);
    for (uint i = 0; i < EACH; i++) {
        uint word = me * EACH + i, high = above[word];
        for (uint bits = high | equal[word]; bits != 0; bits &= bits - 1) {
            uint bit = findLSB(bits);
            bool is_above = (high >> bit & 1) != 0;
            if (is_above || rank.y < n_equal)
                add_to_list(to + rank.x + min(rank.y, n_equal), sink + first + word * 32 + bit);
            rank += is_above ? uvec2(1, 0) : uvec2(0, 1);
        }
    }
    barrier();
    if (me == THREADS - 1)
        before[0] = rank;
    barrier();
    return before[0];
}

void main()
{
    me = gl_LocalInvocationIndex;
    Slice s = slice.v[n_slice];
    Select c = select.v[s.first + gl_WorkGroupID.y];
    first_block = row.v[c.row].table;
    uint kv_head = gl_WorkGroupID.x, n_kv_heads = gl_NumWorkGroups.x;
    uint at = (gl_WorkGroupID.y * n_kv_heads + kv_head) * HV * s.stride;
    uint n_list = c.sink + c.chosen + c.local, to = c.list + kv_head * n_list;
    for (uint i = me; i < c.sink; i += THREADS)
        add_to_list(to + i, i);
    for (uint i = me; i < c.local; i += THREADS)
        add_to_list(to + c.sink + c.chosen + i, c.sink + c.n + i);
    if (c.chosen == 0)
        return;

    find_keys(at, s.stride, c.n);
    uint known = 0, value = 0, k = c.chosen;
    bool all = false;
    for (uint shift = 32; shift > 0 && !all;) {
        shift -= 8;
        find_byte(at, c.n, known, value, shift, k);
        value |= found_byte << shift;
        known |= 255u << shift;
        k = found_rest;
        all = found_all;
    }
    uvec2 done = uvec2(0);
    for (uint first = 0; first < c.n; first += MASK_WORDS * 32)
        done = list_chosen(at, first, min(MASK_WORDS * 32, c.n - first), known, value, k, done,
                           to + c.sink, c.sink);
}
