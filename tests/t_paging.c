// Protects paging: rows get the very bits that they get with all pages in memory, however few of
// them there is room for, however slow the disk is, and whoever else runs; what cannot be had is
// told. The disk is a simulated one in memory. TEST_DEVICE names the device.
#include "tests/rig.h"
#include <errno.h>
#include <math.h>
#include "base/base.h"
#include "tests/page_disk.h"

TEST_MAIN

#define LAYERS 2
#define TOKENS KV_BLOCK_TOKENS
#define BLOCKS 40                       // of the pool
#define PATIENCE 3
#define FOREVER_NS (UINT64_C(1) << 62)

// ---- two sides --------------------------------------------------------------------------------

// A GPU takes attention of a whole layer at once, so that much must fit; the CPU takes it page by
// page.
static uint32_t few_blocks(void)
{
    return rig_is_cpu() ? 5 : 9;
}

// Full blocks of a text; software GPUs are slow.
static uint32_t text_blocks(void)
{
    return rig_is_cpu() ? 20 : 14;
}

struct side { struct rig r; struct page_disk disk; bool paged; };

static void side_open(struct side *s, uint32_t memory_blocks)
{
    struct rig *r = &s->r;
    struct err err;
    rig_init(r, 4, 2, 64);
    r->model.cfg.n_layers = LAYERS;
    r->k_type = KV_F16;
    r->v_type = KV_Q8_0;
    for (uint32_t layer = 0; layer < LAYERS; layer++) {
        struct op *op = rig_op(r, OP_KV_WRITE);
        op->src[0] = SLOT_K;
        op->src[1] = SLOT_V;
        op->layer = (uint16_t)layer;
        op = rig_op(r, OP_ATTN);
        op->dst[0] = SLOT_A;
        op->src[0] = layer ? SLOT_A : SLOT_Q;       // the second layer asks with the first's answer
        op->attn.scale = 0.125f;
        op->layer = (uint16_t)layer;
    }
    rig_open(r, 0);
    if (!r->x->ops->kv_page)
        SKIP("no paging");
    s->paged = memory_blocks > 0;
    s->disk = page_disk_of(&r->layout);
    struct kv_layout l;
    REQUIRE_OK(kv_layout_init(&l, &r->model.cfg, r->k_type, r->v_type, 0, &err), err);
    if (s->paged)
        r->x->ops->kv_page(r->g, &s->disk.d, memory_blocks * LAYERS * l.page_bytes);
    REQUIRE_OK(r->x->ops->kv_alloc(r->g, BLOCKS, &r->layout, &err), err);
    s->disk.stored = malloc(BLOCKS * r->layout.block_bytes);
}

static void side_close(struct side *s)
{
    rig_finish(&s->r);
    free(s->disk.stored);
}

static void put_rows(struct side *s, const struct rows *x, uint32_t pos, uint32_t n, uint32_t row)
{
    const struct executor_ops *ops = s->r.x->ops;
    const uint32_t *w = s->r.plan.slot_width;
    ops->slot_write(s->r.g, SLOT_Q, row, n, x->q + (size_t)pos * w[SLOT_Q]);
    ops->slot_write(s->r.g, SLOT_K, row, n, x->k + (size_t)pos * w[SLOT_K]);
    ops->slot_write(s->r.g, SLOT_V, row, n, x->v + (size_t)pos * w[SLOT_V]);
}

static struct batch_seq seq_of(const uint32_t *table, uint32_t pos, uint32_t n,
                               struct attn_policy attn, bool decode)
{
    return (struct batch_seq){ .block = table, .n_blocks = DIV_UP(pos + n, TOKENS), .n_rows = n,
                               .pos0 = pos, .attn = attn, .decode = decode };
}

// Full blocks are stored as soon as they are.
static void store_blocks(struct side *s, const uint32_t *table, uint32_t from, uint32_t to)
{
    for (uint32_t i = from / TOKENS; s->paged && i < to / TOKENS; i++)
        page_disk_store(&s->disk, s->r.g, table[i]);
}

// Rows [pos, pos + n) again and again until all pages were there; a single one was generated.
// Returns how often they were not.
// What a chunk of a prompt reads may never be in memory together: then it waits in the step.
static uint32_t run_rows(struct side *s, const struct rows *x, const uint32_t *table, uint32_t pos,
                         uint32_t n, struct attn_policy attn, uint64_t stall_ns, float *a)
{
    uint32_t missed = 0;
    for (;; missed++) {
        struct batch_seq seq = seq_of(table, pos, n, attn, n == 1);
        struct batch b = { .n_rows = n, .n_seqs = 1, .seq = &seq,
                           .stall_ns = missed < PATIENCE ? stall_ns : FOREVER_NS };
        put_rows(s, x, pos, n, 0);
        rig_step(&s->r, &b);
        if (!s->paged || !seq.missed)
            break;
        REQUIRE_INT(seq.lost, KV_BLOCK_LOST_NONE);
        REQUIRE(seq.faults > 0);
        REQUIRE(missed < PATIENCE);
        page_disk_poll(&s->disk.d);
    }
    s->r.x->ops->slot_read(s->r.g, SLOT_A, 0, n, a);
    store_blocks(s, table, pos, pos + n);
    return missed;
}

