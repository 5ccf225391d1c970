// Building the plan from properties: what a layer is made of follows from cfg and from which
// tensors there are.
#include "engine/model/plan.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "base/base.h"
#include "base/str.h"
#include "engine/model/model.h"

#define LAYER_OPS_MAX 16
#define EDGE_OPS_MAX 8              // before the first and after the last layer

static struct op *add(struct plan *p, enum op_kind kind, uint32_t layer)
{
    struct op *op = &p->op[p->n_ops++];
    *op = (struct op){ .kind = kind, .layer = (uint16_t)layer };
    return op;
}

static void add_norm(struct plan *p, uint32_t layer, enum slot dst, enum slot src,
                     const struct tensor *w, float eps)
{
    struct op *op = add(p, OP_NORM, layer);
    op->dst[0] = (uint8_t)dst;
    op->src[0] = (uint8_t)src;
    op->w[0] = w;
    op->norm.eps = eps;
    op->norm.scale = 1.0f;
    op->norm.piece = (uint32_t)w->dim[0];
}

static struct op *add_matmul(struct plan *p, uint32_t layer, enum slot src)
{
    struct op *op = add(p, OP_MATMUL, layer);
    op->src[0] = (uint8_t)src;
    op->matmul.scale = 1.0f;
    return op;
}

static void add_matrix(struct op *op, enum slot dst, const struct tensor *w,
                       const struct tensor *bias)
{
    assert(op->n_w < OP_W_MAX);
    op->dst[op->n_w] = (uint8_t)dst;
    op->w[op->n_w] = w;
    op->bias[op->n_w++] = bias;
}

// A block's output goes to the residual stream `x`, through its post norm where it has one.
static void add_block_output(struct plan *p, const struct model_cfg *c, uint32_t layer, enum slot x,
                             enum slot src, const struct tensor *w, const struct tensor *bias,
                             const struct tensor *post_norm)
{
    struct op *op = add_matmul(p, layer, src);
    add_matrix(op, post_norm ? SLOT_Y : x, w, bias);
    if (post_norm) {
        add_norm(p, layer, x, SLOT_Y, post_norm, c->norm_eps);
        op = &p->op[p->n_ops - 1];
        op->norm.scale = c->residual_scale;
    } else {
        op->matmul.scale = c->residual_scale;
    }
    op->flags |= OP_ADD;
}

static void add_attention(struct plan *p, const struct model_cfg *c, uint32_t layer,
                          const struct layer_weights *w)
{
    add_norm(p, layer, SLOT_H, SLOT_X, w->attn_norm, c->norm_eps);
    struct op *op = add_matmul(p, layer, SLOT_H);
    add_matrix(op, SLOT_Q, w->q, w->q_bias);
    add_matrix(op, SLOT_K, w->k, w->k_bias);
    add_matrix(op, SLOT_V, w->v, w->v_bias);
    if (c->qk_norm) {
        add_norm(p, layer, SLOT_Q, SLOT_Q, w->q_norm, c->norm_eps);
        add_norm(p, layer, SLOT_K, SLOT_K, w->k_norm, c->norm_eps);
    }
    if (c->rope.kind != ROPE_NONE) {
        op = add(p, OP_ROPE, layer);
        op->dst[0] = SLOT_Q;
        op->dst[1] = SLOT_K;
        op->rope.local = cfg_is_local(c, layer);
    }
    op = add(p, OP_KV_WRITE, layer);
    op->src[0] = SLOT_K;
    op->src[1] = SLOT_V;
    op = add(p, OP_ATTN, layer);
    op->dst[0] = SLOT_A;
    op->src[0] = SLOT_Q;
    op->attn.scale = c->attn_scale;
    op->attn.softcap = c->attn_softcap;
    op->attn.window = cfg_is_local(c, layer) ? c->window : 0;
}

// Once the last layer's keys and values are written, only the rows that need logits matter.
static void add_gather(struct plan *p, uint32_t layer)
{
    struct op *op = add(p, OP_GATHER, layer);
    op->n_w = 2;
    op->dst[0] = SLOT_O;
    op->src[0] = SLOT_X;
    op->dst[1] = SLOT_B;
    op->src[1] = SLOT_A;
}

