// Calls: macros with their defaults, varargs, kwargs and callers, and everything else callable.
#include "engine/text/jinja/exec.h"
#include <errno.h>
#include "engine/text/jinja/builtin.h"

struct jval jmacro_new(struct jexec *e, const struct jnode *n, const struct jstr *name)
{
    struct jmacro *m = jx_alloc(&e->x, sizeof(*m));
    *m = (struct jmacro){ n, e->scope, name };
    return (struct jval){ .kind = J_MACRO, .macro = m };
}

// Takes the keyword argument of a symbol out of the list that is left.
static struct jval take_kwarg(struct jexec *e, struct jkwarg *kw, size_t *n, unsigned sym)
{
    for (size_t i = 0; i < *n; i++) {
        if (!jstr_same(kw[i].name, e->tree->symbol[sym]))
            continue;
        struct jval v = kw[i].val;
        for (size_t k = i + 1; k < *n; k++)
            kw[k - 1] = kw[k];
        --*n;
        return v;
    }
    return (struct jval){ .kind = J_MISSING };
}

// A default sees the parameters before it.
static struct jval param_default(struct jexec *e, const struct jparams *p, size_t i)
{
    size_t first = p->n - p->defaults.n;
    if (i >= first)
        return jeval(e, p->defaults.v[i - first]);
    return jundefined(&e->x, e->tree->symbol[p->sym[i]], NULL);
}

static void bind_special(struct jexec *e, const struct jmacro *m, const struct jargs *args,
                         struct jkwarg *kw, size_t *n_kw)
{
    const struct jparams *p = m->node->params;
    struct jx *x = &e->x;
    if (p->uses_caller) {
        struct jval caller = take_kwarg(e, kw, n_kw, e->tree->sym_caller);
        jset(e, e->tree->sym_caller, jgiven(caller) ? caller : jabsent(x, "caller"));
    }
    if (p->uses_kwargs) {
        struct jdict *d = jdict_new(x);
        for (size_t i = 0; i < *n_kw; i++)
            jdict_set(x, d, jstring((struct jstr *)kw[i].name), kw[i].val);
        jset(e, e->tree->sym_kwargs, jdictval(d));
    } else if (*n_kw) {
        jx_fail(x, -EINVAL, "macro '%s' takes no keyword argument '%s'", jstr_brief(x, m->name),
                jstr_brief(x, kw[0].name));
    }
    if (p->uses_varargs) {
        struct jlist *l = jlist_new(x);
        for (size_t i = p->n; i < args->n_pos; i++)
            jlist_add(x, l, args->pos[i]);
        jset(e, e->tree->sym_varargs, jtupleval(l));
    } else if (args->n_pos > p->n) {
        jx_fail(x, -EINVAL, "macro '%s' takes not more than %zu arguments",
                jstr_brief(x, m->name), p->n);
    }
}

static void bind_params(struct jexec *e, const struct jmacro *m, const struct jargs *args)
{
    const struct jparams *p = m->node->params;
    struct jkwarg *kw = jx_calloc(&e->x, args->n_kw, sizeof(*kw));
    size_t n_kw = args->n_kw;
    for (size_t i = 0; i < n_kw; i++)
        kw[i] = args->kw[i];
    struct jval *v = jx_calloc(&e->x, p->n, sizeof(*v));
    for (size_t i = 0; i < p->n; i++)
        v[i] = i < args->n_pos ? args->pos[i] : take_kwarg(e, kw, &n_kw, p->sym[i]);
    bind_special(e, m, args, kw, &n_kw);
    for (size_t i = 0; i < p->n; i++)
        jset(e, p->sym[i], jgiven(v[i]) ? v[i] : param_default(e, p, i));
}

static struct jval call_macro(struct jexec *e, const struct jmacro *m, const struct jargs *args)
{
    struct jbuild b = jbuild_start(&e->x), *out = e->out;
    struct jscope *scope = e->scope;
    unsigned line = e->x.line;
    if (++e->x.macro_depth > JX_MACRO_DEPTH)
        jx_fail(&e->x, -E2BIG, "macro calls nested more than %d deep", JX_MACRO_DEPTH);
    jscope_push(e, m->scope);
    bind_params(e, m, args);
    e->out = &b;
    jexec_body(e, m->node->body);
    e->out = out;
    e->scope = scope;
    e->x.line = line;
    e->x.macro_depth--;
    return jstring(jbuild_end(&b));
}

static struct jval call_joiner(struct jcycler *j)
{
    j->at++;
    return j->at == 1 ? (struct jval){ .kind = J_MISSING } : j->v[0];
}

struct jval jcall(struct jexec *e, struct jval f, const struct jargs *args)
{
    struct jval v;
    switch (f.kind) {
    case J_FUNCTION: return jinvoke(&e->x, f.func, f, args);
    case J_METHOD: return jinvoke(&e->x, f.method->func, f.method->self, args);
    case J_MACRO: return call_macro(e, f.macro, args);
    case J_LOOP: return jloop_call(e, f.loop, args);
    case J_JOINER:
        v = call_joiner(f.cycler);
        return jgiven(v) ? v : jstring(jstr_lit(&e->x, ""));
    case J_UNDEFINED: jfail_undefined(&e->x, f);
    default: jx_fail(&e->x, -EINVAL, "'%s' object is not callable", jtype(f));
    }
}
