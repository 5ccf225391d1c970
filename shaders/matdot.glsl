// Products for a batch of generated rows on matrices of bytes, with the bits of matvec.glsl.
//
// There, lane l of 32 adds groups l, l + 32, ... of an output's inputs; here those groups are class
// l. A step is CLASSES neighbouring groups of OUTS outputs and ROWS rows. All invocations bring it
// into shared memory as bytes, with scales and so on; then each subgroup multiplies the matrices of
// one of its groups and adds, element by element, what matvec.glsl adds. A pass is the steps of
// CLASSES classes. Sums of passes, then those of subgroups, make the tree of matvec.glsl.
//
// What belongs to an output or to a row becomes a matrix with equal columns or rows. All matrices
// that meet in a formula are of one type, integers that may be the bits of floats: so they have
// their elements in the same places, wherever these are.
//
// Sums of products of bytes start from the bits of 3 * 2^22 and so become those of that plus the
// integer, which a subtraction turns into the integer, exactly: conversions are slow on some GPUs.
#extension GL_KHR_cooperative_matrix : require
#extension GL_KHR_memory_scope_semantics : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_EXT_shader_explicit_arithmetic_types_int8 : require

layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint THREADS = 256;
layout(constant_id = 1) const uint OUTS = 32;
layout(constant_id = 2) const uint ROWS = 32;
layout(constant_id = 3) const uint DEPTH = 1;       // steps asked for at once
layout(constant_id = 4) const uint SPLIT = 1;       // subgroups of a class, each with its outputs
layout(constant_id = 5) const float SOFTCAP = 0.0;
layout(constant_id = 6) const uint GLU = 0;
layout(constant_id = 7) const uint TM = 16;         // of a matrix
layout(constant_id = 8) const uint TN = 16;
layout(constant_id = 9) const uint TK = 32;

const uint TEAMS = 1, NORM_STEPS = 0;

#include "few.glsl"

const uint LANES = 32;                              // TEAM of matvec.glsl
const uint CLASSES = 8;                             // of a step
const uint PASSES = LANES / CLASSES;
const uint SUB_OUTS = OUTS / SPLIT;                 // of a subgroup
const uint MS = SUB_OUTS / TM, NS = ROWS / TN, KS = 32 / TK;
const uint W_LOADS = (OUTS * CLASSES + THREADS - 1) / THREADS;      // groups of an invocation
const uint A_LOADS = (ROWS * CLASSES + THREADS - 1) / THREADS;

// In words of 16 bytes, where matrices begin: a half of a group is a word, or two half-empty ones
// where TK is 8. Between halves is room for a third: groups start in different banks, and formats
// with factors of halves have zeros there, so that either half can be had with zeros for the other.
const uint HALF = TK < 16 ? 16 / TK : 1;
const uint WIDTH = TK > 16 ? TK / 16 : 1;          // TK bytes
#ifdef QUANT_SUB
const uint PARTS = 2, W_HI = 2 * HALF;
#else
const uint PARTS = 1, W_HI = HALF;
#endif
const uint GROUP = 3 * HALF;
const uint STRIDE = CLASSES * GROUP + 1;            // of an output or a row
const uint A_POOL = OUTS * STRIDE;                  // where inputs begin
const uint STAGED = (OUTS + ROWS) * STRIDE;
const uint TILE = OUTS * ROWS / 4;                  // sums of a class
const uint POOL = STAGED > CLASSES / 2 * TILE ? STAGED : CLASSES / 2 * TILE;
const uint W_COLS = OUTS + 4, A_COLS = ROWS + 4;    // of a group; the same for banks

shared uvec4 pool[POOL];
shared int w_scale[CLASSES * W_COLS], a_scale[CLASSES * A_COLS];
#ifdef QUANT_MIN
shared int w_min[CLASSES * W_COLS], a_sum[CLASSES * A_COLS];
#endif
#ifdef QUANT_SUB
shared int w_lo[CLASSES * W_COLS], w_hi[CLASSES * W_COLS];
#endif

#define BY_OUTPUT gl_CooperativeMatrixLayoutColumnMajor     // with a stride of 0
#define BY_ROW gl_CooperativeMatrixLayoutRowMajor
#define Bytes(rows, cols, use) coopmat<int8_t, gl_ScopeSubgroup, rows, cols, use>
#define Sums coopmat<int, gl_ScopeSubgroup, TM, TN, gl_MatrixUseAccumulator>

