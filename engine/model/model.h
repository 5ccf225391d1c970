// A loaded model: configuration, named tensors, vocabulary, chat template and the plan. Immutable
// after model_open; shared freely between threads.
#pragma once
#include "base/err.h"
#include "base/hash.h"
#include "engine/model/cfg.h"
#include "engine/model/gguf.h"

struct plan;

struct layer_weights {                  // all borrowed from the file; NULL where the model has none
    const struct tensor *attn_norm;     // (width)
    const struct tensor *q, *q_bias;    // (n_heads * head_dim, width), (n_heads * head_dim)
    const struct tensor *k, *k_bias;    // (n_kv_heads * head_dim, width), ...
    const struct tensor *v, *v_bias;
    const struct tensor *q_norm, *k_norm;   // (head_dim)
    const struct tensor *attn_out, *attn_out_bias;  // (width, n_heads * head_dim), (width)
    const struct tensor *attn_post_norm;    // (width)
    const struct tensor *ff_norm;       // (width)
    const struct tensor *ff_gate, *ff_up;   // (ff_width, width)
    const struct tensor *ff_down;       // (width, ff_width)
    const struct tensor *ff_post_norm;  // (width)
};

struct weights {
    const struct tensor  *embed;        // (n_vocab, width)
    const struct tensor  *out_norm;     // (width)
    const struct tensor  *out;          // (n_vocab, width); == embed when tied
    const struct tensor  *rope_freqs;   // (n_rot / 2) divisors, or NULL
    struct layer_weights *layer;        // (n_layers), owned by the model
};

struct model {
    struct gguf      *file;             // owned
    struct model_cfg  cfg;
    struct weights    weights;
    struct plan      *plan;             // owned
    struct hash       fingerprint;      // of metadata, tensor directory and configuration in force
};

// Opens a model file: configuration by its architecture row, tensors bound and their shapes
// checked, plan built. Weights are not touched yet. On failure *ret is untouched.
// Returns 0, errors of gguf_open, -ENOTSUP (unknown architecture), -EINVAL (a wrong or missing
// tensor or metadata key; err names it).
int  model_open(struct model **ret, const char *path, struct err *err);
void model_close(struct model *m);      // NULL is fine
