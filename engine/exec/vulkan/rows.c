// Row-wise operations. Each row is a workgroup or a few: floats are read and written once, so the
// floor is their bytes over the bandwidth, and for few rows the latency of a dispatch.
#include <errno.h>
#include "base/base.h"
#include "engine/exec/vulkan/weights.h"

#define THREADS 128

// ---- kernels ----------------------------------------------------------------------------------

static int make_kernel(struct vk_program *g, struct vk_op *o, struct err *err)
{
    const struct op *op = o->op;
    const uint32_t plain[] = { THREADS };
    const uint32_t glu[] = { THREADS, op->kind == OP_GLU ? op->glu.act : op->matmul.act };
    switch (op->kind) {
    case OP_EMBED:
        return vk_kernel(g->vk, KERNEL_embed + vk_mat_quant(o->mat[0]), plain, ARRAY_LEN(plain),
                         &o->kernel, err);
    case OP_NORM:
        return vk_norm_init(g, o, err);
    case OP_MATMUL:
    case OP_GLU:
        if (op->kind == OP_MATMUL && !(op->flags & OP_GLU_OUT))
            return 0;
        return vk_kernel(g->vk, KERNEL_rows_glu, glu, ARRAY_LEN(glu), &o->kernel, err);
    case OP_GATHER:
        return vk_kernel(g->vk, KERNEL_rows_gather, plain, ARRAY_LEN(plain), &o->kernel, err);
    default:
        return 0;
    }
}

int vk_rows_init(struct vk_program *g, struct err *err)
{
    int r = 0;
    for (uint32_t i = 0; r == 0 && i < g->plan->n_ops; i++)
        r = make_kernel(g, &g->op[i], err);
    return r;
}

// ---- recording --------------------------------------------------------------------------------

struct embed_push {                     // embed.glsl
    struct vk_part  w;
    VkDeviceAddress dst, row, head;
    uint32_t token0, n_tokens, dst_stride;      // vectors of four floats
    float    scale;
};

static void record_embed(struct vk_program *g, struct vk_cmd *c, const struct vk_op *o,
                         const struct shape *s)
{
    const struct vk_mat *m = o->mat[0];
    uint32_t dst = o->op->dst[0];
    for (uint32_t p = 0; p < m->n_parts; p++) {
        const struct embed_push push = {
            .w = vk_mat_part(m, p), .dst = g->slot[dst].addr, .row = g->step.row.addr,
            .head = g->step.head.addr, .token0 = p * m->part_rows,
            .n_tokens = vk_mat_part_rows(m, p), .dst_stride = g->stride[dst] / 4,
            .scale = o->op->embed.scale,
        };
        const struct vk_use uses[] = { vk_reads(&m->part[p]), vk_writes(&g->slot[dst]) };
        const struct vk_groups n = { DIV_UP(m->n_in, THREADS * 8), vk_op_rows(o, s), 1 };
        vk_dispatch(c, o->kernel, "embed", &push, sizeof(push), n, uses, ARRAY_LEN(uses));
    }
}

// Padding is worked on as well: whole vectors of four.
static struct vk_groups row_groups(uint32_t width, uint32_t n_rows)
{
    return (struct vk_groups){ DIV_UP(width, THREADS * 4), n_rows, 1 };
}

struct glu_push {                       // rows_glu.comp
    VkDeviceAddress gate, up, dst, head;
    uint32_t gate_stride, up_stride, dst_stride, width;     // vectors of four floats
    uint32_t gathered, prompts;
};

static void record_glu(struct vk_program *g, struct vk_cmd *c, const struct vk_op *o,
                       const struct shape *s)
{
    const struct op *op = o->op;
    bool prompts = op->kind == OP_MATMUL;       // its kernels did it for the other rows
    uint32_t dst = op->dst[0], gate = prompts ? dst : op->src[0];
    uint32_t up = prompts ? op->dst[1] : op->src[1], width = g->plan->slot_width[dst];
    const struct glu_push push = {
        .gate = g->slot[gate].addr, .up = g->slot[up].addr, .dst = g->slot[dst].addr,
        .head = g->step.head.addr, .gate_stride = g->stride[gate] / 4,
        .up_stride = g->stride[up] / 4, .dst_stride = g->stride[dst] / 4,
        .width = DIV_UP(width, 4), .gathered = o->gathered, .prompts = prompts,
    };
    const struct vk_use uses[] = {
        vk_reads(&g->slot[gate]), vk_reads(&g->slot[up]), vk_writes(&g->slot[dst]) };
    uint32_t n_rows = prompts ? s->n_prompt : vk_op_rows(o, s);
    vk_dispatch(c, o->kernel, "glu", &push, sizeof(push), row_groups(width, n_rows), uses,
                ARRAY_LEN(uses));
}

struct gather_push {                    // rows_gather.comp
    VkDeviceAddress src, dst, out_row, head;
    uint32_t src_stride, dst_stride, width;     // vectors of four floats
};

static void record_gather(struct vk_program *g, struct vk_cmd *c, const struct vk_op *o,
                          const struct shape *s)
{
    for (unsigned i = 0; i < o->op->n_w; i++) {
        uint32_t src = o->op->src[i], dst = o->op->dst[i], width = g->plan->slot_width[dst];
        const struct gather_push push = {
            .src = g->slot[src].addr, .dst = g->slot[dst].addr,
            .out_row = g->step.out_row.addr, .head = g->step.head.addr,
            .src_stride = g->stride[src] / 4, .dst_stride = g->stride[dst] / 4,
            .width = DIV_UP(width, 4),
        };
        const struct vk_use uses[] = { vk_reads(&g->slot[src]), vk_writes(&g->slot[dst]) };
        vk_dispatch(c, o->kernel, "gather", &push, sizeof(push), row_groups(width, s->n_out),
                    uses, ARRAY_LEN(uses));
    }
}

void vk_rows_record(struct vk_program *g, struct vk_cmd *c, const struct vk_op *o,
                    const struct shape *s)
{
    switch (o->op->kind) {
    case OP_EMBED: record_embed(g, c, o, s); break;
    case OP_MATMUL:
    case OP_GLU: record_glu(g, c, o, s); break;
    case OP_GATHER: record_gather(g, c, o, s); break;
    default: assert(!"not a row-wise operation");
    }
}
