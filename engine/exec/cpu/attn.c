// Attention over block lists. A unit computes some rows of one KV head: a whole tile of rows, or
// one split of a single row.
//
// Whatever the unit, a row's arithmetic is the same: its list in ascending order, cut every
// ATTN_SPLIT_BLOCKS entries; inside a split an online softmax block by block; splits merged in
// order by log-sum-exp. A tile takes the blocks of all its rows in ascending order and gives each
// block to the rows that list it, so the block is read from memory once for them.
#include <errno.h>
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include "engine/exec/cpu/cpu.h"
#include "base/base.h"

#define TOKENS KV_BLOCK_TOKENS
#define DIGESTS_AHEAD 16            // each is far from the next: fetched early
#define QUERY_FLOATS_MAX 12288      // of a tile: q, o and totals stay in the second-level cache

struct attn_scratch {
    struct mem mem, choose_mem;     // behind everything below
    float *q, *o, *total;           // (queries, head_dim): scaled query, running and merged output
    float *s;                       // (queries, TOKENS)
    float *m, *l, *total_m, *total_l, *keep;    // (queries)
    const float **q_row;            // (queries) of those that read the block at hand
    float       **s_row, **o_row;
    uint64_t     *visible;          // (queries)
    uint32_t     *query;            // (queries)
    struct row_view *view;          // (rows)
    uint32_t        *cursor;        // (rows) list entries done
    float    *score, *sum;          // (heads of a group, blocks), (blocks)
    uint32_t *choose, *list;        // (blocks), (rows, list_max)
};

// What a unit works on.
struct job {
    struct cpu_program  *g;
    struct attn_scratch *w;
    const struct op     *op;
    const struct batch_seq *seq;
    uint32_t i_seq, window, head, group, dim;
};

// ---- scratch ----------------------------------------------------------------------------------

// With base NULL only counts.
static void *carve(uint8_t *base, size_t *at, size_t bytes)
{
    void *p = base ? base + *at : NULL;
    *at += ALIGN_UP(bytes, (size_t)64);
    return p;
}

static size_t carve_scratch(struct attn_scratch *w, size_t queries, size_t rows, size_t dim)
{
    size_t at = 0;
    uint8_t *base = w->mem.p;
    w->q = carve(base, &at, queries * dim * sizeof(float));
    w->o = carve(base, &at, queries * dim * sizeof(float));
    w->total = carve(base, &at, queries * dim * sizeof(float));
    w->s = carve(base, &at, queries * TOKENS * sizeof(float));
    float **per_query[] = { &w->m, &w->l, &w->total_m, &w->total_l, &w->keep };
    for (unsigned i = 0; i < ARRAY_LEN(per_query); i++)
        *per_query[i] = carve(base, &at, queries * sizeof(float));
    w->q_row = carve(base, &at, queries * sizeof(*w->q_row));
    w->s_row = carve(base, &at, queries * sizeof(*w->s_row));
    w->o_row = carve(base, &at, queries * sizeof(*w->o_row));
    w->visible = carve(base, &at, queries * sizeof(*w->visible));
    w->query = carve(base, &at, queries * sizeof(*w->query));
    w->view = carve(base, &at, rows * sizeof(*w->view));
    w->cursor = carve(base, &at, rows * sizeof(*w->cursor));
    return at;
}

int attn_scratch_init(struct cpu_program *g, struct err *err)
{
    uint32_t n = pool_threads(g->cpu->pool), group = group_heads(g), dim = g->cfg->head_dim;
    g->attn_tile_rows = CLAMP(QUERY_FLOATS_MAX / (group * dim), 1u, (uint32_t)TOKENS);
    g->attn_scratch = calloc(n, sizeof(*g->attn_scratch));
    int r = g->attn_scratch ? 0 : -ENOMEM;
    for (uint32_t i = 0; r == 0 && i < n; i++) {
        struct attn_scratch *w = &g->attn_scratch[i];
        size_t queries = (size_t)g->attn_tile_rows * group;
        r = mem_map(&w->mem, carve_scratch(w, queries, g->attn_tile_rows, dim));
        if (r == 0)
            carve_scratch(w, queries, g->attn_tile_rows, dim);
    }
    return r ? err_set(err, r, "no memory for the attention of %u threads", n) : 0;
}

