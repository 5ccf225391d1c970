// What attention reads in a step and how its work is cut, computed on the host into memory that
// shaders read: rows, units, selects and the numbers of workgroups.
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "engine/exec/vulkan/attn.h"
#include "base/base.h"

#define TOKENS KV_BLOCK_TOKENS
#define LIST_ENTRIES_MAX ((size_t)1 << 30)

// ---- classes ----------------------------------------------------------------------------------

static uint16_t class_of(struct vk_attn *a, uint32_t window)
{
    uint32_t i = 0;
    while (i < a->n_classes && a->class[i].window != window)
        i++;
    if (i == a->n_classes)
        a->class[a->n_classes++] = (struct attn_class){ .window = window };
    a->class[i].n_ops++;
    return (uint16_t)i;
}

int vk_attn_classes_init(struct vk_program *g, struct err *err)
{
    struct vk_attn *a = g->attn;
    a->class = calloc(g->plan->n_ops + 1, sizeof(*a->class));
    if (!a->class)
        return err_set(err, -ENOMEM, "no memory for a plan of %u operations", g->plan->n_ops);
    for (uint32_t i = 0; i < g->plan->n_ops; i++)
        if (g->op[i].op->kind == OP_ATTN)
            g->op[i].attn_class = class_of(a, g->op[i].op->attn.window);
    int r = 0;
    for (uint32_t i = 0; r == 0 && i < a->n_classes; i++) {
        struct attn_class *c = &a->class[i];
        r = vk_alloc(g->vk, VK_HOME_UPLOAD, g->params.rows_max * sizeof(struct attn_row), &c->row,
                     err);
        if (r == 0)
            r = vk_alloc(g->vk, VK_HOME_UPLOAD, g->params.rows_max * sizeof(struct attn_tile),
                         &c->tile, err);
        if (r == 0)
            r = vk_alloc(g->vk, VK_HOME_UPLOAD, sizeof(struct attn_groups), &c->groups, err);
    }
    return r;
}

void vk_attn_classes_finish(struct vk_program *g)
{
    struct vk_attn *a = g->attn;
    for (uint32_t i = 0; i < a->n_classes; i++) {
        vk_free(g->vk, &a->class[i].row);
        vk_free(g->vk, &a->class[i].unit);
        vk_free(g->vk, &a->class[i].tile);
        vk_free(g->vk, &a->class[i].groups);
    }
    free(a->class);
}

// ---- rows -------------------------------------------------------------------------------------

#define FOR_EACH_ROW(b, s, row, pos_) \
    for (const struct batch_seq *s = (b)->seq; s < (b)->seq + (b)->n_seqs; s++) \
        for (uint32_t row = s->row0, pos_ = s->pos0; row < s->row0 + s->n_rows; row++, pos_++)

// Sums of a step, so that memory is there before it is filled.
static int measure(struct vk_program *g, struct err *err)
{
    struct vk_attn *a = g->attn;
    a->n_selects = a->candidates_max = 0;
    a->list_entries = 0;
    for (uint32_t i = 0; i < a->n_classes; i++) {
        struct attn_class *c = &a->class[i];
        c->n_splits = 0;
        FOR_EACH_ROW(g->batch, s, row, pos) {
            uint32_t n = attn_view(&s->attn, c->window, pos).n;
            c->n_splits += s->decode ? DIV_UP(n, ATTN_SPLIT_BLOCKS) : 0;
            if (!attn_view_selects(&s->attn, c->window, pos))
                continue;
            struct topk_split k = topk_split_for(&s->attn, pos);
            a->n_selects++;
            a->list_entries += (size_t)n * g->cfg->n_kv_heads;
            a->candidates_max = MAX(a->candidates_max, pos / TOKENS + 1 - k.sink - k.local);
        }
    }
    if (a->list_entries > LIST_ENTRIES_MAX)
        return err_set(err, -ENOMEM, "no memory for %zu selected blocks", a->list_entries);
    return 0;
}

static struct attn_row row_of(const struct batch_seq *s, uint32_t window, uint32_t pos,
                              uint32_t list)
{
    struct row_view v = attn_view(&s->attn, window, pos);
    struct row_sight sight = attn_sight(&s->attn, window, pos);
    return (struct attn_row){
        .start = sight.start, .sink = sight.sink, .n = v.n, .n_sink = v.n_sink, .first = v.first,
        .list = attn_view_selects(&s->attn, window, pos) ? list : ATTN_NO_LIST,
    };
}

