// Attention of single rows over their lists of blocks: a workgroup takes splits of one row and the
// query heads of one KV head, and reads each row of K and V once for all of them.
//
// Its unit is one split, whose (m, l, o) become a partial result; the workgroup that ends last
// folds a row's partial results in their order. Or it is all splits of a row, folded one by one
// with the same arithmetic. So a row's bits depend neither on the cut nor on who ends last.
//
// Inside a split (256 tokens): LANES invocations share a row of K, each with every LANES-th chunk
// of it, LANES rows one after the other; shuffles then leave each invocation the scores of one
// token. One softmax over the split; then V, where an invocation keeps a chunk of dimensions and
// walks every n-th token. Query heads go in fours through vec4s: a smaller group costs what four
// heads do.
//
// The floor is the memory: K and V rows once. Llama-3.1-8B in f16 (8 KV heads of 128): 16.8 MB a
// layer at 4k tokens, 5.0 us on 3.35 TB/s. A workgroup of 256 reads 128 KiB, with up to 16 loads of
// 16 bytes in flight per invocation: 64 KiB, where latency times bandwidth wants 20 KiB an SM.
// Loads of V start before the softmax, which hides their latency.
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_arithmetic : require
#extension GL_KHR_shader_subgroup_shuffle : require
#include "attn.glsl"

layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint THREADS = 256;
layout(constant_id = 1) const uint HEAD_DIM = 128;
layout(constant_id = 2) const uint GROUP = 4;           // query heads of a KV head
layout(constant_id = 3) const uint HEADS = 4;           // of those, how many a workgroup takes
layout(constant_id = 4) const uint K_TYPE = 1;
layout(constant_id = 5) const uint V_TYPE = 1;
layout(constant_id = 6) const uint LANES = 16;          // that share a row of K; divides its chunks
layout(constant_id = 7) const uint V_BATCH = 16;        // rows of V of an invocation, in flight
layout(constant_id = 8) const uint SUBGROUPS = 8;
layout(constant_id = 9) const bool PAGED = false;       // pages at address 0 are skipped

struct Unit {                           // struct attn_unit
    uint row, pos, table;               // table: first of its sequence's blocks
    uint split, n_splits;
    uint partial;                       // where the row's partial results begin
    AttnRow attn;
    uint block[SPLIT_BLOCKS];           // of the first split, where the row has no list
};
layout(buffer_reference, std430, buffer_reference_align = 16) readonly buffer Units { Unit v[]; };

#include "act.glsl"
#include "last.glsl"

layout(push_constant) uniform Push {
    Floats q, dst;          // (rows, stride)
    Addresses page;         // (blocks) of this layer
    Words table;
    Units unit;
    Words list;
    SharedFloats2 partial_ml;   // (partials, heads)
    SharedFloats partial_o; // (partials, heads, HEAD_DIM)
    SharedWords done;       // (rows, workgroups in y) for is_last()
    uint64_t act;           // (rows, act_row_bytes) the next product's input; 0: not wanted
    uint q_stride, dst_stride;  // floats
    uint n_heads;
    float scale, softcap;
};

const uint HV = (HEADS + 3) / 4;                        // vec4s of heads
const uint PARTS = (GROUP + HEADS - 1) / HEADS;         // workgroups of a KV head
const uint K_BYTES = K_TYPE == KV_F32 ? 4 * HEAD_DIM : K_TYPE == KV_F16 ? 2 * HEAD_DIM : HEAD_DIM;
const uint V_BYTES = V_TYPE == KV_F32 ? 4 * HEAD_DIM : V_TYPE == KV_F16 ? 2 * HEAD_DIM : HEAD_DIM;
const uint K_WIDTH = K_TYPE == KV_F32 ? 4 : K_TYPE == KV_F16 ? 8 : 16;
const uint K_CHUNKS = HEAD_DIM / K_WIDTH;
const uint K_SUMS = LANES * HV;
const uint PASS = THREADS / LANES;                      // tokens that are scored at a time
const uint V_WIDTH = V_TYPE == KV_F32 ? 4 : 8;          // elements of V per invocation
const uint V_CHUNKS = HEAD_DIM / V_WIDTH;
const uint V_TURNS = THREADS / V_CHUNKS;                // tokens at a time
const uint V_SUMS = V_WIDTH * HV;
const uint ROUNDS = V_SUMS / 4;                         // of adding up o
const uint POOL = SPLIT_TOKENS * HV > THREADS * 4 ? SPLIT_TOKENS * HV : THREADS * 4;

