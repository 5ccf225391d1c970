// dst = a b on one cooperative matrix of a subgroup, halves with float32 sums: tests of the device
// layer. Run by one subgroup.
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_KHR_cooperative_matrix : require
#extension GL_KHR_memory_scope_semantics : require
#extension GL_EXT_shader_explicit_arithmetic_types_float16 : require
#include "common.glsl"

layout(local_size_x_id = 0) in;
layout(constant_id = 1) const uint M = 16;
layout(constant_id = 2) const uint N = 16;
layout(constant_id = 3) const uint K = 16;

layout(push_constant) uniform Push {
    Floats dst;             // (M, N)
    Halves a, b;            // (M, K), (K, N)
};

void main()
{
    coopmat<float16_t, gl_ScopeSubgroup, M, K, gl_MatrixUseA> x;
    coopmat<float16_t, gl_ScopeSubgroup, K, N, gl_MatrixUseB> y;
    coopmat<float, gl_ScopeSubgroup, M, N, gl_MatrixUseAccumulator> sum =
        coopmat<float, gl_ScopeSubgroup, M, N, gl_MatrixUseAccumulator>(0.0);
    coopMatLoad(x, a.v, 0, K, gl_CooperativeMatrixLayoutRowMajor);
    coopMatLoad(y, b.v, 0, N, gl_CooperativeMatrixLayoutRowMajor);
    sum = coopMatMulAdd(x, y, sum);
    coopMatStore(sum, dst.v, 0, N, gl_CooperativeMatrixLayoutRowMajor);
}
