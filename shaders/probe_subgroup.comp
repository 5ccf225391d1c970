// Size, number and sum of ones of the subgroups of a workgroup, (4) words each: tests of the device
// layer see whether subgroups are as large and as full as the device was asked for.
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_KHR_shader_subgroup_arithmetic : require
#include "common.glsl"

layout(local_size_x_id = 0) in;

layout(push_constant) uniform Push { Words4 dst; };

void main()
{
    uint ones = subgroupAdd(1u);
    if (subgroupElect())
        dst.v[gl_SubgroupID] = uvec4(gl_SubgroupSize, gl_NumSubgroups, ones, gl_SubgroupID);
}
