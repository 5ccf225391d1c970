// KV pages in device memory: slabs, the table of pages, the digests, and blocks moved as a whole.
//
// Shaders find a page through the table, so it may lie anywhere; nothing here but kv_alloc knows
// where. Slices are rows as they come (kv.glsl); memory starts as zeros, and what a freed block
// holds is never read, since attention reads only tokens that a row sees.
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "base/base.h"
#include "engine/exec/vulkan/vulkan.h"

#define WRITE_THREADS 64
#define MOVE_THREADS 256
#define MOVE_WORDS 8                    // 16-byte words of an invocation
#define STAGING UINT32_MAX              // instead of a block
#define MOVE_TIMEOUT_NS (10 * UINT64_C(1000000000))

// ---- memory -----------------------------------------------------------------------------------

static bool plan_has(const struct plan *plan, enum op_kind kind)
{
    for (uint32_t i = 0; i < plan->n_ops; i++)
        if (plan->op[i].kind == kind)
            return true;
    return false;
}

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

int vk_kv_init(struct vk_program *g, struct err *err)
{
    const uint32_t write[] = {
        WRITE_THREADS, g->cfg->head_dim, g->params.k_type, g->params.v_type };
    const uint32_t move[] = { MOVE_THREADS };
    int r = 0;
    if (!plan_has(g->plan, OP_KV_WRITE))
        return 0;
    r = check_width(g, err);
    if (r == 0)
        r = vk_kernel(g->vk, KERNEL_kv_write, write, ARRAY_LEN(write), &g->kv.write, err);
    if (r == 0)
        r = vk_kernel(g->vk, KERNEL_kv_move, move, ARRAY_LEN(move), &g->kv.move, err);
    return r;
}

static size_t page_bytes(const struct vk_kv *kv)
{
    return kv->layout.n_kv_heads * kv->layout.head_bytes;
}

static size_t digest_bytes(const struct vk_kv *kv)
{
    return kv->layout.n_kv_heads * kv->layout.digest_head_bytes;
}

static int alloc_slabs(struct vk *vk, struct vk_kv *kv, struct err *err)
{
    size_t block = page_bytes(kv) * kv->layout.n_layers;
    kv->blocks_per_slab =
        (uint32_t)CLAMP(VK_SLAB_BYTES / block, (size_t)1, (size_t)kv->n_blocks);
    kv->n_slabs = DIV_UP(kv->n_blocks, kv->blocks_per_slab);
    kv->slab = calloc(kv->n_slabs, sizeof(*kv->slab));
    if (!kv->slab)
        return err_set(err, -ENOMEM, "no memory for %u slabs", kv->n_slabs);
    int r = 0;
    for (uint32_t i = 0; r == 0 && i < kv->n_slabs; i++) {
        uint32_t n = MIN(kv->blocks_per_slab, kv->n_blocks - i * kv->blocks_per_slab);
        r = vk_alloc(vk, VK_HOME_DEVICE, n * block, &kv->slab[i], err);
    }
    return r;
}

static int alloc_digests(struct vk *vk, struct vk_kv *kv, struct err *err)
{
    uint32_t n = kv->layout.n_layers;
    kv->digest = calloc(n, sizeof(*kv->digest));
    if (!kv->digest)
        return err_set(err, -ENOMEM, "no memory for %u layers", n);
    int r = vk_alloc(vk, VK_HOME_UPLOAD, n * sizeof(uint64_t), &kv->digest_at, err);
    for (uint32_t i = 0; r == 0 && i < n; i++) {
        r = vk_alloc(vk, VK_HOME_DEVICE, kv->n_blocks * digest_bytes(kv), &kv->digest[i], err);
        if (r == 0)
            ((uint64_t *)kv->digest_at.map)[i] = kv->digest[i].addr;
    }
    return r;
}

// A slab holds whole blocks, one after the other.
static int alloc_pages(struct vk *vk, struct vk_kv *kv, struct err *err)
{
    uint32_t layers = kv->layout.n_layers;
    int r = vk_alloc(vk, VK_HOME_UPLOAD, (size_t)layers * kv->n_blocks * sizeof(uint64_t),
                     &kv->page, err);
    for (uint32_t block = 0; r == 0 && block < kv->n_blocks; block++) {
        const struct vk_mem *slab = &kv->slab[block / kv->blocks_per_slab];
        size_t first = (size_t)(block % kv->blocks_per_slab) * layers;
        for (uint32_t layer = 0; layer < layers; layer++)
            ((uint64_t *)kv->page.map)[(size_t)layer * kv->n_blocks + block] =
                slab->addr + (first + layer) * page_bytes(kv);
    }
    return r;
}

