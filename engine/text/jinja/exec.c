// Statements to text, and the scopes they write to.
#include "engine/text/jinja/exec.h"
#include <errno.h>
#include "engine/text/jinja/builtin.h"
#include "engine/text/jinja/print.h"

struct jscope *jscope_push(struct jexec *e, struct jscope *parent)
{
    struct jscope *s = jx_alloc(&e->x, sizeof(*s));
    s->parent = parent;
    e->scope = s;
    return s;
}

void jset(struct jexec *e, unsigned sym, struct jval v)
{
    struct jscope *s = e->scope;
    if (!s) {
        e->root[sym] = v;
        return;
    }
    jx_step(&e->x, s->n / 8);
    for (size_t i = 0; i < s->n; i++) {
        if (s->v[i].sym == sym) {
            s->v[i].val = v;
            return;
        }
    }
    if (s->n == s->cap)
        s->v = jx_grow(&e->x, s->v, s->n, &s->cap, sizeof(*s->v));
    s->v[s->n++] = (struct jbinding){ sym, v };
}

static void assign_attr(struct jexec *e, const struct jnode *target, struct jval v)
{
    struct jnode name = { .op = N_NAME, .sym = target->sym };
    struct jval ns = jeval(e, &name);
    if (ns.kind != J_NAMESPACE)
        jx_fail(&e->x, -EINVAL, "cannot assign attribute on non-namespace object");
    if (target->val.s->p[0] == '_')
        jx_fail(&e->x, -EINVAL, "a namespace takes no attributes that begin with an underscore");
    jdict_set(&e->x, ns.m, target->val, v);
}

static void unpack(struct jexec *e, const struct jnode *target, struct jval v)
{
    struct jlist *l = jiter_list(&e->x, v);
    if (l->n != target->list.n)
        jx_fail(&e->x, -EINVAL, "%s values to unpack (expected %zu, got %zu)",
                l->n > target->list.n ? "too many" : "not enough", target->list.n, l->n);
    for (size_t i = 0; i < l->n; i++)
        jassign(e, target->list.v[i], l->v[i]);
}

void jassign(struct jexec *e, const struct jnode *target, struct jval v)
{
    if (target->op == N_NAME)
        jset(e, target->sym, v);
    else if (target->op == N_NSREF)
        assign_attr(e, target, v);
    else
        unpack(e, target, v);
}

static enum jflow exec_if(struct jexec *e, const struct jnode *n)
{
    for (size_t i = 0; i < n->list.n; i += 2) {
        if (jtruth(jeval(e, n->list.v[i])))
            return jexec_body(e, n->list.v[i + 1]);
    }
    return n->c ? jexec_body(e, n->c) : FLOW_NEXT;
}

static enum jflow exec_scoped(struct jexec *e, const struct jnode *body)
{
    struct jscope *outer = e->scope;
    jscope_push(e, outer);
    enum jflow flow = jexec_body(e, body);
    e->scope = outer;
    return flow;
}

struct jstr *jexec_capture(struct jexec *e, const struct jnode *body, enum jflow *flow)
{
    struct jbuild b = jbuild_start(&e->x), *outer = e->out;
    e->out = &b;
    *flow = exec_scoped(e, body);
    e->out = outer;
    return jbuild_end(&b);
}

static enum jflow exec_set_block(struct jexec *e, const struct jnode *n)
{
    enum jflow flow;
    struct jval v = jstring(jexec_capture(e, n->body, &flow));
    if (flow != FLOW_NEXT)
        return flow;
    if (n->b) {
        e->piped = v;
        v = jeval(e, n->b);
    }
    jassign(e, n->a, v);
    return FLOW_NEXT;
}

static enum jflow exec_filter_block(struct jexec *e, const struct jnode *n)
{
    enum jflow flow;
    struct jstr *s = jexec_capture(e, n->body, &flow);
    if (flow != FLOW_NEXT)
        return flow;
    e->piped = jstring(s);
    jprint_str(e->out, jeval(e, n->a));
    return FLOW_NEXT;
}

static enum jflow exec_with(struct jexec *e, const struct jnode *n)
{
    struct jscope *outer = e->scope, *inner = jscope_push(e, outer);
    for (size_t i = 0; i < n->list.n; i += 2) {
        e->scope = outer;       // values do not see the targets
        struct jval v = jeval(e, n->list.v[i + 1]);
        e->scope = inner;
        jassign(e, n->list.v[i], v);
    }
    e->scope = inner;
    enum jflow flow = jexec_body(e, n->body);
    e->scope = outer;
    return flow;
}

static void exec_call_block(struct jexec *e, const struct jnode *n)
{
    struct jval caller = jmacro_new(e, n, e->tree->symbol[e->tree->sym_caller]);
    struct jval f = jeval(e, n->a->a);
    jprint_str(e->out, jcall(e, f, jeval_args(e, n->a->args, caller)));
}

static enum jflow exec_node(struct jexec *e, const struct jnode *n)
{
    switch (n->op) {
    case N_DATA: jbuild_str(e->out, n->val.s); return FLOW_NEXT;
    case N_OUTPUT: jprint_str(e->out, jeval(e, n->a)); return FLOW_NEXT;
    case N_IF: return exec_if(e, n);
    case N_FOR: return jexec_for(e, n);
    case N_SET: jassign(e, n->a, jeval(e, n->b)); return FLOW_NEXT;
    case N_SET_BLOCK: return exec_set_block(e, n);
    case N_MACRO: jset(e, n->sym, jmacro_new(e, n, e->tree->symbol[n->sym])); return FLOW_NEXT;
    case N_CALL_BLOCK: exec_call_block(e, n); return FLOW_NEXT;
    case N_FILTER_BLOCK: return exec_filter_block(e, n);
    case N_WITH: return exec_with(e, n);
    case N_SCOPE: return exec_scoped(e, n->body);
    case N_BODY: return jexec_body(e, n);
    case N_BREAK: return FLOW_BREAK;
    default: assert(n->op == N_CONTINUE); return FLOW_CONTINUE;
    }
}

enum jflow jexec_body(struct jexec *e, const struct jnode *n)
{
    enum jflow flow = FLOW_NEXT;
    assert(n->op == N_BODY);
    if (++e->x.eval_depth > JX_EVAL_DEPTH)
        jx_fail(&e->x, -E2BIG, "evaluation nested more than %d deep", JX_EVAL_DEPTH);
    for (size_t i = 0; flow == FLOW_NEXT && i < n->list.n; i++) {
        jx_step(&e->x, 1);
        e->x.line = n->list.v[i]->line;
        flow = exec_node(e, n->list.v[i]);
    }
    e->x.eval_depth--;
    return flow;
}
