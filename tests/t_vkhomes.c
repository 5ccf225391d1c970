// Protects KV pages in pinned host memory and on disk: whatever part of them may lie on the device,
// or in memory at all, a model gives the very same logits, and its blocks the very same bytes,
// while pages change places.
// TEST_DEVICE names the device.
#include "tests/rig.h"
#include <errno.h>
#include "base/base.h"
#include "engine/exec/vulkan/vulkan.h"
#include "tests/page_disk.h"
#include "tests/vk_pieces.h"

TEST_MAIN

#define LAYERS 3
#define DIM 32
#define WIDTH 64
#define VOCAB 40
#define BLOCKS 20
#define PAGES (BLOCKS * LAYERS)
#define NO_LIMIT UINT64_MAX

#define PROMPT 430                      // tokens; the fork goes on from FORK on
#define FORK 300
#define DECODES 40                      // past the end of a block
#define FOREVER_NS (UINT64_C(1) << 62)

static struct layer_weights layers[LAYERS];

// Layers with windows of their own beside ones where the request's policy holds.
static void rig_model(struct rig *r, enum kv_type type, bool fast)
{
    struct err err;
    struct plan *plan;
    if (rig_is_cpu())
        SKIP("no Vulkan device in TEST_DEVICE");
    rig_init(r, 4, 2, DIM);
    r->k_type = r->v_type = type;
    r->fast = fast;
    struct model_cfg *c = &r->model.cfg;
    c->n_layers = LAYERS;
    c->width = c->ff_width = WIDTH;
    c->n_vocab = VOCAB;
    c->norm_eps = 1e-6f;
    c->rope = (struct rope_cfg){ .kind = ROPE_HALVES, .n_rot = DIM, .base = 1e4f, .factor = 1 };
    c->embed_scale = c->attn_scale = c->residual_scale = c->logit_scale = 1.0f;
    for (int i = 0; i < LAYERS; i++)
        layers[i] = (struct layer_weights){
            .attn_norm = rig_tensor(r, WIDTH, 1, 0.1f, 1.0f),
            .ff_norm = rig_tensor(r, WIDTH, 1, 0.1f, 1.0f),
            .q = rig_tensor(r, WIDTH, 4 * DIM, 0.4f, 0),
            .k = rig_tensor(r, WIDTH, 2 * DIM, 0.4f, 0),
            .v = rig_tensor(r, WIDTH, 2 * DIM, 0.2f, 0),
            .attn_out = rig_tensor(r, 4 * DIM, WIDTH, 0.2f, 0),
            .ff_gate = rig_tensor(r, WIDTH, WIDTH, 0.1f, 0),
            .ff_up = rig_tensor(r, WIDTH, WIDTH, 0.1f, 0),
            .ff_down = rig_tensor(r, WIDTH, WIDTH, 0.1f, 0),
        };
    r->model.weights.embed = r->model.weights.out = rig_tensor(r, WIDTH, VOCAB, 1.0f, 0);
    r->model.weights.out_norm = rig_tensor(r, WIDTH, 1, 0.1f, 1.0f);
    r->model.weights.layer = layers;
    REQUIRE_OK(plan_build(&plan, c, &r->model.weights, &err), err);
    REQUIRE(plan->n_ops <= RIG_OPS_MAX);
    memcpy(r->op, plan->op, plan->n_ops * sizeof(struct op));
    r->plan = *plan;
    r->plan.op = r->op;
    plan_free(plan);
    for (uint32_t i = 0; i < r->plan.n_ops; i++)
        if (r->op[i].kind == OP_ATTN && r->op[i].layer == 1)
            r->op[i].attn.window = 130;
}

static size_t page_bytes(const struct rig *r)
{
    struct kv_layout l;
    struct err err;
    REQUIRE_OK(kv_layout_init(&l, &r->model.cfg, r->k_type, r->v_type, 0, &err), err);
    return l.n_kv_heads * l.head_bytes;
}

