// dst = RMSNorm(src) over pieces of a row, or dst += scale * that. LANES invocations share a piece:
// each sums its squares, the sums are added in a fixed order.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "step.glsl"

layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint THREADS = 128;
layout(constant_id = 1) const uint LANES = 128;     // a power of two

layout(push_constant) uniform Push {
    Floats src, dst;
    Floats weight;          // (piece)
    StepHead head;
    uint src_stride, dst_stride, piece, n_pieces;
    uint gathered;          // rows are output rows
    uint add;
    float eps, scale;
};

const uint FEW = LANES < 16 ? LANES : 16;

shared float part[THREADS];

// The sum over the lanes of a piece, for all of them. In two steps, so that few barriers do.
float piece_sum(float x)
{
    uint me = gl_LocalInvocationIndex, lane = me % LANES, first = me - lane;
    precise float sum = x;
    part[me] = sum;
    barrier();
    if (LANES > FEW) {
        if (lane < FEW)
            for (uint i = FEW; i < LANES; i += FEW)
                sum += part[me + i];
        barrier();
        if (lane < FEW)
            part[me] = sum;
        barrier();
    }
    sum = part[first];
    for (uint i = 1; i < FEW; i++)
        sum += part[first + i];
    return sum;
}

float inverse_root(float x)
{
    precise float r = inversesqrt(x);
    precise float e = fma(-x * r, r, 1.0);
    return fma(0.5 * r, e, r);
}

void main()
{
    uint row = gl_WorkGroupID.y, lane = gl_LocalInvocationIndex % LANES;
    if (row >= (gathered != 0 ? head.n_out : head.n_rows))
        return;
    uint index = gl_WorkGroupID.x * (THREADS / LANES) + gl_LocalInvocationIndex / LANES;
    uint end = index < n_pieces ? piece : 0;
    uint from = row * src_stride + index * piece, to = row * dst_stride + index * piece;
    precise float sum = 0.0;
    for (uint i = lane; i < end; i += LANES) {
        float x = src.v[from + i];
        sum = fma(x, x, sum);
    }
    float r = inverse_root(piece_sum(sum) / float(piece) + eps);
    for (uint i = lane; i < end; i += LANES) {
        precise float y = src.v[from + i] * r * weight.v[i];
        dst.v[to + i] = add != 0 ? fma(y, scale, dst.v[to + i]) : y * scale;
    }
}
