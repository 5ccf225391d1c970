// The parser's hands: tokens, nodes and symbols.
#include "engine/text/jinja/parser.h"
#include <errno.h>
#include <string.h>
#include "base/base.h"
#include "engine/text/jinja/jstr.h"

void jp_next(struct jparser *p)
{
    p->cur = p->has_ahead ? p->ahead : jlex_next(&p->lex);
    p->has_ahead = false;
    p->x->line = p->cur.line;
}

const struct jtoken *jp_look(struct jparser *p)
{
    if (!p->has_ahead)
        p->ahead = jlex_next(&p->lex);
    p->has_ahead = true;
    return &p->ahead;
}

bool jp_is(const struct jparser *p, enum jtok type)
{
    return p->cur.type == type;
}

bool jp_is_name(const struct jparser *p, const char *name)
{
    size_t n = strlen(name);
    return p->cur.type == T_NAME && p->cur.n == n && memcmp(p->cur.p, name, n) == 0;
}

bool jp_skip(struct jparser *p, enum jtok type)
{
    if (!jp_is(p, type))
        return false;
    jp_next(p);
    return true;
}

bool jp_skip_name(struct jparser *p, const char *name)
{
    if (!jp_is_name(p, name))
        return false;
    jp_next(p);
    return true;
}

void jp_fail(struct jparser *p, const char *what)
{
    if (jp_is(p, T_NAME))
        jx_fail(p->x, -EINVAL, "expected %s, got '%.*s'", what, (int)MIN(p->cur.n, (size_t)60),
                p->cur.p);
    jx_fail(p->x, -EINVAL, "expected %s, got %s", what, jtok_name(p->cur.type));
}

void jp_expect(struct jparser *p, enum jtok type)
{
    if (!jp_skip(p, type))
        jp_fail(p, jtok_name(type));
}

void jp_expect_name(struct jparser *p, const char *name)
{
    if (!jp_skip_name(p, name))
        jp_fail(p, name);
}

void jp_enter(struct jparser *p)
{
    if (++p->depth > JX_PARSE_DEPTH)
        jx_fail(p->x, -E2BIG, "nested more than %d deep", JX_PARSE_DEPTH);
}

struct jnode *jp_node(struct jparser *p, enum jop op)
{
    struct jnode *n = jx_alloc(p->x, sizeof(*n));
    n->op = op;
    n->line = p->cur.line;
    return n;
}

struct jnode *jp_child(struct jparser *p, struct jnode *parent, struct jnode *child)
{
    if (child)
        parent->depth = MAX(parent->depth, child->depth + 1);
    if (parent->depth > JX_AST_DEPTH)
        jx_fail(p->x, -E2BIG, "an expression of more than %d levels", JX_AST_DEPTH);
    return child;
}

void jp_add(struct jparser *p, struct jnode *parent, struct jnodes *list, struct jnode *child)
{
    if (list->n == list->cap)
        list->v = jx_grow(p->x, list->v, list->n, &list->cap, sizeof(struct jnode *));
    list->v[list->n++] = jp_child(p, parent, child);
}

struct jstr *jp_text(struct jx *x, const char *p, size_t n)
{
    struct jstr *s = jstr_copy(x, p, n, JS_TEMPLATE);
    jstr_chars(s);              // counted now: renderings share the string and must not write to it
    return s;
}

unsigned jp_symbol(struct jparser *p, const char *name, size_t n)
{
    struct jtree *t = p->tree;
    struct jstr *s = jp_text(p->x, name, n);
    long known = jtree_symbol(p->x, t, s);
    if (known >= 0)
        return (unsigned)known;
    if (t->n_symbols == t->cap_symbols)
        t->symbol = jx_grow(p->x, t->symbol, t->n_symbols, &t->cap_symbols, sizeof(struct jstr *));
    jdict_set(p->x, t->by_name, jstring(s), jint((int64_t)t->n_symbols));
    t->symbol[t->n_symbols] = s;
    return (unsigned)t->n_symbols++;
}

long jtree_symbol(struct jx *x, const struct jtree *t, const struct jstr *name)
{
    struct jval *v = jdict_find(x, t->by_name, jstring((struct jstr *)name));
    return v ? (long)v->i : -1;
}

unsigned jp_take_symbol(struct jparser *p)
{
    struct jtoken t = p->cur;
    jp_expect(p, T_NAME);
    return jp_symbol(p, t.p, t.n);
}

struct jstr *jp_take_name(struct jparser *p)
{
    struct jtoken t = p->cur;
    jp_expect(p, T_NAME);
    return jp_text(p->x, t.p, t.n);
}
