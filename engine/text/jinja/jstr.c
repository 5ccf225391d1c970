// Strings under construction, and finding one's way in them.
#include "engine/text/jinja/jstr.h"
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/base.h"
#include "engine/text/utf8.h"

struct jbuild jbuild_start(struct jx *x)
{
    return (struct jbuild){ .x = x };
}

static void build_grow(struct jbuild *b, size_t n)
{
    if (n > JX_STR_MAX || b->n + n > JX_STR_MAX)
        jx_fail(b->x, -E2BIG, "a text longer than %d MiB", JX_STR_MAX >> 20);
    if (b->n + n <= b->cap)
        return;
    size_t cap = MAX(MAX(b->n + n, b->cap * 2), (size_t)32);
    char *p = jx_alloc(b->x, cap);
    uint8_t *mask = b->mask ? jx_alloc(b->x, cap) : NULL;
    if (b->n)
        memcpy(p, b->p, b->n);
    if (b->n && mask)
        memcpy(mask, b->mask, b->n);
    b->p = p;
    b->mask = mask;
    b->cap = cap;
}

// From here on the bytes have sources of their own.
static void build_mix(struct jbuild *b)
{
    if (b->mask)
        return;
    b->mask = jx_alloc(b->x, b->cap);
    memset(b->mask, b->source == JS_DATA, b->n);
    b->source = JS_MIXED;
}

static void build_bytes(struct jbuild *b, const char *p, size_t n, enum jsource source,
                        const uint8_t *mask)
{
    if (n == 0)
        return;
    jx_bytes(b->x, n);
    build_grow(b, n);
    if (b->n == 0 && !b->mask)
        b->source = source == JS_MIXED ? JS_TEMPLATE : source;
    if (source != b->source)
        build_mix(b);
    memcpy(b->p + b->n, p, n);
    if (b->mask && mask)
        memcpy(b->mask + b->n, mask, n);
    else if (b->mask)
        memset(b->mask + b->n, source == JS_DATA, n);
    b->n += n;
}

void jbuild_add(struct jbuild *b, const char *p, size_t n, enum jsource source)
{
    for (size_t i = 0; i < n && !b->not_ascii; i++)
        b->not_ascii = (unsigned char)p[i] >= 0x80;
    build_bytes(b, p, n, source, NULL);
}

void jbuild_text(struct jbuild *b, const char *text)
{
    jbuild_add(b, text, strlen(text), JS_TEMPLATE);
}

void jbuild_char(struct jbuild *b, uint32_t cp, enum jsource source)
{
    char c[4];
    jbuild_add(b, c, utf8_encode(cp, c), source);
}

void jbuild_sub(struct jbuild *b, const struct jstr *s, size_t from, size_t to)
{
    assert(from <= to && to <= s->n);
    if (from == to)
        return;
    b->not_ascii |= !s->ascii;
    build_bytes(b, s->p + from, to - from, s->source, s->mask ? s->mask + from : NULL);
}

void jbuild_str(struct jbuild *b, const struct jstr *s)
{
    jbuild_sub(b, s, 0, s->n);
}

void jbuild_fill(struct jbuild *b, const struct jstr *s, size_t times)
{
    size_t total;
    if (!mul_size(s->n, times, &total))
        total = SIZE_MAX;
    build_grow(b, total);
    for (size_t i = 0; s->n && i < times; i++)
        jbuild_str(b, s);
}

void jbuild_printf(struct jbuild *b, const char *fmt, ...)
{
    char buf[512];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(buf, sizeof(buf), fmt, ap);
    va_end(ap);
    assert(n >= 0 && (size_t)n < sizeof(buf));
    jbuild_add(b, buf, (size_t)n, JS_TEMPLATE);
}

struct jstr *jbuild_end(struct jbuild *b)
{
    struct jstr *s = jx_alloc(b->x, sizeof(*s));
    *s = (struct jstr){ .p = b->n ? b->p : "", .n = b->n, .mask = b->mask, .source = b->source,
                        .ascii = !b->not_ascii };
    return s;
}

struct jstr *jstr_copy(struct jx *x, const char *p, size_t n, enum jsource source)
{
    struct jbuild b = jbuild_start(x);
    jbuild_add(&b, p, n, source);
    return jbuild_end(&b);
}

struct jstr *jstr_lit(struct jx *x, const char *text)
{
    struct jstr *s = jx_alloc(x, sizeof(*s));
    *s = (struct jstr){ .p = text, .n = strlen(text), .ascii = true };
    for (const char *c = text; *c && s->ascii; c++)
        s->ascii = (unsigned char)*c < 0x80;
    return s;
}

const char *jstr_brief(struct jx *x, const struct jstr *s)
{
    size_t n = MIN(s->n, (size_t)100);
    if (n < s->n)
        n = jstr_prev(s, n + 1);        // no half character
    char *r = jx_alloc(x, n + 1);
    memcpy(r, s->p, n);
    return r;
}

struct jval jtext(struct jx *x, const char *text)
{
    return jstring(jstr_lit(x, text));
}

struct jstr *jstr_markup(struct jx *x, const struct jstr *s, bool markup)
{
    struct jstr *r = jx_alloc(x, sizeof(*r));
    *r = *s;
    r->markup = markup;
    return r;
}

