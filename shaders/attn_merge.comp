// The partial results of a row's splits become its output: a fold in the order of the splits.
// Running maxima do not round, so the factors of many splits are found at once; then every
// invocation follows the chain of its own dimensions.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "attn.glsl"

layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint THREADS = 128;
layout(constant_id = 1) const uint HEAD_DIM = 128;
layout(constant_id = 2) const bool BYTES = false;   // the next product's input too (act.glsl)

#include "act.glsl"

layout(push_constant) uniform Push {
    Floats dst;             // (rows, stride)
    AttnRows attn_row;
    StepHead head;
    Floats2 partial_ml;     // (partials, heads)
    Floats partial_o;       // (partials, heads, HEAD_DIM)
    uint64_t act;           // (rows, act_row_bytes)
    uint dst_stride;        // floats
};

const uint DIMS = (HEAD_DIM + THREADS - 1) / THREADS;
const uint BATCH = 8;                   // loads in flight

shared float result[HEAD_DIM];
shared float largest[2 * THREADS], keep[THREADS], weight[THREADS], length[THREADS];

// Factors of splits [first, first + THREADS), after splits whose maximum is `before`. Returns the
// maximum of all.
float find_factors(uint at, uint first, uint n, uint n_heads, float before)
{
    uint me = gl_LocalInvocationIndex;
    vec2 ml = first + me < n ? partial_ml.v[at + (first + me) * n_heads] : vec2(LOWEST, 0.0);
    largest[me] = max(before, ml.x);
    uint from = 0;
    for (uint step = 1; step < THREADS; step *= 2) {
        barrier();
        float m = largest[from + me];
        if (me >= step)
            m = max(m, largest[from + me - step]);
        from ^= THREADS;
        largest[from + me] = m;
    }
    barrier();
    float to = largest[from + me], old = me > 0 ? largest[from + me - 1] : before;
    keep[me] = attn_exp(old - to);
    weight[me] = attn_exp(ml.x - to);
    length[me] = ml.y;
    float last = largest[from + THREADS - 1];
    barrier();
    return last;
}

void merge(AttnRow row, uint r, uint h, uint n_heads)
{
    float total[DIMS], l = 0.0, m = LOWEST;
    for (uint k = 0; k < DIMS; k++)
        total[k] = 0.0;
    for (uint first = 0; first < row.n_splits; first += THREADS) {
        uint at = row.partial * n_heads + h, n = min(THREADS, row.n_splits - first);
        m = find_factors(at, first, row.n_splits, n_heads, m);
        for (uint i = 0; i < n; i++)
            l = attn_merge(l, keep[i], length[i], weight[i]);
        for (uint k = 0; k < DIMS; k++) {
            uint d = k * THREADS + gl_LocalInvocationIndex;
            for (uint i = 0; i < n; i += BATCH) {
                float o[BATCH];
                for (uint b = 0; b < BATCH; b++) {
                    uint split = first + min(i + b, n - 1);
                    o[b] = d < HEAD_DIM ? partial_o.v[(at + split * n_heads) * HEAD_DIM + d] : 0.0;
                }
                for (uint b = 0; b < BATCH; b++)
                    if (i + b < n)
                        total[k] = attn_merge(total[k], keep[i + b], o[b], weight[i + b]);
            }
        }
        barrier();                      // keep and weight were read
    }
    float inverse = attn_inverse(l);
    for (uint k = 0; k < DIMS; k++) {
        uint d = k * THREADS + gl_LocalInvocationIndex;
        if (d < HEAD_DIM) {
            dst.v[r * dst_stride + h * HEAD_DIM + d] = total[k] * inverse;
            result[d] = total[k] * inverse;
        }
    }
}

void main()
{
    uint r = gl_WorkGroupID.x, h = gl_WorkGroupID.y, n_heads = gl_NumWorkGroups.y;
    if (r >= head.n_decode)
        return;
    AttnRow row = attn_row.v[r];
    if (row.n_splits > 1)
        merge(row, r, h, n_heads);
    else if (BYTES)                     // attn_gather wrote it
        for (uint d = gl_LocalInvocationIndex; d < HEAD_DIM; d += THREADS)
            result[d] = dst.v[r * dst_stride + h * HEAD_DIM + d];
    barrier();
    for (uint first = 0; BYTES && first < HEAD_DIM / 4; first += THREADS) {
        uint quad = first + gl_LocalInvocationIndex, n_in = n_heads * HEAD_DIM;
        vec4 x = vec4(0.0);
        bool mine = quad < HEAD_DIM / 4;
        for (uint i = 0; mine && i < 4; i++)
            x[i] = result[quad * 4 + i];
        act_store(act + r * act_row_bytes(n_in), n_in, mine ? h * (HEAD_DIM / 4) + quad : n_in / 4,
                  x);
    }
}
