// The parser's expressions, with jinja2's precedence: or, and, not, comparison, + -, ~, * / // %,
// **, unary, then attributes, calls, filters and tests.
#include "engine/text/jinja/parser.h"
#include <errno.h>
#include <string.h>
#include "base/base.h"
#include "engine/text/jinja/builtin.h"
#include "engine/text/jinja/jstr.h"

static struct jnode *unary(struct jparser *p, bool with_filter);

static struct jnode *node2(struct jparser *p, enum jop op, struct jnode *a, struct jnode *b)
{
    struct jnode *n = jp_node(p, op);
    n->a = jp_child(p, n, a);
    n->b = jp_child(p, n, b);
    return n;
}

static struct jnode *binary(struct jparser *p, enum jtok tok, struct jnode *a, struct jnode *b)
{
    struct jnode *n = node2(p, N_BINARY, a, b);
    n->tok = tok;
    return n;
}

static struct jnode *constant(struct jparser *p, struct jval v)
{
    struct jnode *n = jp_node(p, N_CONST);
    n->val = v;
    return n;
}

static struct jnode *power(struct jparser *p)
{
    struct jnode *left = unary(p, true);
    while (jp_skip(p, T_POW))
        left = binary(p, T_POW, left, unary(p, true));
    return left;
}

static struct jnode *product(struct jparser *p)
{
    struct jnode *left = power(p);
    while (jp_is(p, T_MUL) || jp_is(p, T_DIV) || jp_is(p, T_FLOORDIV) || jp_is(p, T_MOD)) {
        enum jtok tok = p->cur.type;
        jp_next(p);
        left = binary(p, tok, left, power(p));
    }
    return left;
}

static struct jnode *concat(struct jparser *p)
{
    struct jnode *first = product(p);
    if (!jp_is(p, T_TILDE))
        return first;
    struct jnode *n = jp_node(p, N_CONCAT);
    jp_add(p, n, &n->list, first);
    while (jp_skip(p, T_TILDE))
        jp_add(p, n, &n->list, product(p));
    return n;
}

static struct jnode *sum(struct jparser *p)
{
    struct jnode *left = concat(p);
    while (jp_is(p, T_ADD) || jp_is(p, T_SUB)) {
        enum jtok tok = p->cur.type;
        jp_next(p);
        left = binary(p, tok, left, concat(p));
    }
    return left;
}

static bool comparison(struct jparser *p, enum jtok *ret)
{
    enum jtok t = p->cur.type;
    const struct jtoken *next;
    if (t >= T_EQ && t <= T_GE) {
        jp_next(p);
        *ret = t;
        return true;
    }
    if (jp_skip_name(p, "in")) {
        *ret = JT_IN;
        return true;
    }
    if (!jp_is_name(p, "not"))
        return false;
    next = jp_look(p);
    if (next->type != T_NAME || next->n != 2 || memcmp(next->p, "in", 2) != 0)
        return false;
    jp_next(p);
    jp_next(p);
    *ret = JT_NOT_IN;
    return true;
}

static struct jnode *compare(struct jparser *p)
{
    struct jnode *first = sum(p), *n = NULL;
    enum jtok tok;
    while (comparison(p, &tok)) {
        if (!n) {
            n = jp_node(p, N_COMPARE);
            n->a = jp_child(p, n, first);
        }
        struct jnode *o = jp_node(p, N_OPERAND);
        o->tok = tok;
        o->a = jp_child(p, o, sum(p));
        jp_add(p, n, &n->list, o);
    }
    return n ? n : first;
}

static struct jnode *negation(struct jparser *p)
{
    if (!jp_skip_name(p, "not"))
        return compare(p);
    struct jnode *n = jp_node(p, N_NOT);
    jp_enter(p);
    n->a = jp_child(p, n, negation(p));
    jp_leave(p);
    return n;
}

static struct jnode *conjunction(struct jparser *p)
{
    struct jnode *left = negation(p);
    while (jp_skip_name(p, "and"))
        left = node2(p, N_AND, left, negation(p));
    return left;
}

