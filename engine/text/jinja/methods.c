// Methods of str.
#include <errno.h>
#include <string.h>
#include "base/base.h"
#include "engine/text/jinja/builtin.h"
#include "engine/text/jinja/print.h"
#include "engine/text/jinja/unicode.h"

// An argument that joins a markup string is escaped first, as markupsafe does.
static struct jstr *other(struct jx *x, const struct jstr *self, struct jval v)
{
    struct jstr *s = jneed_str(x, v, "argument");
    return self->markup ? jstr_escape(x, s) : s;
}

static struct jval strip(struct jx *x, struct jval v, const struct jval *arg, int sides)
{
    return jstring(jstr_strip(x, v.s, jarg_str(x, arg[0], NULL), sides));
}

static struct jval s_strip(struct jx *x, struct jval v, const struct jval *arg)
{
    return strip(x, v, arg, JSTR_LEFT | JSTR_RIGHT);
}

static struct jval s_lstrip(struct jx *x, struct jval v, const struct jval *arg)
{
    return strip(x, v, arg, JSTR_LEFT);
}

static struct jval s_rstrip(struct jx *x, struct jval v, const struct jval *arg)
{
    return strip(x, v, arg, JSTR_RIGHT);
}

static struct jval s_split(struct jx *x, struct jval v, const struct jval *arg)
{
    return jlistval(jstr_split(x, v.s, jarg_str(x, arg[0], NULL), jarg_int(x, arg[1], -1)));
}

static struct jval s_rsplit(struct jx *x, struct jval v, const struct jval *arg)
{
    return jlistval(jstr_rsplit(x, v.s, jarg_str(x, arg[0], NULL), jarg_int(x, arg[1], -1)));
}

static struct jval s_splitlines(struct jx *x, struct jval v, const struct jval *arg)
{
    return jlistval(jstr_lines(x, v.s, jarg_bool(arg[0], false)));
}

static struct jval s_replace(struct jx *x, struct jval v, const struct jval *arg)
{
    return jstring(jstr_replace(x, v.s, jneed_str(x, arg[0], "argument"), other(x, v.s, arg[1]),
                                jarg_int(x, arg[2], -1)));
}

static struct jval s_upper(struct jx *x, struct jval v, const struct jval *arg)
{
    (void)arg;
    return jstring(jstr_case(x, v.s, JCASE_UPPER));
}

static struct jval s_lower(struct jx *x, struct jval v, const struct jval *arg)
{
    (void)arg;
    return jstring(jstr_case(x, v.s, JCASE_LOWER));
}

static struct jval s_title(struct jx *x, struct jval v, const struct jval *arg)
{
    (void)arg;
    return jstring(jstr_case(x, v.s, JCASE_TITLE));
}

static struct jval s_capitalize(struct jx *x, struct jval v, const struct jval *arg)
{
    (void)arg;
    return jstring(jstr_case(x, v.s, JCASE_CAPITALIZE));
}

static struct jval s_swapcase(struct jx *x, struct jval v, const struct jval *arg)
{
    (void)arg;
    return jstring(jstr_case(x, v.s, JCASE_SWAP));
}

static struct jval s_casefold(struct jx *x, struct jval v, const struct jval *arg)
{
    (void)arg;
    return jstring(jstr_case(x, v.s, JCASE_FOLD));
}

// The part of a string between two optional character positions, as bytes; false: an empty range
// that Python does not search at all.
static bool part(struct jx *x, struct jstr *s, const struct jval *arg, size_t *from, size_t *to)
{
    size_t len;
    jlength(x, jstring(s), &len);
    int64_t n = (int64_t)len, a = jarg_int(x, arg[0], 0), b = jarg_int(x, arg[1], n);
    a = a < 0 ? MAX(a < -n ? 0 : a + n, (int64_t)0) : a;
    b = b < 0 ? MAX(b < -n ? 0 : b + n, (int64_t)0) : MIN(b, n);
    if (a > b)
        return false;
    *from = jstr_offset(x, s, (size_t)a);
    *to = jstr_offset(x, s, (size_t)b);
    return true;
}

