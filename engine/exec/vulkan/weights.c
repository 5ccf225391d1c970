// Taking in weights: matrices straight from the mapped file into planes in device memory, norm
// weights and biases as floats.
//
// Matrices pass through a ring of pinned host memory: while the device reads one slot over the bus
// and repacks it, the host copies the next. Floor: the file's bytes over the bus (50 GB/s of a PCIe
// 5 x16) or over what the host copies out of its page cache, which is less; so a few threads copy.
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "base/base.h"
#include "base/clock.h"
#include "engine/exec/cpu/pool.h"
#include "engine/exec/vulkan/weights.h"

#define ROW_ALIGN 16
#define CHUNK_ELEMS 8                   // that kernels read at once
#define GROUP_ELEMS 32                  // of an invocation of repack.glsl
#define LINE_FLOATS 32

#define SLOTS 3
#define SLOT_BYTES ((size_t)32 << 20)
#define SLOT_PIECES_MAX 512
#define PIECE_ALIGN ((size_t)256)
#define SLOT_SLACK 16                   // repack.glsl reads whole words of 16 bytes
#define COPY_BYTES ((size_t)1 << 20)    // handed to a thread at once
#define COPY_THREADS 4
#define POOL_MIN_BYTES ((size_t)64 << 20)   // of all weights, from which threads are worth it
#define SLOT_TIMEOUT_NS (60 * NS_PER_S)

#define REPACK_THREADS 128

// ---- matrices ---------------------------------------------------------------------------------

static bool has_matrices(enum op_kind kind)
{
    return kind == OP_EMBED || kind == OP_MATMUL || kind == OP_LOGITS;
}

static unsigned n_matrices(const struct op *op)
{
    return op->kind == OP_MATMUL ? op->n_w : has_matrices(op->kind);
}

// The planes hold the file's bits and no more, but for elements that fill up a chunk.
static size_t row_bytes(const struct quant *q, uint32_t n_in)
{
    uint32_t n = ALIGN_UP(n_in, (uint32_t)CHUNK_ELEMS);
    return ALIGN_UP((size_t)(n / q->block_elems) * q->block_bytes, (size_t)ROW_ALIGN);
}

static int mat_init(struct vk_mat *m, const struct tensor *t, size_t part_bytes, struct err *err)
{
    uint64_t n_in = t->dim[0], n_out = t->dim[1];
    if (n_in == 0 || n_out == 0 || n_in > INT32_MAX || n_out > INT32_MAX ||
        n_in % t->quant->block_elems != 0)
        return err_set(err, -EINVAL, "%s: %llu x %llu is no matrix of %s", t->name,
                       (unsigned long long)n_out, (unsigned long long)n_in, t->quant->name);
    *m = (struct vk_mat){ .t = t, .n_in = (uint32_t)n_in, .n_out = (uint32_t)n_out };
    m->row_bytes = row_bytes(t->quant, m->n_in);
    m->part_rows = (uint32_t)MIN(part_bytes / m->row_bytes, (size_t)m->n_out);
    if (m->part_rows == 0 || DIV_UP(m->n_out, m->part_rows) > MAT_PARTS_MAX)
        return err_set(err, -ENOTSUP, "%s: %llu x %llu is more than the Vulkan executor takes",
                       t->name, (unsigned long long)n_out, (unsigned long long)n_in);
    m->n_parts = DIV_UP(m->n_out, m->part_rows);
    return 0;
}

static int mat_alloc(struct vk *vk, struct vk_mat *m, struct err *err)
{
    int r = 0;
    for (uint32_t p = 0; r == 0 && p < m->n_parts; p++)
        r = vk_alloc_dirty(vk, VK_HOME_DEVICE, vk_mat_part_rows(m, p) * m->row_bytes, &m->part[p],
                           err);
    return r ? err_prefix(err, "%s", m->t->name) : 0;
}

// The matrix of a tensor; one that is used twice (tied embeddings) is taken in once.
static struct vk_mat *find_mat(struct vk_program *g, const struct tensor *t)
{
    for (uint32_t i = 0; i < g->n_mats; i++)
        if (g->mat[i].t == t)
            return &g->mat[i];
    return NULL;
}

static int add_mat(struct vk_program *g, struct vk_op *o, unsigned k, size_t part_bytes,
                   struct err *err)
{
    struct vk_mat *m = find_mat(g, o->op->w[k]);
    if (!m) {
        m = &g->mat[g->n_mats];
        int r = mat_init(m, o->op->w[k], part_bytes, err);
        if (r)
            return r;
        g->n_mats++;
    }
    o->mat[k] = m;
    return 0;
}

