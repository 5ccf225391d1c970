// Pre-tokenizers: how a text is cut into the pieces that byte-pair encoding never joins.
//
// Each is a row of regular expressions, applied one after another to the pieces of the one before.
// Source: the published tokenizer.json of each family.
// Thread-safety: struct pretok is immutable; a struct pretok_scan belongs to one thread.
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include "base/err.h"

#define PRETOK_STAGES_MAX 2

struct pretok_row {
    const char *name;                       // tokenizer.ggml.pre
    const char *stage[PRETOK_STAGES_MAX];
    bool        nfc;                        // normalise to form C first
    bool        ignore_merges;              // a piece that is a token is that token
    bool        add_bos;                    // unless the file says otherwise
};

const struct pretok_row *pretok_row(const char *name, size_t n);    // NULL: not known

struct pretok;
struct pretok_scan;
// Returns 0, -ENOTSUP (the library refuses the expression), -ENOMEM.
int  pretok_open(struct pretok **ret, const struct pretok_row *row, struct err *err);
void pretok_close(struct pretok *p);                                // NULL is fine

struct pretok_scan *pretok_scan_create(const struct pretok *p);     // NULL: no memory
void pretok_scan_destroy(struct pretok_scan *s);                    // NULL is fine

// Hands out the pieces of valid UTF-8 text[0..n) in order; together they are the text. A non-zero
// return of piece() stops with that value.
// Returns 0, -ENOMEM.
int pretok_split(const struct pretok *p, struct pretok_scan *s, const char *text, size_t n,
                 int (*piece)(void *ctx, const char *p, size_t n), void *ctx);
