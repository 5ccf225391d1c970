// Taking in a model: its plan with what can be fused, each operation's weights and kernels, and the
// memory of a step.
#include <errno.h>
#include <stdlib.h>
#include "engine/exec/vulkan/vulkan.h"
#include "engine/model/plan_fuse.h"
#include "base/base.h"

#define LINE_FLOATS 32

static int init_ops(struct vk_program *g, struct err *err)
{
    bool gathered = false;
    g->op = calloc((size_t)g->plan->n_ops + 1, sizeof(*g->op));
    if (!g->op)
        return err_set(err, -ENOMEM, "no memory for a plan of %u operations", g->plan->n_ops);
    for (uint32_t i = 0; i < g->plan->n_ops; i++) {
        const struct op *op = &g->plan->op[i];
        gathered |= op->kind == OP_GATHER;
        g->op[i] = (struct vk_op){ .op = op, .gathered = gathered };
        if (op->kind == OP_LOGITS)
            g->n_vocab = (uint32_t)op->w[0]->dim[1];
        if (op->kind == OP_EMBED)
            g->n_tokens = (uint32_t)op->w[0]->dim[1];
    }
    return 0;
}

static int alloc(struct vk_program *g, enum vk_home home, size_t rows, size_t floats,
                 struct vk_mem *ret, struct err *err)
{
    size_t bytes;
    if (rows == 0 || floats == 0)
        return 0;
    if (!mul_size(rows * sizeof(float), floats, &bytes))
        return err_set(err, -ENOMEM, "no memory for batches of %zu rows", rows);
    return vk_alloc(g->vk, home, bytes, ret, err);
}

static int init_slots(struct vk_program *g, struct err *err)
{
    int r = 0;
    for (unsigned s = 0; r == 0 && s < SLOT_COUNT; s++) {
        g->stride[s] = ALIGN_UP(g->plan->slot_width[s], (uint32_t)LINE_FLOATS);
        r = alloc(g, VK_HOME_DEVICE, g->params.rows_max, g->stride[s], &g->slot[s], err);
    }
    if (r)
        return r;
    return alloc(g, VK_HOME_HOST, g->params.outputs_max, g->n_vocab, &g->logits, err);
}

static int load(struct vk_program *g, struct err *err)
{
    static int (*const init[])(struct vk_program *g, struct err *err) = {
        init_ops, init_slots, vk_step_init, vk_weights_init, vk_rows_init, vk_rope_init,
        vk_matmul_init, vk_kv_init, vk_attn_init, vk_top_init,
    };
    int r = 0;
    for (unsigned i = 0; r == 0 && i < ARRAY_LEN(init); i++)
        r = init[i](g, err);
    if (r == 0 && g->x->cache)
        vk_cache_save(g->vk, g->x->cache, NULL);
    return r;
}

// A model that does not fit is told where there is more room.
static void say_way_out(struct err *err)
{
    struct err why;
    if (!err)
        return;
    why = *err;
    err_set(err, why.code, "%.400s; fewer --gpu-layers leave more to the CPU", why.msg);
}

int vulkan_load_as(struct executor *x, const struct model *m, const struct plan *plan,
                   const struct vulkan_choice *choice, const struct load_params *p,
                   struct program **ret, struct err *err)
{
    assert(p->rows_max > 0 && p->rows_max <= BATCH_ROWS_MAX);
    struct vk_program *g = calloc(1, sizeof(*g));
    if (!g)
        return err_set(err, -ENOMEM, "no memory for a program");
    g->p.x = x;
    g->x = container_of(x, struct vulkan_executor, x);
    g->vk = g->x->vk;
    g->exact = g->x->exact;
    g->model = m;
    g->cfg = &m->cfg;
    g->params = *p;
    g->wide_teams = choice->wide_teams;
    int r = plan_fuse(&g->plan, plan, g->cfg, choice->rules, err);
    if (r == 0)
        r = load(g, err);
    if (r == -ENOMEM)
        say_way_out(err);
    if (r) {
        vulkan_unload(&g->p);
        return r;
    }
    *ret = &g->p;
    return 0;
}

int vulkan_load(struct executor *x, const struct model *m, const struct plan *plan,
                const struct load_params *p, struct program **ret, struct err *err)
{
    const struct vulkan_choice usual = { .rules = VULKAN_FUSE_RULES };
    return vulkan_load_as(x, m, plan, &usual, p, ret, err);
}

void vulkan_unload(struct program *p)
{
    if (!p)
        return;
    struct vk_program *g = container_of(p, struct vk_program, p);
    vk_step_finish(g);
    vk_top_finish(g);
    vk_slots_finish(g);
    vk_matmul_finish(g);
    vk_weights_finish(g);
    vk_attn_finish(g);
    vk_kv_finish(g);
    vk_rope_finish(g);
    for (unsigned s = 0; s < SLOT_COUNT; s++)
        vk_free(g->vk, &g->slot[s]);
    vk_free(g->vk, &g->logits);
    plan_free(g->plan);
    free(g->op);
    free(g);
}
