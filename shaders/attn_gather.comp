// Attention of single rows over their lists of blocks: a workgroup takes splits of one row and the
// query heads of one KV head, and reads each row of K and V once for all of them.
//
// Its unit is one split, whose (m, l, o) become a partial result for attn_merge, or all splits of a
// row, merged here in the same order with the same arithmetic.
//
// Inside a split (256 tokens): LANES invocations share a row of K, each with every LANES-th chunk,
// and AT_ONCE rows at a time; then one softmax over the split; then V, where an invocation keeps a
// chunk of dimensions and walks every n-th token. All sums are in an order that the specialisation
// decides alone. Query heads go in fours through vec4s: a smaller group costs what four heads do.
//
// The floor is the memory: K and V rows once. Llama-3.1-8B in f16 (8 KV heads of 128): 16.8 MB a
// layer at 4k tokens, 5.0 us on 3.35 TB/s. With 256 threads, 4 lanes and 4 rows at once, a
// workgroup reads 128 KiB with 16 loads of 16 bytes of K and 8 of V in flight per invocation, 32 to
// 64 KiB together, where latency times bandwidth wants 20 KiB an SM.
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#include "attn.glsl"

layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint THREADS = 256;
layout(constant_id = 1) const uint HEAD_DIM = 128;
layout(constant_id = 2) const uint GROUP = 4;           // query heads of a KV head
layout(constant_id = 3) const uint HEADS = 4;           // of those, how many a workgroup takes
layout(constant_id = 4) const uint K_TYPE = 1;
layout(constant_id = 5) const uint V_TYPE = 1;
layout(constant_id = 6) const uint LANES = 4;           // that share a row of K
layout(constant_id = 7) const uint AT_ONCE = 4;         // rows of K of an invocation
layout(constant_id = 8) const uint V_BATCH = 8;         // rows of V of an invocation, in flight

struct Unit { uint row, split, n_splits; };             // struct attn_unit
layout(buffer_reference, std430, buffer_reference_align = 4) readonly buffer Units { Unit v[]; };

layout(push_constant) uniform Push {
    Floats q, dst;          // (rows, stride)
    Addresses page;         // (blocks) of this layer
    Words table;
    StepRows row;
    AttnRows attn_row;
    Units unit;
    Words list;
    Floats2 partial_ml;     // (partials, heads)
    Floats partial_o;       // (partials, heads, HEAD_DIM)
    uint q_stride, dst_stride;  // floats
    uint n_heads;
    float scale, softcap;
};

const uint HV = (HEADS + 3) / 4;                        // vec4s of heads
const uint PARTS = (GROUP + HEADS - 1) / HEADS;         // workgroups of a KV head
const uint K_BYTES = K_TYPE == KV_F32 ? 4 * HEAD_DIM : K_TYPE == KV_F16 ? 2 * HEAD_DIM : HEAD_DIM;
const uint V_BYTES = V_TYPE == KV_F32 ? 4 * HEAD_DIM : V_TYPE == KV_F16 ? 2 * HEAD_DIM : HEAD_DIM;
const uint K_WIDTH = K_TYPE == KV_F32 ? 4 : K_TYPE == KV_F16 ? 8 : 16;
const uint K_CHUNKS = HEAD_DIM / K_WIDTH, K_STEPS = (K_CHUNKS + LANES - 1) / LANES;
const bool K_EVEN = K_CHUNKS % LANES == 0;
const uint K_SUMS = AT_ONCE * HV;
const uint PASS = THREADS / LANES;                      // tokens scored at a time
const uint V_WIDTH = V_TYPE == KV_F32 ? 4 : 8;          // elements of V per invocation
const uint V_CHUNKS = HEAD_DIM / V_WIDTH;
const uint V_TURNS = THREADS / V_CHUNKS;                // tokens at a time
const uint V_SUMS = V_WIDTH * HV;
const uint ROUNDS = HV * V_WIDTH / 4;                   // of adding up o
const uint POOL = SPLIT_TOKENS * HV > THREADS * 4 ? SPLIT_TOKENS * HV : THREADS * 4;
const uint RUNS = 16, RUN_TOKENS = SPLIT_TOKENS / RUNS; // of adding up a softmax

