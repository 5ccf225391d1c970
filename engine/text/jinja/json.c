// A recursive-descent reader of JSON, bounded in depth and linear in time.
#include "engine/text/jinja/json.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "base/base.h"
#include "engine/text/jinja/jstr.h"
#include "engine/text/utf8.h"

struct reader {
    struct jx  *x;
    const char *begin, *p, *end;
    const char *what;
    unsigned    depth;
};

static _Noreturn void bad(struct reader *r, const char *why)
{
    jx_fail_plain(r->x, -EINVAL, "%s: %s at byte %zu", r->what, why, (size_t)(r->p - r->begin));
}

static void skip_space(struct reader *r)
{
    while (r->p < r->end && (*r->p == ' ' || *r->p == '\t' || *r->p == '\n' || *r->p == '\r'))
        r->p++;
}

static bool take(struct reader *r, char c)
{
    if (r->p == r->end || *r->p != c)
        return false;
    r->p++;
    return true;
}

static bool take_word(struct reader *r, const char *word)
{
    size_t n = strlen(word);
    if ((size_t)(r->end - r->p) < n || memcmp(r->p, word, n) != 0)
        return false;
    r->p += n;
    return true;
}

static bool digit(const struct reader *r)
{
    return r->p < r->end && *r->p >= '0' && *r->p <= '9';
}

static void digits(struct reader *r)
{
    if (!digit(r))
        bad(r, "a digit is missing");
    while (digit(r))
        r->p++;
}

static struct jval integer(struct reader *r, const char *from, size_t n)
{
    int64_t v = 0;
    bool negative = *from == '-';
    for (size_t i = negative; i < n; i++) {
        int d = from[i] - '0';
        if (__builtin_mul_overflow(v, 10, &v) || __builtin_sub_overflow(v, d, &v))
            goto big;
    }
    if (negative)
        return jint(v);
    if (v != INT64_MIN)
        return jint(-v);
big:
    return (struct jval){ .kind = J_BIG, .s = jstr_copy(r->x, from, n, JS_DATA) };
}

static struct jval real(struct reader *r, const char *from, size_t n)
{
    char buf[64], *text = buf;  // strtod needs a NUL behind the number
    if (n >= sizeof(buf))
        text = jx_alloc(r->x, n + 1);
    memcpy(text, from, n);
    text[n] = '\0';
    return jfloat(strtod(text, NULL));
}

static struct jval number(struct reader *r)
{
    const char *from = r->p;
    bool is_real = false;
    take(r, '-');
    if (!take(r, '0'))
        digits(r);
    if (take(r, '.')) {
        is_real = true;
        digits(r);
    }
    if (take(r, 'e') || take(r, 'E')) {
        is_real = true;
        if (!take(r, '+'))
            take(r, '-');
        digits(r);
    }
    size_t n = (size_t)(r->p - from);
    return is_real ? real(r, from, n) : integer(r, from, n);
}

static uint32_t hex4(struct reader *r)
{
    uint32_t v = 0;
    for (int i = 0; i < 4; i++) {
        char c = r->p < r->end ? *r->p : '\0', low = (char)(c | 32);
        int d = c >= '0' && c <= '9' ? c - '0' : low >= 'a' && low <= 'f' ? low - 'a' + 10 : -1;
        if (d < 0)
            bad(r, "a bad \\u escape");
        v = v << 4 | (uint32_t)d;
        r->p++;
    }
    return v;
}

static uint32_t unicode_escape(struct reader *r)
{
    uint32_t hi = hex4(r);
    if (hi < 0xd800 || hi > 0xdfff)
        return hi;
    const char *after = r->p;
    if (hi < 0xdc00 && take_word(r, "\\u")) {
        uint32_t lo = hex4(r);
        if (lo >= 0xdc00 && lo <= 0xdfff)
            return 0x10000 + ((hi - 0xd800) << 10) + (lo - 0xdc00);
        r->p = after;           // the second escape stands for itself
    }
    return 0xfffd;
}

