// The parser's statements.
#include "engine/text/jinja/parser.h"
#include <errno.h>
#include "base/base.h"
#include "engine/text/jinja/jstr.h"

static struct jnode *body(struct jparser *p, const char *const *ends);

static bool at_end(const struct jparser *p, const char *const *ends)
{
    for (; ends && *ends; ends++) {
        if (jp_is_name(p, *ends))
            return true;
    }
    return false;
}

// The statements up to one of `ends`, at whose name the parser stands then.
static struct jnode *statements(struct jparser *p, const char *const *ends)
{
    jp_skip(p, T_COLON);
    jp_expect(p, T_BLOCK_END);
    jp_enter(p);
    struct jnode *n = body(p, ends);
    jp_leave(p);
    return n;
}

static struct jnode *statements_until(struct jparser *p, const char *end)
{
    const char *const ends[] = { end, NULL };
    struct jnode *n = statements(p, ends);
    jp_next(p);
    return n;
}

static struct jnode *parse_if(struct jparser *p)
{
    static const char *const ends[] = { "elif", "else", "endif", NULL };
    struct jnode *n = jp_node(p, N_IF);
    do {
        jp_next(p);             // if, elif
        jp_add(p, n, &n->list, jp_tuple(p, JP_NO_COND, NULL));
        jp_add(p, n, &n->list, statements(p, ends));
    } while (jp_is_name(p, "elif"));
    if (jp_skip_name(p, "else"))
        n->c = jp_child(p, n, statements_until(p, "endif"));
    else
        jp_next(p);
    return n;
}

static struct jnode *parse_for(struct jparser *p)
{
    static const char *const ends[] = { "endfor", "else", NULL };
    struct jnode *n = jp_node(p, N_FOR);
    jp_next(p);
    n->a = jp_child(p, n, jp_target(p, 0, "in"));
    jp_expect_name(p, "in");
    n->b = jp_child(p, n, jp_tuple(p, JP_NO_COND, "recursive"));
    if (jp_skip_name(p, "if"))
        n->c = jp_child(p, n, jp_expression(p));
    n->recursive = jp_skip_name(p, "recursive");
    p->loops++;
    n->body = jp_child(p, n, statements(p, ends));
    p->loops--;
    if (jp_skip_name(p, "else"))
        n->other = jp_child(p, n, statements_until(p, "endfor"));
    else
        jp_next(p);
    return n;
}

static struct jnode *parse_set(struct jparser *p)
{
    struct jnode *n = jp_node(p, N_SET);
    jp_next(p);
    n->a = jp_child(p, n, jp_target(p, JP_NAMESPACE, NULL));
    if (jp_skip(p, T_ASSIGN)) {
        n->b = jp_child(p, n, jp_tuple(p, 0, NULL));
        return n;
    }
    n->op = N_SET_BLOCK;
    n->b = jp_child(p, n, jp_filter(p, NULL, false));
    n->body = jp_child(p, n, statements_until(p, "endset"));
    return n;
}

static struct jparams *signature(struct jparser *p, struct jnode *n)
{
    struct jparams *s = jx_alloc(p->x, sizeof(*s));
    jp_expect(p, T_LPAREN);
    while (!jp_is(p, T_RPAREN)) {
        if (s->n)
            jp_expect(p, T_COMMA);
        if (s->n == s->cap)
            s->sym = jx_grow(p->x, s->sym, s->n, &s->cap, sizeof(*s->sym));
        s->sym[s->n++] = jp_take_symbol(p);
        if (jp_skip(p, T_ASSIGN))
            jp_add(p, n, &s->defaults, jp_expression(p));
        else if (s->defaults.n)
            jp_fail(p, "a default value");
    }
    jp_expect(p, T_RPAREN);
    return s;
}

// A macro's body, noting which of the special names it reads. Loops outside are out of its reach.
static void macro_body(struct jparser *p, struct jnode *n, const char *end)
{
    unsigned loops = p->loops;
    bool caller = p->uses_caller, varargs = p->uses_varargs, kwargs = p->uses_kwargs;
    p->loops = 0;
    p->uses_caller = p->uses_varargs = p->uses_kwargs = false;
    n->body = jp_child(p, n, statements_until(p, end));
    n->params->uses_caller = p->uses_caller;
    n->params->uses_varargs = p->uses_varargs;
    n->params->uses_kwargs = p->uses_kwargs;
    p->loops = loops;
    p->uses_caller |= caller;
    p->uses_varargs |= varargs;
    p->uses_kwargs |= kwargs;
}

static struct jnode *parse_macro(struct jparser *p)
{
    struct jnode *n = jp_node(p, N_MACRO);
    jp_next(p);
    n->sym = jp_take_symbol(p);
    n->params = signature(p, n);
    macro_body(p, n, "endmacro");
    return n;
}

