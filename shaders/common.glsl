// What every kernel shares: memory by address. A reference is 8 bytes in a push-constant block or
// in a buffer, and `ref.v[i]` its element i. Names say what one element is.
#extension GL_EXT_buffer_reference : require
#extension GL_EXT_buffer_reference2 : require
#extension GL_EXT_shader_explicit_arithmetic_types_int64 : require
#extension GL_EXT_shader_16bit_storage : require
#extension GL_EXT_scalar_block_layout : require

#define BUFFER(name, type, align) \
    layout(buffer_reference, std430, buffer_reference_align = align) buffer name { type v[]; }

BUFFER(Words, uint, 4);
BUFFER(Words2, uvec2, 8);
BUFFER(Words4, uvec4, 16);
BUFFER(Floats, float, 4);
BUFFER(Floats2, vec2, 8);
BUFFER(Floats4, vec4, 16);
BUFFER(Halves, float16_t, 2);
BUFFER(Addresses, uint64_t, 8);

// What other workgroups of the same dispatch write or read: see last.glsl.
BUFFER(SharedWords, coherent uint, 4);
BUFFER(SharedFloats, coherent float, 4);
BUFFER(SharedFloats2, coherent vec2, 8);
BUFFER(SharedFloats4, coherent vec4, 16);

const uint BLOCK_TOKENS = 64;           // KV_BLOCK_TOKENS
