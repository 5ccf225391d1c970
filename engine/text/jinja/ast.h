// The tree of a parsed template. Immutable once parsed, shared by all renderings.
#pragma once
#include "engine/text/jinja/lexer.h"

enum jop {
    // expressions
    N_CONST,        // val
    N_NAME,         // sym
    N_TUPLE,        // list
    N_LIST,         // list
    N_DICT,         // list: key, value, key, value, ...
    N_ATTR,         // a.val
    N_ITEM,         // a[b]
    N_SLICE,        // list: start, stop, step; each may be NULL; only as b of N_ITEM
    N_CALL,         // a(args)
    N_FILTER,       // a | func(args); a NULL in a filter block: what the block printed
    N_TEST,         // a is func(args)
    N_NOT, N_NEG, N_POS,            // a
    N_BINARY,       // a tok b
    N_AND, N_OR,    // a, b
    N_COMPARE,      // a, then list with one operator (tok of each N_OPERAND) each
    N_OPERAND,      // tok a
    N_CONCAT,       // list joined by ~
    N_COND,         // a if b else c; c may be NULL
    // what can be assigned to, besides N_NAME and N_TUPLE
    N_NSREF,        // sym.val
    // statements
    N_DATA,         // val: text
    N_OUTPUT,       // a
    N_IF,           // list: condition, N_BODY, condition, N_BODY, ...; c: else body or NULL
    N_FOR,          // for a in b if c: body, other
    N_SET,          // a = b
    N_SET_BLOCK,    // a = what body prints, through filter b (may be NULL)
    N_MACRO,        // sym, params, body
    N_CALL_BLOCK,   // call a with a caller of params, body
    N_FILTER_BLOCK, // what body prints through filter a
    N_WITH,         // list: target, value, target, value, ...; body
    N_SCOPE,        // body with a scope of its own
    N_BODY,         // list
    N_BREAK, N_CONTINUE,
};

struct jnodes { struct jnode **v; size_t n, cap; };
struct jnode_kwarg { struct jstr *name; struct jnode *val; };
struct jnode_args {
    struct jnodes       pos;
    struct jnode_kwarg *kw;  size_t n_kw, cap_kw;
    struct jnode       *star, *star_star;       // *args, **kwargs or NULL
};
// Parameters of a macro or of a call block.
struct jparams {
    unsigned     *sym;  size_t n, cap;
    struct jnodes defaults;                     // of the last parameters
    bool          uses_caller, uses_varargs, uses_kwargs;
};

struct jnode {
    enum jop      op;
    enum jtok     tok;
    unsigned      line, depth, sym;             // depth of the tree below
    bool          recursive;                    // of a for
    struct jnode *a, *b, *c, *body, *other;
    struct jnodes list;
    struct jval   val;
    const struct jfunc *func;                   // of a filter or a test; NULL: there is no such
    struct jnode_args  *args;
    struct jparams     *params;
};

struct jtree {
    struct jnode *body;                         // N_BODY
    struct jstr **symbol;  size_t n_symbols, cap_symbols;
    struct jdict *by_name;                      // name -> number of the symbol
    uint64_t      seed;                         // of by_name; a rendering takes it over
    unsigned      sym_loop, sym_caller, sym_varargs, sym_kwargs;
};

// Parses src; everything lives in x's arena. Fails with -EINVAL and the line, or -E2BIG.
struct jtree *jparse(struct jx *x, const char *src, size_t n);
// The number of a name, or -1.
long jtree_symbol(struct jx *x, const struct jtree *t, const struct jstr *name);