static void rig_open_limited(struct rig *r, uint64_t device_bytes)
{
    struct err err;
    rig_open(r, 0);
    if (device_bytes != NO_LIMIT)
        r->x->ops->kv_limit(r->g, device_bytes);
    REQUIRE_OK(r->x->ops->kv_alloc(r->g, BLOCKS, &r->layout, &err), err);
}

// With paging: `disk` has pages that memory has no room for.
static struct page_disk disk;
static uint64_t stall_ns;

static void rig_open_paged(struct rig *r, uint32_t memory_pages, uint64_t device_bytes)
{
    struct err err;
    rig_open(r, 0);
    disk = page_disk_of(&r->layout);
    r->x->ops->kv_page(r->g, &disk.d, memory_pages * page_bytes(r));
    if (device_bytes != NO_LIMIT)
        r->x->ops->kv_limit(r->g, device_bytes);
    REQUIRE_OK(r->x->ops->kv_alloc(r->g, BLOCKS, &r->layout, &err), err);
    disk.stored = calloc(BLOCKS, r->layout.block_bytes);
}

static void rig_close_paged(struct rig *r)
{
    rig_close(r);
    free(disk.stored);
    disk.stored = NULL;
}

static bool is_paged(void)
{
    return disk.stored != NULL;
}

static bool any_missed(const struct batch *b)
{
    bool any = false;
    for (uint32_t i = 0; is_paged() && i < b->n_seqs; i++) {
        any |= b->seq[i].missed;
        REQUIRE_INT(b->seq[i].lost, KV_BLOCK_LOST_NONE);
        REQUIRE(!b->seq[i].missed || b->seq[i].faults > 0);
    }
    return any;
}

// With paging: until nobody misses anything; then blocks that got full are stored, but for the one
// of which the fork takes a copy.
static void run_step(struct rig *r, struct batch *b)
{
    uint32_t runs = 0;
    b->stall_ns = stall_ns;
    do {
        rig_step(r, b);
        for (uint32_t i = 0; is_paged() && i < 5; i++)
            page_disk_poll(&disk.d);
        if (++runs > 20)
            b->stall_ns = FOREVER_NS;
        REQUIRE(runs < 40);
    } while (any_missed(b));
    for (uint32_t i = 0; is_paged() && i < b->n_seqs; i++) {
        const struct batch_seq *s = &b->seq[i];
        uint32_t end = (s->pos0 + s->n_rows) / KV_BLOCK_TOKENS;
        for (uint32_t k = s->pos0 / KV_BLOCK_TOKENS; k < end; k++)
            if (k != FORK / KV_BLOCK_TOKENS)
                page_disk_store(&disk, r->g, s->block[k]);
    }
}

// ---- a story ----------------------------------------------------------------------------------

struct story {                          // what came out
    float    logits[1 + 2 * DECODES][VOCAB];
    uint32_t n;
    uint8_t *block;                     // (BLOCKS, block_bytes)
};

static int32_t best(const float *logits)
{
    int32_t b = 0;
    for (int32_t i = 1; i < VOCAB; i++)
        b = logits[i] > logits[b] ? i : b;
    return b;
}

static void take(struct story *s, const struct batch *b)
{
    for (uint32_t i = 0; i < b->n_out; i++)
        memcpy(s->logits[s->n++], b->logits + (size_t)i * VOCAB, sizeof(s->logits[0]));
}

static void prefill(struct rig *r, struct story *s, const uint32_t *table, uint32_t chunk,
                    struct attn_policy attn)
{
    int32_t token[PROMPT];
    for (uint32_t pos = 0, n; pos < PROMPT; pos += n) {
        n = MIN(chunk, PROMPT - pos);
        for (uint32_t i = 0; i < n; i++)
            token[i] = (int32_t)((pos + i) * (pos + i) * 7 % VOCAB);
        struct batch_seq seq = { .block = table, .n_blocks = BLOCKS / 2, .n_rows = n, .pos0 = pos,
                                 .attn = attn };
        uint32_t out = n - 1;
        struct batch b = { .n_rows = n, .n_seqs = 1, .token = token, .seq = &seq,
                           .n_out = pos + n == PROMPT, .out_row = &out };
        run_step(r, &b);
        take(s, &b);
    }
}