static void check_op(const struct vk_program *g, const struct vk_op *o, unsigned k)
{
    const uint32_t *width = g->plan->slot_width;
    assert(o->op->kind == OP_EMBED || o->mat[k]->n_in == width[o->op->src[0]]);
    assert(o->op->kind != OP_MATMUL || o->mat[k]->n_out == width[o->op->dst[k]]);
    assert(o->op->kind != OP_EMBED || o->mat[k]->n_in == width[o->op->dst[k]]);
}

static int init_mats(struct vk_program *g, size_t part_bytes, struct err *err)
{
    int r = 0;
    g->mat = calloc((size_t)g->plan->n_ops * OP_W_MAX + 1, sizeof(*g->mat));
    if (!g->mat)
        return err_set(err, -ENOMEM, "no memory for a plan of %u operations", g->plan->n_ops);
    for (uint32_t i = 0; i < g->plan->n_ops; i++)
        for (unsigned k = 0; k < n_matrices(g->op[i].op); k++) {
            r = add_mat(g, &g->op[i], k, part_bytes, err);
            if (r)
                return r;
            check_op(g, &g->op[i], k);
        }
    for (uint32_t i = 0; r == 0 && i < g->n_mats; i++)
        r = mat_alloc(g->vk, &g->mat[i], err);
    return r;
}

// ---- the ring ---------------------------------------------------------------------------------

struct piece {                          // rows of a matrix inside one part, in a slot
    const struct vk_mat *m;
    uint32_t row0, n_rows;
    size_t   at, bytes;
};

struct ring_slot {
    struct vk_mem  staging;
    struct vk_cmd *cmd;
    uint64_t       ticket;              // 0: not on its way
    struct piece   piece[SLOT_PIECES_MAX];      // ascending
    uint32_t       n_pieces;
    size_t         bytes;
};

struct upload {
    struct vk_program *g;
    struct pool  *pool;                 // NULL: the caller copies
    const struct vk_kernel *repack[QUANT_COUNT];
    struct ring_slot  *slot;                 // (SLOTS), owned
    size_t        slot_bytes;
    uint32_t      mat, row;             // the next to be taken
    uint64_t      done_bytes, total_bytes;
};

static size_t file_row_bytes(const struct vk_mat *m)
{
    return m->n_in / m->t->quant->block_elems * m->t->quant->block_bytes;
}

static int make_kernel(struct upload *u, const struct vk_mat *m, struct err *err)
{
    const struct quant *q = m->t->quant;
    uint32_t per_group = MAX(GROUP_ELEMS / q->block_elems, 1u);     // blocks of floats in a group
    const uint32_t spec[] = {
        REPACK_THREADS, per_group * q->block_bytes, MAX(q->block_elems / GROUP_ELEMS, 1u),
    };
    enum quant_id id = vk_mat_quant(m);
    if (u->repack[id])
        return 0;
    return vk_kernel(u->g->vk, KERNEL_repack + id, spec, ARRAY_LEN(spec), &u->repack[id], err);
}

static int upload_init(struct upload *u, struct vk_program *g, size_t slot_bytes, struct err *err)
{
    size_t row_max = 0;
    int r = 0;
    *u = (struct upload){ .g = g };
    for (uint32_t i = 0; r == 0 && i < g->n_mats; i++) {
        r = make_kernel(u, &g->mat[i], err);
        row_max = MAX(row_max, file_row_bytes(&g->mat[i]));
        u->total_bytes += g->mat[i].n_out * file_row_bytes(&g->mat[i]);
    }
    u->slot = calloc(SLOTS, sizeof(*u->slot));
    if (r == 0 && !u->slot)
        r = err_set(err, -ENOMEM, "no memory to take in weights");
    // Small models in one slot, with room for what alignment costs.
    u->slot_bytes = MAX(row_max, MIN(slot_bytes, (size_t)u->total_bytes * 2)) + PIECE_ALIGN;
    for (unsigned i = 0; r == 0 && i < SLOTS; i++) {
        r = vk_alloc(g->vk, VK_HOME_HOST, u->slot_bytes + SLOT_SLACK, &u->slot[i].staging, err);
        if (r == 0)
            r = vk_cmd_create(g->vk, &u->slot[i].cmd, err);
    }
    if (r == 0 && u->total_bytes > POOL_MIN_BYTES)
        r = pool_create(&u->pool, COPY_THREADS, err);
    return r;
}

static void upload_finish(struct upload *u)
{
    for (unsigned i = 0; u->slot && i < SLOTS; i++) {
        vk_cmd_destroy(u->slot[i].cmd);
        vk_free(u->g->vk, &u->slot[i].staging);
    }
    free(u->slot);
    pool_destroy(u->pool);
}

