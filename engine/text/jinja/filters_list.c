// Filters over the items of a value.
#include <errno.h>
#include <string.h>
#include "base/base.h"
#include "engine/text/jinja/builtin.h"
#include "engine/text/jinja/print.h"

// What comparisons without regard to case see.
static struct jval fold(struct jx *x, struct jval v)
{
    return v.kind == J_STR ? jstring(jstr_case(x, v.s, JCASE_LOWER)) : v;
}

static struct jval f_length(struct jx *x, struct jval v, const struct jval *arg)
{
    size_t n;
    (void)arg;
    if (!jlength(x, v, &n))
        jx_fail(x, -EINVAL, "object of type '%s' has no len()", jtype(v));
    return jint((int64_t)n);
}

static struct jval f_list(struct jx *x, struct jval v, const struct jval *arg)
{
    (void)arg;
    return jlistval(jiter_list(x, v));
}

static struct jval f_first(struct jx *x, struct jval v, const struct jval *arg)
{
    struct jval item;
    (void)arg;
    struct jiter it = jiter_start(x, v);
    return jiter_next(x, &it, &item) ? item
                                     : jabsent(x, "the first item of an empty sequence");
}

static struct jval f_last(struct jx *x, struct jval v, const struct jval *arg)
{
    (void)arg;
    if (v.kind == J_ITER)
        jx_fail(x, -EINVAL, "'generator' object is not reversible");
    if (v.kind == J_STR && v.s->n)
        return jstring(jstr_sub(x, v.s, jstr_prev(v.s, v.s->n), v.s->n));
    struct jlist *l = jiter_list(x, v);
    return l->n ? l->v[l->n - 1] : jabsent(x, "the last item of an empty sequence");
}

static struct jval f_join(struct jx *x, struct jval v, const struct jval *arg)
{
    struct jstr *by = jgiven(arg[0]) ? jto_str(x, arg[0]) : jstr_lit(x, "");
    struct jbuild b = jbuild_start(x);
    struct jval item;
    bool first = true;
    for (struct jiter it = jiter_start(x, v); jiter_next(x, &it, &item); first = false) {
        if (!first)
            jbuild_str(&b, by);
        jprint_str(&b, jpath(x, item, arg[1], jnone()));
    }
    return jstring(jbuild_end(&b));
}

static struct jval f_reverse(struct jx *x, struct jval v, const struct jval *arg)
{
    static const struct jval backwards[3] = { { .kind = J_NONE }, { .kind = J_NONE },
                                              { .kind = J_INT, .i = -1 } };
    (void)arg;
    if (v.kind == J_STR)
        return jslice(x, v, backwards);
    bool lazy = v.kind != J_ITER;
    struct jval l = jslice(x, jlistval(jiter_list(x, v)), backwards);
    return lazy ? jgenerator(x, l.l) : l;
}

static struct jval f_items(struct jx *x, struct jval v, const struct jval *arg)
{
    (void)arg;
    if (v.kind == J_UNDEFINED)
        return jgenerator(x, jlist_new(x));
    if (v.kind != J_DICT)
        jx_fail(x, -EINVAL, "can only get item pairs from a mapping, not %s", jtype(v));
    return jgenerator(x, jiter_list(x, (struct jval){ .kind = J_ITEMS, .m = v.m }));
}

static struct jval sorted(struct jx *x, struct jkeyed *k, size_t n, bool reverse)
{
    struct jlist *l = jlist_new(x);
    jsort(x, k, n, reverse);
    for (size_t i = 0; i < n; i++)
        jlist_add(x, l, k[i].val);
    return jlistval(l);
}

