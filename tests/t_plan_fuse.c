// Protects plan_fuse and plan_cut: that a rewritten plan, and one in two parts, computes what the
// plan did, on plans of models and on random ones, and that models get all the fusions that there
// are for them.
//
// What a plan computes is followed in symbols: a slot holds a number that stands for the whole
// history of its content.
#include "tests/test.h"
#include "base/base.h"
#include "base/str.h"
#include "engine/model/model.h"
#include "engine/model/plan.h"
#include "engine/model/plan_cut.h"
#include "engine/model/plan_fuse.h"

TEST_MAIN

// ---- plans in symbols -------------------------------------------------------------------------

struct machine {
    uint64_t slot[SLOT_COUNT], logits, blocks;
    uint32_t layer0;                    // what the plan's first layer is in the whole model
};

static uint64_t mix(uint64_t a, uint64_t b)
{
    a = (a ^ b) * 0x9e3779b97f4a7c15u;
    return (a ^ a >> 29) * 0xbf58476d1ce4e5b9u;
}

static uint64_t float_bits(float x)
{
    uint32_t u;
    memcpy(&u, &x, sizeof(u));
    return u;
}

static uint64_t norm_of(const struct tensor *w, uint32_t piece, float eps, uint64_t x)
{
    return mix(mix(mix(mix(1, (uintptr_t)w), piece), float_bits(eps)), x);
}

static uint64_t sum_of(uint64_t x, float scale, uint64_t y)
{
    return mix(mix(mix(2, x), float_bits(scale)), y);
}

static uint64_t glu_of(enum act_kind act, uint64_t gate, uint64_t up)
{
    return mix(mix(mix(3, act), gate), up);
}

static uint64_t rope_of(bool local, unsigned which, uint64_t x)
{
    return mix(mix(mix(4, local), which), x);
}

static void run_norm(struct machine *m, const struct op *op)
{
    uint64_t y = norm_of(op->w[0], op->norm.piece, op->norm.eps, m->slot[op->src[0]]);
    uint64_t *dst = &m->slot[op->dst[0]];
    *dst = sum_of(op->flags & OP_ADD ? *dst : 0, op->norm.scale, y);
}

// What a product is made of, after what happens to it first.
static uint64_t input_of(struct machine *m, const struct op *op)
{
    const struct op_norm *a = &op->added, *n = &op->normed;
    uint64_t *x = &m->slot[op->src[0]], y = *x;
    if (a->w)
        *x = y = sum_of(y, a->scale,
                        norm_of(a->w, (uint32_t)a->w->dim[0], a->eps, m->slot[a->slot]));
    if (n->w) {
        y = sum_of(0, n->scale, norm_of(n->w, (uint32_t)n->w->dim[0], n->eps, y));
        m->slot[n->slot] = 12345;       // nobody may count on it
    }
    return y;
}

static void run_matmul(struct machine *m, const struct op *op)
{
    uint64_t x = input_of(m, op), y[OP_W_MAX];
    for (unsigned i = 0; i < op->n_w; i++)
        y[i] = mix(mix(mix(5, (uintptr_t)op->w[i]), (uintptr_t)op->bias[i]), x);
    if (op->kind == OP_LOGITS)
        m->logits = mix(mix(y[0], float_bits(op->logits.scale)), float_bits(op->logits.softcap));
    else if (op->flags & OP_GLU_OUT)
        m->slot[op->dst[0]] = glu_of(op->matmul.act, y[0], y[1]);
    else
        for (unsigned i = 0; i < op->n_w; i++) {
            uint64_t *dst = &m->slot[op->dst[i]];
            *dst = op->flags & OP_ADD ? sum_of(*dst, op->matmul.scale, y[i]) : y[i];
        }
}

static void run_qkv(struct machine *m, const struct op *op, uint32_t head_dim)
{
    uint64_t q = m->slot[op->dst[0]], k = m->slot[op->src[0]];
    if (op->w[0]) {
        q = sum_of(0, 1.0f, norm_of(op->w[0], head_dim, op->rope.eps, q));
        k = sum_of(0, 1.0f, norm_of(op->w[1], head_dim, op->rope.eps, k));
    }
    m->slot[op->dst[0]] = rope_of(op->rope.local, 0, q);
    k = rope_of(op->rope.local, 1, k);
    m->blocks = mix(mix(mix(mix(m->blocks, m->layer0 + op->layer), 6), k), m->slot[op->src[1]]);
}

