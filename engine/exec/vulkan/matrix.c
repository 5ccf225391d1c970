// Products of the rows of prompts on cooperative matrices: inputs become halves (norm.comp), then
// tiles of outputs and rows are multiplied (matmul.glsl).
//
// Floor: 2 * n_in * n_out operations a row over the rate of the matrix units; weights come from
// memory once for a tile of rows.
#include <errno.h>
#include <stdlib.h>
#include "base/base.h"
#include "engine/exec/vulkan/matmul.h"
#include "engine/exec/vulkan/weights.h"

#define ROW_ALIGN 64                    // elements that a row of halves is padded to
#define WORD_HALVES 8                   // of a 16-byte word

// How a kernel for up to `rows` rows cuts its work (matmul.glsl). Whatever is chosen, an output's
// bits are the same.
struct tile_cut { uint32_t rows, threads, bm, bn, bk, wm, wn; };

// For subgroups of 32 and matrices of 16 x 16 x 16, and for subgroups of 8 and 8 x 8 x 8. Ascending
// in the rows that they are for.
static const struct tile_cut wide_tile[] = {
    { 32, 128, 64, 32, 64, 32, 16 }, { 64, 256, 128, 64, 64, 32, 32 },
    { 1024, 256, 128, 128, 64, 64, 32 }, { UINT32_MAX, 128, 128, 128, 32, 64, 64 },
};
static const struct tile_cut narrow_tile[] = { { UINT32_MAX, 32, 32, 16, 32, 16, 8 } };

#define CUTS_MAX 4

struct vk_matrix {
    const struct vk_kernel *tile[QUANT_COUNT][CUTS_MAX];
    const struct tile_cut  *tile_cut;
    uint32_t n_tile_cuts;
    struct vk_tile shape;
};

struct tile_push {                      // matmul.glsl
    struct vk_part  w;
    VkDeviceAddress act, dst, bias, head;
    uint32_t n_out, act_words, dst_stride, out0;
    float    scale;
    uint32_t add;
};

static_assert(sizeof(struct tile_push) <= VK_PUSH_BYTES, "push constants");

// ---- kernels ----------------------------------------------------------------------------------

static uint32_t act_words(uint32_t n_in)
{
    return ALIGN_UP(n_in, (uint32_t)ROW_ALIGN) / WORD_HALVES;
}

// A row's halves, then 16 bytes with its scale.
uint32_t vk_matrix_act_bytes(uint32_t n_in)
{
    return (act_words(n_in) + 1) * 16;
}

static bool choose_cuts(struct vk_matrix *m, const struct vk_info *info)
{
    const struct vk_tile *t = &info->tile_f16;
    m->shape = *t;
    if (info->subgroup == 32 && t->m == 16 && t->n == 16 && t->k == 16) {
        m->tile_cut = wide_tile;
        m->n_tile_cuts = ARRAY_LEN(wide_tile);
    } else if (info->subgroup == 8 && t->m == 8 && t->n == 8 && t->k == 8) {
        m->tile_cut = narrow_tile;
        m->n_tile_cuts = ARRAY_LEN(narrow_tile);
    }
    return m->tile_cut != NULL;
}

static int make_tiles(struct vk_program *g, enum quant_id q, struct err *err)
{
    struct vk_matrix *m = g->matrix;
    int r = 0;
    for (uint32_t i = 0; r == 0 && i < m->n_tile_cuts; i++) {
        const struct tile_cut *cut = &m->tile_cut[i];
        const uint32_t spec[] = { cut->threads, cut->bm, cut->bn, cut->bk, cut->wm, cut->wn,
                                  m->shape.m, m->shape.n, m->shape.k };
        r = vk_kernel(g->vk, KERNEL_matmul + q, spec, ARRAY_LEN(spec), &m->tile[q][i], err);
    }
    return r;
}

static int init(struct vk_program *g, struct err *err)
{
    int r = 0;
    for (uint32_t i = 0; i < g->plan->n_ops; i++) {
        const struct vk_op *o = &g->op[i];
        for (unsigned k = 0; r == 0 && vk_matrix_takes(g, o) && k < o->op->n_w; k++)
            r = make_tiles(g, vk_mat_quant(o->mat[k]), err);
    }
    return r;
}

bool vk_matrix_takes(const struct vk_program *g, const struct vk_op *o)
{
    return g->matrix && o->op->kind == OP_MATMUL && !o->gathered;
}

int vk_matrix_init(struct vk_program *g, struct err *err)
{
    if (g->exact || !vk_kernel_runs(g->vk, KERNEL_matmul))
        return 0;
    struct vk_matrix *m = calloc(1, sizeof(*m));
    if (!m)
        return err_set(err, -ENOMEM, "no memory for a program");
    g->matrix = m;
    if (choose_cuts(m, vk_info(g->vk)))
        return init(g, err);
    vk_matrix_finish(g);                // matrices of a shape that no kernel here has
    return 0;
}

void vk_matrix_finish(struct vk_program *g)
{
    free(g->matrix);
    g->matrix = NULL;
}

// ---- recording --------------------------------------------------------------------------------

static void record_tiles(struct vk_program *g, struct vk_cmd *c, const struct vk_op *o, unsigned k,
                         uint32_t part, uint32_t n_rows)
{
    const struct vk_matrix *m = g->matrix;
    const struct vk_mat *mat = o->mat[k];
    uint32_t i = 0, slot = o->op->dst[k];
    while (i + 1 < m->n_tile_cuts && m->tile_cut[i].rows < n_rows)
        i++;
    const struct tile_push push = {
        .w = vk_mat_part(mat, part), .act = g->act[o->act].addr, .dst = g->slot[slot].addr,
        .bias = o->vector[k].addr, .head = g->step.head.addr,
        .n_out = vk_mat_part_rows(mat, part), .act_words = act_words(mat->n_in),
        .dst_stride = g->stride[slot], .out0 = part * mat->part_rows,
        .scale = o->op->flags & OP_ADD ? o->op->matmul.scale : 1.0f, .add = o->op->flags & OP_ADD,
    };
    const struct vk_use uses[] = { vk_reads(&g->act[o->act]), vk_writes(&g->slot[slot]) };
    const struct vk_groups n = {
        DIV_UP(push.n_out, m->tile_cut[i].bm), DIV_UP(n_rows, m->tile_cut[i].bn), 1,
    };
    vk_dispatch(c, m->tile[vk_mat_quant(mat)][i], "matmul", &push, sizeof(push), n, uses,
                ARRAY_LEN(uses));
}

void vk_matrix_record(struct vk_program *g, struct vk_cmd *c, const struct vk_op *o,
                      const struct shape *s)
{
    for (unsigned k = 0; s->n_prompt && k < OP_W_MAX && o->mat[k]; k++)
        for (uint32_t part = 0; part < o->mat[k]->n_parts; part++)
            record_tiles(g, c, o, k, part, s->n_prompt);
}
