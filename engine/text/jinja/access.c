// Attributes, items and slices, by the rules of jinja2's immutable sandbox: methods that would
// change a list or a dict are not there, and `a.b` and `a['b']` fall back to each other.
#include "engine/text/jinja/builtin.h"
#include <errno.h>
#include <string.h>
#include "base/base.h"
#include "engine/text/jinja/jstr.h"

static bool is_mutator(struct jval of, const struct jstr *name)
{
    static const char *const of_dict[] = { "clear", "pop", "popitem", "setdefault", "update" };
    static const char *const of_list[] = { "append", "clear", "pop", "reverse", "insert", "sort",
                                           "extend", "remove" };
    const char *const *names = of.kind == J_DICT ? of_dict : of_list;
    size_t n = of.kind == J_DICT ? ARRAY_LEN(of_dict) : of.kind == J_LIST ? ARRAY_LEN(of_list) : 0;
    for (size_t i = 0; i < n; i++) {
        if (jstr_is(name, names[i]))
            return true;
    }
    return false;
}

static struct jval bound(struct jx *x, struct jval self, const struct jfunc *f)
{
    struct jmethod *m = jx_alloc(x, sizeof(*m));
    *m = (struct jmethod){ self, f };
    return (struct jval){ .kind = J_METHOD, .method = m };
}

// A Python attribute of the object; J_MISSING: there is none.
static struct jval attribute(struct jx *x, struct jval of, struct jstr *name)
{
    const struct jfunc *f = jmethod_find(of.kind, name);
    if (f)
        return bound(x, of, f);
    if (is_mutator(of, name))
        return junsafe(x, name, jtype(of));
    if (of.kind == J_LOOP)
        return jloop_attr(x, of, name);
    struct jval *v = of.kind == J_NAMESPACE ? jdict_find(x, of.m, jstring(name)) : NULL;
    return v ? *v : (struct jval){ .kind = J_MISSING };
}

static struct jval char_at(struct jx *x, struct jstr *s, int64_t i)
{
    size_t n;
    jlength(x, jstring(s), &n);
    if (i < 0)
        i += (int64_t)n;
    if (i < 0 || (size_t)i >= n)
        return (struct jval){ .kind = J_MISSING };
    size_t at = jstr_offset(x, s, (size_t)i);
    return jstring(jstr_sub(x, s, at, jstr_next(s, at)));
}

// of[key] where Python has it, else J_MISSING.
static struct jval item(struct jx *x, struct jval of, struct jval key)
{
    int64_t i;
    struct jval *v;
    if (of.kind == J_DICT) {
        v = jdict_find(x, of.m, key);
        return v ? *v : (struct jval){ .kind = J_MISSING };
    }
    if (!jas_int(key, &i))
        return (struct jval){ .kind = J_MISSING };
    if (of.kind == J_STR)
        return char_at(x, of.s, i);
    size_t n = 0;
    if (of.kind == J_LIST || of.kind == J_TUPLE || of.kind == J_RANGE)
        jlength(x, of, &n);
    if (i < 0)
        i += (int64_t)n;
    if (i < 0 || (size_t)i >= n)
        return (struct jval){ .kind = J_MISSING };
    return of.kind == J_RANGE ? jint(of.range->start + i * of.range->step) : of.l->v[i];
}

struct jval jgetattr(struct jx *x, struct jval of, struct jstr *name)
{
    if (of.kind == J_UNDEFINED)
        jfail_undefined(x, of);
    struct jval v = attribute(x, of, name);
    if (v.kind == J_MISSING && of.kind == J_DICT)
        v = item(x, of, jstring(name));
    return v.kind == J_MISSING ? jundefined(x, name, jtype(of)) : v;
}

struct jval jgetitem(struct jx *x, struct jval of, struct jval key)
{
    if (of.kind == J_UNDEFINED)
        jfail_undefined(x, of);
    struct jval v = item(x, of, key);
    if (v.kind == J_MISSING && key.kind == J_STR)
        v = attribute(x, of, key.s);
    if (v.kind != J_MISSING)
        return v;
    return jundefined(x, key.kind == J_STR ? key.s : jstr_lit(x, "item"), jtype(of));
}

static int64_t slice_bound(struct jx *x, struct jval v, int64_t n, bool down, int64_t fallback)
{
    int64_t i = jarg_int(x, v, fallback);
    if (v.kind == J_MISSING || v.kind == J_NONE)
        return i;
    if (i < 0)
        i = i < -n ? -1 : i + n;        // -1: before the first
    if (i < 0)
        return down ? -1 : 0;
    return i >= n ? (down ? n - 1 : n) : i;
}