static void add_mlp(struct plan *p, const struct model_cfg *c, uint32_t layer, enum slot x,
                    const struct layer_weights *w)
{
    add_norm(p, layer, SLOT_H, x, w->ff_norm, c->norm_eps);
    struct op *op = add_matmul(p, layer, SLOT_H);
    add_matrix(op, SLOT_G, w->ff_gate, NULL);
    add_matrix(op, SLOT_U, w->ff_up, NULL);
    op = add(p, OP_GLU, layer);
    op->dst[0] = SLOT_G;
    op->src[0] = SLOT_G;
    op->src[1] = SLOT_U;
    op->glu.act = c->act;
    add_block_output(p, c, layer, x, SLOT_G, w->ff_down, NULL, w->ff_post_norm);
}

static void add_layer(struct plan *p, const struct model_cfg *c, uint32_t layer,
                      const struct layer_weights *w)
{
    bool last = layer == c->n_layers - 1;
    enum slot x = last ? SLOT_O : SLOT_X, a = last ? SLOT_B : SLOT_A;
    add_attention(p, c, layer, w);
    if (last)
        add_gather(p, layer);
    add_block_output(p, c, layer, x, a, w->attn_out, w->attn_out_bias, w->attn_post_norm);
    add_mlp(p, c, layer, x, w);
}

static void add_head(struct plan *p, const struct model_cfg *c, const struct weights *w)
{
    uint32_t last = c->n_layers - 1;
    add_norm(p, last, SLOT_O, SLOT_O, w->out_norm, c->norm_eps);
    struct op *op = add(p, OP_LOGITS, last);
    op->src[0] = SLOT_O;
    op->n_w = 1;
    op->w[0] = w->out;
    op->logits.scale = c->logit_scale;
    op->logits.softcap = c->logit_softcap;
}

static void set_widths(struct plan *p, const struct model_cfg *c)
{
    uint32_t q = c->n_heads * c->head_dim, kv = c->n_kv_heads * c->head_dim;
    const uint32_t width[SLOT_COUNT] = {
        [SLOT_X] = c->width, [SLOT_H] = c->width, [SLOT_Y] = c->post_norms ? c->width : 0,
        [SLOT_O] = c->width, [SLOT_Q] = q, [SLOT_A] = q, [SLOT_B] = q, [SLOT_K] = kv, [SLOT_V] = kv,
        [SLOT_G] = c->ff_width, [SLOT_U] = c->ff_width,
    };
    memcpy(p->slot_width, width, sizeof(width));
}

int plan_build(struct plan **ret, const struct model_cfg *c, const struct weights *w,
               struct err *err)
{
    size_t n_max = (size_t)c->n_layers * LAYER_OPS_MAX + EDGE_OPS_MAX;
    struct plan *p = calloc(1, sizeof(*p));
    struct op *ops = calloc(n_max, sizeof(*ops));
    if (!p || !ops) {
        free(p);
        free(ops);
        return err_set(err, -ENOMEM, "no memory for a plan of %zu operations", n_max);
    }
    p->op = ops;
    set_widths(p, c);
    struct op *op = add(p, OP_EMBED, 0);
    op->dst[0] = SLOT_X;
    op->w[0] = w->embed;
    op->embed.scale = c->embed_scale;
    for (uint32_t i = 0; i < c->n_layers; i++)
        add_layer(p, c, i, &w->layer[i]);
    add_head(p, c, w);
    assert(p->n_ops <= n_max);
    *ret = p;
    return 0;
}

void plan_free(struct plan *p)
{
    if (!p)
        return;
    free(p->op);
    free(p);
}

const char *op_name(enum op_kind kind)
{
    static const char *const names[OP_KIND_COUNT] = {
        [OP_EMBED] = "embed", [OP_NORM] = "norm", [OP_MATMUL] = "matmul", [OP_ROPE] = "rope",
        [OP_KV_WRITE] = "kv_write", [OP_ATTN] = "attn", [OP_GLU] = "glu", [OP_GATHER] = "gather",
        [OP_LOGITS] = "logits", [OP_QKV_STORE] = "qkv",
    };
    return kind < OP_KIND_COUNT ? names[kind] : "?";
}

const char *slot_name(enum slot slot)
{
    static const char *const names[SLOT_COUNT] = {
        [SLOT_X] = "x", [SLOT_H] = "h", [SLOT_Q] = "q", [SLOT_K] = "k", [SLOT_V] = "v",
        [SLOT_A] = "a", [SLOT_G] = "g", [SLOT_U] = "u", [SLOT_Y] = "y", [SLOT_O] = "o",
        [SLOT_B] = "b",
    };
    return slot < SLOT_COUNT ? names[slot] : "?";
}

static const char *act_name(enum act_kind act)
{
    return act == ACT_SILU ? "silu" : "gelu";
}