static bool affix(struct jx *x, const struct jstr *s, struct jval what,
                  bool (*has)(const struct jstr *, const struct jstr *))
{
    if (what.kind != J_TUPLE)
        return has(s, jneed_str(x, what, "argument"));
    for (size_t i = 0; i < what.l->n; i++) {
        if (has(s, jneed_str(x, what.l->v[i], "argument")))
            return true;
    }
    return false;
}

static struct jval s_startswith(struct jx *x, struct jval v, const struct jval *arg)
{
    size_t from, to;
    return jbool(part(x, v.s, arg + 1, &from, &to) &&
                 affix(x, jstr_sub(x, v.s, from, to), arg[0], jstr_starts));
}

static struct jval s_endswith(struct jx *x, struct jval v, const struct jval *arg)
{
    size_t from, to;
    return jbool(part(x, v.s, arg + 1, &from, &to) &&
                 affix(x, jstr_sub(x, v.s, from, to), arg[0], jstr_ends));
}

static struct jval s_removeprefix(struct jx *x, struct jval v, const struct jval *arg)
{
    struct jstr *head = jneed_str(x, arg[0], "argument");
    return jstr_starts(v.s, head) ? jstring(jstr_sub(x, v.s, head->n, v.s->n)) : v;
}

static struct jval s_removesuffix(struct jx *x, struct jval v, const struct jval *arg)
{
    struct jstr *tail = jneed_str(x, arg[0], "argument");
    return jstr_ends(v.s, tail) ? jstring(jstr_sub(x, v.s, 0, v.s->n - tail->n)) : v;
}

static int64_t position(struct jx *x, struct jstr *s, const struct jval *arg, bool last)
{
    size_t from, to, hit;
    struct jstr *what = jneed_str(x, arg[0], "argument");
    if (!part(x, s, arg + 1, &from, &to))
        return -1;
    struct jstr *in = jstr_sub(x, s, 0, to);
    hit = last ? jstr_rfind(x, in, what, to) : jstr_find(x, in, what, from);
    if (hit == JSTR_NONE || hit < from)
        return -1;
    size_t chars;
    jlength(x, jstring(jstr_sub(x, s, 0, hit)), &chars);
    return (int64_t)chars;
}

static int64_t found(struct jx *x, int64_t at)
{
    if (at < 0)
        jx_fail(x, -EINVAL, "substring not found");
    return at;
}

static struct jval s_find(struct jx *x, struct jval v, const struct jval *arg)
{
    return jint(position(x, v.s, arg, false));
}

static struct jval s_rfind(struct jx *x, struct jval v, const struct jval *arg)
{
    return jint(position(x, v.s, arg, true));
}

static struct jval s_index(struct jx *x, struct jval v, const struct jval *arg)
{
    return jint(found(x, position(x, v.s, arg, false)));
}

static struct jval s_rindex(struct jx *x, struct jval v, const struct jval *arg)
{
    return jint(found(x, position(x, v.s, arg, true)));
}

static struct jval s_count(struct jx *x, struct jval v, const struct jval *arg)
{
    size_t from, to, n = 0, hit, chars;
    struct jstr *what = jneed_str(x, arg[0], "argument");
    if (!part(x, v.s, arg + 1, &from, &to))
        return jint(0);
    struct jstr *in = jstr_sub(x, v.s, from, to);
    if (what->n == 0) {
        jlength(x, jstring(in), &chars);
        return jint((int64_t)chars + 1);
    }
    for (size_t at = 0; (hit = jstr_find(x, in, what, at)) != JSTR_NONE; at = hit + what->n) {
        jx_step(x, 1);
        n++;
    }
    return jint((int64_t)n);
}

static struct jval s_join(struct jx *x, struct jval v, const struct jval *arg)
{
    struct jbuild b = jbuild_start(x);
    struct jval item;
    bool first = true;
    for (struct jiter it = jiter_start(x, arg[0]); jiter_next(x, &it, &item); first = false) {
        if (!first)
            jbuild_str(&b, v.s);
        jbuild_str(&b, other(x, v.s, item));
    }
    struct jstr *r = jbuild_end(&b);
    r->markup = v.s->markup;
    return jstring(r);
}

