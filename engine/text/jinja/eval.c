// Expressions to values.
#include "engine/text/jinja/exec.h"
#include <errno.h>
#include "engine/text/jinja/builtin.h"
#include "engine/text/jinja/print.h"

static struct jval lookup(struct jexec *e, unsigned sym)
{
    for (const struct jscope *s = e->scope; s; s = s->parent) {
        jx_step(&e->x, s->n / 8);
        for (size_t i = 0; i < s->n; i++) {
            if (s->v[i].sym == sym && jgiven(s->v[i].val))
                return s->v[i].val;
        }
    }
    if (jgiven(e->root[sym]))
        return e->root[sym];
    return jundefined(&e->x, e->tree->symbol[sym], NULL);
}

static struct jval eval_list(struct jexec *e, const struct jnode *n)
{
    struct jlist *l = jlist_new(&e->x);
    for (size_t i = 0; i < n->list.n; i++)
        jlist_add(&e->x, l, jeval(e, n->list.v[i]));
    return n->op == N_LIST ? jlistval(l) : jtupleval(l);
}

static struct jval eval_dict(struct jexec *e, const struct jnode *n)
{
    struct jdict *m = jdict_new(&e->x);
    for (size_t i = 0; i < n->list.n; i += 2) {
        struct jval key = jeval(e, n->list.v[i]);
        jdict_set(&e->x, m, key, jeval(e, n->list.v[i + 1]));
    }
    return jdictval(m);
}

static struct jval eval_item(struct jexec *e, const struct jnode *n)
{
    struct jval of = jeval(e, n->a), part[3];
    if (n->b->op != N_SLICE)
        return jgetitem(&e->x, of, jeval(e, n->b));
    for (int i = 0; i < 3; i++)
        part[i] = n->b->list.v[i] ? jeval(e, n->b->list.v[i]) : jnone();
    return jslice(&e->x, of, part);
}

static void add_kwarg(struct jexec *e, struct jkwarg **kw, size_t *n, size_t *cap,
                      const struct jstr *name, struct jval v)
{
    if (*n == *cap)
        *kw = jx_grow(&e->x, *kw, *n, cap, sizeof(**kw));
    (*kw)[(*n)++] = (struct jkwarg){ name, v };
}

static void star_args(struct jexec *e, struct jlist *pos, const struct jnode *star)
{
    struct jval v;
    for (struct jiter it = jiter_start(&e->x, jeval(e, star)); jiter_next(&e->x, &it, &v);)
        jlist_add(&e->x, pos, v);
}

struct jargs *jeval_args(struct jexec *e, const struct jnode_args *a, struct jval caller)
{
    struct jx *x = &e->x;
    struct jargs *r = jx_alloc(x, sizeof(*r));
    struct jlist pos = {0};
    struct jkwarg *kw = NULL;
    size_t n_kw = 0, cap = 0;
    for (size_t i = 0; a && i < a->pos.n; i++)
        jlist_add(x, &pos, jeval(e, a->pos.v[i]));
    for (size_t i = 0; a && i < a->n_kw; i++)
        add_kwarg(e, &kw, &n_kw, &cap, a->kw[i].name, jeval(e, a->kw[i].val));
    if (jgiven(caller))
        add_kwarg(e, &kw, &n_kw, &cap, e->tree->symbol[e->tree->sym_caller], caller);
    if (a && a->star)
        star_args(e, &pos, a->star);
    if (a && a->star_star) {
        struct jval m = jeval(e, a->star_star);
        if (m.kind != J_DICT)
            jx_fail(x, -EINVAL, "argument after ** must be a mapping, not %s", jtype(m));
        for (size_t i = 0; i < m.m->n; i++)
            add_kwarg(e, &kw, &n_kw, &cap, jneed_str(x, m.m->pair[i].key, "keyword"),
                      m.m->pair[i].val);
    }
    *r = (struct jargs){ pos.v, pos.n, kw, n_kw };
    return r;
}

