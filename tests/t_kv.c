// KV blocks: sizes, the pool's references and cache, tables against a naive model, and that every
// part of a block's identity makes its key another one.
#include "tests/test.h"
#include <errno.h>
#include "engine/kv/key.h"
#include "engine/kv/layout.h"
#include "engine/kv/table.h"
#include "base/base.h"

// ---- layout ----

TEST(layout_sizes)
{
    struct model_cfg cfg = {.n_layers = 3, .n_kv_heads = 2, .head_dim = 96};
    struct kv_layout l;
    struct err e;
    REQUIRE_OK(kv_layout_init(&l, &cfg, KV_F16, KV_Q8_0, 7, &e), e);
    REQUIRE_INT(l.k_slice_bytes, 64 * 96 * 2);
    REQUIRE_INT(l.v_slice_bytes, 64 * (96 + 3 * 2));
    REQUIRE_INT(l.digest_head_bytes, 192);
    REQUIRE_INT(l.page_bytes, 2 * (l.k_slice_bytes + l.v_slice_bytes));
    REQUIRE_INT(l.digest_bytes, 3 * 2 * 192);
    REQUIRE_INT(l.block_bytes, l.digest_bytes + 3 * l.page_bytes);
    // one part ends where the next one begins, and the last one with the block
    REQUIRE_INT(kv_digest_offset(&l, 2, 1) + l.digest_head_bytes, kv_page_offset(&l, 0));
    REQUIRE_INT(kv_page_offset(&l, 2) + l.page_bytes, l.block_bytes);
    REQUIRE_INT(kv_v_offset(&l, 1) + l.v_slice_bytes, l.page_bytes);
    REQUIRE_INT(kv_v_offset(&l, 1) - kv_k_offset(&l, 1), l.k_slice_bytes);
    cfg.head_dim = 80;
    REQUIRE_INT(kv_layout_init(&l, &cfg, KV_F16, KV_Q8_0, 7, &e), -EINVAL);
    REQUIRE_INT(l.head_dim, 96);
    REQUIRE_OK(kv_layout_init(&l, &cfg, KV_F16, KV_F32, 7, &e), e);
}

TEST(layout_type_names)
{
    for (int t = 0; t < KV_TYPE_COUNT; t++) {
        enum kv_type got = KV_TYPE_COUNT;
        REQUIRE_INT(kv_type_parse(kv_type_name(t), &got), 0);
        REQUIRE_INT(got, t);
    }
    enum kv_type t = KV_F16;
    REQUIRE_INT(kv_type_parse("q4_0", &t), -EINVAL);
    REQUIRE_INT(t, KV_F16);
}

// ---- keys ----

static void key_of(const struct kv_identity *id, uint32_t pos, const int32_t *token,
                   struct hash *ret)
{
    struct hash root;
    kv_key_root(id, &root);
    kv_key_next(&root, pos, token, ret);
}

static void fill_tokens(int32_t *token, int32_t first)
{
    for (int i = 0; i < KV_BLOCK_TOKENS; i++)
        token[i] = first + i;
}

TEST(key_depends_on_everything)
{
    struct model_cfg cfg = {.n_layers = 3, .n_kv_heads = 2, .head_dim = 96};
    struct kv_identity base = {.attn = {1, 4096, 512, 64}};
    struct err e;
    REQUIRE_OK(kv_layout_init(&base.layout, &cfg, KV_F16, KV_F16, 1, &e), e);
    int32_t token[KV_BLOCK_TOKENS];
    fill_tokens(token, 100);

    struct kv_identity v[16];
    unsigned n = 0;
    for (unsigned i = 0; i < ARRAY_LEN(v); i++)
        v[i] = base;
    v[n++].model.b[31] ^= 1;
    v[n++].salt.b[0] ^= 1;
    v[n++].executor.b[7] ^= 1;
    v[n++].exact = true;
    v[n++].layout.k_type = KV_Q8_0;
    v[n++].layout.v_type = KV_Q8_0;
    v[n++].layout.layout_version++;
    v[n++].layout.n_layers++;
    v[n++].layout.n_kv_heads++;
    v[n++].layout.head_dim++;
    v[n++].layout.block_bytes++;
    for (unsigned i = 0; i < ARRAY_LEN(base.attn); i++)
        v[n++].attn[i]++;

    struct kv_pool *p;
    REQUIRE_OK(kv_pool_create(&p, 4, &e), e);
    struct hash key, other;
    key_of(&base, 0, token, &key);
    uint32_t b = kv_pool_take(p);
    REQUIRE(kv_pool_publish(p, b, &key, token));
    for (unsigned i = 0; i < n; i++) {
        key_of(&v[i], 0, token, &other);
        REQUIRE_INT(kv_pool_find(p, &other, token), KV_BLOCK_NONE);
    }
    key_of(&base, 64, token, &other);
    REQUIRE_INT(kv_pool_find(p, &other, token), KV_BLOCK_NONE);
    for (int i = 0; i < KV_BLOCK_TOKENS; i++) {
        token[i] ^= 1 << (i % 20);
        key_of(&base, 0, token, &other);
        REQUIRE_INT(kv_pool_find(p, &other, token), KV_BLOCK_NONE);
        // the same key with other tokens: what a collision would look like
        REQUIRE_INT(kv_pool_find(p, &key, token), KV_BLOCK_NONE);
        token[i] ^= 1 << (i % 20);
    }
    struct hash parent = key;
    kv_key_next(&parent, 0, token, &other);
    REQUIRE_INT(kv_pool_find(p, &other, token), KV_BLOCK_NONE);
    // nothing changed: a hit
    key_of(&base, 0, token, &other);
    REQUIRE_INT(kv_pool_find(p, &other, token), b);
    REQUIRE_INT(kv_pool_refs(p, b), 2);
    kv_pool_destroy(p);
}

