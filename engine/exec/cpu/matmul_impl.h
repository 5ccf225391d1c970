// What the files of the matrix kernels share: the layouts of panels and activations, and the table
// of functions that one instruction set provides.
//
// A panel is blocks of consecutive inputs, each a header (scales) and then its groups of 32 inputs:
//
//     layout    groups  header, PR = panel_rows values each                          bits/weight
//     4         1       f16 scale                                                    4.5
//     4_min     1       f16 scale, f16 min                                           5
//     4_super   8       f16 d, f16 dmin, then by group: u8 scale, u8 min             4.625
//     5 ..      the same with 5 bits
//     6_super   8       f32 d, then by group: i8 scale of inputs 0..15, of 16..31    6.625
//     8         1       f16 scale                                                    8.5
//     f16 bf16 f32   1  none
//
// Integers of a group are eight vectors v[j] of PR * 4 bytes, v[j][4r + i] = q[row r][4j + i], so
// that four activations, broadcast, meet four weights of every row in one multiply-add. Stored:
//
//     nibbles (4, PR * 4)   byte b of vector j = v[j][b] & 15 | (v[j + 4][b] & 15) << 4
//     5 bits: (1, PR * 4)   bit j of byte b    = v[j][b] >> 4
//     6 bits: (2, PR * 4)   bits 2i, 2i + 1 of byte b of vector h = v[4h + i][b] >> 4
//     8 bits: (8, PR * 4)   v[j][b] + 128, unsigned
//
// A float group is (32, PR) values. Inputs and rows past the matrix are zero.
#pragma once
#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "engine/exec/cpu/matmul.h"

enum { GROUP = 32, TILE_ROWS = 4, TILE_PANELS = 2, PANEL_ROWS_MAX = 16 };

enum cpu_layout {
    LAYOUT_4, LAYOUT_4_MIN, LAYOUT_4_SUPER, LAYOUT_5, LAYOUT_5_MIN, LAYOUT_5_SUPER, LAYOUT_6_SUPER,
    LAYOUT_8, LAYOUT_F16, LAYOUT_BF16, LAYOUT_F32, LAYOUT_COUNT,
};

struct cpu_shape {
    uint8_t bits;               // of a weight
    uint8_t groups;             // of a block
    uint8_t header;             // bytes of a block per panel row
};

static const struct cpu_shape cpu_shapes[LAYOUT_COUNT] = {
    [LAYOUT_4]       = {  4, 1,  2 },
    [LAYOUT_4_MIN]   = {  4, 1,  4 },
    [LAYOUT_4_SUPER] = {  4, 8, 20 },
    [LAYOUT_5]       = {  5, 1,  2 },
    [LAYOUT_5_MIN]   = {  5, 1,  4 },
    [LAYOUT_5_SUPER] = {  5, 8, 20 },
    [LAYOUT_6_SUPER] = {  6, 8, 20 },
    [LAYOUT_8]       = {  8, 1,  2 },
    [LAYOUT_F16]     = { 16, 1,  0 },
    [LAYOUT_BF16]    = { 16, 1,  0 },
    [LAYOUT_F32]     = { 32, 1,  0 },
};

#define cpu_is_float(l) ((l) >= LAYOUT_F16)

static inline bool cpu_has_min(enum cpu_layout l)
{
    return l == LAYOUT_4_MIN || l == LAYOUT_4_SUPER || l == LAYOUT_5_MIN || l == LAYOUT_5_SUPER;
}

// Bytes of a group's weights, without its header.
static inline size_t cpu_group_bytes(enum cpu_layout l, uint32_t panel_rows)
{
    return (size_t)panel_rows * cpu_shapes[l].bits * 4;
}

static inline size_t cpu_block_bytes(enum cpu_layout l, uint32_t panel_rows)
{
    return (size_t)panel_rows * cpu_shapes[l].header +
           cpu_shapes[l].groups * cpu_group_bytes(l, panel_rows);
}

