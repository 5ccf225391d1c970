// top, first part: the best tokens of a slice of a row, in no order. One workgroup per slice and
// row; the row is read once, so the floor is its bytes over the bandwidth.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "top_best.glsl"

layout(push_constant) uniform Push {
    uint64_t logits;        // (n_out, n_vocab) float
    Wants want;             // (n_out)
    StepHead head;
    Keys peak;              // (n_out, slices) the best of each
    Keys candidate;         // (n_out, slices * TOP_MAX) the first n_top of each slice, 0: none
    uint n_vocab;
};

shared uint order[SLICE];               // upper halves of keys

uint first, kept_at;                    // token of the slice; where its candidates go

uint64_t key_at(uint i)
{
    return uint64_t(order[i]) << 32 | uint64_t(~(first + i));
}

void keep(uint place, uint64_t key)
{
    candidate.v[kept_at + place] = key;
}

// Takes in n logits. Returns the best key of them.
uint64_t load(Floats logit, uint n)
{
    uint64_t best = 0;
    for (uint i = me; i < n; i += AT_ONCE * THREADS) {
        float x[AT_ONCE];
        [[unroll]] for (uint j = 0; j < AT_ONCE; j++)
            x[j] = logit.v[min(i + j * THREADS, n - 1)];
        [[unroll]] for (uint j = 0; j < AT_ONCE; j++) {
            uint64_t key = key_of(x[j], first + i + j * THREADS);
            if (i + j * THREADS < n) {
                order[i + j * THREADS] = uint(key >> 32);
                best = better_of(best, key);
            }
        }
    }
    return best_of_all(best);
}

void main()
{
    uint slice = gl_WorkGroupID.x, row = gl_WorkGroupID.y, n_slices = gl_NumWorkGroups.x;
    if (row >= head.n_out || want.v[row].n_top == 0)
        return;
    uint k = want.v[row].n_top, n = min(SLICE, n_vocab - slice * SLICE);
    first = slice * SLICE;
    kept_at = row * n_slices * TOP_MAX + slice * k;
    uint64_t best = load(Floats(logits + (uint64_t(row) * n_vocab + first) * 4), n);
    if (me == 0)
        peak.v[row * n_slices + slice] = best;
    if (k == 1)
        return;
    for (uint i = keep_best(n, k) + me; i < k; i += THREADS)
        keep(i, 0);
}
