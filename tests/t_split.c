// Protects a model on two executors: split anywhere, it computes what one executor does. With the
// CPU as both halves that is so to the bit; with TEST_DEVICE as the second it is so within float32,
// and what a sequence computes still depends on nothing but itself.
#include "tests/rig.h"
#include <errno.h>
#include <math.h>
#include "base/base.h"
#include "base/str.h"
#include "engine/exec/cpu/cpu.h"
#include "engine/exec/split.h"
#include "engine/kv/key.h"
#include "engine/model/plan_cut.h"

TEST_MAIN

#define LAYERS 3
#define WIDTH 64
#define VOCAB 50
#define BLOCKS 16
#define ROWS 256

// ---- a model ----------------------------------------------------------------------------------

struct small {
    struct rig           rig;           // tensors and configuration
    struct layer_weights layer[LAYERS];
    struct plan         *plan;
};

// Layers differ in window and RoPE, so that one taken for another is noticed.
static void configure(struct model_cfg *c)
{
    c->n_layers = LAYERS;
    c->width = WIDTH;
    c->ff_width = 96;
    c->n_vocab = VOCAB;
    c->norm_eps = 1e-6f;
    c->rope = (struct rope_cfg){ .kind = ROPE_HALVES, .n_rot = 32, .base = 1e4f, .factor = 1 };
    c->rope_local = c->rope;
    c->rope_local.base = 1e3f;
    c->window = 70;
    c->window_period = 2;
    c->embed_scale = c->residual_scale = c->logit_scale = 1.0f;
    c->attn_scale = 1.0f / sqrtf(32);
}

static void small_init(struct small *m)
{
    struct err err;
    struct rig *r = &m->rig;
    rig_init(r, 2, 1, 32);
    configure(&r->model.cfg);
    for (uint32_t i = 0; i < LAYERS; i++)
        m->layer[i] = (struct layer_weights){
            .attn_norm = rig_tensor(r, WIDTH, 1, 0.1f, 1), .q = rig_tensor(r, WIDTH, 64, 0.2f, 0),
            .k = rig_tensor(r, WIDTH, 32, 0.2f, 0), .v = rig_tensor(r, WIDTH, 32, 0.1f, 0),
            .attn_out = rig_tensor(r, 64, WIDTH, 0.1f, 0),
            .ff_norm = rig_tensor(r, WIDTH, 1, 0.1f, 1),
            .ff_gate = rig_tensor(r, WIDTH, 96, 0.1f, 0),
            .ff_up = rig_tensor(r, WIDTH, 96, 0.1f, 0),
            .ff_down = rig_tensor(r, 96, WIDTH, 0.1f, 0),
        };
    struct weights *w = &r->model.weights;
    w->embed = w->out = rig_tensor(r, WIDTH, VOCAB, 1, 0);
    w->out_norm = rig_tensor(r, WIDTH, 1, 0.1f, 1);
    w->layer = m->layer;
    REQUIRE_OK(plan_build(&m->plan, &r->model.cfg, w, &err), err);
}

static void small_finish(struct small *m)
{
    plan_free(m->plan);
    rig_finish(&m->rig);
}

// ---- who computes it --------------------------------------------------------------------------

struct side {
    struct executor *x;
    struct program  *g;
    struct kv_layout layout;
};

static struct load_params small_load(void)
{
    return (struct load_params){ .rows_max = ROWS, .seqs_max = 4, .outputs_max = 4,
                                 .k_type = KV_F32, .v_type = KV_F32 };
}

static const struct executor_ops *second_ops(void)
{
    return rig_is_cpu() ? &executor_cpu : &executor_vulkan;
}

// The CPU alone if cpu_layers is 0.
static void open_executor(struct side *s, uint32_t cpu_layers)
{
    struct err err;
    const struct executor_params p = { .threads = RIG_THREADS, .exact = true };
    struct executor_params second = p;
    second.device_arg = rig_is_cpu() ? NULL : executor_arg(getenv("TEST_DEVICE"));
    *s = (struct side){0};
    int r = cpu_layers ? split_open(&s->x, second_ops(), &second, cpu_layers, LAYERS, &err)
                       : executor_cpu.open(&s->x, &p, &err);
    if (r == -ENODEV)
        SKIP("%s", err.msg);
    REQUIRE_OK(r, err);
}