shared vec4 query[HEAD_DIM * HV];       // (HEAD_DIM, HV), scaled
shared vec4 score[POOL];                // (SPLIT_TOKENS, HV); or what ROUNDS add up
shared vec4 run_value[RUNS * HV];
shared vec4 split_m[HV], split_l[HV], keep_old[HV], keep_new[HV], total_m[HV], total_l[HV];
shared uint block_start[SPLIT_BLOCKS];  // first position; beyond all rows where there is no block
shared uint64_t block_slice[SPLIT_BLOCKS];

AttnRow attn;
uint me, pos, unit_row, unit_split, split;
uint kv_head, head0, n_own;             // query heads [head0, head0 + n_own)
bool is_whole;

void load_queries()
{
    for (uint i = me; i < HEAD_DIM * HV; i += THREADS) {
        uint d = i / HV, h = i % HV * 4;
        vec4 x = vec4(0.0);
        for (uint k = 0; k < 4; k++)
            if (h + k < n_own)
                x[k] = q.v[unit_row * q_stride + (head0 + h + k) * HEAD_DIM + d] * scale;
        query[i] = x;
    }
}

void find_blocks(uint first_block)
{
    if (me >= SPLIT_BLOCKS)
        return;
    uint i = split * SPLIT_BLOCKS + me;
    block_start[me] = 0xffffffffu;
    if (i >= attn.n)
        return;
    uint block = list_entry(attn, list, kv_head, i);
    uint64_t head_bytes = kv_slice_bytes(K_TYPE, HEAD_DIM) + kv_slice_bytes(V_TYPE, HEAD_DIM);
    block_start[me] = block * BLOCK_TOKENS;
    block_slice[me] = page.v[table.v[first_block + block]] + kv_head * head_bytes;
}

// Token t of the split. What it does not see it does not read either: there may be anything.
bool sees(uint t)
{
    uint start = block_start[t / BLOCK_TOKENS];
    return start <= pos && token_visible(attn, pos, start + t % BLOCK_TOKENS);
}

// score = query . K for tokens first + i * PASS, i < AT_ONCE, and their neighbours.
void score_tokens(uint first)
{
    uint lane = me % LANES;
    vec4 sum[K_SUMS];
    [[unroll]] for (uint i = 0; i < K_SUMS; i++)
        sum[i] = vec4(0.0);
    uint64_t slice[AT_ONCE];
    uint j[AT_ONCE];
    bool visible[AT_ONCE];
    [[unroll]] for (uint i = 0; i < AT_ONCE; i++) {
        uint t = first + i * PASS;
        slice[i] = block_slice[t / BLOCK_TOKENS];
        j[i] = t % BLOCK_TOKENS;
        visible[i] = sees(t);
    }
    for (uint step = 0; step < K_STEPS; step++) {
        uint c = step * LANES + lane;
        bool there = K_EVEN || c < K_CHUNKS;
        uint d0 = there ? c * K_WIDTH : 0;
        uvec4 chunk[AT_ONCE];
        float factor[AT_ONCE];
        [[unroll]] for (uint i = 0; i < AT_ONCE; i++) {
            chunk[i] = uvec4(0);
            factor[i] = 0.0;
            if (visible[i] && there) {
                chunk[i] = Words4(slice[i] + j[i] * K_BYTES + c * 16).v[0];
                if (K_TYPE == KV_Q8_0)
                    factor[i] = q8_scale(slice[i], HEAD_DIM, j[i], d0);
            }
        }
        [[unroll]] for (uint k = 0; k < K_WIDTH / 4; k++)
            [[unroll]] for (uint i = 0; i < AT_ONCE; i++) {
                vec4 x = chunk_values(K_TYPE, chunk[i], factor[i], k);
                [[unroll]] for (uint e = 0; e < 4; e++)
                    [[unroll]] for (uint v = 0; v < HV; v++)
                        sum[i * HV + v] = fma(vec4(x[e]), query[(d0 + k * 4 + e) * HV + v],
                                              sum[i * HV + v]);
            }
    }
    for (uint turn = 0; turn < LANES; turn++) {
        if (turn > 0)
            barrier();
        if (lane == turn)
            [[unroll]] for (uint i = 0; i < AT_ONCE; i++)
                [[unroll]] for (uint v = 0; v < HV; v++) {
                    uint at = (first + i * PASS) * HV + v;
                    score[at] = turn > 0 ? score[at] + sum[i * HV + v] : sum[i * HV + v];
                }
    }
}