// Which rows come next, as many as fit.
static void plan_slot(struct upload *u, struct ring_slot *s)
{
    s->n_pieces = 0;
    s->bytes = 0;
    while (u->mat < u->g->n_mats && s->n_pieces < SLOT_PIECES_MAX) {
        const struct vk_mat *m = &u->g->mat[u->mat];
        size_t at = ALIGN_UP(s->bytes, PIECE_ALIGN), one = file_row_bytes(m);
        uint32_t in_part = m->part_rows - u->row % m->part_rows;
        uint32_t n = MIN(MIN(m->n_out - u->row, in_part),
                         (uint32_t)MIN((u->slot_bytes - MIN(at, u->slot_bytes)) / one,
                                       (size_t)UINT32_MAX));
        if (n == 0)
            return;
        s->piece[s->n_pieces++] = (struct piece){ m, u->row, n, at, n * one };
        s->bytes = at + n * one;
        u->row += n;
        if (u->row == m->n_out) {
            u->mat++;
            u->row = 0;
        }
    }
}

// Bytes [begin, end) of a slot from the file.
static void copy_range(struct ring_slot *s, size_t begin, size_t end)
{
    for (const struct piece *p = s->piece; p < s->piece + s->n_pieces && p->at < end; p++) {
        size_t from = MAX(p->at, begin), to = MIN(p->at + p->bytes, end);
        const char *src = p->m->t->data;
        if (from < to)
            memcpy((char *)s->staging.map + from,
                   src + p->row0 * file_row_bytes(p->m) + (from - p->at), to - from);
    }
}

struct copying { struct pool *pool; struct ring_slot *slot; };

static void copy_thread(void *ctx, uint32_t thread)
{
    const struct copying *c = ctx;
    uint32_t n = (uint32_t)DIV_UP(c->slot->bytes, COPY_BYTES);
    struct pool_range r;
    (void)thread;
    while (pool_next(c->pool, n, 1, &r))
        copy_range(c->slot, r.begin * COPY_BYTES, r.end * COPY_BYTES);
}

static void copy_slot(struct upload *u, struct ring_slot *s)
{
    struct copying c = { u->pool, s };
    if (u->pool)
        pool_run(u->pool, copy_thread, &c);
    else
        copy_range(s, 0, s->bytes);
}

struct repack_push {                    // repack.glsl
    VkDeviceAddress src;
    struct vk_part  dst;
    uint32_t n_rows, src_row_bytes;
};

static void record_piece(struct upload *u, struct ring_slot *s, const struct piece *p)
{
    const struct vk_mat *m = p->m;
    uint32_t part = p->row0 / m->part_rows;
    struct repack_push push = {
        .src = s->staging.addr + p->at, .dst = vk_mat_part(m, part), .n_rows = p->n_rows,
        .src_row_bytes = (uint32_t)file_row_bytes(m),
    };
    push.dst.addr += (p->row0 - part * m->part_rows) * m->row_bytes;
    const struct vk_use uses[] = {
        { push.src, p->bytes, false }, { push.dst.addr, p->n_rows * m->row_bytes, true } };
    uint32_t groups = DIV_UP(m->n_in, GROUP_ELEMS);
    const struct vk_groups n = { DIV_UP(p->n_rows * groups, REPACK_THREADS), 1, 1 };
    vk_dispatch(s->cmd, u->repack[vk_mat_quant(m)], "repack", &push, sizeof(push), n, uses,
                ARRAY_LEN(uses));
}

static int wait_slot(struct upload *u, struct ring_slot *s, struct err *err)
{
    if (s->ticket == 0)
        return 0;
    int r = vk_wait(u->g->vk, s->ticket, SLOT_TIMEOUT_NS, err);
    s->ticket = 0;
    return r;
}

static int send_slot(struct upload *u, struct ring_slot *s, struct err *err)
{
    int r = wait_slot(u, s, err);
    if (r)
        return r;
    plan_slot(u, s);
    copy_slot(u, s);
    vk_cmd_begin(s->cmd);
    for (uint32_t i = 0; i < s->n_pieces; i++)
        record_piece(u, s, &s->piece[i]);
    r = vk_cmd_end(s->cmd, err);
    return r ? r : vk_submit(u->g->vk, s->cmd, &s->ticket, err);
}

static int report(struct upload *u, const struct ring_slot *s, struct err *err)
{
    const struct load_params *p = &u->g->params;
    for (uint32_t i = 0; i < s->n_pieces; i++)
        u->done_bytes += s->piece[i].bytes;
    if (p->progress && p->progress(p->progress_ctx, u->done_bytes, u->total_bytes))
        return err_set(err, -ECANCELED, "the load was stopped");
    return 0;
}

