// Operators on values, with Python's arithmetic; integers beyond 64 bits end the run.
#include "engine/text/jinja/builtin.h"
#include <errno.h>
#include <math.h>
#include "base/base.h"
#include "engine/text/jinja/jstr.h"

static _Noreturn void no_operator(struct jx *x, enum jtok tok, struct jval a, struct jval b)
{
    if (a.kind == J_UNDEFINED || b.kind == J_UNDEFINED)
        jfail_undefined(x, a.kind == J_UNDEFINED ? a : b);
    jx_fail(x, -EINVAL, "unsupported operand types for %s: '%s' and '%s'", jtok_name(tok), jtype(a),
            jtype(b));
}

static _Noreturn void overflow(struct jx *x)
{
    jx_fail(x, -E2BIG, "an integer beyond 64 bits");
}

static int64_t floor_div(struct jx *x, int64_t a, int64_t b)
{
    if (b == -1) {
        int64_t r;
        if (__builtin_sub_overflow((int64_t)0, a, &r))
            overflow(x);
        return r;
    }
    return a / b - (a % b != 0 && (a < 0) != (b < 0));
}

static int64_t int_power(struct jx *x, int64_t a, int64_t b)
{
    int64_t r = 1;
    for (; b > 0; b--) {
        jx_step(x, 1);
        if (a == 1 || a == 0 || a == -1)
            return a == -1 && b % 2 == 0 ? r : r * a;
        if (__builtin_mul_overflow(r, a, &r))
            overflow(x);
    }
    return r;
}

static double float_mod(double a, double b)
{
    double m = fmod(a, b);
    if (m == 0)
        return copysign(0.0, b);
    return (m < 0) != (b < 0) ? m + b : m;
}

static double float_floor_div(double a, double b)
{
    double m = fmod(a, b), d = (a - m) / b;
    if (m != 0 && (m < 0) != (b < 0))
        d -= 1;
    if (d == 0)
        return copysign(0.0, a / b);
    double f = floor(d);
    return d - f > 0.5 ? f + 1 : f;
}

static struct jval float_op(struct jx *x, enum jtok tok, double a, double b)
{
    if (b == 0 && (tok == T_DIV || tok == T_FLOORDIV || tok == T_MOD))
        jx_fail(x, -EINVAL, "division by zero");
    switch (tok) {
    case T_ADD: return jfloat(a + b);
    case T_SUB: return jfloat(a - b);
    case T_MUL: return jfloat(a * b);
    case T_DIV: return jfloat(a / b);
    case T_FLOORDIV: return jfloat(float_floor_div(a, b));
    case T_MOD: return jfloat(float_mod(a, b));
    default: break;
    }
    if (a == 0 && b < 0)
        jx_fail(x, -EINVAL, "0.0 cannot be raised to a negative power");
    if (a < 0 && floor(b) != b)
        jx_fail(x, -EINVAL, "complex numbers are not supported");
    double r = pow(a, b);
    if (isinf(r) && !isinf(a) && !isinf(b))
        jx_fail(x, -EINVAL, "numerical result out of range");
    return jfloat(r);
}

static struct jval int_op(struct jx *x, enum jtok tok, int64_t a, int64_t b)
{
    int64_t r = 0;
    bool over = false;
    if (tok == T_DIV || (tok == T_POW && b < 0))
        return float_op(x, tok, (double)a, (double)b);
    if (b == 0 && (tok == T_FLOORDIV || tok == T_MOD))
        jx_fail(x, -EINVAL, "integer division or modulo by zero");
    switch (tok) {
    case T_ADD: over = __builtin_add_overflow(a, b, &r); break;
    case T_SUB: over = __builtin_sub_overflow(a, b, &r); break;
    case T_MUL: over = __builtin_mul_overflow(a, b, &r); break;
    case T_FLOORDIV: r = floor_div(x, a, b); break;
    case T_MOD: r = b == -1 ? 0 : a - floor_div(x, a, b) * b; break;
    default: r = int_power(x, a, b); break;
    }
    if (over)
        overflow(x);
    return jint(r);
}

