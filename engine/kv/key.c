// Content keys over explicitly encoded fields: no padding and no byte order of the machine gets in.
#include "engine/kv/key.h"
#include "base/base.h"

static void put_u32(uint8_t b[4], uint32_t v)
{
    b[0] = (uint8_t)v;
    b[1] = (uint8_t)(v >> 8);
    b[2] = (uint8_t)(v >> 16);
    b[3] = (uint8_t)(v >> 24);
}

static void add_u32(struct hash_state *s, uint32_t v)
{
    uint8_t b[4];
    put_u32(b, v);
    hash_add(s, b, sizeof b);
}

static void add_u64(struct hash_state *s, uint64_t v)
{
    add_u32(s, (uint32_t)v);
    add_u32(s, (uint32_t)(v >> 32));
}

static void add_layout(struct hash_state *s, const struct kv_layout *l)
{
    add_u32(s, l->k_type);
    add_u32(s, l->v_type);
    add_u32(s, l->n_layers);
    add_u32(s, l->n_kv_heads);
    add_u32(s, l->head_dim);
    add_u32(s, l->layout_version);
    add_u64(s, l->k_slice_bytes);
    add_u64(s, l->v_slice_bytes);
    add_u64(s, l->digest_head_bytes);
    add_u64(s, l->block_bytes);
}

void kv_key_root(const struct kv_identity *id, struct hash *ret)
{
    static const char tag[] = "godwit kv root 2";
    struct hash_state s;
    hash_start(&s);
    hash_add(&s, tag, sizeof tag);
    add_u32(&s, KV_BLOCK_TOKENS);
    hash_add(&s, id->model.b, HASH_BYTES);
    add_layout(&s, &id->layout);
    for (size_t i = 0; i < ARRAY_LEN(id->attn); i++)
        add_u32(&s, id->attn[i]);
    hash_add(&s, id->executor.b, HASH_BYTES);
    add_u32(&s, id->exact);
    hash_add(&s, id->salt.b, HASH_BYTES);
    hash_end(&s, ret);
}

void kv_key_next(const struct hash *parent, uint32_t pos, const int32_t *token, struct hash *ret)
{
    static const char tag[] = "godwit kv block 1";
    struct hash_state s;
    hash_start(&s);
    hash_add(&s, tag, sizeof tag);
    hash_add(&s, parent->b, HASH_BYTES);
    add_u32(&s, pos);
    uint8_t text[KV_BLOCK_TOKENS * 4];
    for (uint32_t i = 0; i < KV_BLOCK_TOKENS; i++)
        put_u32(&text[i * 4], (uint32_t)token[i]);
    hash_add(&s, text, sizeof text);
    hash_end(&s, ret);
}