static struct jval triple(struct jx *x, struct jval a, struct jval b, struct jval c)
{
    struct jval t = jpair_tuple(x, a, b);
    jlist_add(x, t.l, c);
    return t;
}

static struct jval s_partition(struct jx *x, struct jval v, const struct jval *arg)
{
    struct jstr *sep = jneed_str(x, arg[0], "argument"), *none = jstr_lit(x, "");
    if (sep->n == 0)
        jx_fail(x, -EINVAL, "empty separator");
    size_t hit = jstr_find(x, v.s, sep, 0);
    if (hit == JSTR_NONE)
        return triple(x, v, jstring(none), jstring(none));
    return triple(x, jstring(jstr_sub(x, v.s, 0, hit)), jstring(sep),
                  jstring(jstr_sub(x, v.s, hit + sep->n, v.s->n)));
}

static struct jval s_rpartition(struct jx *x, struct jval v, const struct jval *arg)
{
    struct jstr *sep = jneed_str(x, arg[0], "argument"), *none = jstr_lit(x, "");
    if (sep->n == 0)
        jx_fail(x, -EINVAL, "empty separator");
    size_t hit = jstr_rfind(x, v.s, sep, v.s->n);
    if (hit == JSTR_NONE)
        return triple(x, jstring(none), jstring(none), v);
    return triple(x, jstring(jstr_sub(x, v.s, 0, hit)), jstring(sep),
                  jstring(jstr_sub(x, v.s, hit + sep->n, v.s->n)));
}

// Puts the string into a width: share of the room that goes to its left.
static struct jval justify(struct jx *x, struct jval v, const struct jval *arg, int how)
{
    struct jstr *fill = jarg_str(x, arg[1], jstr_lit(x, " "));
    size_t n;
    jlength(x, v, &n);
    int64_t width = CLAMP(jarg_int(x, arg[0], 0), 0, (int64_t)JX_STR_MAX + 1),
            room = width - (int64_t)n;
    if (jstr_chars(fill) != 1)
        jx_fail(x, -EINVAL, "the fill character must be exactly one character long");
    if (room <= 0)
        return v;
    int64_t left = how < 0 ? 0 : how > 0 ? room : room / 2 + (room & width & 1);
    struct jbuild b = jbuild_start(x);
    jbuild_fill(&b, fill, (size_t)left);
    jbuild_str(&b, v.s);
    jbuild_fill(&b, fill, (size_t)(room - left));
    return jstring(jbuild_end(&b));
}

static struct jval s_ljust(struct jx *x, struct jval v, const struct jval *arg)
{
    return justify(x, v, arg, -1);
}

static struct jval s_rjust(struct jx *x, struct jval v, const struct jval *arg)
{
    return justify(x, v, arg, 1);
}

static struct jval s_center(struct jx *x, struct jval v, const struct jval *arg)
{
    return justify(x, v, arg, 0);
}

static struct jval s_zfill(struct jx *x, struct jval v, const struct jval *arg)
{
    struct jval with[2] = { arg[0], jstring(jstr_lit(x, "0")) };
    bool sign = v.s->n && (v.s->p[0] == '-' || v.s->p[0] == '+');
    if (!sign)
        return justify(x, v, with, 1);
    with[0] = jint(jarg_int(x, arg[0], 0) - 1);
    struct jval digits = justify(x, jstring(jstr_sub(x, v.s, 1, v.s->n)), with, 1);
    return jstring(jstr_concat(x, jstr_sub(x, v.s, 0, 1), digits.s));
}

static struct jval s_expandtabs(struct jx *x, struct jval v, const struct jval *arg)
{
    int64_t size = jarg_int(x, arg[0], 8), column = 0;
    struct jstr *space = jstr_lit(x, " ");
    struct jbuild b = jbuild_start(x);
    for (size_t at = 0, next; at < v.s->n; at = next) {
        uint32_t cp = jstr_char(v.s, at, &next);
        int64_t gap = cp == '\t' && size > 0 ? size - column % size : cp == '\t' ? 0 : 1;
        if (cp == '\t')
            jbuild_fill(&b, space, (size_t)gap);
        else
            jbuild_sub(&b, v.s, at, next);
        column = cp == '\n' || cp == '\r' ? 0 : column + gap;
    }
    return jstring(jbuild_end(&b));
}

