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

#define WAIT_NS (60 * NS_PER_S)
#define VOCAB 96
#define CASE_LAYERS_MAX 3
#define TENSORS_MAX 48
#define ROWS_MAX 128
#define SEQS 3
#define BLOCKS (2 * SEQS)
#define STEPS 4                         // with SEQS outputs each

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

static void open_device(struct rig *r, bool exact)
{
    struct err err;
    struct executor_params p = { .exact = exact };
    if (executor_vulkan.open(&r->x, &p, &err) == 0)
        return;
    p.device_arg = "llvmpipe";
    if (executor_vulkan.open(&r->x, &p, &err))
        SKIP("no usable Vulkan device");
}

static void rig_open(struct rig *r, const struct model_case *c)
{
    struct err err;
    *r = (struct rig){0};
    open_device(r, c->exact);
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
    r->x->ops->close(r->x);
}

static struct program *load(struct rig *r, const struct model_case *c, uint32_t rules)
{
    struct err err;
    struct program *p;
    struct kv_layout layout;
    struct load_params params = { .rows_max = ROWS_MAX, .seqs_max = SEQS, .outputs_max = SEQS,
                                  .k_type = c->kv, .v_type = c->kv };
    REQUIRE_OK(vulkan_load_as(r->x, &r->model, r->plan, rules, &params, &p, &err), err);
    REQUIRE_OK(r->x->ops->kv_alloc(p, BLOCKS, &layout, &err), err);
    return p;
}

// ---- steps ------------------------------------------------------------------------------------

struct result {
    float    logits[STEPS][SEQS][VOCAB];
    uint8_t *blocks;                    // (BLOCKS, block_bytes), owned
    size_t   bytes;
    uint32_t barriers;                  // of the last step
};

// Prompts that end before and behind the end of a block; generated tokens go over one.
static const uint32_t prompt_tokens[SEQS] = { 62, 7, 1 };

static void step(struct program *p, uint32_t n, float logits[SEQS][VOCAB])
{
    static const uint32_t table[SEQS][2] = { { 0, 1 }, { 2, 3 }, { 4, 5 } };
    struct err err;
    struct batch_seq seq[SEQS];
    int32_t token[ROWS_MAX];
    uint32_t out[SEQS], rows = 0;
    for (uint32_t i = 0; i < SEQS; i++) {
        seq[i] = (struct batch_seq){
            .block = table[i], .n_blocks = 2, .row0 = rows, .decode = n > 0,
            .n_rows = n ? 1 : prompt_tokens[i], .pos0 = n ? prompt_tokens[i] + n - 1 : 0,
        };
        for (uint32_t k = 0; k < seq[i].n_rows; k++)
            token[rows++] = (int32_t)((seq[i].pos0 + k) * 37 + i * 11) % VOCAB;
        out[i] = rows - 1;
    }
    struct batch b = {
        .n_rows = rows, .n_seqs = SEQS, .n_out = SEQS, .token = token, .seq = seq, .out_row = out };
    REQUIRE_OK(executor_vulkan.submit(p, &b, &err), err);
    REQUIRE_OK(executor_vulkan.wait(p, WAIT_NS, &err), err);
    memcpy(logits, b.logits, sizeof(float) * SEQS * VOCAB);
}

static struct result run(struct rig *r, const struct model_case *c, uint32_t rules)
{
    struct result to = {0};
    struct program *p = load(r, c, rules);
    struct vk_program *g = container_of(p, struct vk_program, p);
    for (uint32_t n = 0; n < STEPS; n++)
        step(p, n, to.logits[n]);
    to.barriers = vk_recorded_barriers(g);
    to.bytes = g->kv.layout.block_bytes;
    to.blocks = malloc(BLOCKS * to.bytes);
    for (uint32_t i = 0; i < BLOCKS; i++)
        executor_vulkan.kv_read(p, i, to.blocks + i * to.bytes);
    executor_vulkan.unload(p);
    return to;
}

// ---- bits -------------------------------------------------------------------------------------

static const struct model_case models[] = {
    { "llama", 2, 128, 4, 2, 32, 160, 0, QUANT_q8_0, QUANT_q8_0, .rope = ROPE_ADJACENT,
      .n_rot = 32, .kv = KV_F16 },
    { "llama of mixed formats", 2, 256, 4, 1, 64, 512, 0, QUANT_q4_k, QUANT_f16,
      .rope = ROPE_HALVES, .n_rot = 64, .kv = KV_Q8_0 },
    { "qwen", 1, 96, 6, 2, 16, 160, 0, QUANT_f16, QUANT_f16, .bias = true, .rope = ROPE_HALVES,
      .n_rot = 16, .kv = KV_F16 },
    { "gemma", 2, 128, 4, 1, 64, 96, 40, QUANT_q4_0, QUANT_q5_1, .qk_norm = true,
      .post_norms = true, .rope = ROPE_HALVES, .n_rot = 64, .kv = KV_Q8_0 },
    { "gemma, exact, with heads half turned", 2, 96, 2, 1, 80, 96, 40, QUANT_q8_0, QUANT_q8_0,
      .exact = true, .qk_norm = true, .post_norms = true, .rope = ROPE_HALVES, .n_rot = 20,
      .kv = KV_F32 },
};

static void check_equal(const char *model, uint32_t rules, const struct result *a,
                        const struct result *b)
{
    for (uint32_t n = 0; n < STEPS; n++)
        for (uint32_t i = 0; i < SEQS; i++) {
            REQUIRE(isfinite(a->logits[n][i][0]));
            if (memcmp(a->logits[n][i], b->logits[n][i], sizeof(a->logits[n][i])))
                TEST_FAIL("%s: rules %u change step %u of sequence %u", model, rules, n, i);
        }
    for (uint32_t i = 0; i < BLOCKS; i++)
        if (memcmp(a->blocks + i * a->bytes, b->blocks + i * a->bytes, a->bytes))
            TEST_FAIL("%s: rules %u change block %u", model, rules, i);
}

TEST(rules_change_no_bits)
{
    for (size_t i = 0; i < ARRAY_LEN(models); i++) {
        struct rig r;
        rig_open(&r, &models[i]);
        struct result want = run(&r, &models[i], 0);
        const uint32_t rules[] = { VULKAN_FUSE_RULES & FUSE_GLU, VULKAN_FUSE_RULES & FUSE_QKV,
                                   VULKAN_FUSE_RULES & FUSE_NORM, VULKAN_FUSE_RULES };
        for (size_t k = 0; k < ARRAY_LEN(rules); k++) {
            struct result got = run(&r, &models[i], rules[k]);
            check_equal(models[i].name, rules[k], &want, &got);
            REQUIRE(got.barriers < want.barriers ||
                    (rules[k] != VULKAN_FUSE_RULES && got.barriers == want.barriers));
            free(got.blocks);
        }
        free(want.blocks);
        rig_close(&r);
    }
}
