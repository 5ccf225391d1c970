// What attention reads and how its work is cut: block lists of rows, masks, and the units of a
// step.
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include "engine/exec/cpu/cpu.h"
#include "base/base.h"

#define TOKENS KV_BLOCK_TOKENS
#define PARTIAL_FLOATS_MAX ((size_t)32 << 20)   // beyond it single rows run as whole tiles

// ---- classes ----------------------------------------------------------------------------------

static uint32_t class_of(struct cpu_program *g, uint32_t window)
{
    uint32_t i = 0;
    while (i < g->n_attn_classes && g->attn_class[i].window != window)
        i++;
    if (i == g->n_attn_classes)
        g->attn_class[g->n_attn_classes++] = (struct attn_class){ .window = window };
    g->attn_class[i].n_ops++;
    return i;
}

int attn_classes_init(struct cpu_program *g, struct err *err)
{
    g->attn_class = calloc(g->n_phases + 1, sizeof(*g->attn_class));
    if (!g->attn_class)
        return err_set(err, -ENOMEM, "no memory for a plan of %u phases", g->n_phases);
    for (uint32_t i = 0; i < g->n_phases; i++)
        if (g->phase[i].kind == PHASE_ATTN)
            g->phase[i].attn_class =
                (uint16_t)class_of(g, g->op[g->phase[i].op0].op->attn.window);
    return 0;
}

void attn_classes_finish(struct cpu_program *g)
{
    for (uint32_t i = 0; i < g->n_attn_classes; i++) {
        mem_unmap(&g->attn_class[i].unit);
        mem_unmap(&g->attn_class[i].select);
    }
    free(g->attn_class);
}

// ---- units ------------------------------------------------------------------------------------

static uint32_t splits_of(const struct cpu_program *g, const struct attn_class *c,
                          const struct tile *t)
{
    if (t->n_rows > 1)
        return 0;
    uint32_t n = attn_view(&g->batch->seq[t->seq].attn, c->window, t->pos0).n;
    return n > ATTN_SPLIT_BLOCKS ? DIV_UP(n, ATTN_SPLIT_BLOCKS) : 0;
}

static size_t partial_floats(const struct cpu_program *g)
{
    return (size_t)group_heads(g) * (g->cfg->head_dim + 2);
}

// Sizes of a class's unit list, so that it is filled without checks.
struct unit_counts { size_t units, splits, rows, selects; };

static struct unit_counts count_units(const struct cpu_program *g, const struct attn_class *c)
{
    struct unit_counts n = {0};
    uint32_t heads = g->cfg->n_kv_heads;
    for (uint32_t i = 0; i < g->n_attn_tiles; i++) {
        const struct tile *t = &g->attn_tile[i];
        uint32_t splits = splits_of(g, c, t);
        n.units += (size_t)heads * MAX(splits, 1u);
        n.splits += (size_t)heads * splits;
        n.rows += splits ? heads : 0;
        if (splits && attn_view_selects(&g->batch->seq[t->seq].attn, c->window, t->pos0))
            n.selects += heads;
    }
    return n;
}

static void add_splits(struct cpu_program *g, struct attn_class *c, uint32_t tile,
                       uint32_t n_splits, uint32_t *row, size_t *partial)
{
    const struct tile *t = &g->attn_tile[tile];
    bool selects = attn_view_selects(&g->batch->seq[t->seq].attn, c->window, t->pos0);
    for (uint32_t head = 0; head < g->cfg->n_kv_heads; head++, ++*row) {
        if (selects)
            ((uint32_t *)c->select.p)[c->n_selects++] = c->n_units;
        atomic_store_explicit((_Atomic uint32_t *)g->attn_pending.p + *row, n_splits,
                              memory_order_relaxed);
        for (uint32_t s = 0; s < n_splits; s++, *partial += partial_floats(g))
            ((struct attn_unit *)c->unit.p)[c->n_units++] = (struct attn_unit){
                .tile = tile, .head = head, .split = s, .n_splits = n_splits, .row = *row,
                .partial = *partial,
            };
    }
}