static struct jval s_format(struct jx *x, struct jval v, const struct jargs *args)
{
    return jformat_braces(x, v.s, args);
}

// All characters are so, and there is one.
static struct jval all(struct jx *x, const struct jstr *s, bool (*is)(uint32_t))
{
    size_t next = 0;
    for (size_t at = 0; at < s->n; at = next) {
        if (!is(jstr_char(s, at, &next)))
            return jbool(false);
    }
    jx_chars(x, s->n);
    return jbool(s->n != 0);
}

static bool is_alnum(uint32_t cp)
{
    return u_alpha(cp) || u_numeric(cp);
}

static bool is_ascii(uint32_t cp)
{
    return cp < 0x80;
}

#define IS(id, is) \
    static struct jval s_##id(struct jx *x, struct jval v, const struct jval *arg) \
    { \
        (void)arg; \
        return all(x, v.s, is); \
    }

IS(isspace, u_space)
IS(isalpha, u_alpha)
IS(isalnum, is_alnum)
IS(isdigit, u_digit)
IS(isdecimal, u_decimal)
IS(isnumeric, u_numeric)

static struct jval s_isascii(struct jx *x, struct jval v, const struct jval *arg)
{
    (void)arg;
    return jbool(v.s->n == 0 || all(x, v.s, is_ascii).b);
}

static struct jval cased(struct jx *x, struct jval v, const char *test)
{
    static const struct jargs none = {0};
    return jinvoke(x, jtest_find(jstr_lit(x, test)), v, &none);
}

static struct jval s_isupper(struct jx *x, struct jval v, const struct jval *arg)
{
    (void)arg;
    return cased(x, v, "upper");
}

static struct jval s_islower(struct jx *x, struct jval v, const struct jval *arg)
{
    (void)arg;
    return cased(x, v, "lower");
}

const struct jfunc jmethods_str[] = {
    { "strip", "chars", s_strip, NULL },
    { "lstrip", "chars", s_lstrip, NULL },
    { "rstrip", "chars", s_rstrip, NULL },
    { "split", "sep maxsplit", s_split, NULL },
    { "rsplit", "sep maxsplit", s_rsplit, NULL },
    { "splitlines", "keepends", s_splitlines, NULL },
    { "replace", "old! new! count", s_replace, NULL },
    { "startswith", "prefix! start end", s_startswith, NULL },
    { "endswith", "suffix! start end", s_endswith, NULL },
    { "removeprefix", "prefix!", s_removeprefix, NULL },
    { "removesuffix", "suffix!", s_removesuffix, NULL },
    { "upper", "", s_upper, NULL },
    { "lower", "", s_lower, NULL },
    { "title", "", s_title, NULL },
    { "capitalize", "", s_capitalize, NULL },
    { "swapcase", "", s_swapcase, NULL },
    { "casefold", "", s_casefold, NULL },
    { "find", "sub! start end", s_find, NULL },
    { "rfind", "sub! start end", s_rfind, NULL },
    { "index", "sub! start end", s_index, NULL },
    { "rindex", "sub! start end", s_rindex, NULL },
    { "count", "sub! start end", s_count, NULL },
    { "join", "iterable!", s_join, NULL },
    { "partition", "sep!", s_partition, NULL },
    { "rpartition", "sep!", s_rpartition, NULL },
    { "ljust", "width! fillchar", s_ljust, NULL },
    { "rjust", "width! fillchar", s_rjust, NULL },
    { "center", "width! fillchar", s_center, NULL },
    { "zfill", "width!", s_zfill, NULL },
    { "expandtabs", "tabsize", s_expandtabs, NULL },
    { "format", NULL, NULL, s_format },
    { "isspace", "", s_isspace, NULL },
    { "isalpha", "", s_isalpha, NULL },
    { "isalnum", "", s_isalnum, NULL },
    { "isdigit", "", s_isdigit, NULL },
    { "isdecimal", "", s_isdecimal, NULL },
    { "isnumeric", "", s_isnumeric, NULL },
    { "isascii", "", s_isascii, NULL },
    { "isupper", "", s_isupper, NULL },
    { "islower", "", s_islower, NULL },
    { NULL },
};