void attn_scratch_finish(struct cpu_program *g)
{
    for (uint32_t i = 0; g->attn_scratch && i < pool_threads(g->cpu->pool); i++) {
        mem_unmap(&g->attn_scratch[i].mem);
        mem_unmap(&g->attn_scratch[i].choose_mem);
    }
    free(g->attn_scratch);
}

static size_t carve_choose(struct attn_scratch *w, size_t blocks, size_t group, size_t list)
{
    size_t at = 0;
    uint8_t *base = w->choose_mem.p;
    w->score = carve(base, &at, blocks * group * sizeof(float));
    w->sum = carve(base, &at, blocks * sizeof(float));
    w->choose = carve(base, &at, blocks * sizeof(uint32_t));
    w->list = carve(base, &at, list * sizeof(uint32_t));
    return at;
}

int attn_scratch_grow(struct cpu_program *g, uint32_t n_blocks, struct err *err)
{
    size_t list = (size_t)g->attn_tile_rows * g->attn_list_max, group = group_heads(g);
    for (uint32_t i = 0; n_blocks && i < pool_threads(g->cpu->pool); i++) {
        struct attn_scratch *w = &g->attn_scratch[i];
        int r = mem_grow(&w->choose_mem, carve_choose(w, n_blocks, group, list));
        if (r)
            return err_set(err, r, "no memory to choose among %u blocks", n_blocks);
        carve_choose(w, n_blocks, group, list);
    }
    return 0;
}

// ---- select -----------------------------------------------------------------------------------

static void prefetch(const uint8_t *p, size_t bytes)
{
    for (size_t i = 0; i < bytes; i += 64)
        __builtin_prefetch(p + i);
}

// Scores of blocks [first, first + n): per query head the softmax over their mean keys, summed over
// the group.
static void score_blocks(const struct job *j, const float *q, uint32_t first, uint32_t n)
{
    const struct vec *vec = j->g->cpu->vec;
    struct attn_scratch *w = j->w;
    const struct pages *kv = &j->g->kv;
    size_t at = kv_digest_offset(&kv->layout, j->op->layer, j->head);
    for (uint32_t i = 0; i < n; i++) {
        if (i + DIGESTS_AHEAD < n)
            prefetch(pages_digest(kv, j->seq->block[first + i + DIGESTS_AHEAD]) + at,
                     j->dim * sizeof(uint16_t));
        const uint8_t *digest = pages_digest(kv, j->seq->block[first + i]) + at;
        vec->score(w->score + i, n, q, j->group, (const uint16_t *)(const void *)digest, j->dim);
    }
    memset(w->sum, 0, n * sizeof(float));
    for (uint32_t h = 0; h < j->group; h++)
        vec->softmax_add(w->sum, w->score + (size_t)h * n, n);
}

// The blocks of a row at `pos` whose scaled queries are q (group, dim), ascending.
static void choose_blocks(const struct job *j, const float *q, uint32_t pos, uint32_t *list)
{
    struct topk_split s = topk_split_for(&j->seq->attn, pos);
    uint32_t held = pos / TOKENS + 1, n = held - s.sink - s.local, at = 0;
    score_blocks(j, q, s.sink, n);
    for (uint32_t i = 0; i < s.sink; i++)
        list[at++] = i;
    topk_choose(j->w->sum, n, s.chosen, list + at, j->w->choose);
    for (uint32_t i = 0; i < s.chosen; i++)
        list[at++] += s.sink;
    for (uint32_t i = held - s.local; i < held; i++)
        list[at++] = i;
}

static uint32_t view_entry(const struct row_view *v, uint32_t i)
{
    if (v->list)
        return v->list[i];
    return i < v->n_sink ? i : v->first + i - v->n_sink;
}

// ---- pages ------------------------------------------------------------------------------------

static uint32_t page_of(const struct job *j, uint32_t block)
{
    return page_number(&j->g->kv, j->seq->block[block], j->op->layer);
}

