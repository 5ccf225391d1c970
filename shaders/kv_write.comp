// The step's rows of K and V into their pages, and the digest of a block with its last row; K, and
// then Q, may be normed and rotated on the way (heads.glsl).
//
// One workgroup per row and KV head, then more for a few heads of Q each. Rows of a block may be
// written at the same time by other workgroups; so the digest takes the rows of this step from
// where they come from, rounded as they are stored, and only earlier ones from the page. Its sums
// run in one order whatever wrote the rows: eight runs of eight tokens, added up in order.
//
// The first row of a block zeroes those that this step does not write: matrix units multiply what a
// row does not see by zero, and the block's last owner may have left a NaN.
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#include "common.glsl"
#include "step.glsl"
#include "kv.glsl"

layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint THREADS = 64;
layout(constant_id = 1) const uint HEAD_DIM = 128;
layout(constant_id = 2) const uint K_TYPE = 1;
layout(constant_id = 3) const uint V_TYPE = 1;
layout(constant_id = 4) const bool NORMED = false;
layout(constant_id = 5) const uint ROPE = 0;        // enum rope_kind
layout(constant_id = 6) const uint HALF_ROT = 64;
layout(constant_id = 7) const uint TEAM = 32;       // of a head of Q: a power of two from QUADS on

#include "heads.glsl"

layout(push_constant) uniform Push {
    Floats4 k, v;           // (rows, stride)
    Addresses page;         // (blocks) of this layer
    Shorts digest;          // (blocks, heads, digest_stride) of this layer
    Words table;
    StepRows row;
    StepHead head;
    Floats4 q;
    Floats2 turn;           // (rows, HALF_ROT)
    Floats q_weight, k_weight;
    uint k_stride, v_stride, q_stride;  // vec4s
    uint digest_stride;
    uint n_heads, n_kv_heads;
    float eps;
};

const uint RUNS = 8, RUN_TOKENS = BLOCK_TOKENS / RUNS;

shared float partial[RUNS * HEAD_DIM];
shared float squares[THREADS], factor[BLOCK_TOKENS];
shared vec4 fresh[2 * QUADS];           // this row's K and V
shared uint n_near;                     // rows of this block in this step, before or after this one

// ---- heads ------------------------------------------------------------------------------------

// By invocations first, first + 1, ...; `lane` is this one's place among them. All that call it do
// so together and get it.
float head_factor_shared(Floats x, uint lane, uint first)
{
    if (!NORMED)
        return 1.0;
    if (lane < QUADS)
        squares[first + lane] = head_squares(x, lane);
    barrier();
    precise float sum = 0.0;
    for (uint i = 0; i < SUMS; i++) {
        precise float some = 0.0;
        for (uint quad = i; quad < QUADS; quad += SUMS)
            some += squares[first + quad];
        sum += some;
    }
    return head_factor(sum, eps);
}

Head key_head(uint r, uint kv_head)
{
    return Head(Floats(uint64_t(k) + 16 * uint64_t(r * k_stride + kv_head * QUADS)), k_weight,
                Floats2(uint64_t(turn) + 8 * uint64_t(r * HALF_ROT)), 1.0);
}

void turn_queries(uint r, uint group)
{
    uint me = gl_LocalInvocationIndex, lane = me % TEAM;
    uint h = min(group * (THREADS / TEAM) + me / TEAM, n_heads - 1);
    Head query = Head(Floats(uint64_t(q) + 16 * uint64_t(r * q_stride + h * QUADS)), q_weight,
                      Floats2(uint64_t(turn) + 8 * uint64_t(r * HALF_ROT)), 1.0);
    query.factor = head_factor_shared(query.x, lane, me - lane);
    vec4 x = head_quad(query, min(lane, QUADS - 1));
    barrier();                          // all is read
    if (lane < QUADS)
        Floats4(uint64_t(query.x)).v[lane] = x;
}

// ---- rows -------------------------------------------------------------------------------------