static struct jnode *parse_call(struct jparser *p)
{
    struct jnode *n = jp_node(p, N_CALL_BLOCK);
    jp_next(p);
    n->params = jp_is(p, T_LPAREN) ? signature(p, n) : jx_alloc(p->x, sizeof(*n->params));
    n->a = jp_child(p, n, jp_expression(p));
    if (n->a->op != N_CALL)
        jp_fail(p, "a call");
    macro_body(p, n, "endcall");
    return n;
}

// transformers makes it a call block whose caller takes no arguments.
static struct jnode *parse_generation(struct jparser *p)
{
    struct jnode *n = jp_node(p, N_SCOPE);
    unsigned loops = p->loops;
    jp_next(p);
    p->loops = 0;
    n->body = jp_child(p, n, statements_until(p, "endgeneration"));
    p->loops = loops;
    return n;
}

static struct jnode *parse_filter_block(struct jparser *p)
{
    struct jnode *n = jp_node(p, N_FILTER_BLOCK);
    jp_next(p);
    n->a = jp_child(p, n, jp_filter(p, NULL, true));
    n->body = jp_child(p, n, statements_until(p, "endfilter"));
    return n;
}

static struct jnode *parse_with(struct jparser *p)
{
    struct jnode *n = jp_node(p, N_WITH);
    jp_next(p);
    while (!jp_is(p, T_BLOCK_END)) {
        if (n->list.n)
            jp_expect(p, T_COMMA);
        jp_add(p, n, &n->list, jp_target(p, 0, NULL));
        jp_expect(p, T_ASSIGN);
        jp_add(p, n, &n->list, jp_expression(p));
    }
    n->body = jp_child(p, n, statements_until(p, "endwith"));
    return n;
}

static struct jnode *parse_print(struct jparser *p)
{
    struct jnode *n = jp_node(p, N_BODY);
    jp_next(p);
    while (!jp_is(p, T_BLOCK_END)) {
        if (n->list.n)
            jp_expect(p, T_COMMA);
        struct jnode *o = jp_node(p, N_OUTPUT);
        o->a = jp_child(p, o, jp_expression(p));
        jp_add(p, n, &n->list, o);
    }
    return n;
}

static struct jnode *parse_loop_control(struct jparser *p)
{
    struct jnode *n = jp_node(p, jp_is_name(p, "break") ? N_BREAK : N_CONTINUE);
    if (p->loops == 0)
        jx_fail(p->x, -EINVAL, "'%.*s' outside a loop", (int)p->cur.n, p->cur.p);
    jp_next(p);
    return n;
}

static const struct { const char *name; struct jnode *(*parse)(struct jparser *); } tags[] = {
    { "if", parse_if }, { "for", parse_for }, { "set", parse_set }, { "macro", parse_macro },
    { "call", parse_call }, { "generation", parse_generation }, { "filter", parse_filter_block },
    { "with", parse_with }, { "print", parse_print }, { "break", parse_loop_control },
    { "continue", parse_loop_control },
};

static struct jnode *statement(struct jparser *p)
{
    for (size_t i = 0; i < ARRAY_LEN(tags); i++) {
        if (jp_is_name(p, tags[i].name))
            return tags[i].parse(p);
    }
    jp_fail(p, "a tag");
}

static struct jnode *data(struct jparser *p)
{
    struct jnode *n = jp_node(p, N_DATA);
    n->val = jstring(jp_text(p->x, p->cur.p, p->cur.n));
    jp_next(p);
    return n;
}

static struct jnode *output(struct jparser *p)
{
    struct jnode *n = jp_node(p, N_OUTPUT);
    jp_next(p);
    n->a = jp_child(p, n, jp_tuple(p, 0, NULL));
    jp_expect(p, T_VAR_END);
    return n;
}

static struct jnode *body(struct jparser *p, const char *const *ends)
{
    struct jnode *n = jp_node(p, N_BODY);
    for (;;) {
        if (jp_is(p, T_DATA)) {
            jp_add(p, n, &n->list, data(p));
        } else if (jp_is(p, T_VAR_BEGIN)) {
            jp_add(p, n, &n->list, output(p));
        } else if (jp_skip(p, T_BLOCK_BEGIN)) {
            if (at_end(p, ends))
                return n;
            jp_add(p, n, &n->list, statement(p));
            jp_expect(p, T_BLOCK_END);
        } else if (jp_is(p, T_EOF) && !ends) {
            return n;
        } else {
            jp_fail(p, ends ? *ends : "text or a tag");
        }
    }
}

struct jtree *jparse(struct jx *x, const char *src, size_t n)
{
    struct jtree *t = jx_alloc(x, sizeof(*t));
    struct jparser p = { .x = x, .lex = jlex_start(x, src, n), .tree = t };
    t->by_name = jdict_new(x);
    t->seed = x->seed;
    t->sym_loop = jp_symbol(&p, "loop", 4);
    t->sym_caller = jp_symbol(&p, "caller", 6);
    t->sym_varargs = jp_symbol(&p, "varargs", 7);
    t->sym_kwargs = jp_symbol(&p, "kwargs", 6);
    jp_next(&p);
    t->body = body(&p, NULL);
    return t;
}
