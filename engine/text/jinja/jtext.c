// Whole-string operations: strip, split, replace, case, as Python's str has them.
#include "engine/text/jinja/jstr.h"
#include <errno.h>
#include <string.h>
#include "base/base.h"
#include "engine/text/jinja/unicode.h"

static bool strips(const struct jstr *chars, const struct jstr *s, size_t at, size_t next)
{
    size_t end;
    if (!chars)
        return u_space(jstr_char(s, at, &end));
    return memmem(chars->p, chars->n, s->p + at, next - at) != NULL;
}

struct jstr *jstr_strip(struct jx *x, const struct jstr *s, const struct jstr *chars, int sides)
{
    size_t from = 0, to = s->n;
    while ((sides & JSTR_LEFT) && from < to && strips(chars, s, from, jstr_next(s, from)))
        from = jstr_next(s, from);
    while ((sides & JSTR_RIGHT) && from < to && strips(chars, s, jstr_prev(s, to), to))
        to = jstr_prev(s, to);
    jx_chars(x, (from + s->n - to) * (chars ? chars->n / 16 + 1 : 1));
    return jstr_sub(x, s, from, to);
}

static void replace_between(struct jbuild *b, const struct jstr *s, const struct jstr *new,
                            uint64_t max)
{
    size_t at = 0;
    for (; max > 0; max--) {
        jbuild_str(b, new);
        if (at == s->n)
            return;
        size_t next = jstr_next(s, at);
        jx_step(b->x, 1);
        jbuild_sub(b, s, at, next);
        at = next;
    }
    jbuild_sub(b, s, at, s->n);
}

struct jstr *jstr_replace(struct jx *x, const struct jstr *s, const struct jstr *old,
                          const struct jstr *new, int64_t max)
{
    struct jbuild b = jbuild_start(x);
    size_t at = 0, hit;
    uint64_t left = max < 0 ? UINT64_MAX : (uint64_t)max;
    if (old->n == 0) {
        replace_between(&b, s, new, left);
    } else {
        for (; left && (hit = jstr_find(x, s, old, at)) != JSTR_NONE; left--) {
            jx_step(x, 1);
            jbuild_sub(&b, s, at, hit);
            jbuild_str(&b, new);
            at = hit + old->n;
        }
        jbuild_sub(&b, s, at, s->n);
    }
    struct jstr *r = jbuild_end(&b);
    r->markup = s->markup;
    return r;
}

static void add_piece(struct jx *x, struct jlist *l, const struct jstr *s, size_t from, size_t to)
{
    jlist_add(x, l, jstring(jstr_sub(x, s, from, to)));
}

static size_t skip_space(struct jx *x, const struct jstr *s, size_t at, bool space)
{
    size_t next, from = at;
    while (at < s->n && u_space(jstr_char(s, at, &next)) == space)
        at = next;
    jx_chars(x, at - from);
    return at;
}

static size_t skip_space_back(struct jx *x, const struct jstr *s, size_t at, bool space)
{
    size_t next, from = at;
    while (at > 0 && u_space(jstr_char(s, jstr_prev(s, at), &next)) == space)
        at = jstr_prev(s, at);
    jx_chars(x, from - at);
    return at;
}

static void split_space(struct jx *x, struct jlist *l, const struct jstr *s, int64_t max)
{
    size_t at = skip_space(x, s, 0, true);
    for (; at < s->n && max != 0; max--) {
        size_t end = skip_space(x, s, at, false);
        add_piece(x, l, s, at, end);
        at = skip_space(x, s, end, true);
    }
    if (at < s->n)
        add_piece(x, l, s, at, s->n);
}

static void need_separator(struct jx *x, const struct jstr *sep)
{
    if (sep && sep->n == 0)
        jx_fail(x, -EINVAL, "empty separator");
}

struct jlist *jstr_split(struct jx *x, const struct jstr *s, const struct jstr *sep, int64_t max)
{
    struct jlist *l = jlist_new(x);
    size_t at = 0, hit;
    need_separator(x, sep);
    if (!sep) {
        split_space(x, l, s, max);
        return l;
    }
    for (; max != 0 && (hit = jstr_find(x, s, sep, at)) != JSTR_NONE; max--) {
        jx_step(x, 1);
        add_piece(x, l, s, at, hit);
        at = hit + sep->n;
    }
    add_piece(x, l, s, at, s->n);
    return l;
}

static void reverse(struct jlist *l)
{
    for (size_t i = 0; i < l->n / 2; i++) {
        struct jval v = l->v[i];
        l->v[i] = l->v[l->n - 1 - i];
        l->v[l->n - 1 - i] = v;
    }
}

