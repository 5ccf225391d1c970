// Content hashes: BLAKE2b of libsodium.
#include "base/hash.h"
#include <sodium.h>
#include <string.h>
#include "base/base.h"

static_assert(sizeof(crypto_generichash_state) <= sizeof(struct hash_state), "state fits");
static_assert(HASH_BYTES == crypto_generichash_BYTES, "BLAKE2b-256");

static crypto_generichash_state *state_of(struct hash_state *s)
{
    return (crypto_generichash_state *)(void *)s->opaque;
}

void hash_start(struct hash_state *s)
{
    int r = crypto_generichash_init(state_of(s), NULL, 0, HASH_BYTES);
    assert(r == 0);
    (void)r;
}

void hash_add(struct hash_state *s, const void *p, size_t n)
{
    crypto_generichash_update(state_of(s), p, n);
}

void hash_end(struct hash_state *s, struct hash *ret)
{
    crypto_generichash_final(state_of(s), ret->b, HASH_BYTES);
}

void hash_bytes(const void *p, size_t n, struct hash *ret)
{
    crypto_generichash(ret->b, HASH_BYTES, p, n, NULL, 0);
}

bool hash_equal(const struct hash *a, const struct hash *b)
{
    return memcmp(a->b, b->b, HASH_BYTES) == 0;
}

bool hash_equal_secret(const struct hash *a, const struct hash *b)
{
    return sodium_memcmp(a->b, b->b, HASH_BYTES) == 0;
}

uint64_t hash_short(const struct hash *h)
{
    uint64_t r;
    memcpy(&r, h->b, sizeof(r));
    return r;
}

void random_bytes(void *p, size_t n)
{
    randombytes_buf(p, n);
}