static void side_open(struct side *s, struct small *m, uint32_t cpu_layers)
{
    struct err err;
    struct load_params p = small_load();
    open_executor(s, cpu_layers);
    REQUIRE_OK(s->x->ops->load(s->x, &m->rig.model, m->plan, &p, &s->g, &err), err);
    REQUIRE_OK(s->x->ops->kv_alloc(s->g, BLOCKS, &s->layout, &err), err);
}

static void side_close(struct side *s)
{
    if (s->g)
        s->x->ops->unload(s->g);
    s->x->ops->close(s->x);
}

// ---- what is computed -------------------------------------------------------------------------

enum { A, B, SEQS };                    // a long and a short sequence
#define A_TOKENS 300
#define B_TOKENS 40
#define GENERATED 3
#define SPARE 14                        // a block that nobody has

static const uint32_t seq_tokens[SEQS] = { A_TOKENS, B_TOKENS };
static const uint32_t seq_table[SEQS][6] = { { 7, 3, 11, 0, 9, 5 }, { 2 } };

struct result {
    float    logits[SEQS][1 + GENERATED][VOCAB];    // of the prompt's end and each generated token
    uint64_t read[SEQS], held[SEQS];
};

static struct batch_seq rows_of(unsigned seq, uint32_t pos, uint32_t n, struct attn_policy attn)
{
    return (struct batch_seq){
        .block = seq_table[seq], .n_blocks = DIV_UP(pos + n, KV_BLOCK_TOKENS), .n_rows = n,
        .pos0 = pos, .decode = pos >= seq_tokens[seq], .attn = attn,
    };
}

// The logits of each entry's last row into logits[i], unless that is NULL.
static void step(struct side *s, struct batch_seq *seq, const unsigned *id, uint32_t n_seqs,
                 float **logits)
{
    struct err err;
    int32_t token[ROWS];
    uint32_t out[SEQS], n = 0, n_out = 0;
    for (uint32_t i = 0; i < n_seqs; i++) {
        seq[i].row0 = n;
        for (uint32_t k = 0; k < seq[i].n_rows; k++)
            token[n++] = (int32_t)((id[i] * 7919 + seq[i].pos0 + k) * 2654435761u >> 8) % VOCAB;
        if (logits[i])
            out[n_out++] = n - 1;
    }
    struct batch b = { .n_rows = n, .n_seqs = n_seqs, .n_out = n_out, .token = token, .seq = seq,
                       .out_row = out };
    REQUIRE_OK(s->x->ops->submit(s->g, &b, &err), err);
    REQUIRE_OK(s->x->ops->wait(s->g, UINT64_MAX, &err), err);
    for (uint32_t i = 0, k = 0; i < n_seqs; i++)
        if (logits[i])
            memcpy(logits[i], b.logits + k++ * VOCAB, sizeof(float) * VOCAB);
}

static void step_one(struct side *s, struct batch_seq seq, unsigned id, struct result *ret,
                     float *logits)
{
    step(s, &seq, &id, 1, &logits);
    ret->read[id] += seq.blocks_read;
    ret->held[id] += seq.blocks_held;
}

static void step_both(struct side *s, uint32_t a_pos, uint32_t a_rows, uint32_t b_pos,
                      uint32_t b_rows, uint32_t i, struct attn_policy attn, struct result *ret)
{
    static const unsigned id[SEQS] = { A, B };
    struct batch_seq seq[SEQS] = {
        rows_of(A, a_pos, a_rows, attn), rows_of(B, b_pos, b_rows, attn) };
    float *logits[SEQS] = { ret->logits[A][i], ret->logits[B][i] };
    step(s, seq, id, SEQS, logits);
    for (unsigned k = 0; k < SEQS; k++) {
        ret->read[k] += seq[k].blocks_read;
        ret->held[k] += seq[k].blocks_held;
    }
}

// A's prompt in two pieces, the second together with B's; then both generate.
static void run_together(struct side *s, struct attn_policy attn, struct result *ret)
{
    *ret = (struct result){0};
    step_one(s, rows_of(A, 0, 100, attn), A, ret, NULL);
    step_one(s, rows_of(A, 100, 50, attn), A, ret, NULL);
    step_both(s, 150, A_TOKENS - 150, 0, B_TOKENS, 0, attn, ret);
    for (uint32_t i = 0; i < GENERATED; i++)
        step_both(s, A_TOKENS + i, 1, B_TOKENS + i, 1, 1 + i, attn, ret);
}

