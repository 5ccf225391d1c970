// Protects the frame of the Vulkan executor: command buffers by shape, and what is left after
// memory ran out, a step hung or the device was lost. TEST_DEVICE names the device.
#include "tests/rig.h"
#include <errno.h>
#include <math.h>
#include "base/base.h"
#include "base/clock.h"
#include "engine/exec/split.h"
#include "engine/exec/vulkan/vulkan.h"
#include "tests/vk_pieces.h"

TEST_MAIN

#define WAIT_NS (300 * NS_PER_S)        // some devices compile in a kernel's first step
#define HEADS 4
#define DIM 32
#define ROW_FLOATS (HEADS * DIM)

static struct vk *vk_of(struct executor *x)
{
    return container_of(x, struct vulkan_executor, x)->vk;
}

// Q and K rotated: rows depend on nothing but their position.
static void rig_rope(struct rig *r)
{
    rig_init(r, HEADS, HEADS, DIM);
    r->model.cfg.rope = (struct rope_cfg){
        .kind = ROPE_HALVES, .n_rot = DIM, .base = 1e4f, .factor = 1 };
    struct op *op = rig_op(r, OP_ROPE);
    op->dst[0] = SLOT_Q;
    op->dst[1] = SLOT_K;
    if (rig_is_cpu())
        SKIP("no Vulkan device in TEST_DEVICE");
}

// A row of ones at `pos` turned: the last of n_decode + n_prompt rows, each a sequence of its own.
static void turned_row(struct rig *r, uint32_t pos, uint32_t n_decode, uint32_t n_prompt,
                       float *ret)
{
    float one[ROW_FLOATS];
    struct batch_seq seq[64];
    uint32_t n = n_decode + n_prompt, n_seqs = MIN(n_decode, 60u), rest = n_decode - n_seqs;
    for (uint32_t i = 0; i < ROW_FLOATS; i++)
        one[i] = 1.0f;
    for (uint32_t i = 0; i < n_seqs; i++)
        seq[i] = (struct batch_seq){ .row0 = i, .n_rows = 1, .pos0 = i, .decode = true };
    if (rest)
        seq[n_seqs++] = (struct batch_seq){ .row0 = n_decode - rest, .n_rows = rest,
                                            .decode = true };
    if (n_prompt)
        seq[n_seqs++] = (struct batch_seq){ .row0 = n_decode, .n_rows = n_prompt };
    seq[n_seqs - 1].pos0 = pos + 1 - seq[n_seqs - 1].n_rows;
    struct batch b = { .n_rows = n, .n_seqs = n_seqs, .seq = seq };
    r->x->ops->slot_write(r->g, SLOT_Q, n - 1, 1, one);
    rig_step(r, &b);
    r->x->ops->slot_read(r->g, SLOT_Q, n - 1, 1, ret);
}

// Far more shapes than command buffers are kept, each twice.
TEST(shapes_come_and_go)
{
    struct rig r;
    float want[ROW_FLOATS], got[ROW_FLOATS];
    rig_rope(&r);
    rig_open(&r, 0);
    turned_row(&r, 5000, 1, 0, want);
    for (uint32_t pass = 0; pass < 2; pass++)
        for (uint32_t i = 1; i < 150; i++) {
            turned_row(&r, 5000, i % 12 * 15, i * 6, got);
            REQUIRE(memcmp(got, want, sizeof(want)) == 0);
        }
    rig_finish(&r);
}

// Positions with every digit of rope.c's tables, against the formula.
TEST(rope_of_far_positions)
{
    static const uint32_t pos[] = { 0, 255, 256, 65535, 65536, 1000003, CTX_MAX - 1 };
    struct rig r;
    float got[ROW_FLOATS];
    rig_rope(&r);
    rig_open(&r, 0);
    for (size_t i = 0; i < ARRAY_LEN(pos); i++) {
        turned_row(&r, pos[i], 1, 0, got);
        for (uint32_t k = 0; k < DIM / 2; k++) {
            double angle = pos[i] * pow(1e4, -2.0 * k / DIM);
            REQUIRE_BELOW(fabs(got[k] - (cos(angle) - sin(angle))), 2e-7);
            REQUIRE_BELOW(fabs(got[k + DIM / 2] - (cos(angle) + sin(angle))), 2e-7);
        }
    }
    rig_finish(&r);
}

// ---- faults -----------------------------------------------------------------------------------

