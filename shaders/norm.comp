// RMSNorm of rows or of their pieces, and inputs of products: see norm.glsl. A workgroup for each
// piece of a row.
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#include "common.glsl"
#include "math.glsl"

layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint THREADS = 256;
layout(constant_id = 1) const uint NORM_WIDTH = 4096;   // of a piece
layout(constant_id = 2) const uint NORM_STEPS = 6;

#include "act.glsl"
#include "norm.glsl"

layout(push_constant) uniform Push {
    Norm n;                 // of row 0
    Words limit;            // rows that there are, then how many are not of prompts: the first.
                            // Asked for bytes and halves, only these are bytes
    uint src_stride, added_stride, dst_stride;      // floats of a row
    uint act_stride;        // bytes of a row of halves
    uint prompts;           // only rows of prompts: those after the first limit.v[1]
};

Floats row_piece(uint row, Floats row0, uint stride)
{
    uint at = row * stride + gl_WorkGroupID.y * NORM_WIDTH;
    return Floats(uint64_t(row0) + 4 * uint64_t(at));
}

void norm_bytes(Norm mine, uint quad, vec4 x)
{
    act_store(mine.act, NORM_WIDTH, quad, x);
}

void main()
{
    uint row = gl_WorkGroupID.x + (prompts != 0 ? limit.v[1] : 0);
    if (row >= limit.v[0])
        return;
    Norm mine = n;
    mine.src = row_piece(row, n.src, src_stride);
    mine.added = row_piece(row, n.added, added_stride);
    mine.dst = row_piece(row, n.dst, dst_stride);
    if ((NORM_STEPS & NORM_BYTES) != 0)
        norm_as_halves = (NORM_STEPS & NORM_HALVES) != 0 && row >= limit.v[1];
    mine.act = n.act + row * uint64_t(norm_as_halves ? act_stride : act_row_bytes(NORM_WIDTH));
    norm_row(mine);
}
