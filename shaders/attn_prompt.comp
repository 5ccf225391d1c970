// Attention of prompt rows on cooperative matrices (the schedule of FlashAttention-2, Dao 2023).
//
// A workgroup has TILE_ROWS rows of one sequence and HEADS query heads that share a KV head; a
// subgroup has TM queries of them. It walks, in ascending order, the blocks that any of its rows
// reads; while one of its slices is multiplied, the next is on its way. Scores and sums are
// float32, factors are halves. A query's arithmetic depends on its own row alone: blocks that only
// its neighbours read multiply its sums by one and add zero.
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_KHR_cooperative_matrix : require
#extension GL_KHR_memory_scope_semantics : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_arithmetic : require
#extension GL_KHR_shader_subgroup_shuffle : require
#extension GL_KHR_shader_subgroup_vote : require
#extension GL_EXT_shader_explicit_arithmetic_types_float16 : require
#extension GL_EXT_control_flow_attributes : require
#include "attn.glsl"
#include "subgroup.glsl"

layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint THREADS = 128;
layout(constant_id = 1) const uint DIM = 128;
layout(constant_id = 2) const uint GROUP = 4;       // query heads of a KV head
layout(constant_id = 3) const uint HEADS = 4;       // of them in a workgroup
layout(constant_id = 4) const uint TILE_ROWS = 16;
layout(constant_id = 5) const uint K_TYPE = KV_F16;
layout(constant_id = 6) const uint V_TYPE = KV_F16;
layout(constant_id = 7) const uint TM = 16;         // of a matrix
layout(constant_id = 8) const uint TN = 16;
layout(constant_id = 9) const uint TK = 16;
layout(constant_id = 10) const uint LANES = 32;     // of a subgroup: TK / 8 for each query
layout(constant_id = 11) const bool PAGED = false;  // pages at address 0 are skipped

layout(push_constant) uniform Push {
    Floats q;               // (rows, q_stride)
    Floats dst;             // (rows, dst_stride)
    StepRows row;
    AttnRows view;          // (rows) of the layer's class
    Words table, list;
    Words2 tile;            // (tiles) first row, number of rows
    Addresses page;         // (blocks) of the layer
    uint q_stride, dst_stride;
    float scale, softcap;
};

const uint SUBGROUPS = TILE_ROWS * HEADS / TM;
const uint ROW_LANES = LANES / TM;                  // invocations that share a query
const uint LANE_WORDS = BLOCK_TOKENS / 4 / ROW_LANES;   // 16-byte words of scores of each of them
const uint S_STRIDE = BLOCK_TOKENS / 4 + 1;         // words of a query's scores: one more, so that
                                                    // queries start in different banks
const uint O_TILES = DIM / TN;
const uint NONE = 0xffffffffu;
const uint ROW_WORDS = DIM / 8;                     // of a row of K or V as halves
const uint KV_STRIDE = ROW_WORDS + 1;
const uint SLICE_WORDS = BLOCK_TOKENS * ROW_WORDS, HELD = (SLICE_WORDS + THREADS - 1) / THREADS;

#define Halfs(rows, cols, use) coopmat<float16_t, gl_ScopeSubgroup, rows, cols, use>
#define Sums coopmat<float, gl_ScopeSubgroup, TM, TN, gl_MatrixUseAccumulator>

// A query's scores; then, in their place, its weights as halves. Before and after, other matrices.
shared uvec4 scratch[SUBGROUPS * TM * S_STRIDE];
shared float factor[SUBGROUPS * TM * TN];           // of a query's sums, in every column
shared uvec4 staged[BLOCK_TOKENS * KV_STRIDE];     // K or V of a block
shared uint next_block;

Halfs(TM, TK, gl_MatrixUseA) q_tile[DIM / TK];
Sums o_tile[O_TILES];
uvec4 held[HELD];

// What an invocation knows of its query.
struct Query {
    uint row, pos, head;    // in the batch; its position; of the group
    AttnRow view;
    bool live;              // there is such a row
    uint cursor, entry;     // in its list; the block there
    float largest, sum;     // of its scores and weights so far
};
Query query;

uint me = gl_SubgroupInvocationID / ROW_LANES;      // query of the subgroup
uint lane = gl_SubgroupInvocationID % ROW_LANES;
uint my_words = (gl_SubgroupID * TM + me) * S_STRIDE;
uint words0 = gl_SubgroupID * TM * S_STRIDE;        // of the subgroup
uint factor0 = gl_SubgroupID * TM * TN;

void advance(uint kv_head)
{
    bool more = query.live && query.cursor < query.view.n;
    query.entry = more ? list_entry(query.view, list, kv_head, query.cursor) : NONE;
    query.cursor++;
}