const int HIGH_BITS = 0x4b400000;
const float HIGH = 12582912.0;

uint my_class = gl_SubgroupID % CLASSES, my_outs = gl_SubgroupID / CLASSES * SUB_OUTS;
uint n_groups = n_in / 32;
Sums sum[MS * NS], odd[MS * NS], pair[MS * NS];     // bits of floats

// ---- steps ------------------------------------------------------------------------------------

struct Step { uint pass, round; };

Step step_after(Step s, uint n_rounds)
{
    return s.round + 1 < n_rounds ? Step(s.pass, s.round + 1) : Step(s.pass + 1, 0);
}

// The tree adds classes that are 16 apart, then those that are 8 apart: passes take turns so.
uint first_group(Step s)
{
    return s.round * LANES + (s.pass % 2 * 2 + s.pass / 2) * CLASSES;
}

uint group_of(Step s, uint c)
{
    return min(first_group(s) + c, n_groups - 1);   // past the end: brought, and not multiplied
}

// ---- weights ----------------------------------------------------------------------------------

// Which group of a step invocations bring as their i-th: an output and a class. The last round may
// have more invocations than groups.
uint w_index(uint i)
{
    return i * THREADS + gl_LocalInvocationIndex;
}

QuantRaw fetch_w(Work k, Step s, uint i)
{
    uint o = w_index(i) / CLASSES;
    QuantRaw raw;
    if (o < OUTS)
        raw = quant_load(matrix(k, o), matrix_row(k, o), group_of(s, w_index(i) % CLASSES));
    return raw;
}

// Bytes less QUANT_ZERO, from bytes below 128.
uvec4 centred(uvec4 q)
{
    const uint SIGNS = 0x80808080u;
    return QUANT_ZERO == 0 ? q : ((q | SIGNS) - uint(QUANT_ZERO) * 0x01010101u) ^ SIGNS;
}

void store_half(uint to, uvec4 bytes)
{
    if (HALF == 1) {
        pool[to] = bytes;
    } else {
        pool[to] = uvec4(bytes.xy, 0, 0);
        pool[to + 1] = uvec4(bytes.zw, 0, 0);
    }
}

void store_w(QuantRaw raw, Step s, uint i)
{
    uint o = w_index(i) / CLASSES, c = w_index(i) % CLASSES, col = c * W_COLS + o;
    if (o >= OUTS)
        return;
    QuantGroup q = quant_unpack(raw, group_of(s, c));
    uint to = o * STRIDE + c * GROUP;
    store_half(to, centred(q.lo));
    store_half(to + W_HI, centred(q.hi));
    w_scale[col] = floatBitsToInt(q.scale);
#ifdef QUANT_MIN
    w_min[col] = floatBitsToInt(q.min);
#endif
#ifdef QUANT_SUB
    w_lo[col] = floatBitsToInt(float(q.sub.x));
    w_hi[col] = floatBitsToInt(float(q.sub.y));
#endif
}

void store_zeros()
{
    for (uint at = gl_LocalInvocationIndex; at < OUTS * CLASSES; at += THREADS)
        store_half(at / CLASSES * STRIDE + at % CLASSES * GROUP + HALF, uvec4(0));
}

// ---- inputs -----------------------------------------------------------------------------------

struct ActRaw { uvec4 lo, hi; uvec2 head; };

// From the last invocation on, since the first ones may bring more weights.
uint a_index(uint i)
{
    return i * THREADS + (THREADS - 1 - gl_LocalInvocationIndex);
}

ActRaw fetch_a(Work k, Step s, uint i)
{
    uint c = a_index(i) / CLASSES, group = group_of(s, a_index(i) % CLASSES);
    uint64_t at = src + input_row(k, c) * act_row_bytes(n_in);
    ActRaw raw;
    if (c < ROWS)
        raw = ActRaw(Words4(at).v[group], Words4(at).v[n_groups + group],
                     Words2(at + 32 * n_groups).v[group]);
    return raw;
}