// ---- pool ----

static struct kv_pool *new_pool(uint32_t n)
{
    struct kv_pool *p = NULL;
    struct err e;
    REQUIRE_OK(kv_pool_create(&p, n, &e), e);
    return p;
}

static void publish_as(struct kv_pool *p, uint32_t b, int32_t first, bool is_new)
{
    struct hash key;
    int32_t token[KV_BLOCK_TOKENS];
    fill_tokens(token, first);
    hash_bytes(token, sizeof token, &key);
    REQUIRE_INT(kv_pool_publish(p, b, &key, token), is_new);
}

static uint32_t find(struct kv_pool *p, int32_t first)
{
    struct hash key;
    int32_t token[KV_BLOCK_TOKENS];
    fill_tokens(token, first);
    hash_bytes(token, sizeof token, &key);
    return kv_pool_find(p, &key, token);
}

TEST(pool_evicts_the_longest_unused)
{
    struct kv_pool *p = new_pool(3);
    uint32_t b[3];
    for (int i = 0; i < 3; i++) {
        b[i] = kv_pool_take(p);
        publish_as(p, b[i], i * 1000, true);
    }
    REQUIRE_INT(kv_pool_take(p), KV_BLOCK_NONE);
    for (int i = 0; i < 3; i++)
        kv_pool_unref(p, b[i]);
    REQUIRE_INT(kv_pool_n_cached(p), 3);
    REQUIRE_INT(kv_pool_n_used(p), 0);
    REQUIRE_INT(find(p, 0), b[0]);          // used again: now the youngest
    kv_pool_unref(p, b[0]);
    REQUIRE_INT(kv_pool_take(p), b[1]);
    REQUIRE_INT(find(p, 1000), KV_BLOCK_NONE);
    REQUIRE_INT(kv_pool_take(p), b[2]);
    REQUIRE_INT(find(p, 0), b[0]);
    REQUIRE_INT(kv_pool_take(p), KV_BLOCK_NONE);
    kv_pool_destroy(p);
}

TEST(pool_keeps_one_block_of_a_key)
{
    struct kv_pool *p = new_pool(2);
    uint32_t a = kv_pool_take(p), b = kv_pool_take(p);
    publish_as(p, a, 5, true);
    publish_as(p, b, 5, false);
    REQUIRE_INT(find(p, 5), a);
    kv_pool_unref(p, b);
    REQUIRE_INT(kv_pool_state(p, b), KV_FREE);
    REQUIRE_INT(kv_pool_refs(p, a), 2);
    kv_pool_destroy(p);
}

TEST(pool_forgets)
{
    struct kv_pool *p = new_pool(2);
    uint32_t a = kv_pool_take(p), b = kv_pool_take(p);
    publish_as(p, a, 5, true);
    publish_as(p, b, 6, true);
    kv_pool_unref(p, b);
    kv_pool_forget(p, a);       // held: no longer found, still held
    kv_pool_forget(p, b);       // cached: free
    REQUIRE_INT(find(p, 5), KV_BLOCK_NONE);
    REQUIRE_INT(find(p, 6), KV_BLOCK_NONE);
    REQUIRE_INT(kv_pool_state(p, a), KV_FULL);
    REQUIRE_INT(kv_pool_state(p, b), KV_FREE);
    kv_pool_forget(p, a);       // twice is harmless
    kv_pool_unref(p, a);
    REQUIRE_INT(kv_pool_n_available(p), 2);
    REQUIRE_INT(kv_pool_n_cached(p), 0);
    kv_pool_destroy(p);
}

// ---- tables against a naive model ----
//
// A block's bytes are one int per token here. The naive model keeps each text whole; after any
// series of operations reading through the table must give the naive text.

enum { POOL = 40, TEXTS = 6, LONG = 8 * KV_BLOCK_TOKENS };
static int32_t memory[POOL][KV_BLOCK_TOKENS];

