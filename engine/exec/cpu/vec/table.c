// The table of one instruction set.
#include "engine/exec/cpu/vec/kernels.h"

const struct vec VEC(vec) = {
    .name = VEC_NAME,
    .norm = VEC(norm),
    .glu_silu = VEC(glu_silu),
    .glu_gelu_tanh = VEC(glu_gelu_tanh),
    .softcap = VEC(softcap),
    .scale = VEC(scale),
    .rope_adjacent = VEC(rope_adjacent),
    .rope_halves = VEC(rope_halves),
    .to_f16 = VEC(to_f16),
    .from_f16 = VEC(from_f16),
    .to_q8 = VEC(to_q8),
    .mul = {
        [VEC_F32] = VEC(mul_f32), [VEC_F16] = VEC(mul_f16),
        [VEC_Q8_K] = VEC(mul_q8_k), [VEC_Q8_V] = VEC(mul_q8_v),
    },
    .softmax_block = VEC(softmax_block),
    .merge = VEC(merge),
    .score = VEC(score),
    .softmax_add = VEC(softmax_add),
};
