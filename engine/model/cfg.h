// What a model is, as properties. The plan is built from these and never from the architecture's
// name.
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "engine/limits.h"

enum rope_kind { ROPE_NONE, ROPE_ADJACENT /* (2i, 2i+1) */, ROPE_HALVES /* (i, i+n/2) */ };
enum rope_scaling { ROPE_SCALING_NONE, ROPE_SCALING_LINEAR, ROPE_SCALING_YARN };
enum act_kind { ACT_SILU, ACT_GELU_TANH };

struct rope_cfg {
    enum rope_kind    kind;
    uint32_t          n_rot;            // rotated dimensions of a head, even
    float             base;
    enum rope_scaling scaling;
    float             factor;           // 1 without scaling
    float             attn_factor;      // YaRN magnitude
    float             beta_fast, beta_slow;
    uint32_t          orig_ctx_tokens;
};

struct model_cfg {
    char     arch[32];
    char     name[128];
    uint32_t n_layers, n_ctx_train, n_vocab;
    uint32_t width;                     // of the residual stream
    uint32_t n_heads, n_kv_heads, head_dim;
    uint32_t ff_width;
    float    norm_eps;
    struct rope_cfg rope;               // of global layers
    struct rope_cfg rope_local;         // of layers with a window
    // Layer i attends to a window of `window` tokens (itself included) when window_period > 0 and
    // i % window_period != window_period - 1; window_period 1 with a window: every layer.
    uint32_t window, window_period;
    float    embed_scale;               // 1: none
    float    attn_scale;                // of q.k
    float    residual_scale, logit_scale;   // 1: none
    float    attn_softcap, logit_softcap;   // 0: none
    enum act_kind act;
    bool     qk_norm;                   // RMSNorm of each q and k head before RoPE
    bool     post_norms;                // RMSNorm after attention and MLP, before the residual add
};

struct gguf;
struct err;

// Reads the common keys, then lets the architecture's row say what it does differently. n_vocab is
// left 0: it is the embedding's height. Every number is inside the ranges of limits.h afterwards.
// Returns 0, -ENOTSUP (architecture or feature, named), -EINVAL (key missing or out of range,
// named).
int model_cfg_read(const struct gguf *g, struct model_cfg *ret, struct err *err);

// True when layer i has the window.
static inline bool cfg_is_local(const struct model_cfg *c, uint32_t i)
{
    if (!c->window)
        return false;
    return c->window_period <= 1 || i % c->window_period != c->window_period - 1;
}
