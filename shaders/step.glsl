// The step's data, as struct step_head and struct step_row (engine/exec/vulkan/vulkan.h) have it.
struct StepRow { int token; uint pos, table, seq; };    // table: first of its sequence's blocks
layout(buffer_reference, std430, buffer_reference_align = 16) readonly buffer StepHead {
    uint n_rows, n_decode, n_out, n_seqs;
};
layout(buffer_reference, std430, buffer_reference_align = 16) readonly buffer StepRows {
    StepRow v[];
};
