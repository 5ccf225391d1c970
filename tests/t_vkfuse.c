// Protects the rewritten plans of the Vulkan executor: a fused program computes the bits of the one
// that runs every operation by itself, in its logits and in its blocks, and a layer takes as few
// dependent dispatches as it should.
#include "tests/test.h"
#include <errno.h>
#include <math.h>
#include "base/base.h"
#include "base/clock.h"
#include "engine/exec/vulkan/vulkan.h"
#include "engine/model/plan_fuse.h"
#include "tests/blocks.h"

TEST_MAIN

#define WAIT_NS (300 * NS_PER_S)        // some devices compile in a first step
#define VOCAB 96
#define CASE_LAYERS_MAX 3
#define TENSORS_MAX 48
#define ROWS_MAX 128
#define SEQS_MAX 20
#define BLOCKS (2 * SEQS_MAX)
#define STEPS_MAX 5

// ---- models of random weights -----------------------------------------------------------------

struct model_case {
    const char    *name;
    uint32_t       layers, width, heads, kv_heads, dim, ff, window;
    enum quant_id  quant, down;         // down: of W_v and W_down
    bool           exact, qk_norm, post_norms, bias;
    enum rope_kind rope;
    uint32_t       n_rot;
    enum kv_type   kv;
};

struct rig {
    struct model   model;
    struct layer_weights layer[CASE_LAYERS_MAX];
    struct tensor  tensor[TENSORS_MAX];
    uint32_t       n_tensors;
    struct plan   *plan;
    struct executor *x;
};

static const struct tensor *tensor(struct rig *r, enum quant_id id, uint32_t n_in, uint32_t n_out)
{
    const struct quant *q = &quants[id];
    size_t n = (size_t)n_in * n_out / q->block_elems;
    uint8_t *p = malloc(n * q->block_bytes);
    struct tensor *t = &r->tensor[r->n_tensors++];
    REQUIRE(p && r->n_tensors <= TENSORS_MAX && n_in % q->block_elems == 0);
    blocks_fill(q, p, n);
    *t = (struct tensor){ .name = "test", .quant = q, .dim = { n_in, n_out, 1, 1 }, .n_dims = 2,
                          .data = p, .bytes = n * q->block_bytes };
    return t;
}

static const struct tensor *vector(struct rig *r, uint32_t n)
{
    return tensor(r, QUANT_f32, n, 1);
}

static void make_layer(struct rig *r, const struct model_case *c, struct layer_weights *w)
{
    uint32_t q = c->heads * c->dim, kv = c->kv_heads * c->dim;
    *w = (struct layer_weights){
        .attn_norm = vector(r, c->width),
        .q = tensor(r, c->quant, c->width, q), .k = tensor(r, c->quant, c->width, kv),
        .v = tensor(r, c->down, c->width, kv), .attn_out = tensor(r, c->quant, q, c->width),
        .ff_norm = vector(r, c->width),
        .ff_gate = tensor(r, c->quant, c->width, c->ff),
        .ff_up = tensor(r, c->quant, c->width, c->ff),
        .ff_down = tensor(r, c->down, c->ff, c->width),
    };
    if (c->bias) {
        w->q_bias = vector(r, q);
        w->k_bias = vector(r, kv);
        w->v_bias = vector(r, kv);
    }
    if (c->qk_norm) {
        w->q_norm = vector(r, c->dim);
        w->k_norm = vector(r, c->dim);
    }
    if (c->post_norms) {
        w->attn_post_norm = vector(r, c->width);
        w->ff_post_norm = vector(r, c->width);
    }
}

