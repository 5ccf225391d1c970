// dst = a b on matrices of a whole workgroup, loaded as tensors: tests of the device layer.
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_KHR_cooperative_matrix : require
#extension GL_NV_cooperative_matrix2 : require
#extension GL_KHR_memory_scope_semantics : require
#extension GL_EXT_shader_explicit_arithmetic_types_float16 : require
#include "common.glsl"

layout(local_size_x_id = 0) in;
layout(constant_id = 1) const uint M = 64;
layout(constant_id = 2) const uint N = 64;
layout(constant_id = 3) const uint K = 32;

layout(push_constant) uniform Push {
    Floats dst;             // (M, N)
    Halves a, b;            // (M, K), (K, N)
};

tensorLayoutNV<2> layout_of(uint rows, uint columns)
{
    tensorLayoutNV<2> l = createTensorLayoutNV(2);
    return setTensorLayoutDimensionNV(l, rows, columns);
}

void main()
{
    coopmat<float16_t, gl_ScopeWorkgroup, M, K, gl_MatrixUseA> x;
    coopmat<float16_t, gl_ScopeWorkgroup, K, N, gl_MatrixUseB> y;
    coopmat<float, gl_ScopeWorkgroup, M, N, gl_MatrixUseAccumulator> sum =
        coopmat<float, gl_ScopeWorkgroup, M, N, gl_MatrixUseAccumulator>(0.0);
    coopMatLoadTensorNV(x, a.v, 0, layout_of(M, K));
    coopMatLoadTensorNV(y, b.v, 0, layout_of(K, N));
    sum = coopMatMulAdd(x, y, sum);
    coopMatStoreTensorNV(sum, dst.v, 0, layout_of(M, N));
}
