// One step: the batch cut into tiles, then every phase on all threads.
#include "engine/exec/cpu/cpu.h"
#include "base/base.h"

#define UNITS_PER_THREAD 8          // pieces of work a thread should find in a phase
#define ROWS_GRAIN_MAX 8

// Rows [row, row + n) of a sequence as tiles that end at block ends and have at most `max` rows.
static void add_tiles(struct tile *tile, uint32_t *n_tiles, const struct batch *b, uint32_t seq,
                      uint32_t max)
{
    const struct batch_seq *s = &b->seq[seq];
    for (uint32_t i = 0, n; i < s->n_rows; i += n) {
        uint32_t pos = s->pos0 + i;
        n = MIN(MIN(s->n_rows - i, max), KV_BLOCK_TOKENS - pos % KV_BLOCK_TOKENS);
        tile[(*n_tiles)++] = (struct tile){
            .seq = seq, .row0 = s->row0 + i, .n_rows = n, .pos0 = pos,
        };
    }
}

// Smaller tiles when there are few rows, so that every thread has some.
static uint32_t attn_tile_rows(const struct cpu_program *g)
{
    uint32_t threads = pool_threads(g->cpu->pool);
    uint32_t rows = g->batch->n_rows * g->cfg->n_kv_heads / (threads * UNITS_PER_THREAD);
    return threads == 1 ? g->attn_tile_rows : CLAMP(rows, 1u, g->attn_tile_rows);
}

static void cut_batch(struct cpu_program *g)
{
    const struct batch *b = g->batch;
    uint32_t row = 0, attn_rows = attn_tile_rows(g);
    g->n_kv_tiles = g->n_attn_tiles = 0;
    for (uint32_t i = 0; i < b->n_seqs; i++) {
        const struct batch_seq *s = &b->seq[i];
        assert(s->row0 == row && s->n_rows > 0);
        assert(!g->kv.n_blocks || (uint64_t)s->n_blocks * KV_BLOCK_TOKENS >=
                              (uint64_t)s->pos0 + s->n_rows);
        for (uint32_t k = 0; k < s->n_rows; k++, row++) {
            g->row_pos[row] = s->pos0 + k;
            g->row_seq[row] = i;
        }
        add_tiles(g->kv_tile, &g->n_kv_tiles, b, i, KV_BLOCK_TOKENS);
        add_tiles(g->attn_tile, &g->n_attn_tiles, b, i, attn_rows);
    }
    assert(row == b->n_rows);
}

static uint32_t phase_rows(const struct cpu_program *g, const struct phase *ph)
{
    return ph->gathered ? g->batch->n_out : g->batch->n_rows;
}

static void run_rows(struct cpu_program *g, const struct phase *ph)
{
    struct pool *pool = g->cpu->pool;
    uint32_t n = phase_rows(g, ph);
    uint32_t grain = CLAMP(n / (pool_threads(pool) * UNITS_PER_THREAD), 1u, ROWS_GRAIN_MAX);
    for (struct pool_range r; pool_next(pool, n, grain, &r);)
        rows_run(g, ph, r.begin, r.end);
}

static void run_kv_write(struct cpu_program *g, const struct phase *ph)
{
    uint32_t heads = g->cfg->n_kv_heads;
    for (struct pool_range r; pool_next(g->cpu->pool, g->n_kv_tiles * heads, 1, &r);)
        kv_write_tile(g, g->op[ph->op0].op, &g->kv_tile[r.begin / heads], r.begin % heads);
}

// Panels [begin, end) of matrix i of an operation.
static void multiply(struct cpu_program *g, const struct phase *ph, unsigned i, uint32_t begin,
                     uint32_t end)
{
    const struct cpu_op *o = &g->op[ph->op0];
    const struct cpu_mat *m = o->mat[i];
    bool logits = o->op->kind == OP_LOGITS;
    struct cpu_mul p = {
        .act = g->act.p, .n_rows = phase_rows(g, ph), .bias = o->vector[i],
        .dst = logits ? g->logits.p : g->slot[o->op->dst[i]].p,
        .dst_stride = logits ? g->n_vocab : g->stride[o->op->dst[i]],
        .scale = logits ? o->op->logits.scale : o->op->matmul.scale,
        .add = o->op->flags & OP_ADD,
    };
    if (!logits && !p.add)
        p.scale = 1.0f;
    cpu_mat_mul(m, begin, end, &p);
    if (!logits || o->op->logits.softcap <= 0.0f)
        return;
    uint32_t column0 = begin * m->panel_rows, column1 = MIN(end * m->panel_rows, m->n_out);
    for (uint32_t row = 0; row < p.n_rows; row++)
        g->cpu->vec->softcap(p.dst + row * p.dst_stride + column0, column1 - column0,
                             o->op->logits.softcap);
}

// The panels of an operation's matrices are one range that threads share.
static void run_mul(struct cpu_program *g, const struct phase *ph)
{
    const struct cpu_op *o = &g->op[ph->op0];
    struct pool *pool = g->cpu->pool;
    uint32_t total = 0;
    for (unsigned i = 0; i < o->op->n_w; i++)
        total += o->mat[i]->n_panels;
    uint32_t grain = MAX(1u, total / (pool_threads(pool) * UNITS_PER_THREAD));
    for (struct pool_range r; pool_next(pool, total, grain, &r);) {
        uint32_t first = 0;             // panel of matrix i in the shared range
        for (unsigned i = 0; i < o->op->n_w; first += o->mat[i++]->n_panels) {
            uint32_t begin = MAX(r.begin, first), end = MIN(r.end, first + o->mat[i]->n_panels);
            if (begin < end)
                multiply(g, ph, i, begin - first, end - first);
        }
    }
}

static void fill_rope(struct cpu_program *g)
{
    struct pool *pool = g->cpu->pool;
    for (struct pool_range r; pool_next(pool, g->batch->n_rows, ROWS_GRAIN_MAX, &r);)
        for (uint32_t row = r.begin; row < r.end; row++)
            for (unsigned i = 0; i < ARRAY_LEN(g->rope); i++)
                if (g->rope[i].used)
                    rope_fill(g, &g->rope[i], row);
    pool_barrier(pool);
}

static void run_step(void *ctx, uint32_t thread)
{
    struct cpu_program *g = ctx;
    fill_rope(g);
    for (uint32_t i = 0; i < g->n_phases; i++) {
        const struct phase *ph = &g->phase[i];
        if (phase_rows(g, ph) == 0)
            continue;
        switch (ph->kind) {
        case PHASE_ROWS: run_rows(g, ph); break;
        case PHASE_KV_WRITE: run_kv_write(g, ph); break;
        case PHASE_ATTN: attn_run(g, ph, thread); break;
        case PHASE_MUL: run_mul(g, ph); break;
        }
        pool_barrier(g->cpu->pool);
    }
}

int cpu_submit(struct program *p, struct batch *b, struct err *err)
{
    struct cpu_program *g = container_of(p, struct cpu_program, p);
    assert(b->n_rows > 0 && b->n_rows <= g->params.rows_max);
    assert(b->n_seqs <= g->params.seqs_max && b->n_out <= g->params.outputs_max);
    g->batch = b;
    cut_batch(g);
    int r = attn_units_build(g, err);
    if (r == 0)
        r = page_use_begin(g, err);
    if (r)
        return r;
    pool_run(g->cpu->pool, run_step, g);
    page_use_end(g);
    b->logits = g->logits.p;
    return 0;
}
