// dst = the token's row of the embedding * scale. An invocation writes eight elements. A matrix of
// several parts takes a dispatch for each: every row of the batch finds its token in one of them.
#include "step.glsl"

layout(local_size_x_id = 0) in;

layout(push_constant) uniform Push {
    QuantPart w;
    Floats4 dst;
    StepRows step_row;
    StepHead head;
    uint token0, n_tokens;  // of the part
    uint dst_stride;        // vectors of four floats
    float scale;
};

void main()
{
    uint row = gl_WorkGroupID.y, chunk = gl_GlobalInvocationID.x;
    if (row >= head.n_rows || chunk * 8 >= w.n_in)
        return;
    uint token = uint(step_row.v[row].token) - token0;
    if (token >= n_tokens)
        return;
    vec4 lo, hi;
    quant_eight(w, token, chunk, lo, hi);
    dst.v[row * dst_stride + 2 * chunk] = lo * scale;
    dst.v[row * dst_stride + 2 * chunk + 1] = hi * scale;
}
