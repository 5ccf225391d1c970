// Strings of the template language. Text is UTF-8, positions that templates see are characters, and
// every operation carries the source of each byte along (see enum jsource).
#pragma once
#include "engine/text/jinja/value.h"

#define JSTR_NONE ((size_t)-1)

// A string under construction, in the arena.
struct jbuild {
    struct jx *x;
    char      *p;
    uint8_t   *mask;            // (cap) only once the sources differ
    size_t     n, cap;
    uint8_t    source;          // enum jsource of what is there
    bool       not_ascii;
};

struct jbuild jbuild_start(struct jx *x);
void jbuild_add(struct jbuild *b, const char *p, size_t n, enum jsource source);
void jbuild_text(struct jbuild *b, const char *text);          // the template's
void jbuild_char(struct jbuild *b, uint32_t cp, enum jsource source);
void jbuild_sub(struct jbuild *b, const struct jstr *s, size_t from, size_t to);
void jbuild_str(struct jbuild *b, const struct jstr *s);
void jbuild_fill(struct jbuild *b, const struct jstr *s, size_t times);
void jbuild_printf(struct jbuild *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
struct jstr *jbuild_end(struct jbuild *b);

// The text is borrowed / copied.
struct jstr *jstr_lit(struct jx *x, const char *text);
struct jstr *jstr_copy(struct jx *x, const char *p, size_t n, enum jsource source);
// The first hundred bytes or so with a NUL, for messages.
const char  *jstr_brief(struct jx *x, const struct jstr *s);
struct jval  jtext(struct jx *x, const char *text);            // jstr_lit as a value
struct jstr *jstr_markup(struct jx *x, const struct jstr *s, bool markup);

bool   jstr_same(const struct jstr *a, const struct jstr *b);
bool   jstr_is(const struct jstr *s, const char *text);
int    jstr_compare(const struct jstr *a, const struct jstr *b);
double jstr_to_double(const struct jstr *s);    // of plain digits
enum jsource jstr_source(const struct jstr *s, size_t byte);

// Positions are bytes unless they are called chars.
size_t   jstr_chars(struct jstr *s);
uint32_t jstr_char(const struct jstr *s, size_t at, size_t *next);
size_t   jstr_next(const struct jstr *s, size_t at);
size_t   jstr_prev(const struct jstr *s, size_t at);
size_t   jstr_offset(struct jx *x, struct jstr *s, size_t chars);
size_t   jstr_find(struct jx *x, const struct jstr *s, const struct jstr *what, size_t from);
size_t   jstr_rfind(struct jx *x, const struct jstr *s, const struct jstr *what, size_t to);
bool     jstr_starts(const struct jstr *s, const struct jstr *head);
bool     jstr_ends(const struct jstr *s, const struct jstr *tail);

struct jstr *jstr_sub(struct jx *x, const struct jstr *s, size_t from, size_t to);
struct jstr *jstr_concat(struct jx *x, struct jstr *a, struct jstr *b);
struct jstr *jstr_repeat(struct jx *x, const struct jstr *s, int64_t times);
// chars NULL: white space.
enum { JSTR_LEFT = 1, JSTR_RIGHT = 2 };
struct jstr *jstr_strip(struct jx *x, const struct jstr *s, const struct jstr *chars, int sides);
// max < 0: all.
struct jstr *jstr_replace(struct jx *x, const struct jstr *s, const struct jstr *old,
                          const struct jstr *new, int64_t max);
struct jlist *jstr_split(struct jx *x, const struct jstr *s, const struct jstr *sep, int64_t max);
struct jlist *jstr_rsplit(struct jx *x, const struct jstr *s, const struct jstr *sep, int64_t max);
struct jlist *jstr_lines(struct jx *x, const struct jstr *s, bool keep_ends);

enum jcase { JCASE_UPPER, JCASE_LOWER, JCASE_SWAP, JCASE_TITLE, JCASE_CAPITALIZE, JCASE_FOLD };
struct jstr *jstr_case(struct jx *x, const struct jstr *s, enum jcase how);
// & < > ' " as HTML entities; the result is markup, and markup stays as it is.
struct jstr *jstr_escape(struct jx *x, struct jstr *s);