shared vec4 query[HEAD_DIM * HV];       // (HEAD_DIM, HV), scaled
shared vec4 pool[POOL];                 // scores (SPLIT_TOKENS, HV); what ROUNDS add up; factors
shared vec4 part_m[SUBGROUPS * HV], part_l[SUBGROUPS * HV];     // of a subgroup's tokens
shared vec4 split_m[HV], split_l[HV];
shared vec4 keep_old[HV], keep_new[HV], total_m[HV], total_l[HV];
shared uint block_start[SPLIT_BLOCKS];  // first position; beyond all rows where there is no block
shared uint64_t block_slice[SPLIT_BLOCKS];

Unit u;
uint me, split, row_splits;
uint kv_head, head0, n_own;             // query heads [head0, head0 + n_own)
bool is_whole;

void load_queries()
{
    for (uint i = me; i < HEAD_DIM * HV; i += THREADS) {
        uint d = i / HV, h = i % HV * 4;
        vec4 x = vec4(0.0);
        [[unroll]] for (uint k = 0; k < 4; k++)
            if (h + k < n_own)
                x[k] = q.v[u.row * q_stride + (head0 + h + k) * HEAD_DIM + d] * scale;
        query[i] = x;
    }
}

// known: the physical block of entry `me` of the first split.
void find_blocks(uint known)
{
    if (me >= SPLIT_BLOCKS)
        return;
    uint i = split * SPLIT_BLOCKS + me;
    block_start[me] = 0xffffffffu;
    if (i >= u.attn.n)
        return;
    uint block = list_entry(u.attn, list, kv_head, i);
    if (u.attn.list != NO_LIST || split != u.split)
        known = table.v[u.table + block];
    uint64_t head_bytes = kv_slice_bytes(K_TYPE, HEAD_DIM) + kv_slice_bytes(V_TYPE, HEAD_DIM);
    uint64_t at = page.v[known];
    block_slice[me] = at + kv_head * head_bytes;
    if (!PAGED || at != 0)
        block_start[me] = block * BLOCK_TOKENS;
}

// Token t of the split. What it does not see it does not read either: there may be anything.
bool sees(uint t)
{
    uint start = block_start[t / BLOCK_TOKENS];
    return start <= u.pos && token_visible(u.attn, u.pos, start + t % BLOCK_TOKENS);
}

// ---- scores -----------------------------------------------------------------------------------

// The token whose scores shuffles leave to this invocation, of THREADS from `base` on.
uint own_token(uint base)
{
    return base + me % LANES * PASS + me / LANES;
}

// pool = query . K, softcapped, for THREADS tokens from `base` on.
void score_tokens(uint base)
{
    uint lane = me % LANES, first = base + me / LANES;
    vec4 sum[K_SUMS];
    [[unroll]] for (uint i = 0; i < K_SUMS; i++)
        sum[i] = vec4(0.0);
    for (uint step = 0; step < K_CHUNKS / LANES; step++) {
        uint c = step * LANES + lane;
        uvec4 chunk[LANES];
        float factor[LANES];
        [[unroll]] for (uint i = 0; i < LANES; i++) {
            uint t = first + i * PASS, j = t % BLOCK_TOKENS;
            chunk[i] = uvec4(0);
            factor[i] = 0.0;
            if (sees(t)) {
                uint64_t slice = block_slice[t / BLOCK_TOKENS];
                chunk[i] = Words4(slice + j * K_BYTES + c * 16).v[0];
                if (K_TYPE == KV_Q8_0)
                    factor[i] = q8_scale(slice, HEAD_DIM, j, c * K_WIDTH);
            }
        }
        [[unroll]] for (uint k = 0; k < K_WIDTH / 4; k++) {
            vec4 y[4 * HV];
            [[unroll]] for (uint e = 0; e < 4 * HV; e++)
                y[e] = query[(c * K_WIDTH + k * 4) * HV + e];
            [[unroll]] for (uint i = 0; i < LANES; i++) {
                vec4 x = chunk_values(K_TYPE, chunk[i], factor[i], k);
                [[unroll]] for (uint e = 0; e < 4; e++)
                    [[unroll]] for (uint v = 0; v < HV; v++)
                        sum[i * HV + v] = fma(vec4(x[e]), y[e * HV + v], sum[i * HV + v]);
            }
        }
    }
    // An invocation keeps the sums of half the rows and gets its neighbour's share of them.
    [[unroll]] for (uint n = LANES / 2; n > 0; n /= 2) {
        bool upper = (lane & n) != 0;
        [[unroll]] for (uint i = 0; i < n * HV; i++) {
            vec4 mine = upper ? sum[i + n * HV] : sum[i], other = upper ? sum[i] : sum[i + n * HV];
            precise vec4 both = mine + subgroupShuffleXor(other, n);
            sum[i] = both;
        }
    }
    uint t = own_token(base);
    [[unroll]] for (uint v = 0; v < HV; v++)
        pool[t * HV + v] = sees(t) ? attn_softcap(sum[v], softcap) : vec4(LOWEST);
}