void query_start(uvec2 rows, uint kv_head, uint head0)
{
    uint i = gl_SubgroupID * TM + me;
    query.live = i % TILE_ROWS < rows.y;
    query.row = rows.x + min(i % TILE_ROWS, rows.y - 1);
    query.head = head0 + i / TILE_ROWS;
    query.pos = row.v[query.row].pos;
    query.view = view.v[query.row];
    query.cursor = 0;
    query.largest = LOWEST;
    query.sum = 0.0;
    advance(kv_head);
    Floats4 src = Floats4(uint64_t(q) + 4 * (query.row * q_stride + query.head * DIM));
    [[unroll]] for (uint k = 0; k < DIM / TK; k++) {
        uint at = k * (TK / 4) + lane * 2;
        vec4 lo = src.v[at] * scale, hi = src.v[at + 1] * scale;
        scratch[my_words + lane] = uvec4(packHalf2x16(lo.xy), packHalf2x16(lo.zw),
                                         packHalf2x16(hi.xy), packHalf2x16(hi.zw));
        subgroup_sync();
        coopMatLoad(q_tile[k], scratch, words0, S_STRIDE, gl_CooperativeMatrixLayoutRowMajor);
        subgroup_sync();
    }
}

// The lowest block that a row of the workgroup has still to read: one for all subgroups, since a
// device may take a subgroup's barrier for the workgroup's.
uint lowest_block()
{
    uint b = subgroupMin(query.entry);
    barrier();
    if (gl_LocalInvocationIndex == 0)
        next_block = NONE;
    barrier();
    if (subgroupElect())
        atomicMin(next_block, b);
    barrier();
    return next_block;
}

// The next block to read and its page.
uint next_page(uint table0, uint kv_head, out uint64_t at)
{
    for (;;) {
        uint block = lowest_block();
        at = block != NONE ? page.v[table.v[table0 + block]] : 0;
        if (!PAGED || at != 0 || block == NONE)
            return block;
        if (query.entry == block)
            advance(kv_head);
    }
}

// A slice's words on their way into shared memory: what this invocation brings.
void fetch(uint64_t slice, uint type)
{
    [[unroll]] for (uint k = 0; k < HELD; k++) {
        uint i = min(k * THREADS + gl_LocalInvocationIndex, SLICE_WORDS - 1);
        if (type == KV_F16)
            held[k] = Words4(slice).v[i];
        else
            held[k] = uvec4(Words2(slice).v[i],
                            floatBitsToUint(q8_scale(slice, DIM, i / ROW_WORDS, i % ROW_WORDS * 8)),
                            0);
    }
}

// All invocations see it as halves, once none reads what was there.
void stage(uint type)
{
    barrier();
    [[unroll]] for (uint k = 0; k < HELD; k++) {
        uint i = k * THREADS + gl_LocalInvocationIndex;
        uvec4 word = held[k];
        if (type != KV_F16) {
            float scale8 = uintBitsToFloat(word.z);
            vec4 lo = code_values(word.x) * scale8, hi = code_values(word.y) * scale8;
            word = uvec4(packHalf2x16(lo.xy), packHalf2x16(lo.zw), packHalf2x16(hi.xy),
                         packHalf2x16(hi.zw));
        }
        if (i < SLICE_WORDS)
            staged[i / ROW_WORDS * KV_STRIDE + i % ROW_WORDS] = word;
    }
    barrier();
}

// Scores of all queries of the subgroup with a block's tokens into scratch.
void multiply_keys()
{
    for (uint n = 0; n < BLOCK_TOKENS / TN; n++) {
        Sums s = Sums(0.0);
        [[unroll]] for (uint k = 0; k < DIM / TK; k++) {
            Halfs(TK, TN, gl_MatrixUseB) keys;
            coopMatLoad(keys, staged, n * TN * KV_STRIDE + k * TK / 8, KV_STRIDE,
                        gl_CooperativeMatrixLayoutColumnMajor);
            s = coopMatMulAdd(q_tile[k], keys, s);
        }
        coopMatStore(s, scratch, words0 + n * TN / 4, S_STRIDE,
                     gl_CooperativeMatrixLayoutRowMajor);
    }
    subgroup_sync();
}