// A plan that has every kind of operation.
static void rig_small_model(struct rig *r, struct layer_weights *w, uint32_t n_layers)
{
    struct err err;
    struct plan *plan;
    rig_init(r, 2, 1, DIM);
    struct model_cfg *c = &r->model.cfg;
    c->n_layers = n_layers;
    c->width = c->ff_width = 64;
    c->n_vocab = 40;
    c->norm_eps = 1e-6f;
    c->rope = (struct rope_cfg){ .kind = ROPE_HALVES, .n_rot = DIM, .base = 1e4f, .factor = 1 };
    c->embed_scale = c->attn_scale = c->residual_scale = c->logit_scale = 1.0f;
    for (uint32_t i = 0; i < n_layers; i++)
        w[i] = (struct layer_weights){
            .attn_norm = rig_tensor(r, 64, 1, 0.1f, 1.0f),
            .ff_norm = rig_tensor(r, 64, 1, 0.1f, 1.0f),
            .q = rig_tensor(r, 64, 64, 0.1f, 0), .k = rig_tensor(r, 64, 32, 0.1f, 0),
            .v = rig_tensor(r, 64, 32, 0.1f, 0), .attn_out = rig_tensor(r, 64, 64, 0.1f, 0),
            .ff_gate = rig_tensor(r, 64, 64, 0.1f, 0), .ff_up = rig_tensor(r, 64, 64, 0.1f, 0),
            .ff_down = rig_tensor(r, 64, 64, 0.1f, 0),
        };
    r->model.weights.embed = r->model.weights.out = rig_tensor(r, 64, 40, 1.0f, 0);
    r->model.weights.out_norm = rig_tensor(r, 64, 1, 0.1f, 1.0f);
    r->model.weights.layer = w;
    REQUIRE_OK(plan_build(&plan, c, &r->model.weights, &err), err);
    REQUIRE(plan->n_ops <= RIG_OPS_MAX);
    memcpy(r->op, plan->op, plan->n_ops * sizeof(struct op));
    r->plan = *plan;
    r->plan.op = r->op;
    plan_free(plan);
}

static void small_step(struct rig *r, float *logits)
{
    int32_t token[3] = { 1, 2, 3 };
    uint32_t table[1] = { 0 }, out = 2;
    struct batch_seq seq = { .block = table, .n_blocks = 1, .n_rows = 3 };
    struct batch b = {
        .n_rows = 3, .n_seqs = 1, .n_out = 1, .token = token, .seq = &seq, .out_row = &out };
    rig_step(r, &b);
    memcpy(logits, b.logits, 40 * sizeof(float));
}

// Whichever allocation of a load fails, nothing of it stays and the next load is sound.
TEST(no_memory_to_load)
{
    struct rig r;
    struct layer_weights w;
    struct err err;
    float want[40], got[40];
    if (rig_is_cpu())
        SKIP("no Vulkan device in TEST_DEVICE");
    rig_small_model(&r, &w, 1);
    rig_open(&r, 2);
    small_step(&r, want);
    rig_close(&r);
    struct load_params p = { .rows_max = 8, .seqs_max = 2, .outputs_max = 2 };
    struct executor *x = rig_executor(&r);
    uint32_t failed = 0;
    for (int code = -ENOMEM; code == -ENOMEM; failed += code == -ENOMEM) {
        struct program *g = NULL;
        vk_inject(vk_of(x), VK_FAULT_ALLOC, failed);
        code = x->ops->load(x, &r.model, &r.plan, &p, &g, &err);
        REQUIRE(code == 0 || (code == -ENOMEM && !g && strstr(err.msg, "--gpu-layers")));
        x->ops->unload(g);
        REQUIRE_INT(pieces_taken(vk_of(x)), 0);
    }
    vk_inject(vk_of(x), VK_FAULT_NONE, 0);
    REQUIRE(failed > 10);
    rig_open(&r, 2);
    small_step(&r, got);
    REQUIRE(memcmp(want, got, sizeof(want)) == 0);
    rig_finish(&r);
}

// A step that cannot grow its tables never began; the next one can.
TEST(no_memory_in_a_step)
{
    static uint32_t table[50000];
    struct rig r;
    struct err err;
    float want[ROW_FLOATS], got[ROW_FLOATS];
    rig_rope(&r);
    rig_open(&r, 0);
    turned_row(&r, 77, 1, 0, want);
    struct batch_seq seq = { .block = table, .n_blocks = ARRAY_LEN(table), .n_rows = 1 };
    struct batch b = { .n_rows = 1, .n_seqs = 1, .seq = &seq };
    vk_inject(vk_of(r.x), VK_FAULT_ALLOC, 0);
    REQUIRE_INT(r.x->ops->submit(r.g, &b, &err), -ENOMEM);
    turned_row(&r, 77, 1, 0, got);
    REQUIRE(memcmp(want, got, sizeof(want)) == 0);
    rig_step(&r, &b);
    turned_row(&r, 77, 1, 0, got);
    REQUIRE(memcmp(want, got, sizeof(want)) == 0);
    rig_finish(&r);
}