static void run_apart(struct side *s, struct attn_policy attn, struct result *ret)
{
    *ret = (struct result){0};
    for (unsigned k = SEQS; k-- > 0;) {
        uint32_t n = seq_tokens[k], half = n / 2;
        step_one(s, rows_of(k, 0, half, attn), k, ret, NULL);
        step_one(s, rows_of(k, half, n - half, attn), k, ret, ret->logits[k][0]);
        for (uint32_t i = 0; i < GENERATED; i++)
            step_one(s, rows_of(k, n + i, 1, attn), k, ret, ret->logits[k][1 + i]);
    }
}

static void check_result(const struct result *got, const struct result *want, bool bits)
{
    double want_rows[SEQS * (1 + GENERATED) * VOCAB];
    const float *w = want->logits[0][0];
    for (size_t i = 0; i < ARRAY_LEN(want_rows); i++)
        want_rows[i] = w[i];
    REQUIRE_BELOW(ref_error(got->logits[0][0], want_rows, ARRAY_LEN(want_rows)), 4e-6);
    REQUIRE(!bits || memcmp(got->logits, want->logits, sizeof(got->logits)) == 0);
    for (unsigned k = 0; k < SEQS; k++) {
        REQUIRE_INT(got->read[k], want->read[k]);
        REQUIRE_INT(got->held[k], want->held[k]);
    }
}

static struct attn_policy some_policy(const char *name)
{
    struct attn_policy p;
    REQUIRE_INT(attn_policy_init(&p, name), 0);
    p.budget_tokens = 4 * KV_BLOCK_TOKENS;      // fewer than A has, more than are forced
    return p;
}

// ---- the tests --------------------------------------------------------------------------------

static void check_cut(struct small *m, uint32_t cpu_layers, const char *attention)
{
    struct side alone, split;
    struct result want, together, apart;
    struct attn_policy attn = some_policy(attention);
    side_open(&alone, m, 0);
    run_together(&alone, attn, &want);
    side_close(&alone);
    side_open(&split, m, cpu_layers);
    run_together(&split, attn, &together);
    run_apart(&split, attn, &apart);
    side_close(&split);
    REQUIRE(want.read[A] < want.held[A]);       // windows
    check_result(&together, &want, rig_is_cpu());
    check_result(&apart, &together, true);
}

TEST(split_after_any_layer)
{
    struct small m = {0};
    small_init(&m);
    for (uint32_t i = 1; i < LAYERS; i++)
        check_cut(&m, i, "dense");
    small_finish(&m);
}

// Layer 1 selects: in the first half, then in the second.
TEST(blocks_are_chosen_in_either_half)
{
    struct small m = {0};
    small_init(&m);
    for (uint32_t i = 1; i < LAYERS; i++)
        check_cut(&m, i, "topk");
    small_finish(&m);
}

// The next token of A from a table in which one block is another.
static void next_of_a(struct side *s, const uint32_t *table, float *logits)
{
    struct result unused = {0};
    struct batch_seq seq = rows_of(A, A_TOKENS + GENERATED, 1, some_policy("dense"));
    seq.block = table;
    step_one(s, seq, A, &unused, logits);
}

TEST(blocks_are_whole_in_host_memory)
{
    struct small m = {0};
    struct side alone, split;
    struct result r;
    float want[VOCAB], got[VOCAB];
    uint32_t table[6];
    small_init(&m);
    side_open(&alone, &m, 0);
    side_open(&split, &m, 1);
    size_t bytes = split.layout.block_bytes;
    REQUIRE_INT(bytes, alone.layout.block_bytes);
    uint8_t *one = malloc(bytes), *two = malloc(bytes);
    run_together(&alone, some_policy("dense"), &r);
    run_together(&split, some_policy("dense"), &r);
    next_of_a(&split, seq_table[A], want);
    for (uint32_t i = 0; i < 4; i++) {          // full blocks
        split.x->ops->kv_read(split.g, seq_table[A][i], one);
        alone.x->ops->kv_read(alone.g, seq_table[A][i], two);
        REQUIRE(!rig_is_cpu() || memcmp(one, two, bytes) == 0);
        split.x->ops->kv_write(split.g, SPARE, one);
        split.x->ops->kv_read(split.g, SPARE, two);
        REQUIRE(memcmp(one, two, bytes) == 0);
        memcpy(table, seq_table[A], sizeof(table));
        table[i] = SPARE;
        next_of_a(&split, table, got);
        REQUIRE(memcmp(got, want, sizeof(got)) == 0);
        split.x->ops->kv_copy(split.g, SPARE + 1, seq_table[A][i]);
        split.x->ops->kv_read(split.g, SPARE + 1, two);
        REQUIRE(memcmp(one, two, bytes) == 0);
    }
    next_of_a(&split, (const uint32_t[]){ 7, 3, 3, 0, 9, 5 }, got);
    REQUIRE(memcmp(got, want, sizeof(got)) != 0);
    free(one);
    free(two);
    side_close(&alone);
    side_close(&split);
    small_finish(&m);
}

