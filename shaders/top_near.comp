// The logits where a draw probably falls: those of the sum that passes it and of its neighbours.
// One workgroup per row. The host adds the sums again, in double precision, and reads the row where
// this was wrong.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "top.glsl"

const uint NEAR_TOKENS = 3 * SUM_TOKENS;

struct Near { uint first, logit[NEAR_TOKENS]; };        // struct top_near
layout(buffer_reference, scalar, buffer_reference_align = 4) writeonly buffer Nears { Near v[]; };

layout(push_constant) uniform Push {
    uint64_t logits;        // (n_out, n_vocab) bits of a float
    Wants want;             // (n_out)
    StepHead head;
    Floats sum;             // (n_out, n_sums)
    Nears near;             // (n_out)
    uint n_vocab, n_sums;
};

shared float upto[2 * THREADS];
shared uint found;

// Sums of what all invocations up to this one have, in upto[]; returns where they begin in it.
uint add_before(float x)
{
    uint from = 0;
    upto[me] = x;
    for (uint step = 1; step < THREADS; step *= 2) {
        barrier();
        precise float sum = upto[from + me];
        if (me >= step)
            sum = sum + upto[from + me - step];
        from ^= THREADS;
        upto[from + me] = sum;
    }
    barrier();
    return from;
}

void main()
{
    uint row = gl_WorkGroupID.x;
    if (row >= head.n_out || want.v[row].draw < 0.0)
        return;
    uint each = (n_sums + THREADS - 1) / THREADS, at = row * n_sums;
    uint i = min(me * each, n_sums), end = min(i + each, n_sums);
    precise float mine = 0.0;
    for (uint k = i; k < end; k += AT_ONCE) {
        float x[AT_ONCE];
        [[unroll]] for (uint j = 0; j < AT_ONCE; j++)
            x[j] = sum.v[at + min(k + j, n_sums - 1)];
        [[unroll]] for (uint j = 0; j < AT_ONCE; j++)
            mine = mine + (k + j < end ? x[j] : 0.0);
    }
    if (me == 0)
        found = n_sums - 1;
    uint from = add_before(mine);
    float target = want.v[row].draw * upto[from + THREADS - 1];
    precise float before = me > 0 ? upto[from + me - 1] : 0.0;
    if (before <= target && target < upto[from + me]) {
        for (; i + 1 < end; i++) {
            before = before + sum.v[at + i];
            if (before > target)
                break;
        }
        atomicMin(found, i);
    }
    barrier();
    uint first = (max(found, 1) - 1) * SUM_TOKENS;
    Words logit = Words(logits + (uint64_t(row) * n_vocab + first) * 4);
    if (me == 0)
        near.v[row].first = first;
    if (me < NEAR_TOKENS && first + me < n_vocab)
        near.v[row].logit[me] = logit.v[me];
}