static void run_op(struct machine *m, const struct op *op, uint32_t head_dim)
{
    uint64_t x[2] = { m->slot[op->src[0]], m->slot[op->src[1]] };
    switch (op->kind) {
    case OP_EMBED: m->slot[op->dst[0]] = mix(7, (uintptr_t)op->w[0]); break;
    case OP_NORM: run_norm(m, op); break;
    case OP_MATMUL:
    case OP_LOGITS: run_matmul(m, op); break;
    case OP_ROPE:
        for (unsigned i = 0; i < 2; i++)
            m->slot[op->dst[i]] = rope_of(op->rope.local, i, m->slot[op->dst[i]]);
        break;
    case OP_KV_WRITE:
        m->blocks = mix(mix(mix(mix(m->blocks, m->layer0 + op->layer), 6), x[0]), x[1]);
        break;
    case OP_ATTN:
        m->slot[op->dst[0]] = mix(mix(mix(m->blocks, m->layer0 + op->layer), 8), x[0]);
        break;
    case OP_GLU: m->slot[op->dst[0]] = glu_of(op->glu.act, x[0], x[1]); break;
    case OP_GATHER:
        for (unsigned i = 0; i < op->n_w; i++)
            m->slot[op->dst[i]] = mix(9, x[i]);
        break;
    case OP_QKV_STORE: run_qkv(m, op, head_dim); break;
    case OP_KIND_COUNT: REQUIRE(!"an operation");
    }
}

static struct machine run_plan(const struct plan *p, uint32_t head_dim)
{
    struct machine m = {0};
    for (unsigned s = 0; s < SLOT_COUNT; s++)
        m.slot[s] = mix(10, s);
    for (uint32_t i = 0; i < p->n_ops; i++)
        run_op(&m, &p->op[i], head_dim);
    return m;
}

// The first `layer` layers on one machine, the rest on another that gets no more than it must.
static struct machine run_cut(const struct plan *p, uint32_t layer, uint32_t n_layers,
                              uint32_t head_dim)
{
    struct err err;
    struct plan *first, *second;
    REQUIRE_OK(plan_cut(&first, p, 0, layer, &err), err);
    REQUIRE_OK(plan_cut(&second, p, layer, n_layers - layer, &err), err);
    REQUIRE_INT(first->n_ops + second->n_ops, p->n_ops);
    struct machine a = run_plan(first, head_dim), b = { .layer0 = layer, .blocks = a.blocks,
                                                        .logits = a.logits };
    for (unsigned s = 0; s < SLOT_COUNT; s++)
        b.slot[s] = plan_cut_slots(p, layer) >> s & 1 ? a.slot[s] : mix(11, s);
    for (uint32_t i = 0; i < second->n_ops; i++)
        run_op(&b, &second->op[i], head_dim);
    plan_free(first);
    plan_free(second);
    return b;
}

static struct plan *fuse(const struct plan *src, const struct model_cfg *cfg, uint32_t rules)
{
    struct err err;
    struct plan *p;
    REQUIRE_OK(plan_fuse(&p, src, cfg, rules, &err), err);
    return p;
}

// A rewritten product reads its input while it writes: it must not be the same slot.
static void check_slots(const struct op *op)
{
    const struct op_norm *n = &op->normed, *a = &op->added;
    unsigned n_dst = op->kind != OP_MATMUL ? 0 : op->flags & OP_GLU_OUT ? 1 : op->n_w;
    for (unsigned i = 0; i < n_dst; i++) {
        REQUIRE(!n->w || (op->dst[i] != op->src[0] && op->dst[i] != n->slot));
        REQUIRE(!(op->flags & OP_GLU_OUT) || op->dst[i] != op->src[0]);
    }
    REQUIRE(!a->w || (n->w && a->slot != op->src[0] && a->slot != n->slot));
}