static struct jval eval_filter(struct jexec *e, const struct jnode *n)
{
    struct jval v = n->a ? jeval(e, n->a) : e->piped;
    if (!n->func)
        jx_fail(&e->x, -EINVAL, "no filter named '%s'", jstr_brief(&e->x, n->val.s));
    return jinvoke(&e->x, n->func, v, jeval_args(e, n->args, (struct jval){0}));
}

static struct jval eval_test(struct jexec *e, const struct jnode *n)
{
    struct jval v = jeval(e, n->a);
    if (!n->func)
        jx_fail(&e->x, -EINVAL, "no test named '%s'", jstr_brief(&e->x, n->val.s));
    return jinvoke(&e->x, n->func, v, jeval_args(e, n->args, (struct jval){0}));
}

static struct jval eval_compare(struct jexec *e, const struct jnode *n)
{
    struct jval left = jeval(e, n->a);
    for (size_t i = 0; i < n->list.n; i++) {
        const struct jnode *o = n->list.v[i];
        struct jval right = jeval(e, o->a);
        if (!jcompares(&e->x, o->tok, left, right))
            return jbool(false);
        left = right;
    }
    return jbool(true);
}

static struct jval eval_concat(struct jexec *e, const struct jnode *n)
{
    struct jstr *s = jto_str(&e->x, jeval(e, n->list.v[0]));
    for (size_t i = 1; i < n->list.n; i++)
        s = jstr_concat(&e->x, s, jto_str(&e->x, jeval(e, n->list.v[i])));
    return jstring(jstr_markup(&e->x, s, false));
}

static struct jval eval_cond(struct jexec *e, const struct jnode *n)
{
    if (jtruth(jeval(e, n->b)))
        return jeval(e, n->a);
    return n->c ? jeval(e, n->c) : jabsent(&e->x, "the value of an if without else");
}

static struct jval eval_logic(struct jexec *e, const struct jnode *n)
{
    struct jval v = jeval(e, n->a);
    return jtruth(v) == (n->op == N_OR) ? v : jeval(e, n->b);
}

static struct jval eval_binary(struct jexec *e, const struct jnode *n)
{
    struct jval a = jeval(e, n->a);
    return jbinary(&e->x, n->tok, a, jeval(e, n->b));
}

static struct jval eval_call(struct jexec *e, const struct jnode *n)
{
    struct jval f = jeval(e, n->a);
    return jcall(e, f, jeval_args(e, n->args, (struct jval){0}));
}

static struct jval eval_node(struct jexec *e, const struct jnode *n)
{
    switch (n->op) {
    case N_CONST: return n->val;
    case N_NAME: return lookup(e, n->sym);
    case N_TUPLE: case N_LIST: return eval_list(e, n);
    case N_DICT: return eval_dict(e, n);
    case N_ATTR: return jgetattr(&e->x, jeval(e, n->a), n->val.s);
    case N_ITEM: return eval_item(e, n);
    case N_CALL: return eval_call(e, n);
    case N_FILTER: return eval_filter(e, n);
    case N_TEST: return eval_test(e, n);
    case N_NOT: return jbool(!jtruth(jeval(e, n->a)));
    case N_NEG: case N_POS: return jnegate(&e->x, jeval(e, n->a), n->op == N_NEG);
    case N_BINARY: return eval_binary(e, n);
    case N_AND: case N_OR: return eval_logic(e, n);
    case N_COMPARE: return eval_compare(e, n);
    case N_CONCAT: return eval_concat(e, n);
    case N_COND: return eval_cond(e, n);
    default: jx_fail(&e->x, -EINVAL, "a slice outside of a subscript");
    }
}

struct jval jeval(struct jexec *e, const struct jnode *n)
{
    jx_step(&e->x, 1);
    if (++e->x.eval_depth > JX_EVAL_DEPTH)
        jx_fail(&e->x, -E2BIG, "evaluation nested more than %d deep", JX_EVAL_DEPTH);
    struct jval v = eval_node(e, n);
    e->x.eval_depth--;
    return v;
}
