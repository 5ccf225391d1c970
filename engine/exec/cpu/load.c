// Taking in a model: the plan cut into phases, weights packed on all threads, memory of a step.
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include "engine/exec/cpu/cpu.h"
#include "base/base.h"

#define LINE_FLOATS 16
#define PACK_PANELS 32              // handed to a thread at once

// ---- phases -----------------------------------------------------------------------------------

static struct phase *add_phase(struct cpu_program *g, enum phase_kind kind, uint32_t op0,
                               bool gathered)
{
    struct phase *ph = &g->phase[g->n_phases++];
    *ph = (struct phase){
        .kind = kind, .op0 = op0, .n_ops = 1, .gathered = gathered, .prepare = PREPARE_NONE,
    };
    return ph;
}

static bool row_wise(enum op_kind kind)
{
    return kind == OP_EMBED || kind == OP_NORM || kind == OP_ROPE || kind == OP_GLU ||
           kind == OP_GATHER;
}

static bool multiplies(enum op_kind kind)
{
    return kind == OP_MATMUL || kind == OP_LOGITS;
}

static void add_rows_op(struct cpu_program *g, uint32_t i, bool gathered)
{
    struct phase *last = g->n_phases ? &g->phase[g->n_phases - 1] : NULL;
    bool open = last && last->kind == PHASE_ROWS && last->prepare == PREPARE_NONE;
    if (open && g->op[i].op->kind != OP_GATHER)
        last->n_ops++;
    else
        add_phase(g, PHASE_ROWS, i, gathered);
}

// The rows of the product's input are prepared by the chain that makes them, where there is one.
static void add_product(struct cpu_program *g, uint32_t i, bool gathered)
{
    struct phase *last = g->n_phases ? &g->phase[g->n_phases - 1] : NULL;
    if (!last || last->kind != PHASE_ROWS || last->prepare != PREPARE_NONE) {
        last = add_phase(g, PHASE_ROWS, i, gathered);
        last->n_ops = 0;
    }
    last->prepare = g->op[i].op->src[0];
    add_phase(g, PHASE_MUL, i, gathered);
}

static int build_phases(struct cpu_program *g, struct err *err)
{
    bool gathered = false;
    g->phase = calloc(2 * (size_t)g->plan->n_ops + 1, sizeof(*g->phase));
    if (!g->phase)
        return err_set(err, -ENOMEM, "no memory for a plan of %u operations", g->plan->n_ops);
    for (uint32_t i = 0; i < g->plan->n_ops; i++) {
        enum op_kind kind = g->plan->op[i].kind;
        gathered |= kind == OP_GATHER;
        if (row_wise(kind))
            add_rows_op(g, i, gathered);
        else if (multiplies(kind))
            add_product(g, i, gathered);
        else
            add_phase(g, kind == OP_ATTN ? PHASE_ATTN : PHASE_KV_WRITE, i, gathered);
    }
    return 0;
}

// ---- weights ----------------------------------------------------------------------------------

// The matrix of a tensor; one that is used twice (tied embeddings) is packed once.
static struct cpu_mat *find_mat(struct cpu_program *g, const struct tensor *t)
{
    for (uint32_t i = 0; i < g->n_mats; i++)
        if (g->mat[i].t == t)
            return &g->mat[i];
    return NULL;
}

static int init_mats(struct cpu_program *g, struct err *err)
{
    g->mat = calloc((size_t)g->plan->n_ops * OP_W_MAX + 1, sizeof(*g->mat));
    if (!g->mat)
        return err_set(err, -ENOMEM, "no memory for a plan of %u operations", g->plan->n_ops);
    for (uint32_t i = 0; i < g->plan->n_ops; i++) {
        const struct op *op = &g->plan->op[i];
        for (unsigned k = 0; multiplies(op->kind) && k < op->n_w; k++) {
            struct cpu_mat *m = find_mat(g, op->w[k]);
            assert(op->w[k]->dim[0] == g->plan->slot_width[op->src[0]]);
            if (!m) {
                m = &g->mat[g->n_mats];
                int r = cpu_mat_init(m, op->w[k], g->cpu->exact, err);
                if (r)
                    return r;
                g->n_mats++;
            }
            g->op[i].mat[k] = m;
            if (op->kind == OP_LOGITS)
                g->n_vocab = m->n_out;
            else
                assert(m->n_out == g->plan->slot_width[op->dst[k]]);
        }
    }
    return 0;
}

