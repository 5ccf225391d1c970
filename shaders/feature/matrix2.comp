#version 460
#extension GL_KHR_cooperative_matrix : require
#extension GL_NV_cooperative_matrix2 : require
#extension GL_KHR_memory_scope_semantics : require
#extension GL_EXT_shader_explicit_arithmetic_types_float16 : require
layout(local_size_x = 128) in;
layout(binding = 0) buffer B { float16_t a[]; };
void main()
{
    coopmat<float16_t, gl_ScopeWorkgroup, 64, 64, gl_MatrixUseA> m;
    tensorLayoutNV<2> l = createTensorLayoutNV(2);
    coopMatLoadTensorNV(m, a, 0, l);
    coopMatStoreTensorNV(m, a, 0, l);
}
