// How one KV block lies in memory: sizes and offsets, shared by pool, executors and store.
//
//   block  = digests of layer 0, of layer 1, ... | page of layer 0 | page of layer 1 | ...
//   digests of a layer: of KV head 0 | of KV head 1 | ...
//   page   = KV head 0 (K slice, V slice) | KV head 1 | ...
//
// That is a block as it is moved and stored; an executor may keep digests and pages apart. Digests
// come first and in one piece, so that those of a stored block can be read without its pages. A
// slice holds KV_BLOCK_TOKENS rows of head_dim elements. The order of the elements inside a slice
// is the executor's own (the CPU keeps K transposed); it is part of layout_version and so of
// every content key.
#pragma once
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"
#include "engine/model/cfg.h"

enum kv_type { KV_F32 /* --exact */, KV_F16, KV_Q8_0, KV_TYPE_COUNT };

#define KV_Q8_GROUP 32              // elements of a q8_0 KV row that share a float16 scale

struct kv_layout {
    enum kv_type k_type, v_type;
    uint32_t n_layers, n_kv_heads, head_dim;
    uint32_t layout_version;        // of the executor
    size_t   k_slice_bytes, v_slice_bytes;  // multiples of 64
    size_t   head_bytes;            // K slice + V slice
    size_t   digest_head_bytes;     // float16 mean key (head_dim), multiple of 64
    size_t   page_bytes;            // of a layer: n_kv_heads * head_bytes
    size_t   digest_layer_bytes;    // n_kv_heads * digest_head_bytes
    size_t   digest_bytes;          // of all layers
    size_t   block_bytes;           // digest_bytes + n_layers * page_bytes
};

// Returns 0 or -EINVAL (head_dim not a multiple of KV_Q8_GROUP for q8_0) or -EOVERFLOW.
int kv_layout_init(struct kv_layout *l, const struct model_cfg *cfg, enum kv_type k_type,
                   enum kv_type v_type, uint32_t layout_version, struct err *err);

// Inside a block.
static inline size_t kv_page_offset(const struct kv_layout *l, uint32_t layer)
{
    return l->digest_bytes + layer * l->page_bytes;
}

// Inside a page.
static inline size_t kv_k_offset(const struct kv_layout *l, uint32_t head)
{
    return head * l->head_bytes;
}

static inline size_t kv_v_offset(const struct kv_layout *l, uint32_t head)
{
    return head * l->head_bytes + l->k_slice_bytes;
}

// Inside the digests of a block, with which it begins.
static inline size_t kv_digest_offset(const struct kv_layout *l, uint32_t layer, uint32_t head)
{
    return layer * l->digest_layer_bytes + head * l->digest_head_bytes;
}

const char *kv_type_name(enum kv_type t);
int         kv_type_parse(const char *name, enum kv_type *ret);     // -EINVAL: unknown