static void rsplit_space(struct jx *x, struct jlist *l, const struct jstr *s, int64_t max)
{
    size_t at = skip_space_back(x, s, s->n, true);
    for (; at > 0 && max != 0; max--) {
        size_t from = skip_space_back(x, s, at, false);
        add_piece(x, l, s, from, at);
        at = skip_space_back(x, s, from, true);
    }
    if (at > 0)
        add_piece(x, l, s, 0, at);
}

struct jlist *jstr_rsplit(struct jx *x, const struct jstr *s, const struct jstr *sep, int64_t max)
{
    struct jlist *l = jlist_new(x);
    size_t to = s->n, hit;
    need_separator(x, sep);
    if (!sep) {
        rsplit_space(x, l, s, max);
    } else {
        for (; max != 0 && (hit = jstr_rfind(x, s, sep, to)) != JSTR_NONE; max--) {
            add_piece(x, l, s, hit + sep->n, to);
            to = hit;
        }
        add_piece(x, l, s, 0, to);
    }
    reverse(l);
    return l;
}

struct jlist *jstr_lines(struct jx *x, const struct jstr *s, bool keep_ends)
{
    struct jlist *l = jlist_new(x);
    size_t from = 0, next;
    jx_chars(x, s->n);
    for (size_t at = 0; at < s->n; at = next) {
        uint32_t cp = jstr_char(s, at, &next);
        if (!u_line_break(cp))
            continue;
        if (cp == '\r' && next < s->n && s->p[next] == '\n')
            next++;
        add_piece(x, l, s, from, keep_ends ? next : at);
        from = next;
    }
    if (from < s->n)
        add_piece(x, l, s, from, s->n);
    return l;
}

// A capital sigma at the end of a word is a final one.
static bool final_sigma(const struct jstr *s, size_t at, size_t next)
{
    size_t end;
    bool before = at > 0 && u_cased(jstr_char(s, jstr_prev(s, at), &end));
    return before && !(next < s->n && u_cased(jstr_char(s, next, &end)));
}

// One character of jstr_case; `head` where a word (title) or the string (capitalize) begins.
static size_t map_case(const struct jstr *s, size_t at, size_t next, uint32_t cp, enum jcase how,
                       bool head, uint32_t ret[3])
{
    if (how == JCASE_UPPER || (how == JCASE_SWAP && u_lower(cp)))
        return u_to_upper(cp, ret);
    if (how == JCASE_SWAP && !u_upper(cp)) {
        ret[0] = cp;
        return 1;
    }
    if ((how == JCASE_TITLE || how == JCASE_CAPITALIZE) && head)
        return u_to_title(cp, ret);
    if (how == JCASE_FOLD && cp == 0xdf) {
        ret[0] = ret[1] = 's';
        return 2;
    }
    if (cp == 0x3a3 && how != JCASE_FOLD && final_sigma(s, at, next)) {
        ret[0] = 0x3c2;
        return 1;
    }
    return u_to_lower(cp, ret);
}

struct jstr *jstr_case(struct jx *x, const struct jstr *s, enum jcase how)
{
    struct jbuild b = jbuild_start(x);
    size_t next;
    bool head = true;
    jx_chars(x, s->n);
    for (size_t at = 0; at < s->n; at = next) {
        uint32_t cp = jstr_char(s, at, &next), ret[3];
        size_t n = map_case(s, at, next, cp, how, head, ret);
        for (size_t i = 0; i < n; i++)
            jbuild_char(&b, ret[i], jstr_source(s, at));
        head = how == JCASE_TITLE && !u_cased(cp);
    }
    struct jstr *r = jbuild_end(&b);
    r->markup = s->markup;
    return r;
}

static const char *entity(char c)
{
    switch (c) {
    case '&': return "&amp;";
    case '<': return "&lt;";
    case '>': return "&gt;";
    case '\'': return "&#39;";
    case '"': return "&#34;";
    default: return NULL;
    }
}

struct jstr *jstr_escape(struct jx *x, struct jstr *s)
{
    if (s->markup)
        return s;
    struct jbuild b = jbuild_start(x);
    size_t from = 0;
    for (size_t at = 0; at < s->n; at++) {
        const char *e = entity(s->p[at]);
        if (!e)
            continue;
        jbuild_sub(&b, s, from, at);
        jbuild_add(&b, e, strlen(e), jstr_source(s, at));
        from = at + 1;
    }
    jbuild_sub(&b, s, from, s->n);
    struct jstr *r = jbuild_end(&b);
    r->markup = true;
    return r;
}
