// What the template language brings along: filters, tests, methods and global functions, each a row
// of a table (struct jfunc), and how they are called.
#pragma once
#include "engine/text/jinja/lexer.h"

// NULL: there is no such.
const struct jfunc *jfilter_find(const struct jstr *name);
const struct jfunc *jtest_find(const struct jstr *name);
const struct jfunc *jmethod_find(enum jkind kind, const struct jstr *name);
// The i-th global function, NULL behind the last.
const struct jfunc *jglobal(size_t i);

// The rows of other files.
extern const struct jfunc jfilters_text[], jfilters_number[], jfilters_list[], jfilters_pick[];
extern const struct jfunc jmethods_str[], jmethods_dict[], jmethods_list[], jmethods_loop[],
    jmethods_cycler[];
const struct jfunc *jfunc_find(const struct jfunc *rows, const struct jstr *name);

// Calls a builtin. A parameter name that ends with ! must be given.
struct jval jinvoke(struct jx *x, const struct jfunc *f, struct jval self,
                    const struct jargs *args);

// Arguments of builtins, with Python's refusals.
int64_t      jarg_int(struct jx *x, struct jval v, int64_t fallback);
bool         jarg_bool(struct jval v, bool fallback);
struct jstr *jarg_str(struct jx *x, struct jval v, struct jstr *fallback);
// Fails unless v is a string.
struct jstr *jneed_str(struct jx *x, struct jval v, const char *what);

// Attributes, items and operators.
struct jval jgetattr(struct jx *x, struct jval of, struct jstr *name);
struct jval jgetitem(struct jx *x, struct jval of, struct jval key);
struct jval jslice(struct jx *x, struct jval of, const struct jval part[3]);
struct jval jbinary(struct jx *x, enum jtok tok, struct jval a, struct jval b);
struct jval jnegate(struct jx *x, struct jval v, bool minus);
bool        jcompares(struct jx *x, enum jtok tok, struct jval a, struct jval b);
// "a.b.0": one attribute after the other; an integer is an index. J_MISSING or None: v itself.
struct jval jpath(struct jx *x, struct jval v, struct jval path, struct jval fallback);

// "..." % args, and "...".format(args).
struct jval jformat_percent(struct jx *x, struct jstr *fmt, struct jval args);
struct jval jformat_braces(struct jx *x, struct jstr *fmt, const struct jargs *args);

// Attributes of a loop (exec.c).
struct jval jloop_attr(struct jx *x, struct jval loop, struct jstr *name);
struct jval jloop_changed(struct jx *x, struct jval loop, const struct jargs *args);
struct jval jloop_cycle(struct jx *x, struct jval loop, const struct jargs *args);
