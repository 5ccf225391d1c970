// The block pool. Lists and hash chains are block numbers inside one array, so that nothing is
// allocated after the start.
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "engine/kv/pool.h"
#include "base/base.h"

struct kv_block {
    struct hash key;                // valid while keyed
    uint32_t    refs;
    uint32_t    prev, next;         // in the free list or the cached list
    uint32_t    chain;              // next block of the same hash bucket
    uint8_t     state;              // enum kv_block_state
    bool        keyed;              // in the hash table
};

struct kv_list { uint32_t first, last, n; };

struct kv_pool {
    struct kv_block *block;         // (n_blocks)
    int32_t         *token;         // (n_blocks, KV_BLOCK_TOKENS), of keyed blocks
    uint32_t        *bucket;        // (n_buckets) first block of a chain
    uint32_t         n_blocks, n_buckets;   // n_buckets is a power of two
    struct kv_list   free;
    struct kv_list   cached;        // first: released longest ago
    uint64_t         changes;
    void           (*gone)(void *ctx, uint32_t block, const struct hash *key, bool used);
    void            *gone_ctx;
};

// ---- lists and chains ----

static void list_push(struct kv_pool *p, struct kv_list *l, uint32_t b)
{
    struct kv_block *k = &p->block[b];
    k->prev = l->last;
    k->next = KV_BLOCK_NONE;
    if (l->last == KV_BLOCK_NONE)
        l->first = b;
    else
        p->block[l->last].next = b;
    l->last = b;
    l->n++;
}

static void list_remove(struct kv_pool *p, struct kv_list *l, uint32_t b)
{
    struct kv_block *k = &p->block[b];
    assert(l->n > 0);
    if (k->prev == KV_BLOCK_NONE)
        l->first = k->next;
    else
        p->block[k->prev].next = k->next;
    if (k->next == KV_BLOCK_NONE)
        l->last = k->prev;
    else
        p->block[k->next].prev = k->prev;
    l->n--;
}

static uint32_t *bucket_of(const struct kv_pool *p, const struct hash *key)
{
    return &p->bucket[hash_short(key) & (p->n_buckets - 1)];
}

static uint32_t lookup(const struct kv_pool *p, const struct hash *key)
{
    uint32_t b = *bucket_of(p, key);
    while (b != KV_BLOCK_NONE && !hash_equal(&p->block[b].key, key))
        b = p->block[b].chain;
    return b;
}

static void unkey(struct kv_pool *p, uint32_t b)
{
    struct kv_block *k = &p->block[b];
    assert(k->keyed);
    uint32_t *at = bucket_of(p, &k->key);
    while (*at != b)
        at = &p->block[*at].chain;
    *at = k->chain;
    k->keyed = false;
    if (p->gone)
        p->gone(p->gone_ctx, b, &k->key, k->refs > 0);
}

static void set_free(struct kv_pool *p, uint32_t b)
{
    p->block[b].state = KV_FREE;
    list_push(p, &p->free, b);
}

static struct kv_block *held(struct kv_pool *p, uint32_t b)
{
    assert(b < p->n_blocks);
    assert(p->block[b].refs > 0);
    return &p->block[b];
}

// ---- the pool ----

int kv_pool_create(struct kv_pool **ret, uint32_t n_blocks, struct err *err)
{
    assert(n_blocks > 0 && n_blocks < KV_BLOCK_NONE / 2);
    uint32_t n_buckets = 1;
    while (n_buckets < n_blocks)
        n_buckets *= 2;
    struct kv_pool *p = calloc(1, sizeof *p);
    if (!p)
        goto no_memory;
    p->n_blocks = n_blocks;
    p->n_buckets = n_buckets;
    p->block = calloc(n_blocks, sizeof *p->block);
    p->token = calloc(n_blocks, KV_BLOCK_TOKENS * sizeof *p->token);
    p->bucket = malloc(n_buckets * sizeof *p->bucket);
    if (!p->block || !p->token || !p->bucket)
        goto no_memory;
    memset(p->bucket, 0xff, n_buckets * sizeof *p->bucket);
    p->free = p->cached = (struct kv_list){KV_BLOCK_NONE, KV_BLOCK_NONE, 0};
    for (uint32_t b = 0; b < n_blocks; b++)
        list_push(p, &p->free, b);
    *ret = p;
    return 0;

no_memory:
    kv_pool_destroy(p);
    return err_set(err, -ENOMEM, "no memory for a pool of %u blocks", n_blocks);
}

void kv_pool_destroy(struct kv_pool *p)
{
    if (!p)
        return;
    free(p->block);
    free(p->token);
    free(p->bucket);
    free(p);
}