// What was computed with another cut is not the same block.
TEST(content_keys_tell_cuts_apart)
{
    struct small m = {0};
    struct kv_identity id[LAYERS];
    struct hash key[LAYERS];
    small_init(&m);
    for (uint32_t i = 0; i < LAYERS; i++) {
        struct side s;
        side_open(&s, &m, i);
        id[i] = (struct kv_identity){ .layout = s.layout };
        REQUIRE_INT(s.layout.n_layers, LAYERS);
        REQUIRE_INT(s.layout.block_bytes, s.layout.digest_bytes + LAYERS * s.layout.page_bytes);
        side_close(&s);
        kv_key_root(&id[i], &key[i]);
        for (uint32_t k = 0; k < i; k++)
            REQUIRE(memcmp(&key[i], &key[k], sizeof(key[i])) != 0);
    }
    small_finish(&m);
}

// ---- load -------------------------------------------------------------------------------------

struct progress { uint64_t done, total, stop_at; };

static int watch(void *ctx, uint64_t done_bytes, uint64_t total_bytes)
{
    struct progress *p = ctx;
    REQUIRE(done_bytes >= p->done && done_bytes <= total_bytes);
    REQUIRE(p->total == 0 || total_bytes == p->total);
    p->done = done_bytes;
    p->total = total_bytes;
    return done_bytes >= p->stop_at;
}

TEST(one_load_of_two)
{
    struct small m = {0};
    struct side s;
    struct err err;
    struct progress whole = { .stop_at = UINT64_MAX };
    struct load_params p = small_load();
    small_init(&m);
    open_executor(&s, 2);
    p.progress = watch;
    p.progress_ctx = &whole;
    REQUIRE_OK(s.x->ops->load(s.x, &m.rig.model, m.plan, &p, &s.g, &err), err);
    REQUIRE(whole.total > 0 && whole.done == whole.total);
    s.x->ops->unload(s.g);
    s.g = NULL;
    for (uint64_t i = 0; i <= 4; i++) {         // in the first half, and in the second
        struct progress until = { .stop_at = whole.total * i / 4 };
        p.progress_ctx = &until;
        REQUIRE_INT(s.x->ops->load(s.x, &m.rig.model, m.plan, &p, &s.g, &err), -ECANCELED);
        REQUIRE(!s.g);
    }
    side_close(&s);
    small_finish(&m);
}

// Seven matrices a layer, and the last half the output's.
TEST(a_half_takes_in_its_own_weights)
{
    static const uint32_t n_mats[2] = { 7, 15 };
    struct small m = {0};
    struct side s;
    struct err err;
    struct load_params p = small_load();
    small_init(&m);
    open_executor(&s, 0);
    for (uint32_t i = 0; i < 2; i++) {
        struct plan *half;
        REQUIRE_OK(plan_cut(&half, m.plan, i, i + 1, &err), err);
        REQUIRE_OK(s.x->ops->load(s.x, &m.rig.model, half, &p, &s.g, &err), err);
        REQUIRE_INT(container_of(s.g, struct cpu_program, p)->n_mats, n_mats[i]);
        s.x->ops->unload(s.g);
        plan_free(half);
    }
    s.g = NULL;
    side_close(&s);
    small_finish(&m);
}

// ---- a second executor with a memory and troubles of its own ----------------------------------

static struct executor_ops far_ops;
static int far_submits, far_waits;      // what those return, unless 0

static uint64_t far_room(struct program *g)
{
    (void)g;
    return 3000;
}

static uint32_t far_rows(const struct executor *x)
{
    (void)x;
    return 1234;
}