// Scores of n tokens become weights relative to the largest; split_m and split_l.
void weigh_tokens(uint n)
{
    uint run = me / HV * RUN_TOKENS, end = n > run ? min(RUN_TOKENS, n - run) : 0;
    barrier();
    for (uint i = me; i < n * HV; i += THREADS)
        score[i] = sees(i / HV) ? attn_softcap(score[i], softcap) : vec4(LOWEST);
    barrier();
    if (me < RUNS * HV) {
        vec4 m = vec4(LOWEST);
        for (uint i = 0; i < end; i++)
            m = max(m, score[(run + i) * HV + me % HV]);
        run_value[me] = m;
    }
    barrier();
    if (me < HV) {
        vec4 m = run_value[me];
        for (uint i = 1; i < RUNS; i++)
            m = max(m, run_value[i * HV + me]);
        split_m[me] = m;
    }
    barrier();
    for (uint i = me; i < n * HV; i += THREADS)
        score[i] = sees(i / HV) ? attn_exp(score[i] - split_m[i % HV]) : vec4(0.0);
    barrier();
    if (me < RUNS * HV) {
        precise vec4 l = vec4(0.0);
        for (uint i = 0; i < end; i++)
            l += score[(run + i) * HV + me % HV];
        run_value[me] = l;
    }
    barrier();
    if (me < HV) {
        precise vec4 l = run_value[me];
        for (uint i = 1; i < RUNS; i++)
            l += run_value[i * HV + me];
        split_l[me] = l;
    }
}

// One invocation's share of weights . V for n tokens: o (V_WIDTH, HV).
void sum_values(uint n, out vec4 o[V_SUMS])
{
    uint chunk = me % V_CHUNKS, turn = me / V_CHUNKS;
    [[unroll]] for (uint i = 0; i < V_SUMS; i++)
        o[i] = vec4(0.0);
    if (turn >= V_TURNS)
        return;
    for (uint t0 = turn; t0 < n; t0 += V_BATCH * V_TURNS) {
        uvec4 word[V_BATCH];
        float factor[V_BATCH];
        bool visible[V_BATCH];
        [[unroll]] for (uint i = 0; i < V_BATCH; i++) {
            uint t = t0 + i * V_TURNS, j = t % BLOCK_TOKENS;
            visible[i] = t < n && sees(t);
            word[i] = uvec4(0);
            factor[i] = 0.0;
            if (visible[i]) {
                uint64_t slice = block_slice[t / BLOCK_TOKENS] + kv_slice_bytes(K_TYPE, HEAD_DIM);
                if (V_TYPE == KV_Q8_0) {
                    word[i].xy = Words2(slice + j * V_BYTES + chunk * 8).v[0];
                    factor[i] = q8_scale(slice, HEAD_DIM, j, chunk * V_WIDTH);
                } else {
                    word[i] = Words4(slice + j * V_BYTES + chunk * 16).v[0];
                }
            }
        }
        [[unroll]] for (uint i = 0; i < V_BATCH; i++) {
            uint t = t0 + i * V_TURNS;
            if (visible[i])
                [[unroll]] for (uint k = 0; k < V_WIDTH / 4; k++) {
                    vec4 x = chunk_values(V_TYPE, word[i], factor[i], k);
                    [[unroll]] for (uint e = 0; e < 4; e++)
                        [[unroll]] for (uint v = 0; v < HV; v++)
                            o[(k * 4 + e) * HV + v] = fma(vec4(x[e]), score[t * HV + v],
                                                          o[(k * 4 + e) * HV + v]);
                }
        }
    }
}