// Same results, and where the plan leaves its slots to the caller, the same in all of them.
static void check_results(const struct plan *src, const struct machine *a, const struct machine *b)
{
    REQUIRE(a->logits == b->logits && a->blocks == b->blocks);
    if (src->op[src->n_ops - 1].kind != OP_LOGITS)
        REQUIRE(memcmp(a->slot, b->slot, sizeof(a->slot)) == 0);
}

static void check_same(const struct plan *src, const struct plan *fused, uint32_t head_dim)
{
    struct machine a = run_plan(src, head_dim), b = run_plan(fused, head_dim);
    check_results(src, &a, &b);
}

static void check_cut(const struct plan *p, uint32_t layer, uint32_t n_layers, uint32_t head_dim)
{
    struct machine a = run_plan(p, head_dim), b = run_cut(p, layer, n_layers, head_dim);
    check_results(p, &a, &b);
}

// ---- random plans -----------------------------------------------------------------------------

#define WIDTH 8
#define OPS_MAX 12

static uint32_t seed;

static uint32_t below(uint32_t n)
{
    seed = seed * 1664525 + 1013904223;
    return (seed >> 16) % n;
}

static struct tensor vectors[2], matrices[3];

static void make_tensors(void)
{
    for (unsigned i = 0; i < ARRAY_LEN(vectors); i++)
        vectors[i] = (struct tensor){
            .name = "v", .quant = &quants[QUANT_f32], .dim = { WIDTH, 1, 1, 1 } };
    for (unsigned i = 0; i < ARRAY_LEN(matrices); i++)
        matrices[i] = (struct tensor){
            .name = "m", .quant = &quants[i == 2 ? QUANT_q8_0 : QUANT_f32],
            .dim = { WIDTH, WIDTH, 1, 1 } };
}

// Few slots and few constants, so that what rules look for is common and so is what is almost that.
static struct op random_op(void)
{
    static const enum op_kind kinds[] = {
        OP_NORM, OP_NORM, OP_MATMUL, OP_MATMUL, OP_GLU, OP_ROPE, OP_KV_WRITE, OP_ATTN, OP_GATHER,
        OP_LOGITS,
    };
    struct op op = { .kind = kinds[below(ARRAY_LEN(kinds))], .layer = (uint16_t)below(2) };
    for (unsigned i = 0; i < OP_W_MAX; i++) {
        op.dst[i] = (uint8_t)below(5);
        op.w[i] = &matrices[below(8) == 0 ? 2 : below(2)];
    }
    op.src[0] = (uint8_t)below(5);
    op.src[1] = (uint8_t)below(5);
    switch (op.kind) {
    case OP_NORM:
        op.w[0] = &vectors[below(2)];
        op.flags = below(3) == 0 ? OP_ADD : 0;
        op.norm.piece = below(8) == 0 ? WIDTH / 2 : WIDTH;
        op.norm.scale = below(8) == 0 ? 0.5f : 1.0f;
        op.norm.eps = below(8) == 0 ? 0.1f : 0.01f;
        break;
    case OP_MATMUL:
        op.n_w = (uint8_t)(1 + below(3));
        op.flags = below(3) == 0 ? OP_ADD : 0;
        op.matmul.scale = op.flags ? 0.25f : 1.0f;
        break;
    case OP_ROPE: op.rope.local = below(4) == 0; break;
    case OP_GATHER: op.n_w = 2; break;
    case OP_LOGITS: op.n_w = 1; break;
    default: break;
    }
    return op;
}

// The heads' norms, rope and kv_write, sometimes with a slot that spoils it.
static void put_heads(struct op *op)
{
    for (unsigned i = 0; i < 4; i++)
        op[i] = (struct op){ .kind = i < 2 ? OP_NORM : i == 2 ? OP_ROPE : OP_KV_WRITE };
    for (unsigned i = 0; i < 2; i++) {
        op[i].w[0] = &vectors[i];
        op[i].norm.piece = WIDTH;
        op[i].norm.scale = 1.0f;
        op[i].dst[0] = op[i].src[0] = op[2].dst[i] = (uint8_t)i;
    }
    op[3].src[0] = 1;
    op[3].src[1] = 2;
    if (below(8) == 0)
        op[below(2)].norm.piece = WIDTH / 2;
    if (below(8) == 0)
        op[below(2)].norm.eps = 0.5f;
    if (below(2))
        op[below(4)].src[below(2)] = (uint8_t)below(5);
    if (below(2))
        op[below(4)].dst[below(2)] = (uint8_t)below(5);
}