static int far_submit(struct program *g, struct batch *b, struct err *err)
{
    return far_submits ? err_set(err, far_submits, "not now") : executor_cpu.submit(g, b, err);
}

static int far_wait(struct program *g, uint64_t timeout_ns, struct err *err)
{
    REQUIRE(timeout_ns <= 1000);
    return far_waits ? err_set(err, far_waits, "not yet") : executor_cpu.wait(g, timeout_ns, err);
}

static void side_open_far(struct side *s, struct small *m)
{
    struct err err;
    struct load_params p = small_load();
    far_ops = executor_cpu;
    far_ops.kv_room = far_room;
    far_ops.rows_usual = far_rows;
    far_ops.submit = far_submit;
    far_ops.wait = far_wait;
    open_executor(s, 1);
    container_of(s->x, struct split_executor, x)->half[1]->ops = &far_ops;
    REQUIRE_OK(s->x->ops->load(s->x, &m->rig.model, m->plan, &p, &s->g, &err), err);
}

TEST(the_scarcer_memory_decides)
{
    struct small m = {0};
    struct side s;
    if (!rig_is_cpu())
        SKIP("not a matter of devices");
    small_init(&m);
    side_open_far(&s, &m);
    REQUIRE_INT(s.x->ops->kv_room(s.g), 3000 / 2 * LAYERS);     // two of three layers are there
    REQUIRE_INT(s.x->ops->rows_usual(s.x), 1234);
    side_close(&s);
    side_open(&s, &m, 1);
    REQUIRE_INT(s.x->ops->kv_room(s.g), 0);
    REQUIRE(!s.x->ops->logits_read == !executor_cpu.logits_read);
    side_close(&s);
    small_finish(&m);
}

TEST(what_fails_in_the_second_half)
{
    static const struct { int submits, waits, want; } trouble[] = {
        { -ENOMEM, 0, -ENOMEM }, { -EIO, 0, -EIO }, { 0, -ETIMEDOUT, -ETIMEDOUT },
        { 0, -EIO, -EIO }, { 0, 0, 0 },
    };
    struct small m = {0};
    struct side s;
    struct err err;
    int32_t token = 1;
    uint32_t out = 0;
    if (!rig_is_cpu())
        SKIP("not a matter of devices");
    small_init(&m);
    side_open_far(&s, &m);
    REQUIRE_OK(s.x->ops->kv_alloc(s.g, BLOCKS, &s.layout, &err), err);
    for (size_t i = 0; i < ARRAY_LEN(trouble); i++) {
        struct batch_seq seq = rows_of(B, 0, 1, some_policy("dense"));
        struct batch b = { .n_rows = 1, .n_seqs = 1, .n_out = 1, .token = &token, .seq = &seq,
                           .out_row = &out };
        far_submits = trouble[i].submits;
        far_waits = trouble[i].waits;
        REQUIRE_OK(s.x->ops->submit(s.g, &b, &err), err);
        REQUIRE_INT(s.x->ops->wait(s.g, 1000, &err), trouble[i].want);
        REQUIRE(trouble[i].want == 0 || strncmp(err.msg, "not ", 4) == 0);
    }
    side_close(&s);
    small_finish(&m);
}

// ---- what is said about it --------------------------------------------------------------------

static void note_label(void *ctx, const char *label, uint64_t ns, uint64_t n)
{
    struct str *labels = ctx;
    REQUIRE(ns > 0 && n > 0);
    str_printf(labels, "%s ", label);
}

TEST(times_and_words)
{
    struct small m = {0};
    struct side s;
    struct result r;
    struct str labels = {0};
    char text[512];
    small_init(&m);
    side_open(&s, &m, 1);
    s.x->ops->describe(s.x, text, sizeof(text));
    REQUIRE(strncmp(text, "1 layer on cpu: ", 16) == 0 && strstr(text, "; 2 layers on "));
    s.x->ops->describe(s.x, text, 10);
    REQUIRE_STR(text, "1 layer o");
    s.x->ops->profile(s.g, true, NULL, NULL);
    run_together(&s, some_policy("dense"), &r);
    s.x->ops->profile(s.g, false, note_label, &labels);
    REQUIRE(strncmp(labels.p, "cpu ", 4) == 0 && strstr(labels.p, "rows_moved "));
    REQUIRE(strstr(labels.p, rig_is_cpu() ? "cpu cpu " : "logits"));
    str_free(&labels);
    side_close(&s);
    small_finish(&m);
}
