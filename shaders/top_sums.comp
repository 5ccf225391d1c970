// Sums of exp((logit - max) * scale) over 64 tokens each, with the bits of the host's
// (engine/run/sample_row.c): eight invocations for a sum, and what they add in its order.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "top.glsl"

layout(push_constant) uniform Push {
    uint64_t logits;        // (n_out, n_vocab) float
    Wants want;             // (n_out)
    StepHead head;
    Keys peak;              // (n_out, n_slices)
    Floats sum;             // (n_out, 2, n_sums) for the host: with the row's scale, with scale 1
    Floats near;            // (n_out, n_sums) the first of them again, for top_near
    uint n_vocab, n_slices, n_sums;
};

const uint LANES = 8;                   // of a sum

shared float part[THREADS];

// e^x for x <= 0; 0 below -85.
float weight_of(float x)
{
    float v = max(x, -85.0);
    precise float k = v * 1.44269502162933349609375;
    k = roundEven(k);
    precise float r = v - k * 0.693145751953125;
    r = r - k * 1.42860676533018704503775e-6;
    precise float p = r * (1.0 / 5040.0) + 1.0 / 720.0;
    p = p * r + 1.0 / 120.0;
    p = p * r + 1.0 / 24.0;
    p = p * r + 1.0 / 6.0;
    p = p * r + 0.5;
    p = p * r + 1.0;
    p = p * r + 1.0;
    precise float y = p * intBitsToFloat(int(k) + 127 << 23);
    return x < -85.0 ? 0.0 : y;
}

// This invocation's lane of a sum: every eighth token of 64.
float lane_sum(Floats logit, uint token, float most, float scale)
{
    const uint N = SUM_TOKENS / LANES;
    float x[N];
    [[unroll]] for (uint i = 0; i < N; i++)
        x[i] = logit.v[min(token + i * LANES, n_vocab - 1)];
    precise float sum = 0.0;
    [[unroll]] for (uint i = 0; i < N; i++) {
        precise float y = x[i] - most;
        y = y * scale;
        sum = sum + (token + i * LANES < n_vocab ? weight_of(y) : 0.0);
    }
    return sum;
}

// The sum of eight neighbours, in the first of them.
float add_lanes(float x)
{
    barrier();
    part[me] = x;
    barrier();
    precise float even = 0.0, odd = 0.0;
    if (me % LANES == 0) {
        even = (part[me] + part[me + 4]) + (part[me + 2] + part[me + 6]);
        odd = (part[me + 1] + part[me + 5]) + (part[me + 3] + part[me + 7]);
    }
    precise float sum = even + odd;
    return sum;
}

void main()
{
    uint row = gl_WorkGroupID.y, i = (gl_WorkGroupID.x * THREADS + me) / LANES;
    if (row >= head.n_out || want.v[row].n_top == 0)
        return;
    Want w = want.v[row];
    Floats logit = Floats(logits + uint64_t(row) * n_vocab * 4);
    uint64_t best = 0;
    for (uint k = me; k < n_slices; k += THREADS)
        best = better_of(best, peak.v[row * n_slices + k]);
    float most = logit_of(best_of_all(best));
    uint token = i * SUM_TOKENS + me % LANES;
    bool puts = i < n_sums && me % LANES == 0;
    if (w.scale > 0.0) {
        float x = add_lanes(lane_sum(logit, token, most, w.scale));
        if (puts) {
            sum.v[row * 2 * n_sums + i] = x;
            near.v[row * n_sums + i] = x;
        }
    }
    if (w.lse != 0) {
        float x = add_lanes(lane_sum(logit, token, most, 1.0));
        if (puts)
            sum.v[(row * 2 + 1) * n_sums + i] = x;
    }
}
