// What the engine wants of a step's outputs, picked out on the device; and parts of rows, copied
// when they are asked for.
#include "engine/exec/vulkan/top.h"
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "base/base.h"
#include "base/clock.h"

#define THREADS 256                     // as many as a byte has values
#define SUM_LANES 8                     // invocations of a sum
#define READ_TIMEOUT_NS (60 * NS_PER_S)

// ---- life -------------------------------------------------------------------------------------

static int make_kernels(struct vk_program *g, struct vk_top *t, struct err *err)
{
    const uint32_t spec[] = { THREADS };
    const struct { enum kernel_id id; const struct vk_kernel **ret; } kernel[] = {
        { KERNEL_top_slice, &t->slice }, { KERNEL_top_merge, &t->merge },
        { KERNEL_top_sums, &t->sums }, { KERNEL_top_near, &t->near },
    };
    int r = 0;
    for (unsigned i = 0; r == 0 && i < ARRAY_LEN(kernel); i++)
        r = vk_kernel(g->vk, kernel[i].id, spec, ARRAY_LEN(spec), kernel[i].ret, err);
    return r;
}

static int make_memory(struct vk_program *g, struct vk_top *t, struct err *err)
{
    const struct { struct vk_mem *ret; enum vk_home home; size_t row_bytes; } mem[] = {
        { &t->rows, VK_HOME_DEVICE, g->n_vocab * sizeof(float) },
        { &t->want, VK_HOME_UPLOAD, sizeof(struct top_want) },
        { &t->peak, VK_HOME_DEVICE, t->n_slices * sizeof(uint64_t) },
        { &t->candidate, VK_HOME_DEVICE, t->n_slices * sizeof(uint64_t) * OUT_TOP_MAX },
        { &t->weight, VK_HOME_DEVICE, t->n_sums * sizeof(float) },
        { &t->best, VK_HOME_HOST, sizeof(struct top_best) },
        { &t->sum, VK_HOME_HOST, 2 * t->n_sums * sizeof(float) },
        { &t->window, VK_HOME_HOST, sizeof(struct top_near) },
    };
    int r = 0;
    for (unsigned i = 0; r == 0 && i < ARRAY_LEN(mem); i++)
        r = vk_alloc_dirty(g->vk, mem[i].home, g->params.outputs_max * mem[i].row_bytes,
                           mem[i].ret, err);
    if (r == 0)
        r = vk_alloc_dirty(g->vk, VK_HOME_HOST, g->n_vocab * sizeof(float), &t->part, err);
    return r;
}

int vk_top_init(struct vk_program *g, struct err *err)
{
    if (g->n_vocab == 0 || g->params.outputs_max == 0)
        return 0;
    struct vk_top *t = g->top = calloc(1, sizeof(*t));
    if (t)
        t->top = calloc(g->params.outputs_max, sizeof(*t->top));
    if (!t || !t->top)
        return err_set(err, -ENOMEM, "no memory for %u outputs", g->params.outputs_max);
    t->n_slices = DIV_UP(g->n_vocab, TOP_SLICE_TOKENS);
    t->n_sums = DIV_UP(g->n_vocab, OUT_SUM_TOKENS);
    int r = make_kernels(g, t, err);
    if (r == 0)
        r = make_memory(g, t, err);
    return r ? r : vk_cmd_create(g->vk, &t->read, err);
}

void vk_top_finish(struct vk_program *g)
{
    struct vk_top *t = g->top;
    if (!t)
        return;
    struct vk_mem *mem[] = { &t->rows, &t->want, &t->peak, &t->candidate, &t->weight, &t->best,
                             &t->sum, &t->window, &t->part };
    vk_cmd_destroy(t->read);
    for (unsigned i = 0; i < ARRAY_LEN(mem); i++)
        vk_free(g->vk, mem[i]);
    free(t->top);
    free(t);
    g->top = NULL;
}

// ---- before a step ----------------------------------------------------------------------------

static struct top_want want_of(const struct vk_program *g, const struct out_want *w)
{
    struct top_want r = { .n_top = MIN(MIN(w->n_top, (uint32_t)OUT_TOP_MAX), g->n_vocab),
                          .draw = -1 };
    if (r.n_top == 0)
        return r;
    r.scale = w->scale;
    r.lse = w->lse;
    if (w->scale > 0 && w->draw >= 0)
        r.draw = (float)w->draw;
    return r;
}