// "rms(x) * weight", as far as it is normed.
static void print_normed(enum slot slot, const struct op_norm *n, struct str *out)
{
    if (n->w)
        str_printf(out, "rms(%s) * %s, eps %g", slot_name(slot), n->w->name, (double)n->eps);
    else
        str_puts(out, slot_name(slot));
}

static void print_product(const struct op *op, unsigned i, struct str *out)
{
    const struct tensor *t = op->w[i];
    bool up = i == 1 && op->flags & OP_GLU_OUT;
    if (i > 0)
        str_putc(out, ',');
    if (op->kind == OP_LOGITS)
        str_puts(out, " =");
    else if (!up)
        str_printf(out, " %s %s=", slot_name(op->dst[i]), op->flags & OP_ADD ? "+" : "");
    if (op->flags & OP_GLU_OUT)
        str_printf(out, " %s", up ? "up" : act_name(op->matmul.act));
    str_printf(out, " %s %s (%llu, %llu)%s", t->name, t->quant->name,
               (unsigned long long)t->dim[1], (unsigned long long)t->dim[0],
               op->bias[i] ? " + bias" : "");
}

static void print_matrices(const struct op *op, struct str *out)
{
    if (op->added.w) {
        str_printf(out, " %s += ", slot_name(op->src[0]));
        print_normed(op->added.slot, &op->added, out);
        str_putc(out, ';');
    }
    for (unsigned i = 0; i < op->n_w; i++)
        print_product(op, i, out);
    str_puts(out, " * ");
    print_normed(op->src[0], &op->normed, out);
}

static void print_qkv(const struct op *op, struct str *out)
{
    const struct op_norm q = { .w = op->w[0], .eps = op->rope.eps };
    const struct op_norm k = { .w = op->w[1], .eps = op->rope.eps };
    str_printf(out, " %s = rope(", slot_name(op->dst[0]));
    print_normed(op->dst[0], &q, out);
    str_puts(out, "); kv_write rope(");
    print_normed(op->src[0], &k, out);
    str_printf(out, "), %s%s", slot_name(op->src[1]), op->rope.local ? ", local" : "");
}

static void print_operands(const struct op *op, struct str *out)
{
    switch (op->kind) {
    case OP_EMBED:
        str_printf(out, " %s = %s %s[token] * %g", slot_name(op->dst[0]), op->w[0]->name,
                   op->w[0]->quant->name, (double)op->embed.scale);
        break;
    case OP_NORM:
        str_printf(out, " %s %s= rms(%s, %u) * %s, eps %g", slot_name(op->dst[0]),
                   op->flags & OP_ADD ? "+" : "", slot_name(op->src[0]), op->norm.piece,
                   op->w[0]->name, (double)op->norm.eps);
        break;
    case OP_MATMUL:
    case OP_LOGITS:
        print_matrices(op, out);
        break;
    case OP_ROPE:
        str_printf(out, " %s, %s%s", slot_name(op->dst[0]), slot_name(op->dst[1]),
                   op->rope.local ? ", local" : "");
        break;
    case OP_KV_WRITE:
        str_printf(out, " %s, %s", slot_name(op->src[0]), slot_name(op->src[1]));
        break;
    case OP_ATTN:
        str_printf(out, " %s = attention(%s), scale %g", slot_name(op->dst[0]),
                   slot_name(op->src[0]), (double)op->attn.scale);
        if (op->attn.window)
            str_printf(out, ", window %u", op->attn.window);
        if (op->attn.softcap > 0.0f)
            str_printf(out, ", softcap %g", (double)op->attn.softcap);
        break;
    case OP_GLU:
        str_printf(out, " %s = %s(%s) * %s", slot_name(op->dst[0]),
                   act_name(op->glu.act), slot_name(op->src[0]), slot_name(op->src[1]));
        break;
    case OP_GATHER:
        for (unsigned i = 0; i < op->n_w; i++)
            str_printf(out, "%s %s = output rows of %s", i ? "," : "", slot_name(op->dst[i]),
                       slot_name(op->src[i]));
        break;
    case OP_QKV_STORE:
        print_qkv(op, out);
        break;
    case OP_KIND_COUNT:
        break;
    }
}

void plan_print(const struct plan *p, struct str *out)
{
    for (uint32_t i = 0; i < p->n_ops; i++) {
        str_printf(out, "%4u layer %3u %-8s", i, p->op[i].layer, op_name(p->op[i].kind));
        print_operands(&p->op[i], out);
        str_putc(out, '\n');
    }
}
