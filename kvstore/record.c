// Named records: a value and the blocks that it pins, committed together. The deletion of a block
// that is not in memory goes the same way.
//
// Pins are counted in memory and follow from the records that exist: there is no other account of
// them that could disagree. A pin remembers the generation of its block, so that it never counts on
// a later block of the same key.
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "kvstore/store.h"

#define NODE_BYTES 16u                  // what the index has beside key and value
#define LONG_BYTES 2000u                // a longer value has pages of its own
#define PAGE_BYTES 4096u

static uint64_t hash_name(const char *name) { return sum_bytes(name, strlen(name)); }

struct record *record_find(struct kv_store *s, const char *name)
{
    uint64_t h = hash_name(name);
    for (uint32_t i = 0; i < s->n_records; i++)
        if (s->record[i].name_hash == h && strcmp(s->record[i].name, name) == 0)
            return &s->record[i];
    return NULL;
}

// What a record takes in the index.
static uint64_t index_bytes(const char *name, uint32_t value_bytes, uint32_t n_pins)
{
    uint64_t value = sizeof(struct index_named) + value_bytes + (uint64_t)n_pins * HASH_BYTES;
    if (value > LONG_BYTES)
        value = ALIGN_UP(value + NODE_BYTES, PAGE_BYTES);
    return NODE_BYTES + 1 + strlen(name) + value;
}

static uint64_t bytes_of(const struct record *r)
{
    return index_bytes(r->name, r->value_bytes, r->n_pins);
}

static struct entry *find_pinned(const struct kv_store *s, const struct pin *p)
{
    struct entry *e = table_find(&s->table, &p->key);
    while (e && !(e->state == ENTRY_LIVE && e->pin_generation == p->generation))
        e = table_older(&s->table, e);
    return e;
}

static void unpin(struct kv_store *s, const struct record *r)
{
    for (uint32_t i = 0; i < r->n_pins; i++) {
        struct entry *e = find_pinned(s, &r->pin[i]);
        if (e && e->pins)
            block_unpin(s, e);
    }
}

static void drop(struct kv_store *s, struct record *r)
{
    unpin(s, r);
    s->record_bytes -= bytes_of(r);
    free(r->name);
    free(r->pin);
    *r = s->record[--s->n_records];
}

// Memory for so many more than are counted.
static bool make_places(struct kv_store *s, uint32_t n_more)
{
    if (s->n_records + n_more <= s->n_records_max)
        return true;
    uint32_t n = MAX(64, MAX(s->n_records + n_more, s->n_records_max * 2));
    struct record *more = realloc(s->record, n * sizeof(*more));
    if (!more)
        return false;
    s->record = more;
    s->n_records_max = n;
    return true;
}

static void own_delete_done(struct kv_io *io)
{
    free((void *)(uintptr_t)io->name);
    free(io);
}

static struct kv_io *own_delete(const char *name)
{
    struct kv_io *io = calloc(1, sizeof(*io));
    char *copy = strdup(name);
    if (!io || !copy) {
        free(io);
        free(copy);
        return NULL;
    }
    *io = (struct kv_io){.kind = KV_IO_RECORD_DELETE, .name = copy, .done = own_delete_done};
    return io;
}

// Also the deletions that a load which was given up wished for.
void records_finish(struct kv_store *s)
{
    for (uint32_t i = 0; i < s->n_records; i++) {
        free(s->record[i].name);
        free(s->record[i].pin);
    }
    free(s->record);
    s->record = NULL;
    s->n_records = 0;
    struct kv_io *next, *changes = s->record_changes.first;
    io_list_init(&s->record_changes);
    for (struct kv_io *io = changes; io; io = next) {
        next = io->priv.next;
        if (io->done == own_delete_done) {
            s->n_changing--;
            own_delete_done(io);
        }
    }
}

// One too many: it goes with the first commit.
static int load_surplus(struct kv_store *s, const char *name)
{
    struct kv_io *io = own_delete(name);
    if (!io)
        return -ENOMEM;
    io->priv.name_hash = hash_name(name);
    s->n_changing++;
    io_list_add(&s->record_changes, io);
    return 0;
}

