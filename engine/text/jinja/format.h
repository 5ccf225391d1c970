// Numbers and texts put into a width: what "%" and "{}" formatting share.
#pragma once
#include "engine/text/jinja/print.h"

struct jspec {
    struct jstr fill;           // one character; n = 0: a space
    char        align;          // < > ^ =, 0: not given
    char        sign;           // + - or space, 0: not given
    bool        given;          // something of this was written
    bool        alt, zero, comma;
    int64_t     width, precision;       // precision -1: not given
    char        type;           // 0: not given
};

void jput_padded(struct jbuild *b, const struct jspec *s, struct jstr *text, size_t head,
                 char align);
void jput_text(struct jbuild *b, const struct jspec *s, struct jstr *text);
void jput_int(struct jbuild *b, const struct jspec *s, int64_t v);
// type: one of e E f F g G %, or r: as repr.
void jput_float(struct jbuild *b, const struct jspec *s, double d, char type);