// One group of an integer activation row, x = scale * q: one cache line with all that any kernel
// needs, so that a row is one stream.
struct act_group {
    int8_t  q[GROUP];           // -127..127
    float   scale;
    float   sum;                // scale * sum of q
    // Negated sums of q, from which sums of products start to subtract a format's offset: over
    // [0], [1] the halves of the group, [2] all of it. neg16: of inputs 0, 1 and of 2, 3 modulo 4,
    // which are the two 16-bit lanes of an output.
    int16_t neg16[3][2];
    int32_t neg[3];
};
static_assert(sizeof(struct act_group) == 64, "a cache line");

// Scale of a group whose largest magnitude has these bits, and the factor that makes it 127: 0 for
// (nearly) zero groups and for infinities and NaN, which survive in the scale.
static inline float act_scale(int32_t max_bits, float *scale)
{
    float max;
    __builtin_memcpy(&max, &max_bits, sizeof(max));
    *scale = max / 127.0f;
    return max > 1e-30f ? 127.0f / max : 0;
}

// The scale that brings q nearest to x, given the sums of x * q and of q * q; max / 127 is right
// for the largest alone. Zero groups, infinities and NaN keep what act_scale gave.
static inline float act_best_scale(float scale, float inverse, float xq, int32_t qq)
{
    return inverse > 0 ? xq / (float)qq : scale;
}

// Bytes of a group of an activation row.
static inline size_t cpu_act_group_bytes(bool exact)
{
    return exact ? GROUP * sizeof(float) : sizeof(struct act_group);
}

// Floats of a group of an activation row; x is room for them.
static inline const float *act_floats(const uint8_t *group, bool exact, float x[GROUP])
{
    if (exact)
        return (const float *)(const void *)group;
    const struct act_group *a = (const void *)group;
    for (uint32_t k = 0; k < GROUP; k++)
        x[k] = a->q[k] * a->scale;
    return x;
}

// Rows of activations from a certain group on. Integer weights never meet exact ones.
struct act_rows {
    const uint8_t *p;
    size_t         stride;      // bytes from row to row
    bool           exact;       // float32, else struct act_group
};

// What one instruction set does for one layout. acc is (n_rows, n_panels * panel_rows); every
// function adds to it, group by group, with the same sequence of float operations per element.
struct cpu_mat_kernel {
    // One packed panel, 1 <= n_rows <= TILE_ROWS.
    void (*direct)(const void *panel, uint32_t n_groups, struct act_rows a, uint32_t n_rows,
                   float *acc);
    // Groups [g0, g0 + n) of a panel -> dst, dst + stride, ... in the form that tile() wants.
    // NULL: `direct` serves any number of rows.
    void (*expand)(const void *panel, uint32_t g0, uint32_t n, void *dst, size_t stride);
    // src: (n_groups, n_panels, expanded_bytes); 1 <= n_rows <= TILE_ROWS, n_panels <= TILE_PANELS.
    void (*tile)(const void *src, uint32_t n_groups, uint32_t n_panels, struct act_rows a,
                 uint32_t n_rows, float *acc);
    uint32_t expanded_bytes;    // of a group of one panel
};

struct cpu_kernels {
    const char *name;
    uint32_t    panel_rows;
    bool      (*supported)(void);
    void      (*act_prepare)(const float *src, uint32_t n_groups, struct act_group *dst);
    struct cpu_mat_kernel mat[LAYOUT_COUNT];
};

// The same values from both.
void cpu_act_prepare_portable(const float *src, uint32_t n_groups, struct act_group *dst);
void cpu_act_prepare_avx2(const float *src, uint32_t n_groups, struct act_group *dst);

extern const struct cpu_kernels cpu_kernels_portable;
#ifdef __x86_64__
extern const struct cpu_kernels cpu_kernels_avx2, cpu_kernels_avx512;
#endif

// The layout that holds a format, exactly.
enum cpu_layout cpu_layout_of(const struct quant *q, bool exact);

// matmul_pack.c: fills panel `panel` of m, whose layout is l.
void cpu_pack_panel(const struct cpu_mat *m, enum cpu_layout l, uint32_t panel);
