// Content keys: what a block's bytes are a function of, hashed.
//
// A key chains over all tokens before the block, so equal keys mean equal text from the start, the
// same model, the same layout, the same attention and the same owner. Anything else is a miss.
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "base/hash.h"
#include "engine/kv/layout.h"

struct kv_identity {                    // all but the tokens
    struct hash      model;             // fingerprint
    struct kv_layout layout;
    uint32_t         attn[4];           // policy in force: selector, budget, window, sinks
    struct hash      executor;          // whose arithmetic gave its bits
    bool             exact;
    struct hash      salt;              // of the tenant
};

// The parent of every first block.
void kv_key_root(const struct kv_identity *id, struct hash *ret);
// The key of the block that holds token[0..KV_BLOCK_TOKENS) from position pos on.
void kv_key_next(const struct hash *parent, uint32_t pos, const int32_t *token, struct hash *ret);