// A group of q8_0: its codes, four to a word; returns the bits of its scale. A NaN lives on in the
// scale.
uint quantize_group(vec4 x[8], out uint codes[8])
{
    uint bits = 0;                      // as integers, NaN is the largest of all
    for (uint i = 0; i < 8; i++) {
        uvec4 u = floatBitsToUint(x[i]) & 0x7fffffffu;
        bits = max(max(bits, max(u.x, u.y)), max(u.z, u.w));
    }
    float largest = uintBitsToFloat(bits);
    uint h = bits > 0x7f800000u ? 0x7e00u
           : largest > 127.0 * 65504.0 ? LARGEST_HALF : half_bits(quotient(largest, 127.0));
    float scale = half_value(h), inverse = scale > 0.0 ? quotient(1.0, scale) : 0.0;
    for (uint i = 0; i < 8; i++) {
        ivec4 q = ivec4(clamp(roundEven(x[i] * inverse), -127.0, 127.0)) & 0xff;
        codes[i] = uint(q.x | q.y << 8 | q.z << 16 | q.w << 24);
    }
    return h;
}

// From `fresh`, from `at` on.
void write_row(uint type, uint64_t slice, uint j, uint at)
{
    if (type == KV_Q8_0) {
        for (uint g = gl_LocalInvocationIndex; g < HEAD_DIM / KV_Q8_GROUP; g += THREADS) {
            uint codes[8], to = (j * HEAD_DIM + g * KV_Q8_GROUP) / 4;
            vec4 x[8];
            for (uint i = 0; i < 8; i++)
                x[i] = fresh[at + g * 8 + i];
            uint h = quantize_group(x, codes);
            for (uint i = 0; i < 8; i++)
                Words(slice).v[to + i] = codes[i];
            Shorts(slice + BLOCK_TOKENS * HEAD_DIM).v[(j * HEAD_DIM) / KV_Q8_GROUP + g] =
                uint16_t(h);
        }
        return;
    }
    for (uint i = gl_LocalInvocationIndex; i < QUADS; i += THREADS) {
        vec4 x = fresh[at + i];
        if (type == KV_F32)
            Floats4(slice).v[j * QUADS + i] = x;
        else
            Words2(slice).v[j * QUADS + i] = uvec2(half_bits(x.x) | half_bits(x.y) << 16,
                                                   half_bits(x.z) | half_bits(x.w) << 16);
    }
}

void zero_rows(uint type, uint64_t slice, uint first)
{
    uint row_words = kv_row_bytes(type, HEAD_DIM) / 16, me = gl_LocalInvocationIndex;
    for (uint i = first * row_words + me; i < BLOCK_TOKENS * row_words; i += THREADS)
        Words4(slice).v[i] = uvec4(0);
    const uint GROUPS = HEAD_DIM / KV_Q8_GROUP;
    for (uint i = first * GROUPS + me; type == KV_Q8_0 && i < BLOCK_TOKENS * GROUPS; i += THREADS)
        Shorts(slice + BLOCK_TOKENS * HEAD_DIM).v[i] = uint16_t(0);
}

// ---- digests ----------------------------------------------------------------------------------

// K rows [0, n_old) of the block lie in the page; row j of the others is row0 + j of the step.
struct Block { uint64_t slice; uint n_old, row0, kv_head; };

Head block_head(Block b, uint j)
{
    Head h = key_head(b.row0 + j, b.kv_head);
    if (NORMED)
        h.factor = factor[j];
    return h;
}

// Four elements of row j as stored.
vec4 stored_quad(Block b, uint j, uint quad)
{
    if (j < b.n_old) {
        if (K_TYPE == KV_F32)
            return Floats4(b.slice).v[j * QUADS + quad];
        uvec2 w = Words2(b.slice).v[j * QUADS + quad];
        return vec4(unpackHalf2x16(w.x), unpackHalf2x16(w.y));
    }
    vec4 x = head_quad(block_head(b, j), quad);
    if (K_TYPE == KV_F16)
        for (uint i = 0; i < 4; i++)
            x[i] = half_value(half_bits(x[i]));
    return x;
}

void sum_quad(Block b, uint run, uint quad)
{
    precise vec4 sum = vec4(0.0);
    [[dont_unroll]] for (uint i = 0; i < RUN_TOKENS; i++)
        sum += stored_quad(b, run * RUN_TOKENS + i, quad);
    for (uint i = 0; i < 4; i++)
        partial[run * HEAD_DIM + quad * 4 + i] = sum[i];
}

