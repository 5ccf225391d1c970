// Finds control and user-defined tokens in raw text, leftmost first and then longest.
//
// Thread-safety: immutable after special_init.
#pragma once
#include "engine/text/vocab.h"

struct special {
    const struct vocab *vocab;          // borrowed
    uint32_t *id;                       // (n) sorted by the bytes of the piece, no doubles
    uint32_t  n;
    uint32_t  first[257];               // id[first[b]..first[b + 1]) begin with byte b
};

int  special_init(struct special *s, const struct vocab *v, struct err *err);   // 0 or -ENOMEM
void special_finish(struct special *s);

struct special_text {
    const char    *p;
    size_t         n;
    const uint8_t *plain;               // (n) or NULL: non-zero where no control token is read
    bool           control;             // control tokens are read at all
};
struct special_match { size_t at, n; uint32_t id; };

// The next token at or after byte `from`. Returns false if there is none.
bool special_next(const struct special *s, const struct special_text *text, size_t from,
                  struct special_match *ret);