// What comes after a fault that leaves no device: errors, and an end.
static void check_lost(enum vk_fault fault)
{
    struct rig r;
    struct err err;
    rig_rope(&r);
    rig_open(&r, 0);
    struct batch_seq seq = { .n_rows = 1 };
    struct batch b = { .n_rows = 1, .n_seqs = 1, .seq = &seq };
    rig_step(&r, &b);
    vk_inject(vk_of(r.x), fault, 0);
    int code = r.x->ops->submit(r.g, &b, &err);
    if (fault == VK_FAULT_TIMEOUT) {
        REQUIRE_INT(code, 0);
        code = r.x->ops->wait(r.g, WAIT_NS, &err);
        REQUIRE_INT(code, -ETIMEDOUT);
    } else {
        REQUIRE_INT(code, -EIO);
    }
    REQUIRE(err.msg[0]);
    REQUIRE_INT(r.x->ops->submit(r.g, &b, &err), -EIO);
    rig_finish(&r);
    rig_forget();
}

TEST(a_lost_device)
{
    check_lost(VK_FAULT_LOST);
}

TEST(a_step_that_hangs)
{
    check_lost(VK_FAULT_TIMEOUT);
}

// The second half of a split plan is on the device: what happens there comes through.
struct shared {
    struct rig           rig;
    struct layer_weights w[2];
    struct vk           *vk;
};

static void shared_open(struct shared *s)
{
    struct err err;
    struct executor_params p = { .threads = 1, .exact = true };
    struct load_params lp = { .rows_max = 8, .seqs_max = 2, .outputs_max = 2 };
    struct rig *r = &s->rig;
    if (rig_is_cpu())
        SKIP("no Vulkan device in TEST_DEVICE");
    p.device_arg = executor_arg(getenv("TEST_DEVICE"));
    rig_small_model(r, s->w, 2);
    REQUIRE_OK(split_open(&r->x, &executor_vulkan, &p, 1, 2, &err), err);
    s->vk = vk_of(container_of(r->x, struct split_executor, x)->half[1]);
    REQUIRE_OK(r->x->ops->load(r->x, &r->model, &r->plan, &lp, &r->g, &err), err);
    REQUIRE_OK(r->x->ops->kv_alloc(r->g, 2, &r->layout, &err), err);
}

static void shared_close(struct shared *s)
{
    struct executor *x = s->rig.x;
    rig_finish(&s->rig);
    x->ops->close(x);
}

static int shared_step(struct shared *s, float *logits, struct err *err)
{
    int32_t token[3] = { 1, 2, 3 };
    uint32_t table[1] = { 0 }, out = 2;
    struct batch_seq seq = { .block = table, .n_blocks = 1, .n_rows = 3 };
    struct batch b = {
        .n_rows = 3, .n_seqs = 1, .n_out = 1, .token = token, .seq = &seq, .out_row = &out };
    int r = s->rig.x->ops->submit(s->rig.g, &b, err);
    if (r == 0)
        r = s->rig.x->ops->wait(s->rig.g, WAIT_NS, err);
    if (r == 0)
        memcpy(logits, b.logits, 40 * sizeof(float));
    return r;
}

TEST(no_memory_between_the_halves)
{
    struct shared s;
    struct err err;
    float want[40], got[40];
    shared_open(&s);
    vk_inject(s.vk, VK_FAULT_ALLOC, 0);
    REQUIRE_INT(shared_step(&s, got, &err), -ENOMEM);
    REQUIRE(err.msg[0]);
    REQUIRE_OK(shared_step(&s, want, &err), err);
    REQUIRE_OK(shared_step(&s, got, &err), err);
    REQUIRE(memcmp(want, got, sizeof(want)) == 0);
    shared_close(&s);
}

static void check_shared_lost(enum vk_fault fault, uint32_t after, int want)
{
    struct shared s;
    struct err err;
    float logits[40];
    shared_open(&s);
    REQUIRE_OK(shared_step(&s, logits, &err), err);
    vk_inject(s.vk, fault, after);
    REQUIRE_INT(shared_step(&s, logits, &err), want);
    REQUIRE(err.msg[0]);
    REQUIRE_INT(shared_step(&s, logits, &err), -EIO);
    shared_close(&s);
}

// As the rows come, and in the step itself.
TEST(a_lost_second_half)
{
    check_shared_lost(VK_FAULT_LOST, 0, -EIO);
    check_shared_lost(VK_FAULT_LOST, 1, -EIO);
    check_shared_lost(VK_FAULT_TIMEOUT, 1, -ETIMEDOUT);
}

TEST(a_device_in_words)
{
    struct rig r;
    char text[400];
    rig_rope(&r);
    struct executor *x = rig_executor(&r);
    x->ops->describe(x, text, sizeof(text));
    REQUIRE(strncmp(text, "vulkan: ", 8) == 0 && strstr(text, vk_info(vk_of(x))->name));
    REQUIRE(strstr(text, ", exact"));
}