// How the totals of all heads go on with this split.
void merge_softmax(bool first)
{
    if (me < HV) {
        vec4 m = first ? vec4(LOWEST) : total_m[me], l = first ? vec4(0.0) : total_l[me];
        vec4 to = max(m, split_m[me]);
        keep_old[me] = attn_keep(m, to);
        keep_new[me] = attn_keep(split_m[me], to);
        total_m[me] = to;
        for (uint k = 0; k < 4; k++)
            l[k] = attn_merge(l[k], keep_old[me][k], split_l[me][k], keep_new[me][k]);
        total_l[me] = l;
    }
    barrier();
}

// Dimension d of head h: a partial result, or one more split in the row's total, which lies in its
// place of dst until the last.
void store_sum(uint d, uint h, float sum)
{
    if (d >= HEAD_DIM || h >= n_own)
        return;
    if (!is_whole) {
        uint at = ((attn.partial + unit_split) * n_heads + head0 + h) * HEAD_DIM + d;
        partial_o.v[at] = sum;
        return;
    }
    uint at = unit_row * dst_stride + (head0 + h) * HEAD_DIM + d;
    float total = split > 0 ? dst.v[at] : 0.0;
    total = attn_merge(total, keep_old[h / 4][h % 4], sum, keep_new[h / 4][h % 4]);
    dst.v[at] = split + 1 < attn.n_splits ? total : total * attn_inverse(total_l[h / 4][h % 4]);
}

// Adds up the shares of all invocations, four dimensions and four heads at a time, in order of the
// tokens' turns.
void add_up(vec4 o[V_SUMS])
{
    [[unroll]] for (uint round = 0; round < ROUNDS; round++) {
        uint e0 = round / HV * 4, v = round % HV;
        barrier();                      // score was read
        if (me < V_TURNS * V_CHUNKS)
            [[unroll]] for (uint e = 0; e < 4; e++)
                score[me * 4 + e] = o[(e0 + e) * HV + v];
        barrier();
        for (uint i = me; i < V_CHUNKS * 16; i += THREADS) {
            precise float sum = 0.0;    // of (V_CHUNKS, 4 dimensions, 4 heads)
            for (uint turn = 0; turn < V_TURNS; turn++)
                sum += score[turn * V_CHUNKS * 4 + i / 4][i % 4];
            store_sum(i / 16 * V_WIDTH + e0 + i / 4 % 4, v * 4 + i % 4, sum);
        }
    }
}

void main()
{
    me = gl_LocalInvocationIndex;
    Unit u = unit.v[gl_WorkGroupID.x];
    StepRow r = row.v[u.row];
    attn = attn_row.v[u.row];
    pos = r.pos;
    unit_row = u.row;
    unit_split = u.split;
    is_whole = u.n_splits == attn.n_splits;
    kv_head = gl_WorkGroupID.y / PARTS;
    uint part = gl_WorkGroupID.y % PARTS;
    head0 = kv_head * GROUP + part * HEADS;
    n_own = min(HEADS, GROUP - part * HEADS);
    load_queries();

    for (split = u.split; split < u.split + u.n_splits; split++) {
        barrier();                      // score and block_start were read
        find_blocks(r.table);
        barrier();
        uint n_tokens = min(SPLIT_BLOCKS, attn.n - split * SPLIT_BLOCKS) * BLOCK_TOKENS;
        for (uint t = 0; t < n_tokens; t += AT_ONCE * PASS)
            score_tokens(t + me / LANES);
        weigh_tokens(n_tokens);
        vec4 o[V_SUMS];
        sum_values(n_tokens, o);
        barrier();                      // split_l is there
        merge_softmax(split == u.split);
        add_up(o);
    }
    if (!is_whole && me < n_own)
        partial_ml.v[(attn.partial + u.split) * n_heads + head0 + me] =
            vec2(split_m[me / 4][me % 4], split_l[me / 4][me % 4]);
}
