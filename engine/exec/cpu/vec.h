// The vector kernels of everything that is not a weight matrix: norms, activations, RoPE, and
// attention. One program (vec/*.c), compiled once per instruction set and chosen at start.
//
// Attention is two products with a common form, rows of floats times a block of K or V:
//   scores = q (n, head_dim) * K (head_dim, 64 tokens)      lanes are tokens
//   output = p (n, 64 tokens) * V (64 tokens, head_dim)     lanes are dimensions
// Both are B (n_k, n_n) with n_n along the lanes, stored in panels: columns [0, 32) of every row,
// then the next 32, and so on; the last panel holds what is left. Every element of a product is
// summed in ascending k in the same way, whatever the tile or the number of rows.
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum vec_form {         // of B
    VEC_F32,
    VEC_F16,
    VEC_Q8_K,           // per 32 rows of a panel: 32 half scales (one a column), int8 (32, 32)
    VEC_Q8_V,           // a panel: n_k half scales (one a row), int8 (n_k, 32)
    VEC_FORM_COUNT
};

#define VEC_PANEL 32    // columns of a panel

struct vec_mul {                        // c = c * keep + a * b
    const float *const *a;              // (n_rows) pointers to n_k floats
    float       *const *c;              // (n_rows) pointers to n_n floats
    const float        *keep;           // (n_rows); NULL: c is only written
    const void         *b;              // (n_k, n_n) in the form of the function
    uint32_t            n_rows, n_k, n_n;
    ptrdiff_t           ahead;          // from b to what is read next, to be fetched; 0: nothing
};

struct vec {
    const char *name;
    // dst = x / sqrt(mean(x^2) + eps) * w * scale, or dst += that. dst may be x.
    void (*norm)(float *dst, const float *x, const float *w, uint32_t n, float eps, float scale,
                 bool add);
    void (*glu_silu)(float *dst, const float *gate, const float *up, uint32_t n);
    void (*glu_gelu_tanh)(float *dst, const float *gate, const float *up, uint32_t n);
    void (*softcap)(float *x, size_t n, float cap);         // cap * tanh(x / cap)
    void (*scale)(float *dst, const float *x, size_t n, float scale);
    // cos and sin hold n_rot / 2 values.
    void (*rope_adjacent)(float *x, const float *cos, const float *sin, uint32_t n_rot);
    void (*rope_halves)(float *x, const float *cos, const float *sin, uint32_t n_rot);
    void (*to_f16)(uint16_t *dst, const float *x, uint32_t n);
    void (*from_f16)(float *dst, const uint16_t *x, uint32_t n);
    // One group of KV_Q8_GROUP elements; returns its half scale.
    uint16_t (*to_q8)(int8_t *dst, const float *x);

    void (*mul[VEC_FORM_COUNT])(const struct vec_mul *p);
    // One block of the online softmax: s (64) scores become weights relative to the new running
    // maximum *m, their sum goes into *l. Returns the factor for what was summed before. `visible`:
    // bit j is token j; at least one is set.
    float (*softmax_block)(float *s, uint64_t visible, float softcap, float *m, float *l);
    // (m, l, o) += a split's, by log-sum-exp.
    void (*merge)(float *m, float *l, float *o, float split_m, float split_l, const float *split_o,
                  uint32_t n);
    // s[h * s_stride] = q[h] . x, for the n_q rows of q (n_q, n) and x (n) in half precision.
    void (*score)(float *s, size_t s_stride, const float *q, uint32_t n_q, const uint16_t *x,
                  uint32_t n);
    // sum += softmax(s); s is overwritten.
    void (*softmax_add)(float *sum, float *s, uint32_t n);
};

extern const struct vec vec_portable, vec_avx2;

// The best that this processor and build have, or what was forced.
const struct vec *vec_best(void);
// For tests: executors opened from now on take the kernels of that name ("portable", "AVX2"; NULL:
// the best again). -ENOTSUP: unknown, or this processor or build lacks them.
int vec_force(const char *name);