static const struct attn_policy policy[] = {
    { SELECT_dense, 0, 0, 0 }, { SELECT_topk, 384, 0, 64 }, { SELECT_window, 0, 200, 64 },
};

// A prompt in chunks, then single rows.
static uint32_t run_all(struct side *s, struct rows *x, const uint32_t *table, uint32_t chunk,
                        struct attn_policy attn, uint64_t stall_ns)
{
    uint32_t prompt = x->n - 20, missed = 0;
    for (uint32_t pos = 0, n; pos < x->n; pos += n) {
        n = pos < prompt ? MIN(chunk, prompt - pos) : 1;
        missed += run_rows(s, x, table, pos, n, attn, stall_ns, x->a + (size_t)pos * x->width);
    }
    return missed;
}

// ---- the same bits ----------------------------------------------------------------------------

struct memory_case { uint32_t blocks /* 0: few */, chunk, polls; uint64_t stall_ns; };

static void check_case(const struct memory_case *c, struct attn_policy attn, struct rows *x,
                       const float *want)
{
    struct side s;
    struct kv_page_stats st;
    uint32_t table[BLOCKS], blocks = c->blocks ? c->blocks : few_blocks();
    side_open(&s, blocks);
    s.disk.polls = c->polls;
    table_fill(table, 3, DIV_UP(x->n, TOKENS));
    uint32_t missed = run_all(&s, x, table, c->chunk, attn, c->stall_ns);
    REQUIRE(memcmp(want, x->a, rows_bytes(x)) == 0);
    REQUIRE(c->stall_ns == 0 || missed == 0);
    s.r.x->ops->kv_page_stats(s.r.g, &st);
    REQUIRE_INT(st.missed, missed);
    REQUIRE_INT(st.memory_pages, blocks * LAYERS);
    REQUIRE(st.resident_pages <= st.memory_pages);
    REQUIRE(st.hits > 0);
    REQUIRE(attn.selector != SELECT_dense || blocks == BLOCKS || s.disk.n_fetched > 20);
    side_close(&s);
}

TEST(the_same_bits_with_few_pages)
{
    static const struct memory_case c[] = {
        { 0, 30, 0, FOREVER_NS }, { 0, 64, 3, FOREVER_NS }, { 12, 100, 1, FOREVER_NS },
        { 14, 100, 2, 0 }, { BLOCKS, 100, 2, 0 },
    };
    for (uint32_t p = 0; p < ARRAY_LEN(policy); p++) {
        struct side all;
        struct rows x;
        uint32_t table[BLOCKS];
        side_open(&all, 0);
        rows_init(&x, &all.r.plan, text_blocks() * TOKENS + 30);
        table_fill(table, 0, DIV_UP(x.n, TOKENS));
        run_all(&all, &x, table, 200, policy[p], 0);
        float *want = malloc(rows_bytes(&x));
        memcpy(want, x.a, rows_bytes(&x));
        for (uint32_t i = 0; i < ARRAY_LEN(c); i++)
            check_case(&c[i], policy[p], &x, want);
        free(want);
        rows_finish(&x);
        side_close(&all);
    }
}

// ---- others -----------------------------------------------------------------------------------

enum { SEQS = 3 };

// One sequence whose pages are all there, one that lost its own to a third.
TEST(who_misses_does_not_hold_up_others)
{
    struct side s;
    struct rows x[SEQS];
    uint32_t table[SEQS][BLOCKS], n[SEQS] = { 2 * TOKENS + 1, 8 * TOKENS + 1, 20 * TOKENS };
    struct batch_seq seq[2];
    side_open(&s, 14);
    for (uint32_t i = 0, first = 0; i < SEQS; first += DIV_UP(n[i], TOKENS), i++) {
        rows_init(&x[i], &s.r.plan, n[i]);
        table_fill(table[i], first, DIV_UP(n[i], TOKENS));
    }
    uint32_t order[SEQS] = { 1, 2, 0 };
    for (uint32_t i = 0; i < SEQS; i++)
        run_all(&s, &x[order[i]], table[order[i]], 64, policy[1], FOREVER_NS);
    s.disk.polls = 100;
    uint32_t rounds = 0;
    do {
        for (uint32_t i = 0; i < 2; i++) {
            seq[i] = seq_of(table[i], n[i] - 1, 1, policy[1], true);
            seq[i].row0 = i;
            put_rows(&s, &x[i], n[i] - 1, 1, i);
        }
        struct batch b = { .n_rows = 2, .n_seqs = 2, .seq = seq };
        rig_step(&s.r, &b);
        REQUIRE(!seq[0].missed);
        REQUIRE(rounds > 0 || seq[1].missed);
        for (uint32_t i = 0; i < 2; i++) {
            float a[256];
            s.r.x->ops->slot_read(s.r.g, SLOT_A, i, 1, a);
            if (!seq[i].missed)
                REQUIRE(memcmp(a, x[i].a + (size_t)(n[i] - 1) * x[i].width, sizeof a) == 0);
        }
        for (uint32_t i = 0; i < 120; i++)
            page_disk_poll(&s.disk.d);
    } while (seq[1].missed && ++rounds < 50);
    REQUIRE(rounds > 0 && rounds < 10);
    for (uint32_t i = 0; i < SEQS; i++)
        rows_finish(&x[i]);
    side_close(&s);
}