// After an operation, the one that goes with it, more often than chance would have it.
static void random_plan(struct plan *p)
{
    p->n_ops = 2 + below(OPS_MAX - 2);
    for (uint32_t i = 0; i < p->n_ops; i++) {
        struct op op = random_op();
        const struct op *before = i > 0 ? &p->op[i - 1] : NULL;
        if (before && below(4) > 0) {
            op.src[0] = before->dst[0];
            op.src[1] = before->dst[1];
            if (op.kind == OP_KV_WRITE)
                op.src[0] = before->dst[1];
            if (before->kind == OP_NORM && op.kind == OP_NORM)
                op.src[0] = op.dst[0];
        }
        p->op[i] = op;
    }
    if (p->n_ops > 6 && below(3) == 0)
        put_heads(&p->op[below(p->n_ops - 5)]);
    if (below(2))
        p->op[p->n_ops - 1] = (struct op){ .kind = OP_LOGITS, .n_w = 1, .w = { &matrices[0] },
                                           .src = { (uint8_t)below(5) } };
}

TEST(random_plans_stay_what_they_are)
{
    struct op ops[OPS_MAX];
    struct plan p = { .op = ops };
    struct model_cfg cfg = {
        .head_dim = WIDTH, .rope = { .kind = ROPE_HALVES, .n_rot = WIDTH, .base = 1e4f },
    };
    uint32_t n_glu = 0, n_qkv = 0, n_heads = 0, n_norm = 0, n_added = 0;
    make_tensors();
    for (unsigned s = 0; s < SLOT_COUNT; s++)
        p.slot_width[s] = WIDTH;
    seed = 1;
    for (int i = 0; i < 300000; i++) {
        random_plan(&p);
        struct plan *f = fuse(&p, &cfg, FUSE_ALL);
        check_same(&p, f, WIDTH);
        for (uint32_t k = 0; k < f->n_ops; k++) {
            const struct op *op = &f->op[k];
            check_slots(op);
            n_glu += op->kind == OP_MATMUL && op->flags & OP_GLU_OUT;
            n_qkv += op->kind == OP_QKV_STORE;
            n_heads += op->kind == OP_QKV_STORE && op->w[0];
            n_norm += op->normed.w != NULL;
            n_added += op->added.w != NULL;
        }
        plan_free(f);
    }
    // It is a test only where rules are at work.
    REQUIRE(n_glu > 50 && n_qkv > 50 && n_heads > 50 && n_norm > 50 && n_added > 50);
}

TEST(random_plans_in_two_parts)
{
    struct op ops[OPS_MAX];
    struct plan p = { .op = ops };
    uint32_t n_moved = 0;
    make_tensors();
    seed = 2;
    for (int i = 0; i < 50000; i++) {
        random_plan(&p);
        uint32_t at = 1 + below(p.n_ops - 1);
        for (uint32_t k = 0; k < p.n_ops; k++)
            ops[k].layer = k >= at;
        check_cut(&p, 1, 2, WIDTH);
        n_moved += (uint32_t)__builtin_popcount(plan_cut_slots(&p, 1) & 31);
    }
    REQUIRE(n_moved > 50000 && n_moved < 4 * 50000);    // neither none nor all of the five
}

// ---- models -----------------------------------------------------------------------------------

static struct model *open_model(const char *file)
{
    char path[4096];
    struct err e = {0};
    struct model *m;
    if (!test_model(file, path, sizeof(path)))
        SKIP("no %s: run tools/model", file);
    REQUIRE_OK(model_open(&m, path, &e), e);
    return m;
}

