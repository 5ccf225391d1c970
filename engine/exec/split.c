// Two programs as one: see split.h.
#include "engine/exec/split.h"
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/base.h"
#include "base/clock.h"
#include "engine/exec/mem.h"
#include "engine/model/plan_cut.h"

struct half {
    const struct executor_ops *ops;
    struct program  *g;                 // owned
    struct model     model;             // the caller's, with fewer layers
    struct plan     *plan;              // owned
    struct kv_layout layout;
    uint64_t         weight_bytes, weights_before;  // of the load, for its progress
    uint64_t         run_ns;            // while profiled, where the executor tells nothing itself
};

struct blocks { uint64_t read, held; };

struct split_program {
    struct program        p;
    struct split_executor *x;
    struct half           half[2];
    struct load_params    params;
    uint32_t              slots;        // that move, enum slot as bits
    float                *rows;         // (rows_max, widest of those), owned

    uint8_t              *block;        // a half's, on its way; owned

    // The step.
    struct batch         *batch, first; // the caller's; the first half's: without outputs
    struct blocks        *blocks;       // (seqs_max) of the first half, owned

    bool     profiled;
    uint64_t moved_ns, n_moves;         // since the last profile
};

static struct split_program *of(struct program *p)
{
    return container_of(p, struct split_program, p);
}

// ---- the executor -----------------------------------------------------------------------------

static void split_close(struct executor *x)
{
    if (!x)
        return;
    struct split_executor *s = container_of(x, struct split_executor, x);
    for (unsigned i = 0; i < 2; i++)
        if (s->half[i])
            s->half[i]->ops->close(s->half[i]);
    free(s);
}

typedef void line_fn(const struct executor *x, char *buf, size_t size);

// Both halves' lines.
static void both(const struct split_executor *s, line_fn *const line[2], char *buf, size_t size)
{
    buf[0] = '\0';
    for (unsigned i = 0; i < 2; i++) {
        size_t n = strlen(buf);
        uint32_t layers = s->n_layers[i];
        snprintf(buf + n, size - n, "%s%u layer%s on ", i ? "; " : "", layers,
                 layers == 1 ? "" : "s");
        n = strlen(buf);
        line[i](s->half[i], buf + n, size - n);
    }
}

static void split_describe(const struct executor *x, char *buf, size_t size)
{
    const struct split_executor *s = container_of(x, const struct split_executor, x);
    both(s, (line_fn *[2]){s->half[0]->ops->describe, s->half[1]->ops->describe}, buf, size);
}

static void split_arithmetic(const struct executor *x, char *buf, size_t size)
{
    const struct split_executor *s = container_of(x, const struct split_executor, x);
    line_fn *line[2];
    for (unsigned i = 0; i < 2; i++) {
        const struct executor_ops *ops = s->half[i]->ops;
        line[i] = ops->arithmetic ? ops->arithmetic : ops->describe;
    }
    both(s, line, buf, size);
}

static uint32_t split_rows_usual(const struct executor *x)
{
    const struct split_executor *s = container_of(x, const struct split_executor, x);
    uint32_t rows = 0;
    for (unsigned i = 0; i < 2; i++)
        if (s->half[i]->ops->rows_usual)
            rows = MAX(rows, s->half[i]->ops->rows_usual(s->half[i]));
    return rows;
}

// ---- load -------------------------------------------------------------------------------------

static uint64_t matrix_bytes(const struct plan *p)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < p->n_ops; i++)
        for (unsigned k = 0; k < p->op[i].n_w; k++)
            bytes += p->op[i].w[k] ? p->op[i].w[k]->bytes : 0;
    return bytes;
}

// One half's progress as that of both.
static int tell_progress(struct split_program *g, const struct half *h, uint64_t done,
                         uint64_t total)
{
    double share = total ? (double)done / (double)total : 1;
    uint64_t bytes = h->weights_before + (uint64_t)(share * (double)h->weight_bytes);
    return g->params.progress(g->params.progress_ctx, bytes,
                              g->half[0].weight_bytes + g->half[1].weight_bytes);
}

static int first_progress(void *ctx, uint64_t done_bytes, uint64_t total_bytes)
{
    struct split_program *g = ctx;
    return tell_progress(g, &g->half[0], done_bytes, total_bytes);
}

static int second_progress(void *ctx, uint64_t done_bytes, uint64_t total_bytes)
{
    struct split_program *g = ctx;
    return tell_progress(g, &g->half[1], done_bytes, total_bytes);
}

