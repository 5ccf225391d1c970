// The tests behind `is`.
#include <errno.h>
#include <math.h>
#include "engine/text/jinja/builtin.h"
#include "engine/text/jinja/print.h"
#include "engine/text/jinja/unicode.h"

#define TEST(id, expr) \
    static struct jval t_##id(struct jx *x, struct jval v, const struct jval *arg) \
    { \
        (void)x; \
        (void)arg; \
        return jbool(expr); \
    }

static bool is_number(struct jval v)
{
    return v.kind == J_BOOL || v.kind == J_INT || v.kind == J_BIG || v.kind == J_FLOAT;
}

static bool is_sequence(struct jval v)
{
    return v.kind == J_UNDEFINED || v.kind == J_STR || v.kind == J_LIST || v.kind == J_TUPLE ||
           v.kind == J_DICT || v.kind == J_RANGE;
}

static bool is_callable(struct jval v)
{
    return v.kind == J_FUNCTION || v.kind == J_METHOD || v.kind == J_MACRO || v.kind == J_LOOP ||
           v.kind == J_JOINER || v.kind == J_UNDEFINED;
}

static bool is_same(struct jx *x, struct jval a, struct jval b)
{
    if (a.kind != b.kind)
        return false;
    if (a.kind <= J_FLOAT)
        return jequal(x, a, b);
    return a.s == b.s || (a.kind == J_STR && jstr_same(a.s, b.s));
}

static bool all_cased(struct jx *x, struct jval v, bool (*is)(uint32_t), bool (*is_not)(uint32_t))
{
    struct jstr *s = jto_str(x, v);
    bool any = false;
    jx_chars(x, s->n);
    for (size_t at = 0, next; at < s->n; at = next) {
        uint32_t cp = jstr_char(s, at, &next);
        if (is_not(cp))
            return false;
        any |= is(cp);
    }
    return any;
}

static int64_t modulo(struct jx *x, struct jval v, struct jval by)
{
    struct jval r = jbinary(x, T_MOD, v, by);
    if (r.kind == J_FLOAT)
        return r.d == 0 ? 0 : r.d == 1 ? 1 : 2;
    return r.kind == J_INT ? r.i : 2;
}

TEST(defined, v.kind != J_UNDEFINED)
TEST(undefined, v.kind == J_UNDEFINED)
TEST(none, v.kind == J_NONE)
TEST(boolean, v.kind == J_BOOL)
TEST(true, v.kind == J_BOOL && v.b)
TEST(false, v.kind == J_BOOL && !v.b)
TEST(integer, v.kind == J_INT || v.kind == J_BIG)
TEST(float, v.kind == J_FLOAT)
TEST(number, is_number(v))
TEST(string, v.kind == J_STR)
TEST(mapping, v.kind == J_DICT)
TEST(sequence, is_sequence(v))
TEST(iterable, jiterable(v) || v.kind == J_LOOP)
TEST(callable, is_callable(v))
TEST(escaped, v.kind == J_STR && v.s->markup)
TEST(odd, modulo(x, v, jint(2)) == 1)
TEST(even, modulo(x, v, jint(2)) == 0)
TEST(divisibleby, modulo(x, v, arg[0]) == 0)
TEST(sameas, is_same(x, v, arg[0]))
TEST(lower, all_cased(x, v, u_lower, u_upper))
TEST(upper, all_cased(x, v, u_upper, u_lower))
TEST(in, jcontains(x, v, arg[0]))
TEST(eq, jequal(x, v, arg[0]))
TEST(ne, !jequal(x, v, arg[0]))
TEST(lt, jcompares(x, T_LT, v, arg[0]))
TEST(le, jcompares(x, T_LE, v, arg[0]))
TEST(gt, jcompares(x, T_GT, v, arg[0]))
TEST(ge, jcompares(x, T_GE, v, arg[0]))
TEST(filter, v.kind == J_STR && jfilter_find(v.s))
TEST(test, v.kind == J_STR && jtest_find(v.s))

static const struct jfunc rows[] = {
    { "defined", "", t_defined, NULL },
    { "undefined", "", t_undefined, NULL },
    { "none", "", t_none, NULL },
    { "boolean", "", t_boolean, NULL },
    { "true", "", t_true, NULL },
    { "false", "", t_false, NULL },
    { "integer", "", t_integer, NULL },
    { "float", "", t_float, NULL },
    { "number", "", t_number, NULL },
    { "string", "", t_string, NULL },
    { "mapping", "", t_mapping, NULL },
    { "sequence", "", t_sequence, NULL },
    { "iterable", "", t_iterable, NULL },
    { "callable", "", t_callable, NULL },
    { "escaped", "", t_escaped, NULL },
    { "odd", "", t_odd, NULL },
    { "even", "", t_even, NULL },
    { "divisibleby", "num!", t_divisibleby, NULL },
    { "sameas", "other!", t_sameas, NULL },
    { "lower", "", t_lower, NULL },
    { "upper", "", t_upper, NULL },
    { "in", "seq!", t_in, NULL },
    { "eq", "other!", t_eq, NULL },
    { "equalto", "other!", t_eq, NULL },
    { "==", "other!", t_eq, NULL },
    { "ne", "other!", t_ne, NULL },
    { "!=", "other!", t_ne, NULL },
    { "lt", "other!", t_lt, NULL },
    { "lessthan", "other!", t_lt, NULL },
    { "<", "other!", t_lt, NULL },
    { "le", "other!", t_le, NULL },
    { "<=", "other!", t_le, NULL },
    { "gt", "other!", t_gt, NULL },
    { "greaterthan", "other!", t_gt, NULL },
    { ">", "other!", t_gt, NULL },
    { "ge", "other!", t_ge, NULL },
    { ">=", "other!", t_ge, NULL },
    { "filter", "", t_filter, NULL },
    { "test", "", t_test, NULL },
    { NULL },
};

const struct jfunc *jtest_find(const struct jstr *name)
{
    return jfunc_find(rows, name);
}
