// "%s" % value.
#include <errno.h>
#include <math.h>
#include <string.h>
#include "base/base.h"
#include "engine/text/jinja/builtin.h"
#include "engine/text/jinja/format.h"

struct percent {
    struct jbuild   b;
    struct jstr    *fmt;
    size_t          at;
    struct jval     args;
    size_t          next;       // of a tuple's items; 1: the single value is used
};

static char fmt_char(struct percent *f)
{
    if (f->at == f->fmt->n)
        jx_fail(f->b.x, -EINVAL, "incomplete format");
    return f->fmt->p[f->at];
}

static struct jval percent_arg(struct percent *f)
{
    bool tuple = f->args.kind == J_TUPLE;
    if (f->next >= (tuple ? f->args.l->n : 1))
        jx_fail(f->b.x, -EINVAL, "not enough arguments for format string");
    f->next++;
    return tuple ? f->args.l->v[f->next - 1] : f->args;
}

static struct jval percent_named(struct percent *f)
{
    size_t from = ++f->at;
    while (fmt_char(f) != ')')
        f->at++;
    struct jstr *name = jstr_sub(f->b.x, f->fmt, from, f->at++);
    struct jval *v = f->args.kind == J_DICT ? jdict_find(f->b.x, f->args.m, jstring(name)) : NULL;
    if (!v)
        jx_fail(f->b.x, -EINVAL, "the format string's '%s' is not there",
                jstr_brief(f->b.x, name));
    return *v;
}

static int64_t percent_number(struct percent *f)
{
    int64_t n = 0;
    if (fmt_char(f) == '*') {
        f->at++;
        return jarg_int(f->b.x, percent_arg(f), 0);
    }
    for (; fmt_char(f) >= '0' && fmt_char(f) <= '9'; f->at++)
        n = MIN(n * 10 + (fmt_char(f) - '0'), (int64_t)INT32_MAX);
    return n;
}

static void percent_flags(struct percent *f, struct jspec *s)
{
    for (;; f->at++) {
        switch (fmt_char(f)) {
        case '-': s->align = '<'; break;
        case '+': s->sign = '+'; break;
        case ' ': s->sign = s->sign ? s->sign : ' '; break;
        case '#': s->alt = true; break;
        case '0': s->zero = true; break;
        default: return;
        }
    }
}

static void percent_int(struct percent *f, struct jspec *s, struct jval v)
{
    double d;
    int64_t i;
    if (v.kind == J_BIG && s->type == 'd') {
        jput_padded(&f->b, s, v.s, 0, '>');
        return;
    }
    if (!jas_int(v, &i)) {
        if (s->type != 'd' || v.kind != J_FLOAT || !(fabs(v.d) < 9e18))
            jx_fail(f->b.x, -EINVAL, "%%%c format: a number is required, not %s", s->type,
                    jtype(v));
        jas_float(v, &d);
        i = (int64_t)d;
    }
    jput_int(&f->b, s, i);
}

static void percent_value(struct percent *f, struct jspec *s, struct jval v)
{
    struct jbuild text = jbuild_start(f->b.x);
    double d;
    switch (s->type) {
    case 's':
        s->align = s->align ? s->align : '>';
        jput_text(&f->b, s,
                  f->fmt->markup ? jstr_escape(f->b.x, jto_str(f->b.x, v)) : jto_str(f->b.x, v));
        return;
    case 'r': case 'a':
        s->align = s->align ? s->align : '>';
        jprint_repr(&text, v);
        jput_text(&f->b, s, jbuild_end(&text));
        return;
    case 'i': case 'u':
        s->type = 'd';
        percent_int(f, s, v);
        return;
    case 'd': case 'x': case 'X': case 'o':
        percent_int(f, s, v);
        return;
    case 'e': case 'E': case 'f': case 'F': case 'g': case 'G':
        if (!jas_float(v, &d))
            jx_fail(f->b.x, -EINVAL, "must be real number, not %s", jtype(v));
        jput_float(&f->b, s, d, s->type);
        return;
    case 'c':
        if (v.kind != J_STR || jstr_chars(v.s) != 1)
            jx_fail(f->b.x, -EINVAL, "%%c requires a character");
        jput_text(&f->b, s, v.s);
        return;
    default:
        jx_fail(f->b.x, -EINVAL, "unsupported format character");
    }
}

// The directive behind a percent sign.
static void percent_directive(struct percent *f)
{
    struct jspec s = { .precision = -1 };
    struct jval named = {0};
    if (fmt_char(f) == '%') {
        jbuild_sub(&f->b, f->fmt, f->at, f->at + 1);
        f->at++;
        return;
    }
    if (fmt_char(f) == '(')
        named = percent_named(f);
    percent_flags(f, &s);
    s.width = percent_number(f);
    if (fmt_char(f) == '.') {
        f->at++;
        s.precision = percent_number(f);
    }
    s.type = fmt_char(f);
    f->at++;
    percent_value(f, &s, jgiven(named) ? named : percent_arg(f));
}

struct jval jformat_percent(struct jx *x, struct jstr *fmt, struct jval args)
{
    struct percent f = { .b = jbuild_start(x), .fmt = fmt, .args = args };
    while (f.at < fmt->n) {
        const char *hit = memchr(fmt->p + f.at, '%', fmt->n - f.at);
        size_t to = hit ? (size_t)(hit - fmt->p) : fmt->n;
        jbuild_sub(&f.b, fmt, f.at, to);
        f.at = to;
        if (hit) {
            f.at++;
            percent_directive(&f);
        }
    }
    bool mapping = args.kind == J_DICT || args.kind == J_LIST || args.kind == J_UNDEFINED;
    size_t given = args.kind == J_TUPLE ? args.l->n : mapping ? 0 : 1;
    if (f.next < given)
        jx_fail(x, -EINVAL, "not all arguments converted during string formatting");
    struct jstr *r = jbuild_end(&f.b);
    r->markup = fmt->markup;
    return jstring(r);
}
