// A step: what is different each time goes into upload memory, what is the same for all batches of
// a shape is a command buffer that was recorded once.
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "engine/exec/vulkan/vulkan.h"
#include "base/base.h"

#define RECORDED_MAX 64
#define TABLE_ENTRIES_MIN 4096
#define PROMPT_ROWS 64                  // rows of prompts are rounded up to multiples of this

// The most recent use of a shape and its commands; cmd NULL: free.
struct recorded {
    struct shape   shape;
    struct vk_cmd *cmd;
    uint64_t       used;                // the step that used it last
};

// ---- memory -----------------------------------------------------------------------------------

int vk_step_init(struct vk_program *g, struct err *err)
{
    struct step_mem *m = &g->step;
    size_t rows = g->params.rows_max, outputs = MAX(g->params.outputs_max, 1u);
    g->recorded = calloc(RECORDED_MAX, sizeof(*g->recorded));
    if (!g->recorded)
        return err_set(err, -ENOMEM, "no memory for %d command buffers", RECORDED_MAX);
    g->n_recorded = RECORDED_MAX;
    int r = vk_alloc(g->vk, VK_HOME_UPLOAD, sizeof(struct step_head), &m->head, err);
    if (r == 0)
        r = vk_alloc(g->vk, VK_HOME_UPLOAD, rows * sizeof(struct step_row), &m->row, err);
    if (r == 0)
        r = vk_alloc(g->vk, VK_HOME_UPLOAD, outputs * sizeof(uint32_t), &m->out_row, err);
    if (r == 0)
        r = vk_alloc(g->vk, VK_HOME_UPLOAD, TABLE_ENTRIES_MIN * sizeof(uint32_t), &m->table, err);
    return r;
}

void vk_step_finish(struct vk_program *g)
{
    struct vk_mem *mem[] = { &g->step.head, &g->step.row, &g->step.out_row, &g->step.table };
    if (g->recorded)
        vk_recorded_drop(g);
    free(g->recorded);
    g->recorded = NULL;
    g->n_recorded = 0;
    for (unsigned i = 0; i < ARRAY_LEN(mem); i++)
        vk_free(g->vk, mem[i]);
}

// ---- what the batch says ----------------------------------------------------------------------

static void check_seq(const struct vk_program *g, uint32_t i, uint32_t row0)
{
    const struct batch_seq *s = &g->batch->seq[i];
    assert(s->row0 == row0 && s->n_rows > 0);
    assert(i == 0 || !s->decode || s[-1].decode);
    assert(!g->kv.n_blocks ||
           (uint64_t)s->n_blocks * KV_BLOCK_TOKENS >= (uint64_t)s->pos0 + s->n_rows);
}

static struct step_head count_rows(const struct vk_program *g, size_t *table_bytes)
{
    const struct batch *b = g->batch;
    struct step_head h = { .n_out = b->n_out, .n_seqs = b->n_seqs };
    *table_bytes = 0;
    for (uint32_t i = 0; i < b->n_seqs; i++) {
        check_seq(g, i, h.n_rows);
        h.n_rows += b->seq[i].n_rows;
        h.n_decode += b->seq[i].decode ? b->seq[i].n_rows : 0;
        *table_bytes += b->seq[i].n_blocks * sizeof(uint32_t);
    }
    assert(h.n_rows == b->n_rows);
    return h;
}

// Upload memory is written in order and never read: it may be the device's own.
static void fill_rows(struct vk_program *g)
{
    const struct batch *b = g->batch;
    struct step_row *row = g->step.row.map;
    uint32_t *table = g->step.table.map, first = 0;
    for (uint32_t i = 0; i < b->n_seqs; i++) {
        const struct batch_seq *s = &b->seq[i];
        for (uint32_t k = 0; k < s->n_rows; k++) {
            int32_t token = b->token ? b->token[s->row0 + k] : 0;
            assert(!g->n_tokens || (uint32_t)token < g->n_tokens);
            *row++ = (struct step_row){ token, s->pos0 + k, first, i };
        }
        if (s->n_blocks)
            memcpy(table + first, s->block, s->n_blocks * sizeof(*table));
        first += s->n_blocks;
    }
}

static void fill_out_rows(struct vk_program *g)
{
    const struct batch *b = g->batch;
    uint32_t *out = g->step.out_row.map;
    for (uint32_t i = 0; i < b->n_out; i++) {
        assert(b->out_row[i] < b->n_rows && (i == 0 || b->out_row[i] > b->out_row[i - 1]));
        out[i] = b->out_row[i];
    }
}

// ---- shapes -----------------------------------------------------------------------------------

// Powers of two, from 32 on multiples of 16.
static uint32_t few_rows(uint32_t n, uint32_t max)
{
    uint32_t up = n > 0;
    while (up < n && up < 32)
        up *= 2;
    return MIN(n <= 32 ? up : ALIGN_UP(n, 16u), max);
}

// At most an eighth too many.
static uint32_t many_rows(uint32_t n, uint32_t max)
{
    uint32_t unit = PROMPT_ROWS;
    while (unit * 16 < n)
        unit *= 2;
    return MIN(ALIGN_UP(n, unit), max);
}

static struct shape shape_of(const struct vk_program *g, const struct step_head *h)
{
    return (struct shape){
        .n_decode = few_rows(h->n_decode, g->params.rows_max),
        .n_prompt = many_rows(h->n_rows - h->n_decode, g->params.rows_max),
        .n_out = few_rows(h->n_out, g->params.outputs_max),
    };
}

