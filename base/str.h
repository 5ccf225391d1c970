// A growing byte string. Always NUL-terminated once anything was added; may hold NULs itself.
// After a failed growth the string is marked and keeps its bytes; check str_ok() once at the end.
#pragma once
#include <stdbool.h>
#include <stddef.h>

struct str {
    char  *p;                   // owned; NULL while empty
    size_t n, cap;              // bytes without the NUL; allocated
    bool   failed;              // an allocation failed: the content is incomplete
};

void str_add(struct str *s, const void *p, size_t n);
void str_puts(struct str *s, const char *text);
void str_putc(struct str *s, char c);
void str_printf(struct str *s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void str_clear(struct str *s);  // empty, keeps the memory
void str_free(struct str *s);   // empty, gives the memory back
static inline bool str_ok(const struct str *s) { return !s->failed; }
