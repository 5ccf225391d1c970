// Common metadata keys to model_cfg. Everything is ranged here, once; later code trusts it.
#include "engine/model/cfg.h"
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include "engine/model/arch/arch.h"

#define KEY_MAX 128

struct reader {                     // one key prefix, one error
    const struct gguf *g;
    const char        *arch;
    struct err        *err;
    int                r;           // first failure; later reads do nothing
    char               key[KEY_MAX];
};

static const char *key_of(struct reader *rd, const char *name)
{
    snprintf(rd->key, sizeof(rd->key), "%s.%s", rd->arch, name);
    return rd->key;
}

static void missing(struct reader *rd)
{
    rd->r = err_set(rd->err, -EINVAL, "metadata key %s is missing", rd->key);
}

// The optional readers leave *ret as it is where the key is absent.
static bool opt_u32(struct reader *rd, const char *name, uint32_t lo, uint32_t hi, uint32_t *ret)
{
    if (rd->r)
        return false;
    int r = gguf_u32(rd->g, key_of(rd, name), lo, hi, ret, rd->err);
    if (r && r != -ENOENT)
        rd->r = r;
    return r == 0;
}

static bool opt_f32(struct reader *rd, const char *name, float lo, float hi, float *ret)
{
    if (rd->r)
        return false;
    float v;
    int r = gguf_f32(rd->g, key_of(rd, name), &v, rd->err);
    if (r == 0 && !(v >= lo && v <= hi))
        r = err_set(rd->err, -EINVAL, "metadata key %s: %g is outside %g..%g", rd->key, (double)v,
                    (double)lo, (double)hi);
    if (r && r != -ENOENT)
        rd->r = r;
    if (r == 0)
        *ret = v;
    return r == 0;
}

static void need_u32(struct reader *rd, const char *name, uint32_t lo, uint32_t hi, uint32_t *ret)
{
    if (!rd->r && !opt_u32(rd, name, lo, hi, ret) && !rd->r)
        missing(rd);
}

// A number, or an array with the same number for every layer.
static void need_uniform_u32(struct reader *rd, const char *name, uint32_t lo, uint32_t hi,
                             uint32_t *ret)
{
    struct gguf_array a;
    if (rd->r)
        return;
    if (gguf_get_array(rd->g, key_of(rd, name), &a, NULL) != 0) {
        need_u32(rd, name, lo, hi, ret);
        return;
    }
    if (a.type == GGUF_F32 || a.type == GGUF_F64 || a.type == GGUF_STRING || a.n == 0) {
        rd->r = err_set(rd->err, -EINVAL, "metadata key %s: not an array of integers", rd->key);
        return;
    }
    int64_t v = gguf_array_int(&a, 0);
    for (size_t i = 1; i < a.n; i++) {
        if (gguf_array_int(&a, i) != v) {
            rd->r = err_set(rd->err, -ENOTSUP, "metadata key %s differs between layers", rd->key);
            return;
        }
    }
    if (v < (int64_t)lo || v > (int64_t)hi)
        rd->r = err_set(rd->err, -EINVAL, "metadata key %s: %lld is outside %u..%u", rd->key,
                        (long long)v, lo, hi);
    else
        *ret = (uint32_t)v;
}

static void read_heads(struct reader *rd, struct model_cfg *c)
{
    need_uniform_u32(rd, "attention.head_count", 1, HEADS_MAX, &c->n_heads);
    c->n_kv_heads = c->n_heads;
    if (!rd->r && gguf_u32(rd->g, key_of(rd, "attention.head_count_kv"), 0, UINT32_MAX,
                           &c->n_kv_heads, NULL) != -ENOENT)
        need_uniform_u32(rd, "attention.head_count_kv", 1, HEADS_MAX, &c->n_kv_heads);
    if (rd->r)
        return;
    c->head_dim = c->width / c->n_heads;
    uint32_t v_dim;
    opt_u32(rd, "attention.key_length", 1, HEAD_DIM_MAX, &c->head_dim);
    v_dim = c->head_dim;
    opt_u32(rd, "attention.value_length", 1, HEAD_DIM_MAX, &v_dim);
    if (rd->r)
        return;
    if (v_dim != c->head_dim)
        rd->r = err_set(rd->err, -ENOTSUP, "value heads of %u beside key heads of %u", v_dim,
                        c->head_dim);
    else if (c->head_dim == 0 || c->head_dim > HEAD_DIM_MAX || c->head_dim % 2 != 0)
        rd->r = err_set(rd->err, -EINVAL, "head dimension %u is not an even number up to %u",
                        c->head_dim, HEAD_DIM_MAX);
    else if (c->n_heads % c->n_kv_heads != 0)
        rd->r = err_set(rd->err, -EINVAL, "%u query heads do not divide into %u KV heads",
                        c->n_heads, c->n_kv_heads);
    c->attn_scale = 1.0f / sqrtf((float)c->head_dim);
    opt_f32(rd, "attention.scale", 0.0f, 1e6f, &c->attn_scale);
}