// Two sequences side by side that share the blocks before FORK, the second on a copy of its last.
static void decode(struct rig *r, struct story *s, const uint32_t *table, const uint32_t *fork,
                   struct attn_policy attn)
{
    int32_t token[2] = { best(s->logits[0]), 5 };
    uint32_t out[2] = { 0, 1 };
    r->x->ops->kv_copy(r->g, fork[FORK / KV_BLOCK_TOKENS], table[FORK / KV_BLOCK_TOKENS]);
    for (uint32_t i = 0; i < DECODES; i++) {
        struct batch_seq seq[2] = {
            { .block = table, .n_blocks = BLOCKS / 2, .row0 = 0, .n_rows = 1, .pos0 = PROMPT + i,
              .decode = true, .attn = attn },
            { .block = fork, .n_blocks = BLOCKS / 2, .row0 = 1, .n_rows = 1, .pos0 = FORK + i,
              .decode = true, .attn = attn },
        };
        struct batch b = { .n_rows = 2, .n_seqs = 2, .token = token, .seq = seq, .n_out = 2,
                           .out_row = out };
        run_step(r, &b);
        take(s, &b);
        for (int k = 0; k < 2; k++)
            token[k] = best(b.logits + k * VOCAB);
    }
}

// The blocks before FORK leave the executor and come back in others' places.
static void move_out_and_in(struct rig *r, const uint32_t *table)
{
    uint8_t *a = malloc(r->layout.block_bytes), *b = malloc(r->layout.block_bytes);
    r->x->ops->kv_read(r->g, table[0], a);
    r->x->ops->kv_read(r->g, table[1], b);
    r->x->ops->kv_write(r->g, table[0], b);
    r->x->ops->kv_write(r->g, table[1], a);
    r->x->ops->kv_write(r->g, table[0], a);
    r->x->ops->kv_write(r->g, table[1], b);
    free(a);
    free(b);
}

// With paging they come back as what they are on disk: their digests.
static void forget(struct rig *r, const uint32_t *table)
{
    for (uint32_t i = 0; i < 2; i++)
        r->x->ops->kv_backed(r->g, table[i], false);
    for (uint32_t i = 0; i < 2; i++)
        r->x->ops->kv_write_digests(r->g, table[i], page_disk_block(&disk, table[i]));
}

static struct story tell_all(struct rig *r, uint32_t chunk, struct attn_policy attn,
                             struct kv_homes *homes)
{
    struct story s = {0};
    uint32_t table[BLOCKS / 2], fork[BLOCKS / 2];
    for (uint32_t i = 0; i < BLOCKS / 2; i++) {
        table[i] = i * 7 % BLOCKS;
        fork[i] = i < FORK / KV_BLOCK_TOKENS ? table[i] : (i + BLOCKS / 2) * 7 % BLOCKS;
    }
    prefill(r, &s, table, chunk, attn);
    if (is_paged())
        forget(r, table);
    else
        move_out_and_in(r, table);
    decode(r, &s, table, fork, attn);
    s.block = calloc(BLOCKS, r->layout.block_bytes);
    for (uint32_t i = 0; i <= (PROMPT + DECODES - 1) / KV_BLOCK_TOKENS; i++) {
        bool is_last = i == (PROMPT + DECODES) / KV_BLOCK_TOKENS;
        uint8_t *to = s.block + table[i] * r->layout.block_bytes;
        if (is_paged() && !is_last && i != FORK / KV_BLOCK_TOKENS)
            memcpy(to, page_disk_block(&disk, table[i]), r->layout.block_bytes);
        else
            r->x->ops->kv_read(r->g, table[i], to);
    }
    r->x->ops->kv_homes(r->g, homes);
    return s;
}

