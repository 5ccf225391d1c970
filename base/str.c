// Growing strings.
#include "base/str.h"
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/base.h"

// Makes room for n more bytes and a NUL.
static bool grow(struct str *s, size_t n)
{
    size_t need;
    if (s->failed || !add_size(s->n, n, &need) || !add_size(need, 1, &need))
        goto fail;
    if (need <= s->cap)
        return true;
    size_t cap = MAX(MAX(need, s->cap + s->cap / 2), (size_t)64);
    char *p = realloc(s->p, cap);
    if (!p)
        goto fail;
    s->p = p;
    s->cap = cap;
    return true;
fail:
    s->failed = true;
    return false;
}

void str_add(struct str *s, const void *p, size_t n)
{
    if (!grow(s, n))
        return;
    if (n)
        memcpy(s->p + s->n, p, n);
    s->n += n;
    s->p[s->n] = '\0';
}

void str_puts(struct str *s, const char *text)
{
    str_add(s, text, strlen(text));
}

void str_putc(struct str *s, char c)
{
    str_add(s, &c, 1);
}

void str_printf(struct str *s, const char *fmt, ...)
{
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    if (n >= 0 && grow(s, (size_t)n)) {
        vsnprintf(s->p + s->n, (size_t)n + 1, fmt, again);
        s->n += (size_t)n;
    }
    va_end(again);
}

void str_clear(struct str *s)
{
    s->n = 0;
    s->failed = false;
    if (s->p)
        s->p[0] = '\0';
}

void str_free(struct str *s)
{
    free(s->p);
    *s = (struct str){0};
}
