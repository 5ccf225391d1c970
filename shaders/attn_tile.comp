// Attention of prompt rows without matrix units: a workgroup has TILE_ROWS rows of one sequence and
// HEADS query heads that share a KV head, and reads each row of K and V once for all of them.
//
// It walks, in ascending order, the blocks that any of its rows reads, with an online softmax block
// by block. A query's arithmetic depends on its own row alone: a block that only neighbours read
// leaves its sums as they are. Queries go in fours through vec4s.
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#include "attn.glsl"

layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint THREADS = 256;
layout(constant_id = 1) const uint HEAD_DIM = 128;
layout(constant_id = 2) const uint GROUP = 4;           // query heads of a KV head
layout(constant_id = 3) const uint HEADS = 4;           // of those, how many a workgroup takes
layout(constant_id = 4) const uint TILE_ROWS = 8;
layout(constant_id = 5) const uint K_TYPE = 1;
layout(constant_id = 6) const uint V_TYPE = 1;
layout(constant_id = 7) const uint LANES = 8;           // that share a row of K
layout(constant_id = 8) const bool PAGED = false;       // pages at address 0 are skipped

layout(push_constant) uniform Push {
    Floats q, dst;          // (rows, stride)
    StepRows row;
    AttnRows attn_row;
    Words table, list;
    Words2 tile;            // (tiles) first row, number of rows
    Addresses page;         // (blocks) of this layer
    uint q_stride, dst_stride;  // floats
    float scale, softcap;
};

const uint QV = (TILE_ROWS * HEADS + 3) / 4;            // vec4s of queries: row by row, all heads
const uint PARTS = (GROUP + HEADS - 1) / HEADS;         // workgroups of a KV head
const uint PASS = THREADS / LANES;                      // tokens scored at a time
const uint AT_ONCE = BLOCK_TOKENS / PASS;               // tokens of an invocation
const uint K_SUMS = AT_ONCE * QV;
const uint K_BYTES = K_TYPE == KV_F32 ? 4 * HEAD_DIM : K_TYPE == KV_F16 ? 2 * HEAD_DIM : HEAD_DIM;
const uint V_BYTES = V_TYPE == KV_F32 ? 4 * HEAD_DIM : V_TYPE == KV_F16 ? 2 * HEAD_DIM : HEAD_DIM;
const uint K_WIDTH = K_TYPE == KV_F32 ? 4 : K_TYPE == KV_F16 ? 8 : 16;
const uint K_CHUNKS = HEAD_DIM / K_WIDTH;
const uint V_WIDTH = V_TYPE == KV_F32 ? 4 : 8;          // elements of V per invocation
const uint V_CHUNKS = HEAD_DIM / V_WIDTH;
const uint V_SLOTS = V_CHUNKS * QV;                     // one for each invocation, at most
const uint V_TURNS = THREADS / V_SLOTS;                 // tokens at a time
const uint RUNS = 8, RUN_TOKENS = BLOCK_TOKENS / RUNS;  // of adding up a softmax
const uint POOL = BLOCK_TOKENS * QV > THREADS * 2 ? BLOCK_TOKENS * QV : THREADS * 2;
const uint NONE = 0xffffffffu;

shared vec4 query[HEAD_DIM * QV];       // (HEAD_DIM, QV), scaled
shared vec4 score[POOL];                // (BLOCK_TOKENS, QV); at last what turns add up
shared vec4 run_value[RUNS * QV], largest[QV], total[QV], keep[QV];
shared uint cursor[TILE_ROWS], entry[TILE_ROWS];        // in a row's list; the block there or NONE
shared uint row_start[TILE_ROWS], row_sink[TILE_ROWS];

uint me, row0, n_rows, pos0, kv_head, head0, n_own;
uint block, start;                      // of its sequence; its first position

void load_queries()
{
    for (uint i = me; i < HEAD_DIM * QV; i += THREADS) {
        uint d = i / QV;
        vec4 x = vec4(0.0);
        for (uint k = 0; k < 4; k++) {
            uint n = i % QV * 4 + k, r = n / HEADS, h = n % HEADS;
            if (r < n_rows && h < n_own)
                x[k] = q.v[(row0 + r) * q_stride + (head0 + h) * HEAD_DIM + d] * scale;
        }
        query[i] = x;
    }
}

// The block at the cursor of row `me`.
void look_up()
{
    AttnRow r = attn_row.v[row0 + me];
    entry[me] = cursor[me] < r.n ? list_entry(r, list, kv_head, cursor[me]) : NONE;
}

