// KV pages written by steps, and blocks moved as a whole.
//
// Shaders find a page through the table, so it may lie anywhere; nothing here knows where
// (kv_homes.c does). Slices are rows as they come (kv.glsl); what a freed block holds is never
// read, since attention reads only tokens that a row sees.
#include <errno.h>
#include <string.h>
#include "base/base.h"
#include "engine/exec/vulkan/vulkan.h"

#define WRITE_THREADS_MIN 64
#define MOVE_WORDS 8                    // 16-byte words of an invocation
#define STAGING UINT32_MAX              // instead of a block

// ---- kernels ----------------------------------------------------------------------------------

// Rows are read in 16-byte chunks.
static int check_width(const struct vk_program *g, struct err *err)
{
    uint32_t dim = g->cfg->head_dim;
    bool floats = g->params.k_type == KV_F32 && g->params.v_type == KV_F32;
    if (dim % (floats ? 4 : 8) == 0)
        return 0;
    return err_set(err, -ENOTSUP, "the Vulkan executor wants heads of a multiple of %d, not %u",
                   floats ? 4 : 8, dim);
}

// Invocations for a head of Q.
static uint32_t team_size(const struct vk_program *g)
{
    uint32_t team = 1;
    while (team * 4 < g->cfg->head_dim)
        team *= 2;
    return team;
}

static uint32_t write_threads(const struct vk_program *g)
{
    return MAX(team_size(g), (uint32_t)WRITE_THREADS_MIN);
}

static int make_write(struct vk_program *g, struct vk_op *o, struct err *err)
{
    bool turns = o->op->kind == OP_QKV_STORE;
    const uint32_t spec[] = {
        write_threads(g), g->cfg->head_dim, g->params.k_type, g->params.v_type,
        turns && o->op->w[0], turns ? vk_rope_cfg(g, o->op)->kind : ROPE_NONE,
        turns ? g->rope[o->op->rope.local].half : 1, team_size(g),
    };
    int r = check_width(g, err);
    return r ? r : vk_kernel(g->vk, KERNEL_kv_write, spec, ARRAY_LEN(spec), &o->kernel, err);
}

int vk_kv_init(struct vk_program *g, struct err *err)
{
    const uint32_t threads[] = { KV_MOVE_THREADS };
    bool any = false;
    int r = 0;
    for (uint32_t i = 0; r == 0 && i < g->plan->n_ops; i++) {
        enum op_kind kind = g->op[i].op->kind;
        if (kind == OP_KV_WRITE || kind == OP_QKV_STORE) {
            r = make_write(g, &g->op[i], err);
            any = true;
        }
    }
    if (r || !any)
        return r;
    r = vk_kernel(g->vk, KERNEL_kv_move, threads, 1, &g->kv.move, err);
    if (r)
        return r;
    return vk_kernel(g->vk, KERNEL_kv_swap, threads, 1, &g->kv.swap, err);
}

struct vk_use vk_kv_use(const struct vk_program *g, uint32_t layer, bool write)
{
    size_t bytes = g->kv.n_blocks * sizeof(uint64_t);
    return (struct vk_use){ g->kv.page.addr + layer * bytes, bytes, write };
}

VkDeviceAddress vk_kv_pages(const struct vk_program *g, uint32_t layer)
{
    return vk_kv_use(g, layer, false).addr;
}

// ---- KV_WRITE, QKV_STORE ----------------------------------------------------------------------

struct write_push {                     // kv_write.comp
    VkDeviceAddress k, v, page, digest, table, row, head, q, turn, q_weight, k_weight;
    uint32_t k_stride, v_stride, q_stride, digest_stride, n_heads, n_kv_heads;
    float    eps;
};
static_assert(sizeof(struct write_push) <= VK_PUSH_BYTES, "push constants");