// Starts fetching what entries [begin, end) of a list name and is not in memory.
static void ask_pages(const struct job *j, const struct row_view *v, uint32_t begin, uint32_t end)
{
    if (!j->g->kv.disk)
        return;
    for (uint32_t i = begin; i < MIN(end, v->n); i++)
        if (!pages_ask(&j->g->kv, page_of(j, view_entry(v, i))))
            return;
}

// ---- attend -----------------------------------------------------------------------------------

static void load_queries(const struct job *j, uint32_t row, float *q)
{
    const float *src = slot_row(j->g, j->op->src[0], row) + (size_t)j->head * j->group * j->dim;
    j->g->cpu->vec->scale(q, src, (size_t)j->group * j->dim, j->op->attn.scale);
}

static void store_output(const struct job *j, uint32_t row, uint32_t query0)
{
    const struct attn_scratch *w = j->w;
    float *dst = slot_row(j->g, j->op->dst[0], row) + (size_t)j->head * j->group * j->dim;
    for (uint32_t h = 0; h < j->group; h++) {
        uint32_t q = query0 + h;
        float l = w->total_l[q];        // 0: no page came at all, and the row is void
        j->g->cpu->vec->scale(dst + h * j->dim, w->total + (size_t)q * j->dim, j->dim,
                              l > 0.0f ? 1.0f / l : 0.0f);
    }
}

static void reset(float *m, float *l, float *o, uint32_t n, uint32_t dim)
{
    for (uint32_t i = 0; i < n; i++) {
        m[i] = -INFINITY;
        l[i] = 0.0f;
    }
    memset(o, 0, (size_t)n * dim * sizeof(float));
}

// One block into the running sums of n queries, w->query[i] with mask w->visible[i]. `next` is the
// block that the caller comes with next, or the same one. A page that does not come makes the
// sequence a missed one.
static void attend(const struct job *j, uint32_t n, uint32_t block, uint32_t next)
{
    struct attn_scratch *w = j->w;
    const struct vec *vec = j->g->cpu->vec;
    const struct kv_layout *l = &j->g->kv.layout;
    struct pages *kv = &j->g->kv;
    const uint8_t *page = page_use_hold(j->g, j->i_seq, block, j->op->layer);
    if (!page)
        return;
    const uint8_t *coming = pages_peek(kv, page_of(j, next));
    ptrdiff_t ahead = coming ? (ptrdiff_t)((uintptr_t)coming - (uintptr_t)page) : 0;
    for (uint32_t i = 0; i < n; i++) {
        w->q_row[i] = w->q + (size_t)w->query[i] * j->dim;
        w->o_row[i] = w->o + (size_t)w->query[i] * j->dim;
        w->s_row[i] = w->s + (size_t)i * TOKENS;
    }
    vec->mul[kv_k_form(l->k_type)](&(struct vec_mul){
        .a = w->q_row, .c = w->s_row, .b = page + kv_k_offset(l, j->head),
        .n_rows = n, .n_k = j->dim, .n_n = TOKENS, .ahead = ahead });
    for (uint32_t i = 0; i < n; i++) {
        uint32_t q = w->query[i];
        w->keep[i] = vec->softmax_block(w->s_row[i], w->visible[i], j->op->attn.softcap, &w->m[q],
                                        &w->l[q]);
    }
    vec->mul[kv_v_form(l->v_type)](&(struct vec_mul){
        .a = (const float *const *)w->s_row, .c = w->o_row, .keep = w->keep,
        .b = page + kv_v_offset(l, j->head),
        .n_rows = n, .n_k = TOKENS, .n_n = j->dim, .ahead = ahead });
    pages_release(kv, page_of(j, block));
}

// Adds a row's queries to those that read the block.
static uint32_t add_queries(const struct job *j, uint32_t n, uint32_t query0, uint32_t pos,
                            uint32_t block)
{
    uint64_t visible = attn_visible(&j->seq->attn, j->window, pos, block);
    for (uint32_t h = 0; h < j->group; h++, n++) {
        j->w->query[n] = query0 + h;
        j->w->visible[n] = visible;
    }
    return n;
}

// ---- a whole tile -----------------------------------------------------------------------------

