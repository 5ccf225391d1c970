// Byte-pair encoding of one pre-tokenizer piece, by the ranks of the file's merges.
//
// Thread-safety: immutable after bpe_init.
#pragma once
#include "engine/text/merge.h"
#include "engine/text/vocab.h"

struct bpe_pair { uint32_t left, right, rank, id; };

struct bpe {
    const struct vocab *vocab;          // borrowed
    struct bpe_pair    *pair;           // (n_slots) open addressing; id TOKEN_NONE: free
    uint32_t            n_slots;        // a power of two
    bool                ignore_merges;  // a piece that is a token is that token
};

struct gguf;
// Returns 0, -EINVAL (a merge is malformed or names a token that does not exist), -ENOMEM.
int  bpe_init(struct bpe *b, const struct vocab *v, bool ignore_merges, const struct gguf *g,
              struct err *err);
void bpe_finish(struct bpe *b);

// Appends the tokens of p[0..n). Bytes that the vocabulary lacks are left out, as the reference
// does. Returns 0 or -ENOMEM.
int bpe_encode(const struct bpe *b, struct merge_work *w, const char *p, size_t n,
               struct tokens *out);
