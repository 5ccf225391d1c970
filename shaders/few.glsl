// What products for few rows share (matvec.glsl, matdot.glsl): what they multiply, and what becomes
// of their sums.
//
// A workgroup is TEAMS teams; a team makes OUTS sums for each of ROWS rows of the batch. With GLU,
// targets 0 and 1 are gate and up, of the same outputs, and half of the sums are of each: dst[0] =
// act(gate) * up.
//
// Needs quant.glsl and as constants THREADS, TEAMS, OUTS, ROWS and
//     SOFTCAP     0: none
//     GLU         0: none; else enum act_kind + 1
//     NORM_STEPS
#include "math.glsl"
#include "glu.glsl"
#include "last.glsl"
#include "act.glsl"

struct Target {                         // a matrix, or a part of one
    uint64_t w;
    Floats dst, bias;                   // of its first output; bias 0: none
    uint n_out, dst_stride;
};

layout(push_constant) uniform Push {
    // n_out 0: none. With NORM_STEPS the last two are no targets but what next_norm() (matvec.glsl)
    // says.
    Target target[3];
    uint64_t src;                       // floats (rows, n_in rounded up to 32), or act.glsl's
    Words limit;                        // rows that there are
    uint n_in, row_bytes;
    float scale;
    uint rows;                          // that src has; ADD: dst += instead of =
};

const uint ADD = 0x80000000u;
const uint RESULTS = GLU > 0 ? OUTS / 2 : OUTS;     // of a team and a row
const bool ONE_TARGET = GLU > 0 || NORM_STEPS > 0;

// What this team works on: outputs from `out0` on, and rows of the batch from `row0` on.
struct Work { uint target, out0, row0; };

// Workgroups side by side take the same outputs for other rows, so that a matrix comes from memory
// once.
Work find_work()
{
    uint n = gl_NumWorkGroups.y, linear = gl_WorkGroupID.y * gl_NumWorkGroups.x + gl_WorkGroupID.x;
    uint group = linear / n, t = 0;
    for (; !ONE_TARGET && t < 2; t++) {
        uint groups = (target[t].n_out + TEAMS * OUTS - 1) / (TEAMS * OUTS);
        if (group < groups)
            break;
        group -= groups;
    }
    uint team = group * TEAMS + gl_LocalInvocationIndex / (THREADS / TEAMS);
    return Work(t, team * RESULTS, linear % n * ROWS);
}

// Rows and outputs past the end are worked on as if they were the last one, and not written.
uint input_row(Work k, uint c)
{
    return min(k.row0 + c, (rows & ~ADD) - 1);
}

uint matrix_row(Work k, uint o)
{
    return min(k.out0 + o % RESULTS, target[k.target].n_out - 1);
}

// The matrix of sum o.
QuantPart matrix(Work k, uint o)
{
    return QuantPart(target[k.target + o / RESULTS].w, row_bytes, n_in);
}

// ---- results ----------------------------------------------------------------------------------

void write_result(Work k, uint i, float v)
{
    uint o = k.out0 + i % OUTS, row = k.row0 + i / OUTS;
    if (o >= target[k.target].n_out || row >= limit.v[0])
        return;
    Floats dst = target[k.target].dst, bias = target[k.target].bias;
    uint at = row * target[k.target].dst_stride + o;
    precise float y = v;
    if (uint64_t(bias) != 0)
        y += bias.v[o];
    y = (rows & ADD) != 0 ? fma(y, scale, dst.v[at]) : y * scale;
    y = SOFTCAP > 0.0 ? SOFTCAP * tanh_of(y / SOFTCAP) : y;
    if (NORM_STEPS > 0)
        SharedFloats(uint64_t(dst)).v[at] = y;
    else
        dst.v[at] = y;
}

void write_glu(Work k, uint i, float gate, float up)
{
    uint o = k.out0 + i % RESULTS, row = k.row0 + i / RESULTS;
    if (o >= target[0].n_out || row >= limit.v[0])
        return;
    precise float g = gate, u = up;
    if (uint64_t(target[0].bias) != 0)
        g += target[0].bias.v[o];
    if (uint64_t(target[1].bias) != 0)
        u += target[1].bias.v[o];
    Floats dst = target[0].dst;
    dst.v[row * target[0].dst_stride + o] = glu_act(GLU - 1, g) * u;
}
