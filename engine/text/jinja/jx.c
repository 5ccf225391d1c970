// How a run begins, allocates, counts and ends.
#include "engine/text/jinja/jx.h"
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include "base/base.h"
#include "base/hash.h"
#include "engine/text/utf8.h"

int jx_run(struct jx *x, struct arena *arena, void (*fn)(struct jx *, void *), void *arg,
           struct err *err)
{
    *x = (struct jx){ .arena = arena };
    random_bytes(&x->seed, sizeof(x->seed));
    if (setjmp(x->out) == 0)
        fn(x, arg);
    return x->code ? err_set(err, x->code, "%s", x->err.msg) : 0;
}

// A message is one line of UTF-8, also where it was cut.
static void one_line(char *msg)
{
    size_t n = strlen(msg), step;
    uint32_t cp;
    for (char *c = msg; n; c += step, n -= step) {
        step = utf8_decode(c, n, &cp);
        if (step <= 1 && (step == 0 || (unsigned char)*c < ' '))
            *c = ' ';
        step = step ? step : 1;
    }
}

static _Noreturn void __attribute__((noinline, format(printf, 3, 0)))
leave(struct jx *x, int code, const char *fmt, va_list ap)
{
    assert(code < 0 && fmt);
    size_t at = strlen(x->err.msg);
    vsnprintf(x->err.msg + at, sizeof(x->err.msg) - at, fmt, ap);
    one_line(x->err.msg);
    x->code = code;
    longjmp(x->out, 1);
}

void jx_fail(struct jx *x, int code, const char *fmt, ...)
{
    if (x->line)
        snprintf(x->err.msg, sizeof(x->err.msg), "template line %u: ", x->line);
    va_list ap;
    va_start(ap, fmt);
    leave(x, code, fmt, ap);
}

void jx_fail_plain(struct jx *x, int code, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    leave(x, code, fmt, ap);
}

void *jx_alloc(struct jx *x, size_t bytes)
{
    void *p = arena_alloc(x->arena, bytes);
    if (p)
        return p;
    size_t max = x->arena->max_bytes;
    if (max && (bytes > max || x->arena->used_bytes > max - bytes - 16))
        jx_fail(x, -E2BIG, "needs more than %zu MiB of memory", max >> 20);
    jx_fail(x, -ENOMEM, "out of memory");
}

void *jx_calloc(struct jx *x, size_t n, size_t bytes)
{
    size_t total;
    if (!mul_size(n, bytes, &total))
        jx_fail(x, -E2BIG, "needs more memory than there is");
    return jx_alloc(x, total);
}

void *jx_grow(struct jx *x, const void *p, size_t n, size_t *cap, size_t bytes)
{
    size_t more = MAX(n * 2, (size_t)4);
    void *r = jx_calloc(x, more, bytes);
    if (n)
        memcpy(r, p, n * bytes);
    *cap = more;
    return r;
}

void jx_step(struct jx *x, size_t n)
{
    x->steps += n;
    if (x->steps > JX_STEPS_MAX)
        jx_fail(x, -E2BIG, "runs for more than %d steps", JX_STEPS_MAX);
}

void jx_enter_value(struct jx *x)
{
    if (++x->value_depth > JX_VALUE_DEPTH)
        jx_fail(x, -E2BIG, "a value is nested more than %d deep", JX_VALUE_DEPTH);
}