void vk_kv_record(struct vk_program *g, struct vk_cmd *c, const struct vk_op *o,
                  const struct shape *s)
{
    const struct op *op = o->op;
    bool turns = op->kind == OP_QKV_STORE;
    const struct vk_mem *k = &g->slot[op->src[0]], *v = &g->slot[op->src[1]];
    const struct vk_mem *q = &g->slot[op->dst[0]];
    const struct write_push push = {
        .k = k->addr, .v = v->addr, .page = vk_kv_pages(g, op->layer),
        .digest = g->kv.digest[op->layer].addr, .table = g->step.table.addr,
        .row = g->step.row.addr, .head = g->step.head.addr, .q = q->addr,
        .turn = turns ? g->rope[op->rope.local].turn.addr : 0,
        .q_weight = o->norm_weight[0].addr, .k_weight = o->norm_weight[1].addr,
        .k_stride = g->stride[op->src[0]] / 4, .v_stride = g->stride[op->src[1]] / 4,
        .q_stride = g->stride[op->dst[0]] / 4,
        .digest_stride = (uint32_t)(g->kv.layout.digest_head_bytes / sizeof(uint16_t)),
        .n_heads = g->cfg->n_heads, .n_kv_heads = g->cfg->n_kv_heads, .eps = op->rope.eps,
    };
    const struct vk_use uses[] = {
        vk_reads(k), vk_reads(v), vk_kv_use(g, op->layer, true), vk_writes(q) };
    uint32_t at_once = write_threads(g) / team_size(g);
    uint32_t queries = turns ? DIV_UP(g->cfg->n_heads, at_once) : 0;
    const struct vk_groups n = { s->n_decode + s->n_prompt, g->cfg->n_kv_heads + queries, 1 };
    vk_dispatch(c, o->kernel, turns ? "qkv" : "kv_write", &push, sizeof(push), n, uses,
                turns ? 4 : 3);
}

// ---- whole blocks -----------------------------------------------------------------------------

struct move_push {                      // kv_move.comp
    VkDeviceAddress page, digest, staging;
    uint32_t n_blocks, src, dst, page_words, digest_words;
};

static bool is_in_memory(const struct vk_kv *kv, uint32_t block)
{
    bool yes = true;
    for (uint32_t page = block; page < kv->place.n_pages; page += kv->n_blocks)
        yes &= kv_place_in_memory(&kv->place, page);
    return yes;
}

// Nothing to return a failure through: it means a lost device, and the next step says so.
static int move(struct vk_program *g, uint32_t dst, uint32_t src)
{
    struct vk_kv *kv = &g->kv;
    struct err err;
    const struct move_push push = {
        .page = kv->page.addr, .digest = kv->digest_at.addr, .staging = kv->staging.addr,
        .n_blocks = kv->n_blocks, .src = src, .dst = dst,
        .page_words = (uint32_t)(kv->layout.page_bytes / 16),
        .digest_words = (uint32_t)(kv->layout.digest_layer_bytes / 16),
    };
    uint32_t words = push.page_words + push.digest_words;
    const struct vk_groups n = {
        DIV_UP(words, KV_MOVE_THREADS * MOVE_WORDS), kv->layout.n_layers, 1 };
    const struct vk_use uses[] = { vk_writes(&kv->page), vk_writes(&kv->staging) };
    assert((src < kv->n_blocks || src == STAGING) && (dst < kv->n_blocks || dst == STAGING));
    assert(src == STAGING || is_in_memory(kv, src));
    vk_kv_digests_flush(g);
    int r = dst == STAGING ? 0 : vk_kv_claim(g, dst, &err);
    assert(r == 0);                     // else the caller has no room, and has to know
    r = vk_kv_cmd_begin(g, &err);
    if (r)
        return r;
    vk_dispatch(kv->cmd, kv->move, "kv_move", &push, sizeof(push), n, uses, ARRAY_LEN(uses));
    r = vk_cmd_end(kv->cmd, &err);
    if (r == 0)
        r = vk_run(g->vk, kv->cmd, VK_KV_TIMEOUT_NS, &err);
    if (r == 0 && dst != STAGING)
        vk_kv_block_set(g, dst);
    return r;
}

void vulkan_kv_copy(struct program *p, uint32_t dst_block, uint32_t src_block)
{
    move(container_of(p, struct vk_program, p), dst_block, src_block);
}

void vulkan_kv_read(struct program *p, uint32_t block, void *dst)
{
    struct vk_program *g = container_of(p, struct vk_program, p);
    if (move(g, STAGING, block))
        memset(dst, 0, g->kv.layout.block_bytes);
    else
        memcpy(dst, g->kv.staging.map, g->kv.layout.block_bytes);
}

void vulkan_kv_write(struct program *p, uint32_t block, const void *src)
{
    struct vk_program *g = container_of(p, struct vk_program, p);
    memcpy(g->kv.staging.map, src, g->kv.layout.block_bytes);
    move(g, block, STAGING);
}
