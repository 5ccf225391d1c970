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

static uint64_t hash_name(const char *name) { return sum_bytes(name, strlen(name)); }

struct record *record_find(struct kv_store *s, const char *name)
{
    uint64_t h = hash_name(name);
    for (uint32_t i = 0; i < s->n_records; i++)
        if (s->record[i].name_hash == h && strcmp(s->record[i].name, name) == 0)
            return &s->record[i];
    return NULL;
}

static uint64_t bytes_of(const struct record *r)
{
    return sizeof(struct index_named) + r->value_bytes + (uint64_t)r->n_pins * HASH_BYTES;
}

static void unpin(struct kv_store *s, const struct pin *p, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        struct entry *e = table_find(&s->table, &p[i].key);
        if (e && e->state == ENTRY_LIVE && e->generation == p[i].generation && e->pins)
            block_unpin(s, e);
    }
}

static void drop(struct kv_store *s, struct record *r)
{
    unpin(s, r->pin, r->n_pins);
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
        p[i].generation = e ? e->generation : 0;
        if (e)
            e->pins++;                  // it is not in the statistics yet
    }
    struct record *r = &s->record[s->n_records++];
    *r = (struct record){.name = copy, .name_hash = hash_name(name), .expires_s = h->expires_s,
                         .pin = p, .n_pins = h->n_pins, .value_bytes = h->value_bytes};
    s->record_bytes += bytes_of(r);
    return 0;
}

// ---- changes -----------------------------------------------------------------------------------

// Pins the blocks that the operation names. Returns 0, -EAGAIN (some are being written), -ENOENT.
static int pin_all(struct kv_store *s, const struct kv_io *io)
{
    for (uint32_t i = 0; i < io->n_pins; i++) {
        const struct entry *e = block_find(s, &io->pin[i]);
        if (!e || e->state == ENTRY_WRITING)
            return e ? -EAGAIN : -ENOENT;
    }
    for (uint32_t i = 0; i < io->n_pins; i++)
        block_pin(s, block_find(s, &io->pin[i]));
    return 0;
}

static void unpin_all(struct kv_store *s, const struct kv_io *io)
{
    for (uint32_t i = 0; i < io->n_pins; i++) {
        struct entry *e = table_find(&s->table, &io->pin[i]);
        struct pin p = {io->pin[i], e ? e->generation : 0};
        unpin(s, &p, 1);
    }
}

// Once it is committed it must have its place: a store with more records would not open again.
static bool has_place(struct kv_store *s, const char *name)
{
    return (record_find(s, name) || s->n_records + s->n_coming < s->p.records_max) &&
           make_places(s, s->n_coming + 1);
}

static void start_put(struct kv_store *s, struct kv_io *io)
{
    uint64_t bytes = sizeof(struct index_named) + io->bytes + (uint64_t)io->n_pins * HASH_BYTES;
    bool has_room = s->record_bytes + bytes <= s->index_bytes_max / 4 && has_place(s, io->name);
    int r = s->stats.degraded ? -EIO : has_room ? pin_all(s, io) : -ENOSPC;
    if (r == -EAGAIN) {
        io_list_add(&s->records, io);
    } else if (r) {
        op_changed(s, io, r);
    } else {
        s->n_coming++;
        io_list_add(&s->record_changes, io);
    }
}

void record_submit(struct kv_store *s, struct kv_io *io)
{
    size_t n = strnlen(io->name, KV_RECORD_NAME_MAX + 1);
    assert(n > 0 && n <= KV_RECORD_NAME_MAX && io->n_pins <= KV_PINS_MAX);
    assert(io->bytes + (uint64_t)io->n_pins * HASH_BYTES <= KV_RECORD_BYTES_MAX);
    const struct record *r = record_find(s, io->name);
    bool is_there = r && !(r->expires_s && r->expires_s <= s->time_s);
    if (io->kind == KV_IO_RECORD_PUT)
        start_put(s, io);
    else if (io->kind == KV_IO_RECORD_GET && is_there)
        io_list_add(&s->record_reads, io);
    else if (io->kind == KV_IO_RECORD_GET)
        io_end(s, io, -ENOENT);
    else if (r)
        io_list_add(&s->record_changes, io);
    else
        op_changed(s, io, -ENOENT);
}

void record_retry(struct kv_store *s)
{
    struct kv_io *next, *waiting = s->records.first;
    io_list_init(&s->records);
    for (struct kv_io *io = waiting; io; io = next) {
        next = io->priv.next;
        start_put(s, io);
    }
}

void record_fill(struct kv_store *s, struct index_change *c, struct kv_io *io)
{
    if (io->kind == KV_IO_DELETE) {
        c->kind = INDEX_FORGET;
        c->key = io->key;
        c->block.generation = io->priv.generation;
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
    c->expires_s = io->ttl_s ? s->time_s + io->ttl_s : 0;
}

// The committed record takes the place of the one that had its name. Its pins are counted already.
static int keep(struct kv_store *s, const struct kv_io *io)
{
    struct record *r = record_find(s, io->name);
    struct pin *p = malloc(MAX(io->n_pins, 1) * sizeof(*p));
    char *name = strdup(io->name);
    if (!p || !name) {
        free(p);
        free(name);
        return -ENOMEM;
    }
    for (uint32_t i = 0; i < io->n_pins; i++) {
        struct entry *e = table_find(&s->table, &io->pin[i]);
        p[i] = (struct pin){io->pin[i], e ? e->generation : 0};
    }
    if (r)
        drop(s, r);
    assert(s->n_records < s->n_records_max);
    struct record *kept = &s->record[s->n_records++];
    *kept = (struct record){.name = name, .name_hash = hash_name(name), .pin = p,
                            .n_pins = io->n_pins, .value_bytes = io->bytes,
                            .expires_s = io->ttl_s ? s->time_s + io->ttl_s : 0};
    s->record_bytes += bytes_of(kept);
    return 0;
}

void record_changed(struct kv_store *s, struct kv_io *io, int result)
{
    if (io->kind == KV_IO_DELETE) {
        op_changed(s, io, result ? -EIO : -ENOENT);
        return;
    }
    struct record *r = record_find(s, io->name);
    int e = result == 0 || result == -ENOSPC ? result : -EIO;
    if (io->kind == KV_IO_RECORD_PUT) {
        s->n_coming--;
        if (e == 0)
            e = keep(s, io);
        if (e)
            unpin_all(s, io);
    } else if (r) {
        r->leaving = false;
        if (e == 0)
            drop(s, r);
    }
    op_changed(s, io, e);
}

// ---- expiry ------------------------------------------------------------------------------------

static void delete_expired(struct kv_store *s, struct record *r)
{
    struct kv_io *io = own_delete(r->name);
    if (!io)                            // the next round will do it
        return;
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