static struct story tell(struct rig *r, uint64_t device_bytes, uint32_t chunk,
                         struct attn_policy attn, struct kv_homes *homes)
{
    rig_open_limited(r, device_bytes);
    struct story s = tell_all(r, chunk, attn, homes);
    rig_close(r);
    return s;
}

static void require_same(const struct rig *r, const struct story *a, const struct story *b)
{
    REQUIRE_INT(a->n, ARRAY_LEN(a->logits));
    REQUIRE_INT(b->n, a->n);
    for (uint32_t i = 0; i < a->n; i++)
        if (memcmp(a->logits[i], b->logits[i], sizeof(a->logits[i])) != 0)
            TEST_FAIL("output %u differs", i);
    REQUIRE(memcmp(a->block, b->block, BLOCKS * r->layout.block_bytes) == 0);
}

// Whatever may lie on the device: nothing, less than a step writes, a third, all but a page, all.
static void check(struct rig *r, struct attn_policy attn)
{
    static const uint32_t pages[] = { 0, 2, PAGES / 3, PAGES - 1, PAGES + 5 };
    struct kv_homes h;
    struct story want = tell(r, NO_LIMIT, PROMPT, attn, &h);
    REQUIRE(h.device_pages == PAGES && h.host_pages == 0 && h.host_reads == 0 && h.moved_in == 0);
    for (uint32_t i = 0; i < ARRAY_LEN(pages); i++) {
        struct story got = tell(r, pages[i] * page_bytes(r), 150 + i, attn, &h);
        require_same(r, &want, &got);
        free(got.block);
        REQUIRE_INT(h.device_pages, MIN(pages[i], (uint32_t)PAGES));
        REQUIRE_INT(h.host_pages, PAGES - h.device_pages);
        REQUIRE_INT(h.page_bytes, page_bytes(r));
        REQUIRE((h.device_reads > 0) == (pages[i] > 0 && pages[i] < PAGES));
        if (pages[i] == 0 || pages[i] >= PAGES)
            REQUIRE(h.moved_in == 0 && h.moved_out == 0);
        else if (pages[i] < PAGES - 1)
            REQUIRE(h.moved_out > 0);
        if (pages[i] == 2)
            REQUIRE(h.moved_in > 0 && h.host_reads > h.device_reads);
    }
    free(want.block);
}

TEST(dense)
{
    struct rig r;
    rig_model(&r, KV_F32, false);
    check(&r, attn_policy_dense());
    rig_finish(&r);
}

TEST(window)
{
    struct rig r;
    rig_model(&r, KV_Q8_0, true);
    check(&r, (struct attn_policy){ SELECT_window, 0, 140, 70 });
    rig_finish(&r);
}

TEST(topk)
{
    struct rig r;
    rig_model(&r, KV_F16, true);
    check(&r, (struct attn_policy){ SELECT_topk, 300, 0, 64 });
    rig_finish(&r);
}

// ---- what is read where -----------------------------------------------------------------------