static void escape(struct reader *r, struct jbuild *b)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    char c = r->p < r->end ? *r->p++ : '\0';
    const char *hit = c ? strchr(from, c) : NULL;
    if (hit)
        jbuild_add(b, &to[hit - from], 1, JS_DATA);
    else if (c == 'u')
        jbuild_char(b, unicode_escape(r), JS_DATA);
    else
        bad(r, "a bad escape");
}

// Behind the opening quote.
static struct jval string(struct reader *r)
{
    struct jbuild b = jbuild_start(r->x);
    for (;;) {
        const char *from = r->p;
        while (r->p < r->end && *r->p != '"' && *r->p != '\\' && (unsigned char)*r->p >= 0x20)
            r->p++;
        jbuild_add(&b, from, (size_t)(r->p - from), JS_DATA);
        if (take(r, '"'))
            return jstring(jbuild_end(&b));
        if (!take(r, '\\'))
            bad(r, r->p == r->end ? "a string has no end" : "a control character in a string");
        escape(r, &b);
    }
}

static struct jval value(struct reader *r);

static struct jval array(struct reader *r)
{
    struct jlist *l = jlist_new(r->x);
    skip_space(r);
    if (take(r, ']'))
        return jlistval(l);
    for (;;) {
        jlist_add(r->x, l, value(r));
        skip_space(r);
        if (take(r, ']'))
            return jlistval(l);
        if (!take(r, ','))
            bad(r, "',' or ']' expected");
    }
}

static struct jval object(struct reader *r)
{
    struct jdict *m = jdict_new(r->x);
    skip_space(r);
    if (take(r, '}'))
        return jdictval(m);
    for (;;) {
        skip_space(r);
        if (!take(r, '"'))
            bad(r, "a key expected");
        struct jval key = string(r);
        skip_space(r);
        if (!take(r, ':'))
            bad(r, "':' expected");
        jdict_set(r->x, m, key, value(r));
        skip_space(r);
        if (take(r, '}'))
            return jdictval(m);
        if (!take(r, ','))
            bad(r, "',' or '}' expected");
    }
}

static struct jval nested(struct reader *r, struct jval (*parse)(struct reader *))
{
    if (++r->depth > JX_JSON_DEPTH)
        jx_fail_plain(r->x, -E2BIG, "%s: nested more than %d deep", r->what, JX_JSON_DEPTH);
    struct jval v = parse(r);
    r->depth--;
    return v;
}

static struct jval value(struct reader *r)
{
    skip_space(r);
    if (take(r, '"'))
        return string(r);
    if (take(r, '{'))
        return nested(r, object);
    if (take(r, '['))
        return nested(r, array);
    if (digit(r) || (r->p < r->end && *r->p == '-'))
        return number(r);
    if (take_word(r, "true"))
        return jbool(true);
    if (take_word(r, "false"))
        return jbool(false);
    if (!take_word(r, "null"))
        bad(r, "a value expected");
    return jnone();
}

struct jval json_parse(struct jx *x, const char *p, size_t n, const char *what)
{
    struct reader r = { x, p, p, p + n, what, 0 };
    if (!utf8_valid(p, n))
        jx_fail_plain(x, -EINVAL, "%s: not UTF-8", what);
    struct jval v = value(&r);
    skip_space(&r);
    if (r.p != r.end)
        bad(&r, "more text behind the value");
    return v;
}

bool json_try(struct jx *x, const char *p, size_t n, struct jval *ret)
{
    jmp_buf outer;
    memcpy(&outer, &x->out, sizeof(outer));
    if (setjmp(x->out) == 0)
        *ret = json_parse(x, p, n, "");
    memcpy(&x->out, &outer, sizeof(outer));
    if (x->code && x->code != -EINVAL)
        longjmp(x->out, 1);
    bool ok = x->code == 0;
    x->code = 0;
    x->err.msg[0] = '\0';
    return ok;
}
