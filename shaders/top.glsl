// What the kernels share that pick out of rows of logits what sampling needs: what is wanted, and
// the order of tokens. A row is cut into slices of one length, whatever the batch.
#extension GL_EXT_control_flow_attributes : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_arithmetic : require
#include "common.glsl"
#include "step.glsl"

layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint THREADS = 256;       // as many as a byte has values

// As engine/exec/vulkan/top.h and executor.h have them.
const uint SLICE = 4096, TOP_MAX = 256, SUM_TOKENS = 64;
const uint AT_ONCE = 8;                 // loads of an invocation under way

struct Want { uint n_top; float scale; uint lse; float draw; };
layout(buffer_reference, std430, buffer_reference_align = 16) readonly buffer Wants { Want v[]; };
BUFFER(Keys, uint64_t, 8);

const uint SUBGROUPS_MAX = 64;          // of a workgroup: they have 4 invocations or more

shared uint64_t group_best[SUBGROUPS_MAX];

uint me = gl_SubgroupID * gl_SubgroupSize + gl_SubgroupInvocationID;

// ---- keys -------------------------------------------------------------------------------------

// The better token has the greater key, and no two have the same: the upper half orders as logits
// do, with equal zeros and NaN before all, the lower one is ~token. None is 0.
uint64_t key_of(float logit, uint token)
{
    uint u = floatBitsToUint(logit);
    u = u == 0x80000000u ? 0 : u;
    uint order = (u & 0x80000000u) != 0 ? ~u : u | 0x80000000u;
    if ((u & 0x7fffffffu) > 0x7f800000u)
        order = 0xffffffffu;
    return uint64_t(order) << 32 | uint64_t(~token);
}

uint token_of(uint64_t key)
{
    return ~uint(key);
}

float logit_of(uint64_t key)
{
    uint order = uint(key >> 32);
    return uintBitsToFloat((order & 0x80000000u) != 0 ? order ^ 0x80000000u : ~order);
}

uint64_t better_of(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

// The best of what each invocation has.
uint64_t best_of_all(uint64_t key)
{
    uint high = uint(key >> 32), most = subgroupMax(high);
    uint low = subgroupMax(high == most ? uint(key) : 0);
    if (subgroupElect())
        group_best[gl_SubgroupID] = uint64_t(most) << 32 | uint64_t(low);
    barrier();
    uint64_t best = 0;
    for (uint i = 0; i < gl_NumSubgroups; i++)
        best = better_of(best, group_best[i]);
    return best;
}