bool jstr_same(const struct jstr *a, const struct jstr *b)
{
    return a->n == b->n && memcmp(a->p, b->p, a->n) == 0;
}

bool jstr_is(const struct jstr *s, const char *text)
{
    return s->n == strlen(text) && memcmp(s->p, text, s->n) == 0;
}

int jstr_compare(const struct jstr *a, const struct jstr *b)
{
    // the order of UTF-8 bytes is the order of characters
    int r = memcmp(a->p, b->p, MIN(a->n, b->n));
    return r ? (r > 0) - (r < 0) : (a->n > b->n) - (a->n < b->n);
}

double jstr_to_double(const struct jstr *s)
{
    char buf[512];
    size_t n = MIN(s->n, sizeof(buf) - 1);      // 10^500 is infinite already
    memcpy(buf, s->p, n);
    buf[n] = '\0';
    return strtod(buf, NULL);
}

enum jsource jstr_source(const struct jstr *s, size_t byte)
{
    if (s->source != JS_MIXED)
        return s->source;
    return s->mask[byte] ? JS_DATA : JS_TEMPLATE;
}

size_t jstr_chars(struct jstr *s)
{
    if (s->ascii || s->n == 0)
        return s->n;
    if (!s->chars) {
        for (size_t i = 0; i < s->n; i++)
            s->chars += ((unsigned char)s->p[i] & 0xc0) != 0x80;
    }
    return s->chars;
}

size_t jstr_next(const struct jstr *s, size_t at)
{
    assert(at < s->n);
    do
        at++;
    while (at < s->n && ((unsigned char)s->p[at] & 0xc0) == 0x80);
    return at;
}

size_t jstr_prev(const struct jstr *s, size_t at)
{
    assert(at > 0);
    do
        at--;
    while (at > 0 && ((unsigned char)s->p[at] & 0xc0) == 0x80);
    return at;
}

uint32_t jstr_char(const struct jstr *s, size_t at, size_t *next)
{
    uint32_t cp = 0xfffd;
    size_t n = utf8_decode(s->p + at, s->n - at, &cp);
    *next = at + MAX(n, (size_t)1);
    return cp;
}

size_t jstr_offset(struct jx *x, struct jstr *s, size_t chars)
{
    if (s->ascii)
        return MIN(chars, s->n);
    jx_chars(x, s->n / 8);
    size_t at = 0;
    for (; chars && at < s->n; chars--)
        at = jstr_next(s, at);
    return at;
}

size_t jstr_find(struct jx *x, const struct jstr *s, const struct jstr *what, size_t from)
{
    assert(from <= s->n);
    const char *hit = memmem(s->p + from, s->n - from, what->p, what->n);
    jx_bytes(x, hit ? (size_t)(hit - s->p) - from : s->n - from);
    return hit ? (size_t)(hit - s->p) : JSTR_NONE;
}

size_t jstr_rfind(struct jx *x, const struct jstr *s, const struct jstr *what, size_t to)
{
    if (what->n > to)
        return JSTR_NONE;
    for (size_t at = to - what->n + 1; at-- > 0;) {
        jx_step(x, 1);
        if (memcmp(s->p + at, what->p, what->n) == 0)
            return at;
    }
    return JSTR_NONE;
}

bool jstr_starts(const struct jstr *s, const struct jstr *head)
{
    return s->n >= head->n && memcmp(s->p, head->p, head->n) == 0;
}

bool jstr_ends(const struct jstr *s, const struct jstr *tail)
{
    return s->n >= tail->n && memcmp(s->p + s->n - tail->n, tail->p, tail->n) == 0;
}

struct jstr *jstr_sub(struct jx *x, const struct jstr *s, size_t from, size_t to)
{
    assert(from <= to && to <= s->n);
    struct jstr *r = jx_alloc(x, sizeof(*r));
    *r = *s;
    r->p += from;
    r->n = to - from;
    r->mask = s->mask ? s->mask + from : NULL;
    r->chars = 0;
    r->tail = NULL;
    return r;
}

// Long strings keep their builder: a template that appends to one text over and over then costs
// the sum of the pieces, not the square.
enum { KEEP_BUILDER = 256 };

struct jstr *jstr_concat(struct jx *x, struct jstr *a, struct jstr *b)
{
    struct jbuild *t = a->tail, fresh = jbuild_start(x);
    bool in_place = t && t->p == a->p && t->n == a->n;
    if (!in_place) {
        t = &fresh;
        jbuild_str(t, a);
    }
    jbuild_str(t, b);
    struct jstr *r = jbuild_end(t);
    if (in_place) {
        r->tail = t;
    } else if (r->n >= KEEP_BUILDER) {
        r->tail = jx_alloc(x, sizeof(*r->tail));
        *r->tail = fresh;
    }
    return r;
}

struct jstr *jstr_repeat(struct jx *x, const struct jstr *s, int64_t times)
{
    struct jbuild b = jbuild_start(x);
    if (times > 0)
        jbuild_fill(&b, s, (size_t)times);
    struct jstr *r = jbuild_end(&b);
    r->markup = s->markup;
    return r;
}
