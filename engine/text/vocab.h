// The vocabulary of a GGUF file: which bytes each token stands for, and the way back.
//
// A token's piece is what it adds to a text, already decoded: byte-level characters are bytes
// again, U+2581 is a space, <0x0A> is one byte. Encoding works on pieces too, so that nothing is
// converted twice.
// Thread-safety: immutable after vocab_init.
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include "base/err.h"
#include "engine/text/tokenizer.h"

#define TOKEN_BYTES_MAX 4096            // of one token's text in a file
#define VOCAB_BYTES_MAX (1u << 30)      // of all texts together
#define TOKEN_NONE UINT32_MAX

enum vocab_kind { VOCAB_BPE, VOCAB_SPM };

struct vocab_slot { uint32_t hash, id1; };      // id1: the id plus 1, 0 where it is free

struct vocab {
    enum vocab_kind kind;
    uint32_t  n;
    uint32_t *at;                       // (n + 1) piece i is bytes[at[i]..at[i + 1])
    char     *bytes;
    uint8_t  *type;                     // (n) enum token_type
    struct vocab_slot *slot;            // (n_slots) open addressing
    uint32_t  n_slots;                  // a power of two
    uint64_t  seed;                     // of the hash, random: files and texts are not trusted
    uint32_t  byte_id[256];             // the token that is exactly this byte, or TOKEN_NONE
    bool      has_all_bytes;            // every byte string can be written with tokens
};

struct gguf;
// Returns 0, -EINVAL (err names the key and the token), -ENOMEM.
int  vocab_init(struct vocab *v, enum vocab_kind kind, const struct gguf *g, struct err *err);
void vocab_finish(struct vocab *v);     // a zeroed vocabulary is fine

static inline const char *vocab_piece(const struct vocab *v, uint32_t id, size_t *n)
{
    *n = v->at[id + 1] - v->at[id];
    return v->bytes + v->at[id];
}

// A set of token types, for vocab_find.
#define TYPE(t) (1u << (t))
#define TYPES_TEXT (TYPE(TOKEN_NORMAL) | TYPE(TOKEN_USER_DEFINED))
#define TYPES_ALL (~TYPE(TOKEN_BYTE))

// The lowest id among these types whose piece is p[0..n), or TOKEN_NONE.
uint32_t vocab_find(const struct vocab *v, const char *p, size_t n, unsigned types);

// Decodes the text of a byte-level token (each character stands for a byte) to dst, which holds n
// bytes. Returns the length, or -1 where a character stands for no byte.
long byte_level_decode(const char *p, size_t n, char *dst);

// 64 bits over a short string. Not for identity: collisions are checked by whoever uses it.
static inline uint64_t text_hash(const char *p, size_t n, uint64_t seed)
{
    __extension__ typedef unsigned __int128 wide;
    uint64_t h = seed ^ n;
    while (n) {
        uint64_t word = 0;
        size_t k = n < 8 ? n : 8;
        memcpy(&word, p, k);
        wide m = (wide)(h ^ word) * UINT64_C(0x9e3779b97f4a7c15);
        h = (uint64_t)m ^ (uint64_t)(m >> 64) ^ seed;
        p += k;
        n -= k;
    }
    return h * UINT64_C(0xd6e8feb86659fd93) >> 16 ^ h;
}
