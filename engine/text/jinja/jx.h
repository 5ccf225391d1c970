// One run of the template interpreter (a parse or a rendering): its memory, its limits and the way
// out. All memory of a run belongs to one arena, so a failure anywhere leaves by longjmp to the one
// setjmp in jx_run and leaks nothing; that keeps errors out of every expression of the evaluator.
// Thread-safety: none; a run belongs to one thread.
#pragma once
#include <setjmp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/arena.h"
#include "base/err.h"

enum {
    JX_STEPS_MAX     = 5 * 1000 * 1000, // nodes evaluated, plus bytes handled / JX_BYTES_PER_STEP
    JX_BYTES_PER_STEP = 64,
    JX_PARSE_DEPTH   = 200,     // nested brackets, statements, operators of one expression
    JX_AST_DEPTH     = 500,     // levels of the tree of one template
    JX_EVAL_DEPTH    = 1000,    // nested evaluations, over all macro calls
    JX_MACRO_DEPTH   = 100,     // nested macro calls and recursive loops
    JX_VALUE_DEPTH   = 100,     // nested lists and dicts that are printed, compared or hashed
    JX_JSON_DEPTH    = 64,
    JX_RANGE_MAX     = 100000,  // items of range(), as in jinja2's sandbox
    JX_STR_MAX       = 16 << 20,    // bytes of one string, so also of the output
    JX_SOURCE_MAX    = 4 << 20,     // bytes of a template
};
#define JX_ARENA_MAX ((size_t)256 << 20)

struct jx {
    struct arena *arena;        // borrowed
    uint64_t      steps;        // done so far
    unsigned      line;         // of the statement at work, 0: none
    unsigned      eval_depth, macro_depth, value_depth;
    uint64_t      seed;         // of hash tables: no input can aim at their order
    int           code;         // of the failure
    struct err    err;
    jmp_buf       out;
};

// Runs fn(x, arg) with x prepared. Returns 0 or the code of jx_fail, whose message goes to err.
int jx_run(struct jx *x, struct arena *arena, void (*fn)(struct jx *, void *), void *arg,
           struct err *err);

// Ends the run. `code` is a negative errno. jx_fail_plain leaves the line number out.
_Noreturn void jx_fail(struct jx *x, int code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
_Noreturn void jx_fail_plain(struct jx *x, int code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

// Zeroed memory from the arena; never NULL.
void *jx_alloc(struct jx *x, size_t bytes);
void *jx_calloc(struct jx *x, size_t n, size_t bytes);
// A copy of the n items at p with room for at least n + 1; *cap is the room there is.
void *jx_grow(struct jx *x, const void *p, size_t n, size_t *cap, size_t bytes);

// Counts work; ends the run when it is too much.
void jx_step(struct jx *x, size_t n);
static inline void jx_bytes(struct jx *x, size_t n) { jx_step(x, n / JX_BYTES_PER_STEP); }
// For what looks at every character of n bytes.
static inline void jx_chars(struct jx *x, size_t n) { jx_step(x, (n + 1) / 2); }

// Around anything that recurses over a value.
void jx_enter_value(struct jx *x);
static inline void jx_leave_value(struct jx *x) { x->value_depth--; }