static struct jnode *disjunction(struct jparser *p)
{
    struct jnode *left = conjunction(p);
    while (jp_skip_name(p, "or"))
        left = node2(p, N_OR, left, conjunction(p));
    return left;
}

struct jnode *jp_expression(struct jparser *p)
{
    jp_enter(p);
    struct jnode *e = disjunction(p);
    while (jp_skip_name(p, "if")) {
        struct jnode *n = node2(p, N_COND, e, disjunction(p));
        if (jp_skip_name(p, "else"))
            n->c = jp_child(p, n, jp_expression(p));
        e = n;
    }
    jp_leave(p);
    return e;
}

static struct jnode *list(struct jparser *p)
{
    struct jnode *n = jp_node(p, N_LIST);
    jp_expect(p, T_LBRACKET);
    while (!jp_is(p, T_RBRACKET)) {
        if (n->list.n)
            jp_expect(p, T_COMMA);
        if (jp_is(p, T_RBRACKET))
            break;
        jp_add(p, n, &n->list, jp_expression(p));
    }
    jp_expect(p, T_RBRACKET);
    return n;
}

static struct jnode *dict(struct jparser *p)
{
    struct jnode *n = jp_node(p, N_DICT);
    jp_expect(p, T_LBRACE);
    while (!jp_is(p, T_RBRACE)) {
        if (n->list.n)
            jp_expect(p, T_COMMA);
        if (jp_is(p, T_RBRACE))
            break;
        jp_add(p, n, &n->list, jp_expression(p));
        jp_expect(p, T_COLON);
        jp_add(p, n, &n->list, jp_expression(p));
    }
    jp_expect(p, T_RBRACE);
    return n;
}

static struct jnode *strings(struct jparser *p)
{
    struct jbuild b = jbuild_start(p->x);
    for (; jp_is(p, T_STRING); jp_next(p))
        jbuild_str(&b, p->cur.val.s);
    struct jstr *s = jbuild_end(&b);
    return constant(p, jstring(jp_text(p->x, s->p, s->n)));
}

static struct jnode *name(struct jparser *p, int flags)
{
    static const struct { const char *name; struct jval val; } consts[] = {
        { "true", { .kind = J_BOOL, .b = true } }, { "True", { .kind = J_BOOL, .b = true } },
        { "false", { .kind = J_BOOL } }, { "False", { .kind = J_BOOL } },
        { "none", { .kind = J_NONE } }, { "None", { .kind = J_NONE } },
    };
    for (size_t i = 0; i < ARRAY_LEN(consts); i++) {
        if (jp_skip_name(p, consts[i].name))
            return constant(p, consts[i].val);
    }
    p->uses_caller |= jp_is_name(p, "caller");
    p->uses_varargs |= jp_is_name(p, "varargs");
    p->uses_kwargs |= jp_is_name(p, "kwargs");
    struct jnode *n = jp_node(p, N_NAME);
    n->sym = jp_take_symbol(p);
    if ((flags & JP_NAMESPACE) && jp_skip(p, T_DOT)) {
        n->op = N_NSREF;
        n->val = jstring(jp_take_name(p));
    }
    return n;
}

static struct jnode *primary(struct jparser *p, int flags)
{
    struct jnode *n;
    switch (p->cur.type) {
    case T_NAME: return name(p, flags);
    case T_STRING: return strings(p);
    case T_INT: case T_FLOAT:
        n = constant(p, p->cur.val);
        jp_next(p);
        return n;
    case T_LPAREN:
        jp_next(p);
        n = jp_tuple(p, JP_PARENS, NULL);
        jp_expect(p, T_RPAREN);
        return n;
    case T_LBRACKET: return list(p);
    case T_LBRACE: return dict(p);
    default: jp_fail(p, "an expression");
    }
}

static struct jnode *slice_part(struct jparser *p)
{
    if (jp_is(p, T_COLON) || jp_is(p, T_RBRACKET) || jp_is(p, T_COMMA))
        return NULL;
    return jp_expression(p);
}

