// Products for the rows of generated tokens on cooperative matrices: dst = W x for up to COLS rows,
// with the matrix read once.
//
// Inputs are cut in chunks of 64 elements; split s of a workgroup takes chunks s, s + SPLITS, ... in
// ascending order, and the splits' sums are added in their order. That is so whatever COLS and the
// outputs of a workgroup are, and a matrix product mixes no columns: so an output's bits depend on
// its own row alone. An invocation turns one group of 32 weights a step into halves; the next group
// is on its way meanwhile.
//
// With GLU, targets 0 and 1 are gate and up: dst[0] = act(gate) * up.
#extension GL_KHR_cooperative_matrix : require
#extension GL_KHR_memory_scope_semantics : require
#extension GL_KHR_shader_subgroup_basic : require
#include "math.glsl"
#include "glu.glsl"
#include "quant_halves.glsl"

layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint THREADS = 256;
layout(constant_id = 1) const uint LANES = 32;      // of a subgroup
layout(constant_id = 2) const uint STEP_ROWS = 16;  // outputs of a subgroup
layout(constant_id = 3) const uint ROW_PARTS = 1;   // subgroups with other outputs
layout(constant_id = 4) const uint COLS = 16;
layout(constant_id = 5) const uint TM = 16;         // of a matrix
layout(constant_id = 6) const uint TN = 16;
layout(constant_id = 7) const uint TK = 16;
layout(constant_id = 8) const uint GLU = 0;         // 0: none; else enum act_kind + 1
layout(constant_id = 9) const float SOFTCAP = 0.0;  // 0: none

struct Target {                         // a matrix, or a part of one
    uint64_t w;
    Floats dst, bias;                   // of its first output; bias 0: none
    uint n_out, dst_stride;
};

layout(push_constant) uniform Push {
    Target target[3];                   // n_out 0: none
    Words4 act;                         // (rows, act_words) halves, then the row's scale
    Words limit;                        // rows that there are
    uint n_in, row_bytes;
    uint act_words;                     // 16-byte words of a row; ADD: dst += instead of =
    float scale;
};

const uint ADD = 0x80000000u;
const uint SPLITS = 8;
const uint CHUNK_GROUPS = 2;
const uint STEP_GROUPS = LANES / STEP_ROWS;         // of a row, in a step: at most a chunk's
const uint CHUNK_STEPS = CHUNK_GROUPS / STEP_GROUPS;
const uint STEP_WORDS = STEP_GROUPS * 4;
const uint STRIDE = STEP_WORDS + 1;
const uint OUTS = STEP_ROWS * ROW_PARTS;            // of a workgroup
const uint MS = STEP_ROWS / TM, NS = COLS / TN;
const uint SUBGROUPS = SPLITS * ROW_PARTS;
const uint TILE_WORDS = TM * TN / 4;
const uint ROUND = ROW_PARTS * TM * TN;             // results of a round of summing up
const uint ROUND_EACH = (ROUND + THREADS - 1) / THREADS;
const uint STAGE_WORDS = SUBGROUPS * STEP_ROWS * STRIDE, SUM_WORDS = SUBGROUPS * TILE_WORDS;

shared uvec4 stage[STAGE_WORDS > SUM_WORDS ? STAGE_WORDS : SUM_WORDS];

#define Sums coopmat<float, gl_ScopeSubgroup, TM, TN, gl_MatrixUseAccumulator>

Sums sum[MS * NS];                      // of this split
float result[ROUND_EACH];               // of all splits: this invocation's of a tile
float gate[MS * NS * ROUND_EACH];

uint find_target(inout uint group)
{
    uint t = 0;
    for (; t < 2; t++) {
        uint n = (target[t].n_out + OUTS - 1) / OUTS;
        if (group < n)
            break;
        group -= n;
    }
    return t;
}

