// OP_ATTN recorded: which kernels attention takes and what they are given.
#include "engine/exec/vulkan/attn.h"
#include <errno.h>
#include <stdlib.h>
#include "base/base.h"

#define GATHER_QUADS_MAX 4              // heads in fours: room for their scores
#define GATHER_QUERY_MAX 768            // and for their queries, in vec4s: 12 KiB
#define CHOOSE_THREADS 256

// How attn_gather and attn_tile spread over invocations. A wide subgroup wants loads side by side
// and many in flight; a narrow one is a processor's vector, which wants few at a time.
struct spread { uint32_t threads, lanes_max, v_batch, tile_lanes; };
static const struct spread wide = { 256, 4, 8, 8 }, narrow = { 64, 4, 2, 4 };

#define TILE_QUADS_MAX 8                // queries in fours: room in registers for their sums
#define TILE_QUERY_MAX 1024             // and in shared memory, in vec4s: 16 KiB

// ---- life -------------------------------------------------------------------------------------

static void choose_heads(struct vk_attn *a, uint32_t dim)
{
    uint32_t quads = attn_head_quads(a);
    uint32_t most = CLAMP(GATHER_QUERY_MAX / dim, 1u, (uint32_t)GATHER_QUADS_MAX);
    uint32_t parts = DIV_UP(quads, most);
    a->heads = MIN(4 * DIV_UP(quads, parts), a->group);
}

// Neighbouring rows, as many as there is room for their queries.
static void choose_tile(struct vk_attn *a, uint32_t dim, uint32_t v_chunks, uint32_t threads)
{
    uint32_t most = MIN(MIN((uint32_t)TILE_QUADS_MAX, TILE_QUERY_MAX / dim), threads / v_chunks);
    a->tile_heads = MIN(4 * most, a->group);
    a->tile_rows = 1;
    while (a->tile_rows * 2 * a->tile_heads <= 4 * most && a->tile_rows < KV_BLOCK_TOKENS)
        a->tile_rows *= 2;
}

// For attn_prompt.comp: what it says of a subgroup's matrices, and how many fit a workgroup.
struct matrix_cut { uint32_t subgroup, heads, rows; struct vk_tile m; };

#define PROMPT_SUBGROUPS 4              // of a workgroup, where a group of heads is smaller
#define PROMPT_HEADS_MAX 8

static size_t prompt_shared_bytes(const struct vk_program *g, const struct matrix_cut *c)
{
    size_t queries = c->rows * c->heads, row_words = KV_BLOCK_TOKENS / 4 + 1;
    return queries * (row_words * 16 + c->m.n * sizeof(float)) +
           (size_t)KV_BLOCK_TOKENS * (g->cfg->head_dim / 8 + 1) * 16 + 16;
}

static bool cut_for_matrices(const struct vk_program *g, struct matrix_cut *ret)
{
    const struct vk_info *info = vk_info(g->vk);
    struct matrix_cut c = { .subgroup = info->subgroup, .m = info->tile_f16 };
    uint32_t dim = g->cfg->head_dim, group = g->attn->group;
    if (g->exact || g->params.k_type == KV_F32 || g->params.v_type == KV_F32 ||
        !vk_kernel_runs(g->vk, KERNEL_attn_prompt))
        return false;
    if (c.subgroup * 8 != c.m.m * c.m.k || dim % c.m.k || dim % c.m.n)
        return false;
    for (c.heads = MIN(group, (uint32_t)PROMPT_HEADS_MAX); group % c.heads; c.heads--)
        ;
    for (c.rows = c.m.m; c.rows * 2 * c.heads <= PROMPT_SUBGROUPS * c.m.m; c.rows *= 2)
        ;
    *ret = c;
    return prompt_shared_bytes(g, &c) <= info->shared_bytes;
}

