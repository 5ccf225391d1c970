// Rows as products take them, normed or as they are, in the form that their kernels want; and
// OP_NORM, which is the same without a product (norm.comp).
//
// Floor: a row is read and written once; for few rows it is the latency of a dispatch.
#include <errno.h>
#include "base/base.h"
#include "engine/exec/vulkan/matmul.h"

#define THREADS_MIN 64
#define THREADS_MAX 256                 // NORM_LANES of norm.glsl
#define ACT_THREADS 128                 // of rows_act.comp

struct norm_push {                      // norm.comp
    VkDeviceAddress src, added, added_weight, weight, dst, act;
    float    added_eps, added_scale, eps, scale;
    VkDeviceAddress limit;
    uint32_t src_stride, added_stride, dst_stride, act_stride, prompts;
};
struct act_push { VkDeviceAddress src, act, limit; uint32_t n_in; };    // rows_act.comp
static_assert(sizeof(struct norm_push) <= VK_PUSH_BYTES, "push constants");

// ---- kernels ----------------------------------------------------------------------------------

static int make_kernel(struct vk_program *g, uint32_t width, uint32_t steps,
                       const struct vk_kernel **ret, struct err *err)
{
    uint32_t threads = THREADS_MIN;
    while (threads < THREADS_MAX && threads * 4 < width)
        threads *= 2;
    const uint32_t spec[] = { threads, width, steps };
    return vk_kernel(g->vk, KERNEL_norm, spec, ARRAY_LEN(spec), ret, err);
}

static bool writes(const struct op *op, uint8_t slot, unsigned *k)
{
    unsigned n = op->kind == OP_MATMUL || op->kind == OP_GATHER ? op->n_w : 1;
    bool none = op->kind == OP_KV_WRITE || op->kind == OP_LOGITS;
    for (*k = 0; !none && *k < n; ++*k)
        if (op->dst[*k] == slot)
            return true;
    return false;
}

// The slot holds what attention put out: no element is beyond the largest value of the cache.
static bool holds_attention(const struct vk_program *g, uint32_t i, uint8_t slot)
{
    while (i-- > 0) {
        const struct op *op = g->op[i].op;
        unsigned k;
        if (!writes(op, slot, &k))
            continue;
        if (op->kind != OP_GATHER)
            return op->kind == OP_ATTN;
        slot = op->src[k];
    }
    return false;
}

static uint32_t steps_of(const struct vk_program *g, uint32_t i)
{
    const struct vk_op *o = &g->op[i];
    uint32_t steps = vk_matmul_forms(g, o);
    if (!o->op->normed.w)
        steps &= ~(uint32_t)NORM_FLOATS;    // the slot has them
    if (steps & NORM_HALVES && !o->op->normed.w && holds_attention(g, i, o->op->src[0]))
        steps |= NORM_UNIT;
    return steps | (o->op->normed.w ? NORM_NORMED : 0) | (o->op->added.w ? NORM_ADDED : 0);
}

int vk_norm_init(struct vk_program *g, struct vk_op *o, struct err *err)
{
    o->norm_steps = o->op->flags & OP_ADD ? NORM_ADDED : NORM_NORMED | NORM_FLOATS;
    return make_kernel(g, o->op->norm.piece, o->norm_steps, &o->norm, err);
}

// ---- inputs -----------------------------------------------------------------------------------

// Products take turns, so that one may write the next one's input while it reads its own.
static int alloc_act(struct vk_program *g, struct err *err)
{
    size_t rows = MAX(g->params.rows_max, g->params.outputs_max) + ACT_ROWS_SLACK;
    size_t bytes[ARRAY_LEN(g->act)] = {0};
    uint32_t n = 0;
    for (uint32_t i = 0; i < g->plan->n_ops; i++) {
        struct vk_op *o = &g->op[i];
        if (!vk_multiplies(o->op))
            continue;
        o->act = (uint8_t)(n++ % ARRAY_LEN(g->act));
        if (vk_matmul_forms(g, o) & (NORM_BYTES | NORM_HALVES))
            bytes[o->act] = MAX(bytes[o->act], vk_matmul_act_bytes(g, o));
    }
    int r = 0;
    for (unsigned i = 0; r == 0 && i < ARRAY_LEN(g->act); i++)
        if (bytes[i])
            r = vk_alloc(g->vk, VK_HOME_DEVICE, rows * bytes[i], &g->act[i], err);
    return r;
}