// Rows that are wanted as such come one by one, so for many of them all come.
static enum vk_outputs outputs_of(const struct batch *b)
{
    uint32_t whole = 0;
    bool sums = false;
    for (uint32_t i = 0; b->want && i < b->n_out; i++) {
        whole += b->want[i].n_top == 0;
        sums |= b->want[i].n_top > 0 && (b->want[i].scale > 0 || b->want[i].lse);
    }
    if (!b->want || whole * 2 >= b->n_out)
        return VK_OUTPUTS_ROWS;
    return sums ? VK_OUTPUTS_SUMS : VK_OUTPUTS_BEST;
}

enum vk_outputs vk_top_prepare(struct vk_program *g)
{
    const struct batch *b = g->batch;
    struct vk_top *t = g->top;
    if (!t)
        return VK_OUTPUTS_ROWS;
    struct top_want *want = t->want.map;
    t->outputs = outputs_of(b);
    for (uint32_t i = 0; t->outputs != VK_OUTPUTS_ROWS && i < b->n_out; i++)
        want[i] = want_of(g, &b->want[i]);
    return t->outputs;
}

// ---- recording --------------------------------------------------------------------------------

struct slice_push {                     // top_slice.comp
    VkDeviceAddress logits, want, head, peak, candidate;
    uint32_t n_vocab;
};

struct merge_push {                     // top_merge.comp
    VkDeviceAddress logits, want, head, peak, candidate, best;
    uint32_t n_vocab, n_slices;
};

struct sums_push {                      // top_sums.comp
    VkDeviceAddress logits, want, head, peak, sum, near;
    uint32_t n_vocab, n_slices, n_sums;
};

struct near_push {                      // top_near.comp
    VkDeviceAddress logits, want, head, sum, near;
    uint32_t n_vocab, n_sums;
};

static void record_slices(struct vk_program *g, struct vk_cmd *c, uint32_t n_out)
{
    const struct vk_top *t = g->top;
    const struct slice_push push = {
        .logits = t->rows.addr, .want = t->want.addr, .head = g->step.head.addr,
        .peak = t->peak.addr, .candidate = t->candidate.addr, .n_vocab = g->n_vocab,
    };
    const struct vk_use uses[] = {
        vk_reads(&t->rows), vk_writes(&t->peak), vk_writes(&t->candidate) };
    const struct vk_groups n = { t->n_slices, n_out, 1 };
    vk_dispatch(c, t->slice, "top_slice", &push, sizeof(push), n, uses, ARRAY_LEN(uses));
}

static void record_merge(struct vk_program *g, struct vk_cmd *c, uint32_t n_out)
{
    const struct vk_top *t = g->top;
    const struct merge_push push = {
        .logits = t->rows.addr, .want = t->want.addr, .head = g->step.head.addr,
        .peak = t->peak.addr, .candidate = t->candidate.addr, .best = t->best.addr,
        .n_vocab = g->n_vocab, .n_slices = t->n_slices,
    };
    const struct vk_use uses[] = { vk_reads(&t->rows), vk_reads(&t->peak),
                                   vk_reads(&t->candidate), vk_writes(&t->best) };
    const struct vk_groups n = { n_out, 1, 1 };
    vk_dispatch(c, t->merge, "top_merge", &push, sizeof(push), n, uses, ARRAY_LEN(uses));
}

static void record_sums(struct vk_program *g, struct vk_cmd *c, uint32_t n_out)
{
    const struct vk_top *t = g->top;
    const struct sums_push push = {
        .logits = t->rows.addr, .want = t->want.addr, .head = g->step.head.addr,
        .peak = t->peak.addr, .sum = t->sum.addr, .near = t->weight.addr,
        .n_vocab = g->n_vocab, .n_slices = t->n_slices, .n_sums = t->n_sums,
    };
    const struct vk_use uses[] = { vk_reads(&t->rows), vk_reads(&t->peak), vk_writes(&t->sum),
                                   vk_writes(&t->weight) };
    const struct vk_groups n = { DIV_UP(t->n_sums, THREADS / SUM_LANES), n_out, 1 };
    vk_dispatch(c, t->sums, "top_sums", &push, sizeof(push), n, uses, ARRAY_LEN(uses));
}