static int cut(struct split_program *g, const struct model *m, const struct plan *plan,
               struct err *err)
{
    uint32_t layer0 = 0;
    int r = 0;
    for (unsigned i = 0; i < 2 && r == 0; i++) {
        struct half *h = &g->half[i];
        uint32_t n_layers = g->x->n_layers[i];
        h->ops = g->x->half[i]->ops;
        h->model = *m;
        h->model.cfg.n_layers = n_layers;
        r = plan_cut(&h->plan, plan, layer0, n_layers, err);
        h->weight_bytes = r ? 0 : matrix_bytes(h->plan);
        layer0 += n_layers;
    }
    assert(layer0 == m->cfg.n_layers);
    g->half[1].weights_before = g->half[0].weight_bytes;
    g->slots = plan_cut_slots(plan, g->x->n_layers[0]);
    return r;
}

static int alloc_step(struct split_program *g, const struct plan *plan, struct err *err)
{
    uint32_t width = 1;
    for (unsigned s = 0; s < SLOT_COUNT; s++)
        if (g->slots >> s & 1)
            width = MAX(width, plan->slot_width[s]);
    g->rows = calloc((size_t)g->params.rows_max * width, sizeof(*g->rows));
    g->blocks = calloc(g->params.seqs_max, sizeof(*g->blocks));
    if (g->rows && g->blocks)
        return 0;
    return err_set(err, -ENOMEM, "no memory for batches of %u rows", g->params.rows_max);
}

static int load_halves(struct split_program *g, struct err *err)
{
    struct load_params p[2] = { g->params, g->params };
    int r = 0;
    p[0].outputs_max = 0;
    p[0].progress = g->params.progress ? first_progress : NULL;
    p[1].progress = g->params.progress ? second_progress : NULL;
    for (unsigned i = 0; i < 2 && r == 0; i++) {
        struct half *h = &g->half[i];
        p[i].progress_ctx = g;
        r = h->ops->load(g->x->half[i], &h->model, h->plan, &p[i], &h->g, err);
    }
    return r;
}

static void split_unload(struct program *p)
{
    if (!p)
        return;
    struct split_program *g = of(p);
    for (unsigned i = 0; i < 2; i++) {
        if (g->half[i].g)
            g->half[i].ops->unload(g->half[i].g);
        plan_free(g->half[i].plan);
    }
    free(g->rows);
    free(g->block);
    free(g->blocks);
    free(g);
}

static int split_load(struct executor *x, const struct model *m, const struct plan *plan,
                      const struct load_params *p, struct program **ret, struct err *err)
{
    struct split_program *g = calloc(1, sizeof(*g));
    if (!g)
        return err_set(err, -ENOMEM, "no memory for a program");
    g->p.x = x;
    g->x = container_of(x, struct split_executor, x);
    g->params = *p;
    int r = cut(g, m, plan, err);
    if (r == 0)
        r = alloc_step(g, plan, err);
    if (r == 0)
        r = load_halves(g, err);
    if (r) {
        split_unload(&g->p);
        return r;
    }
    *ret = &g->p;
    return 0;
}

// ---- KV ---------------------------------------------------------------------------------------

// A block takes of both memories, by layers; the one that holds fewer blocks decides. Of the
// machine's a part is left to others.
static uint64_t split_kv_room(struct program *p)
{
    struct split_program *g = of(p);
    uint32_t n_layers = g->x->n_layers[0] + g->x->n_layers[1];
    double least = INFINITY;
    bool own = false;
    for (unsigned i = 0; i < 2; i++) {
        const struct half *h = &g->half[i];
        uint64_t room = h->ops->kv_room ? h->ops->kv_room(h->g) : 0;
        own |= room > 0;
        room = room ? room : mem_machine_bytes() / 4;
        least = MIN(least, (double)room / g->x->n_layers[i] * n_layers);
    }
    return own ? (uint64_t)MAX(least, 1.0) : 0;
}

// Of the second half's device, which may have room for less than split_kv_room() makes of it.
static void split_kv_limit(struct program *p, uint64_t device_bytes)
{
    struct half *h = &of(p)->half[1];
    uint64_t room = h->ops->kv_room ? h->ops->kv_room(h->g) : 0;
    // A part of the room is for digests, which are about 1 % of the KV.
    h->ops->kv_limit(h->g, room ? MIN(device_bytes, room - room / 32) : device_bytes);
}

static void split_kv_homes(const struct program *p, struct kv_homes *ret)
{
    const struct half *h = &container_of(p, const struct split_program, p)->half[1];
    h->ops->kv_homes(h->g, ret);
}

// Content keys say who computed which layers: another cut has other bits.
static uint32_t layout_version(const struct split_program *g)
{
    uint32_t first = g->half[0].layout.layout_version, second = g->half[1].layout.layout_version;
    static_assert(LAYERS_MAX < 1 << 15, "layers between the versions and the mark of a split");
    assert(first < 256 && second < 256);
    return UINT32_C(1) << 31 | g->x->n_layers[0] << 16 | first << 8 | second;
}

