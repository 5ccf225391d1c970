// Values as text: Python's str() and repr(), and json.dumps.
#pragma once
#include "engine/text/jinja/jstr.h"

// str(v). A string is returned as it is.
struct jstr *jto_str(struct jx *x, struct jval v);
void jprint_str(struct jbuild *b, struct jval v);
void jprint_repr(struct jbuild *b, struct jval v);
void jprint_number(struct jbuild *b, struct jval v);   // J_INT, J_BIG, J_FLOAT
// Python's repr of a float: the shortest digits that read back the same.
enum { JFLOAT_TEXT = 40 };
void jfloat_text(double d, char buf[JFLOAT_TEXT]);

struct jdumps {
    bool ascii, sort_keys;
    const struct jstr *indent;          // per level; NULL: one line
    const struct jstr *comma, *colon;
};
void jprint_json(struct jbuild *b, struct jval v, const struct jdumps *how);
