// A bump arena: many small allocations, one free. What a request, a model or a parse owns lives in
// one of these and ends with it.
//
// Thread-safety: none; one arena belongs to one thread at a time.
#pragma once
#include <stddef.h>

struct arena_chunk;
struct arena {
    struct arena_chunk *head;       // newest chunk; owned
    size_t              used_bytes; // sum of all allocations, for limits
    size_t              max_bytes;  // 0: no limit
};

// Zero-initialised `struct arena` is a valid empty arena.

// Returns 16-byte aligned zeroed memory, or NULL: out of memory or over max_bytes.
void *arena_alloc(struct arena *a, size_t bytes);
// arena_alloc of n * bytes with the product checked.
void *arena_calloc(struct arena *a, size_t n, size_t bytes);
char *arena_strdup(struct arena *a, const char *s);
// Copies n bytes and adds a NUL.
char *arena_memdup(struct arena *a, const void *p, size_t n);
// Frees everything; the arena is empty and usable again.
void arena_reset(struct arena *a);