static struct attn_select select_of(const struct batch_seq *s, uint32_t row, uint32_t pos,
                                    uint32_t list)
{
    struct topk_split k = topk_split_for(&s->attn, pos);
    return (struct attn_select){
        .row = row, .sink = k.sink, .n = pos / TOKENS + 1 - k.sink - k.local, .local = k.local,
        .chosen = k.chosen, .list = list,
    };
}

// ---- units ------------------------------------------------------------------------------------

static void find_blocks(struct attn_unit *u, const uint32_t *table)
{
    const struct attn_row *r = &u->attn;
    uint32_t first = u->split * ATTN_SPLIT_BLOCKS, n = MIN(r->n - first, ATTN_SPLIT_BLOCKS);
    for (uint32_t i = first; r->list == ATTN_NO_LIST && i < first + n; i++)
        u->block[i - first] = table[i < r->n_sink ? i : r->first + i - r->n_sink];
}

// The units of one row; returns how many.
static uint32_t add_units(struct attn_unit *to, const struct attn_unit *row,
                          const uint32_t *table, bool whole)
{
    uint32_t n = 0, splits = DIV_UP(row->attn.n, ATTN_SPLIT_BLOCKS), each = whole ? splits : 1;
    for (uint32_t split = 0; split < splits; split += each) {
        struct attn_unit u = *row;
        u.split = split;
        u.n_splits = each;
        find_blocks(&u, table);
        to[n++] = u;
    }
    return n;
}

// Rows of prompts, units of generated rows, and what chooses its blocks. Upload memory is written
// in order and never read.
static uint32_t fill_rows(struct vk_program *g, struct attn_class *c, bool whole)
{
    struct attn_row *to = c->row.map;
    struct attn_unit *unit = c->unit.map;
    struct attn_select *select = g->attn->select.map;
    uint32_t n_units = 0, partial = 0, list = 0, table = 0, seq = 0;
    FOR_EACH_ROW(g->batch, s, row, pos) {
        for (; g->batch->seq + seq < s; seq++)
            table += g->batch->seq[seq].n_blocks;
        struct attn_row r = row_of(s, c->window, pos, list);
        if (r.list != ATTN_NO_LIST) {
            *select++ = select_of(s, row, pos, list);
            list += r.n * g->cfg->n_kv_heads;
        }
        if (s->decode) {
            struct attn_unit u = {
                .row = row, .pos = pos, .table = table, .partial = partial, .attn = r };
            n_units += add_units(unit + n_units, &u, s->block, whole);
            partial += DIV_UP(r.n, ATTN_SPLIT_BLOCKS);
        } else {
            to[row] = r;
        }
    }
    return n_units;
}

// Rows whose positions share a multiple of tile_rows; the deepest of a sequence first, since they
// take longest.
static uint32_t fill_tiles(struct vk_program *g, struct attn_class *c)
{
    struct attn_tile *tile = c->tile.map;
    uint32_t n = 0, rows = g->attn->tile_rows;
    for (uint32_t i = 0; i < g->batch->n_seqs; i++) {
        const struct batch_seq *s = &g->batch->seq[i];
        uint32_t end = s->pos0 + s->n_rows, pos;
        for (; !s->decode && end > s->pos0; end = pos) {
            pos = MAX((end - 1) / rows * rows, s->pos0);
            tile[n++] = (struct attn_tile){ s->row0 + pos - s->pos0, end - pos };
        }
    }
    return n;
}

static void fill_class(struct vk_program *g, struct attn_class *c, bool whole)
{
    const struct vk_attn *a = g->attn;
    uint32_t heads = g->cfg->n_kv_heads;
    uint32_t n_units = fill_rows(g, c, whole), n_tiles = fill_tiles(g, c);
    *(struct attn_groups *)c->groups.map = (struct attn_groups){
        .gather = { n_units, heads * attn_parts(a, a->heads), 1 },
        .tile = { n_tiles, heads * attn_parts(a, a->tile_heads), 1 },
    };
}

// Rows of a slice's scores; at least one, whatever the cap.
static uint32_t slice_rows(const struct vk_program *g)
{
    const struct vk_attn *a = g->attn;
    size_t row = (size_t)g->cfg->n_kv_heads * attn_head_quads(a) * a->candidates_max * 16;
    return (uint32_t)CLAMP(a->score_bytes_max / row, (size_t)1, (size_t)a->n_selects);
}

