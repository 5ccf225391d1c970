// Entries of blocks: hash table with chains, and lists by last use.
#include "kvstore/table.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "base/base.h"

int table_init(struct table *t, uint32_t n_max)
{
    uint32_t buckets = 16;
    while (buckets < n_max && buckets < (1u << 31))
        buckets *= 2;
    *t = (struct table){.n_max = n_max, .mask = buckets - 1, .first_free = NO_ENTRY};
    t->entry = calloc(n_max, sizeof(*t->entry));    // untouched pages cost nothing
    t->bucket = malloc(buckets * sizeof(*t->bucket));
    if (!t->entry || !t->bucket) {
        table_finish(t);
        return -ENOMEM;
    }
    memset(t->bucket, 0xff, buckets * sizeof(*t->bucket));
    return 0;
}

void table_finish(struct table *t)
{
    for (uint32_t i = 0; t->entry && i < t->n_touched; i++)
        free(t->entry[i].sums);
    free(t->entry);
    free(t->bucket);
    *t = (struct table){0};
}

static uint32_t *bucket_of(const struct table *t, const struct hash *key)
{
    return &t->bucket[hash_short(key) & t->mask];
}

int table_grow(struct table *t)
{
    uint32_t n_max = t->n_max * 2, buckets = (t->mask + 1) * 2;
    struct entry *entry = n_max < NO_ENTRY / 4 ? realloc(t->entry, n_max * sizeof(*entry)) : NULL;
    if (!entry)
        return -ENOMEM;
    t->entry = entry;
    memset(entry + t->n_max, 0, (n_max - t->n_max) * sizeof(*entry));
    t->n_max = n_max;
    uint32_t *bucket = realloc(t->bucket, buckets * sizeof(*bucket));
    if (!bucket)
        return 0;                       // longer chains will do
    t->bucket = bucket;
    t->mask = buckets - 1;
    memset(bucket, 0xff, buckets * sizeof(*bucket));
    for (uint32_t i = 0; i < t->n_touched; i++) {
        struct entry *e = &entry[i];
        if (e->state != ENTRY_LIVE)     // while loading nothing else is in the table
            continue;
        e->bucket_next = *bucket_of(t, &e->key);
        *bucket_of(t, &e->key) = i;
    }
    return 0;
}

static struct entry *find_from(const struct table *t, uint32_t i, const struct hash *key)
{
    for (; i != NO_ENTRY; i = t->entry[i].bucket_next)
        if (hash_equal(&t->entry[i].key, key))
            return &t->entry[i];
    return NULL;
}

struct entry *table_find(const struct table *t, const struct hash *key)
{
    return find_from(t, *bucket_of(t, key), key);
}

struct entry *table_older(const struct table *t, const struct entry *e)
{
    return find_from(t, e->bucket_next, &e->key);
}

static struct entry *take_free(struct table *t)
{
    if (t->first_free == NO_ENTRY)
        return t->n_touched < t->n_max ? &t->entry[t->n_touched++] : NULL;
    struct entry *e = &t->entry[t->first_free];
    t->first_free = e->bucket_next;
    return e;
}

struct entry *table_add(struct table *t, const struct hash *key)
{
    struct entry *e = take_free(t);
    if (!e)
        return NULL;
    uint32_t *bucket = bucket_of(t, key);
    *e = (struct entry){.key = *key, .bucket_next = *bucket, .use_prev = NO_ENTRY,
                        .use_next = NO_ENTRY, .sums_prev = NO_ENTRY, .sums_next = NO_ENTRY};
    *bucket = entry_number(t, e);
    t->n_used++;
    return e;
}

void table_hide(struct table *t, struct entry *e)
{
    uint32_t *link = bucket_of(t, &e->key), number = entry_number(t, e);
    while (*link != number) {
        assert(*link != NO_ENTRY);
        link = &t->entry[*link].bucket_next;
    }
    *link = e->bucket_next;
    e->bucket_next = NO_ENTRY;
}

void table_free(struct table *t, struct entry *e)
{
    assert(e->state != ENTRY_FREE && !e->in_use_list && !e->puts && !e->sums);
    e->state = ENTRY_FREE;
    e->bucket_next = t->first_free;
    t->first_free = entry_number(t, e);
    t->n_used--;
}

// ---- by last use -------------------------------------------------------------------------------

void use_init(struct use_list *l)
{
    l->oldest = l->newest = NO_ENTRY;
}

void use_add(struct table *t, struct use_list *l, struct entry *e)
{
    assert(!e->in_use_list);
    uint32_t number = entry_number(t, e);
    e->use_prev = l->newest;
    e->use_next = NO_ENTRY;
    if (l->newest == NO_ENTRY)
        l->oldest = number;
    else
        t->entry[l->newest].use_next = number;
    l->newest = number;
    e->in_use_list = true;
}

void use_remove(struct table *t, struct use_list *l, struct entry *e)
{
    if (!e->in_use_list)
        return;
    if (e->use_prev == NO_ENTRY)
        l->oldest = e->use_next;
    else
        t->entry[e->use_prev].use_next = e->use_next;
    if (e->use_next == NO_ENTRY)
        l->newest = e->use_prev;
    else
        t->entry[e->use_next].use_prev = e->use_prev;
    e->in_use_list = false;
}