void store_a(ActRaw raw, uint i)
{
    uint row = a_index(i) / CLASSES, c = a_index(i) % CLASSES;
    if (row >= ROWS)
        return;
    uint to = A_POOL + row * STRIDE + c * GROUP;
    store_half(to, raw.lo);
    store_half(to + HALF, raw.hi);
    a_scale[c * A_COLS + row] = int(raw.head.x);
#ifdef QUANT_MIN
    int sum_lo = int(raw.head.y << 16) >> 16, sum_hi = int(raw.head.y) >> 16;
    a_sum[c * A_COLS + row] = floatBitsToInt(float(sum_lo + sum_hi));
#endif
}

// ---- sums -------------------------------------------------------------------------------------

void clear_sums()
{
    [[unroll]] for (uint i = 0; i < MS * NS; i++)
        sum[i] = Sums(0);
}

// What this subgroup's group of a step adds.
void multiply()
{
    Bytes(TM, TK, gl_MatrixUseA) w[MS * PARTS * KS];
    Sums scale[MS];
#ifdef QUANT_MIN
    Sums least[MS];
#endif
#ifdef QUANT_SUB
    Sums lo[MS], hi[MS];
#endif
    [[unroll]] for (uint m = 0; m < MS; m++) {
        uint out0 = my_outs + m * TM, col = my_class * W_COLS + out0;
        [[unroll]] for (uint i = 0; i < PARTS * KS; i++)
            coopMatLoad(w[m * PARTS * KS + i], pool, out0 * STRIDE + my_class * GROUP +
                        i / KS * HALF + i % KS * WIDTH, STRIDE,
                        gl_CooperativeMatrixLayoutRowMajor);
        coopMatLoad(scale[m], w_scale, col, 0, BY_OUTPUT);
#ifdef QUANT_MIN
        coopMatLoad(least[m], w_min, col, 0, BY_OUTPUT);
#endif
#ifdef QUANT_SUB
        coopMatLoad(lo[m], w_lo, col, 0, BY_OUTPUT);
        coopMatLoad(hi[m], w_hi, col, 0, BY_OUTPUT);
#endif
    }
    [[unroll]] for (uint n = 0; n < NS; n++) {
        uint col = my_class * A_COLS + n * TN;
        Bytes(TK, TN, gl_MatrixUseB) a[KS];
        [[unroll]] for (uint i = 0; i < KS; i++)
            coopMatLoad(a[i], pool, A_POOL + n * TN * STRIDE + my_class * GROUP + i * WIDTH,
                        STRIDE, gl_CooperativeMatrixLayoutColumnMajor);
        Sums row_scale, row_sum;
        coopMatLoad(row_scale, a_scale, col, 0, BY_ROW);
#ifdef QUANT_MIN
        coopMatLoad(row_sum, a_sum, col, 0, BY_ROW);
#endif
        [[unroll]] for (uint m = 0; m < MS; m++) {
            Sums dot[PARTS];
            [[unroll]] for (uint p = 0; p < PARTS; p++) {
                dot[p] = Sums(HIGH_BITS);
                [[unroll]] for (uint i = 0; i < KS; i++)
                    dot[p] = coopMatMulAdd(w[(m * PARTS + p) * KS + i], a[i], dot[p]);
            }
            [[unroll]] for (uint i = 0; i < dot[0].length(); i++) {
                precise float by = intBitsToFloat(scale[m][i]);
                precise float q = intBitsToFloat(dot[0][i]) - HIGH;
#ifdef QUANT_SUB
                // Integers below 2^24: exact.
                q = fma(intBitsToFloat(hi[m][i]), intBitsToFloat(dot[1][i]) - HIGH,
                        intBitsToFloat(lo[m][i]) * q);
#endif
                precise float x = by * q;
#ifdef QUANT_MIN
                x = fma(intBitsToFloat(least[m][i]), intBitsToFloat(row_sum[i]), x);
#endif
                float old = intBitsToFloat(sum[m * NS + n][i]);
                sum[m * NS + n][i] = floatBitsToInt(fma(intBitsToFloat(row_scale[i]), x, old));
            }
        }
    }
}

#define ADD_SUMS(to, other) \
    [[unroll]] for (uint j = 0; j < to.length(); j++) \
        to[j] = floatBitsToInt(intBitsToFloat(to[j]) + intBitsToFloat(other[j]))

