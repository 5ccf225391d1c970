// Small macros that every tier uses, and checked arithmetic for numbers that came from outside.
#pragma once
#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))
#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))
#define CLAMP(x, lo, hi) MIN(MAX(x, lo), hi)
#define DIV_UP(n, d) (((n) + (d) - 1) / (d))
// `a` is a power of two.
#define ALIGN_UP(n, a) (((n) + (a) - 1) & ~((a) - 1))
#define container_of(ptr, type, member) ((type *)((char *)(ptr) - offsetof(type, member)))
#define STRINGIFY_(x) #x
#define STRINGIFY(x) STRINGIFY_(x)

// Every product, sum or round-up of a number that came from a file or a socket goes through these.
// They return false on overflow and leave *ret untouched.
static inline bool mul_size(size_t a, size_t b, size_t *ret)
{
    size_t r;
    if (__builtin_mul_overflow(a, b, &r))
        return false;
    *ret = r;
    return true;
}

static inline bool add_size(size_t a, size_t b, size_t *ret)
{
    size_t r;
    if (__builtin_add_overflow(a, b, &r))
        return false;
    *ret = r;
    return true;
}

// Rounds n up to a multiple of `align`, a power of two.
static inline bool align_size(size_t n, size_t align, size_t *ret)
{
    size_t r;
    if (!add_size(n, align - 1, &r))
        return false;
    *ret = r & ~(align - 1);
    return true;
}