static struct jval add_strings(struct jx *x, struct jstr *a, struct jstr *b)
{
    bool markup = a->markup || b->markup;
    if (markup) {
        a = jstr_escape(x, a);
        b = jstr_escape(x, b);
    }
    struct jstr *r = jstr_concat(x, a, b);
    r->markup = markup;
    return jstring(r);
}

static struct jval add_lists(struct jx *x, struct jval a, struct jval b)
{
    struct jlist *l = jlist_new(x);
    jx_step(x, a.l->n + b.l->n);
    for (size_t i = 0; i < a.l->n; i++)
        jlist_add(x, l, a.l->v[i]);
    for (size_t i = 0; i < b.l->n; i++)
        jlist_add(x, l, b.l->v[i]);
    return (struct jval){ .kind = a.kind, .l = l };
}

static struct jval repeat(struct jx *x, struct jval v, int64_t times)
{
    if (v.kind == J_STR)
        return jstring(jstr_repeat(x, v.s, times));
    struct jlist *l = jlist_new(x);
    for (; times > 0 && v.l->n; times--) {
        jx_step(x, v.l->n);
        for (size_t i = 0; i < v.l->n; i++)
            jlist_add(x, l, v.l->v[i]);
    }
    return (struct jval){ .kind = v.kind, .l = l };
}

static bool is_sequence(struct jval v)
{
    return v.kind == J_STR || v.kind == J_LIST || v.kind == J_TUPLE;
}

struct jval jbinary(struct jx *x, enum jtok tok, struct jval a, struct jval b)
{
    int64_t i, k;
    double d, e;
    if (jas_int(a, &i) && jas_int(b, &k))
        return int_op(x, tok, i, k);
    if (a.kind == J_FLOAT || b.kind == J_FLOAT) {
        if (jas_float(a, &d) && jas_float(b, &e))
            return float_op(x, tok, d, e);
    }
    if ((a.kind == J_BIG || b.kind == J_BIG) && jas_float(a, &d) && jas_float(b, &e))
        overflow(x);
    if (tok == T_ADD && a.kind == J_STR && b.kind == J_STR)
        return add_strings(x, a.s, b.s);
    if (tok == T_ADD && a.kind == b.kind && (a.kind == J_LIST || a.kind == J_TUPLE))
        return add_lists(x, a, b);
    if (tok == T_MUL && is_sequence(a) && jas_int(b, &i))
        return repeat(x, a, i);
    if (tok == T_MUL && is_sequence(b) && jas_int(a, &i))
        return repeat(x, b, i);
    if (tok == T_MOD && a.kind == J_STR)
        return jformat_percent(x, a.s, b);
    no_operator(x, tok, a, b);
}

static struct jval negate_big(struct jx *x, const struct jstr *s)
{
    struct jbuild b = jbuild_start(x);
    bool negative = s->p[0] == '-';
    if (!negative)
        jbuild_text(&b, "-");
    jbuild_sub(&b, s, negative, s->n);
    return (struct jval){ .kind = J_BIG, .s = jbuild_end(&b) };
}

struct jval jnegate(struct jx *x, struct jval v, bool minus)
{
    int64_t i;
    if (v.kind == J_UNDEFINED)
        jfail_undefined(x, v);
    if (v.kind == J_FLOAT)
        return jfloat(minus ? -v.d : v.d);
    if (v.kind == J_BIG)
        return minus ? negate_big(x, v.s) : v;
    if (!jas_int(v, &i))
        jx_fail(x, -EINVAL, "bad operand type for unary %c: '%s'", minus ? '-' : '+', jtype(v));
    if (minus && __builtin_sub_overflow((int64_t)0, i, &i))
        overflow(x);
    return jint(i);
}

bool jcompares(struct jx *x, enum jtok tok, struct jval a, struct jval b)
{
    int r;
    switch (tok) {
    case T_EQ: return jequal(x, a, b);
    case T_NE: return !jequal(x, a, b);
    case JT_IN: return jcontains(x, a, b);
    case JT_NOT_IN: return !jcontains(x, a, b);
    default: break;
    }
    r = jcompare(x, a, b);
    if (r == 2)
        return false;
    return tok == T_LT ? r < 0 : tok == T_LE ? r <= 0 : tok == T_GT ? r > 0 : r >= 0;
}