static void merge_row(const struct job *j, uint32_t query0)
{
    struct attn_scratch *w = j->w;
    for (uint32_t q = query0; q < query0 + j->group; q++) {
        float *o = w->o + (size_t)q * j->dim;
        if (w->l[q] != 0.0f)            // 0: no page of it came
            j->g->cpu->vec->merge(&w->total_m[q], &w->total_l[q], w->total + (size_t)q * j->dim,
                                  w->m[q], w->l[q], o, j->dim);
        reset(&w->m[q], &w->l[q], o, 1, j->dim);
    }
}

static void start_tile(const struct job *j, const struct tile *t)
{
    struct attn_scratch *w = j->w;
    uint32_t queries = t->n_rows * j->group;
    for (uint32_t i = 0; i < t->n_rows; i++) {
        float *q = w->q + (size_t)i * j->group * j->dim;
        uint32_t pos = t->pos0 + i;
        load_queries(j, t->row0 + i, q);
        w->cursor[i] = 0;
        w->view[i] = attn_view(&j->seq->attn, j->window, pos);
        if (attn_view_selects(&j->seq->attn, j->window, pos)) {
            uint32_t *list = w->list + (size_t)i * j->g->attn_list_max;
            choose_blocks(j, q, pos, list);
            w->view[i].list = list;
            ask_pages(j, &w->view[i], 0, w->view[i].n);
        }
    }
    ask_pages(j, &w->view[t->n_rows - 1], 0, j->g->pages_ahead);
    reset(w->m, w->l, w->o, queries, j->dim);
    reset(w->total_m, w->total_l, w->total, queries, j->dim);
}

// The lowest block that a row has still to read; UINT32_MAX: none.
static uint32_t next_block(const struct attn_scratch *w, uint32_t n_rows)
{
    uint32_t block = UINT32_MAX;
    for (uint32_t i = 0; i < n_rows; i++)
        if (w->cursor[i] < w->view[i].n)
            block = MIN(block, view_entry(&w->view[i], w->cursor[i]));
    return block;
}

static bool row_reads(const struct attn_scratch *w, uint32_t i, uint32_t block)
{
    return w->cursor[i] < w->view[i].n && view_entry(&w->view[i], w->cursor[i]) == block;
}

static void run_tile(const struct job *j, const struct tile *t)
{
    struct attn_scratch *w = j->w;
    start_tile(j, t);
    for (uint32_t block; (block = next_block(w, t->n_rows)) != UINT32_MAX;) {
        uint32_t n = 0;
        for (uint32_t i = 0; i < t->n_rows; i++)
            if (row_reads(w, i, block))
                n = add_queries(j, n, i * j->group, t->pos0 + i, block);
        uint32_t ahead = w->cursor[t->n_rows - 1] + j->g->pages_ahead;
        ask_pages(j, &w->view[t->n_rows - 1], ahead, ahead + 1);
        attend(j, n, block, block);
        for (uint32_t i = 0; i < t->n_rows; i++) {
            if (!row_reads(w, i, block))
                continue;
            w->cursor[i]++;
            if (w->cursor[i] % ATTN_SPLIT_BLOCKS == 0 || w->cursor[i] == w->view[i].n)
                merge_row(j, i * j->group);
        }
    }
    for (uint32_t i = 0; i < t->n_rows; i++)
        store_output(j, t->row0 + i, i * j->group);
}

// ---- one split of a single row ----------------------------------------------------------------

static void merge_splits(const struct job *j, const struct attn_unit *u, uint32_t row)
{
    struct attn_scratch *w = j->w;
    size_t split_floats = (size_t)j->group * (j->dim + 2);
    const float *first = (const float *)j->g->attn_partial.p + u->partial -
                         u->split * split_floats;
    reset(w->total_m, w->total_l, w->total, j->group, j->dim);
    for (uint32_t s = 0; s < u->n_splits; s++) {
        const float *m = first + s * split_floats, *l = m + j->group, *o = l + j->group;
        for (uint32_t h = 0; h < j->group; h++)
            if (l[h] != 0.0f)           // 0: no page of it came
                j->g->cpu->vec->merge(&w->total_m[h], &w->total_l[h], w->total + (size_t)h * j->dim,
                                  m[h], l[h], o + (size_t)h * j->dim, j->dim);
    }
    store_output(j, row, 0);
}