// Scores of n tokens become weights relative to the largest; split_m and split_l.
void weigh_tokens(uint n)
{
    [[unroll]] for (uint v = 0; v < HV; v++) {
        vec4 m = vec4(LOWEST);
        for (uint base = 0; base < n; base += THREADS)
            m = max(m, pool[own_token(base) * HV + v]);
        m = subgroupMax(m);
        if (subgroupElect())
            part_m[gl_SubgroupID * HV + v] = m;
    }
    barrier();
    [[unroll]] for (uint v = 0; v < HV; v++) {
        vec4 m = vec4(LOWEST);
        for (uint i = gl_SubgroupInvocationID; i < SUBGROUPS; i += gl_SubgroupSize)
            m = max(m, part_m[i * HV + v]);
        m = subgroupMax(m);
        precise vec4 l = vec4(0.0);
        for (uint base = 0; base < n; base += THREADS) {
            uint at = own_token(base) * HV + v;
            vec4 p = attn_exp(pool[at] - m);            // 0 of LOWEST
            pool[at] = p;
            l += p;
        }
        for (uint d = 1; d < gl_SubgroupSize; d *= 2)
            l += subgroupShuffleXor(l, d);
        if (subgroupElect())
            part_l[gl_SubgroupID * HV + v] = l;
        if (me == v)
            split_m[v] = m;
    }
    barrier();
    if (me < HV) {
        precise vec4 l = part_l[me];
        for (uint i = 1; i < SUBGROUPS; i++)
            l += part_l[i * HV + me];
        split_l[me] = l;
    }
}

// ---- values -----------------------------------------------------------------------------------

struct Values { uvec4 word[V_BATCH]; float factor[V_BATCH]; };

// An invocation's chunk of rows t, t + V_TURNS, ...; zeros of what it does not see.
void load_values(uint t, out Values x)
{
    uint chunk = me % V_CHUNKS;
    [[unroll]] for (uint i = 0; i < V_BATCH; i++, t += V_TURNS) {
        uint j = t % BLOCK_TOKENS;
        x.word[i] = uvec4(0);
        x.factor[i] = 0.0;
        if (t < SPLIT_TOKENS && sees(t)) {
            uint64_t slice = block_slice[t / BLOCK_TOKENS] + kv_slice_bytes(K_TYPE, HEAD_DIM);
            if (V_TYPE == KV_Q8_0) {
                x.word[i].xy = Words2(slice + j * V_BYTES + chunk * 8).v[0];
                x.factor[i] = q8_scale(slice, HEAD_DIM, j, chunk * V_WIDTH);
            } else {
                x.word[i] = Words4(slice + j * V_BYTES + chunk * 16).v[0];
            }
        }
    }
}

// o (V_WIDTH, HV) += weights . V of them, of n tokens.
void add_values(uint t, uint n, Values x, inout vec4 o[V_SUMS])
{
    [[unroll]] for (uint i = 0; i < V_BATCH; i++, t += V_TURNS) {
        if (t >= n)
            break;
        [[unroll]] for (uint k = 0; k < V_WIDTH / 4; k++) {
            vec4 y = chunk_values(V_TYPE, x.word[i], x.factor[i], k);
            [[unroll]] for (uint e = 0; e < 4; e++)
                [[unroll]] for (uint v = 0; v < HV; v++)
                    o[(k * 4 + e) * HV + v] = fma(vec4(y[e]), pool[t * HV + v],
                                                  o[(k * 4 + e) * HV + v]);
        }
    }
}

// How the totals of all heads go on with this split.
void merge_softmax()
{
    barrier();                          // split_l is there
    if (me < HV) {
        bool first = split == 0;
        vec4 m = first ? vec4(LOWEST) : total_m[me], l = first ? vec4(0.0) : total_l[me];
        vec4 to = max(m, split_m[me]);
        keep_old[me] = attn_keep(m, to);
        keep_new[me] = attn_keep(split_m[me], to);
        total_m[me] = to;
        for (uint k = 0; k < 4; k++)
            l[k] = attn_merge(l[k], keep_old[me][k], split_l[me][k], keep_new[me][k]);
        total_l[me] = l;
    }
}