static struct jnode *subscribed(struct jparser *p)
{
    struct jnode *first = slice_part(p);
    if (!jp_skip(p, T_COLON)) {
        if (!first)
            jp_fail(p, "an expression");
        return first;
    }
    struct jnode *n = jp_node(p, N_SLICE);
    jp_add(p, n, &n->list, first);
    jp_add(p, n, &n->list, slice_part(p));
    jp_add(p, n, &n->list, jp_skip(p, T_COLON) ? slice_part(p) : NULL);
    return n;
}

static struct jnode *subscript(struct jparser *p, struct jnode *of)
{
    struct jnode *n;
    if (jp_skip(p, T_DOT)) {
        if (jp_is(p, T_INT)) {
            n = node2(p, N_ITEM, of, constant(p, p->cur.val));
            jp_next(p);
            return n;
        }
        n = node2(p, N_ATTR, of, NULL);
        n->val = jstring(jp_take_name(p));
        return n;
    }
    jp_expect(p, T_LBRACKET);
    struct jnode *tuple = jp_node(p, N_TUPLE);
    while (!jp_is(p, T_RBRACKET)) {
        if (tuple->list.n)
            jp_expect(p, T_COMMA);
        jp_add(p, tuple, &tuple->list, subscribed(p));
    }
    jp_expect(p, T_RBRACKET);
    return node2(p, N_ITEM, of, tuple->list.n == 1 ? tuple->list.v[0] : tuple);
}

static void kwarg(struct jparser *p, struct jnode *n, struct jnode_args *a)
{
    struct jstr *key = jp_take_name(p);
    jp_expect(p, T_ASSIGN);
    if (a->n_kw == a->cap_kw)
        a->kw = jx_grow(p->x, a->kw, a->n_kw, &a->cap_kw, sizeof(*a->kw));
    a->kw[a->n_kw++] = (struct jnode_kwarg){ key, jp_child(p, n, jp_expression(p)) };
}

static void one_arg(struct jparser *p, struct jnode *n, struct jnode_args *a)
{
    if (jp_is(p, T_MUL) && !a->star && !a->star_star) {
        jp_next(p);
        a->star = jp_child(p, n, jp_expression(p));
    } else if (jp_is(p, T_POW) && !a->star_star) {
        jp_next(p);
        a->star_star = jp_child(p, n, jp_expression(p));
    } else if (jp_is(p, T_NAME) && jp_look(p)->type == T_ASSIGN && !a->star_star) {
        kwarg(p, n, a);
    } else if (!a->star && !a->star_star && a->n_kw == 0) {
        jp_add(p, n, &a->pos, jp_expression(p));
    } else {
        jp_fail(p, "an argument in order");
    }
}

static void call_args(struct jparser *p, struct jnode *n)
{
    n->args = jx_alloc(p->x, sizeof(*n->args));
    jp_expect(p, T_LPAREN);
    for (bool first = true; !jp_is(p, T_RPAREN); first = false) {
        if (!first)
            jp_expect(p, T_COMMA);
        if (jp_is(p, T_RPAREN))
            break;
        one_arg(p, n, n->args);
    }
    jp_expect(p, T_RPAREN);
}

static struct jnode *call(struct jparser *p, struct jnode *of)
{
    struct jnode *n = node2(p, N_CALL, of, NULL);
    call_args(p, n);
    return n;
}

static struct jnode *postfix(struct jparser *p, struct jnode *n)
{
    for (;;) {
        if (jp_is(p, T_DOT) || jp_is(p, T_LBRACKET))
            n = subscript(p, n);
        else if (jp_is(p, T_LPAREN))
            n = call(p, n);
        else
            return n;
    }
}

// Names of filters and tests may have dots.
static struct jstr *dotted_name(struct jparser *p)
{
    struct jstr *s = jp_take_name(p);
    while (jp_skip(p, T_DOT)) {
        s = jstr_concat(p->x, s, jstr_lit(p->x, "."));
        s = jstr_concat(p->x, s, jp_take_name(p));
    }
    return s;
}