static struct row_view split_view(const struct job *j, const struct attn_unit *u, uint32_t pos)
{
    struct row_view v = attn_view(&j->seq->attn, j->window, pos);
    if (attn_view_selects(&j->seq->attn, j->window, pos))
        v.list = (const uint32_t *)j->g->attn_list.p + (size_t)u->row * j->g->attn_list_max;
    return v;
}

static void run_split(const struct job *j, const struct attn_unit *u, const struct tile *t)
{
    struct attn_scratch *w = j->w;
    struct row_view v = split_view(j, u, t->pos0);
    uint32_t begin = u->split * ATTN_SPLIT_BLOCKS, end = MIN(begin + ATTN_SPLIT_BLOCKS, v.n);
    load_queries(j, t->row0, w->q);
    reset(w->m, w->l, w->o, j->group, j->dim);
    ask_pages(j, &v, begin, begin + j->g->pages_ahead);
    for (uint32_t i = begin; i < end; i++) {
        uint32_t block = view_entry(&v, i);
        uint32_t next = view_entry(&v, MIN(i + 1, v.n - 1));
        attend(j, add_queries(j, 0, 0, t->pos0, block), block, next);
    }
    float *partial = (float *)j->g->attn_partial.p + u->partial;
    memcpy(partial, w->m, j->group * sizeof(float));
    memcpy(partial + j->group, w->l, j->group * sizeof(float));
    memcpy(partial + 2 * j->group, w->o, (size_t)j->group * j->dim * sizeof(float));
    // Whoever ends last merges, in the order of the splits.
    _Atomic uint32_t *pending = (_Atomic uint32_t *)j->g->attn_pending.p + u->row;
    if (atomic_fetch_sub_explicit(pending, 1, memory_order_acq_rel) > 1)
        return;
    atomic_store_explicit(pending, u->n_splits, memory_order_relaxed);  // for the next layer
    merge_splits(j, u, t->row0);
}

// ---- the phase --------------------------------------------------------------------------------

static struct job job_of(struct cpu_program *g, const struct phase *ph, uint32_t thread,
                         const struct attn_unit *u)
{
    return (struct job){
        .g = g, .w = &g->attn_scratch[thread], .op = g->op[ph->op0].op,
        .seq = &g->batch->seq[g->attn_tile[u->tile].seq], .i_seq = g->attn_tile[u->tile].seq,
        .window = g->attn_class[ph->attn_class].window, .head = u->head,
        .group = group_heads(g), .dim = g->cfg->head_dim,
    };
}

static void run_select(struct cpu_program *g, const struct phase *ph, uint32_t thread,
                       const struct attn_unit *u)
{
    struct job j = job_of(g, ph, thread, u);
    const struct tile *t = &g->attn_tile[u->tile];
    load_queries(&j, t->row0, j.w->q);
    uint32_t *list = (uint32_t *)g->attn_list.p + (size_t)u->row * g->attn_list_max;
    choose_blocks(&j, j.w->q, t->pos0, list);
    struct row_view v = attn_view(&j.seq->attn, j.window, t->pos0);
    v.list = list;
    ask_pages(&j, &v, 0, v.n);
}

static void run_unit(struct cpu_program *g, const struct phase *ph, uint32_t thread,
                     const struct attn_unit *u)
{
    struct job j = job_of(g, ph, thread, u);
    const struct tile *t = &g->attn_tile[u->tile];
    if (u->n_splits)
        run_split(&j, u, t);
    else
        run_tile(&j, t);
}

void attn_run(struct cpu_program *g, const struct phase *ph, uint32_t thread)
{
    struct pool *pool = g->cpu->pool;
    const struct attn_class *c = &g->attn_class[ph->attn_class];
    const struct attn_unit *unit = c->unit.p;
    const uint32_t *select = c->select.p;
    struct pool_range r;
    if (c->n_selects) {
        while (pool_next(pool, c->n_selects, 1, &r))
            run_select(g, ph, thread, &unit[select[r.begin]]);
        pool_barrier(pool);
    }
    uint32_t grain = MAX(1u, c->n_units / (pool_threads(pool) * 16));
    while (pool_next(pool, c->n_units, grain, &r))
        for (uint32_t i = r.begin; i < r.end; i++)
            run_unit(g, ph, thread, &unit[i]);
}