static void copy_block(void *ctx, uint32_t dst, uint32_t src)
{
    (void)ctx;
    memcpy(memory[dst], memory[src], sizeof memory[dst]);
}

struct text {
    struct kv_table table;
    int32_t  want[LONG];
    uint32_t n;
};

static void write_token(struct text *t, struct kv_pool *p, int32_t value)
{
    if (t->n == LONG || !kv_table_grow(&t->table, p, t->n + 1))
        return;
    uint32_t b = t->table.block[t->n / KV_BLOCK_TOKENS];
    REQUIRE_INT(kv_pool_state(p, b), KV_FILLING);
    REQUIRE_INT(kv_pool_refs(p, b), 1);
    memory[b][t->n % KV_BLOCK_TOKENS] = value;
    t->want[t->n++] = value;
    if (t->n % KV_BLOCK_TOKENS == 0) {
        struct hash key;
        hash_bytes(t->want, t->n * sizeof *t->want, &key);
        kv_pool_publish(p, b, &key, &t->want[t->n - KV_BLOCK_TOKENS]);
    }
}

static void check_text(const struct text *t)
{
    REQUIRE_INT(t->table.n_blocks, DIV_UP(t->n, KV_BLOCK_TOKENS));
    for (uint32_t i = 0; i < t->n; i++)
        REQUIRE_INT(memory[t->table.block[i / KV_BLOCK_TOKENS]][i % KV_BLOCK_TOKENS], t->want[i]);
}

static void fork_text(struct text *dst, const struct text *src, struct kv_pool *p, uint32_t n)
{
    struct kv_copier copier = {copy_block, NULL};
    kv_table_clear(&dst->table, p);
    dst->n = 0;
    int r = kv_table_fork(&dst->table, &src->table, p, n, &copier);
    REQUIRE(r == 0 || r == -ENOSPC);
    if (r < 0) {
        REQUIRE_INT(dst->table.n_blocks, 0);
        return;
    }
    memcpy(dst->want, src->want, n * sizeof *dst->want);
    dst->n = n;
}

static uint64_t rng_next(uint64_t *s)
{
    *s ^= *s << 13;
    *s ^= *s >> 7;
    *s ^= *s << 17;
    return *s;
}

TEST(table_against_a_naive_model)
{
    struct kv_copier copier = {copy_block, NULL};
    for (uint64_t seed = 1; seed <= 30; seed++) {
        uint64_t s = seed * 0x9e3779b97f4a7c15u;
        struct kv_pool *p = new_pool(POOL);
        static struct text t[TEXTS];
        for (int i = 0; i < TEXTS; i++) {
            t[i].n = 0;
            REQUIRE_INT(kv_table_init(&t[i].table, LONG), 0);
        }
        for (int step = 0; step < 400; step++) {
            struct text *a = &t[rng_next(&s) % TEXTS], *b = &t[rng_next(&s) % TEXTS];
            switch (rng_next(&s) % 8) {
            case 0:
                if (a != b)
                    fork_text(b, a, p, (uint32_t)(rng_next(&s) % (a->n + 1)));
                break;
            case 1: {
                uint32_t n = (uint32_t)(rng_next(&s) % (a->n + 1));
                if (kv_table_truncate(&a->table, p, n, &copier) == 0)
                    a->n = n;
                break;
            }
            default: {
                // few values, so that different texts do become equal blocks
                int32_t v = (int32_t)(rng_next(&s) % 2);
                for (uint64_t n = rng_next(&s) % 100; n > 0; n--)
                    write_token(a, p, v);
            }
            }
            check_text(a);
            check_text(b);
        }
        for (int i = 0; i < TEXTS; i++) {
            check_text(&t[i]);
            kv_table_clear(&t[i].table, p);
            kv_table_finish(&t[i].table);
        }
        REQUIRE_INT(kv_pool_n_used(p), 0);
        REQUIRE_INT(kv_pool_n_available(p), POOL);
        kv_pool_destroy(p);
    }
}

TEST(table_grow_is_all_or_nothing)
{
    struct kv_pool *p = new_pool(3);
    struct kv_table a, b;
    REQUIRE_INT(kv_table_init(&a, LONG), 0);
    REQUIRE_INT(kv_table_init(&b, LONG), 0);
    REQUIRE(kv_table_grow(&a, p, 65));
    REQUIRE_INT(a.n_blocks, 2);
    REQUIRE(!kv_table_grow(&b, p, 65));
    REQUIRE_INT(b.n_blocks, 0);
    REQUIRE_INT(kv_pool_n_used(p), 2);
    REQUIRE(kv_table_grow(&b, p, 64));
    kv_table_clear(&a, p);
    kv_table_clear(&b, p);
    kv_table_finish(&a);
    kv_table_finish(&b);
    kv_pool_destroy(p);
}

TEST_MAIN
