// Finding and calling what the language brings along.
#include "engine/text/jinja/builtin.h"
#include <errno.h>
#include <string.h>
#include "base/base.h"
#include "engine/text/jinja/jstr.h"

const struct jfunc *jfunc_find(const struct jfunc *rows, const struct jstr *name)
{
    for (; rows->name; rows++) {
        if (jstr_is(name, rows->name))
            return rows;
    }
    return NULL;
}

const struct jfunc *jfilter_find(const struct jstr *name)
{
    static const struct jfunc *const tables[] = { jfilters_text, jfilters_number, jfilters_list,
                                                  jfilters_pick };
    const struct jfunc *f = NULL;
    for (size_t i = 0; !f && i < ARRAY_LEN(tables); i++)
        f = jfunc_find(tables[i], name);
    return f;
}

const struct jfunc *jmethod_find(enum jkind kind, const struct jstr *name)
{
    switch (kind) {
    case J_STR: return jfunc_find(jmethods_str, name);
    case J_DICT: return jfunc_find(jmethods_dict, name);
    case J_LIST: case J_TUPLE: case J_RANGE: return jfunc_find(jmethods_list, name);
    case J_LOOP: return jfunc_find(jmethods_loop, name);
    case J_CYCLER: return jfunc_find(jmethods_cycler, name);
    default: return NULL;
    }
}

// The parameter at *params: its length without a mark, and *params behind it.
static size_t next_param(const char **params, const char **name, bool *required)
{
    *name = *params;
    size_t n = strcspn(*params, " !");
    *required = (*params)[n] == '!';
    *params += n + *required;
    *params += strspn(*params, " ");
    return n;
}

static const struct jval *find_kwarg(const struct jargs *args, const char *name, size_t n)
{
    for (size_t i = 0; i < args->n_kw; i++) {
        if (args->kw[i].name->n == n && memcmp(args->kw[i].name->p, name, n) == 0)
            return &args->kw[i].val;
    }
    return NULL;
}

// Puts the arguments in the order of the parameters.
static void bind(struct jx *x, const struct jfunc *f, const struct jargs *args,
                 struct jval ret[JFUNC_PARAMS_MAX])
{
    const char *params = f->params, *name;
    size_t n = 0, used = 0;
    for (; *params; n++) {
        assert(n < JFUNC_PARAMS_MAX);
        bool required;
        size_t len = next_param(&params, &name, &required);
        const struct jval *kw = find_kwarg(args, name, len);
        ret[n] = (struct jval){ .kind = J_MISSING };
        if (n < args->n_pos) {
            if (kw)
                jx_fail(x, -EINVAL, "%s() got two values for '%.*s'", f->name, (int)len, name);
            ret[n] = args->pos[n];
        } else if (kw) {
            ret[n] = *kw;
            used++;
        } else if (required) {
            jx_fail(x, -EINVAL, "%s() needs an argument '%.*s'", f->name, (int)len, name);
        }
    }
    if (args->n_pos > n)
        jx_fail(x, -EINVAL, "%s() takes at most %zu arguments, not %zu", f->name, n, args->n_pos);
    if (used < args->n_kw)
        jx_fail(x, -EINVAL, "%s() got an argument it does not know", f->name);
}

struct jval jinvoke(struct jx *x, const struct jfunc *f, struct jval self, const struct jargs *args)
{
    struct jval arg[JFUNC_PARAMS_MAX];
    jx_step(x, 1);
    if (!f->params)
        return f->raw(x, self, args);
    bind(x, f, args, arg);
    return f->fn(x, self, arg);
}

int64_t jarg_int(struct jx *x, struct jval v, int64_t fallback)
{
    int64_t i;
    if (v.kind == J_MISSING || v.kind == J_NONE)
        return fallback;
    if (v.kind == J_UNDEFINED)
        jfail_undefined(x, v);
    if (!jas_int(v, &i))
        jx_fail(x, -EINVAL, "'%s' object cannot be interpreted as an integer", jtype(v));
    return i;
}

bool jarg_bool(struct jval v, bool fallback)
{
    return v.kind == J_MISSING ? fallback : jtruth(v);
}

struct jstr *jneed_str(struct jx *x, struct jval v, const char *what)
{
    if (v.kind != J_STR)
        jx_fail(x, -EINVAL, "%s must be str, not %s", what, jtype(v));
    return v.s;
}

struct jstr *jarg_str(struct jx *x, struct jval v, struct jstr *fallback)
{
    if (v.kind == J_MISSING || v.kind == J_NONE)
        return fallback;
    return jneed_str(x, v, "argument");
}