int record_load(struct kv_store *s, const char *name, const struct index_named *h,
                const uint8_t *pins)
{
    if (s->n_records >= s->p.records_max)
        return load_surplus(s, name);
    bool has_place = make_places(s, 1);
    struct pin *p = malloc(MAX(h->n_pins, 1) * sizeof(*p));
    char *copy = strdup(name);
    if (!has_place || !p || !copy) {
        free(p);
        free(copy);
        return -ENOMEM;
    }
    for (uint32_t i = 0; i < h->n_pins; i++) {
        memcpy(p[i].key.b, pins + (size_t)i * HASH_BYTES, HASH_BYTES);
        struct entry *e = table_find(&s->table, &p[i].key);
        p[i].generation = e ? e->pin_generation : 0;
        if (e)
            e->pins++;                  // it is not in the statistics yet
    }
    struct record *r = &s->record[s->n_records++];
    *r = (struct record){.name = copy, .name_hash = hash_name(name), .expires_s = h->expires_s,
                         .pin = p, .n_pins = h->n_pins, .value_bytes = h->value_bytes};
    s->record_bytes += bytes_of(r);
    return 0;
}

// ---- order -------------------------------------------------------------------------------------

// What was submitted later about a name comes later: behind one that waits everything of its name
// waits too, and a read waits for every change.

static bool is_same_name(const struct kv_io *a, const struct kv_io *b)
{
    return a->priv.name_hash == b->priv.name_hash && strcmp(a->name, b->name) == 0;
}

static bool name_waits(const struct kv_store *s, const struct kv_io *io)
{
    for (const struct kv_io *w = s->records.first; w; w = w->priv.next)
        if (is_same_name(w, io))
            return true;
    return false;
}

static bool is_changing(const struct kv_store *s, const struct kv_io *io)
{
    for (const struct kv_io *c = s->record_changes.first; c; c = c->priv.next)
        if (c->kind != KV_IO_DELETE && is_same_name(c, io))
            return true;
    const struct group *g = s->other;
    for (uint32_t i = 0; s->is_committing && i < g->n; i++)
        if (g->ref[i].kind == REF_RECORD && g->ref[i].io->kind != KV_IO_DELETE &&
            is_same_name(g->ref[i].io, io))
            return true;
    return false;
}

// ---- changes -----------------------------------------------------------------------------------

// Are the blocks there that the operation names? Returns 0, -EAGAIN (some are being written),
// -ENOENT.
static int find_blocks(const struct kv_store *s, const struct kv_io *io)
{
    for (uint32_t i = 0; i < io->n_pins; i++) {
        const struct entry *e = block_find(s, &io->pin[i]);
        if (!e || e->state == ENTRY_WRITING)
            return e ? -EAGAIN : -ENOENT;
    }
    return 0;
}

// Once it is committed it must have its place: a store with more records would not open again.
static bool has_place(struct kv_store *s, const struct kv_io *io)
{
    uint64_t bytes = index_bytes(io->name, io->bytes, io->n_pins);
    return s->record_bytes + s->coming_bytes + bytes <= s->index_bytes_max / 4 &&
           (record_find(s, io->name) || s->n_records + s->n_coming < s->p.records_max) &&
           make_places(s, s->n_coming + 1);
}

static void destroy(struct record *r)
{
    if (!r)
        return;
    free(r->name);
    free(r->pin);
    free(r);
}

// What a put will be once it is committed, with the very blocks that are there now.
static struct record *create(const struct kv_store *s, const struct kv_io *io)
{
    struct record *r = calloc(1, sizeof(*r));
    if (!r)
        return NULL;
    *r = (struct record){.name = strdup(io->name), .name_hash = io->priv.name_hash,
                         .pin = malloc(MAX(io->n_pins, 1) * sizeof(*r->pin)),
                         .n_pins = io->n_pins, .value_bytes = io->bytes,
                         .expires_s = io->ttl_s ? s->time_s + io->ttl_s : 0};
    if (!r->name || !r->pin) {
        destroy(r);
        return NULL;
    }
    for (uint32_t i = 0; i < io->n_pins; i++)
        r->pin[i] = (struct pin){io->pin[i], block_find(s, &io->pin[i])->pin_generation};
    return r;
}

static void start_put(struct kv_store *s, struct kv_io *io)
{
    int r = s->stats.degraded ? -EIO : has_place(s, io) ? find_blocks(s, io) : -ENOSPC;
    struct record *record = r ? NULL : create(s, io);
    if (r == -EAGAIN) {
        io_list_add(&s->records, io);
        return;
    }
    if (!record) {
        op_changed(s, io, r ? r : -ENOMEM);
        return;
    }
    for (uint32_t i = 0; i < record->n_pins; i++)
        block_pin(s, find_pinned(s, &record->pin[i]));
    s->n_coming++;
    s->coming_bytes += bytes_of(record);
    io->priv.record = record;
    io_list_add(&s->record_changes, io);
}