static void set_cfg(struct model_cfg *cfg, const struct model_case *c)
{
    *cfg = (struct model_cfg){
        .n_layers = c->layers, .n_vocab = VOCAB, .width = c->width, .n_heads = c->heads,
        .n_kv_heads = c->kv_heads, .head_dim = c->dim, .ff_width = c->ff, .norm_eps = 1e-5f,
        .rope = { .kind = c->rope, .n_rot = c->n_rot, .base = 1e4f, .factor = 1 },
        .window = c->window, .window_period = 2, .embed_scale = 1,
        .attn_scale = 1.0f / sqrtf((float)c->dim), .residual_scale = c->post_norms ? 0.9f : 1.0f,
        .logit_scale = 1, .act = c->post_norms ? ACT_GELU_TANH : ACT_SILU, .qk_norm = c->qk_norm,
        .post_norms = c->post_norms,
    };
    cfg->rope_local = cfg->rope;
    cfg->rope_local.base = 1e3f;
}

static struct executor *executors[2];   // exact or not: kernels are compiled once

static void close_devices(void)
{
    for (unsigned i = 0; i < ARRAY_LEN(executors); i++)
        executor_vulkan.close(executors[i]);
}

static struct executor *executor_for(bool exact)
{
    struct err err;
    struct executor_params p = { .exact = exact };
    struct executor **x = &executors[exact];
    bool first = !executors[0] && !executors[1];
    if (*x)
        return *x;
    if (executor_vulkan.open(x, &p, &err)) {
        p.device_arg = "llvmpipe";
        if (executor_vulkan.open(x, &p, &err))
            SKIP("no usable Vulkan device");
    }
    if (first)                          // after what the driver does at exit, so before that
        atexit(close_devices);
    return *x;
}

static void rig_open(struct rig *r, const struct model_case *c)
{
    struct err err;
    *r = (struct rig){0};
    r->x = executor_for(c->exact);
    set_cfg(&r->model.cfg, c);
    struct weights *w = &r->model.weights;
    w->layer = r->layer;
    w->embed = tensor(r, c->quant, c->width, VOCAB);
    w->out = w->embed;
    w->out_norm = vector(r, c->width);
    for (uint32_t i = 0; i < c->layers; i++)
        make_layer(r, c, &r->layer[i]);
    REQUIRE_OK(plan_build(&r->plan, &r->model.cfg, w, &err), err);
}

static void rig_close(struct rig *r)
{
    for (uint32_t i = 0; i < r->n_tensors; i++)
        free((void *)(uintptr_t)r->tensor[i].data);
    plan_free(r->plan);
}

static struct program *load(struct rig *r, const struct model_case *c,
                            const struct vulkan_choice *choice)
{
    struct err err;
    struct program *p;
    struct kv_layout layout;
    struct load_params params = {
        .rows_max = ROWS_MAX, .seqs_max = SEQS_MAX, .outputs_max = SEQS_MAX, .k_type = c->kv,
        .v_type = c->kv,
    };
    REQUIRE_OK(vulkan_load_as(r->x, &r->model, r->plan, choice, &params, &p, &err), err);
    REQUIRE_OK(r->x->ops->kv_alloc(p, BLOCKS, &layout, &err), err);
    return p;
}

// ---- steps ------------------------------------------------------------------------------------

// Rows of a sequence in a step; generated ones before those of prompts.
struct part { uint32_t seq, rows; bool decode; };
struct steps { uint32_t n; struct part part[STEPS_MAX][SEQS_MAX]; };

// The first prompt ends just before the end of a block, so that generated tokens go over it.
static const struct steps few = { 5, {
    { { 0, 62 }, { 1, 7 }, { 2, 1 } },
    { { 0, 1, true }, { 1, 1, true }, { 2, 1, true } },
    { { 0, 1, true } },
    { { 0, 1, true }, { 2, 1, true }, { 1, 61 } },
    { { 0, 1, true }, { 1, 1, true } },
} };

// More generated tokens than a workgroup of products takes, and some with prompts.
static struct steps many_steps(void)
{
    struct steps s = { .n = 3 };
    for (uint32_t i = 0; i < SEQS_MAX; i++) {
        s.part[0][i] = (struct part){ i, 1 + i % 3, false };
        s.part[1][i] = (struct part){ i, 1, true };
        if (i < 9)
            s.part[2][i] = (struct part){ i, i < 6 ? 1 : 4, i < 6 };
    }
    return s;
}