// The kernel for tiles of prompts: on matrices, or a plain one.
static int make_tile(struct vk_program *g, const struct spread *s, uint32_t v_chunks,
                     struct err *err)
{
    struct vk_attn *a = g->attn;
    uint32_t dim = g->cfg->head_dim, k = g->params.k_type, v = g->params.v_type;
    struct matrix_cut c;
    if (cut_for_matrices(g, &c)) {
        a->tile_heads = c.heads;
        a->tile_rows = c.rows;
        const uint32_t spec[] = {
            c.rows * c.heads / c.m.m * c.subgroup, dim, a->group, c.heads, c.rows, k, v, c.m.m,
            c.m.n, c.m.k, c.subgroup, vk_is_paged(g),
        };
        return vk_kernel(g->vk, KERNEL_attn_prompt, spec, ARRAY_LEN(spec), &a->tile, err);
    }
    choose_tile(a, dim, v_chunks, s->threads);
    const uint32_t spec[] = {
        s->threads, dim, a->group, a->tile_heads, a->tile_rows, k, v, s->tile_lanes,
        vk_is_paged(g),
    };
    return vk_kernel(g->vk, KERNEL_attn_tile, spec, ARRAY_LEN(spec), &a->tile, err);
}

// How many invocations share a row of K: each has as many rows and sums of all heads for each.
static uint32_t gather_lanes(const struct vk_program *g, uint32_t max)
{
    static const uint32_t width[] = { [KV_F32] = 4, [KV_F16] = 8, [KV_Q8_0] = 16 };
    uint32_t chunks = g->cfg->head_dim / width[g->params.k_type], lanes = 1;
    max = MIN(max / DIV_UP(g->attn->heads, 4), vk_info(g->vk)->subgroup);
    while (lanes * 2 <= max && chunks % (lanes * 2) == 0)
        lanes *= 2;
    return lanes;
}

int attn_make_readers(struct vk_program *g, bool is_wide, struct err *err)
{
    struct vk_attn *a = g->attn;
    uint32_t dim = g->cfg->head_dim, k = g->params.k_type, v = g->params.v_type;
    uint32_t v_chunks = dim / (v == KV_F32 ? 4 : 8);
    struct spread s = is_wide ? wide : narrow;
    if (vk_info(g->vk)->software) {                     // long kernels take minutes to compile
        s.lanes_max = narrow.lanes_max;
        s.v_batch = narrow.v_batch;
    }
    while (s.threads < v_chunks)                        // each has one of them
        s.threads *= 2;
    const uint32_t gather[] = {
        s.threads, dim, a->group, a->heads, k, v, gather_lanes(g, s.lanes_max), s.v_batch,
        s.threads / vk_info(g->vk)->subgroup, vk_is_paged(g),
    };
    int r = vk_kernel(g->vk, KERNEL_attn_gather, gather, ARRAY_LEN(gather), &a->gather, err);
    return r ? r : make_tile(g, &s, v_chunks, err);
}

int vk_attn_readers(struct vk_program *g, struct err *err)
{
    if (g->attn->n_classes == 0)
        return 0;
    return attn_make_readers(g, vk_info(g->vk)->subgroup > 8, err);
}

static int make_kernels(struct vk_program *g, struct vk_attn *a, struct err *err)
{
    uint32_t dim = g->cfg->head_dim;
    const uint32_t score[] = { SCORE_THREADS, dim, a->group };
    const uint32_t choose[] = { CHOOSE_THREADS, a->group };
    int r = vk_attn_readers(g, err);
    if (r == 0)
        r = vk_kernel(g->vk, KERNEL_select_score, score, ARRAY_LEN(score), &a->score, err);
    if (r == 0)
        r = vk_kernel(g->vk, KERNEL_select_choose, choose, ARRAY_LEN(choose), &a->choose, err);
    return r;
}