struct jnode *jp_filter(struct jparser *p, struct jnode *node, bool is_inline)
{
    while (is_inline || jp_is(p, T_PIPE)) {
        if (!is_inline)
            jp_next(p);
        struct jnode *n = node2(p, N_FILTER, node, NULL);
        struct jstr *s = dotted_name(p);
        n->val = jstring(s);
        n->func = jfilter_find(s);
        if (jp_is(p, T_LPAREN))
            call_args(p, n);
        node = n;
        is_inline = false;
    }
    return node;
}

static bool test_has_argument(struct jparser *p)
{
    switch (p->cur.type) {
    case T_NAME:
        if (jp_is_name(p, "is"))
            jp_fail(p, "no second test");
        return !jp_is_name(p, "else") && !jp_is_name(p, "or") && !jp_is_name(p, "and");
    case T_STRING: case T_INT: case T_FLOAT: case T_LBRACKET: case T_LBRACE: return true;
    default: return false;
    }
}

static struct jnode *test(struct jparser *p, struct jnode *of)
{
    jp_expect_name(p, "is");
    bool negated = jp_skip_name(p, "not");
    struct jnode *n = node2(p, N_TEST, of, NULL);
    struct jstr *s = dotted_name(p);
    n->val = jstring(s);
    n->func = jtest_find(s);
    if (jp_is(p, T_LPAREN)) {
        call_args(p, n);
    } else if (test_has_argument(p)) {
        n->args = jx_alloc(p->x, sizeof(*n->args));
        jp_add(p, n, &n->args->pos, postfix(p, primary(p, 0)));
    }
    return negated ? node2(p, N_NOT, n, NULL) : n;
}

static struct jnode *unary(struct jparser *p, bool with_filter)
{
    struct jnode *n;
    jp_enter(p);
    if (jp_is(p, T_SUB) || jp_is(p, T_ADD)) {
        n = jp_node(p, jp_is(p, T_SUB) ? N_NEG : N_POS);
        jp_next(p);
        n->a = jp_child(p, n, unary(p, false));
    } else {
        n = primary(p, 0);
    }
    n = postfix(p, n);
    while (with_filter) {
        if (jp_is(p, T_PIPE))
            n = jp_filter(p, n, false);
        else if (jp_is_name(p, "is"))
            n = test(p, n);
        else if (jp_is(p, T_LPAREN))
            n = call(p, n);
        else
            break;
    }
    jp_leave(p);
    return n;
}

static bool tuple_end(struct jparser *p, const char *end)
{
    return jp_is(p, T_VAR_END) || jp_is(p, T_BLOCK_END) || jp_is(p, T_RPAREN) ||
           (end && jp_is_name(p, end));
}

static struct jnode *tuple_item(struct jparser *p, int flags)
{
    if (flags & JP_SIMPLE)
        return primary(p, flags);
    return flags & JP_NO_COND ? disjunction(p) : jp_expression(p);
}

struct jnode *jp_tuple(struct jparser *p, int flags, const char *end)
{
    struct jnode *n = jp_node(p, N_TUPLE);
    bool is_tuple = false;
    jp_enter(p);
    for (;;) {
        if (n->list.n)
            jp_expect(p, T_COMMA);
        if (tuple_end(p, end))
            break;
        jp_add(p, n, &n->list, tuple_item(p, flags));
        if (!jp_is(p, T_COMMA))
            break;
        is_tuple = true;
    }
    jp_leave(p);
    if (!is_tuple && n->list.n)
        return n->list.v[0];
    if (!is_tuple && !(flags & JP_PARENS))
        jp_fail(p, "an expression");
    return n;
}

static bool assignable(const struct jnode *n, int flags)
{
    if (n->op == N_NAME || (n->op == N_NSREF && (flags & JP_NAMESPACE)))
        return true;
    if (n->op != N_TUPLE && n->op != N_LIST)
        return false;
    for (size_t i = 0; i < n->list.n; i++) {
        if (!assignable(n->list.v[i], flags))
            return false;
    }
    return true;
}

struct jnode *jp_target(struct jparser *p, int flags, const char *end)
{
    struct jnode *n = jp_tuple(p, flags | JP_SIMPLE, end);
    if (!assignable(n, flags))
        jp_fail(p, "something to assign to");
    return n;
}