// Generated rows of a text, most of which nobody chooses: what they read ends up on the device.
TEST(what_rows_choose_comes_to_the_device)
{
    struct rig r;
    struct story s = {0};
    struct kv_homes h[2];
    uint32_t table[BLOCKS];
    struct attn_policy attn = { SELECT_topk, 256, 0, 64 };
    rig_model(&r, KV_F32, false);
    rig_open_limited(&r, PAGES * 4 / 5 * page_bytes(&r));
    for (uint32_t i = 0; i < BLOCKS; i++)
        table[i] = BLOCKS - 1 - i;      // the last of them would begin on the device
    prefill(&r, &s, table, 64, attn);
    for (uint32_t i = 0; i < 2; i++) {
        int32_t token = 3;
        uint32_t out = 0;
        for (uint32_t k = 0; k < 30; k++) {
            struct batch_seq seq = { .block = table, .n_blocks = BLOCKS, .n_rows = 1,
                                     .pos0 = PROMPT - 1, .decode = true, .attn = attn };
            struct batch b = { .n_rows = 1, .n_seqs = 1, .token = &token, .seq = &seq, .n_out = 1,
                               .out_row = &out };
            rig_step(&r, &b);
        }
        r.x->ops->kv_homes(r.g, &h[i]);
    }
    REQUIRE_INT(h[1].host_reads - h[0].host_reads, 0);
    REQUIRE(h[1].device_reads - h[0].device_reads >= 30 * LAYERS * 3);
    // 4 or 5 blocks of each KV head in layers 0 and 2, 3 of the window in layer 1.
    REQUIRE(h[1].device_reads - h[0].device_reads <= 30 * (2 * 2 * 5 + 3));
    rig_finish(&r);
}

// ---- paging -----------------------------------------------------------------------------------

// Pages in memory and of them on the device, polls that a fetch takes, how long a step may wait.
struct paged_case { uint32_t memory, device, polls; uint64_t stall_ns; };

static void check_paged(struct rig *r, struct attn_policy attn)
{
    static const struct paged_case c[] = {
        { 20, 0, 2, FOREVER_NS }, { 24, 24, 1, FOREVER_NS }, { 30, 12, 3, 0 },
        { PAGES, PAGES / 2, 0, FOREVER_NS },
    };
    struct kv_homes h;
    struct kv_page_stats st;
    struct story want = tell(r, NO_LIMIT, PROMPT, attn, &h);
    for (uint32_t i = 0; i < ARRAY_LEN(c); i++) {
        rig_open_paged(r, c[i].memory, c[i].device * page_bytes(r));
        disk.polls = c[i].polls;
        stall_ns = c[i].stall_ns;
        struct story got = tell_all(r, 100 + i, attn, &h);
        require_same(r, &want, &got);
        r->x->ops->kv_page_stats(r->g, &st);
        REQUIRE_INT(st.memory_pages, c[i].memory);
        REQUIRE(st.resident_pages <= st.memory_pages && st.hits > 0 && st.faults > 0);
        REQUIRE(disk.n_fetched >= st.faults / 2 && (st.evictions > 0) == (c[i].memory < PAGES / 2));
        // What reads more than memory holds is waited for.
        REQUIRE((st.missed > 0) == (c[i].stall_ns == 0 && attn.selector == SELECT_topk));
        REQUIRE(h.device_pages <= c[i].device && h.device_pages + h.host_pages == c[i].memory);
        REQUIRE((h.moved_in > 0) == (c[i].device > 0));
        free(got.block);
        rig_close_paged(r);
    }
    free(want.block);
}

TEST(paged_dense)
{
    struct rig r;
    rig_model(&r, KV_F32, false);
    check_paged(&r, attn_policy_dense());
    rig_finish(&r);
}

TEST(paged_topk)
{
    struct rig r;
    rig_model(&r, KV_F16, true);
    check_paged(&r, (struct attn_policy){ SELECT_topk, 300, 0, 64 });
    rig_finish(&r);
}

