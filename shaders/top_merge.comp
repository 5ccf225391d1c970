// top, second part: the best tokens of a row, in order, from those of its slices. One workgroup per
// row; each token's place is the number of better ones.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "top_best.glsl"

struct Best { uint token[TOP_MAX], logit[TOP_MAX]; };   // struct top_best
layout(buffer_reference, scalar, buffer_reference_align = 4) writeonly buffer Bests { Best v[]; };

layout(push_constant) uniform Push {
    uint64_t logits;        // (n_out, n_vocab) bits of a float
    Wants want;             // (n_out)
    StepHead head;
    Keys peak;              // (n_out, n_slices)
    Keys candidate;         // (n_out, n_slices * TOP_MAX)
    Bests best;             // (n_out)
    uint n_vocab, n_slices;
};

shared uint64_t kept[TOP_MAX];

uint row, first;                        // candidate of the row

uint64_t key_at(uint i)
{
    return candidate.v[first + i];
}

void keep(uint place, uint64_t key)
{
    kept[place] = key;
}

void put(uint place, uint64_t key)
{
    Words logit = Words(logits + uint64_t(row) * n_vocab * 4);
    best.v[row].token[place] = token_of(key);
    best.v[row].logit[place] = logit.v[token_of(key)];
}

void main()
{
    row = gl_WorkGroupID.x;
    if (row >= head.n_out || want.v[row].n_top == 0)
        return;
    uint k = want.v[row].n_top;
    if (k == 1) {
        uint64_t most = 0;
        for (uint i = me; i < n_slices; i += THREADS)
            most = better_of(most, peak.v[row * n_slices + i]);
        most = best_of_all(most);
        if (me == 0)
            put(0, most);
        return;
    }
    first = row * n_slices * TOP_MAX;
    keep_best(n_slices * k, k);
    if (me >= k)
        return;
    uint place = 0;
    for (uint i = 0; i < k; i++)
        place += kept[i] > kept[me] ? 1 : 0;
    put(place, kept[me]);
}
