// Python's str() and repr().
#include "engine/text/jinja/print.h"
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/base.h"
#include "engine/text/jinja/unicode.h"

// The shortest digits that give back d (no point, no trailing zeros), and as result the decimal
// exponent of the first one.
static int shortest(double d, char digits[20])
{
    char buf[40];
    for (int precision = 0; precision < 17; precision++) {
        snprintf(buf, sizeof(buf), "%.*e", precision, d);
        if (strtod(buf, NULL) == d)
            break;
    }
    size_t n = 0;
    for (const char *c = buf; *c && *c != 'e'; c++) {
        if (*c >= '0' && *c <= '9')
            digits[n++] = *c;
    }
    while (n > 1 && digits[n - 1] == '0')
        n--;
    digits[n] = '\0';
    return (int)strtol(strchr(buf, 'e') + 1, NULL, 10);
}

void jfloat_text(double d, char buf[JFLOAT_TEXT])
{
    char digits[20];
    if (isnan(d) || isinf(d)) {
        snprintf(buf, JFLOAT_TEXT, "%s", isnan(d) ? "nan" : d < 0 ? "-inf" : "inf");
        return;
    }
    const char *sign = signbit(d) ? "-" : "";
    int exp = shortest(fabs(d), digits), n = (int)strlen(digits);
    if (exp < -4 || exp >= 16)
        snprintf(buf, JFLOAT_TEXT, "%s%c%s%se%c%02d", sign, digits[0], n > 1 ? "." : "", digits + 1,
                 exp < 0 ? '-' : '+', abs(exp));
    else if (exp < 0)
        snprintf(buf, JFLOAT_TEXT, "%s0.%.*s%s", sign, -exp - 1, "0000", digits);
    else if (n <= exp + 1)
        snprintf(buf, JFLOAT_TEXT, "%s%s%.*s.0", sign, digits, exp + 1 - n, "0000000000000000");
    else
        snprintf(buf, JFLOAT_TEXT, "%s%.*s.%s", sign, exp + 1, digits, digits + exp + 1);
}

void jprint_number(struct jbuild *b, struct jval v)
{
    char buf[JFLOAT_TEXT];
    if (v.kind == J_INT) {
        jbuild_printf(b, "%" PRId64, v.i);
    } else if (v.kind == J_BIG) {
        jbuild_str(b, v.s);
    } else {
        jfloat_text(v.d, buf);
        jbuild_text(b, buf);
    }
}

static void repr_char(struct jbuild *b, uint32_t cp, char quote, enum jsource from)
{
    char buf[16];
    const char *named = cp == '\n' ? "\\n" : cp == '\r' ? "\\r" : cp == '\t' ? "\\t"
                      : cp == '\\' ? "\\\\" : NULL;
    if (named)
        snprintf(buf, sizeof(buf), "%s", named);
    else if (cp == (uint32_t)quote)
        snprintf(buf, sizeof(buf), "\\%c", quote);
    else if (u_printable(cp)) {
        jbuild_char(b, cp, from);
        return;
    } else {
        snprintf(buf, sizeof(buf),
                 cp < 0x100     ? "\\x%02x"
                 : cp < 0x10000 ? "\\u%04x"
                                : "\\U%08x",
                 cp);
    }
    jbuild_add(b, buf, strlen(buf), from);
}

static void repr_str(struct jbuild *b, const struct jstr *s)
{
    char quote = memchr(s->p, '\'', s->n) && !memchr(s->p, '"', s->n) ? '"' : '\'';
    size_t next;
    jx_chars(b->x, s->n);
    if (s->markup)
        jbuild_text(b, "Markup(");
    jbuild_add(b, &quote, 1, JS_TEMPLATE);
    for (size_t at = 0; at < s->n; at = next) {
        uint32_t cp = jstr_char(s, at, &next);
        repr_char(b, cp, quote, jstr_source(s, at));
    }
    jbuild_add(b, &quote, 1, JS_TEMPLATE);
    if (s->markup)
        jbuild_text(b, ")");
}

static void repr_items(struct jbuild *b, struct jval v, const char *open, const char *close)
{
    struct jval item;
    bool first = true;
    jbuild_text(b, open);
    for (struct jiter it = jiter_start(b->x, v); jiter_next(b->x, &it, &item); first = false) {
        if (!first)
            jbuild_text(b, ", ");
        jprint_repr(b, item);
    }
    jbuild_text(b, close);
}

static void repr_dict(struct jbuild *b, const struct jdict *m)
{
    jbuild_text(b, "{");
    for (size_t i = 0; i < m->n; i++) {
        jx_step(b->x, 1);
        jbuild_text(b, i ? ", " : "");
        jprint_repr(b, m->pair[i].key);
        jbuild_text(b, ": ");
        jprint_repr(b, m->pair[i].val);
    }
    jbuild_text(b, "}");
}

static void repr_range(struct jbuild *b, const struct jrange *r)
{
    jbuild_printf(b, "range(%" PRId64 ", %" PRId64, r->start, r->stop);
    if (r->step != 1)
        jbuild_printf(b, ", %" PRId64, r->step);
    jbuild_text(b, ")");
}

void jprint_repr(struct jbuild *b, struct jval v)
{
    jx_enter_value(b->x);
    switch (v.kind) {
    case J_UNDEFINED: jbuild_text(b, "Undefined"); break;
    case J_NONE: jbuild_text(b, "None"); break;
    case J_BOOL: jbuild_text(b, v.b ? "True" : "False"); break;
    case J_INT: case J_BIG: case J_FLOAT: jprint_number(b, v); break;
    case J_STR: repr_str(b, v.s); break;
    case J_LIST: repr_items(b, v, "[", "]"); break;
    case J_TUPLE: repr_items(b, v, "(", v.l->n == 1 ? ",)" : ")"); break;
    case J_DICT: repr_dict(b, v.m); break;
    case J_KEYS: repr_items(b, v, "dict_keys([", "])"); break;
    case J_VALUES: repr_items(b, v, "dict_values([", "])"); break;
    case J_ITEMS: repr_items(b, v, "dict_items([", "])"); break;
    case J_RANGE: repr_range(b, v.range); break;
    case J_NAMESPACE:
        jbuild_text(b, "<Namespace ");
        repr_dict(b, v.m);
        jbuild_text(b, ">");
        break;
    default: jbuild_printf(b, "<%s>", jtype(v)); break;     // Python prints an address
    }
    jx_leave_value(b->x);
}

void jprint_str(struct jbuild *b, struct jval v)
{
    if (v.kind == J_STR)
        jbuild_str(b, v.s);
    else if (v.kind != J_UNDEFINED)
        jprint_repr(b, v);
}

struct jstr *jto_str(struct jx *x, struct jval v)
{
    if (v.kind == J_STR)
        return v.s;
    struct jbuild b = jbuild_start(x);
    jprint_str(&b, v);
    return jbuild_end(&b);
}