// Scores become weights; the factor that earlier sums are due goes to every column of `factor`.
// Returns whether any query of the subgroup has another one than 1.
bool soften(uint block, bool reads)
{
    vec4 s[LANE_WORDS];
    float largest = query.largest;
    [[unroll]] for (uint i = 0; i < LANE_WORDS; i++) {
        s[i] = attn_softcap(uintBitsToFloat(scratch[my_words + lane * LANE_WORDS + i]), softcap);
        for (uint c = 0; c < 4; c++) {
            uint token = block * BLOCK_TOKENS + (lane * LANE_WORDS + i) * 4 + c;
            if (!reads || !token_visible(query.view, query.pos, token))
                s[i][c] = LOWEST;
            largest = max(largest, s[i][c]);
        }
    }
    for (uint d = 1; d < ROW_LANES; d *= 2)
        largest = max(largest, subgroupShuffleXor(largest, d));
    subgroup_sync();
    float sum = 0.0;
    [[unroll]] for (uint i = 0; i < LANE_WORDS; i += 2) {
        vec4 lo = mix(attn_exp(s[i] - largest), vec4(0.0), equal(s[i], vec4(LOWEST)));
        vec4 hi = mix(attn_exp(s[i + 1] - largest), vec4(0.0), equal(s[i + 1], vec4(LOWEST)));
        uvec4 word = uvec4(packHalf2x16(lo.xy), packHalf2x16(lo.zw), packHalf2x16(hi.xy),
                           packHalf2x16(hi.zw));
        scratch[my_words + lane * LANE_WORDS / 2 + i / 2] = word;
        sum += (lo.x + lo.y) + (lo.z + lo.w) + ((hi.x + hi.y) + (hi.z + hi.w));
    }
    for (uint d = 1; d < ROW_LANES; d *= 2)
        sum += subgroupShuffleXor(sum, d);
    float keep = attn_exp(query.largest - largest);
    query.sum = fma(query.sum, keep, sum);
    query.largest = largest;
    for (uint c = lane; c < TN; c += ROW_LANES)
        factor[factor0 + me * TN + c] = keep;
    subgroup_sync();
    return subgroupAny(keep != 1.0);
}

void scale_sums()
{
    Sums by;
    coopMatLoad(by, factor, factor0, TN, gl_CooperativeMatrixLayoutRowMajor);
    [[unroll]] for (uint n = 0; n < O_TILES; n++)
        o_tile[n] = o_tile[n] * by;
}

void multiply_values()
{
    for (uint k = 0; k < BLOCK_TOKENS / TK; k++) {
        Halfs(TM, TK, gl_MatrixUseA) weights;
        coopMatLoad(weights, scratch, words0 + k * TK / 8, S_STRIDE,
                    gl_CooperativeMatrixLayoutRowMajor);
        [[unroll]] for (uint n = 0; n < O_TILES; n++) {
            Halfs(TK, TN, gl_MatrixUseB) values;
            coopMatLoad(values, staged, k * TK * KV_STRIDE + n * TN / 8, KV_STRIDE,
                        gl_CooperativeMatrixLayoutRowMajor);
            o_tile[n] = coopMatMulAdd(weights, values, o_tile[n]);
        }
    }
    subgroup_sync();
}

// Sums over their weights to the slot, by way of shared memory.
void write_output()
{
    float inverse = query.sum > 0.0 ? 1.0 / query.sum : query.sum;
    uint at = query.row * dst_stride + query.head * DIM;
    [[unroll]] for (uint n = 0; n < O_TILES; n++) {
        coopMatStore(o_tile[n], scratch, words0, S_STRIDE, gl_CooperativeMatrixLayoutRowMajor);
        subgroup_sync();
        for (uint c = lane * 4; query.live && c < TN; c += ROW_LANES * 4) {
            vec4 x = uintBitsToFloat(scratch[my_words + c / 4]) * inverse;
            Floats4(uint64_t(dst) + 4 * (at + n * TN + c)).v[0] = x;
        }
        subgroup_sync();
    }
}

void main()
{
    uint parts = GROUP / HEADS, kv_head = gl_WorkGroupID.y / parts;
    uvec2 rows = tile.v[gl_WorkGroupID.x];
    query_start(rows, kv_head, kv_head * GROUP + gl_WorkGroupID.y % parts * HEADS);
    [[unroll]] for (uint n = 0; n < O_TILES; n++)
        o_tile[n] = Sums(0.0);
    uint table0 = row.v[rows.x].table, k_bytes = kv_slice_bytes(K_TYPE, DIM);
    uint head_bytes = k_bytes + kv_slice_bytes(V_TYPE, DIM);
    uint64_t slice;
    uint block = next_page(table0, kv_head, slice);
    slice += kv_head * head_bytes;
    if (block != NONE)
        fetch(slice, K_TYPE);
    while (block != NONE) {
        bool reads = query.entry == block;
        if (reads)
            advance(kv_head);
        stage(K_TYPE);
        fetch(slice + k_bytes, V_TYPE);
        multiply_keys();
        if (soften(block, reads))
            scale_sums();
        block = next_page(table0, kv_head, slice);
        slice += kv_head * head_bytes;
        stage(V_TYPE);
        if (block != NONE)
            fetch(slice, K_TYPE);
        multiply_values();
    }
    write_output();
}
