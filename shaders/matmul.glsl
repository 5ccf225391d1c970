// Tiled product on cooperative matrices: dst = W x for the rows of prompts.
//
// A workgroup computes BM outputs of BN rows. Weights become halves on their way into shared
// memory, inputs are halves already, sums are float32. Inputs are walked in steps of BK in
// ascending order, with no split, so an output's bits depend on its own row alone, whatever the
// tile. While one step is multiplied, the next is on its way into registers.
#extension GL_KHR_cooperative_matrix : require
#extension GL_KHR_memory_scope_semantics : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_EXT_shader_explicit_arithmetic_types_float16 : require
#include "step.glsl"
#include "subgroup.glsl"
#include "quant_halves.glsl"

layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint THREADS = 256;
layout(constant_id = 1) const uint BM = 128;        // outputs of a workgroup
layout(constant_id = 2) const uint BN = 128;        // rows
layout(constant_id = 3) const uint BK = 64;         // inputs of a step
layout(constant_id = 4) const uint WM = 64;         // of a subgroup
layout(constant_id = 5) const uint WN = 32;
layout(constant_id = 6) const uint TM = 16;         // of a matrix
layout(constant_id = 7) const uint TN = 16;
layout(constant_id = 8) const uint TK = 16;

layout(push_constant) uniform Push {
    QuantPart w;
    Words4 act;             // (rows, act_words) halves, then the row's scale
    Floats dst;
    Floats bias;            // 0: none
    StepHead head;
    uint n_out;             // of this part of the matrix
    uint act_words;         // 16-byte words of a row
    uint dst_stride, out0;  // floats; the part's first output
    float scale;
    uint add;               // dst += instead of =
};

const uint CHUNK = 8;                               // halves of a 16-byte word
const uint STEP_GROUPS = BK / 32;                   // of a row of a tile; BM of them are THREADS
const uint STEP_WORDS = BK / CHUNK;
const uint STRIDE = STEP_WORDS + 1;                 // one more: rows start in different banks
const uint B_LOADS = BN * STEP_WORDS / THREADS;
const uint MS = WM / TM, NS = WN / TN;
const uint SUBGROUPS_N = BN / WN;
const uint TILE_WORDS = TM * TN / 4;                // of a matrix of results

shared uvec4 a_tile[BM * STRIDE];
shared uvec4 b_tile[BN * STRIDE];

// What this invocation brings of step k: a group of weights, and words of inputs.
HalvesRaw fetch_a(uint row0, uint k)
{
    uint row = row0 + gl_LocalInvocationIndex / STEP_GROUPS, n_groups = (w.n_in + 31) / 32;
    uint group = k * STEP_GROUPS + gl_LocalInvocationIndex % STEP_GROUPS;
    return halves_load(w, min(row, n_out - 1), min(group, n_groups - 1));
}

void store_a(HalvesRaw raw, uint k)
{
    uint row = gl_LocalInvocationIndex / STEP_GROUPS, n_groups = (w.n_in + 31) / 32;
    uint at = gl_LocalInvocationIndex % STEP_GROUPS, group = k * STEP_GROUPS + at;
    uvec4 word[4];
    halves_unpack(raw, min(group, n_groups - 1), word);
    [[unroll]] for (uint i = 0; i < 4; i++)
        a_tile[row * STRIDE + at * 4 + i] = group < n_groups ? word[i] : uvec4(0);
}

uvec4 fetch_b(uint row0, uint n_rows, uint k, uint i)
{
    uint at = i * THREADS + gl_LocalInvocationIndex;
    uint row = row0 + at / STEP_WORDS, word = k * STEP_WORDS + at % STEP_WORDS;
    return row < n_rows && word < act_words ? act.v[row * (act_words + 1) + word] : uvec4(0);
}

void write_result(uint row, uint o, float sum)
{
    uint at = row * dst_stride + out0 + o;
    float v = sum * (uintBitsToFloat(act.v[row * (act_words + 1) + act_words].x) / WEIGHT_UP);
    if (uint64_t(bias) != 0)
        v += bias.v[out0 + o];
    dst.v[at] = add != 0 ? fma(v, scale, dst.v[at]) : v * scale;
}

void main()
{
    uint m0 = gl_WorkGroupID.x * BM, n0 = head.n_decode + gl_WorkGroupID.y * BN;
    uint n_rows = head.n_rows;
    if (n0 >= n_rows)
        return;
    uint wm = gl_SubgroupID / SUBGROUPS_N * WM, wn = gl_SubgroupID % SUBGROUPS_N * WN;
    coopmat<float, gl_ScopeSubgroup, TM, TN, gl_MatrixUseAccumulator> sum[MS * NS];
    [[unroll]] for (uint i = 0; i < MS * NS; i++)
        sum[i] = coopmat<float, gl_ScopeSubgroup, TM, TN, gl_MatrixUseAccumulator>(0.0);

    uint n_steps = (w.n_in + BK - 1) / BK;
    HalvesRaw a_raw = fetch_a(m0, 0);
    uvec4 b_word[B_LOADS];
    [[unroll]] for (uint i = 0; i < B_LOADS; i++)
        b_word[i] = fetch_b(n0, n_rows, 0, i);
    for (uint k = 0; k < n_steps; k++) {
        store_a(a_raw, k);
        [[unroll]] for (uint i = 0; i < B_LOADS; i++) {
            uint at = i * THREADS + gl_LocalInvocationIndex;
            b_tile[at / STEP_WORDS * STRIDE + at % STEP_WORDS] = b_word[i];
        }
        barrier();
        a_raw = fetch_a(m0, k + 1);     // past the end the last one again, to no use
        [[unroll]] for (uint i = 0; i < B_LOADS; i++)
            b_word[i] = fetch_b(n0, n_rows, k + 1, i);
        [[unroll]] for (uint kk = 0; kk < BK / TK; kk++) {
            coopmat<float16_t, gl_ScopeSubgroup, TM, TK, gl_MatrixUseA> a[MS];
            [[unroll]] for (uint i = 0; i < MS; i++)
                coopMatLoad(a[i], a_tile, (wm + i * TM) * STRIDE + kk * (TK / CHUNK), STRIDE,
                            gl_CooperativeMatrixLayoutRowMajor);
            [[unroll]] for (uint j = 0; j < NS; j++) {
                coopmat<float16_t, gl_ScopeSubgroup, TK, TN, gl_MatrixUseB> b;
                coopMatLoad(b, b_tile, (wn + j * TN) * STRIDE + kk * (TK / CHUNK), STRIDE,
                            gl_CooperativeMatrixLayoutColumnMajor);
                [[unroll]] for (uint i = 0; i < MS; i++)
                    sum[i * NS + j] = coopMatMulAdd(a[i], b, sum[i * NS + j]);
            }
        }
        barrier();
    }

    // Through shared memory, where it is known which invocation has which result.
    uint tile0 = gl_SubgroupID * TILE_WORDS;
    [[unroll]] for (uint i = 0; i < MS * NS; i++) {
        coopMatStore(sum[i], a_tile, tile0, TM / 4, gl_CooperativeMatrixLayoutColumnMajor);
        subgroup_sync();
        for (uint e = gl_SubgroupInvocationID; e < TM * TN; e += gl_SubgroupSize) {
            uint o = m0 + wm + i / NS * TM + e % TM, row = n0 + wn + i % NS * TN + e / TM;
            if (o < n_out && row < n_rows)
                write_result(row, o, uintBitsToFloat(a_tile[tile0 + e / 4][e % 4]));
        }
        subgroup_sync();
    }
}
