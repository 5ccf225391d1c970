// Inside of the parser, between its statements and its expressions.
#pragma once
#include "engine/text/jinja/ast.h"

struct jparser {
    struct jx    *x;
    struct jlexer lex;
    struct jtoken cur, ahead;
    bool          has_ahead;
    unsigned      depth;
    unsigned      loops;            // around this place, inside the macro at work
    bool          uses_caller, uses_varargs, uses_kwargs;   // seen in the macro at work
    struct jtree *tree;
};

void jp_next(struct jparser *p);
const struct jtoken *jp_look(struct jparser *p);
bool jp_is(const struct jparser *p, enum jtok type);
bool jp_is_name(const struct jparser *p, const char *name);
bool jp_skip(struct jparser *p, enum jtok type);
bool jp_skip_name(struct jparser *p, const char *name);
void jp_expect(struct jparser *p, enum jtok type);
void jp_expect_name(struct jparser *p, const char *name);
_Noreturn void jp_fail(struct jparser *p, const char *what);
void jp_enter(struct jparser *p);
static inline void jp_leave(struct jparser *p) { p->depth--; }

struct jnode *jp_node(struct jparser *p, enum jop op);
// Links a child and keeps the depth of the tree; fails beyond JX_AST_DEPTH.
struct jnode *jp_child(struct jparser *p, struct jnode *parent, struct jnode *child);
void jp_add(struct jparser *p, struct jnode *parent, struct jnodes *list, struct jnode *child);
// A string of the tree.
struct jstr *jp_text(struct jx *x, const char *p, size_t n);
unsigned jp_symbol(struct jparser *p, const char *name, size_t n);
unsigned jp_take_symbol(struct jparser *p);     // of the name at this place
struct jstr *jp_take_name(struct jparser *p);

enum { JP_NO_COND = 1, JP_PARENS = 2, JP_SIMPLE = 4, JP_NAMESPACE = 8 };
struct jnode *jp_expression(struct jparser *p);
// An expression or a tuple without parentheses, which ends also at the name `end` (NULL: none).
struct jnode *jp_tuple(struct jparser *p, int flags, const char *end);
struct jnode *jp_target(struct jparser *p, int flags, const char *end);
// Filters behind `node`; inline: the first one stands without a bar.
struct jnode *jp_filter(struct jparser *p, struct jnode *node, bool is_inline);
