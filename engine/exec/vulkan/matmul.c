// Products for few rows (matvec.glsl): rows of generated tokens and outputs, and on devices without
// matrices all rows. Integer formats take inputs of 8 bits (act.glsl), float formats and exact
// programs floats.
//
// Floor: the matrix's bytes over the bandwidth for up to about 8 rows, then the rate of integer dot
// products. Inputs cost 40 bytes a group and row from the first-level cache, so kernels for more
// rows have more outputs to a team.
#include <errno.h>
#include <stdlib.h>
#include "base/base.h"
#include "engine/exec/vulkan/matmul.h"
#include "engine/exec/vulkan/weights.h"

#define TARGETS 3                       // of a dispatch
#define NARROW_SUBGROUP 8
#define GROUPS_MAX 65535u               // workgroups in x that every device takes
#define GROUP_ELEMS 32

// Kernels for up to `rows` rows: outputs of a team, teams of a workgroup, groups asked for at once.
// Bits depend on the size of a team alone, which is the device's.
struct variant { uint32_t rows, outs, teams, depth; };
#define VARIANTS_MAX 5
struct team { uint32_t lanes, n_variants; struct variant variant[VARIANTS_MAX]; };

static const struct team wide = {
    32, 5, { { 1, 2, 4, 4 }, { 2, 2, 4, 4 }, { 4, 4, 4, 2 }, { 8, 4, 8, 1 }, { 16, 4, 8, 1 } },
};
// For subgroups of 8, which is software: an invocation an output, so that inputs are the same for a
// whole subgroup, and nothing large, which takes long to compile.
static const struct team narrow = {
    1, 3, { { 1, 2, 8, 1 }, { 4, 2, 8, 1 }, { 16, 2, 8, 1 } },
};

struct vk_matvec {
    const struct vk_kernel *kernel[QUANT_COUNT][VARIANTS_MAX];
    const struct vk_kernel *logits[VARIANTS_MAX];   // with the soft cap
    struct team team;
    bool int_dot;
};

struct target { VkDeviceAddress w, dst, bias; uint32_t n_out, dst_stride; };

#define PUSH_ADD 0x80000000u

struct matvec_push {                    // matvec.glsl
    struct target   target[TARGETS];
    VkDeviceAddress src, limit;
    uint32_t n_in, row_bytes;
    float    scale;
    uint32_t rows;
};
static_assert(sizeof(struct matvec_push) <= VK_PUSH_BYTES, "push constants");
static_assert(BATCH_ROWS_MAX < PUSH_ADD, "rows and a flag in one word");

// ---- kernels ----------------------------------------------------------------------------------

bool vk_multiplies(const struct op *op)
{
    return op->kind == OP_MATMUL || op->kind == OP_LOGITS;
}

static bool takes_floats(const struct vk_program *g, enum quant_id q)
{
    return g->exact || quants[q].ints->group == QUANT_GROUP_NONE;
}

static uint32_t float_bits(float x)
{
    union { float f; uint32_t u; } v = { x };
    return v.u;
}

static int make_variants(struct vk_program *g, enum quant_id q, float softcap,
                         const struct vk_kernel **ret, struct err *err)
{
    const struct vk_matvec *mv = g->matvec;
    bool floats = takes_floats(g, q);
    enum kernel_id id = (mv->int_dot && !floats ? KERNEL_matvec_dot : KERNEL_matvec) + q;
    int r = 0;
    for (unsigned i = 0; r == 0 && i < mv->team.n_variants; i++) {
        const struct variant *v = &mv->team.variant[i];
        const uint32_t lanes = mv->team.lanes, spec[] = {
            v->teams * lanes, lanes, v->outs, v->rows, v->depth, floats, float_bits(softcap) };
        r = vk_kernel(g->vk, id, spec, ARRAY_LEN(spec), &ret[i], err);
    }
    return r;
}

static int make_kernels(struct vk_program *g, const struct vk_op *o, struct err *err)
{
    struct vk_matvec *mv = g->matvec;
    if (o->op->kind == OP_LOGITS)
        return make_variants(g, vk_mat_quant(o->mat[0]), o->op->logits.softcap, mv->logits, err);
    int r = 0;
    for (unsigned k = 0; r == 0 && k < o->op->n_w; k++) {
        enum quant_id q = vk_mat_quant(o->mat[k]);
        if (!mv->kernel[q][0])
            r = make_variants(g, q, 0.0f, mv->kernel[q], err);
    }
    return r;
}