// After a pass: what its sums are added to, or kept for.
void add_pass(uint pass)
{
    [[unroll]] for (uint i = 0; i < MS * NS; i++) {
        if (pass % 2 == 0)
            odd[i] = sum[i];
        else
            ADD_SUMS(sum[i], odd[i]);
        if (pass == 1)
            pair[i] = sum[i];
        if (pass == 3)
            ADD_SUMS(sum[i], pair[i]);
    }
    if (pass + 1 < PASSES)
        clear_sums();
}

uint tile_at(uint c, uint i)
{
    return c * TILE + (i % NS * TN * OUTS + my_outs + i / NS * TM) / 4;
}

void store_tile(uint c)
{
    [[unroll]] for (uint i = 0; i < MS * NS; i++)
        coopMatStore(sum[i], pool, tile_at(c, i), OUTS / 4, gl_CooperativeMatrixLayoutColumnMajor);
}

void add_tile(uint c)
{
    [[unroll]] for (uint i = 0; i < MS * NS; i++) {
        Sums other;
        coopMatLoad(other, pool, tile_at(c, i), OUTS / 4, gl_CooperativeMatrixLayoutColumnMajor);
        ADD_SUMS(sum[i], other);
    }
}

// The first level of the tree over subgroups is of matrices; what is left lies in the pool then.
void add_classes()
{
    const uint LEFT = CLASSES / 2;
    if (my_class >= LEFT)
        store_tile(my_class - LEFT);
    barrier();
    if (my_class < LEFT)
        add_tile(my_class);
    barrier();
    if (my_class < LEFT)
        store_tile(my_class);
    barrier();
}

float tree_sum(uint at)
{
    precise float v[CLASSES / 2];
    [[unroll]] for (uint i = 0; i < CLASSES / 2; i++)
        v[i] = uintBitsToFloat(pool[i * TILE + at / 4][at % 4]);
    [[unroll]] for (uint n = CLASSES / 4; n > 0; n /= 2)
        [[unroll]] for (uint i = 0; i < n; i++)
            v[i] += v[i + n];
    return v[0];
}

void main()
{
    Work k = find_work();
    if (k.row0 > 0 && k.row0 >= limit.v[0])
        return;
    if (PARTS > 1)
        store_zeros();
    clear_sums();
    uint n_rounds = (n_groups + LANES - 1) / LANES, n_steps = PASSES * n_rounds;
    Step now = Step(0, 0), ahead = now;
    QuantRaw w_raw[DEPTH * W_LOADS];
    ActRaw a_raw[DEPTH * A_LOADS];
    [[unroll]] for (uint d = 0; d < DEPTH; d++) {
        [[unroll]] for (uint i = 0; i < W_LOADS; i++)
            w_raw[d * W_LOADS + i] = fetch_w(k, ahead, i);
        [[unroll]] for (uint i = 0; i < A_LOADS; i++)
            a_raw[d * A_LOADS + i] = fetch_a(k, ahead, i);
        ahead = step_after(ahead, n_rounds);
    }
    for (uint s = 0; s < n_steps; s += DEPTH)
        [[unroll]] for (uint d = 0; d < DEPTH; d++) {
            if (s + d >= n_steps)
                continue;
            [[unroll]] for (uint i = 0; i < W_LOADS; i++)
                store_w(w_raw[d * W_LOADS + i], now, i);
            [[unroll]] for (uint i = 0; i < A_LOADS; i++)
                store_a(a_raw[d * A_LOADS + i], i);
            barrier();
            [[unroll]] for (uint i = 0; i < W_LOADS; i++)
                w_raw[d * W_LOADS + i] = fetch_w(k, ahead, i);
            [[unroll]] for (uint i = 0; i < A_LOADS; i++)
                a_raw[d * A_LOADS + i] = fetch_a(k, ahead, i);
            if (first_group(now) + my_class < n_groups)
                multiply();
            if (now.round + 1 == n_rounds)
                add_pass(now.pass);
            now = step_after(now, n_rounds);
            ahead = step_after(ahead, n_rounds);
            barrier();
        }
    add_classes();
    for (uint e = gl_LocalInvocationIndex; GLU == 0 && e < OUTS * ROWS; e += THREADS)
        write_result(k, e, tree_sum(e));
    for (uint e = gl_LocalInvocationIndex; GLU > 0 && e < RESULTS * ROWS; e += THREADS) {
        uint gate = e / RESULTS * OUTS + e % RESULTS;
        write_glu(k, e, tree_sum(gate), tree_sum(gate + RESULTS));
    }
}
