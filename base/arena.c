// Bump allocation: chunks from malloc, freed together.
#include "base/arena.h"
#include <stdlib.h>
#include <string.h>
#include "base/base.h"

#define CHUNK_BYTES ((size_t)16 << 10)
#define ALIGN ((size_t)16)

struct arena_chunk {
    struct arena_chunk *next;       // older
    size_t              used, size;
    _Alignas(16) char   data[];
};

static struct arena_chunk *chunk_new(struct arena *a, size_t bytes)
{
    size_t size = MAX(bytes, CHUNK_BYTES), total;
    if (!add_size(size, sizeof(struct arena_chunk), &total))
        return NULL;
    struct arena_chunk *c = calloc(1, total);
    if (!c)
        return NULL;
    c->size = size;
    // A large allocation gets a chunk of its own behind the head, whose free rest stays in use.
    if (a->head && bytes > CHUNK_BYTES / 2) {
        c->next = a->head->next;
        a->head->next = c;
    } else {
        c->next = a->head;
        a->head = c;
    }
    return c;
}

void *arena_alloc(struct arena *a, size_t bytes)
{
    size_t need, total;
    if (!align_size(MAX(bytes, (size_t)1), ALIGN, &need) || !add_size(a->used_bytes, need, &total))
        return NULL;
    if (a->max_bytes && total > a->max_bytes)
        return NULL;
    struct arena_chunk *c = a->head;
    if (!c || c->size - c->used < need)
        c = chunk_new(a, need);
    if (!c)
        return NULL;
    void *p = c->data + c->used;
    c->used += need;
    a->used_bytes = total;
    return p;
}

void *arena_calloc(struct arena *a, size_t n, size_t bytes)
{
    size_t total;
    return mul_size(n, bytes, &total) ? arena_alloc(a, total) : NULL;
}

char *arena_memdup(struct arena *a, const void *p, size_t n)
{
    size_t total;
    char *r = add_size(n, 1, &total) ? arena_alloc(a, total) : NULL;
    if (r && n)
        memcpy(r, p, n);
    return r;
}

char *arena_strdup(struct arena *a, const char *s)
{
    return arena_memdup(a, s, strlen(s));
}

void arena_reset(struct arena *a)
{
    for (struct arena_chunk *c = a->head, *next; c; c = next) {
        next = c->next;
        free(c);
    }
    a->head = NULL;
    a->used_bytes = 0;
}
