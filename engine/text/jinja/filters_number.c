// Filters from one value to a number.
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/base.h"
#include "engine/text/jinja/builtin.h"
#include "engine/text/jinja/jstr.h"

static struct jval from_double(struct jx *x, double d, struct jval fallback)
{
    if (isnan(d) || isinf(d))
        return fallback;
    if (fabs(d) >= 9223372036854775808.0)
        jx_fail(x, -E2BIG, "an integer beyond 64 bits");
    return jint((int64_t)d);
}

// Python's float(text); false where it raises.
static bool parse_float(struct jx *x, const struct jstr *text, double *ret)
{
    const struct jstr *s = jstr_strip(x, text, NULL, JSTR_LEFT | JSTR_RIGHT);
    char *buf = jx_alloc(x, s->n + 1), *end;
    size_t n = 0;
    for (size_t i = 0; i < s->n; i++) {
        bool joint = s->p[i] == '_' && i && i + 1 < s->n && (unsigned)s->p[i - 1] - '0' < 10u &&
                     (unsigned)s->p[i + 1] - '0' < 10u;
        if (!joint)
            buf[n++] = s->p[i];
    }
    if (n == 0 || strpbrk(buf, "xX(_ \t\n") || memchr(buf, '\0', n))
        return false;           // strtod takes more than Python does
    *ret = strtod(buf, &end);
    return end == buf + n;
}

static int digit_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    return (c | 32) >= 'a' && (c | 32) <= 'z' ? (c | 32) - 'a' + 10 : 99;
}

// Python's int(text, base); false where it raises.
static bool parse_int(struct jx *x, const struct jstr *text, int64_t base, int64_t *ret)
{
    const struct jstr *s = jstr_strip(x, text, NULL, JSTR_LEFT | JSTR_RIGHT);
    size_t i = s->n && (s->p[0] == '-' || s->p[0] == '+');
    bool negative = i && s->p[0] == '-', digit = false;
    int64_t v = 0;
    if (i + 1 < s->n && s->p[i] == '0') {
        char c = (char)(s->p[i + 1] | 32);
        int64_t named = c == 'x' ? 16 : c == 'o' ? 8 : c == 'b' ? 2 : 0;
        if (named && (base == named || base == 0)) {
            base = named;
            i += 2;
        }
    }
    base = base == 0 ? 10 : base;
    for (; i < s->n; i++) {
        int d = digit_value(s->p[i]);
        if (s->p[i] == '_' && digit && i + 1 < s->n) {
            digit = false;
            continue;
        }
        if (d >= base)
            return false;
        digit = true;
        if (__builtin_mul_overflow(v, base, &v) ||
            (negative ? __builtin_sub_overflow(v, d, &v) : __builtin_add_overflow(v, d, &v)))
            jx_fail(x, -E2BIG, "an integer beyond 64 bits");
    }
    *ret = v;
    return digit;
}

static struct jval f_int(struct jx *x, struct jval v, const struct jval *arg)
{
    struct jval fallback = jgiven(arg[0]) ? arg[0] : jint(0);
    int64_t i;
    double d;
    if (v.kind == J_BIG)
        return v;
    if (v.kind == J_UNDEFINED)
        jfail_undefined(x, v);
    if (jas_int(v, &i))
        return jint(i);
    if (v.kind == J_FLOAT)
        return from_double(x, v.d, fallback);
    if (v.kind != J_STR)
        return fallback;
    if (parse_int(x, v.s, jarg_int(x, arg[1], 10), &i))
        return jint(i);
    return parse_float(x, v.s, &d) ? from_double(x, d, fallback) : fallback;
}

static struct jval f_float(struct jx *x, struct jval v, const struct jval *arg)
{
    double d;
    if (v.kind == J_UNDEFINED)
        jfail_undefined(x, v);
    if (jas_float(v, &d) || (v.kind == J_STR && parse_float(x, v.s, &d)))
        return jfloat(d);
    return jgiven(arg[0]) ? arg[0] : jfloat(0);
}

static struct jval f_abs(struct jx *x, struct jval v, const struct jval *arg)
{
    int64_t i;
    (void)arg;
    if (v.kind == J_FLOAT)
        return jfloat(fabs(v.d));
    if (v.kind == J_BIG)
        return v.s->p[0] == '-' ? jnegate(x, v, true) : v;
    if (jas_int(v, &i))
        return i < 0 ? jnegate(x, v, true) : jint(i);
    if (v.kind == J_UNDEFINED)
        jfail_undefined(x, v);
    jx_fail(x, -EINVAL, "bad operand type for abs(): '%s'", jtype(v));
}

// Correctly rounded to a number of decimals, as Python does it: through the digits.
static double round_digits(double d, int64_t precision)
{
    char buf[400];
    if (precision > 300 || isnan(d) || isinf(d))
        return d;
    if (precision < -300)
        return copysign(0.0, d);
    if (precision < 0) {
        double p = pow(10, (double)-precision);
        return nearbyint(d / p) * p;
    }
    if (fabs(d) >= 1e17)
        return d;
    snprintf(buf, sizeof(buf), "%.*f", (int)precision, d);
    return strtod(buf, NULL);
}

static struct jval f_round(struct jx *x, struct jval v, const struct jval *arg)
{
    const struct jstr *how = jarg_str(x, arg[1], jstr_lit(x, "common"));
    int64_t precision = jarg_int(x, arg[0], 0);
    double d, p = pow(10, (double)precision);
    if (v.kind == J_UNDEFINED)
        jfail_undefined(x, v);
    if (!jas_float(v, &d))
        jx_fail(x, -EINVAL, "type %s doesn't define round", jtype(v));
    if (jstr_is(how, "common")) {
        int64_t i;
        if (jas_int(v, &i) && precision >= 0)
            return jint(i);
        d = round_digits(d, precision);
        return v.kind == J_FLOAT ? jfloat(d) : from_double(x, d, jint(0));
    }
    if (!jstr_is(how, "ceil") && !jstr_is(how, "floor"))
        jx_fail(x, -EINVAL, "method must be common, ceil or floor");
    return jfloat((jstr_is(how, "ceil") ? ceil(d * p) : floor(d * p)) / p);
}

const struct jfunc jfilters_number[] = {
    { "int", "default base", f_int, NULL },
    { "float", "default", f_float, NULL },
    { "abs", "", f_abs, NULL },
    { "round", "precision method", f_round, NULL },
    { NULL },
};