// More than memory holds of one layer is refused, and others go well.
TEST(a_layer_that_does_not_fit)
{
    struct rig r;
    struct err err;
    uint32_t table[BLOCKS];
    int32_t token[400] = {0};
    rig_model(&r, KV_F32, false);
    rig_open_paged(&r, 4 * LAYERS, 0);
    stall_ns = FOREVER_NS;
    for (uint32_t i = 0; i < BLOCKS; i++)
        table[i] = i;
    for (uint32_t pos = 0, n = KV_BLOCK_TOKENS; pos < 13 * n; pos += n) {
        struct batch_seq seq = { .block = table, .n_blocks = BLOCKS, .n_rows = n, .pos0 = pos };
        struct batch b = { .n_rows = n, .n_seqs = 1, .token = token, .seq = &seq,
                           .stall_ns = FOREVER_NS };
        REQUIRE_OK(r.x->ops->submit(r.g, &b, &err), err);
        int code = r.x->ops->wait(r.g, UINT64_MAX, &err);
        if (code == 0)
            page_disk_store(&disk, r.g, table[pos / n]);
        REQUIRE_INT(code, pos / n < 10 ? 0 : -ENOMEM);
        if (code)
            break;
    }
    for (uint32_t i = 10; i < BLOCKS; i++)
        r.x->ops->kv_backed(r.g, i, false);
    struct batch_seq seq = { .block = table, .n_blocks = 2, .n_rows = 20, .pos0 = 0 };
    r.x->ops->kv_backed(r.g, 0, false);
    struct batch b = { .n_rows = 20, .n_seqs = 1, .token = token, .seq = &seq };
    rig_step(&r, &b);
    REQUIRE(!seq.missed);
    rig_close_paged(&r);
    rig_finish(&r);
}

// ---- faults -----------------------------------------------------------------------------------

static struct vk *vk_of(struct executor *x)
{
    return container_of(x, struct vulkan_executor, x)->vk;
}

TEST(no_memory_for_a_pool)
{
    struct rig r;
    struct err err;
    struct kv_homes h;
    uint32_t failed = 0;
    rig_model(&r, KV_F32, false);
    rig_open(&r, 0);
    r.x->ops->kv_limit(r.g, PAGES / 2 * page_bytes(&r));
    uint32_t taken = pieces_taken(vk_of(r.x));
    for (int code = -ENOMEM; code == -ENOMEM; failed += code == -ENOMEM) {
        REQUIRE_INT(pieces_taken(vk_of(r.x)), taken);
        vk_inject(vk_of(r.x), VK_FAULT_ALLOC, failed);
        code = r.x->ops->kv_alloc(r.g, BLOCKS, &r.layout, &err);
        REQUIRE(code == 0 || code == -ENOMEM);
    }
    vk_inject(vk_of(r.x), VK_FAULT_NONE, 0);
    REQUIRE(failed >= 7 + LAYERS);
    r.x->ops->kv_homes(r.g, &h);
    REQUIRE_INT(h.device_pages, PAGES / 2);
    rig_finish(&r);
}

// The device goes while pages are about to change places.
TEST(lost_before_a_swap)
{
    struct rig r;
    struct err err;
    struct kv_homes h[2];
    uint32_t table[BLOCKS / 2] = { BLOCKS - 1, BLOCKS - 2 }, n = 100;
    int32_t token[100] = {0};
    rig_model(&r, KV_F32, false);
    rig_open_limited(&r, 2 * page_bytes(&r));
    for (uint32_t i = 0; i < 2; i++) {
        struct batch_seq seq = { .block = table, .n_blocks = 2, .n_rows = n, .pos0 = 0 };
        struct batch b = { .n_rows = n, .n_seqs = 1, .token = token, .seq = &seq };
        r.x->ops->kv_homes(r.g, &h[0]);
        rig_step(&r, &b);
        table[0] = table[1] - 1;
        table[1] -= 2;
    }
    vk_inject(vk_of(r.x), VK_FAULT_LOST, 0);
    struct batch_seq seq = { .block = table, .n_blocks = 2, .n_rows = n, .pos0 = 0 };
    struct batch b = { .n_rows = n, .n_seqs = 1, .token = token, .seq = &seq };
    r.x->ops->kv_homes(r.g, &h[0]);
    REQUIRE(h[0].moved_out > 0);        // so the next would move some too
    REQUIRE_INT(r.x->ops->submit(r.g, &b, &err), -EIO);
    r.x->ops->kv_homes(r.g, &h[1]);
    REQUIRE_INT(h[1].moved_out, h[0].moved_out);
    rig_finish(&r);
    rig_forget();
}
