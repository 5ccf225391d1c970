// The evaluator: expressions to values (eval.c), statements to text (exec.c), loops (loop.c) and
// macros (call.c). Recursion is bounded by the tree's depth, JX_EVAL_DEPTH and JX_MACRO_DEPTH.
#pragma once
#include <time.h>
#include "base/base.h"
#include "engine/text/jinja/ast.h"
#include "engine/text/jinja/jstr.h"

struct jbinding { unsigned sym; struct jval val; };

// Names of a loop, a macro call or another block; the template's own level is jexec.root.
struct jscope {
    struct jscope   *parent;    // NULL: the root
    struct jbinding *v;  size_t n, cap;
};

struct jexec {
    struct jx           x;
    const struct jtree *tree;
    struct jval        *root;   // (n_symbols) J_MISSING: not set
    struct jscope      *scope;  // innermost; NULL: the root
    struct jbuild      *out;
    struct jval         piped;  // what a filter block feeds into its first filter
    time_t              now;
};

struct jmacro { const struct jnode *node; struct jscope *scope; const struct jstr *name; };

struct jloop {
    const struct jnode *node;
    struct jscope      *scope;  // around the loop
    struct jiter        it;
    struct jval         cur, prev, after;   // J_MISSING: none
    int64_t             index0;
    unsigned            depth0;
    int64_t             length; // -1: not known yet
    struct jval         changed;
};

enum jflow { FLOW_NEXT, FLOW_BREAK, FLOW_CONTINUE };

static inline struct jexec *jexec_of(struct jx *x) { return container_of(x, struct jexec, x); }

struct jval jeval(struct jexec *e, const struct jnode *n);
struct jargs *jeval_args(struct jexec *e, const struct jnode_args *a, struct jval caller);
enum jflow  jexec_body(struct jexec *e, const struct jnode *n);
// What the body prints, as a string, in a scope of its own.
struct jstr *jexec_capture(struct jexec *e, const struct jnode *body, enum jflow *flow);
enum jflow  jexec_for(struct jexec *e, const struct jnode *n);
struct jval jloop_call(struct jexec *e, struct jloop *outer, const struct jargs *args);
struct jval jmacro_new(struct jexec *e, const struct jnode *n, const struct jstr *name);
struct jval jcall(struct jexec *e, struct jval f, const struct jargs *args);

struct jscope *jscope_push(struct jexec *e, struct jscope *parent);
void jset(struct jexec *e, unsigned sym, struct jval v);
void jassign(struct jexec *e, const struct jnode *target, struct jval v);