struct result {
    float    logits[STEPS_MAX][SEQS_MAX][VOCAB];
    uint32_t barriers[STEPS_MAX];
    uint8_t *blocks;                    // (BLOCKS, block_bytes), owned
    size_t   bytes;
};

static void step(struct program *p, const struct part *part, uint32_t *n_tokens,
                 float logits[SEQS_MAX][VOCAB])
{
    struct err err;
    struct batch_seq seq[SEQS_MAX];
    int32_t token[ROWS_MAX];
    uint32_t out[SEQS_MAX], table[SEQS_MAX][2], rows = 0, n = 0;
    for (; n < SEQS_MAX && part[n].rows; n++) {
        uint32_t i = part[n].seq;
        table[n][0] = 2 * i;
        table[n][1] = 2 * i + 1;
        seq[n] = (struct batch_seq){
            .block = table[n], .n_blocks = 2, .row0 = rows, .n_rows = part[n].rows,
            .decode = part[n].decode, .pos0 = n_tokens[i],
        };
        for (uint32_t k = 0; k < part[n].rows; k++)
            token[rows++] = (int32_t)(n_tokens[i]++ * 37 + i * 11) % VOCAB;
        out[n] = rows - 1;
    }
    struct batch b = {
        .n_rows = rows, .n_seqs = n, .n_out = n, .token = token, .seq = seq, .out_row = out };
    REQUIRE_OK(executor_vulkan.submit(p, &b, &err), err);
    REQUIRE_OK(executor_vulkan.wait(p, WAIT_NS, &err), err);
    memcpy(logits, b.logits, sizeof(float) * n * VOCAB);
}

static struct result *run(struct rig *r, const struct model_case *c, const struct steps *s,
                          const struct vulkan_choice *choice)
{
    struct result *to = calloc(1, sizeof(*to));
    uint32_t n_tokens[SEQS_MAX] = {0};
    REQUIRE(to);
    struct program *p = load(r, c, choice);
    struct vk_program *g = container_of(p, struct vk_program, p);
    for (uint32_t n = 0; n < s->n; n++) {
        step(p, s->part[n], n_tokens, to->logits[n]);
        to->barriers[n] = vk_recorded_barriers(g);
    }
    to->bytes = g->kv.layout.block_bytes;
    to->blocks = malloc(BLOCKS * to->bytes);
    for (uint32_t i = 0; i < BLOCKS; i++)
        executor_vulkan.kv_read(p, i, to->blocks + i * to->bytes);
    executor_vulkan.unload(p);
    return to;
}

static void result_free(struct result *x)
{
    free(x->blocks);
    free(x);
}

// ---- bits -------------------------------------------------------------------------------------

static const struct model_case
llama = { "llama", 2, 128, 4, 2, 32, 160, 0, QUANT_q8_0, QUANT_q8_0, .rope = ROPE_ADJACENT,
          .n_rot = 32, .kv = KV_F16 },
mixed = { "llama of mixed formats", 2, 256, 8, 4, 32, 512, 0, QUANT_q4_k, QUANT_f16,
          .rope = ROPE_HALVES, .n_rot = 32, .kv = KV_F16 },
qwen = { "qwen", 1, 96, 4, 2, 32, 160, 0, QUANT_f16, QUANT_f16, .bias = true,
         .rope = ROPE_HALVES, .n_rot = 32, .kv = KV_F16 },
gemma = { "gemma", 2, 128, 2, 1, 64, 96, 40, QUANT_q8_0, QUANT_q8_0, .qk_norm = true,
          .post_norms = true, .rope = ROPE_HALVES, .n_rot = 64, .kv = KV_Q8_0 },