static struct jval f_dictsort(struct jx *x, struct jval v, const struct jval *arg)
{
    const struct jstr *by = jarg_str(x, arg[1], jstr_lit(x, "key"));
    bool by_value = jstr_is(by, "value"), exact = jarg_bool(arg[0], false);
    if (v.kind == J_UNDEFINED)
        jfail_undefined(x, v);
    if (v.kind != J_DICT)
        jx_fail(x, -EINVAL, "'%s' object has no attribute 'items'", jtype(v));
    if (!by_value && !jstr_is(by, "key"))
        jx_fail(x, -EINVAL, "you can only sort by either \"key\" or \"value\"");
    struct jkeyed *k = jx_calloc(x, v.m->n, sizeof(*k));
    for (size_t i = 0; i < v.m->n; i++) {
        struct jval key = by_value ? v.m->pair[i].val : v.m->pair[i].key;
        k[i] = (struct jkeyed){ exact ? key : fold(x, key),
                                jpair_tuple(x, v.m->pair[i].key, v.m->pair[i].val) };
    }
    return sorted(x, k, v.m->n, jarg_bool(arg[2], false));
}

static struct jval sort_part(struct jx *x, struct jval v, struct jval path, bool exact)
{
    v = jpath(x, v, path, jnone());
    return exact ? v : fold(x, v);
}

// One value, or a tuple of them where the attribute names several: "a,b".
static struct jval sort_key(struct jx *x, struct jval v, struct jval path, bool exact)
{
    struct jlist *key = jlist_new(x);
    if (path.kind != J_STR || !memchr(path.s->p, ',', path.s->n))
        return sort_part(x, v, path, exact);
    struct jlist *paths = jstr_split(x, path.s, jstr_lit(x, ","), -1);
    for (size_t i = 0; i < paths->n; i++)
        jlist_add(x, key, sort_part(x, v, paths->v[i], exact));
    return jlistval(key);
}

static struct jval f_sort(struct jx *x, struct jval v, const struct jval *arg)
{
    struct jlist *l = jiter_list(x, v);
    struct jkeyed *k = jx_calloc(x, l->n, sizeof(*k));
    for (size_t i = 0; i < l->n; i++)
        k[i] = (struct jkeyed){ sort_key(x, l->v[i], arg[2], jarg_bool(arg[1], false)), l->v[i] };
    return sorted(x, k, l->n, jarg_bool(arg[0], false));
}

static struct jval f_unique(struct jx *x, struct jval v, const struct jval *arg)
{
    struct jdict *seen = jdict_new(x);
    struct jlist *l = jlist_new(x);
    struct jval item;
    for (struct jiter it = jiter_start(x, v); jiter_next(x, &it, &item);) {
        struct jval key = sort_part(x, item, arg[1], jarg_bool(arg[0], false));
        if (jdict_find(x, seen, key))
            continue;
        jdict_set(x, seen, key, jnone());
        jlist_add(x, l, item);
    }
    return jgenerator(x, l);
}

static struct jval extreme(struct jx *x, struct jval v, const struct jval *arg, int want)
{
    bool exact = jarg_bool(arg[0], false);
    struct jiter it = jiter_start(x, v);
    struct jval best, item;
    if (!jiter_next(x, &it, &best))
        return jabsent(x, "the extreme of an empty sequence");
    struct jval best_key = sort_part(x, best, arg[1], exact);
    while (jiter_next(x, &it, &item)) {
        struct jval key = sort_part(x, item, arg[1], exact);
        if (jcompare(x, key, best_key) == want) {
            best = item;
            best_key = key;
        }
    }
    return best;
}

static struct jval f_min(struct jx *x, struct jval v, const struct jval *arg)
{
    return extreme(x, v, arg, -1);
}

static struct jval f_max(struct jx *x, struct jval v, const struct jval *arg)
{
    return extreme(x, v, arg, 1);
}

static struct jval f_sum(struct jx *x, struct jval v, const struct jval *arg)
{
    struct jval sum = jgiven(arg[1]) ? arg[1] : jint(0), item;
    if (sum.kind == J_STR)
        jx_fail(x, -EINVAL, "sum() can't sum strings");
    for (struct jiter it = jiter_start(x, v); jiter_next(x, &it, &item);)
        sum = jbinary(x, T_ADD, sum, jpath(x, item, arg[0], jnone()));
    return sum;
}