// As act_row_bytes of act.glsl.
static uint32_t act_row_bytes(uint32_t n_in)
{
    return ALIGN_UP(n_in / GROUP_ELEMS * 40, 16u);
}

uint32_t vk_matmul_forms(const struct vk_program *g, const struct vk_op *o)
{
    uint32_t forms = vk_matrix_takes(g, o) ? NORM_HALVES : 0;
    for (unsigned k = 0; k < OP_W_MAX && o->mat[k]; k++)
        forms |= takes_floats(g, vk_mat_quant(o->mat[k])) ? NORM_FLOATS : NORM_BYTES;
    return forms;
}

uint32_t vk_matmul_act_bytes(const struct vk_program *g, const struct vk_op *o)
{
    uint32_t n_in = o->mat[0]->n_in;
    return vk_matrix_takes(g, o) ? vk_matrix_act_bytes(n_in) : act_row_bytes(n_in);
}

int vk_matmul_take(struct vk_program *g, const struct vk_matmul_choice *choice, struct err *err)
{
    struct vk_matvec *mv = calloc(1, sizeof(*mv));
    if (!mv)
        return err_set(err, -ENOMEM, "no memory for a program");
    g->matvec = mv;
    mv->team = choice->wide ? wide : narrow;
    for (uint32_t i = 0; i < mv->team.n_variants; i++) {
        struct variant *v = &mv->team.variant[i];
        v->outs = choice->outs ? choice->outs : v->outs;
        v->teams = choice->teams ? choice->teams : v->teams;
        v->depth = choice->depth ? choice->depth : v->depth;
    }
    mv->int_dot = choice->int_dot;
    int r = vk_inputs_init(g, err);
    for (uint32_t i = 0; r == 0 && i < g->plan->n_ops; i++)
        if (vk_multiplies(g->op[i].op))
            r = make_kernels(g, &g->op[i], err);
    return r;
}

int vk_matmul_init(struct vk_program *g, struct err *err)
{
    int r = vk_matrix_init(g, err);
    if (r)
        return r;
    const struct vk_matmul_choice choice = {
        .int_dot = vk_kernel_runs(g->vk, KERNEL_matvec_dot + QUANT_q4_0),
        .wide = vk_info(g->vk)->subgroup > NARROW_SUBGROUP,
    };
    return vk_matmul_take(g, &choice, err);
}

void vk_matmul_finish(struct vk_program *g)
{
    vk_matrix_finish(g);
    vk_inputs_finish(g);
    free(g->matvec);
    g->matvec = NULL;
}

// ---- recording --------------------------------------------------------------------------------

// Rows of the step that a product is for: at most `n`, and how many there are lies at `limit`.
struct few_rows { uint32_t n; VkDeviceAddress limit; };

static struct few_rows rows_of(const struct vk_program *g, const struct vk_op *o,
                               const struct shape *s)
{
    VkDeviceAddress head = g->step.head.addr;
    if (o->gathered)
        return (struct few_rows){ s->n_out, head + offsetof(struct step_head, n_out) };
    if (vk_matrix_takes(g, o))
        return (struct few_rows){ s->n_decode, head + offsetof(struct step_head, n_decode) };
    uint32_t n = MIN(s->n_decode + s->n_prompt, g->params.rows_max);
    return (struct few_rows){ n, head + offsetof(struct step_head, n_rows) };
}

// Targets of one format on their way into a dispatch.
struct gathering {
    struct vk_program *g;
    struct vk_cmd     *c;
    const struct vk_op *o;
    struct few_rows    rows;
    enum quant_id      quant;
    struct matvec_push push;
    uint32_t           n;               // targets
    struct vk_use      use[2 + TARGETS];
};

static uint32_t variant_for(const struct vk_program *g, uint32_t rows)
{
    const struct team *t = &g->matvec->team;
    uint32_t v = 0;
    while (v + 1 < t->n_variants && t->variant[v].rows < rows)
        v++;
    return v;
}