static void record_near(struct vk_program *g, struct vk_cmd *c, uint32_t n_out)
{
    const struct vk_top *t = g->top;
    const struct near_push push = {
        .logits = t->rows.addr, .want = t->want.addr, .head = g->step.head.addr,
        .sum = t->weight.addr, .near = t->window.addr, .n_vocab = g->n_vocab,
        .n_sums = t->n_sums,
    };
    const struct vk_use uses[] = {
        vk_reads(&t->rows), vk_reads(&t->weight), vk_writes(&t->window) };
    const struct vk_groups n = { n_out, 1, 1 };
    vk_dispatch(c, t->near, "top_near", &push, sizeof(push), n, uses, ARRAY_LEN(uses));
}

void vk_top_record(struct vk_program *g, struct vk_cmd *c, const struct shape *s)
{
    if (s->outputs == VK_OUTPUTS_ROWS)
        return;
    record_slices(g, c, s->n_out);
    if (s->outputs == VK_OUTPUTS_SUMS)
        record_sums(g, c, s->n_out);
    record_merge(g, c, s->n_out);       // next to the sums: neither waits for the other
    if (s->outputs == VK_OUTPUTS_SUMS)
        record_near(g, c, s->n_out);
}

const struct vk_mem *vk_top_rows(const struct vk_program *g, const struct shape *s)
{
    return s->outputs == VK_OUTPUTS_ROWS ? &g->logits : &g->top->rows;
}

// ---- after a step -----------------------------------------------------------------------------

static void take_row(const struct vk_program *g, uint32_t i, const struct out_want *want,
                     struct out_top *ret)
{
    const struct vk_top *t = g->top;
    const struct top_want w = want_of(g, want);
    const struct top_best *best = (const struct top_best *)t->best.map + i;
    const struct top_near *near = (const struct top_near *)t->window.map + i;
    const float *sum = (const float *)t->sum.map + (size_t)i * 2 * t->n_sums;
    *ret = (struct out_top){ .n = w.n_top, .token = best->token, .logit = best->logit };
    if (w.n_top == 0)
        return;
    ret->nan = isnan(best->logit[0]);
    if (!isfinite(best->logit[0]))
        return;                         // there are no weights then
    ret->sum = w.scale > 0 ? sum : NULL;
    ret->sum1 = w.lse ? sum + t->n_sums : NULL;
    if (w.draw >= 0) {
        ret->near0 = near->first;
        ret->n_near = MIN((uint32_t)TOP_NEAR_TOKENS, g->n_vocab - near->first);
        ret->near = near->logit;
    }
}

void vk_top_take(struct vk_program *g)
{
    struct batch *b = g->batch;
    struct vk_top *t = g->top;
    bool whole = !t || t->outputs == VK_OUTPUTS_ROWS;
    b->logits = whole ? g->logits.map : NULL;
    b->top = whole ? NULL : t->top;
    for (uint32_t i = 0; !whole && i < b->n_out; i++)
        take_row(g, i, &b->want[i], &t->top[i]);
}

int vulkan_logits_read(struct program *p, uint32_t out, uint32_t first, uint32_t n, float *dst,
                       struct err *err)
{
    struct vk_program *g = container_of(p, struct vk_program, p);
    struct vk_top *t = g->top;
    assert(!g->batch && t && t->outputs != VK_OUTPUTS_ROWS);
    assert(out < g->params.outputs_max && n <= g->n_vocab && first <= g->n_vocab - n);
    size_t at = ((size_t)out * g->n_vocab + first) * sizeof(float), bytes = n * sizeof(float);
    vk_cmd_begin(t->read);
    vk_copy(t->read, &t->part, 0, &t->rows, at, bytes);
    int r = vk_cmd_end(t->read, err);
    if (r == 0)
        r = vk_run(g->vk, t->read, READ_TIMEOUT_NS, err);
    if (r == 0)
        memcpy(dst, t->part.map, bytes);
    return r;
}
