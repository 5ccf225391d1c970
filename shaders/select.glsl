// What the kernels of topk share. Rows that choose their blocks are taken in slices, as many at a
// time as there is room for their scores.
#include "attn.glsl"

struct Select {                         // struct attn_select
    uint row;
    uint sink, n, local, chosen;        // blocks: first the sinks, then n candidates, then local
    uint list;                          // where the lists of its KV heads begin
};
layout(buffer_reference, std430, buffer_reference_align = 8) readonly buffer Selects {
    Select v[];
};

struct Slice {                          // struct attn_slice
    uint score_groups[3], choose_groups[3];
    uint first, stride;                 // its first select; room of a select's scores
};
layout(buffer_reference, std430, buffer_reference_align = 16) readonly buffer Slices {
    Slice v[];
};
