// Products on cooperative matrices: inputs become halves (norm.comp); then rows of generated
// tokens, and rows that need logits, take matbatch.glsl, rows of prompts matmul.glsl.
//
// Floors. Few rows: the matrix's bytes over the bandwidth. Many: 2 * n_in * n_out operations a row
// over the rate of the matrix units; weights come from memory once for a tile of rows.
#include <errno.h>
#include <stdlib.h>
#include "base/base.h"
#include "engine/exec/vulkan/matmul.h"
#include "engine/exec/vulkan/weights.h"

#define TARGETS 3                       // of a dispatch of matbatch
#define ROW_ALIGN 64                    // elements that a row of halves is padded to
#define WORD_HALVES 8                   // of a 16-byte word
#define SPLITS 8                        // of matbatch.glsl

// How a kernel cuts its work. Whatever is chosen, an output's bits are the same.
struct batch_cut { uint32_t step_rows, row_parts, cols; };
struct tile_cut { uint32_t threads, bm, bn, bk, wm, wn; };

// For subgroups of 32 and matrices of 16 x 16 x 16, and for subgroups of 8 and 8 x 8 x 8. Ascending
// in the rows of the batch that they are for.
static const struct batch_cut wide_batch[] = { { 16, 1, 16 }, { 32, 1, 32 }, { 32, 2, 64 } };
static const struct batch_cut narrow_batch[] = { { 8, 1, 8 }, { 8, 2, 16 } };
static const struct tile_cut wide_tile[] = {
    { 128, 64, 32, 32, 32, 16 }, { 256, 128, 64, 32, 32, 32 }, { 256, 128, 128, 32, 64, 32 },
};
static const struct tile_cut narrow_tile[] = { { 32, 32, 16, 32, 16, 8 } };

#define CUTS_MAX 3

struct vk_matrix {
    const struct vk_kernel *batch[QUANT_COUNT][CUTS_MAX];
    const struct vk_kernel *logits[CUTS_MAX];           // with the soft cap
    const struct vk_kernel *tile[QUANT_COUNT][CUTS_MAX];
    const struct batch_cut *batch_cut;
    const struct tile_cut  *tile_cut;
    uint32_t      n_batch_cuts, n_tile_cuts, subgroup;
    struct vk_tile shape;
};

struct target { VkDeviceAddress w, dst, bias; uint32_t n_out, dst_stride; };

#define PUSH_ADD 0x80000000u

struct batch_push {                     // matbatch.glsl
    struct target   target[TARGETS];
    VkDeviceAddress act, limit;
    uint32_t n_in, row_bytes, act_words;
    float    scale;
};

struct tile_push {                      // matmul.glsl
    struct vk_part  w;
    VkDeviceAddress act, dst, bias, head;
    uint32_t n_out, act_words, dst_stride, out0;
    float    scale;
    uint32_t add;
};

static_assert(sizeof(struct batch_push) <= VK_PUSH_BYTES, "push constants");
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
    m->subgroup = info->subgroup;
    m->shape = *t;
    if (info->subgroup == 32 && t->m == 16 && t->n == 16 && t->k == 16) {
        m->batch_cut = wide_batch;
        m->n_batch_cuts = ARRAY_LEN(wide_batch);
        m->tile_cut = wide_tile;
        m->n_tile_cuts = ARRAY_LEN(wide_tile);
    } else if (info->subgroup == 8 && t->m == 8 && t->n == 8 && t->k == 8) {
        m->batch_cut = narrow_batch;
        m->n_batch_cuts = ARRAY_LEN(narrow_batch);
        m->tile_cut = narrow_tile;
        m->n_tile_cuts = ARRAY_LEN(narrow_tile);
    }
    return m->batch_cut != NULL;
}

static uint32_t float_bits(float x)
{
    union { float f; uint32_t u; } v = { x };
    return v.u;
}

