// Making, measuring and walking values.
#include "engine/text/jinja/value.h"
#include <errno.h>
#include "base/base.h"
#include "engine/text/jinja/jstr.h"

static struct jval undefined(struct jx *x, const struct jstr *name, const char *owner, bool unsafe)
{
    struct jundef *u = jx_alloc(x, sizeof(*u));
    *u = (struct jundef){ name, owner, unsafe };
    return (struct jval){ .kind = J_UNDEFINED, .undef = u };
}

struct jval jundefined(struct jx *x, const struct jstr *name, const char *owner)
{
    return undefined(x, name, owner, false);
}

struct jval junsafe(struct jx *x, const struct jstr *name, const char *owner)
{
    return undefined(x, name, owner, true);
}

struct jval jabsent(struct jx *x, const char *what)
{
    return undefined(x, jstr_lit(x, what), NULL, false);
}

struct jval jgenerator(struct jx *x, struct jlist *l)
{
    struct jgen *g = jx_alloc(x, sizeof(*g));
    g->l = l;
    return (struct jval){ .kind = J_ITER, .gen = g };
}

void jfail_undefined(struct jx *x, struct jval v)
{
    assert(v.kind == J_UNDEFINED);
    const struct jundef *u = v.undef;
    const char *name = jstr_brief(x, u->name);
    if (u->unsafe)
        jx_fail(x, -EINVAL, "access to attribute '%s' of '%s' object is unsafe", name, u->owner);
    if (u->owner)
        jx_fail(x, -EINVAL, "'%s object' has no attribute '%s'", u->owner, name);
    jx_fail(x, -EINVAL, "'%s' is undefined", name);
}

const char *jtype(struct jval v)
{
    static const char *const names[] = {
        [J_MISSING] = "missing", [J_UNDEFINED] = "Undefined", [J_NONE] = "NoneType",
        [J_BOOL] = "bool", [J_INT] = "int", [J_BIG] = "int", [J_FLOAT] = "float", [J_STR] = "str",
        [J_LIST] = "list", [J_TUPLE] = "tuple", [J_DICT] = "dict", [J_RANGE] = "range",
        [J_KEYS] = "dict_keys", [J_VALUES] = "dict_values", [J_ITEMS] = "dict_items",
        [J_ITER] = "generator", [J_NAMESPACE] = "Namespace", [J_LOOP] = "LoopContext",
        [J_CYCLER] = "Cycler", [J_JOINER] = "Joiner", [J_FUNCTION] = "function",
        [J_METHOD] = "builtin_function_or_method", [J_MACRO] = "Macro",
    };
    return names[v.kind];
}

struct jlist *jlist_new(struct jx *x)
{
    return jx_alloc(x, sizeof(struct jlist));
}

void jlist_add(struct jx *x, struct jlist *l, struct jval v)
{
    if (l->n == l->cap)
        l->v = jx_grow(x, l->v, l->n, &l->cap, sizeof(*l->v));
    l->v[l->n++] = v;
}

struct jval jpair_tuple(struct jx *x, struct jval a, struct jval b)
{
    struct jlist *l = jlist_new(x);
    jlist_add(x, l, a);
    jlist_add(x, l, b);
    return jtupleval(l);
}

bool jas_int(struct jval v, int64_t *ret)
{
    if (v.kind != J_INT && v.kind != J_BOOL)
        return false;
    *ret = v.kind == J_BOOL ? v.b : v.i;
    return true;
}

bool jas_float(struct jval v, double *ret)
{
    int64_t i;
    if (v.kind == J_FLOAT)
        *ret = v.d;
    else if (v.kind == J_BIG)
        *ret = jstr_to_double(v.s);
    else if (jas_int(v, &i))
        *ret = (double)i;
    else
        return false;
    return true;
}

// The number of items of a container.
static bool count_items(struct jval v, size_t *ret)
{
    switch (v.kind) {
    case J_UNDEFINED: *ret = 0; return true;
    case J_LIST: case J_TUPLE: *ret = v.l->n; return true;
    case J_DICT: case J_KEYS: case J_VALUES: case J_ITEMS: *ret = v.m->n; return true;
    case J_RANGE: *ret = v.range->n; return true;
    default: return false;
    }
}

bool jtruth(struct jval v)
{
    size_t n;
    switch (v.kind) {
    case J_MISSING: case J_NONE: return false;
    case J_BOOL: return v.b;
    case J_INT: return v.i != 0;
    case J_FLOAT: return v.d != 0;
    case J_STR: return v.s->n != 0;
    default: return !count_items(v, &n) || n != 0;
    }
}

bool jlength(struct jx *x, struct jval v, size_t *ret)
{
    if (v.kind != J_STR)
        return count_items(v, ret);
    if (!v.s->ascii && !v.s->chars)
        jx_chars(x, v.s->n / 8);
    *ret = jstr_chars(v.s);
    return true;
}

bool jiterable(struct jval v)
{
    size_t n;
    return v.kind == J_ITER || v.kind == J_STR || count_items(v, &n);
}

struct jiter jiter_start(struct jx *x, struct jval over)
{
    if (!jiterable(over))
        jx_fail(x, -EINVAL, "'%s' object is not iterable", jtype(over));
    return (struct jiter){ .over = over };
}

bool jiter_next(struct jx *x, struct jiter *it, struct jval *ret)
{
    struct jval v = it->over;
    size_t i = it->at;
    jx_step(x, 1);
    if (v.kind == J_STR) {
        if (it->byte == v.s->n)
            return false;
        size_t next = jstr_next(v.s, it->byte);
        *ret = jstring(jstr_sub(x, v.s, it->byte, next));
        it->byte = next;
        return true;
    }
    if (v.kind == J_ITER) {
        if (v.gen->at == v.gen->l->n)
            return false;
        *ret = v.gen->l->v[v.gen->at++];
        return true;
    }
    size_t n;
    if (!count_items(v, &n) || i >= n)
        return false;
    it->at++;
    switch (v.kind) {
    case J_LIST: case J_TUPLE: *ret = v.l->v[i]; break;
    case J_DICT: case J_KEYS: *ret = v.m->pair[i].key; break;
    case J_VALUES: *ret = v.m->pair[i].val; break;
    case J_ITEMS: *ret = jpair_tuple(x, v.m->pair[i].key, v.m->pair[i].val); break;
    default: *ret = jint(v.range->start + (int64_t)i * v.range->step); break;
    }
    return true;
}

struct jlist *jiter_list(struct jx *x, struct jval over)
{
    struct jlist *l = jlist_new(x);
    struct jval v;
    for (struct jiter it = jiter_start(x, over); jiter_next(x, &it, &v);)
        jlist_add(x, l, v);
    return l;
}