uint32_t kv_pool_take(struct kv_pool *p)
{
    uint32_t b = p->free.first;
    if (b != KV_BLOCK_NONE) {
        list_remove(p, &p->free, b);
    } else {
        b = p->cached.first;
        if (b == KV_BLOCK_NONE)
            return KV_BLOCK_NONE;
        list_remove(p, &p->cached, b);
        unkey(p, b);
    }
    struct kv_block *k = &p->block[b];
    assert(k->refs == 0 && !k->keyed);
    k->refs = 1;
    k->state = KV_FILLING;
    return b;
}

void kv_pool_ref(struct kv_pool *p, uint32_t b)
{
    struct kv_block *k = held(p, b);
    assert(k->state == KV_FULL);
    k->refs++;
}

void kv_pool_unref(struct kv_pool *p, uint32_t b)
{
    struct kv_block *k = held(p, b);
    if (--k->refs > 0)
        return;
    p->changes++;
    if (k->keyed) {
        list_push(p, &p->cached, b);
    } else {
        set_free(p, b);
        if (p->gone)
            p->gone(p->gone_ctx, b, NULL, false);
    }
}

void kv_pool_seal(struct kv_pool *p, uint32_t b)
{
    struct kv_block *k = held(p, b);
    assert(k->state == KV_FILLING && k->refs == 1);
    k->state = KV_FULL;
}

bool kv_pool_publish(struct kv_pool *p, uint32_t b, const struct hash *key, const int32_t *token)
{
    kv_pool_seal(p, b);
    if (lookup(p, key) != KV_BLOCK_NONE)
        return false;
    struct kv_block *k = &p->block[b];
    uint32_t *first = bucket_of(p, key);
    k->key = *key;
    k->keyed = true;
    k->chain = *first;
    *first = b;
    memcpy(&p->token[(size_t)b * KV_BLOCK_TOKENS], token, KV_BLOCK_TOKENS * sizeof *token);
    p->changes++;
    return true;
}

bool kv_pool_reopen(struct kv_pool *p, uint32_t b)
{
    struct kv_block *k = held(p, b);
    assert(k->state == KV_FULL);
    if (k->refs > 1)
        return false;
    if (k->keyed)
        unkey(p, b);
    k->state = KV_FILLING;
    return true;
}

void kv_pool_forget(struct kv_pool *p, uint32_t b)
{
    assert(b < p->n_blocks);
    struct kv_block *k = &p->block[b];
    if (!k->keyed)
        return;
    unkey(p, b);
    if (k->refs > 0)
        return;
    list_remove(p, &p->cached, b);
    set_free(p, b);
}

bool kv_pool_evict(struct kv_pool *p)
{
    uint32_t b = p->cached.first;
    if (b == KV_BLOCK_NONE)
        return false;
    kv_pool_forget(p, b);
    return true;
}

void kv_pool_watch(struct kv_pool *p,
                   void (*gone)(void *ctx, uint32_t block, const struct hash *key, bool used),
                   void *ctx)
{
    p->gone = gone;
    p->gone_ctx = ctx;
}

uint32_t kv_pool_find(struct kv_pool *p, const struct hash *key, const int32_t *token)
{
    uint32_t b = lookup(p, key);
    if (b == KV_BLOCK_NONE)
        return KV_BLOCK_NONE;
    // Two contents under one key would be a broken hash; the answer then is a miss, not a wrong
    // text.
    if (memcmp(&p->token[(size_t)b * KV_BLOCK_TOKENS], token, KV_BLOCK_TOKENS * sizeof *token) != 0)
        return KV_BLOCK_NONE;
    struct kv_block *k = &p->block[b];
    assert(k->state == KV_FULL);
    if (k->refs++ == 0)
        list_remove(p, &p->cached, b);
    return b;
}

bool kv_pool_has(const struct kv_pool *p, uint32_t b, const struct hash *key)
{
    assert(b < p->n_blocks);
    return p->block[b].keyed && hash_equal(&p->block[b].key, key);
}

const struct hash *kv_pool_key(const struct kv_pool *p, uint32_t b)
{
    assert(b < p->n_blocks);
    return p->block[b].keyed ? &p->block[b].key : NULL;
}

uint32_t kv_pool_lookup(const struct kv_pool *p, const struct hash *key)
{
    return lookup(p, key);
}

uint32_t kv_pool_n_blocks(const struct kv_pool *p) { return p->n_blocks; }
uint32_t kv_pool_n_cached(const struct kv_pool *p) { return p->cached.n; }
uint32_t kv_pool_n_available(const struct kv_pool *p) { return p->free.n + p->cached.n; }
uint32_t kv_pool_n_used(const struct kv_pool *p) { return p->n_blocks - kv_pool_n_available(p); }
uint64_t kv_pool_changes(const struct kv_pool *p) { return p->changes; }

enum kv_block_state kv_pool_state(const struct kv_pool *p, uint32_t b)
{
    assert(b < p->n_blocks);
    return p->block[b].state;
}

uint32_t kv_pool_refs(const struct kv_pool *p, uint32_t b)
{
    assert(b < p->n_blocks);
    return p->block[b].refs;
}