// This split's chunks.
void multiply(QuantPart w, uint n_out, uint out0, uint col0, uint n_rows)
{
    uint lane = gl_SubgroupInvocationID, split = gl_SubgroupID % SPLITS;
    uint row = min(out0 + lane % STEP_ROWS, n_out - 1), my_group = lane / STEP_ROWS;
    uint words0 = gl_SubgroupID * STEP_ROWS * STRIDE;
    uint mine = words0 + lane % STEP_ROWS * STRIDE + my_group * 4;
    uint n_groups = (n_in + 31) / 32, n_chunks = (n_groups + CHUNK_GROUPS - 1) / CHUNK_GROUPS;
    uint act_row = (act_words & ~ADD) + 1, act0 = col0 * act_row;
    uint act_stride = n_rows == 1 ? 0 : act_row;    // one row: every column is it
    // As many steps for all, since a device may take a subgroup's barrier for the workgroup's.
    uint n_steps = (n_chunks + SPLITS - 1) / SPLITS * CHUNK_STEPS;
    uint group = split * CHUNK_GROUPS;              // the step's first
    HalvesRaw raw = halves_load(w, row, min(group + my_group, n_groups - 1));
    for (uint i = 0; i < n_steps; i++) {
        uint next = group + STEP_GROUPS;
        if (i % CHUNK_STEPS == CHUNK_STEPS - 1)
            next = group - (CHUNK_STEPS - 1) * STEP_GROUPS + SPLITS * CHUNK_GROUPS;
        uvec4 word[4];
        halves_unpack(raw, min(group + my_group, n_groups - 1), word);
        if (group + my_group >= n_groups)
            word = uvec4[4](uvec4(0), uvec4(0), uvec4(0), uvec4(0));
        raw = halves_load(w, row, min(next + my_group, n_groups - 1));
        subgroupBarrier();
        [[unroll]] for (uint c = 0; c < 4; c++)
            stage[mine + c] = word[c];
        subgroupBarrier();
        uint end = group < n_chunks * CHUNK_GROUPS ? STEP_GROUPS * 32 / TK : 0;
        for (uint k = 0; k < end; k++) {
            coopmat<float16_t, gl_ScopeSubgroup, TM, TK, gl_MatrixUseA> a[MS];
            [[unroll]] for (uint m = 0; m < MS; m++)
                coopMatLoad(a[m], stage, words0 + m * TM * STRIDE + k * (TK / 8), STRIDE,
                            gl_CooperativeMatrixLayoutRowMajor);
            [[unroll]] for (uint n = 0; n < NS; n++) {
                coopmat<float16_t, gl_ScopeSubgroup, TK, TN, gl_MatrixUseB> b;
                coopMatLoad(b, Halves(uint64_t(act)).v,
                            8 * (act0 + n * TN * act_stride + group * 4) + k * TK, 8 * act_stride,
                            gl_CooperativeMatrixLayoutColumnMajor);
                [[unroll]] for (uint m = 0; m < MS; m++)
                    sum[m * NS + n] = coopMatMulAdd(a[m], b, sum[m * NS + n]);
            }
        }
        group = next;
    }
}

// The splits' sums of a tile of outputs and rows.
void add_up(uint tile)
{
    barrier();
    coopMatStore(sum[tile], stage, gl_SubgroupID * TILE_WORDS, TM / 4,
                 gl_CooperativeMatrixLayoutColumnMajor);
    barrier();
    [[unroll]] for (uint i = 0; i < ROUND_EACH; i++) {
        uint e = i * THREADS + gl_LocalInvocationIndex, part = e / (TM * TN), at = e % (TM * TN);
        precise float v = 0.0;
        [[unroll]] for (uint s = 0; s < SPLITS; s++)
            if (e < ROUND)
                v += uintBitsToFloat(stage[(part * SPLITS + s) * TILE_WORDS + at / 4][at % 4]);
        result[i] = v;
    }
}

float finish(uint t, uint o, float v)
{
    Floats bias = target[t].bias;
    return uint64_t(bias) != 0 ? v + bias.v[o] : v;
}

void write_result(uint t, uint o, uint row, float v)
{
    uint at = row * target[t].dst_stride + o;
    v = (act_words & ADD) != 0 ? fma(v, scale, target[t].dst.v[at]) : v * scale;
    target[t].dst.v[at] = SOFTCAP > 0.0 ? SOFTCAP * tanh_of(v / SOFTCAP) : v;
}

void main()
{
    uint group = gl_WorkGroupID.x, t = find_target(group), n_rows = limit.v[0];
    uint out0 = group * OUTS, col0 = gl_WorkGroupID.y * COLS, act_row = (act_words & ~ADD) + 1;
    if (col0 >= n_rows)
        return;
    for (uint pass = 0; pass < (GLU > 0 ? 2 : 1); pass++) {
        [[unroll]] for (uint i = 0; i < MS * NS; i++)
            sum[i] = Sums(0.0);
        QuantPart w = QuantPart(target[t + pass].w, row_bytes, n_in);
        multiply(w, target[t].n_out, out0 + gl_SubgroupID / SPLITS * STEP_ROWS, col0,
                 n_rows);
        [[unroll]] for (uint tile = 0; tile < MS * NS; tile++) {
            add_up(tile);
            [[unroll]] for (uint i = 0; i < ROUND_EACH; i++) {
                uint e = i * THREADS + gl_LocalInvocationIndex, at = e % (TM * TN);
                uint o = out0 + e / (TM * TN) * STEP_ROWS + tile / NS * TM + at % TM;
                uint row = col0 + tile % NS * TN + at / TM;
                if (e >= ROUND || o >= target[t].n_out || row >= n_rows)
                    continue;
                float up = uintBitsToFloat(act.v[row * act_row + act_row - 1].x) / WEIGHT_UP;
                float v = finish(t + pass, o, result[i] * up);
                if (GLU == 0)
                    write_result(t, o, row, v);
                else if (pass == 0)
                    gate[tile * ROUND_EACH + i] = v;
                else
                    write_result(t, o, row, glu_act(GLU - 1, gate[tile * ROUND_EACH + i]) * v);
            }
        }
    }
}