// Calls f for every norm weight and bias.
static void each_vector(struct cpu_program *g,
                        void (*f)(struct cpu_program *g, const struct tensor *t,
                                  const float **ret, size_t *at),
                        size_t *at)
{
    for (uint32_t i = 0; i < g->plan->n_ops; i++) {
        const struct op *op = &g->plan->op[i];
        if (op->kind == OP_NORM)
            f(g, op->w[0], &g->op[i].vector[0], at);
        for (unsigned k = 0; multiplies(op->kind) && k < op->n_w; k++)
            if (op->bias[k])
                f(g, op->bias[k], &g->op[i].vector[k], at);
    }
}

static void count_vector(struct cpu_program *g, const struct tensor *t, const float **ret,
                         size_t *at)
{
    (void)g, (void)ret;
    *at += ALIGN_UP((size_t)t->dim[0], (size_t)LINE_FLOATS);
}

static void take_vector(struct cpu_program *g, const struct tensor *t, const float **ret,
                        size_t *at)
{
    float *p = (float *)g->vectors.p + *at;
    t->quant->decode(t->data, t->dim[0], p);
    *ret = p;
    count_vector(g, t, ret, at);
}

static int init_vectors(struct cpu_program *g, struct err *err)
{
    size_t floats = 0, at = 0;
    each_vector(g, count_vector, &floats);
    if (mem_map(&g->vectors, floats * sizeof(float)))
        return err_set(err, -ENOMEM, "no memory for norm weights and biases");
    each_vector(g, take_vector, &at);
    return 0;
}

// ---- packing ----------------------------------------------------------------------------------

struct packing {
    struct cpu_program *g;
    uint32_t            n_panels;       // of all matrices
    uint64_t            total_bytes;    // of the tensors
    _Atomic uint64_t    done_bytes;
    _Atomic int         stopped;        // the caller's progress() said so
};

static void pack_panel(struct packing *p, uint32_t i)
{
    struct cpu_mat *m = p->g->mat;
    for (; i >= m->n_panels; m++)
        i -= m->n_panels;
    cpu_mat_pack(m, i, i + 1);
    uint64_t bytes = m->t->bytes;
    atomic_fetch_add_explicit(&p->done_bytes,
                              bytes * (i + 1) / m->n_panels - bytes * i / m->n_panels,
                              memory_order_relaxed);
}

static void pack_thread(void *ctx, uint32_t thread)
{
    struct packing *p = ctx;
    const struct load_params *lp = &p->g->params;
    struct pool_range r;
    while (pool_next(p->g->cpu->pool, p->n_panels, PACK_PANELS, &r)) {
        for (uint32_t i = r.begin; i < r.end && !atomic_load(&p->stopped); i++)
            pack_panel(p, i);
        if (thread == 0 && lp->progress &&
            lp->progress(lp->progress_ctx, atomic_load(&p->done_bytes), p->total_bytes))
            atomic_store(&p->stopped, 1);
    }
}

static int pack_mats(struct cpu_program *g, struct err *err)
{
    struct packing p = { .g = g };
    for (uint32_t i = 0; i < g->n_mats; i++) {
        p.n_panels += g->mat[i].n_panels;
        p.total_bytes += g->mat[i].t->bytes;
    }
    pool_run(g->cpu->pool, pack_thread, &p);
    bool stopped = atomic_load(&p.stopped);
    if (!stopped && g->params.progress)
        stopped = g->params.progress(g->params.progress_ctx, p.total_bytes, p.total_bytes);
    return stopped ? err_set(err, -ECANCELED, "the load was stopped") : 0;
}

// ---- memory of a step -------------------------------------------------------------------------