static void free_memory(struct vk *vk, struct vk_kv *kv)
{
    for (uint32_t i = 0; kv->slab && i < kv->n_slabs; i++)
        vk_free(vk, &kv->slab[i]);
    for (uint32_t i = 0; kv->digest && i < kv->layout.n_layers; i++)
        vk_free(vk, &kv->digest[i]);
    vk_free(vk, &kv->page);
    vk_free(vk, &kv->digest_at);
    vk_free(vk, &kv->staging);
    vk_cmd_destroy(kv->cmd);
    free(kv->slab);
    free(kv->digest);
}

int vulkan_kv_alloc(struct program *p, uint32_t n_blocks, struct kv_layout *ret, struct err *err)
{
    struct vk_program *g = container_of(p, struct vk_program, p);
    struct vk_kv kv = { .n_blocks = n_blocks, .write = g->kv.write, .move = g->kv.move };
    assert(n_blocks > 0 && !g->kv.slab);
    int r = kv_layout_init(&kv.layout, g->cfg, g->params.k_type, g->params.v_type,
                           VULKAN_LAYOUT_VERSION, err);
    if (r)
        return r;
    r = alloc_slabs(g->vk, &kv, err);
    if (r == 0)
        r = alloc_digests(g->vk, &kv, err);
    if (r == 0)
        r = alloc_pages(g->vk, &kv, err);
    if (r == 0)
        r = vk_alloc(g->vk, VK_HOME_HOST, kv.layout.block_bytes, &kv.staging, err);
    if (r == 0)
        r = vk_cmd_create(g->vk, &kv.cmd, err);
    if (r) {
        free_memory(g->vk, &kv);
        return r;
    }
    g->kv = kv;
    *ret = kv.layout;
    return 0;
}

void vk_kv_finish(struct vk_program *g)
{
    free_memory(g->vk, &g->kv);
    g->kv = (struct vk_kv){0};
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

// ---- KV_WRITE ---------------------------------------------------------------------------------

struct write_push {                     // kv_write.comp
    VkDeviceAddress k, v, page, digest, table, row, head;
    uint32_t k_stride, v_stride, digest_stride;
};

void vk_kv_record(struct vk_program *g, struct vk_cmd *c, const struct vk_op *o,
                  const struct shape *s)
{
    const struct op *op = o->op;
    const struct write_push push = {
        .k = g->slot[op->src[0]].addr, .v = g->slot[op->src[1]].addr,
        .page = vk_kv_pages(g, op->layer), .digest = g->kv.digest[op->layer].addr,
        .table = g->step.table.addr, .row = g->step.row.addr, .head = g->step.head.addr,
        .k_stride = g->stride[op->src[0]] / 4, .v_stride = g->stride[op->src[1]] / 4,
        .digest_stride = (uint32_t)(g->kv.layout.digest_head_bytes / sizeof(uint16_t)),
    };
    const struct vk_use uses[] = {
        vk_reads(&g->slot[op->src[0]]), vk_reads(&g->slot[op->src[1]]),
        vk_kv_use(g, op->layer, true),
    };
    const struct vk_groups n = { s->n_decode + s->n_prompt, g->cfg->n_kv_heads, 1 };
    vk_dispatch(c, g->kv.write, "kv_write", &push, sizeof(push), n, uses, ARRAY_LEN(uses));
}

// ---- whole blocks -----------------------------------------------------------------------------

struct move_push {                      // kv_move.comp
    VkDeviceAddress page, digest, staging;
    uint32_t n_blocks, src, dst, page_words, digest_words;
};

// Nothing to return a failure through: it means a lost device, and the next step says so.
static int move(struct vk_program *g, uint32_t dst, uint32_t src)
{
    struct vk_kv *kv = &g->kv;
    struct err err;
    const struct move_push push = {
        .page = kv->page.addr, .digest = kv->digest_at.addr, .staging = kv->staging.addr,
        .n_blocks = kv->n_blocks, .src = src, .dst = dst,
        .page_words = (uint32_t)(page_bytes(kv) / 16),
        .digest_words = (uint32_t)(digest_bytes(kv) / 16),
    };
    uint32_t words = push.page_words + push.digest_words;
    const struct vk_groups n = {
        DIV_UP(words, MOVE_THREADS * MOVE_WORDS), kv->layout.n_layers, 1 };
    const struct vk_use uses[] = { vk_writes(&kv->page), vk_writes(&kv->staging) };
    assert((src < kv->n_blocks || src == STAGING) && (dst < kv->n_blocks || dst == STAGING));
    vk_cmd_begin(kv->cmd);
    vk_dispatch(kv->cmd, kv->move, "kv_move", &push, sizeof(push), n, uses, ARRAY_LEN(uses));
    int r = vk_cmd_end(kv->cmd, &err);
    return r ? r : vk_run(g->vk, kv->cmd, MOVE_TIMEOUT_NS, &err);
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
