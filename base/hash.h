// Content hashes. Identity (what a cache key is made of) is BLAKE2b with 256 bits; it is
// cryptographic because a collision would serve one user another's cache.
// Source: RFC 7693, through libsodium; this is the only file that includes it.
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define HASH_BYTES 32

struct hash { uint8_t b[HASH_BYTES]; };

// Incremental hashing. The state is plain memory: no finish needed if abandoned.
struct hash_state { _Alignas(64) unsigned char opaque[384]; };

void hash_start(struct hash_state *s);
void hash_add(struct hash_state *s, const void *p, size_t n);
void hash_end(struct hash_state *s, struct hash *ret);
void hash_bytes(const void *p, size_t n, struct hash *ret);

bool hash_equal(const struct hash *a, const struct hash *b);    // not constant time
// For secrets: the time does not depend on the contents.
bool hash_equal_secret(const struct hash *a, const struct hash *b);
// 64 bits of an identity hash, for hash tables.
uint64_t hash_short(const struct hash *h);
// Fills p with n bytes from the kernel's generator.
void random_bytes(void *p, size_t n);