// The total so far of dimension d of head h, or its result: kept for store_bytes() too, in place of
// the queries.
void store_total(uint h, uint d, float total, bool is_end, float l)
{
    if (is_end) {
        total *= attn_inverse(l);
        query[d * HV + h / 4][h % 4] = total;
    }
    dst.v[u.row * dst_stride + (head0 + h) * HEAD_DIM + d] = total;
}

// Dimension d of head h: a partial result, or one more split in the row's total, which lies in its
// place of dst until the last.
void store_sum(uint d, uint h, float sum)
{
    if (h >= n_own)
        return;
    if (!is_whole) {
        partial_o.v[((u.partial + u.split) * n_heads + head0 + h) * HEAD_DIM + d] = sum;
        return;
    }
    uint at = u.row * dst_stride + (head0 + h) * HEAD_DIM + d;
    float total = split > 0 ? dst.v[at] : 0.0;
    total = attn_merge(total, keep_old[h / 4][h % 4], sum, keep_new[h / 4][h % 4]);
    store_total(h, d, total, split + 1 == u.n_splits, total_l[h / 4][h % 4]);
}

// Adds up the shares of all invocations, four dimensions and four heads at a time, in order of the
// tokens' turns.
void add_up(vec4 o[V_SUMS])
{
    [[unroll]] for (uint round = 0; round < ROUNDS; round++) {
        uint e0 = round / HV * 4, v = round % HV;
        barrier();                      // pool was read
        if (me < V_TURNS * V_CHUNKS)
            [[unroll]] for (uint e = 0; e < 4; e++)
                pool[me * 4 + e] = o[(e0 + e) * HV + v];
        barrier();
        for (uint i = me; i < V_CHUNKS * 16; i += THREADS) {
            precise float sum = 0.0;    // of (V_CHUNKS, 4 dimensions, 4 heads)
            for (uint turn = 0; turn < V_TURNS; turn++)
                sum += pool[turn * V_CHUNKS * 4 + i / 4][i % 4];
            store_sum(i / 16 * V_WIDTH + e0 + i / 4 % 4, v * 4 + i % 4, sum);
        }
    }
}

// ---- the fold ---------------------------------------------------------------------------------

// The parts of the pool that hold the factors of THREADS splits.
const uint SCAN = 0, KEEP = 2 * THREADS, WEIGHT = 3 * THREADS;

// Of four heads from h on: factors of splits [first, first + THREADS), after splits whose maximum
// is `before`, and where their sums lie. Maxima do not round, so all are found at once. Returns the
// maximum of all.
vec4 find_factors(uint h, uint first, vec4 before, out uint lengths)
{
    vec4 m = vec4(LOWEST), l = vec4(0.0);
    for (uint k = 0; k < 4 && h + k < n_own && first + me < row_splits; k++) {
        vec2 ml = partial_ml.v[(u.partial + first + me) * n_heads + head0 + h + k];
        m[k] = ml.x;
        l[k] = ml.y;
    }
    uint from = SCAN;
    pool[from + me] = max(before, m);
    for (uint n = 1; n < THREADS; n *= 2) {
        barrier();
        vec4 x = pool[from + me];
        if (me >= n)
            x = max(x, pool[from + me - n]);
        from ^= THREADS;
        pool[from + me] = x;
    }
    barrier();
    vec4 to = pool[from + me], old = me > 0 ? pool[from + me - 1] : before;
    vec4 all = pool[from + THREADS - 1];
    lengths = from ^ THREADS;
    pool[KEEP + me] = attn_keep(old, to);
    pool[WEIGHT + me] = attn_keep(m, to);
    pool[lengths + me] = l;
    barrier();
    return all;
}