static struct jval f_batch(struct jx *x, struct jval v, const struct jval *arg)
{
    int64_t size = jarg_int(x, arg[0], 1);
    struct jlist *out = jlist_new(x), *row = NULL;
    struct jval item;
    for (struct jiter it = jiter_start(x, v); jiter_next(x, &it, &item);) {
        if (!row || (int64_t)row->n == size) {
            row = jlist_new(x);
            jlist_add(x, out, jlistval(row));
        }
        jlist_add(x, row, item);
    }
    while (row && jgiven(arg[1]) && arg[1].kind != J_NONE && (int64_t)row->n < size) {
        jx_step(x, 1);
        jlist_add(x, row, arg[1]);
    }
    return jgenerator(x, out);
}

static struct jval f_slice(struct jx *x, struct jval v, const struct jval *arg)
{
    struct jlist *l = jiter_list(x, v), *out = jlist_new(x);
    int64_t n = jarg_int(x, arg[0], 1);
    if (n <= 0)
        jx_fail(x, -EINVAL, "slice needs a positive number of slices");
    size_t each = l->n / (size_t)n, extra = l->n % (size_t)n, at = 0;
    for (size_t i = 0; i < (size_t)n; i++) {
        struct jlist *row = jlist_new(x);
        jx_step(x, 1);
        for (size_t k = 0; k < each + (i < extra); k++)
            jlist_add(x, row, l->v[at++]);
        if (i >= extra && jgiven(arg[1]) && arg[1].kind != J_NONE)
            jlist_add(x, row, arg[1]);
        jlist_add(x, out, jlistval(row));
    }
    return jgenerator(x, out);
}

static struct jval group(struct jx *x, struct jval key, struct jlist *members)
{
    return jpair_tuple(x, key, jlistval(members));
}

static struct jval f_groupby(struct jx *x, struct jval v, const struct jval *arg)
{
    bool exact = jarg_bool(arg[2], false);
    struct jlist *l = jiter_list(x, v), *out = jlist_new(x), *members = NULL;
    struct jkeyed *k = jx_calloc(x, l->n, sizeof(*k));
    for (size_t i = 0; i < l->n; i++) {
        struct jval key = jpath(x, l->v[i], arg[0], arg[1]);
        k[i] = (struct jkeyed){ exact ? key : fold(x, key), l->v[i] };
    }
    jsort(x, k, l->n, false);
    for (size_t i = 0; i < l->n; i++) {
        if (i == 0 || !jequal(x, k[i - 1].key, k[i].key)) {
            members = jlist_new(x);
            jlist_add(x, out, group(x, jpath(x, k[i].val, arg[0], arg[1]), members));
        }
        jlist_add(x, members, k[i].val);
    }
    return jlistval(out);
}

static struct jval f_attr(struct jx *x, struct jval v, const struct jval *arg)
{
    struct jstr *name = jto_str(x, arg[0]);
    // an attribute, never an item
    return v.kind == J_DICT && !jmethod_find(J_DICT, name) ? jundefined(x, name, "dict")
                                                           : jgetattr(x, v, name);
}

const struct jfunc jfilters_list[] = {
    { "length", "", f_length, NULL },
    { "count", "", f_length, NULL },
    { "list", "", f_list, NULL },
    { "first", "", f_first, NULL },
    { "last", "", f_last, NULL },
    { "join", "d attribute", f_join, NULL },
    { "reverse", "", f_reverse, NULL },
    { "items", "", f_items, NULL },
    { "dictsort", "case_sensitive by reverse", f_dictsort, NULL },
    { "sort", "reverse case_sensitive attribute", f_sort, NULL },
    { "unique", "case_sensitive attribute", f_unique, NULL },
    { "min", "case_sensitive attribute", f_min, NULL },
    { "max", "case_sensitive attribute", f_max, NULL },
    { "sum", "attribute start", f_sum, NULL },
    { "batch", "linecount! fill_with", f_batch, NULL },
    { "slice", "slices! fill_with", f_slice, NULL },
    { "groupby", "attribute! default case_sensitive", f_groupby, NULL },
    { "attr", "name!", f_attr, NULL },
    { NULL },
};
