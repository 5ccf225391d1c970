// Products for few rows (matvec.glsl): rows of generated tokens and outputs, and on devices without
// matrices all rows. Integer formats take inputs of 8 bits (act.glsl), float formats and exact
// programs floats.
//
// Floor: the matrix's bytes over the bandwidth for up to about 8 rows, then the rate of integer dot
// products. Inputs cost 40 bytes a group and row from the first-level cache, so kernels for more
// rows have more outputs to a team. Where the device multiplies matrices of bytes, these take such
// rows (matdot.glsl): about 50 instructions for 16 outputs, 16 rows and a group.
//
// A dispatch after another costs microseconds, so a product of few rows also makes the next one's
// input, if that is all that is missing.
#include <errno.h>
#include <stdlib.h>
#include "base/base.h"
#include "engine/exec/vulkan/matmul.h"
#include "engine/exec/vulkan/weights.h"

#define TARGETS 3                       // of a dispatch
#define NARROW_SUBGROUP 8
#define GROUPS_MAX 65535u               // workgroups in x that every device takes
#define GROUP_ELEMS 32
#define BYTES_CLASSES 8                 // CLASSES of matdot.glsl
#define NEXT_ROWS_MAX 4                 // up to which a workgroup makes the next input

// Kernels for up to `rows` rows: outputs of a team, teams of a workgroup, groups asked for at once.
// Bits depend on the size of a team alone, which is the device's. With `split`, they are those of
// matdot.glsl (struct vk_bytes_cut), whose workgroup is one team.
struct variant { uint32_t rows, outs, teams, depth, split; };
#define VARIANTS_MAX 6
// The first n_vectors of these are of matvec.glsl.
struct team { uint32_t lanes, n_vectors, n_variants; struct variant variant[VARIANTS_MAX]; };

static const struct team wide = {
    32, 5, 5, { { 1, 2, 8, 1, 0 }, { 2, 2, 8, 1, 0 }, { 4, 4, 8, 1, 0 }, { 8, 4, 8, 1, 0 },
                { 16, 4, 8, 1, 0 } },
};
// For subgroups of 8, which is software: an invocation an output, so that inputs are the same for a
// whole subgroup, and nothing large, which takes long to compile.
static const struct team narrow = {
    1, 3, 3, { { 1, 2, 8, 1, 0 }, { 4, 2, 8, 1, 0 }, { 16, 2, 8, 1, 0 } },
};

// On matrices of bytes, for subgroups of 32 and of 8.
static const struct vk_bytes_cut wide_cut = { 32, 32, 1, 1 }, narrow_cut = { 16, 16, 1, 1 };

// Kernels of an operation alone.
struct own_kernels {
    const struct vk_kernel *glu[VARIANTS_MAX];      // OP_GLU_OUT
    const struct vk_kernel *next[VARIANTS_MAX];     // making the next input too; NULL: cannot
};