// Whole tiles first, the deepest of a sequence before the others: they take longest.
static void fill_units(struct cpu_program *g, struct attn_class *c, bool may_split, uint32_t *row)
{
    size_t partial = 0;
    c->n_units = c->n_selects = 0;
    for (uint32_t i = g->n_attn_tiles; i-- > 0;) {
        if (may_split && splits_of(g, c, &g->attn_tile[i]))
            continue;
        for (uint32_t head = 0; head < g->cfg->n_kv_heads; head++)
            ((struct attn_unit *)c->unit.p)[c->n_units++] =
                (struct attn_unit){ .tile = i, .head = head };
    }
    for (uint32_t i = 0; may_split && i < g->n_attn_tiles; i++) {
        uint32_t n_splits = splits_of(g, c, &g->attn_tile[i]);
        if (n_splits)
            add_splits(g, c, i, n_splits, row, &partial);
    }
}

static void count_blocks(struct cpu_program *g)
{
    for (uint32_t i = 0; i < g->batch->n_seqs; i++) {
        struct batch_seq *s = &g->batch->seq[i];
        s->blocks_read = s->blocks_held = 0;
        for (uint32_t k = 0; k < g->n_attn_classes; k++) {
            const struct attn_class *c = &g->attn_class[k];
            uint64_t lists = (uint64_t)c->n_ops * g->cfg->n_kv_heads;
            for (uint32_t pos = s->pos0; pos < s->pos0 + s->n_rows; pos++) {
                s->blocks_read += lists * attn_view(&s->attn, c->window, pos).n;
                s->blocks_held += lists * (pos / TOKENS + 1);
            }
        }
    }
}

// The longest chosen list of the step, and the blocks of its longest sequence.
static void measure_lists(struct cpu_program *g, uint32_t *n_blocks)
{
    g->attn_list_max = 0;
    *n_blocks = 0;
    for (uint32_t i = 0; i < g->n_attn_tiles; i++) {
        const struct tile *t = &g->attn_tile[i];
        const struct attn_policy *policy = &g->batch->seq[t->seq].attn;
        uint32_t last = t->pos0 + t->n_rows - 1;
        if (!attn_view_selects(policy, 0, last))
            continue;
        g->attn_list_max = MAX(g->attn_list_max, attn_view(policy, 0, last).n);
        *n_blocks = MAX(*n_blocks, last / TOKENS + 1);
    }
}

int attn_units_build(struct cpu_program *g, struct err *err)
{
    size_t floats = 0, rows = 0;
    uint32_t n_blocks, row = 0;
    measure_lists(g, &n_blocks);
    int r = attn_scratch_grow(g, n_blocks, err);
    bool may_split = true;
    for (uint32_t i = 0; r == 0 && i < g->n_attn_classes; i++) {
        struct attn_class *c = &g->attn_class[i];
        struct unit_counts n = count_units(g, c);
        floats = MAX(floats, n.splits * partial_floats(g));
        rows += n.rows;
        r = mem_grow(&c->unit, n.units * sizeof(struct attn_unit));
        if (r == 0)
            r = mem_grow(&c->select, n.selects * sizeof(uint32_t));
    }
    if (floats > PARTIAL_FLOATS_MAX) {
        may_split = false;
        floats = rows = 0;
    }
    if (r == 0)
        r = mem_grow(&g->attn_partial, floats * sizeof(float));
    if (r == 0)
        r = mem_grow(&g->attn_pending, rows * sizeof(_Atomic uint32_t));
    if (r == 0)
        r = mem_grow(&g->attn_list, rows * g->attn_list_max * sizeof(uint32_t));
    if (r)
        return err_set(err, r, "no memory for the attention of %u rows", g->batch->n_rows);
    for (uint32_t i = 0; i < g->n_attn_classes; i++)
        fill_units(g, &g->attn_class[i], may_split, &row);
    count_blocks(g);
    return 0;
}