static int split_kv_alloc(struct program *p, uint32_t n_blocks, struct kv_layout *ret,
                          struct err *err)
{
    struct split_program *g = of(p);
    for (unsigned i = 0; i < 2; i++) {
        struct half *h = &g->half[i];
        int r = h->ops->kv_alloc(h->g, n_blocks, &h->layout, err);
        if (r)
            return r;
    }
    const struct kv_layout *a = &g->half[0].layout, *b = &g->half[1].layout;
    assert(a->page_bytes == b->page_bytes && a->digest_layer_bytes == b->digest_layer_bytes);
    *ret = *a;
    ret->n_layers = a->n_layers + b->n_layers;
    ret->digest_bytes = a->digest_bytes + b->digest_bytes;
    ret->block_bytes = a->block_bytes + b->block_bytes;
    ret->layout_version = layout_version(g);
    g->block = malloc(MAX(a->block_bytes, b->block_bytes));
    if (!g->block)
        return err_set(err, -ENOMEM, "no memory for a KV block");
    return 0;
}

static void split_kv_copy(struct program *p, uint32_t dst_block, uint32_t src_block)
{
    struct split_program *g = of(p);
    for (unsigned i = 0; i < 2; i++)
        g->half[i].ops->kv_copy(g->half[i].g, dst_block, src_block);
}

// A block is that of the whole model: digests of both halves, then pages of both.
struct parts { uint8_t *digests, *pages; size_t page_bytes; };

static struct parts parts_of(const struct split_program *g, unsigned i, uint8_t *block)
{
    const struct kv_layout *first = &g->half[0].layout, *l = &g->half[i].layout;
    uint8_t *pages = block + first->digest_bytes + g->half[1].layout.digest_bytes;
    return (struct parts){
        .digests = i ? block + first->digest_bytes : block,
        .pages = i ? pages + (first->block_bytes - first->digest_bytes) : pages,
        .page_bytes = l->block_bytes - l->digest_bytes,
    };
}

static void split_kv_read(struct program *p, uint32_t block, void *dst)
{
    struct split_program *g = of(p);
    for (unsigned i = 0; i < 2; i++) {
        struct half *h = &g->half[i];
        struct parts to = parts_of(g, i, dst);
        h->ops->kv_read(h->g, block, g->block);
        memcpy(to.digests, g->block, h->layout.digest_bytes);
        memcpy(to.pages, g->block + h->layout.digest_bytes, to.page_bytes);
    }
}

static void split_kv_write(struct program *p, uint32_t block, const void *src)
{
    struct split_program *g = of(p);
    for (unsigned i = 0; i < 2; i++) {
        struct half *h = &g->half[i];
        struct parts from = parts_of(g, i, (uint8_t *)(uintptr_t)src);
        memcpy(g->block, from.digests, h->layout.digest_bytes);
        memcpy(g->block + h->layout.digest_bytes, from.pages, from.page_bytes);
        h->ops->kv_write(h->g, block, g->block);
    }
}

// ---- a step -----------------------------------------------------------------------------------

// Adds the time since `start_ns` to a sum, while somebody wants to know.
static void count_time(const struct split_program *g, uint64_t *sum_ns, uint64_t start_ns)
{
    if (g->profiled)
        *sum_ns += clock_now_ns() - start_ns;
}

static int split_submit(struct program *p, struct batch *b, struct err *err)
{
    struct split_program *g = of(p);
    struct half *h = &g->half[0];
    uint64_t start_ns = clock_now_ns();
    assert(b->n_seqs <= g->params.seqs_max);
    g->batch = b;
    g->first = *b;
    g->first.n_out = 0;
    g->first.out_row = NULL;
    g->first.want = NULL;
    int r = h->ops->submit(h->g, &g->first, err);
    count_time(g, &h->run_ns, start_ns);
    return r;
}

static int move_rows(struct split_program *g, struct err *err)
{
    struct half *a = &g->half[0], *b = &g->half[1];
    uint64_t start_ns = clock_now_ns();
    for (unsigned s = 0; s < SLOT_COUNT; s++) {
        if (!(g->slots >> s & 1))
            continue;
        int r = a->ops->slot_read(a->g, (enum slot)s, 0, g->batch->n_rows, g->rows);
        if (r == 0)
            r = b->ops->slot_write(b->g, (enum slot)s, 0, g->batch->n_rows, g->rows);
        if (r)
            return err_set(err, r, "%s: no rows from %s: %s", b->ops->name, a->ops->name,
                           strerror(-r));
    }
    count_time(g, &g->moved_ns, start_ns);
    g->n_moves += g->profiled;
    return 0;
}

