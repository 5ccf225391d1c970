// What can be asked of a store without I/O: blocks, records, statistics; and holding blocks.
#include <string.h>
#include "kvstore/store.h"

bool kv_store_has(const struct kv_store *s, const struct hash *key, uint32_t *bytes)
{
    const struct entry *e = block_find(s, key);
    if (e && bytes)
        *bytes = e->bytes;
    return e != NULL;
}

bool kv_store_hold(struct kv_store *s, const struct hash *key)
{
    struct entry *e = block_find(s, key);
    if (!e || e->state != ENTRY_LIVE)
        return false;
    e->holds++;
    block_evictable(s, e);
    return true;
}

void kv_store_release(struct kv_store *s, const struct hash *key)
{
    struct entry *e = table_find(&s->table, key);
    while (e && !e->holds)              // beneath one that is to replace it
        e = table_older(&s->table, e);
    if (!e)                             // it was found damaged meanwhile, and dropped
        return;
    e->holds--;
    block_evictable(s, e);
}

void kv_store_touch(struct kv_store *s, const struct hash *key)
{
    struct entry *e = block_find(s, key);
    if (e)
        block_use(s, e);
}

uint64_t kv_store_evict(struct kv_store *s, uint64_t bytes)
{
    uint64_t freed = 0;
    uint32_t one;
    while (freed < bytes && (one = room_evict_oldest(s)))
        freed += one;
    return freed;
}

bool kv_store_next(const struct kv_store *s, uint32_t *cursor, struct kv_block_info *ret)
{
    while (*cursor < s->table.n_touched) {
        const struct entry *e = &s->table.entry[(*cursor)++];
        if (e->state != ENTRY_LIVE || block_expired(s, e))
            continue;
        *ret = (struct kv_block_info){
            .key = e->key, .bytes = e->bytes, .pins = e->pins, .holds = e->holds,
            .slot_bytes = s->segments.segment[e->segment].slot_bytes,
            .generation = e->generation, .last_use = e->last_use, .expires_s = e->expires_s};
        return true;
    }
    return false;
}

bool kv_store_next_record(const struct kv_store *s, uint32_t *cursor, struct kv_record_info *ret)
{
    while (*cursor < s->n_records) {
        const struct record *r = &s->record[(*cursor)++];
        if (r->expires_s && r->expires_s <= s->time_s)
            continue;
        *ret = (struct kv_record_info){r->name, r->value_bytes, r->n_pins, r->expires_s};
        return true;
    }
    return false;
}

void kv_store_stats(const struct kv_store *s, struct kv_stats *ret)
{
    *ret = s->stats;
    ret->capacity_bytes = s->p.capacity_bytes;
    ret->data_bytes = s->segments.bytes;
    ret->records = s->n_records;
    ret->written_today_bytes = s->wear_bytes;
    ret->written_total_bytes = s->written_bytes;
}

double kv_write_amplification(const struct kv_stats *st)
{
    uint64_t written = st->disk_written_bytes + st->index_written_bytes;
    return st->stored_bytes ? (double)written / (double)st->stored_bytes : 0;
}