// The results of an operation are the input of the product that follows it, and its kernels can be
// told to make that (next_norm() of matvec.glsl, attn_gather.comp).
static bool feeds(const struct vk_program *g, const struct vk_op *o, const struct vk_op *next)
{
    const struct op *a = o->op, *b = next->op;
    bool plain = b->src[0] == a->dst[0] && next->norm_steps & NORM_BYTES && !b->normed.w;
    if (!vk_multiplies(b) || o->gathered != next->gathered)
        return false;
    if (a->kind == OP_ATTN)
        return plain && g->cfg->head_dim % ACT_GROUP == 0;
    if (a->kind != OP_MATMUL)
        return false;
    if (a->flags & OP_GLU_OUT || a->n_w != 1 || next->norm_steps == 0 ||
        (b->normed.w && b->normed.scale != 1.0f))
        return false;
    if (!b->added.w)
        return b->src[0] == a->dst[0];
    return b->added.slot == a->dst[0] && b->added.eps == b->normed.eps &&
           g->stride[b->src[0]] == g->stride[a->dst[0]];
}

static int find_feeds(struct vk_program *g, struct err *err)
{
    for (uint32_t i = 0; i + 1 < g->plan->n_ops; i++)
        if (feeds(g, &g->op[i], &g->op[i + 1]))
            g->op[i].next = &g->op[i + 1];
    return vk_alloc(g->vk, VK_HOME_DEVICE, sizeof(uint32_t), &g->count, err);
}

int vk_inputs_init(struct vk_program *g, struct err *err)
{
    int r = alloc_act(g, err);
    for (uint32_t i = 0; r == 0 && i < g->plan->n_ops; i++) {
        struct vk_op *o = &g->op[i];
        if (!vk_multiplies(o->op))
            continue;
        o->norm_steps = steps_of(g, i);
        if (o->norm_steps)
            r = make_kernel(g, o->mat[0]->n_in, o->norm_steps, &o->norm, err);
    }
    const uint32_t threads[] = { ACT_THREADS };
    if (r == 0)
        r = vk_kernel(g->vk, KERNEL_rows_act, threads, 1, &g->rows_act, err);
    return r ? r : find_feeds(g, err);
}

void vk_inputs_finish(struct vk_program *g)
{
    for (unsigned i = 0; i < ARRAY_LEN(g->act); i++)
        vk_free(g->vk, &g->act[i]);
    vk_free(g->vk, &g->count);
}

// ---- recording --------------------------------------------------------------------------------

// How many rows there are, to a shader.
static VkDeviceAddress limit_of(const struct vk_program *g, const struct vk_op *o)
{
    return g->step.head.addr + (o->gathered ? offsetof(struct step_head, n_out)
                                            : offsetof(struct step_head, n_rows));
}

// One row after the other, `pieces` of each.
static void record(struct vk_program *g, struct vk_cmd *c, const struct vk_op *o,
                   const struct shape *s, struct norm_push *push, uint32_t pieces,
                   const struct vk_use *uses, uint32_t n_uses)
{
    bool normed = o->norm_steps & (NORM_ADDED | NORM_NORMED);
    push->limit = limit_of(g, o);
    const struct vk_groups n = { push->prompts ? s->n_prompt : vk_op_rows(o, s), pieces, 1 };
    vk_dispatch(c, o->norm, normed ? "norm" : "act", push, sizeof(*push), n, uses, n_uses);
}

