// SentencePiece-style encoding: characters merged by the score of what they become, and bytes for
// characters that the vocabulary lacks.
//
// Thread-safety: immutable after spm_init.
#pragma once
#include "engine/text/merge.h"
#include "engine/text/vocab.h"

struct spm {
    const struct vocab *vocab;          // borrowed
    uint32_t *order;                    // (vocab->n) lower is merged first; see spm.c
    uint32_t  unknown;                  // for characters without byte tokens, or TOKEN_NONE
    bool      glue[256];                // bytes before a space inside some token
};

struct gguf;
// Returns 0, -EINVAL (scores missing or not numbers), -ENOMEM.
int  spm_init(struct spm *s, const struct vocab *v, uint32_t unknown, const struct gguf *g,
              struct err *err);
void spm_finish(struct spm *s);

// The length of the first piece of p[0..n), n > 0: no token reaches over its end.
size_t spm_piece(const struct spm *s, const char *p, size_t n);

// Appends the tokens of the piece p[0..n), in which a space is a space. Returns 0 or -ENOMEM.
int spm_encode(const struct spm *s, struct merge_work *w, const char *p, size_t n,
               struct tokens *out);