static int init_slots(struct cpu_program *g, struct err *err)
{
    size_t rows = g->params.rows_max, act = 0, slot_bytes, logit_bytes;
    int r = 0;
    for (uint32_t i = 0; i < g->n_phases; i++)
        if (g->phase[i].prepare != PREPARE_NONE)
            act = MAX(act, cpu_act_bytes(g->plan->slot_width[g->phase[i].prepare], g->cpu->exact));
    for (unsigned s = 0; r == 0 && s < SLOT_COUNT; s++) {
        g->stride[s] = ALIGN_UP(g->plan->slot_width[s], (uint32_t)LINE_FLOATS);
        bool fits = mul_size(rows, g->stride[s] * sizeof(float), &slot_bytes);
        r = fits ? mem_map(&g->slot[s], slot_bytes) : -ENOMEM;
    }
    bool fits = mul_size((size_t)g->params.outputs_max * sizeof(float), g->n_vocab, &logit_bytes);
    if (!r)
        r = fits ? mem_map(&g->logits, logit_bytes) : -ENOMEM;
    if (!r)
        r = mem_map(&g->act, rows * act);
    g->row_pos = calloc(rows, sizeof(*g->row_pos));
    g->row_seq = calloc(rows, sizeof(*g->row_seq));
    g->kv_tile = calloc(rows, sizeof(*g->kv_tile));
    g->attn_tile = calloc(rows, sizeof(*g->attn_tile));
    if (r || !g->row_pos || !g->row_seq || !g->kv_tile || !g->attn_tile)
        return err_set(err, -ENOMEM, "no memory for batches of %zu rows and %u outputs", rows,
                       g->params.outputs_max);
    return 0;
}

static int init_rope(struct cpu_program *g, struct err *err)
{
    int r = 0;
    for (uint32_t i = 0; r == 0 && i < g->plan->n_ops; i++) {
        const struct op *op = &g->plan->op[i];
        if (op->kind == OP_ROPE && !g->rope[op->rope.local].used)
            r = rope_init(g, &g->rope[op->rope.local],
                          op->rope.local ? &g->cfg->rope_local : &g->cfg->rope, err);
    }
    return r;
}

static int load(struct cpu_program *g, struct err *err)
{
    g->op = calloc((size_t)g->plan->n_ops + 1, sizeof(*g->op));
    if (!g->op)
        return err_set(err, -ENOMEM, "no memory for a plan of %u operations", g->plan->n_ops);
    for (uint32_t i = 0; i < g->plan->n_ops; i++)
        g->op[i].op = &g->plan->op[i];
    int r = build_phases(g, err);
    if (!r)
        r = init_mats(g, err);
    if (!r)
        r = init_vectors(g, err);
    if (!r)
        r = init_slots(g, err);
    if (!r)
        r = init_rope(g, err);
    if (!r)
        r = attn_classes_init(g, err);
    if (!r)
        r = attn_scratch_init(g, err);
    if (!r)
        r = page_use_init(g, err);
    return r ? r : pack_mats(g, err);
}

int cpu_load(struct executor *x, const struct model *m, const struct plan *plan,
             const struct load_params *p, struct program **ret, struct err *err)
{
    assert(p->rows_max > 0 && p->rows_max <= BATCH_ROWS_MAX);
    struct cpu_program *g = calloc(1, sizeof(*g));
    if (!g)
        return err_set(err, -ENOMEM, "no memory for a program");
    g->p.x = x;
    g->cpu = container_of(x, struct cpu_executor, x);
    g->model = m;
    g->cfg = &m->cfg;
    g->plan = plan;
    g->params = *p;
    int r = load(g, err);
    if (r) {
        cpu_unload(&g->p);
        return r;
    }
    *ret = &g->p;
    return 0;
}

void cpu_unload(struct program *p)
{
    if (!p)
        return;
    struct cpu_program *g = container_of(p, struct cpu_program, p);
    for (uint32_t i = 0; i < g->n_mats; i++)
        cpu_mat_finish(&g->mat[i]);
    for (unsigned s = 0; s < SLOT_COUNT; s++)
        mem_unmap(&g->slot[s]);
    struct mem *mem[] = { &g->vectors, &g->act, &g->logits, &g->attn_partial, &g->attn_pending,
                          &g->attn_list };
    for (unsigned i = 0; i < ARRAY_LEN(mem); i++)
        mem_unmap(mem[i]);
    rope_finish(&g->rope[0]);
    rope_finish(&g->rope[1]);
    pages_finish(&g->kv);
    attn_classes_finish(g);
    attn_scratch_finish(g);
    void *heap[] = { g->op, g->phase, g->mat, g->row_pos, g->row_seq, g->kv_tile, g->attn_tile,
                     g->page_use };
    for (unsigned i = 0; i < ARRAY_LEN(heap); i++)
        free(heap[i]);
    free(g);
}