TEST(what_cannot_be_read_is_lost)
{
    struct side s;
    struct rows x;
    uint32_t table[BLOCKS];
    side_open(&s, few_blocks());
    rows_init(&x, &s.r.plan, text_blocks() * TOKENS + 1);
    table_fill(table, 0, text_blocks() + 1);
    run_all(&s, &x, table, 64, policy[0], FOREVER_NS);
    s.disk.bad_block = table[7];
    struct batch_seq seq = seq_of(table, x.n - 1, 1, policy[0], true);
    struct batch b = { .n_rows = 1, .n_seqs = 1, .seq = &seq, .stall_ns = FOREVER_NS };
    put_rows(&s, &x, x.n - 1, 1, 0);
    rig_step(&s.r, &b);
    REQUIRE(seq.missed);
    REQUIRE_INT(seq.lost, 7);
    s.disk.bad_block = UINT32_MAX;          // it stays lost, until the block has new content
    rig_step(&s.r, &b);
    REQUIRE_INT(seq.lost, 7);
    s.r.x->ops->kv_backed(s.r.g, table[7], false);
    float a[TOKENS * 256];
    struct batch_seq again = seq_of(table, 7 * TOKENS, TOKENS, policy[0], false);
    struct batch whole = { .n_rows = TOKENS, .n_seqs = 1, .seq = &again, .stall_ns = FOREVER_NS };
    put_rows(&s, &x, 7 * TOKENS, TOKENS, 0);
    rig_step(&s.r, &whole);
    REQUIRE(!again.missed);
    run_rows(&s, &x, table, x.n - 1, 1, policy[0], FOREVER_NS, a);
    REQUIRE(memcmp(a, x.a + (size_t)(x.n - 1) * x.width, x.width * sizeof *a) == 0);
    rows_finish(&x);
    side_close(&s);
}

// A session comes back: digests first, pages as they are chosen.
TEST(digests_are_enough_to_begin_with)
{
    struct side s;
    struct rows x;
    float a[256];
    uint32_t table[BLOCKS], n_full = text_blocks();
    side_open(&s, 10);
    rows_init(&x, &s.r.plan, n_full * TOKENS + 1);
    table_fill(table, 0, n_full + 1);
    run_all(&s, &x, table, 64, policy[1], FOREVER_NS);
    for (uint32_t i = 0; i <= n_full; i++)
        s.r.x->ops->kv_backed(s.r.g, table[i], false);
    struct kv_page_stats st;
    s.r.x->ops->kv_page_stats(s.r.g, &st);
    REQUIRE_INT(st.resident_pages, 0);
    for (uint32_t i = 0; i < n_full; i++)
        s.r.x->ops->kv_write_digests(s.r.g, table[i], page_disk_block(&s.disk, table[i]));
    s.disk.n_fetched = 0;
    run_rows(&s, &x, table, x.n - 1, 1, policy[1], FOREVER_NS, a);
    REQUIRE(memcmp(a, x.a + (size_t)(x.n - 1) * x.width, x.width * sizeof *a) == 0);
    REQUIRE(s.disk.n_fetched > 0 && s.disk.n_fetched <= LAYERS * 2 * 6);    // of each KV head
    rows_finish(&x);
    side_close(&s);
}

TEST(too_little_memory_is_refused)
{
    struct rig r;
    struct page_disk d = page_disk_of(NULL);
    struct kv_layout l = { .block_bytes = 7 };
    struct err err = {0};
    rig_init(&r, 2, 2, 64);
    rig_op(&r, OP_KV_WRITE)->src[1] = SLOT_V;
    rig_open(&r, 0);
    if (!r.x->ops->kv_page)
        SKIP("no paging");
    r.x->ops->kv_page(r.g, &d.d, 1000);
    REQUIRE_INT(r.x->ops->kv_alloc(r.g, BLOCKS, &l, &err), -EINVAL);
    REQUIRE_INT(l.block_bytes, 7);
    rig_finish(&r);
}