void vk_norm_record(struct vk_program *g, struct vk_cmd *c, const struct vk_op *o,
                    const struct shape *s)
{
    const struct op *op = o->op;
    uint32_t src = op->src[0], dst = op->dst[0];
    VkDeviceAddress weight = o->vector[0].addr;
    struct norm_push push = {
        .src = g->slot[src].addr, .dst = g->slot[dst].addr, .weight = weight,
        .eps = op->norm.eps, .scale = op->norm.scale,
        .src_stride = g->stride[src], .dst_stride = g->stride[dst],
    };
    if (op->flags & OP_ADD)
        push = (struct norm_push){
            .src = g->slot[dst].addr, .added = g->slot[src].addr, .added_weight = weight,
            .added_eps = op->norm.eps, .added_scale = op->norm.scale,
            .src_stride = g->stride[dst], .added_stride = g->stride[src],
        };
    const struct vk_use uses[] = { vk_reads(&g->slot[src]), vk_writes(&g->slot[dst]) };
    record(g, c, o, s, &push, g->plan->slot_width[src] / op->norm.piece, uses, ARRAY_LEN(uses));
}

void vk_input_ready(struct vk_program *g, const struct vk_op *o, bool prompts_too)
{
    g->ready.op = o;
    g->ready.prompts_too = prompts_too;
}

// Where rows need nothing else.
static void record_bytes(struct vk_program *g, struct vk_cmd *c, const struct vk_op *o,
                         const struct shape *s)
{
    const struct vk_mem *src = &g->slot[o->op->src[0]], *act = &g->act[o->act];
    const struct act_push push = { src->addr, act->addr, limit_of(g, o), o->mat[0]->n_in };
    const struct vk_groups n = { DIV_UP(push.n_in, 4 * ACT_THREADS), vk_op_rows(o, s), 1 };
    const struct vk_use uses[] = { vk_reads(src), vk_writes(act) };
    vk_dispatch(c, g->rows_act, "act", &push, sizeof(push), n, uses, ARRAY_LEN(uses));
}

void vk_input_record(struct vk_program *g, struct vk_cmd *c, const struct vk_op *o,
                     const struct shape *s)
{
    const struct op *op = o->op;
    uint32_t src = op->src[0], added = op->added.slot, dst = op->normed.slot;
    const struct vk_mem *act = &g->act[o->act];
    bool ready = g->ready.op == o, prompts = !o->gathered && s->n_prompt;
    uint32_t steps = o->norm_steps;
    if (!prompts)
        steps &= ~(uint32_t)(NORM_HALVES | NORM_UNIT);
    if (!ready && steps == NORM_BYTES) {
        record_bytes(g, c, o, s);
        return;
    }
    if (!o->norm || (ready && (g->ready.prompts_too || !prompts)))
        return;
    struct norm_push push = {
        .src = g->slot[src].addr, .added = g->slot[added].addr,
        .added_weight = o->norm_weight[1].addr, .weight = o->norm_weight[0].addr,
        .dst = g->slot[dst].addr, .act = act->addr, .added_eps = op->added.eps,
        .added_scale = op->added.scale, .eps = op->normed.eps, .scale = op->normed.scale,
        .src_stride = g->stride[src], .added_stride = g->stride[added],
        .dst_stride = g->stride[dst], .act_stride = vk_matmul_act_bytes(g, o),
        .prompts = ready,
    };
    struct vk_use uses[4];
    uint32_t n = 0;
    uses[n++] = o->norm_steps & NORM_ADDED ? vk_writes(&g->slot[src]) : vk_reads(&g->slot[src]);
    if (o->norm_steps & NORM_ADDED)
        uses[n++] = vk_reads(&g->slot[added]);
    if (o->norm_steps & NORM_FLOATS)
        uses[n++] = vk_writes(&g->slot[dst]);
    if (o->norm_steps & (NORM_BYTES | NORM_HALVES))
        uses[n++] = vk_writes(act);
    record(g, c, o, s, &push, 1, uses, n);
}