struct vk_matvec {
    const struct vk_kernel *kernel[QUANT_COUNT][VARIANTS_MAX];
    const struct vk_kernel *logits[VARIANTS_MAX];   // with the soft cap
    struct own_kernels *own;            // (n_ops), owned
    struct team team;
    bool int_dot;
    uint32_t bytes_from;                // rows; 0: never
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

// What a kernel does besides multiplying, as matvec.glsl has it.
struct extras { float softcap; uint32_t glu, norm_steps, norm_width; };

static int make_bytes(struct vk_program *g, enum quant_id q, const struct variant *v,
                      const struct extras *x, const struct vk_kernel **ret, struct err *err)
{
    const struct vk_info *info = vk_info(g->vk);
    const uint32_t spec[] = {
        BYTES_CLASSES * v->split * info->subgroup, v->outs, v->rows, v->depth, v->split,
        float_bits(x->softcap), x->glu, info->tile_s8.m, info->tile_s8.n, info->tile_s8.k,
    };
    return vk_kernel(g->vk, KERNEL_matdot + q, spec, ARRAY_LEN(spec), ret, err);
}

static int make_variant(struct vk_program *g, enum quant_id q, const struct variant *v,
                        const struct extras *x, const struct vk_kernel **ret, struct err *err)
{
    const struct vk_matvec *mv = g->matvec;
    bool floats = takes_floats(g, q);
    if (v->split)
        return floats ? 0 : make_bytes(g, q, v, x, ret, err);
    enum kernel_id id = (mv->int_dot && !floats ? KERNEL_matvec_dot : KERNEL_matvec) + q;
    const uint32_t lanes = mv->team.lanes, spec[] = {
        v->teams * lanes, lanes, v->outs, v->rows, v->depth, floats, float_bits(x->softcap),
        x->glu, x->norm_steps, MAX(x->norm_width, 1u),
    };
    return vk_kernel(g->vk, id, spec, ARRAY_LEN(spec), ret, err);
}

static int make_variants(struct vk_program *g, enum quant_id q, float softcap,
                         const struct vk_kernel **ret, struct err *err)
{
    const struct team *t = &g->matvec->team;
    const struct extras x = { .softcap = softcap };
    int r = 0;
    for (unsigned i = 0; r == 0 && i < t->n_variants; i++)
        r = make_variant(g, q, &t->variant[i], &x, &ret[i], err);
    return r;
}

// Sums of a workgroup for one row.
static uint32_t group_outs(const struct variant *v)
{
    return v->outs * v->teams;
}

// Half of a team's sums are of the gate, and none is cut off by a round of matvec.glsl.
static struct variant glu_variant(struct variant v)
{
    uint32_t outs = 2;
    while (outs * 2 <= v.outs)
        outs *= 2;
    v.outs = outs;
    return v;
}

static int make_glu(struct vk_program *g, const struct vk_op *o, struct err *err)
{
    const struct team *t = &g->matvec->team;
    struct own_kernels *own = &g->matvec->own[o - g->op];
    const struct extras x = { .glu = 1 + o->op->matmul.act };
    int r = 0;
    for (unsigned i = 0; r == 0 && i < t->n_variants; i++) {
        const struct variant v = glu_variant(t->variant[i]);
        r = make_variant(g, vk_mat_quant(o->mat[0]), &v, &x, &own->glu[i], err);
    }
    return r;
}

// For few rows, since one workgroup does it alone. Not in software, where a dispatch costs nothing.
static int make_next(struct vk_program *g, const struct vk_op *o, struct err *err)
{
    const struct team *t = &g->matvec->team;
    struct own_kernels *own = &g->matvec->own[o - g->op];
    int r = 0;
    for (unsigned i = 0; r == 0 && i < t->n_variants; i++) {
        uint32_t threads = t->variant[i].teams * t->lanes;
        const struct extras x = {
            .norm_steps = o->next->norm_steps & ~(uint32_t)(NORM_HALVES | NORM_UNIT),
            .norm_width = o->mat[0]->n_out,
        };
        if (t->lanes > 1 && !t->variant[i].split && t->variant[i].rows <= NEXT_ROWS_MAX &&
            256 % threads == 0)
            r = make_variant(g, vk_mat_quant(o->mat[0]), &t->variant[i], &x, &own->next[i], err);
    }
    return r;
}

static int make_kernels(struct vk_program *g, const struct vk_op *o, struct err *err)
{
    struct vk_matvec *mv = g->matvec;
    int r = 0;
    if (o->op->kind == OP_LOGITS)
        return make_variants(g, vk_mat_quant(o->mat[0]), o->op->logits.softcap, mv->logits, err);
    if (o->op->flags & OP_GLU_OUT)
        return make_glu(g, o, err);
    for (unsigned k = 0; r == 0 && k < o->op->n_w; k++) {
        enum quant_id q = vk_mat_quant(o->mat[k]);
        if (!mv->kernel[q][0])
            r = make_variants(g, q, 0.0f, mv->kernel[q], err);
    }
    return r == 0 && o->next ? make_next(g, o, err) : r;
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

bool vk_matmul_has_bytes(const struct vk *vk)
{
    const struct vk_info *info = vk_info(vk);
    const struct vk_tile *t = &info->tile_s8;
    bool wide_tile = info->subgroup == 32 && t->m == 16 && t->n == 16 && t->k == 32;
    bool narrow_tile = info->subgroup == 8 && t->m == 8 && t->n == 8 && t->k == 8;
    return vk_kernel_runs(vk, KERNEL_matdot + QUANT_q4_0) && (wide_tile || narrow_tile);
}

// Only teams of 32 have the classes of matdot.glsl.
static void take_cut(struct vk_program *g, const struct vk_matmul_choice *choice)
{
    const struct vk_info *info = vk_info(g->vk);
    const struct vk_tile *m = &info->tile_s8;
    struct team *t = &g->matvec->team;
    if (!choice->wide || !choice->bytes_from || !vk_matmul_has_bytes(g->vk))
        return;
    const struct vk_bytes_cut *usual = info->subgroup == NARROW_SUBGROUP ? &narrow_cut : &wide_cut;
    const struct vk_bytes_cut *c = choice->cut.rows ? &choice->cut : usual;
    assert(t->n_variants < VARIANTS_MAX);
    assert(c->rows % m->n == 0 && c->outs / c->split % m->m == 0);
    t->variant[t->n_variants++] = (struct variant){ c->rows, c->outs, 1, c->depth, c->split };
    g->matvec->bytes_from = choice->bytes_from;
}

int vk_matmul_take(struct vk_program *g, const struct vk_matmul_choice *choice, struct err *err)
{
    struct vk_matvec *mv = calloc(1, sizeof(*mv));
    if (!mv)
        return err_set(err, -ENOMEM, "no memory for a program");
    g->matvec = mv;
    mv->own = calloc((size_t)g->plan->n_ops + 1, sizeof(*mv->own));
    if (!mv->own)
        return err_set(err, -ENOMEM, "no memory for a program");
    mv->team = choice->wide ? wide : narrow;
    for (uint32_t i = 0; i < mv->team.n_vectors; i++) {
        struct variant *v = &mv->team.variant[i];
        v->outs = choice->outs ? choice->outs : v->outs;
        v->teams = choice->teams ? choice->teams : v->teams;
        v->depth = choice->depth ? choice->depth : v->depth;
    }
    mv->int_dot = choice->int_dot;
    take_cut(g, choice);
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
        .wide = g->wide_teams || vk_info(g->vk)->subgroup > NARROW_SUBGROUP,
        .bytes_from = VK_BYTES_FROM,
    };
    return vk_matmul_take(g, &choice, err);
}

void vk_matmul_finish(struct vk_program *g)
{
    vk_matrix_finish(g);
    vk_inputs_finish(g);
    if (g->matvec)
        free(g->matvec->own);
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
    const struct vk_mem *logits;        // where rows of LOGITS go
    struct few_rows    rows;
    enum quant_id      quant;
    struct matvec_push push;
    uint32_t           n;               // targets
    struct vk_use      use[6];
    uint32_t           n_uses;
};

static uint32_t variant_for(const struct vk_program *g, enum quant_id q, uint32_t rows)
{
    const struct team *t = &g->matvec->team;
    uint32_t from = g->matvec->bytes_from;
    bool bytes = from && rows >= from && !takes_floats(g, q);
    uint32_t v = bytes ? t->n_vectors : 0, end = bytes ? t->n_variants : t->n_vectors;
    while (v + 1 < end && t->variant[v].rows < rows)
        v++;
    return v;
}

static const char *label_of(const struct op *op)
{
    return op->kind == OP_LOGITS ? "logits" : op->flags & OP_GLU_OUT ? "matvec_glu" :
           op->flags & OP_ADD ? "matvec_add" : "matvec";
}

// `n` targets of outputs, in a kernel of this variant.
static void dispatch(struct gathering *x, const struct vk_kernel *kernel,
                     const struct variant *v, uint32_t n)
{
    uint32_t per_group = group_outs(v);
    struct vk_groups groups = { 0, DIV_UP(x->rows.n, v->rows), 1 };
    if (x->o->op->flags & OP_GLU_OUT)
        per_group /= 2;
    for (uint32_t i = 0; i < n; i++)
        groups.x += DIV_UP(x->push.target[i].n_out, per_group);
    vk_dispatch(x->c, kernel, label_of(x->o->op), &x->push, sizeof(x->push), groups, x->use,
                x->n_uses);
    x->n = 0;
}

static void flush(struct gathering *x)
{
    const struct vk_matvec *mv = x->g->matvec;
    uint32_t v = variant_for(x->g, x->quant, x->rows.n);
    bool logits = x->o->op->kind == OP_LOGITS;
    if (x->n > 0)
        dispatch(x, logits ? mv->logits[v] : mv->kernel[x->quant][v], &mv->team.variant[v], x->n);
}

static void start(struct gathering *x, const struct vk_mat *m)
{
    const struct vk_program *g = x->g;
    const struct op *op = x->o->op;
    bool floats = takes_floats(g, vk_mat_quant(m)), logits = op->kind == OP_LOGITS;
    const struct vk_mem *src = floats ? &g->slot[vk_input_slot(op)] : &g->act[x->o->act];
    x->quant = vk_mat_quant(m);
    x->push = (struct matvec_push){
        .src = src->addr, .limit = x->rows.limit, .n_in = m->n_in,
        .row_bytes = (uint32_t)m->row_bytes,
        .scale = logits ? op->logits.scale : op->flags & OP_ADD ? op->matmul.scale : 1.0f,
        .rows = x->rows.n | (op->flags & OP_ADD ? PUSH_ADD : 0),
    };
    x->use[0] = vk_reads(src);
    x->n_uses = 1;
}

static const struct vk_mem *result_of(const struct gathering *x, unsigned k)
{
    return x->o->op->kind == OP_LOGITS ? x->logits : &x->g->slot[x->o->op->dst[k]];
}

// Outputs [out0, out0 + n_out) of matrix k, which lie in one part.
static struct target target_of(const struct gathering *x, unsigned k, uint32_t out0, uint32_t n_out)
{
    const struct vk_program *g = x->g;
    const struct vk_mat *m = x->o->mat[k];
    uint32_t part = out0 / m->part_rows;
    VkDeviceAddress bias = x->o->vector[k].addr;
    return (struct target){
        .w = m->part[part].addr + (out0 - part * m->part_rows) * m->row_bytes,
        .dst = result_of(x, k)->addr + out0 * sizeof(float),
        .bias = bias ? bias + out0 * sizeof(float) : 0, .n_out = n_out,
        .dst_stride = x->o->op->kind == OP_LOGITS ? g->n_vocab : g->stride[x->o->op->dst[k]],
    };
}

static void add_target(struct gathering *x, unsigned k, uint32_t out0, uint32_t n_out)
{
    const struct vk_mat *m = x->o->mat[k];
    if (x->n == TARGETS || (x->n > 0 && x->quant != vk_mat_quant(m)))
        flush(x);
    if (x->n == 0)
        start(x, m);
    x->push.target[x->n++] = target_of(x, k, out0, n_out);
    x->use[x->n_uses++] = vk_writes(result_of(x, k));
}

// Not more outputs at once than there may be workgroups.
static uint32_t outputs_max(const struct vk_program *g, enum quant_id q, uint32_t rows)
{
    const struct variant *v = &g->matvec->team.variant[variant_for(g, q, rows)];
    return GROUPS_MAX / TARGETS * group_outs(v);
}

// How many outputs from `out` on lie in one part and fit a dispatch.
static uint32_t outputs_from(const struct vk_mat *m, uint32_t out, uint32_t most)
{
    return MIN(MIN(m->part_rows - out % m->part_rows, m->n_out - out), most);
}

static void record_few(struct gathering *x)
{
    for (unsigned k = 0; k < OP_W_MAX && x->o->mat[k]; k++) {
        const struct vk_mat *m = x->o->mat[k];
        uint32_t most = outputs_max(x->g, vk_mat_quant(m), x->rows.n);
        for (uint32_t out = 0, n; out < m->n_out; out += n) {
            n = outputs_from(m, out, most);
            add_target(x, k, out, n);
        }
    }
    flush(x);
}

// ---- with the next product's input ------------------------------------------------------------

static void use_next(struct gathering *x)
{
    struct vk_program *g = x->g;
    const struct vk_op *next = x->o->next;
    if (next->norm_steps & NORM_BYTES)
        x->use[x->n_uses++] = vk_writes(&g->act[next->act]);
    if (next->norm_steps & NORM_FLOATS)
        x->use[x->n_uses++] = vk_writes(&g->slot[next->op->normed.slot]);
    if (next->norm_steps & NORM_ADDED)
        x->use[x->n_uses++] = vk_writes(&g->slot[next->op->src[0]]);
    x->use[x->n_uses++] = vk_writes(&g->count);
    vk_input_ready(g, next, true);
}

// Outputs of gate and up together.
static void record_glu(struct gathering *x)
{
    const struct vk_program *g = x->g;
    const struct own_kernels *own = &g->matvec->own[x->o - g->op];
    const struct vk_mat *m = x->o->mat[0];
    enum quant_id q = vk_mat_quant(m);
    uint32_t i = variant_for(g, q, x->rows.n), most = outputs_max(g, q, x->rows.n);
    const struct variant v = glu_variant(g->matvec->team.variant[i]);
    for (uint32_t out = 0, n; out < m->n_out; out += n) {
        n = outputs_from(m, out, most);
        start(x, m);
        for (unsigned k = 0; k < 2; k++)
            x->push.target[k] = target_of(x, k, out, n);
        x->use[x->n_uses++] = vk_writes(result_of(x, 0));
        dispatch(x, own->glu[i], &v, 1);
    }
}

// Whether one dispatch does it all, and its last workgroup the next input.
static bool makes_next(const struct vk_program *g, const struct vk_op *o, uint32_t n_rows,
                       const struct shape *s)
{
    uint32_t i = variant_for(g, vk_mat_quant(o->mat[0]), n_rows);
    return g->matvec->own[o - g->op].next[i] && n_rows <= g->matvec->team.variant[i].rows &&
           (o->gathered || s->n_prompt == 0) && o->mat[0]->n_parts == 1;
}

static void record_next(struct gathering *x)
{
    const struct vk_program *g = x->g;
    const struct vk_op *next = x->o->next;
    const struct op *op = next->op;
    uint32_t i = variant_for(g, vk_mat_quant(x->o->mat[0]), x->rows.n);
    const struct op_norm *norm = &op->normed, *added = &op->added;
    start(x, x->o->mat[0]);
    x->push.target[0] = target_of(x, 0, 0, x->o->mat[0]->n_out);
    x->push.target[1] = (struct target){
        .w = g->act[next->act].addr, .dst = next->norm_weight[0].addr,
        .bias = g->slot[norm->slot].addr, .n_out = float_bits(norm->eps),
        .dst_stride = float_bits(added->scale),
    };
    x->push.target[2] = (struct target){
        .w = g->count.addr, .dst = g->slot[op->src[0]].addr, .bias = next->norm_weight[1].addr };
    x->use[x->n_uses++] = vk_writes(result_of(x, 0));
    use_next(x);
    dispatch(x, g->matvec->own[x->o - g->op].next[i], &g->matvec->team.variant[i], 1);
}

void vk_matmul_record(struct vk_program *g, struct vk_cmd *c, const struct vk_op *o,
                      const struct shape *s)
{
    struct gathering x = {
        .g = g, .c = c, .o = o, .logits = vk_top_rows(g, s), .rows = rows_of(g, o, s) };
    vk_input_record(g, c, o, s);
    if (x.rows.n == 0)
        ;
    else if (o->op->flags & OP_GLU_OUT)
        record_glu(&x);
    else if (makes_next(g, o, x.rows.n, s))
        record_next(&x);
    else
        record_few(&x);
    if (!vk_matrix_takes(g, o) || s->n_prompt == 0)
        return;
    vk_matrix_record(g, c, o, s);
    if (o->op->flags & OP_GLU_OUT)
        vk_rows_record(g, c, o, s);
}
