// "{}".format(value).
#include <errno.h>
#include <string.h>
#include "base/base.h"
#include "engine/text/jinja/builtin.h"
#include "engine/text/jinja/format.h"

struct braces {
    struct jbuild       b;
    struct jstr        *fmt;
    size_t              at;
    const struct jargs *args;
    size_t              next;   // automatic number
};

static int64_t digits(const struct jstr *s, size_t *at, size_t end)
{
    int64_t n = 0;
    for (; *at < end && s->p[*at] >= '0' && s->p[*at] <= '9'; ++*at)
        n = MIN(n * 10 + (s->p[*at] - '0'), (int64_t)INT32_MAX);
    return n;
}

static bool is_align(char c)
{
    return c == '<' || c == '>' || c == '^' || c == '=';
}

// [[fill]align][sign][#][0][width][,][.precision][type]
static struct jspec read_spec(struct jx *x, struct jstr *s, size_t at, size_t end)
{
    struct jspec r = { .precision = -1, .given = at < end };
    size_t next = at < end ? jstr_next(s, at) : end;
    if (next < end && is_align(s->p[next])) {
        r.fill = *jstr_sub(x, s, at, next);
        r.align = s->p[next];
        at = next + 1;
    } else if (at < end && is_align(s->p[at])) {
        r.align = s->p[at++];
    }
    if (at < end && memchr("+- ", s->p[at], 3))
        r.sign = s->p[at++];
    if (at < end && s->p[at] == '#')
        r.alt = s->p[at++] == '#';
    if (at < end && s->p[at] == '0')
        r.zero = s->p[at++] == '0';
    r.width = digits(s, &at, end);
    if (at < end && s->p[at] == ',')
        r.comma = s->p[at++] == ',';
    if (at < end && s->p[at] == '.') {
        at++;
        r.precision = digits(s, &at, end);
    }
    if (at < end)
        r.type = s->p[at++];
    if (at < end)
        jx_fail(x, -EINVAL, "invalid format specifier");
    return r;
}

static struct jval field_root(struct braces *f, struct jstr *name)
{
    size_t at = 0;
    struct jx *x = f->b.x;
    size_t i = name->n ? (size_t)digits(name, &at, name->n) : f->next++;
    if (at == name->n) {
        if (i >= f->args->n_pos)
            jx_fail(x, -EINVAL, "format() has no argument %zu", i);
        return f->args->pos[i];
    }
    for (i = 0; i < f->args->n_kw; i++) {
        if (jstr_same(f->args->kw[i].name, name))
            return f->args->kw[i].val;
    }
    jx_fail(x, -EINVAL, "format() has no argument '%s'", jstr_brief(x, name));
}

static bool ends_part(char c, bool attr)
{
    return attr ? c == '.' || c == '[' : c == ']';
}

// name, name.attr, name[key]
static struct jval field_value(struct braces *f, size_t at, size_t end)
{
    struct jx *x = f->b.x;
    size_t to = at;
    while (to < end && f->fmt->p[to] != '.' && f->fmt->p[to] != '[')
        to++;
    struct jval v = field_root(f, jstr_sub(x, f->fmt, at, to));
    while (to < end) {
        bool attr = f->fmt->p[to] == '.';
        at = ++to;
        while (to < end && !ends_part(f->fmt->p[to], attr))
            to++;
        struct jstr *key = jstr_copy(x, f->fmt->p + at, to - at, JS_TEMPLATE);
        size_t k = 0;
        int64_t i = digits(key, &k, key->n);
        if (attr)
            v = jgetattr(x, v, key);
        else
            v = jgetitem(x, v, k == key->n && k ? jint(i) : jstring(key));
        to += !attr;
    }
    return v;
}

static void put_value(struct jbuild *b, struct jspec *s, struct jval v)
{
    double d;
    int64_t i;
    bool floating = s->type && strchr("eEfFgG%", s->type);
    if (v.kind == J_FLOAT || (floating && jas_float(v, &d))) {
        jas_float(v, &d);
        jput_float(b, s, d, floating ? s->type : s->precision < 0 ? 'r' : 'g');
    } else if ((v.kind == J_INT || (v.kind == J_BOOL && s->given)) && s->type != 's') {
        jas_int(v, &i);
        jput_int(b, s, i);
    } else {
        jput_text(b, s, jto_str(b->x, v));
    }
}

// The field between braces: [value][!conversion][:spec]
static void field(struct braces *f, size_t end)
{
    struct jx *x = f->b.x;
    size_t name = f->at;
    while (name < end && f->fmt->p[name] != ':' && f->fmt->p[name] != '!') {
        if (f->fmt->p[name] == '[')
            while (name + 1 < end && f->fmt->p[name] != ']')
                name++;
        name++;
    }
    struct jval v = field_value(f, f->at, name);
    size_t at = name;
    if (at < end && f->fmt->p[at] == '!') {
        char how = at + 1 < end ? f->fmt->p[at + 1] : '\0';
        struct jbuild text = jbuild_start(x);
        if (how == 'r')
            jprint_repr(&text, v);
        else if (how == 's')
            jprint_str(&text, v);
        else
            jx_fail(x, -EINVAL, "unknown conversion in a format string");
        v = jstring(jbuild_end(&text));
        at += 2;
    }
    if (at < end && f->fmt->p[at] != ':')
        jx_fail(x, -EINVAL, "expected ':' in a format string");
    if (at < end && memchr(f->fmt->p + at, '{', end - at))
        jx_fail(x, -EINVAL, "nested fields in a format string are not supported");
    struct jspec s = read_spec(x, f->fmt, MIN(at + 1, end), end);
    if (f->fmt->markup)
        v = jstring(jstr_escape(x, jto_str(x, v)));
    put_value(&f->b, &s, v);
}

static void brace(struct braces *f)
{
    struct jx *x = f->b.x;
    char c = f->fmt->p[f->at];
    if (f->at + 1 < f->fmt->n && f->fmt->p[f->at + 1] == c) {
        jbuild_sub(&f->b, f->fmt, f->at, f->at + 1);
        f->at += 2;
        return;
    }
    if (c == '}')
        jx_fail(x, -EINVAL, "single '}' encountered in format string");
    f->at++;
    size_t end = f->at;
    for (int depth = 1; depth && end < f->fmt->n; end++)
        depth += f->fmt->p[end] == '{' ? 1 : f->fmt->p[end] == '}' ? -1 : 0;
    if (end > f->fmt->n || end == f->at || f->fmt->p[end - 1] != '}')
        jx_fail(x, -EINVAL, "expected '}' before end of string");
    field(f, end - 1);
    f->at = end;
}

struct jval jformat_braces(struct jx *x, struct jstr *fmt, const struct jargs *args)
{
    struct braces f = { .b = jbuild_start(x), .fmt = fmt, .args = args };
    while (f.at < fmt->n) {
        size_t to = f.at;
        while (to < fmt->n && fmt->p[to] != '{' && fmt->p[to] != '}')
            to++;
        jbuild_sub(&f.b, fmt, f.at, to);
        f.at = to;
        if (to < fmt->n)
            brace(&f);
    }
    struct jstr *r = jbuild_end(&f.b);
    r->markup = fmt->markup;
    return jstring(r);
}