void start_rows()
{
    if (me < QV) {
        largest[me] = vec4(LOWEST);
        total[me] = vec4(0.0);
    }
    if (me < TILE_ROWS) {
        cursor[me] = 0;
        entry[me] = NONE;
        if (me < n_rows) {
            row_start[me] = attn_row.v[row0 + me].start;
            row_sink[me] = attn_row.v[row0 + me].sink;
            look_up();
        }
    }
}

// The lowest block that a row has still to read.
uint next_block()
{
    barrier();
    uint b = NONE;
    for (uint r = 0; r < n_rows; r++)
        b = min(b, entry[r]);
    return b;
}

void advance_rows()
{
    barrier();                          // entries were read
    if (me < n_rows && entry[me] == block) {
        cursor[me]++;
        look_up();
    }
}

bool is_written(uint j)
{
    return start + j < pos0 + n_rows;
}

// score = query . K for all tokens of the block.
void score_tokens(uint64_t slice)
{
    uint j0 = me / LANES, lane = me % LANES;
    vec4 sum[K_SUMS];
    [[unroll]] for (uint i = 0; i < K_SUMS; i++)
        sum[i] = vec4(0.0);
    for (uint c = lane; c < K_CHUNKS; c += LANES) {
        uvec4 chunk[AT_ONCE];
        float factor[AT_ONCE];
        [[unroll]] for (uint i = 0; i < AT_ONCE; i++) {
            uint j = j0 + i * PASS;
            chunk[i] = uvec4(0);
            factor[i] = 0.0;
            if (is_written(j)) {
                chunk[i] = Words4(slice + j * K_BYTES + c * 16).v[0];
                if (K_TYPE == KV_Q8_0)
                    factor[i] = q8_scale(slice, HEAD_DIM, j, c * K_WIDTH);
            }
        }
        for (uint k = 0; k < K_WIDTH / 4; k++)
            [[unroll]] for (uint i = 0; i < AT_ONCE; i++) {
                vec4 x = chunk_values(K_TYPE, chunk[i], factor[i], k);
                [[unroll]] for (uint e = 0; e < 4; e++)
                    [[unroll]] for (uint v = 0; v < QV; v++)
                        sum[i * QV + v] = fma(vec4(x[e]),
                                              query[(c * K_WIDTH + k * 4 + e) * QV + v],
                                              sum[i * QV + v]);
            }
    }
    for (uint turn = 0; turn < LANES; turn++) {
        barrier();
        if (lane == turn)
            [[unroll]] for (uint i = 0; i < AT_ONCE; i++)
                [[unroll]] for (uint v = 0; v < QV; v++) {
                    uint at = (j0 + i * PASS) * QV + v;
                    score[at] = turn > 0 ? score[at] + sum[i * QV + v] : sum[i * QV + v];
                }
    }
    barrier();
}

bool reads(uint n)                      // query n reads the block
{
    return n / HEADS < n_rows && entry[n / HEADS] == block;
}

// Scores become weights; keep, largest and total go on.
void weigh_tokens()
{
    uint first = me / QV * RUN_TOKENS, v = me % QV;
    for (uint i = me; i < BLOCK_TOKENS * QV; i += THREADS) {
        vec4 s = attn_softcap(score[i], softcap);
        uint token = start + i / QV;
        for (uint k = 0; k < 4; k++) {
            uint n = i % QV * 4 + k, r = n / HEADS;
            if (!reads(n) || token > pos0 + r || (token < row_start[r] && token >= row_sink[r]))
                s[k] = LOWEST;
        }
        score[i] = s;
    }
    barrier();
    if (me < RUNS * QV) {
        vec4 m = score[first * QV + v];
        for (uint i = 1; i < RUN_TOKENS; i++)
            m = max(m, score[(first + i) * QV + v]);
        run_value[me] = m;
    }
    barrier();
    if (me < QV) {
        vec4 m = largest[me];
        for (uint i = 0; i < RUNS; i++)
            m = max(m, run_value[i * QV + me]);
        keep[me] = attn_keep(largest[me], m);
        largest[me] = m;
    }
    barrier();
    for (uint i = me; i < BLOCK_TOKENS * QV; i += THREADS)
        score[i] = mix(attn_exp(score[i] - largest[i % QV]), vec4(0.0),
                       equal(score[i], vec4(LOWEST)));
    barrier();
    if (me < RUNS * QV) {
        precise vec4 l = vec4(0.0);
        for (uint i = 0; i < RUN_TOKENS; i++)
            l += score[(first + i) * QV + v];
        run_value[me] = l;
    }
    barrier();
    if (me < QV) {
        precise vec4 l = run_value[me];
        for (uint i = 1; i < RUNS; i++)
            l += run_value[i * QV + me];
        total[me] = fma(total[me], keep[me], l);
    }
}