static struct jval slice_str(struct jx *x, struct jstr *s, int64_t from, int64_t step, size_t n)
{
    struct jbuild b = jbuild_start(x);
    size_t at = n ? jstr_offset(x, s, (size_t)from) : 0;
    if (step == 1) {
        struct jstr *rest = jstr_sub(x, s, at, s->n);
        return jstring(jstr_sub(x, rest, 0, jstr_offset(x, rest, n)));
    }
    for (size_t i = 0; i < n; i++) {
        jx_step(x, 1);
        jbuild_sub(&b, s, at, jstr_next(s, at));
        for (int64_t k = step; i + 1 < n && k != 0; k += step > 0 ? -1 : 1)
            at = step > 0 ? jstr_next(s, at) : jstr_prev(s, at);
    }
    struct jstr *r = jbuild_end(&b);
    r->markup = s->markup;
    return jstring(r);
}

static struct jval slice_list(struct jx *x, const struct jlist *l, int64_t from, int64_t step,
                              size_t n)
{
    struct jlist *r = jlist_new(x);
    jx_step(x, n);
    for (size_t i = 0; i < n; i++)
        jlist_add(x, r, l->v[from + (int64_t)i * step]);
    return jlistval(r);
}

static struct jval slice_range(struct jx *x, const struct jrange *r, int64_t from, int64_t to,
                               int64_t step, size_t n)
{
    struct jrange *s = jx_alloc(x, sizeof(*s));
    *s = (struct jrange){ r->start + from * r->step, r->start + to * r->step, r->step * step, n };
    return (struct jval){ .kind = J_RANGE, .range = s };
}

struct jval jslice(struct jx *x, struct jval of, const struct jval part[3])
{
    size_t len;
    if (of.kind == J_UNDEFINED)
        jfail_undefined(x, of);
    if (of.kind != J_STR && of.kind != J_LIST && of.kind != J_TUPLE && of.kind != J_RANGE)
        jx_fail(x, -EINVAL, "'%s' object is not subscriptable by a slice", jtype(of));
    jlength(x, of, &len);
    int64_t n = (int64_t)len, step = CLAMP(jarg_int(x, part[2], 1), -INT32_MAX, INT32_MAX);
    if (step == 0)
        jx_fail(x, -EINVAL, "slice step cannot be zero");
    int64_t from = slice_bound(x, part[0], n, step < 0, step < 0 ? n - 1 : 0);
    int64_t to = slice_bound(x, part[1], n, step < 0, step < 0 ? -1 : n);
    int64_t count = step > 0 ? DIV_UP(to - from, step) : DIV_UP(from - to, -step);
    size_t items = (step > 0 ? to > from : from > to) ? (size_t)count : 0;
    if (of.kind == J_STR)
        return slice_str(x, of.s, from, step, items);
    if (of.kind == J_RANGE)
        return slice_range(x, of.range, from, to, step, items);
    struct jval r = slice_list(x, of.l, from, step, items);
    r.kind = of.kind;
    return r;
}

static bool all_digits(const struct jstr *s)
{
    return s->n && s->n < 10 && strspn(s->p, "0123456789") >= s->n;
}

static struct jval path_part(struct jx *x, struct jval v, struct jstr *part, struct jval fallback)
{
    int64_t i = 0;
    for (size_t k = 0; all_digits(part) && k < part->n; k++)
        i = i * 10 + (part->p[k] - '0');
    v = jgetitem(x, v, all_digits(part) ? jint(i) : jstring(part));
    return v.kind == J_UNDEFINED && jgiven(fallback) && fallback.kind != J_NONE ? fallback : v;
}

struct jval jpath(struct jx *x, struct jval v, struct jval path, struct jval fallback)
{
    if (path.kind == J_MISSING || path.kind == J_NONE)
        return v;
    if (path.kind != J_STR) {
        v = jgetitem(x, v, path);
        return v.kind == J_UNDEFINED && jgiven(fallback) && fallback.kind != J_NONE ? fallback : v;
    }
    struct jlist *parts = jstr_split(x, path.s, jstr_lit(x, "."), -1);
    for (size_t i = 0; i < parts->n; i++)
        v = path_part(x, v, parts->v[i].s, fallback);
    return v;
}