// Each half's counts replace what is there.
static void keep_blocks(struct split_program *g)
{
    for (uint32_t i = 0; i < g->batch->n_seqs; i++) {
        const struct batch_seq *s = &g->batch->seq[i];
        g->blocks[i] = (struct blocks){ s->blocks_read, s->blocks_held };
    }
}

static void add_blocks(struct split_program *g)
{
    for (uint32_t i = 0; i < g->batch->n_seqs; i++) {
        struct batch_seq *s = &g->batch->seq[i];
        s->blocks_read += g->blocks[i].read;
        s->blocks_held += g->blocks[i].held;
    }
}

static int run_second(struct split_program *g, uint64_t start_ns, uint64_t timeout_ns,
                      struct err *err)
{
    struct half *h = &g->half[1];
    uint64_t submit_ns = clock_now_ns(), spent_ns = submit_ns - start_ns;
    int r = h->ops->submit(h->g, g->batch, err);
    if (r == 0)
        r = h->ops->wait(h->g, timeout_ns - MIN(spent_ns, timeout_ns), err);
    count_time(g, &h->run_ns, submit_ns);
    return r;
}

static int split_wait(struct program *p, uint64_t timeout_ns, struct err *err)
{
    struct split_program *g = of(p);
    struct half *h = &g->half[0];
    uint64_t start_ns = clock_now_ns();
    int r = h->ops->wait(h->g, timeout_ns, err);
    count_time(g, &h->run_ns, start_ns);
    if (r)
        return r;
    keep_blocks(g);
    r = move_rows(g, err);
    if (r == 0)
        r = run_second(g, start_ns, timeout_ns, err);
    if (r == 0)
        add_blocks(g);
    return r;
}

static int split_logits_read(struct program *p, uint32_t out, uint32_t first, uint32_t n,
                             float *dst, struct err *err)
{
    struct half *h = &of(p)->half[1];
    return h->ops->logits_read(h->g, out, first, n, dst, err);
}

// A half that does not time its operations is one by its executor's name.
static void split_profile(struct program *p, bool on,
                          void (*f)(void *ctx, const char *label, uint64_t ns, uint64_t n),
                          void *ctx)
{
    struct split_program *g = of(p);
    for (unsigned i = 0; i < 2; i++) {
        struct half *h = &g->half[i];
        if (h->ops->profile)
            h->ops->profile(h->g, on, f, ctx);
        else if (f && g->n_moves)
            f(ctx, h->ops->name, h->run_ns, g->n_moves);
    }
    if (f && g->n_moves)
        f(ctx, "rows_moved", g->moved_ns, g->n_moves);
    if (f)
        g->half[0].run_ns = g->half[1].run_ns = g->moved_ns = g->n_moves = 0;
    g->profiled = on;
}

// ---- open -------------------------------------------------------------------------------------

static const struct executor_ops split_ops = {
    .name = "split",
    .close = split_close,
    .describe = split_describe,
    .arithmetic = split_arithmetic,
    .rows_usual = split_rows_usual,
    .load = split_load,
    .unload = split_unload,
    .kv_room = split_kv_room,
    .kv_limit = split_kv_limit,
    .kv_homes = split_kv_homes,
    .kv_alloc = split_kv_alloc,
    .kv_copy = split_kv_copy,
    .kv_read = split_kv_read,
    .kv_write = split_kv_write,
    .submit = split_submit,
    .wait = split_wait,
    .logits_read = split_logits_read,
    .profile = split_profile,
};

int split_open(struct executor **ret, const struct executor_ops *ops,
               const struct executor_params *p, uint32_t cpu_layers, uint32_t n_layers,
               struct err *err)
{
    assert(cpu_layers > 0 && cpu_layers < n_layers);
    struct executor_params cpu = *p;
    struct split_executor *s = calloc(1, sizeof(*s));
    if (!s)
        return err_set(err, -ENOMEM, "no memory for an executor");
    cpu.device_arg = NULL;
    s->ops = split_ops;
    s->x.ops = &s->ops;
    s->n_layers[0] = cpu_layers;
    s->n_layers[1] = n_layers - cpu_layers;
    if (!ops->logits_read)
        s->ops.logits_read = NULL;
    if (!ops->kv_limit)
        s->ops.kv_limit = NULL;
    if (!ops->kv_homes)
        s->ops.kv_homes = NULL;
    int r = ops->open(&s->half[1], p, err);
    if (r == 0)
        r = executor_cpu.open(&s->half[0], &cpu, err);
    if (r) {
        split_close(&s->x);
        return r;
    }
    *ret = &s->x;
    return 0;
}
