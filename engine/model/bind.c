// Names to struct fields: a table of expected tensors with their shapes.
#include "engine/model/bind.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NAME_MAX_BYTES 96

enum dim { D_NONE, D_WIDTH, D_Q, D_KV, D_HEAD, D_FF };      // sizes that cfg gives

static uint64_t dim_of(const struct model_cfg *c, enum dim d)
{
    switch (d) {
    case D_NONE:  return 1;
    case D_WIDTH: return c->width;
    case D_Q:     return (uint64_t)c->n_heads * c->head_dim;
    case D_KV:    return (uint64_t)c->n_kv_heads * c->head_dim;
    case D_HEAD:  return c->head_dim;
    case D_FF:    return c->ff_width;
    }
    return 0;
}

enum need { NEED, OPTIONAL, IF_QK_NORM, IF_POST_NORMS };

struct row {                        // one tensor of a layer
    const char *name;               // after "blk.N."
    size_t      offset;             // in struct layer_weights
    enum dim    in, out;            // out D_NONE: a vector
    enum need   need;
};

#define AT(field) offsetof(struct layer_weights, field)
static const struct row layer_rows[] = {
    { "attn_norm.weight",           AT(attn_norm),      D_WIDTH, D_NONE,  NEED },
    { "attn_q.weight",              AT(q),              D_WIDTH, D_Q,     NEED },
    { "attn_q.bias",                AT(q_bias),         D_Q,     D_NONE,  OPTIONAL },
    { "attn_k.weight",              AT(k),              D_WIDTH, D_KV,    NEED },
    { "attn_k.bias",                AT(k_bias),         D_KV,    D_NONE,  OPTIONAL },
    { "attn_v.weight",              AT(v),              D_WIDTH, D_KV,    NEED },
    { "attn_v.bias",                AT(v_bias),         D_KV,    D_NONE,  OPTIONAL },
    { "attn_q_norm.weight",         AT(q_norm),         D_HEAD,  D_NONE,  IF_QK_NORM },
    { "attn_k_norm.weight",         AT(k_norm),         D_HEAD,  D_NONE,  IF_QK_NORM },
    { "attn_output.weight",         AT(attn_out),       D_Q,     D_WIDTH, NEED },
    { "attn_output.bias",           AT(attn_out_bias),  D_WIDTH, D_NONE,  OPTIONAL },
    { "post_attention_norm.weight", AT(attn_post_norm), D_WIDTH, D_NONE,  IF_POST_NORMS },
    { "ffn_norm.weight",            AT(ff_norm),        D_WIDTH, D_NONE,  NEED },
    { "ffn_gate.weight",            AT(ff_gate),        D_WIDTH, D_FF,    NEED },
    { "ffn_up.weight",              AT(ff_up),          D_WIDTH, D_FF,    NEED },
    { "ffn_down.weight",            AT(ff_down),        D_FF,    D_WIDTH, NEED },
    { "post_ffw_norm.weight",       AT(ff_post_norm),   D_WIDTH, D_NONE,  IF_POST_NORMS },
};
#undef AT

static int check_shape(const struct tensor *t, uint64_t in, uint64_t out, struct err *err)
{
    if (t->dim[0] == in && t->dim[1] == out && t->dim[2] == 1 && t->dim[3] == 1)
        return 0;
    return err_set(err, -EINVAL, "tensor %s: shape %llu x %llu, not %llu x %llu", t->name,
                   (unsigned long long)t->dim[0], (unsigned long long)t->dim[1],
                   (unsigned long long)in, (unsigned long long)out);
}

// Vectors are read as float32 everywhere.
static int check_vector(const struct tensor *t, struct err *err)
{
    if (t->quant == &quants[QUANT_f32])
        return 0;
    return err_set(err, -ENOTSUP, "tensor %s: a vector in %s", t->name, t->quant->name);
}

static int find(const struct gguf *g, const char *name, uint64_t in, uint64_t out, bool needed,
                const struct tensor **ret, struct err *err)
{
    const struct tensor *t = gguf_tensor(g, name);
    if (!t)
        return needed ? err_set(err, -EINVAL, "tensor %s is missing", name) : 0;
    int r = check_shape(t, in, out, err);
    if (!r && out == 1)
        r = check_vector(t, err);
    if (!r)
        *ret = t;
    return r;
}

static bool needed(const struct model_cfg *c, enum need need)
{
    return need == NEED || (need == IF_QK_NORM && c->qk_norm)
        || (need == IF_POST_NORMS && c->post_norms);
}

// A tensor that would change the model's output but that these properties do not use.
static int check_unused(const struct gguf *g, const struct model_cfg *c, const struct row *row,
                        const char *name, struct err *err)
{
    bool unused = (row->need == IF_QK_NORM && !c->qk_norm)
               || (row->need == IF_POST_NORMS && !c->post_norms);
    if (unused && gguf_tensor(g, name))
        return err_set(err, -ENOTSUP, "tensor %s is not used by architecture %s", name, c->arch);
    return 0;
}

static int bind_layer(const struct gguf *g, const struct model_cfg *c, uint32_t layer,
                      struct layer_weights *lw, struct err *err)
{
    for (size_t i = 0; i < ARRAY_LEN(layer_rows); i++) {
        const struct row *row = &layer_rows[i];
        char name[NAME_MAX_BYTES];
        snprintf(name, sizeof(name), "blk.%u.%s", layer, row->name);
        const struct tensor **field = (const struct tensor **)(void *)((char *)lw + row->offset);
        int r = check_unused(g, c, row, name, err);
        if (!r)
            r = find(g, name, dim_of(c, row->in), dim_of(c, row->out), needed(c, row->need), field,
                     err);
        if (r)
            return r;
    }
    return 0;
}

static int bind_embed(const struct gguf *g, struct model_cfg *c, struct weights *w, struct err *err)
{
    const struct tensor *t = gguf_tensor(g, "token_embd.weight");
    if (!t)
        return err_set(err, -EINVAL, "tensor token_embd.weight is missing");
    if (t->dim[1] < 1 || t->dim[1] > VOCAB_MAX)
        return err_set(err, -EINVAL, "tensor %s: a vocabulary of %llu", t->name,
                       (unsigned long long)t->dim[1]);
    int r = check_shape(t, c->width, t->dim[1], err);
    if (r)
        return r;
    c->n_vocab = (uint32_t)t->dim[1];
    w->embed = w->out = t;          // tied unless the file has an output matrix
    return find(g, "output.weight", c->width, c->n_vocab, false, &w->out, err);
}

int model_bind(const struct gguf *g, struct model_cfg *cfg, struct weights *ret, struct err *err)
{
    struct weights w = { 0 };
    int r = bind_embed(g, cfg, &w, err);
    if (!r)
        r = find(g, "output_norm.weight", cfg->width, 1, true, &w.out_norm, err);
    if (!r)
        r = find(g, "rope_freqs.weight", cfg->rope.n_rot / 2, 1, false, &w.rope_freqs, err);
    if (r)
        return r;
    w.layer = calloc(cfg->n_layers, sizeof(*w.layer));
    if (!w.layer)
        return err_set(err, -ENOMEM, "no memory for %u layers", cfg->n_layers);
    for (uint32_t i = 0; i < cfg->n_layers && !r; i++)
        r = bind_layer(g, cfg, i, &w.layer[i], err);
    if (r)
        free(w.layer);
    else
        *ret = w;
    return r;
}
