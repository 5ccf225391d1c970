// Stands in for families of operations that are not there yet: programs without such operations
// load, others are refused.
#include <errno.h>
#include "engine/exec/vulkan/vulkan.h"

static bool plan_has(const struct vk_program *g, enum op_kind kind)
{
    for (uint32_t i = 0; i < g->plan->n_ops; i++)
        if (g->plan->op[i].kind == kind)
            return true;
    return false;
}

#define ABSENT __attribute__((weak))

ABSENT int vk_weights_init(struct vk_program *g, struct err *err)
{
    for (uint32_t i = 0; i < g->plan->n_ops; i++)
        if (g->plan->op[i].w[0])
            return err_set(err, -ENOTSUP, "the Vulkan executor cannot take in weights yet");
    return 0;
}

ABSENT void vk_weights_finish(struct vk_program *g)
{
    (void)g;
}

ABSENT int vk_matmul_init(struct vk_program *g, struct err *err)
{
    if (plan_has(g, OP_MATMUL) || plan_has(g, OP_LOGITS))
        return err_set(err, -ENOTSUP, "the Vulkan executor cannot multiply yet");
    return 0;
}

ABSENT void vk_matmul_record(struct vk_program *g, struct vk_cmd *c, const struct vk_op *o,
                             const struct shape *s)
{
    (void)g, (void)c, (void)o, (void)s;
    assert(!"vk_matmul_init refused this");
}

ABSENT void vk_matmul_finish(struct vk_program *g)
{
    (void)g;
}