int vk_attn_init(struct vk_program *g, struct err *err)
{
    struct vk_attn *a = g->attn = calloc(1, sizeof(*a));
    if (!a)
        return err_set(err, -ENOMEM, "no memory for attention");
    int r = vk_attn_classes_init(g, err);
    if (r || a->n_classes == 0)
        return r;
    a->group = vk_group_heads(g);
    a->splits_max = (uint32_t)MIN((size_t)ATTN_UNITS_MAX,
                                  ATTN_PARTIAL_BYTES_MAX / attn_partial_bytes(g));
    a->score_bytes_max = ATTN_SCORE_BYTES_MAX;
    choose_heads(a, g->cfg->head_dim);
    size_t counts = (size_t)g->params.rows_max * g->cfg->n_kv_heads * attn_parts(a, a->heads);
    r = vk_alloc(g->vk, VK_HOME_DEVICE, counts * sizeof(uint32_t), &a->done, err);
    return r ? r : make_kernels(g, a, err);
}

void vk_attn_finish(struct vk_program *g)
{
    struct vk_attn *a = g->attn;
    if (!a)
        return;
    vk_attn_classes_finish(g);
    struct vk_mem *mem[] = {
        &a->select, &a->slice, &a->partial_ml, &a->partial_o, &a->done, &a->scores, &a->list,
    };
    for (unsigned i = 0; i < ARRAY_LEN(mem); i++)
        vk_free(g->vk, mem[i]);
    free(a);
    g->attn = NULL;
}

// ---- selection --------------------------------------------------------------------------------

struct score_push {                     // select_score.comp
    VkDeviceAddress q, digest, table, row, select, slice, score;
    uint32_t q_stride, digest_stride, n_slice;
    float    scale;
};

struct choose_push {                    // select_choose.comp
    VkDeviceAddress select, slice, score, list, table, row, used;
    uint32_t n_slice;
};

static void record_score(struct vk_program *g, struct vk_cmd *c, const struct op *op, uint32_t i)
{
    const struct vk_attn *a = g->attn;
    const struct score_push push = {
        .q = g->slot[op->src[0]].addr, .digest = g->kv.digest[op->layer].addr,
        .table = g->step.table.addr, .row = g->step.row.addr, .select = a->select.addr,
        .slice = a->slice.addr, .score = a->scores.addr, .q_stride = g->stride[op->src[0]],
        .digest_stride = (uint32_t)(g->kv.layout.digest_head_bytes / 16), .n_slice = i,
        .scale = op->attn.scale,
    };
    const struct vk_use uses[] = {
        vk_reads(&g->slot[op->src[0]]), vk_kv_use(g, op->layer, false), vk_writes(&a->scores) };
    size_t at = i * sizeof(struct attn_slice) + offsetof(struct attn_slice, score);
    vk_dispatch_indirect(c, a->score, "select_score", &push, sizeof(push), &a->slice, at, uses,
                         ARRAY_LEN(uses));
}

// Marks what rows chose.
static void record_choose(struct vk_program *g, struct vk_cmd *c, const struct op *op, uint32_t i)
{
    const struct vk_attn *a = g->attn;
    const struct vk_use used = vk_kv_used(g, op->layer);
    const struct choose_push push = {
        .select = a->select.addr, .slice = a->slice.addr, .score = a->scores.addr,
        .list = a->list.addr, .table = g->step.table.addr, .row = g->step.row.addr,
        .used = used.addr, .n_slice = i,
    };
    const struct vk_use uses[] = { vk_writes(&a->scores), vk_writes(&a->list), used };
    size_t at = i * sizeof(struct attn_slice) + offsetof(struct attn_slice, choose);
    vk_dispatch_indirect(c, a->choose, "select_choose", &push, sizeof(push), &a->slice, at, uses,
                         ARRAY_LEN(uses));
}

// ---- attention --------------------------------------------------------------------------------

struct gather_push {                    // attn_gather.comp
    VkDeviceAddress q, dst, page, table, unit, list, partial_ml, partial_o, done, act;
    uint32_t q_stride, dst_stride, n_heads;
    float    scale, softcap;
};