static void read_rope_scaling(struct reader *rd, struct rope_cfg *p)
{
    struct gguf_str type;
    p->factor = p->attn_factor = 1.0f;
    p->beta_fast = 32.0f;
    p->beta_slow = 1.0f;
    if (opt_f32(rd, "rope.scale_linear", 1e-6f, 1e6f, &p->factor) && p->factor != 1.0f)
        p->scaling = ROPE_SCALING_LINEAR;
    if (rd->r || gguf_string(rd->g, key_of(rd, "rope.scaling.type"), &type, NULL) != 0)
        return;
    if (type.n == 6 && memcmp(type.p, "linear", 6) == 0)
        p->scaling = ROPE_SCALING_LINEAR;
    else if (type.n == 4 && memcmp(type.p, "yarn", 4) == 0)
        p->scaling = ROPE_SCALING_YARN;
    else if (!(type.n == 4 && memcmp(type.p, "none", 4) == 0))
        rd->r = err_set(rd->err, -ENOTSUP, "RoPE scaling '%.*s'", (int)MIN(type.n, (size_t)32),
                        type.p);
    opt_f32(rd, "rope.scaling.factor", 1e-6f, 1e6f, &p->factor);
    opt_f32(rd, "rope.scaling.attn_factor", 1e-6f, 1e6f, &p->attn_factor);
    opt_f32(rd, "rope.scaling.yarn_beta_fast", 0.0f, 1e6f, &p->beta_fast);
    opt_f32(rd, "rope.scaling.yarn_beta_slow", 0.0f, 1e6f, &p->beta_slow);
    opt_u32(rd, "rope.scaling.original_context_length", 1, CTX_MAX, &p->orig_ctx_tokens);
}

static void read_rope(struct reader *rd, struct model_cfg *c)
{
    struct rope_cfg *p = &c->rope;
    p->n_rot = c->head_dim;
    p->base = 10000.0f;
    p->orig_ctx_tokens = c->n_ctx_train;
    opt_u32(rd, "rope.dimension_count", 2, HEAD_DIM_MAX, &p->n_rot);
    opt_f32(rd, "rope.freq_base", 1.0f, 1e12f, &p->base);
    read_rope_scaling(rd, p);
    if (!rd->r && (p->n_rot > c->head_dim || p->n_rot % 2 != 0))
        rd->r = err_set(rd->err, -EINVAL, "RoPE over %u of %u dimensions", p->n_rot, c->head_dim);
}

static void read_scales(struct reader *rd, struct model_cfg *c)
{
    c->embed_scale = c->residual_scale = c->logit_scale = 1.0f;
    opt_f32(rd, "embedding_scale", 1e-6f, 1e6f, &c->embed_scale);
    opt_f32(rd, "residual_scale", 1e-6f, 1e6f, &c->residual_scale);
    opt_f32(rd, "logit_scale", 1e-6f, 1e6f, &c->logit_scale);
    opt_f32(rd, "attn_logit_softcapping", 0.0f, 1e6f, &c->attn_softcap);
    opt_f32(rd, "final_logit_softcapping", 0.0f, 1e6f, &c->logit_softcap);
}

static void read_window(struct reader *rd, struct model_cfg *c)
{
    struct gguf_array a;
    opt_u32(rd, "attention.sliding_window", 0, CTX_MAX, &c->window);
    if (rd->r)
        return;
    if (gguf_get_array(rd->g, key_of(rd, "attention.sliding_window_pattern"), &a, NULL) == 0)
        rd->r = err_set(rd->err, -ENOTSUP, "%s as a list", rd->key);
    else
        opt_u32(rd, "attention.sliding_window_pattern", 0, LAYERS_MAX, &c->window_period);
}

static void read_sizes(struct reader *rd, struct model_cfg *c)
{
    need_u32(rd, "block_count", 1, LAYERS_MAX, &c->n_layers);
    need_u32(rd, "context_length", 1, CTX_MAX, &c->n_ctx_train);
    need_u32(rd, "embedding_length", 1, 1u << 20, &c->width);
    need_uniform_u32(rd, "feed_forward_length", 1, 1u << 24, &c->ff_width);
    c->norm_eps = -1.0f;
    if (!opt_f32(rd, "attention.layer_norm_rms_epsilon", 0.0f, 1.0f, &c->norm_eps) && !rd->r)
        missing(rd);
}

int model_cfg_read(const struct gguf *g, struct model_cfg *ret, struct err *err)
{
    struct model_cfg c = { 0 };
    struct gguf_str s;
    int r = gguf_string(g, "general.architecture", &s, err);
    if (r == -ENOENT)
        return err_set(err, -EINVAL, "metadata key general.architecture is missing");
    if (r)
        return r;
    const struct arch *arch = arch_find(s.p, s.n);
    if (!arch)
        return err_set(err, -ENOTSUP, "architecture '%.*s' is not supported",
                       (int)MIN(s.n, (size_t)64), s.p);
    snprintf(c.arch, sizeof(c.arch), "%s", arch->name);
    if (gguf_string(g, "general.name", &s, NULL) == 0)
        snprintf(c.name, sizeof(c.name), "%.*s", (int)MIN(s.n, sizeof(c.name) - 1), s.p);

    struct reader rd = { .g = g, .arch = arch->name, .err = err };
    read_sizes(&rd, &c);
    read_heads(&rd, &c);
    read_rope(&rd, &c);
    read_scales(&rd, &c);
    read_window(&rd, &c);
    if (rd.r)
        return rd.r;
    r = arch->configure(g, &c, err);
    if (r)
        return r;
    if (c.rope_local.kind == ROPE_NONE)
        c.rope_local = c.rope;
    *ret = c;
    return 0;
}
