// Products for few rows: dst = W x for up to ROWS rows of the batch, with the matrix read once.
//
// TEAM invocations work on OUTS outputs. Invocation l takes groups (of floats: chunks) l, l + TEAM,
// ... in ascending order; the TEAM partial sums are then added as a tree, by halves. So an output's
// bits depend on its row of the batch and on TEAM alone. Integer formats multiply bytes by bytes;
// a group's sum is exact, whatever instruction makes it.
//
// With NORM_STEPS the last workgroup to end makes the next product's input of what all have
// written (norm.glsl).
#ifdef INT_DOT
#extension GL_EXT_integer_dot_product : require
#endif
layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint THREADS = 64;
layout(constant_id = 1) const uint TEAM = 32;       // a power of two
layout(constant_id = 2) const uint OUTS = 2;
layout(constant_id = 3) const uint ROWS = 1;
layout(constant_id = 4) const uint DEPTH = 1;       // groups asked for at once
layout(constant_id = 5) const bool FLOATS = false;  // inputs are the slot's, else act.glsl's
layout(constant_id = 6) const float SOFTCAP = 0.0;  // 0: none
layout(constant_id = 7) const uint GLU = 0;         // 0: none; else enum act_kind + 1
layout(constant_id = 8) const uint NORM_STEPS = 0;
layout(constant_id = 9) const uint NORM_WIDTH = 32; // all outputs, if there are NORM_STEPS

// The next groups are asked for before these are multiplied, where there is room in registers.
const bool AHEAD = DEPTH * OUTS <= 4;
const uint TEAMS = THREADS / TEAM, SUMS = OUTS * ROWS;
const uint ROUND = SUMS < 16 ? SUMS : 16;           // sums of a team that are finished at once

#include "few.glsl"
#include "norm.glsl"

shared float part[TEAMS * ROUND * (TEAM + 1)];      // one more: no two in the same bank

// ---- floats -----------------------------------------------------------------------------------

float fma_four(vec4 w, vec4 x, float sum)
{
    return fma(w.w, x.w, fma(w.z, x.z, fma(w.y, x.y, fma(w.x, x.x, sum))));
}

void add_chunk(Work k, uint chunk, vec4 lo[OUTS], vec4 hi[OUTS], inout float sum[SUMS])
{
    uint stride = (n_in + 31) / 32 * 8;
    [[unroll]] for (uint c = 0; c < ROWS; c++) {
        uint at = input_row(k, c) * stride + 2 * chunk;
        vec4 x = Floats4(src).v[at], y = Floats4(src).v[at + 1];
        [[unroll]] for (uint o = 0; o < OUTS; o++)
            sum[c * OUTS + o] = fma_four(hi[o], y, fma_four(lo[o], x, sum[c * OUTS + o]));
    }
}

void multiply_floats(Work k, inout float sum[SUMS])
{
    uint n_chunks = (n_in + 7) / 8;
    for (uint chunk = gl_LocalInvocationIndex % TEAM; chunk < n_chunks; chunk += TEAM * DEPTH) {
        vec4 lo[DEPTH][OUTS], hi[DEPTH][OUTS];
        [[unroll]] for (uint d = 0; d < DEPTH; d++)
            [[unroll]] for (uint o = 0; o < OUTS; o++)
                quant_eight(matrix(k, o), matrix_row(k, o), min(chunk + d * TEAM, n_chunks - 1),
                            lo[d][o], hi[d][o]);
        [[unroll]] for (uint d = 0; d < DEPTH; d++)
            if (chunk + d * TEAM < n_chunks)
                add_chunk(k, chunk + d * TEAM, lo[d], hi[d], sum);
    }
}

// ---- integers ---------------------------------------------------------------------------------
#ifdef QUANT_ZERO

int dot_four(uint a, uint b)
{
#ifdef INT_DOT
    return dotPacked4x8EXT(int(a), int(b));
#else
    ivec4 x = ivec4(a << 24, a << 16, a << 8, a) >> 24;
    ivec4 y = ivec4(b << 24, b << 16, b << 8, b) >> 24;
    return x.x * y.x + x.y * y.y + (x.z * y.z + x.w * y.w);
#endif
}

int dot_half(uvec4 a, uvec4 b)
{
    return dot_four(a.x, b.x) + dot_four(a.y, b.y) + (dot_four(a.z, b.z) + dot_four(a.w, b.w));
}

struct ActGroup { uvec4 lo, hi; float scale; int sum_lo, sum_hi; };

ActGroup load_act(uint row, uint group)
{
    uint64_t at = src + row * act_row_bytes(n_in);
    uint n = n_in / 32;
    uvec2 head = Words2(at + 32 * n).v[group];
    return ActGroup(Words4(at).v[group], Words4(at).v[n + group], uintBitsToFloat(head.x),
                    int(head.y << 16) >> 16, int(head.y) >> 16);
}

float add_group(QuantGroup q, ActGroup a, float sum)
{
#ifdef QUANT_SUB
    int dot = q.sub.x * (dot_half(q.lo, a.lo) - QUANT_ZERO * a.sum_lo) +
              q.sub.y * (dot_half(q.hi, a.hi) - QUANT_ZERO * a.sum_hi);
#else
    int dot = dot_half(q.lo, a.lo) + dot_half(q.hi, a.hi) - QUANT_ZERO * (a.sum_lo + a.sum_hi);
#endif
    precise float x = q.scale * float(dot);
#ifdef QUANT_MIN
    x = fma(q.min, float(a.sum_lo + a.sum_hi), x);
#endif
    return fma(a.scale, x, sum);
}