struct tile_push {                      // attn_tile.comp, attn_prompt.comp
    VkDeviceAddress q, dst, row, attn_row, table, list, tile, page;
    uint32_t q_stride, dst_stride;
    float    scale, softcap;
};

static_assert(sizeof(struct gather_push) <= VK_PUSH_BYTES, "push constants");

// And the input of the product that follows, if it is bytes.
static void record_gather(struct vk_program *g, struct vk_cmd *c, const struct vk_op *o,
                          const struct attn_class *class)
{
    const struct vk_attn *a = g->attn;
    const struct op *op = o->op;
    const struct vk_mem none = {0}, *act = o->next ? &g->act[o->next->act] : &none;
    const struct gather_push push = {
        .q = g->slot[op->src[0]].addr, .dst = g->slot[op->dst[0]].addr,
        .page = vk_kv_pages(g, op->layer), .table = g->step.table.addr,
        .unit = class->unit.addr, .list = a->list.addr, .partial_ml = a->partial_ml.addr,
        .partial_o = a->partial_o.addr, .done = a->done.addr, .act = act->addr,
        .q_stride = g->stride[op->src[0]], .dst_stride = g->stride[op->dst[0]],
        .n_heads = g->cfg->n_heads, .scale = op->attn.scale, .softcap = op->attn.softcap,
    };
    const struct vk_use uses[] = {
        vk_reads(&g->slot[op->src[0]]), vk_kv_use(g, op->layer, false), vk_reads(&a->list),
        vk_writes(&a->partial_ml), vk_writes(&a->partial_o), vk_writes(&a->done),
        vk_writes(&g->slot[op->dst[0]]), vk_writes(act),
    };
    vk_dispatch_indirect(c, a->gather, "attn_gather", &push, sizeof(push), &class->groups,
                         offsetof(struct attn_groups, gather), uses, ARRAY_LEN(uses));
    if (o->next)
        vk_input_ready(g, o->next, false);
}

static void record_tile(struct vk_program *g, struct vk_cmd *c, const struct op *op,
                        const struct attn_class *class)
{
    const struct vk_attn *a = g->attn;
    const struct tile_push push = {
        .q = g->slot[op->src[0]].addr, .dst = g->slot[op->dst[0]].addr,
        .row = g->step.row.addr, .attn_row = class->row.addr, .table = g->step.table.addr,
        .list = a->list.addr, .tile = class->tile.addr, .page = vk_kv_pages(g, op->layer),
        .q_stride = g->stride[op->src[0]], .dst_stride = g->stride[op->dst[0]],
        .scale = op->attn.scale, .softcap = op->attn.softcap,
    };
    const struct vk_use uses[] = {
        vk_reads(&g->slot[op->src[0]]), vk_kv_use(g, op->layer, false), vk_reads(&a->list),
        vk_writes(&g->slot[op->dst[0]]),
    };
    vk_dispatch_indirect(c, a->tile, "attn_tile", &push, sizeof(push), &class->groups,
                         offsetof(struct attn_groups, tile), uses, ARRAY_LEN(uses));
}

void vk_attn_select(struct vk_program *g, struct vk_cmd *c, const struct vk_op *o,
                    const struct shape *s)
{
    const struct attn_class *class = &g->attn->class[o->attn_class];
    for (uint32_t i = 0; class->window == 0 && i < s->attn_slices; i++) {
        record_score(g, c, o->op, i);
        record_choose(g, c, o->op, i);
    }
}

void vk_attn_read(struct vk_program *g, struct vk_cmd *c, const struct vk_op *o,
                  const struct shape *s)
{
    const struct attn_class *class = &g->attn->class[o->attn_class];
    if (s->n_prompt)
        record_tile(g, c, o->op, class);
    if (s->n_decode)
        record_gather(g, c, o, class);
}

void vk_attn_record(struct vk_program *g, struct vk_cmd *c, const struct vk_op *o,
                    const struct shape *s)
{
    vk_attn_select(g, c, o, s);
    vk_attn_read(g, c, o, s);
}