static void start_get(struct kv_store *s, struct kv_io *io)
{
    const struct record *r = record_find(s, io->name);
    if (is_changing(s, io))
        io_list_add(&s->records, io);
    else if (r && !(r->expires_s && r->expires_s <= s->time_s))
        io_list_add(&s->record_reads, io);
    else
        io_end(s, io, -ENOENT);
}

static void start_delete(struct kv_store *s, struct kv_io *io)
{
    if (record_find(s, io->name) || is_changing(s, io))
        io_list_add(&s->record_changes, io);
    else
        op_changed(s, io, -ENOENT);
}

static void start(struct kv_store *s, struct kv_io *io)
{
    if (name_waits(s, io))
        io_list_add(&s->records, io);
    else if (io->kind == KV_IO_RECORD_PUT)
        start_put(s, io);
    else if (io->kind == KV_IO_RECORD_GET)
        start_get(s, io);
    else
        start_delete(s, io);
}

void record_submit(struct kv_store *s, struct kv_io *io)
{
    size_t n = strnlen(io->name, KV_RECORD_NAME_MAX + 1);
    assert(n > 0 && n <= KV_RECORD_NAME_MAX && io->n_pins <= KV_PINS_MAX);
    assert(io->bytes + (uint64_t)io->n_pins * HASH_BYTES <= KV_RECORD_BYTES_MAX);
    io->priv.name_hash = hash_name(io->name);
    start(s, io);
}

void record_retry(struct kv_store *s)
{
    struct kv_io *next, *waiting = s->records.first;
    if (!s->retry_records)
        return;
    s->retry_records = false;
    io_list_init(&s->records);
    for (struct kv_io *io = waiting; io; io = next) {
        next = io->priv.next;
        start(s, io);
    }
}

void record_fill(struct index_change *c, const struct kv_io *io)
{
    if (io->kind == KV_IO_DELETE) {
        c->kind = INDEX_NOTHING;
        return;
    }
    c->name = io->name;
    if (io->kind == KV_IO_RECORD_DELETE) {
        c->kind = INDEX_UNNAME;
        return;
    }
    c->kind = INDEX_NAMED;
    c->pin = io->pin;
    c->n_pins = io->n_pins;
    c->value = io->buf;
    c->value_bytes = io->bytes;
    c->expires_s = ((const struct record *)io->priv.record)->expires_s;
}

// The committed record takes the place of the one that had its name.
static void keep(struct kv_store *s, struct record *new)
{
    struct record *old = record_find(s, new->name);
    if (old)
        drop(s, old);
    assert(s->n_records < s->n_records_max);
    s->record[s->n_records++] = *new;
    s->record_bytes += bytes_of(new);
    free(new);
}

static void put_changed(struct kv_store *s, struct kv_io *io, int result)
{
    struct record *new = io->priv.record;
    io->priv.record = NULL;
    s->n_coming--;
    s->coming_bytes -= bytes_of(new);
    if (result == 0) {
        keep(s, new);
    } else {
        unpin(s, new);
        destroy(new);
    }
}

void record_changed(struct kv_store *s, struct kv_io *io, int result)
{
    s->retry_records = true;
    if (io->kind == KV_IO_DELETE) {
        op_changed(s, io, result ? -EIO : -ENOENT);
        return;
    }
    struct record *r = record_find(s, io->name);
    int e = result == 0 || result == -ENOSPC ? result : -EIO;
    if (io->kind == KV_IO_RECORD_PUT) {
        put_changed(s, io, e);
    } else if (r) {
        r->leaving = false;
        if (e == 0)
            drop(s, r);
    } else if (e == 0) {
        e = -ENOENT;                    // the put that it waited for has failed
    }
    op_changed(s, io, e);
}

// ---- expiry ------------------------------------------------------------------------------------

static void delete_expired(struct kv_store *s, struct record *r)
{
    struct kv_io *io = own_delete(r->name);
    if (!io)                            // the next round will do it
        return;
    io->priv.name_hash = r->name_hash;
    if (name_waits(s, io) || is_changing(s, io)) {    // what comes is not to be deleted
        own_delete_done(io);
        return;
    }
    r->leaving = true;
    kv_store_submit(s, io);
    s->stats.expired++;
}

void record_sweep(struct kv_store *s)
{
    if (s->records_swept_s == s->time_s)
        return;
    s->records_swept_s = s->time_s;
    for (uint32_t i = 0; i < s->n_records; i++) {
        struct record *r = &s->record[i];
        if (r->expires_s && r->expires_s <= s->time_s && !r->leaving)
            delete_expired(s, r);
    }
}