static int make_batch(struct vk_program *g, enum quant_id q, float softcap,
                      const struct vk_kernel **ret, struct err *err)
{
    const struct vk_matrix *m = g->matrix;
    int r = 0;
    for (uint32_t i = 0; r == 0 && i < m->n_batch_cuts; i++) {
        const struct batch_cut *cut = &m->batch_cut[i];
        const uint32_t spec[] = {
            m->subgroup * SPLITS * cut->row_parts, m->subgroup, cut->step_rows, cut->row_parts,
            cut->cols, m->shape.m, m->shape.n, m->shape.k, 0, float_bits(softcap),
        };
        r = vk_kernel(g->vk, KERNEL_matbatch + q, spec, ARRAY_LEN(spec), &ret[i], err);
    }
    return r;
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

static int make_kernels(struct vk_program *g, const struct vk_op *o, struct err *err)
{
    struct vk_matrix *m = g->matrix;
    int r = 0;
    if (o->op->kind == OP_LOGITS)
        return make_batch(g, vk_mat_quant(o->mat[0]), o->op->logits.softcap, m->logits, err);
    for (unsigned k = 0; r == 0 && k < o->op->n_w; k++) {
        enum quant_id q = vk_mat_quant(o->mat[k]);
        if (m->batch[q][0])
            continue;
        r = make_batch(g, q, 0.0f, m->batch[q], err);
        if (r == 0)
            r = make_tiles(g, q, err);
    }
    return r;
}

static int init(struct vk_program *g, struct err *err)
{
    int r = 0;
    for (uint32_t i = 0; r == 0 && i < g->plan->n_ops; i++)
        if (vk_multiplies(g->op[i].op))
            r = make_kernels(g, &g->op[i], err);
    return r;
}

int vk_matrix_init(struct vk_program *g, struct err *err)
{
    if (g->exact || !vk_kernel_runs(g->vk, KERNEL_matbatch))
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

// Rows that an operation is for: at most `n`, and how many there are lies at `limit`.
struct row_limit { uint32_t n; VkDeviceAddress limit; };

// Targets of one format on their way into a dispatch.
struct gathering {
    struct vk_program *g;
    struct vk_cmd     *c;
    const struct vk_op *o;
    struct row_limit   rows;
    uint32_t           cut;
    enum quant_id      quant;
    struct batch_push  push;
    uint32_t           n;               // targets
    struct vk_use      use[1 + TARGETS];
};

static void flush(struct gathering *x)
{
    const struct vk_matrix *m = x->g->matrix;
    const struct batch_cut *cut = &m->batch_cut[x->cut];
    bool logits = x->o->op->kind == OP_LOGITS;
    struct vk_groups groups = { 0, DIV_UP(x->rows.n, cut->cols), 1 };
    if (x->n == 0)
        return;
    for (uint32_t i = 0; i < x->n; i++)
        groups.x += DIV_UP(x->push.target[i].n_out, cut->step_rows * cut->row_parts);
    for (uint32_t i = x->n; i < TARGETS; i++)
        x->push.target[i] = (struct target){0};
    vk_dispatch(x->c, logits ? m->logits[x->cut] : m->batch[x->quant][x->cut],
                logits ? "logits" : "matbatch", &x->push, sizeof(x->push), groups, x->use,
                1 + x->n);
    x->n = 0;
}

static void start(struct gathering *x, const struct vk_mat *mat)
{
    const struct op *op = x->o->op;
    bool logits = op->kind == OP_LOGITS;
    x->quant = vk_mat_quant(mat);
    x->push = (struct batch_push){
        .act = x->g->act[x->o->act].addr, .limit = x->rows.limit, .n_in = mat->n_in,
        .row_bytes = (uint32_t)mat->row_bytes,
        .act_words = act_words(mat->n_in) | (op->flags & OP_ADD ? PUSH_ADD : 0),
        .scale = logits ? op->logits.scale : op->flags & OP_ADD ? op->matmul.scale : 1.0f,
    };
    x->use[0] = vk_reads(&x->g->act[x->o->act]);
}

static void add_target(struct gathering *x, unsigned k, uint32_t part)
{
    struct vk_program *g = x->g;
    const struct vk_mat *mat = x->o->mat[k];
    bool logits = x->o->op->kind == OP_LOGITS;
    uint32_t slot = x->o->op->dst[k], out0 = part * mat->part_rows;
    const struct vk_mem *dst = logits ? &g->logits : &g->slot[slot], *bias = &x->o->vector[k];
    if (x->n == TARGETS || (x->n > 0 && x->quant != vk_mat_quant(mat)))
        flush(x);
    if (x->n == 0)
        start(x, mat);
    x->push.target[x->n] = (struct target){
        .w = mat->part[part].addr, .dst = dst->addr + out0 * sizeof(float),
        .bias = bias->addr ? bias->addr + out0 * sizeof(float) : 0,
        .n_out = vk_mat_part_rows(mat, part), .dst_stride = logits ? g->n_vocab : g->stride[slot],
    };
    x->use[++x->n] = vk_writes(dst);
}

static void record_batch(struct vk_program *g, struct vk_cmd *c, const struct vk_op *o,
                         struct row_limit rows)
{
    const struct vk_matrix *m = g->matrix;
    struct gathering x = { .g = g, .c = c, .o = o, .rows = rows };
    while (x.cut + 1 < m->n_batch_cuts && m->batch_cut[x.cut].cols < rows.n)
        x.cut++;
    for (unsigned k = 0; k < OP_W_MAX && o->mat[k]; k++)
        for (uint32_t part = 0; part < o->mat[k]->n_parts; part++)
            add_target(&x, k, part);
    flush(&x);
}

static void record_tiles(struct vk_program *g, struct vk_cmd *c, const struct vk_op *o, unsigned k,
                         uint32_t part, uint32_t n_rows)
{
    const struct vk_matrix *m = g->matrix;
    const struct vk_mat *mat = o->mat[k];
    uint32_t i = 0, slot = o->op->dst[k];
    while (i + 1 < m->n_tile_cuts && m->tile_cut[i].bn < n_rows)
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
    VkDeviceAddress head = g->step.head.addr;
    struct row_limit few = { s->n_decode, head + offsetof(struct step_head, n_decode) };
    if (o->gathered)
        few = (struct row_limit){ s->n_out, head + offsetof(struct step_head, n_out) };
    if (few.n)
        record_batch(g, c, o, few);
    for (unsigned k = 0; !o->gathered && s->n_prompt && k < OP_W_MAX && o->mat[k]; k++)
        for (uint32_t part = 0; part < o->mat[k]->n_parts; part++)
            record_tiles(g, c, o, k, part, s->n_prompt);
}