exact = { "gemma, exact, with heads half turned", 2, 96, 2, 1, 80, 96, 40, QUANT_q8_0, QUANT_q8_0,
          .exact = true, .qk_norm = true, .post_norms = true, .rope = ROPE_HALVES, .n_rot = 20,
          .kv = KV_F32 };

static void check_equal(const char *model, uint32_t rules, const struct result *a,
                        const struct result *b)
{
    for (uint32_t n = 0; n < STEPS_MAX; n++)
        for (uint32_t i = 0; i < SEQS_MAX; i++) {
            REQUIRE(isfinite(a->logits[n][i][0]));
            if (memcmp(a->logits[n][i], b->logits[n][i], sizeof(a->logits[n][i])))
                TEST_FAIL("%s: rules %u change output %u of step %u", model, rules, i, n);
        }
    for (uint32_t i = 0; i < BLOCKS; i++)
        if (memcmp(a->blocks + i * a->bytes, b->blocks + i * a->bytes, a->bytes))
            TEST_FAIL("%s: rules %u change block %u", model, rules, i);
}

// With these rules and with none. They must be worth it.
static void check(const struct model_case *c, const struct steps *s, uint32_t rules,
                  bool wide_teams)
{
    const struct vulkan_choice plain = { 0, wide_teams }, fused = { rules, wide_teams };
    struct rig r;
    rig_open(&r, c);
    struct result *want = run(&r, c, s, &plain), *got = run(&r, c, s, &fused);
    check_equal(c->name, rules, want, got);
    REQUIRE(got->barriers[1] < want->barriers[1]);
    result_free(got);
    result_free(want);
    rig_close(&r);
}

TEST(rules_change_no_bits)
{
    const struct steps many = many_steps();
    check(&llama, &few, FUSE_GLU, false);
    check(&llama, &few, FUSE_QKV, false);
    check(&llama, &few, FUSE_NORM, false);
    check(&llama, &few, FUSE_ALL, false);
    check(&llama, &many, FUSE_ALL, false);
    check(&mixed, &few, FUSE_ALL, false);
    check(&qwen, &few, FUSE_ALL, false);
    check(&gemma, &few, FUSE_ALL, false);
    check(&exact, &few, FUSE_ALL, false);
}

// Where the last workgroup of a product makes the input of the next.
TEST(wide_teams_change_no_bits)
{
    const struct steps many = many_steps();
    check(&llama, &few, FUSE_ALL, true);
    check(&llama, &many, FUSE_ALL, true);
    check(&gemma, &few, FUSE_ALL, true);
    check(&exact, &few, FUSE_ALL, true);
}

// ---- counts -----------------------------------------------------------------------------------

// Dependent dispatches of a layer in the middle, in a step of generated tokens alone.
static void check_count(const struct model_case *c, const struct steps *s, bool wide_teams,
                        uint32_t most)
{
    const struct vulkan_choice fused = { FUSE_ALL, wide_teams };
    uint32_t barriers[2];
    for (uint32_t i = 0; i < 2; i++) {
        struct model_case deeper = *c;
        struct rig r;
        deeper.layers += i;
        rig_open(&r, &deeper);
        struct result *x = run(&r, &deeper, s, &fused);
        barriers[i] = x->barriers[1];
        result_free(x);
        rig_close(&r);
    }
    if (barriers[1] - barriers[0] > most)
        TEST_FAIL("%s: %u dependent dispatches in a layer, not %u", c->name,
                  barriers[1] - barriers[0], most);
}

TEST(a_layer_takes_few_dispatches)
{
    const struct steps many = many_steps();
    check_count(&llama, &few, false, 9);
    check_count(&mixed, &few, false, 9);
    check_count(&gemma, &few, false, 9);
    check_count(&exact, &few, false, 9);
    check_count(&llama, &few, true, 7);
    check_count(&gemma, &few, true, 7);
    check_count(&exact, &few, true, 7);
    check_count(&llama, &many, true, 9);
}