void add_raw(Work k, uint group, QuantRaw raw[OUTS], inout float sum[SUMS])
{
    QuantGroup q[OUTS];
    [[unroll]] for (uint o = 0; o < OUTS; o++)
        q[o] = quant_unpack(raw[o], group);
    [[unroll]] for (uint c = 0; c < ROWS; c++) {
        ActGroup a = load_act(input_row(k, c), group);
        [[unroll]] for (uint o = 0; o < OUTS; o++)
            sum[c * OUTS + o] = add_group(q[o], a, sum[c * OUTS + o]);
    }
}

void load_raw(Work k, uint group, out QuantRaw raw[DEPTH][OUTS])
{
    [[unroll]] for (uint d = 0; d < DEPTH; d++)
        [[unroll]] for (uint o = 0; o < OUTS; o++)
            raw[d][o] = quant_load(matrix(k, o), matrix_row(k, o),
                                   min(group + d * TEAM, n_in / 32 - 1));
}

void multiply_ints(Work k, inout float sum[SUMS])
{
    QuantRaw raw[DEPTH][OUTS];
    uint group = gl_LocalInvocationIndex % TEAM, n_groups = n_in / 32;
    if (AHEAD)
        load_raw(k, group, raw);
    for (; group < n_groups; group += TEAM * DEPTH) {
        QuantRaw next[DEPTH][OUTS];
        if (!AHEAD)
            load_raw(k, group, raw);
        else if (group + TEAM * DEPTH < n_groups)
            load_raw(k, group + TEAM * DEPTH, next);
        [[unroll]] for (uint d = 0; d < DEPTH; d++)
            if (group + d * TEAM < n_groups)
                add_raw(k, group + d * TEAM, raw[d], sum);
        [[unroll]] for (uint i = 0; AHEAD && i < DEPTH * OUTS; i++)
            raw[i / OUTS][i % OUTS] = next[i / OUTS][i % OUTS];
    }
}
#endif

// ---- results ----------------------------------------------------------------------------------

float tree_sum(uint at)
{
    precise float v[TEAM];
    [[unroll]] for (uint i = 0; i < TEAM; i++)
        v[i] = part[at + i];
    [[unroll]] for (uint n = TEAM / 2; n > 0; n /= 2)
        [[unroll]] for (uint i = 0; i < n; i++)
            v[i] += v[i + n];
    return v[0];
}

// ---- the next product's input -----------------------------------------------------------------

void norm_bytes(Norm n, uint quad, vec4 x)
{
    act_store(n.act, NORM_WIDTH, quad, x);
}

// The last two targets: w where the bytes go, dst the norm's weights, bias where
// its floats go, n_out eps, dst_stride added_scale; then w the counter, dst src and bias
// added_weight where there is NORM_ADDED.
void next_norm()
{
    const uint STRIDE = (NORM_WIDTH + 31) / 32 * 128;       // bytes of a row in a slot
    const bool ADDED = (NORM_STEPS & NORM_ADDED) != 0;
    if (!is_last(SharedWords(target[2].w), gl_NumWorkGroups.x))
        return;
    Norm n;
    n.weight = target[1].dst;
    n.added_weight = target[2].bias;
    n.added_eps = n.eps = uintBitsToFloat(target[1].n_out);
    n.added_scale = uintBitsToFloat(target[1].dst_stride);
    n.scale = 1.0;
    for (uint row = 0; row < ROWS && row < limit.v[0]; row++) {
        uint64_t at = row * uint64_t(STRIDE), result = uint64_t(target[0].dst) + at;
        n.src = Floats(ADDED ? uint64_t(target[2].dst) + at : result);
        n.added = Floats(result);
        n.dst = Floats(uint64_t(target[1].bias) + at);
        n.act = target[1].w + row * act_row_bytes(NORM_WIDTH);
        norm_row(n);
    }
}

void main()
{
    Work k = find_work();
    if (k.row0 > 0 && k.row0 >= limit.v[0])
        return;
    float sum[SUMS];
    for (uint i = 0; i < SUMS; i++)
        sum[i] = 0.0;
#ifdef QUANT_ZERO
    if (!FLOATS)
        multiply_ints(k, sum);
    else
#endif
        multiply_floats(k, sum);
    uint lane = gl_LocalInvocationIndex % TEAM, mine = gl_LocalInvocationIndex / TEAM * ROUND;
    [[unroll]] for (uint first = 0; first < SUMS; first += ROUND) {
        if (first > 0)
            barrier();
        [[unroll]] for (uint i = 0; i < ROUND && first + i < SUMS; i++)
            part[(mine + i) * (TEAM + 1) + lane] = sum[first + i];
        barrier();
        for (uint i = lane; GLU == 0 && i < ROUND && first + i < SUMS; i += TEAM)
            write_result(k, first + i, tree_sum((mine + i) * (TEAM + 1)));
        for (uint i = lane; GLU > 0 && i < ROUND / 2; i += TEAM) {
            uint gate = mine + i / RESULTS * OUTS + i % RESULTS;
            write_glu(k, first / 2 + i, tree_sum(gate * (TEAM + 1)),
                      tree_sum((gate + RESULTS) * (TEAM + 1)));
        }
    }
    if (NORM_STEPS > 0)
        next_norm();
}