static int upload(struct vk_program *g, size_t slot_bytes, struct err *err)
{
    struct upload u;
    int r = upload_init(&u, g, slot_bytes, err);
    for (unsigned i = 0; r == 0 && u.mat < g->n_mats; i = (i + 1) % SLOTS) {
        r = send_slot(&u, &u.slot[i], err);
        if (r == 0)
            r = report(&u, &u.slot[i], err);
    }
    // What is on its way has to arrive, also after a failure.
    for (unsigned i = 0; u.slot && i < SLOTS; i++) {
        int end = wait_slot(&u, &u.slot[i], r ? NULL : err);
        r = r ? r : end;
    }
    upload_finish(&u);
    return r;
}

// ---- vectors ----------------------------------------------------------------------------------

// Calls f for every norm weight and bias.
static void each_vector(struct vk_program *g,
                        void (*f)(struct vk_program *g, const struct tensor *t,
                                  struct vk_mem *ret, size_t *at, float *host),
                        size_t *at, float *host)
{
    for (uint32_t i = 0; i < g->plan->n_ops; i++) {
        const struct op *op = &g->plan->op[i];
        struct vk_op *o = &g->op[i];
        if (op->kind == OP_NORM)
            f(g, op->w[0], &o->vector[0], at, host);
        for (unsigned k = 0; op->kind == OP_QKV_STORE && op->w[0] && k < 2; k++)
            f(g, op->w[k], &o->norm_weight[k], at, host);
        if (op->normed.w)
            f(g, op->normed.w, &o->norm_weight[0], at, host);
        if (op->added.w)
            f(g, op->added.w, &o->norm_weight[1], at, host);
        for (unsigned k = 0; op->kind == OP_MATMUL && k < op->n_w; k++)
            if (op->bias[k])
                f(g, op->bias[k], &o->vector[k], at, host);
    }
}

static void count_vector(struct vk_program *g, const struct tensor *t, struct vk_mem *ret,
                         size_t *at, float *host)
{
    (void)g, (void)ret, (void)host;
    *at += ALIGN_UP((size_t)t->dim[0], (size_t)LINE_FLOATS);
}

static void take_vector(struct vk_program *g, const struct tensor *t, struct vk_mem *ret,
                        size_t *at, float *host)
{
    size_t bytes = *at * sizeof(float);
    t->quant->decode(t->data, t->dim[0], host + *at);
    *ret = (struct vk_mem){
        .addr = g->vectors.addr + bytes, .bytes = t->dim[0] * sizeof(float),
        .buffer = g->vectors.buffer, .offset = g->vectors.offset + bytes,
    };
    count_vector(g, t, ret, at, host);
}

static int copy_vectors(struct vk_program *g, const struct vk_mem *staging, struct err *err)
{
    struct vk_cmd *c;
    int r = vk_cmd_create(g->vk, &c, err);
    if (r)
        return r;
    vk_cmd_begin(c);
    vk_copy(c, &g->vectors, 0, staging, 0, staging->bytes);
    r = vk_cmd_end(c, err);
    if (r == 0)
        r = vk_run(g->vk, c, SLOT_TIMEOUT_NS, err);
    vk_cmd_destroy(c);
    return r;
}

static int init_vectors(struct vk_program *g, struct err *err)
{
    struct vk_mem staging = {0};
    size_t floats = 0, at = 0;
    each_vector(g, count_vector, &floats, NULL);
    if (floats == 0)
        return 0;
    int r = vk_alloc(g->vk, VK_HOME_DEVICE, floats * sizeof(float), &g->vectors, err);
    if (r == 0)
        r = vk_alloc(g->vk, VK_HOME_HOST, floats * sizeof(float), &staging, err);
    if (r == 0) {
        each_vector(g, take_vector, &at, staging.map);
        r = copy_vectors(g, &staging, err);
    }
    vk_free(g->vk, &staging);
    return r;
}

// ---- all --------------------------------------------------------------------------------------

int vk_weights_take(struct vk_program *g, size_t part_bytes, size_t slot_bytes, struct err *err)
{
    int r = init_mats(g, part_bytes, err);
    if (r == 0)
        r = init_vectors(g, err);
    if (r == 0 && g->n_mats > 0)
        r = upload(g, slot_bytes, err);
    return r;
}

int vk_weights_init(struct vk_program *g, struct err *err)
{
    return vk_weights_take(g, VK_SLAB_BYTES, SLOT_BYTES, err);
}

void vk_weights_finish(struct vk_program *g)
{
    for (uint32_t i = 0; i < g->n_mats; i++)
        for (uint32_t p = 0; p < g->mat[i].n_parts; p++)
            vk_free(g->vk, &g->mat[i].part[p]);
    free(g->mat);
    g->mat = NULL;
    g->n_mats = 0;
    vk_free(g->vk, &g->vectors);
}