static const char *const model_files[] = {
    "SmolLM2-135M-Instruct.Q4_1.gguf", "qwen2.5-coder-0.5b-instruct.gguf",
    "gemma-3-270m-q4_k_m.gguf",
};

// Six operations a layer: QKV, store, attention, its output, gate and up, down.
TEST(models_get_all_there_is)
{
    for (size_t i = 0; i < ARRAY_LEN(model_files); i++) {
        struct model *m = open_model(model_files[i]);
        struct plan *p = fuse(m->plan, &m->cfg, FUSE_ALL);
        check_same(m->plan, p, m->cfg.head_dim);
        REQUIRE_INT(p->n_ops, 6 * m->cfg.n_layers + 3);     // embedding, gather, logits
        plan_free(p);
        model_close(m);
    }
}

// Between two layers there is the residual stream and nothing else.
TEST(models_in_two_parts)
{
    for (size_t i = 0; i < ARRAY_LEN(model_files); i++) {
        struct model *m = open_model(model_files[i]);
        for (uint32_t layer = 1; layer < m->cfg.n_layers; layer++) {
            check_cut(m->plan, layer, m->cfg.n_layers, m->cfg.head_dim);
            REQUIRE_INT(plan_cut_slots(m->plan, layer), 1 << SLOT_X);
        }
        struct plan *p;
        struct err err;
        REQUIRE_OK(plan_cut(&p, m->plan, 0, 1, &err), err);
        REQUIRE(p->slot_width[SLOT_X] == m->cfg.width && p->slot_width[SLOT_O] == 0);
        plan_free(p);
        model_close(m);
    }
}

TEST(any_rules_may_be_left_out)
{
    for (size_t i = 0; i < ARRAY_LEN(model_files); i++) {
        struct model *m = open_model(model_files[i]);
        for (uint32_t rules = 0; rules <= FUSE_ALL; rules++) {
            struct plan *p = fuse(m->plan, &m->cfg, rules);
            check_same(m->plan, p, m->cfg.head_dim);
            REQUIRE(rules || p->n_ops == m->plan->n_ops);
            plan_free(p);
        }
        model_close(m);
    }
}

TEST(fused_plans_in_print)
{
    static const char want[] =
        "   1 layer   0 matmul   q = blk.0.attn_q.weight q4_1 (576, 576), k = blk.0.attn_k.weight "
        "q4_1 (192, 576), v = blk.0.attn_v.weight q4_1 (192, 576) * rms(x) * "
        "blk.0.attn_norm.weight, eps 1e-05\n"
        "   2 layer   0 qkv      q = rope(q); kv_write rope(k), v\n"
        "   3 layer   0 attn     a = attention(q), scale 0.125\n"
        "   4 layer   0 matmul   x += blk.0.attn_output.weight q4_1 (576, 576) * a\n"
        "   5 layer   0 matmul   g = silu blk.0.ffn_gate.weight q4_1 (1536, 576), up "
        "blk.0.ffn_up.weight q4_1 (1536, 576) * rms(x) * blk.0.ffn_norm.weight, eps 1e-05\n"
        "   6 layer   0 matmul   x += blk.0.ffn_down.weight q4_1 (576, 1536) * g\n";
    struct model *m = open_model(model_files[0]);
    struct plan *p = fuse(m->plan, &m->cfg, FUSE_ALL);
    struct str text = {0};
    plan_print(p, &text);
    REQUIRE(strstr(text.p, want));
    str_free(&text);
    plan_free(p);
    model_close(m);
    m = open_model(model_files[2]);
    p = fuse(m->plan, &m->cfg, FUSE_ALL);
    plan_print(p, &text);
    REQUIRE(strstr(text.p, "qkv      q = rope(rms(q) * blk.1.attn_q_norm.weight, eps 1e-06); "
                           "kv_write rope(rms(k) * blk.1.attn_k_norm.weight, eps 1e-06), v, "
                           "local"));
    REQUIRE(strstr(text.p, "matmul   x += rms(y) * blk.0.post_ffw_norm.weight, eps 1e-06; q = "));
    str_free(&text);
    plan_free(p);
    model_close(m);
}