static void flush(struct gathering *x)
{
    const struct vk_matvec *mv = x->g->matvec;
    uint32_t v = variant_for(x->g, x->rows.n);
    const struct variant *variant = &mv->team.variant[v];
    uint32_t per_group = variant->outs * variant->teams;
    bool logits = x->o->op->kind == OP_LOGITS;
    struct vk_groups groups = { 0, DIV_UP(x->rows.n, variant->rows), 1 };
    if (x->n == 0)
        return;
    for (uint32_t i = 0; i < x->n; i++)
        groups.x += DIV_UP(x->push.target[i].n_out, per_group);
    for (uint32_t i = x->n; i < TARGETS; i++)
        x->push.target[i] = (struct target){0};
    vk_dispatch(x->c, logits ? mv->logits[v] : mv->kernel[x->quant][v],
                logits ? "logits" : "matvec", &x->push, sizeof(x->push), groups, x->use, 1 + x->n);
    x->n = 0;
}

static void start(struct gathering *x, const struct vk_mat *m)
{
    const struct vk_program *g = x->g;
    const struct op *op = x->o->op;
    bool floats = takes_floats(g, vk_mat_quant(m)), logits = op->kind == OP_LOGITS;
    const struct vk_mem *src = floats ? &g->slot[vk_input_slot(op)] : &g->act[x->o->act];
    x->quant = vk_mat_quant(m);
    x->push.src = src->addr;
    x->push.limit = x->rows.limit;
    x->push.n_in = m->n_in;
    x->push.row_bytes = (uint32_t)m->row_bytes;
    x->push.scale = logits ? op->logits.scale : op->flags & OP_ADD ? op->matmul.scale : 1.0f;
    x->push.rows = x->rows.n | (op->flags & OP_ADD ? PUSH_ADD : 0);
    x->use[0] = vk_reads(src);
}

// Outputs [out0, out0 + n_out) of matrix k, which lie in one part.
static void add_target(struct gathering *x, unsigned k, uint32_t out0, uint32_t n_out)
{
    const struct vk_program *g = x->g;
    const struct vk_mat *m = x->o->mat[k];
    bool logits = x->o->op->kind == OP_LOGITS;
    uint32_t slot = x->o->op->dst[k], part = out0 / m->part_rows;
    const struct vk_mem *dst = logits ? &g->logits : &g->slot[slot];
    if (x->n == TARGETS || (x->n > 0 && x->quant != vk_mat_quant(m)))
        flush(x);
    if (x->n == 0)
        start(x, m);
    x->push.target[x->n] = (struct target){
        .w = m->part[part].addr + (out0 - part * m->part_rows) * m->row_bytes,
        .dst = dst->addr + out0 * sizeof(float),
        .bias = x->o->vector[k].addr ? x->o->vector[k].addr + out0 * sizeof(float) : 0,
        .n_out = n_out, .dst_stride = logits ? g->n_vocab : g->stride[slot],
    };
    x->use[++x->n] = vk_writes(dst);
}

// Not more outputs at once than there may be workgroups.
static uint32_t outputs_max(const struct vk_program *g, const struct few_rows *rows)
{
    const struct variant *v = &g->matvec->team.variant[variant_for(g, rows->n)];
    return GROUPS_MAX / TARGETS * v->outs * v->teams;
}

static void record_few(struct vk_program *g, struct vk_cmd *c, const struct vk_op *o,
                       const struct few_rows *rows)
{
    struct gathering x = { .g = g, .c = c, .o = o, .rows = *rows };
    uint32_t most = outputs_max(g, rows);
    for (unsigned k = 0; k < OP_W_MAX && o->mat[k]; k++) {
        const struct vk_mat *m = o->mat[k];
        for (uint32_t out = 0, n; out < m->n_out; out += n) {
            n = MIN(m->part_rows - out % m->part_rows, m->n_out - out);
            n = MIN(n, most);
            add_target(&x, k, out, n);
        }
    }
    flush(&x);
}

void vk_matmul_record(struct vk_program *g, struct vk_cmd *c, const struct vk_op *o,
                      const struct shape *s)
{
    struct few_rows rows = rows_of(g, o, s);
    vk_input_record(g, c, o, s);
    if (rows.n)
        record_few(g, c, o, &rows);
    if (vk_matrix_takes(g, o))
        vk_matrix_record(g, c, o, s);
}