// weights . V into this invocation's share: a chunk of dimensions of four queries.
void add_values(uint64_t slice, inout vec4 o[V_WIDTH])
{
    uint chunk = me % V_CHUNKS, v = me / V_CHUNKS % QV, turn = me / V_SLOTS;
    bool any_reads = reads(v * 4) || reads(v * 4 + 1) || reads(v * 4 + 2) || reads(v * 4 + 3);
    if (turn >= V_TURNS || !any_reads)
        return;
    [[unroll]] for (uint e = 0; e < V_WIDTH; e++) {
        precise vec4 kept = o[e] * keep[v];
        o[e] = kept;
    }
    for (uint j = turn; j < BLOCK_TOKENS && is_written(j); j += V_TURNS) {
        uvec4 word;
        float factor = 0.0;
        if (V_TYPE == KV_Q8_0) {
            word.xy = Words2(slice + j * V_BYTES + chunk * 8).v[0];
            factor = q8_scale(slice, HEAD_DIM, j, chunk * V_WIDTH);
        } else {
            word = Words4(slice + j * V_BYTES + chunk * 16).v[0];
        }
        [[unroll]] for (uint k = 0; k < V_WIDTH / 4; k++) {
            vec4 x = chunk_values(V_TYPE, word, factor, k);
            [[unroll]] for (uint e = 0; e < 4; e++)
                o[k * 4 + e] = fma(vec4(x[e]), score[j * QV + v], o[k * 4 + e]);
        }
    }
}

// Of nothing at all it is 0: all that a row reads may be elsewhere.
float inverse_of(float l)
{
    if (PAGED && l == 0.0)
        return 0.0;
    return attn_inverse(l);
}

// Two dimensions at a time: the turns added up in order, divided, stored.
void write_output(vec4 o[V_WIDTH])
{
    [[unroll]] for (uint e0 = 0; e0 < V_WIDTH; e0 += 2) {
        barrier();
        score[me * 2] = o[e0];
        score[me * 2 + 1] = o[e0 + 1];
        barrier();
        for (uint i = me; i < V_SLOTS * 8; i += THREADS) {      // (QV, 4, V_CHUNKS, 2)
            uint e = i % 2, chunk = i / 2 % V_CHUNKS, n = i / 2 / V_CHUNKS;
            uint r = n / HEADS, h = n % HEADS;
            precise float sum = 0.0;
            for (uint turn = 0; turn < V_TURNS; turn++)
                sum += score[(turn * V_SLOTS + n / 4 * V_CHUNKS + chunk) * 2 + e][n % 4];
            if (r < n_rows && h < n_own)
                dst.v[(row0 + r) * dst_stride + (head0 + h) * HEAD_DIM + chunk * V_WIDTH + e0 + e] =
                    sum * inverse_of(total[n / 4][n % 4]);
        }
    }
}

void main()
{
    me = gl_LocalInvocationIndex;
    row0 = tile.v[gl_WorkGroupID.x].x;
    n_rows = tile.v[gl_WorkGroupID.x].y;
    pos0 = row.v[row0].pos;
    kv_head = gl_WorkGroupID.y / PARTS;
    uint part = gl_WorkGroupID.y % PARTS;
    head0 = kv_head * GROUP + part * HEADS;
    n_own = min(HEADS, GROUP - part * HEADS);
    load_queries();
    start_rows();
    uint first_block = row.v[row0].table;
    uint k_bytes = kv_slice_bytes(K_TYPE, HEAD_DIM);
    uint64_t head_bytes = k_bytes + kv_slice_bytes(V_TYPE, HEAD_DIM);
    vec4 o[V_WIDTH];
    [[unroll]] for (uint e = 0; e < V_WIDTH; e++)
        o[e] = vec4(0.0);
    for (block = next_block(); block != NONE; block = next_block()) {
        uint64_t slice = page.v[table.v[first_block + block]];
        if (PAGED && slice == 0) {
            advance_rows();
            continue;
        }
        slice += kv_head * head_bytes;
        start = block * BLOCK_TOKENS;
        score_tokens(slice);
        weigh_tokens();
        add_values(slice + k_bytes, o);
        advance_rows();
    }
    write_output(o);
}
