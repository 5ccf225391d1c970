// What the files of one instruction set provide to its table (see vec.h for what each does).
#pragma once
#include "engine/exec/cpu/vec.h"
#include "engine/exec/cpu/vec/simd.h"

void VEC(norm)(float *dst, const float *x, const float *w, uint32_t n, float eps, float scale,
               bool add);
void VEC(glu_silu)(float *dst, const float *gate, const float *up, uint32_t n);
void VEC(glu_gelu_tanh)(float *dst, const float *gate, const float *up, uint32_t n);
void VEC(softcap)(float *x, size_t n, float cap);
void VEC(scale)(float *dst, const float *x, size_t n, float scale);
void VEC(rope_adjacent)(float *x, const float *cos, const float *sin, uint32_t n_rot);
void VEC(rope_halves)(float *x, const float *cos, const float *sin, uint32_t n_rot);
void VEC(to_f16)(uint16_t *dst, const float *x, uint32_t n);
void VEC(from_f16)(float *dst, const uint16_t *x, uint32_t n);
uint16_t VEC(to_q8)(int8_t *dst, const float *x);
void VEC(mul_f32)(const struct vec_mul *p);
void VEC(mul_f16)(const struct vec_mul *p);
void VEC(mul_q8_k)(const struct vec_mul *p);
void VEC(mul_q8_v)(const struct vec_mul *p);
float VEC(softmax_block)(float *s, uint64_t visible, float softcap, float *m, float *l);
void VEC(merge)(float *m, float *l, float *o, float split_m, float split_l, const float *split_o,
                uint32_t n);
void VEC(score)(float *s, size_t s_stride, const float *q, uint32_t n_q, const uint16_t *x,
                uint32_t n);
void VEC(softmax_add)(float *sum, float *s, uint32_t n);
