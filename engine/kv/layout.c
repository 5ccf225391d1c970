// Sizes of a KV block from the model's dimensions and the KV types.
#include <errno.h>
#include <string.h>
#include "engine/kv/layout.h"
#include "base/base.h"

static const char *const type_name[KV_TYPE_COUNT] = {"f32", "f16", "q8_0"};

// KV_BLOCK_TOKENS rows of head_dim elements, rounded up so that every slice starts on a cache line.
static bool slice_bytes(enum kv_type t, size_t head_dim, size_t *ret)
{
    size_t row = 0;
    switch (t) {
    case KV_F32: row = head_dim * 4; break;
    case KV_F16: row = head_dim * 2; break;
    case KV_Q8_0: row = head_dim + head_dim / KV_Q8_GROUP * 2; break;
    case KV_TYPE_COUNT: assert(!"no KV type");
    }
    return mul_size(row, KV_BLOCK_TOKENS, &row) && align_size(row, 64, ret);
}

int kv_layout_init(struct kv_layout *l, const struct model_cfg *cfg, enum kv_type k_type,
                   enum kv_type v_type, uint32_t layout_version, struct err *err)
{
    assert(k_type < KV_TYPE_COUNT && v_type < KV_TYPE_COUNT);
    assert(cfg->head_dim > 0 && cfg->head_dim <= HEAD_DIM_MAX);
    if ((k_type == KV_Q8_0 || v_type == KV_Q8_0) && cfg->head_dim % KV_Q8_GROUP != 0)
        return err_set(err, -EINVAL, "KV type q8_0 needs heads of a multiple of %d, not %u",
                       KV_Q8_GROUP, cfg->head_dim);
    struct kv_layout r = {
        .k_type = k_type, .v_type = v_type,
        .n_layers = cfg->n_layers, .n_kv_heads = cfg->n_kv_heads, .head_dim = cfg->head_dim,
        .layout_version = layout_version,
    };
    size_t pages;
    bool fits = slice_bytes(k_type, cfg->head_dim, &r.k_slice_bytes) &&
                slice_bytes(v_type, cfg->head_dim, &r.v_slice_bytes) &&
                add_size(r.k_slice_bytes, r.v_slice_bytes, &r.head_bytes) &&
                align_size((size_t)cfg->head_dim * 2, 64, &r.digest_head_bytes) &&
                mul_size(r.head_bytes, cfg->n_kv_heads, &r.page_bytes) &&
                mul_size(r.digest_head_bytes, cfg->n_kv_heads, &r.digest_layer_bytes) &&
                mul_size(r.digest_layer_bytes, cfg->n_layers, &r.digest_bytes) &&
                mul_size(r.page_bytes, cfg->n_layers, &pages) &&
                add_size(r.digest_bytes, pages, &r.block_bytes);
    if (!fits)
        return err_set(err, -EOVERFLOW, "the size of a KV block overflows");
    *l = r;
    return 0;
}

const char *kv_type_name(enum kv_type t)
{
    assert(t < KV_TYPE_COUNT);
    return type_name[t];
}

int kv_type_parse(const char *name, enum kv_type *ret)
{
    for (int i = 0; i < KV_TYPE_COUNT; i++) {
        if (strcmp(name, type_name[i]) == 0) {
            *ret = (enum kv_type)i;
            return 0;
        }
    }
    return -EINVAL;
}
