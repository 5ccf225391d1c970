// The rules, each a pass over the whole list.
#include "engine/model/plan_fuse.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "base/base.h"
#include "engine/model/plan.h"
#include "engine/model/plan_slots.h"

// Nothing after operation i reads what is in the slot then.
static bool is_dead_after(const struct plan *p, uint32_t i, uint8_t slot)
{
    return !(plan_slots_live(p, i + 1) & slot_bit(slot));
}

// ---- rules ------------------------------------------------------------------------------------

// A rule looks at what begins at operation i. It returns how many operations become *ret, or 0.
typedef uint32_t fuse_fn(const struct plan *p, const struct model_cfg *cfg, uint32_t i,
                         struct op *ret);

// Operation i, or one that no rule takes.
static const struct op *op_at(const struct plan *p, uint32_t i)
{
    static const struct op none = { .kind = OP_KIND_COUNT };
    return i < p->n_ops ? &p->op[i] : &none;
}

static bool same_shape(const struct tensor *a, const struct tensor *b)
{
    return a->quant == b->quant && a->dim[0] == b->dim[0] && a->dim[1] == b->dim[1];
}

static uint32_t fuse_glu(const struct plan *p, const struct model_cfg *cfg, uint32_t i,
                         struct op *ret)
{
    const struct op *mat = op_at(p, i), *glu = op_at(p, i + 1);
    (void)cfg;
    if (mat->kind != OP_MATMUL || mat->n_w != 2 || mat->flags || glu->kind != OP_GLU)
        return 0;
    uint8_t gate = mat->dst[0], up = mat->dst[1], dst = glu->dst[0];
    if (gate == up || glu->src[0] != gate || glu->src[1] != up || dst == mat->src[0] || dst == up ||
        !same_shape(mat->w[0], mat->w[1]) || !is_dead_after(p, i + 1, up) ||
        (dst != gate && !is_dead_after(p, i + 1, gate)))
        return 0;
    *ret = *mat;
    ret->flags = OP_GLU_OUT;
    ret->matmul.act = glu->glu.act;
    ret->dst[0] = dst;
    return 2;
}

static bool norms_heads(const struct op *op, const struct model_cfg *cfg, uint8_t slot)
{
    return op->kind == OP_NORM && op->flags == 0 && op->src[0] == slot && op->dst[0] == slot &&
           op->norm.piece == cfg->head_dim && op->norm.scale == 1.0f;
}

static bool differ(uint8_t a, uint8_t b, uint8_t c)
{
    return a != b && b != c && c != a;
}

static uint32_t fuse_qkv(const struct plan *p, const struct model_cfg *cfg, uint32_t i,
                         struct op *ret)
{
    uint32_t n_norms = op_at(p, i)->kind == OP_NORM ? 2 : 0;
    const struct op *q = op_at(p, i), *k = op_at(p, i + 1);
    const struct op *rope = op_at(p, i + n_norms), *kv = op_at(p, i + n_norms + 1);
    if (rope->kind != OP_ROPE || kv->kind != OP_KV_WRITE || rope->dst[1] != kv->src[0] ||
        !differ(rope->dst[0], kv->src[0], kv->src[1]) ||
        !is_dead_after(p, i + n_norms + 1, kv->src[0]) ||
        (rope->rope.local ? &cfg->rope_local : &cfg->rope)->kind == ROPE_NONE)
        return 0;
    if (n_norms && (!norms_heads(q, cfg, rope->dst[0]) || !norms_heads(k, cfg, rope->dst[1]) ||
                    q->norm.eps != k->norm.eps))
        return 0;
    *ret = (struct op){
        .kind = OP_QKV_STORE, .layer = kv->layer, .dst = { rope->dst[0] },
        .src = { kv->src[0], kv->src[1] }, .rope.local = rope->rope.local,
    };
    if (n_norms) {
        ret->w[0] = q->w[0];
        ret->w[1] = k->w[0];
        ret->rope.eps = q->norm.eps;
    }
    return n_norms + 2;
}

static bool multiplies(const struct op *op)
{
    return op->kind == OP_MATMUL || op->kind == OP_LOGITS;
}

static bool norms_rows(const struct plan *p, const struct op *op)
{
    return op->kind == OP_NORM && op->norm.piece == p->slot_width[op->src[0]] &&
           op->norm.piece == p->slot_width[op->dst[0]];
}

static struct op_norm op_norm_of(const struct op *norm, uint8_t slot)
{
    return (struct op_norm){ norm->w[0], norm->norm.eps, norm->norm.scale, slot };
}

static uint32_t fuse_norm(const struct plan *p, const struct model_cfg *cfg, uint32_t i,
                          struct op *ret)
{
    const struct op *norm = op_at(p, i), *mat = op_at(p, i + 1);
    (void)cfg;
    if (!norms_rows(p, norm) || norm->flags || !multiplies(mat) || mat->normed.w ||
        mat->src[0] != norm->dst[0] || !is_dead_after(p, i + 1, norm->dst[0]))
        return 0;
    // The product must not write what it is made of.
    slot_set in = slot_bit(norm->src[0]) | slot_bit(norm->dst[0]);
    if (op_slots_written(mat) & in)
        return 0;
    *ret = *mat;
    ret->src[0] = norm->src[0];
    ret->normed = op_norm_of(norm, norm->dst[0]);
    return 2;
}

static uint32_t fuse_added_norm(const struct plan *p, const struct model_cfg *cfg, uint32_t i,
                                struct op *ret)
{
    const struct op *norm = op_at(p, i), *mat = op_at(p, i + 1);
    (void)cfg;
    if (!norms_rows(p, norm) || norm->flags != OP_ADD || norm->src[0] == norm->dst[0] ||
        !multiplies(mat) || !mat->normed.w || mat->added.w || mat->src[0] != norm->dst[0] ||
        mat->normed.slot == norm->src[0])
        return 0;
    *ret = *mat;
    ret->added = op_norm_of(norm, norm->src[0]);
    return 2;
}

// ---- the rewrite ------------------------------------------------------------------------------

static const struct { enum fuse_rule rule; fuse_fn *fuse; } rules_in_order[] = {
    { FUSE_GLU, fuse_glu },
    { FUSE_QKV, fuse_qkv },
    { FUSE_NORM, fuse_norm },
    { FUSE_ADDED_NORM, fuse_added_norm },
};

// In place: what is written is never ahead of what is read.
static void rewrite(struct plan *p, const struct model_cfg *cfg, fuse_fn *fuse)
{
    uint32_t to = 0;
    for (uint32_t i = 0, n; i < p->n_ops; i += n) {
        struct op op;
        n = fuse(p, cfg, i, &op);
        if (n == 0) {
            op = p->op[i];
            n = 1;
        }
        p->op[to++] = op;
    }
    p->n_ops = to;
}

int plan_fuse(struct plan **ret, const struct plan *src, const struct model_cfg *cfg,
              uint32_t rules, struct err *err)
{
    struct plan *p = malloc(sizeof(*p));
    struct op *ops = calloc((size_t)src->n_ops + 1, sizeof(*ops));
    if (!p || !ops) {
        free(p);
        free(ops);
        return err_set(err, -ENOMEM, "no memory for a plan of %u operations", src->n_ops);
    }
    memcpy(ops, src->op, src->n_ops * sizeof(*ops));
    *p = *src;
    p->op = ops;
    for (unsigned i = 0; i < ARRAY_LEN(rules_in_order); i++)
        if (rules & rules_in_order[i].rule)
            rewrite(p, cfg, rules_in_order[i].fuse);
    *ret = p;
    return 0;
}
