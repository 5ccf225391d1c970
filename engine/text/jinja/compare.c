// Equality, order and membership, as Python has them.
#include "engine/text/jinja/value.h"
#include <errno.h>
#include <math.h>
#include <string.h>
#include "engine/text/jinja/jstr.h"

static bool equal_lists(struct jx *x, const struct jlist *a, const struct jlist *b)
{
    if (a->n != b->n)
        return false;
    jx_enter_value(x);
    bool same = true;
    for (size_t i = 0; same && i < a->n; i++)
        same = jequal(x, a->v[i], b->v[i]);
    jx_leave_value(x);
    return same;
}

static bool equal_dicts(struct jx *x, const struct jdict *a, const struct jdict *b)
{
    if (a->n != b->n)
        return false;
    jx_enter_value(x);
    bool same = true;
    for (size_t i = 0; same && i < a->n; i++) {
        struct jpair *p = jdict_pair(x, b, a->pair[i].key, a->pair[i].hash);
        same = p && jequal(x, a->pair[i].val, p->val);
    }
    jx_leave_value(x);
    return same;
}

static bool is_number(struct jval v)
{
    return v.kind == J_BOOL || v.kind == J_INT || v.kind == J_BIG || v.kind == J_FLOAT;
}

static bool equal_ranges(const struct jrange *a, const struct jrange *b)
{
    return a->n == b->n &&
           (a->n == 0 || (a->start == b->start && (a->n == 1 || a->step == b->step)));
}

bool jequal(struct jx *x, struct jval a, struct jval b)
{
    jx_step(x, 1);
    if (is_number(a) && is_number(b))
        return jcompare(x, a, b) == 0;
    if (a.kind != b.kind)
        return false;
    switch (a.kind) {
    case J_MISSING: case J_UNDEFINED: case J_NONE: return true;
    case J_STR: return jstr_same(a.s, b.s);
    case J_LIST: case J_TUPLE: return a.l == b.l || equal_lists(x, a.l, b.l);
    case J_DICT: return a.m == b.m || equal_dicts(x, a.m, b.m);
    case J_RANGE: return equal_ranges(a.range, b.range);
    case J_METHOD:
        return a.method->func == b.method->func && jequal(x, a.method->self, b.method->self);
    case J_KEYS: case J_ITEMS:
        if (a.m->n != b.m->n)
            return false;
        for (size_t i = 0; i < a.m->n; i++) {
            struct jpair *p = jdict_pair(x, b.m, a.m->pair[i].key, a.m->pair[i].hash);
            if (!p || (a.kind == J_ITEMS && !jequal(x, a.m->pair[i].val, p->val)))
                return false;
        }
        return true;
    default: return a.s == b.s;     // the same object
    }
}

// Decimal integers of any size.
static int compare_digits(const struct jstr *a, const struct jstr *b)
{
    bool na = a->n && a->p[0] == '-', nb = b->n && b->p[0] == '-';
    if (na != nb)
        return na ? -1 : 1;
    int r = a->n != b->n ? (a->n < b->n ? -1 : 1) : memcmp(a->p, b->p, a->n);
    r = (r > 0) - (r < 0);
    return na ? -r : r;
}

static int compare_numbers(struct jval a, struct jval b)
{
    int64_t i, k;
    double d, e;
    if (jas_int(a, &i) && jas_int(b, &k))
        return (i > k) - (i < k);
    if (a.kind == J_BIG && b.kind == J_BIG)
        return compare_digits(a.s, b.s);
    if (a.kind == J_BIG && b.kind != J_FLOAT)
        return a.s->p[0] == '-' ? -1 : 1;
    if (b.kind == J_BIG && a.kind != J_FLOAT)
        return b.s->p[0] == '-' ? 1 : -1;
    jas_float(a, &d);
    jas_float(b, &e);
    return isnan(d) || isnan(e) ? 2 : (d > e) - (d < e);
}

int jcompare(struct jx *x, struct jval a, struct jval b)
{
    jx_step(x, 1);
    if (is_number(a) && is_number(b))
        return compare_numbers(a, b);
    if (a.kind == J_STR && b.kind == J_STR)
        return jstr_compare(a.s, b.s);
    if (a.kind == J_UNDEFINED || b.kind == J_UNDEFINED)
        jfail_undefined(x, a.kind == J_UNDEFINED ? a : b);
    if (a.kind != b.kind || (a.kind != J_LIST && a.kind != J_TUPLE))
        jx_fail(x, -EINVAL, "'%s' and '%s' have no order", jtype(a), jtype(b));
    jx_enter_value(x);
    size_t i = 0;
    while (i < a.l->n && i < b.l->n && jequal(x, a.l->v[i], b.l->v[i]))
        i++;
    int r = (a.l->n > b.l->n) - (a.l->n < b.l->n);
    if (i < a.l->n && i < b.l->n)
        r = jcompare(x, a.l->v[i], b.l->v[i]);
    jx_leave_value(x);
    return r;
}

bool jcontains(struct jx *x, struct jval item, struct jval in)
{
    struct jval v;
    if (in.kind == J_STR) {
        if (item.kind == J_UNDEFINED)
            jfail_undefined(x, item);
        if (item.kind != J_STR)
            jx_fail(x, -EINVAL, "'in <string>' requires string as left operand, not %s",
                    jtype(item));
        return jstr_find(x, in.s, item.s, 0) != JSTR_NONE;
    }
    if (in.kind == J_DICT || in.kind == J_KEYS) {
        if (!jhashable(x, item))
            jx_fail(x, -EINVAL, "unhashable type: '%s'", jtype(item));
        return jdict_find(x, in.m, item) != NULL;
    }
    for (struct jiter it = jiter_start(x, in); jiter_next(x, &it, &v);) {
        if (jequal(x, v, item))
            return true;
    }
    return false;
}

// Whether the merge takes `b` before `a`, which stood earlier.
static bool before(struct jx *x, const struct jkeyed *b, const struct jkeyed *a, bool reverse)
{
    return (reverse ? jcompare(x, a->key, b->key) : jcompare(x, b->key, a->key)) == -1;
}

static void merge(struct jx *x, struct jkeyed *v, struct jkeyed *tmp, size_t mid, size_t n,
                  bool reverse)
{
    size_t i = 0, k = mid, to = 0;
    while (i < mid || k < n) {
        bool right = i == mid || (k < n && before(x, &v[k], &v[i], reverse));
        tmp[to++] = right ? v[k++] : v[i++];
    }
    memcpy(v, tmp, n * sizeof(*v));
}

void jsort(struct jx *x, struct jkeyed *v, size_t n, bool reverse)
{
    struct jkeyed *tmp = jx_calloc(x, n, sizeof(*tmp));
    for (size_t run = 1; run < n; run *= 2) {
        for (size_t at = 0; at + run < n; at += 2 * run) {
            size_t rest = n - at;
            merge(x, v + at, tmp, run, rest < 2 * run ? rest : 2 * run, reverse);
        }
    }
}