static void fill_slices(struct vk_program *g, uint32_t n_slices)
{
    const struct vk_attn *a = g->attn;
    uint32_t rows = slice_rows(g), heads = g->cfg->n_kv_heads;
    struct attn_slice *slice = a->slice.map;
    for (uint32_t i = 0; i < n_slices; i++) {
        uint32_t first = MIN(i * rows, a->n_selects), n = MIN(rows, a->n_selects - first);
        slice[i] = (struct attn_slice){
            .score = { DIV_UP(a->candidates_max, SCORE_THREADS), heads, n },
            .choose = { heads, n, 1 },
            .first = first, .stride = a->candidates_max,
        };
    }
}

static uint32_t power_of_two(uint32_t n)
{
    uint32_t r = 1;
    while (r < n)
        r *= 2;
    return r;
}

// ---- a step -----------------------------------------------------------------------------------

static void count_blocks(struct vk_program *g)
{
    const struct vk_attn *a = g->attn;
    for (uint32_t i = 0; i < g->batch->n_seqs; i++) {
        struct batch_seq *s = &g->batch->seq[i];
        s->blocks_read = s->blocks_held = 0;
        for (uint32_t k = 0; k < a->n_classes; k++) {
            uint64_t lists = (uint64_t)a->class[k].n_ops * g->cfg->n_kv_heads;
            for (uint32_t pos = s->pos0; pos < s->pos0 + s->n_rows; pos++) {
                s->blocks_read += lists * attn_view(&s->attn, a->class[k].window, pos).n;
                s->blocks_held += lists * (pos / TOKENS + 1);
            }
        }
    }
}

static int make_room(struct vk_program *g, const struct shape *s, struct err *err)
{
    struct vk_attn *a = g->attn;
    size_t splits = 0, heads = g->cfg->n_heads;
    int r = 0;
    for (uint32_t i = 0; r == 0 && i < a->n_classes; i++) {
        struct attn_class *c = &a->class[i];
        size_t units = s->attn_whole ? g->batch->n_rows : c->n_splits;
        r = vk_grow(g, &c->unit, VK_HOME_UPLOAD, units * sizeof(struct attn_unit), err);
        splits = MAX(splits, c->n_splits);
    }
    if (s->attn_whole)
        splits = 0;
    if (r == 0)                         // there is one, though it be empty: list_entry
        r = vk_grow(g, &a->list, VK_HOME_DEVICE, (a->list_entries + 1) * sizeof(uint32_t), err);
    if (r == 0)
        r = vk_grow(g, &a->partial_ml, VK_HOME_DEVICE, splits * heads * 2 * sizeof(float), err);
    if (r == 0)
        r = vk_grow(g, &a->partial_o, VK_HOME_DEVICE,
                 splits * heads * g->cfg->head_dim * sizeof(float), err);
    if (r || a->n_selects == 0)
        return r;
    r = vk_grow(g, &a->select, VK_HOME_UPLOAD, a->n_selects * sizeof(struct attn_select), err);
    if (r == 0)
        r = vk_grow(g, &a->slice, VK_HOME_UPLOAD, s->attn_slices * sizeof(struct attn_slice), err);
    size_t scores = (size_t)slice_rows(g) * g->cfg->n_kv_heads * attn_head_quads(a) *
                    a->candidates_max * 4 * sizeof(float);
    return r ? r : vk_grow(g, &a->scores, VK_HOME_DEVICE, scores, err);
}

int vk_attn_prepare(struct vk_program *g, struct shape *s, struct err *err)
{
    struct vk_attn *a = g->attn;
    int r = measure(g, err);
    if (r)
        return r;
    s->attn_whole = false;
    for (uint32_t i = 0; i < a->n_classes; i++)
        s->attn_whole |= a->class[i].n_splits > a->splits_max;
    s->attn_slices = a->n_selects ? power_of_two(DIV_UP(a->n_selects, slice_rows(g))) : 0;
    r = make_room(g, s, err);
    if (r)
        return r;
    for (uint32_t i = 0; i < a->n_classes; i++)
        fill_class(g, &a->class[i], s->attn_whole);
    if (s->attn_slices)
        fill_slices(g, s->attn_slices);
    count_blocks(g);
    return 0;
}
