// for: the loop itself, its filter, recursion, and the loop variable. Items are pulled one by one,
// so a filter sees what the body has set; only loop.last, nextitem and length look ahead.
#include "engine/text/jinja/exec.h"
#include <errno.h>
#include <string.h>
#include "engine/text/jinja/builtin.h"
#include "engine/text/jinja/print.h"

static bool passes(struct jexec *e, struct jloop *l, struct jval v)
{
    if (!l->node->c)
        return true;
    struct jscope *inner = e->scope;
    jscope_push(e, l->scope);
    jassign(e, l->node->a, v);
    bool pass = jtruth(jeval(e, l->node->c));
    e->scope = inner;
    return pass;
}

static bool pull(struct jexec *e, struct jloop *l, struct jval *ret)
{
    struct jval v;
    while (jiter_next(&e->x, &l->it, &v)) {
        if (l->length >= 0 || passes(e, l, v)) {
            *ret = v;
            return true;
        }
    }
    return false;
}

static bool advance(struct jexec *e, struct jloop *l)
{
    struct jval v = l->after;
    l->after = (struct jval){0};
    if (!jgiven(v) && !pull(e, l, &v))
        return false;
    l->index0++;
    l->prev = l->cur;
    l->cur = v;
    return true;
}

static struct jval peek(struct jexec *e, struct jloop *l)
{
    struct jval v;
    if (!jgiven(l->after) && pull(e, l, &v))
        l->after = v;
    return l->after;
}

// Reads the rest, which from then on is known to pass the filter.
static int64_t length(struct jexec *e, struct jloop *l)
{
    struct jval v;
    if (l->length >= 0)
        return l->length;
    struct jlist *rest = jlist_new(&e->x);
    while (pull(e, l, &v))
        jlist_add(&e->x, rest, v);
    l->it = jiter_start(&e->x, jlistval(rest));
    l->length = (int64_t)rest->n + l->index0 + 1 + jgiven(l->after);
    return l->length;
}

static enum jflow run(struct jexec *e, struct jloop *l)
{
    struct jscope *outer = e->scope, *scope = jscope_push(e, l->scope);
    struct jval loop = { .kind = J_LOOP, .loop = l };
    bool any = false;
    enum jflow flow = FLOW_NEXT;
    while (flow != FLOW_BREAK && advance(e, l)) {
        any = true;
        scope->n = 0;
        e->scope = scope;
        jset(e, e->tree->sym_loop, loop);
        jassign(e, l->node->a, l->cur);
        flow = jexec_body(e, l->node->body);
    }
    if (!any && l->node->other) {
        scope->n = 0;
        e->scope = scope;
        flow = jexec_body(e, l->node->other);   // its break belongs to the loop outside
        e->scope = outer;
        return flow;
    }
    e->scope = outer;
    return FLOW_NEXT;
}

static enum jflow start(struct jexec *e, const struct jnode *n, struct jscope *scope,
                        struct jval over, unsigned depth0)
{
    struct jloop *l = jx_alloc(&e->x, sizeof(*l));
    *l = (struct jloop){ .node = n, .scope = scope, .it = jiter_start(&e->x, over), .index0 = -1,
                         .depth0 = depth0, .length = -1 };
    return run(e, l);
}

enum jflow jexec_for(struct jexec *e, const struct jnode *n)
{
    return start(e, n, e->scope, jeval(e, n->b), 0);
}

struct jval jloop_call(struct jexec *e, struct jloop *outer, const struct jargs *args)
{
    if (!outer->node->recursive)
        jx_fail(&e->x, -EINVAL,
                "the loop must have the 'recursive' marker to be called recursively");
    if (args->n_pos != 1 || args->n_kw)
        jx_fail(&e->x, -EINVAL, "loop() takes one argument");
    if (++e->x.macro_depth > JX_MACRO_DEPTH)
        jx_fail(&e->x, -E2BIG, "loops nested more than %d deep", JX_MACRO_DEPTH);
    struct jbuild b = jbuild_start(&e->x), *out = e->out;
    e->out = &b;
    start(e, outer->node, outer->scope, args->pos[0], outer->depth0 + 1);
    e->out = out;
    e->x.macro_depth--;
    return jstring(jbuild_end(&b));
}

struct jval jloop_attr(struct jx *x, struct jval loop, struct jstr *name)
{
    struct jexec *e = jexec_of(x);
    struct jloop *l = loop.loop;
    if (jstr_is(name, "index0"))
        return jint(l->index0);
    if (jstr_is(name, "index"))
        return jint(l->index0 + 1);
    if (jstr_is(name, "first"))
        return jbool(l->index0 == 0);
    if (jstr_is(name, "last"))
        return jbool(!jgiven(peek(e, l)));
    if (jstr_is(name, "length"))
        return jint(length(e, l));
    if (jstr_is(name, "revindex"))
        return jint(length(e, l) - l->index0);
    if (jstr_is(name, "revindex0"))
        return jint(length(e, l) - l->index0 - 1);
    if (jstr_is(name, "depth"))
        return jint(l->depth0 + 1);
    if (jstr_is(name, "depth0"))
        return jint(l->depth0);
    if (jstr_is(name, "previtem"))
        return jgiven(l->prev) ? l->prev : jabsent(x, "loop.previtem");
    if (jstr_is(name, "nextitem"))
        return jgiven(peek(e, l)) ? l->after : jabsent(x, "loop.nextitem");
    return (struct jval){ .kind = J_MISSING };
}

struct jval jloop_changed(struct jx *x, struct jval loop, const struct jargs *args)
{
    struct jlist *now = jlist_new(x);
    for (size_t i = 0; i < args->n_pos; i++)
        jlist_add(x, now, args->pos[i]);
    struct jval v = jtupleval(now), *last = &loop.loop->changed;
    if (jgiven(*last) && jequal(x, *last, v))
        return jbool(false);
    *last = v;
    return jbool(true);
}

struct jval jloop_cycle(struct jx *x, struct jval loop, const struct jargs *args)
{
    if (args->n_pos == 0)
        jx_fail(x, -EINVAL, "no items for cycling given");
    return args->pos[(size_t)loop.loop->index0 % args->n_pos];
}