void sum_group(Block b, uint run, uint group)
{
    precise vec4 sum[8];
    for (uint i = 0; i < 8; i++)
        sum[i] = vec4(0.0);
    [[dont_unroll]] for (uint t = 0; t < RUN_TOKENS; t++) {
        uint j = run * RUN_TOKENS + t, codes[8];
        float scale;
        if (j < b.n_old) {
            for (uint i = 0; i < 8; i++)
                codes[i] = Words(b.slice).v[(j * HEAD_DIM + group * KV_Q8_GROUP) / 4 + i];
            scale = q8_scale(b.slice, HEAD_DIM, j, group * KV_Q8_GROUP);
        } else {
            Head h = block_head(b, j);
            vec4 x[8];
            [[dont_unroll]] for (uint i = 0; i < 8; i++)
                x[i] = head_quad(h, group * 8 + i);
            scale = half_value(quantize_group(x, codes));
        }
        for (uint i = 0; i < 8; i++)
            sum[i] += code_values(codes[i]) * scale;
    }
    for (uint i = 0; i < KV_Q8_GROUP; i++)
        partial[run * HEAD_DIM + group * KV_Q8_GROUP + i] = sum[i / 4][i % 4];
}

void write_digest(Block b, uint to)
{
    const uint WIDTH = K_TYPE == KV_Q8_0 ? KV_Q8_GROUP : 4, COLUMNS = HEAD_DIM / WIDTH;
    for (uint j = b.n_old + gl_LocalInvocationIndex; NORMED && j < BLOCK_TOKENS; j += THREADS)
        factor[j] = head_factor_alone(key_head(b.row0 + j, b.kv_head).x, eps);
    barrier();
    for (uint i = gl_LocalInvocationIndex; i < RUNS * COLUMNS; i += THREADS) {
        if (K_TYPE == KV_Q8_0)
            sum_group(b, i / COLUMNS, i % COLUMNS);
        else
            sum_quad(b, i / COLUMNS, i % COLUMNS);
    }
    barrier();
    for (uint d = gl_LocalInvocationIndex; d < HEAD_DIM; d += THREADS) {
        precise float sum = partial[d];
        for (uint run = 1; run < RUNS; run++)
            sum += partial[run * HEAD_DIM + d];
        digest.v[to + d] = uint16_t(half_bits(sum / float(BLOCK_TOKENS)));
    }
}

// How many of the `most` rows before (by -1) or after this one are of its sequence; its rows are
// consecutive.
uint count_near(uint r, int by, uint most)
{
    uint seq = row.v[r].seq;
    if (gl_LocalInvocationIndex == 0)
        n_near = 0;
    barrier();
    for (uint i = 1 + gl_LocalInvocationIndex; i <= most; i += THREADS)
        if (row.v[r + i * by].seq == seq)
            atomicMax(n_near, i);
    barrier();
    return n_near;
}

void read_row(uint r, uint kv_head)
{
    uint me = gl_LocalInvocationIndex;
    Head key = key_head(r, kv_head);
    key.factor = head_factor_shared(key.x, me, 0);
    for (uint i = me; i < QUADS; i += THREADS) {
        fresh[i] = head_quad(key, i);
        fresh[QUADS + i] = v.v[r * v_stride + kv_head * QUADS + i];
    }
    barrier();
}

void main()
{
    uint r = gl_WorkGroupID.x, kv_head = gl_WorkGroupID.y;
    if (r >= head.n_rows)
        return;
    if (kv_head >= n_kv_heads) {
        turn_queries(r, kv_head - n_kv_heads);
        return;
    }
    StepRow me = row.v[r];
    uint block = table.v[me.table + me.pos / BLOCK_TOKENS], j = me.pos % BLOCK_TOKENS;
    uint k_bytes = kv_slice_bytes(K_TYPE, HEAD_DIM), v_bytes = kv_slice_bytes(V_TYPE, HEAD_DIM);
    uint64_t slice = page.v[block] + kv_head * (k_bytes + v_bytes);
    read_row(r, kv_head);
    write_row(K_TYPE, slice, j, 0);
    write_row(V_TYPE, slice + k_bytes, j, QUADS);
    if (j == 0) {
        uint n = 1 + count_near(r, 1, min(BLOCK_TOKENS, head.n_rows - r) - 1);
        zero_rows(K_TYPE, slice, n);
        zero_rows(V_TYPE, slice + k_bytes, n);
    }
    if (j == BLOCK_TOKENS - 1) {
        uint n = count_near(r, -1, min(r, j));
        write_digest(Block(slice, j - n, r - j, kv_head),
                     (block * n_kv_heads + kv_head) * digest_stride);
    }
}