// Dimension d of head h + k goes on with n splits from `first` on; divided at the end.
void fold_sum(uint h, uint k, uint d, uint first, uint n, uint lengths)
{
    const uint BATCH = 32;              // loads in flight
    uint to = u.row * dst_stride + (head0 + h + k) * HEAD_DIM + d;
    uint at = ((u.partial + first) * n_heads + head0 + h + k) * HEAD_DIM + d;
    float total = first > 0 ? dst.v[to] : 0.0, l = first > 0 ? total_l[h / 4][k] : 0.0;
    for (uint i = 0; i < n; i += BATCH) {
        float o[BATCH];
        [[unroll]] for (uint b = 0; b < BATCH; b++)
            o[b] = partial_o.v[at + min(i + b, n - 1) * n_heads * HEAD_DIM];
        [[unroll]] for (uint b = 0; b < BATCH; b++)
            if (i + b < n) {
                float keep = pool[KEEP + i + b][k], weight = pool[WEIGHT + i + b][k];
                total = attn_merge(total, keep, o[b], weight);
                l = attn_merge(l, keep, pool[lengths + i + b][k], weight);
            }
    }
    store_total(h + k, d, total, first + n == row_splits, l);
    if (d == 0)
        keep_new[h / 4][k] = l;         // for the next splits
}

void fold_splits()
{
    for (uint v = 0; v < HV; v++) {
        vec4 m = vec4(LOWEST);
        for (uint first = 0; first < row_splits; first += THREADS) {
            uint lengths, n = min(THREADS, row_splits - first);
            barrier();
            if (me == 0)
                total_l[v] = keep_new[v];
            m = find_factors(v * 4, first, m, lengths);
            for (uint i = me; i < 4 * HEAD_DIM; i += THREADS)
                if (v * 4 + i / HEAD_DIM < n_own)
                    fold_sum(v * 4, i / HEAD_DIM, i % HEAD_DIM, first, n, lengths);
        }
    }
}

// Leaves this split's results to others; the last of a row's goes on alone.
bool ends_last()
{
    if (me < n_own)
        partial_ml.v[(u.partial + u.split) * n_heads + head0 + me] =
            vec2(split_m[me / 4][me % 4], split_l[me / 4][me % 4]);
    uint at = u.row * gl_NumWorkGroups.y + gl_WorkGroupID.y;
    return is_last(SharedWords(uint64_t(done) + 4 * at), row_splits);
}

void store_bytes()
{
    barrier();                          // result is there
    uint n_in = n_heads * HEAD_DIM;
    for (uint first = 0; first < n_own * (HEAD_DIM / 4); first += THREADS) {
        uint quad = first + me, h = quad / (HEAD_DIM / 4);
        vec4 x = vec4(0.0);
        for (uint i = 0; h < n_own && i < 4; i++)
            x[i] = query[(quad * 4 + i) % HEAD_DIM * HV + h / 4][h % 4];
        act_store(act + u.row * act_row_bytes(n_in), n_in,
                  h < n_own ? head0 * (HEAD_DIM / 4) + quad : n_in / 4, x);
    }
}

void main()
{
    me = gl_SubgroupID * gl_SubgroupSize + gl_SubgroupInvocationID;
    u = unit.v[gl_WorkGroupID.x];
    uint known = unit.v[gl_WorkGroupID.x].block[me % SPLIT_BLOCKS];
    row_splits = (u.attn.n + SPLIT_BLOCKS - 1) / SPLIT_BLOCKS;
    is_whole = u.n_splits == row_splits;
    kv_head = gl_WorkGroupID.y / PARTS;
    uint part = gl_WorkGroupID.y % PARTS;
    head0 = kv_head * GROUP + part * HEADS;
    n_own = min(HEADS, GROUP - part * HEADS);
    split = u.split;
    load_queries();
    for (; split < u.split + u.n_splits; split++) {
        barrier();                      // pool and block_start were read
        find_blocks(known);
        barrier();
        uint n = min(SPLIT_BLOCKS, u.attn.n - split * SPLIT_BLOCKS) * BLOCK_TOKENS;
        for (uint base = 0; base < n; base += THREADS)
            score_tokens(base);
        Values x;
        uint turn = me / V_CHUNKS < V_TURNS ? me / V_CHUNKS : SPLIT_TOKENS;
        load_values(turn, x);
        weigh_tokens(n);
        vec4 o[V_SUMS];
        [[unroll]] for (uint i = 0; i < V_SUMS; i++)
            o[i] = vec4(0.0);
        add_values(turn, n, x, o);
        for (uint t = turn + V_BATCH * V_TURNS; t < n; t += V_BATCH * V_TURNS) {
            load_values(t, x);
            add_values(t, n, x, o);
        }
        if (is_whole)
            merge_softmax();
        add_up(o);
    }
    bool done_here = is_whole || ends_last();
    if (!is_whole && done_here)
        fold_splits();
    if (act != 0 && done_here)
        store_bytes();
}