static bool shape_equal(const struct shape *a, const struct shape *b)
{
    return a->n_decode == b->n_decode && a->n_prompt == b->n_prompt && a->n_out == b->n_out &&
           a->outputs == b->outputs && a->attn_whole == b->attn_whole &&
           a->attn_slices == b->attn_slices;
}

static int prepare(struct vk_program *g, struct shape *ret, struct err *err)
{
    size_t table_bytes;
    struct step_head head = count_rows(g, &table_bytes);
    int r = vk_grow(g, &g->step.table, VK_HOME_UPLOAD, table_bytes, err);
    if (r)
        return r;
    *(struct step_head *)g->step.head.map = head;
    fill_rows(g);
    fill_out_rows(g);
    vk_rope_fill(g);
    *ret = shape_of(g, &head);
    ret->outputs = vk_top_prepare(g);
    return vk_attn_prepare(g, ret, err);
}

// ---- recording --------------------------------------------------------------------------------

void vk_op_record(struct vk_program *g, struct vk_cmd *c, const struct vk_op *o,
                  const struct shape *s)
{
    if (vk_op_rows(o, s) == 0)
        return;
    switch (o->op->kind) {
    case OP_NORM: vk_norm_record(g, c, o, s); break;
    case OP_EMBED:
    case OP_GLU:
    case OP_GATHER: vk_rows_record(g, c, o, s); break;
    case OP_ROPE: vk_rope_record(g, c, o, s); break;
    case OP_MATMUL:
    case OP_LOGITS: vk_matmul_record(g, c, o, s); break;
    case OP_KV_WRITE:
    case OP_QKV_STORE: vk_kv_record(g, c, o, s); break;
    case OP_ATTN: vk_attn_record(g, c, o, s); break;
    case OP_KIND_COUNT: assert(!"an operation");
    }
}

static int record(struct vk_program *g, struct vk_cmd *c, const struct shape *s, struct err *err)
{
    vk_cmd_begin(c);
    g->ready.op = NULL;
    if (s->attn_slices)
        vk_kv_used_clear(g, c);
    for (uint32_t i = 0; i < g->plan->n_ops; i++)
        vk_op_record(g, c, &g->op[i], s);
    vk_top_record(g, c, s);
    if (s->attn_slices)
        vk_kv_used_fetch(g, c);
    return vk_cmd_end(c, err);
}

// The entry of a shape, else a free one, else the one that was not used for longest.
static struct recorded *find_recorded(struct vk_program *g, const struct shape *s)
{
    struct recorded *best = NULL;
    for (struct recorded *r = g->recorded; r < g->recorded + g->n_recorded; r++) {
        if (r->cmd && shape_equal(&r->shape, s))
            return r;
        if (!best || (best->cmd && (!r->cmd || r->used < best->used)))
            best = r;
    }
    return best;
}

static void drop(struct recorded *r)
{
    vk_cmd_destroy(r->cmd);
    *r = (struct recorded){0};
}

void vk_recorded_drop(struct vk_program *g)
{
    for (uint32_t i = 0; i < g->n_recorded; i++)
        drop(&g->recorded[i]);
}

uint32_t vk_recorded_barriers(const struct vk_program *g)
{
    for (uint32_t i = 0; i < g->n_recorded; i++)
        if (g->recorded[i].cmd && g->recorded[i].used == g->n_steps)
            return vk_cmd_barriers(g->recorded[i].cmd);
    return 0;
}

static int take_recorded(struct vk_program *g, const struct shape *s, struct vk_cmd **ret,
                         struct err *err)
{
    struct recorded *e = find_recorded(g, s);
    int r = 0;
    if (!e->cmd || !shape_equal(&e->shape, s)) {
        if (!e->cmd)
            r = vk_cmd_create(g->vk, &e->cmd, err);
        e->shape = *s;
        if (r == 0)
            r = record(g, e->cmd, s, err);
        if (r) {
            drop(e);
            return r;
        }
    }
    e->used = ++g->n_steps;
    *ret = e->cmd;
    return 0;
}

// ---- a step -----------------------------------------------------------------------------------

int vulkan_submit(struct program *p, struct batch *b, struct err *err)
{
    struct vk_program *g = container_of(p, struct vk_program, p);
    struct shape shape;
    struct vk_cmd *cmd;
    assert(!g->batch);
    assert(b->n_rows > 0 && b->n_rows <= g->params.rows_max);
    assert(b->n_seqs <= g->params.seqs_max && b->n_out <= g->params.outputs_max);
    g->batch = b;
    int r = prepare(g, &shape, err);
    if (r == 0)
        r = take_recorded(g, &shape, &cmd, err);
    if (r == 0)
        r = vk_kv_step_begin(g, err);
    if (r == 0 && vk_is_paged(g))
        r = vk_paged_submit(g, &shape, cmd, err);
    else if (r == 0)
        r = vk_submit(g->vk, cmd, &g->ticket, err);
    if (r)
        g->batch = NULL;
    return r;
}

int vulkan_wait(struct program *p, uint64_t timeout_ns, struct err *err)
{
    struct vk_program *g = container_of(p, struct vk_program, p);
    assert(g->batch);
    int r = vk_is_paged(g) ? vk_paged_wait(g, timeout_ns, err)
                           : vk_wait(g->vk, g->ticket, timeout_ns, err);
    if (r == 0) {
        vk_top_take(g);
        vk_kv_step_end(g);
    }
    g->batch = NULL;
    return r;
}
