// Entries of blocks: use, eviction lists, cached checksums, and how a block leaves.
#include <stdlib.h>
#include <string.h>
#include "kvstore/store.h"

#define SWEEP_STEP 4096u                // entries looked at in one poll
#define SWEEP_EVERY_NS (60 * UINT64_C(1000000000))

static struct use_list *use_list_of(struct kv_store *s, const struct entry *e)
{
    return &segment_class(&s->segments, e->segment)->use;
}

void block_use(struct kv_store *s, struct entry *e)
{
    e->last_use = s->use_clock++;
    e->use_dirty = true;
    s->segments.segment[e->segment].last_use = e->last_use;
    if (e->in_use_list) {
        use_remove(&s->table, use_list_of(s, e), e);
        use_add(&s->table, use_list_of(s, e), e);
    }
}

static uint32_t slot_bytes_of(const struct kv_store *s, const struct entry *e)
{
    return s->segments.segment[e->segment].slot_bytes;
}

void block_live(struct kv_store *s, struct entry *e)
{
    e->state = ENTRY_LIVE;
    s->stats.blocks++;
    s->stats.used_bytes += slot_bytes_of(s, e);
    s->stats.pinned_bytes += e->pins ? slot_bytes_of(s, e) : 0;
    block_evictable(s, e);
}

void block_pin(struct kv_store *s, struct entry *e)
{
    assert(e->state == ENTRY_LIVE);
    if (e->pins++ == 0)
        s->stats.pinned_bytes += slot_bytes_of(s, e);
    block_evictable(s, e);
}

void block_unpin(struct kv_store *s, struct entry *e)
{
    assert(e->state == ENTRY_LIVE && e->pins > 0);
    if (--e->pins == 0)
        s->stats.pinned_bytes -= slot_bytes_of(s, e);
    block_evictable(s, e);
}

void block_evictable(struct kv_store *s, struct entry *e)
{
    bool may_go = e->state == ENTRY_LIVE && !e->pins && !e->holds && !e->reads;
    if (may_go && !e->in_use_list)
        use_add(&s->table, use_list_of(s, e), e);
    else if (!may_go)
        use_remove(&s->table, use_list_of(s, e), e);
}

bool block_expired(const struct kv_store *s, const struct entry *e)
{
    return e->expires_s && e->expires_s <= s->time_s && !e->pins;
}

struct entry *block_find(const struct kv_store *s, const struct hash *key)
{
    struct entry *e = table_find(&s->table, key);
    return e && !(e->state == ENTRY_LIVE && block_expired(s, e)) ? e : NULL;
}

void block_hide(struct kv_store *s, struct entry *e)
{
    assert(e->state == ENTRY_LIVE || e->state == ENTRY_WRITING);
    if (e->state == ENTRY_LIVE) {
        s->stats.blocks--;
        s->stats.used_bytes -= slot_bytes_of(s, e);
        s->stats.pinned_bytes -= e->pins ? slot_bytes_of(s, e) : 0;
    }
    use_remove(&s->table, use_list_of(s, e), e);
    table_hide(&s->table, e);
    block_drop_sums(s, e);
    e->state = ENTRY_DYING;
    segment_class(&s->segments, e->segment)->n_leaving++;
}

void block_kill(struct kv_store *s, struct entry *e)
{
    block_hide(s, e);
    commit_entry(s, e);
}

void block_quarantine(struct kv_store *s, struct entry *e)
{
    block_hide(s, e);
    segment_class(&s->segments, e->segment)->n_leaving--;
}

void block_release(struct kv_store *s, struct entry *e)
{
    if (e->state != ENTRY_DYING || !e->forgotten || e->reads)
        return;
    segment_class(&s->segments, e->segment)->n_leaving--;
    slot_free(&s->segments, e->segment, e->slot);
    table_free(&s->table, e);
}

// ---- checksums of blocks that are read in parts ------------------------------------------------

static void unlink_sums(struct kv_store *s, struct entry *e)
{
    struct entry *all = s->table.entry;
    if (e->sums_prev == NO_ENTRY)
        s->sums.oldest = e->sums_next;
    else
        all[e->sums_prev].sums_next = e->sums_next;
    if (e->sums_next == NO_ENTRY)
        s->sums.newest = e->sums_prev;
    else
        all[e->sums_next].sums_prev = e->sums_prev;
}

void block_drop_sums(struct kv_store *s, struct entry *e)
{
    if (!e->sums)
        return;
    unlink_sums(s, e);
    s->sums_bytes -= units_of(e->bytes) * sizeof(*e->sums);
    free(e->sums);
    e->sums = NULL;
}

void block_keep_sums(struct kv_store *s, struct entry *e, const uint64_t *sums)
{
    uint64_t bytes = units_of(e->bytes) * sizeof(*sums);
    if (e->sums || bytes > s->p.sums_bytes_max)
        return;
    while (s->sums_bytes + bytes > s->p.sums_bytes_max)
        block_drop_sums(s, &s->table.entry[s->sums.oldest]);
    e->sums = malloc(bytes);
    if (!e->sums)
        return;                         // it is read again next time
    memcpy(e->sums, sums, bytes);
    s->sums_bytes += bytes;
    uint32_t number = entry_number(&s->table, e);
    e->sums_prev = s->sums.newest;
    e->sums_next = NO_ENTRY;
    if (s->sums.newest == NO_ENTRY)
        s->sums.oldest = number;
    else
        s->table.entry[s->sums.newest].sums_next = number;
    s->sums.newest = number;
}

// ---- rounds through all entries ----------------------------------------------------------------

static void sweep_one(struct kv_store *s, struct entry *e)
{
    if (e->state != ENTRY_LIVE)
        return;
    if (block_expired(s, e) && e->in_use_list) {
        s->stats.expired++;
        block_kill(s, e);
    } else if (e->use_dirty && commit_use(s, e)) {
        e->use_dirty = false;
    }
}

void block_sweep(struct kv_store *s)
{
    uint64_t now = store_now_ns(s);
    if (s->sweep_at == 0 && now - s->sweep_start_ns < SWEEP_EVERY_NS && s->sweep_start_ns)
        return;
    if (s->sweep_at == 0)
        s->sweep_start_ns = MAX(now, 1);
    uint32_t end = MIN(s->sweep_at + SWEEP_STEP, s->table.n_touched);
    for (uint32_t i = s->sweep_at; i < end; i++)
        sweep_one(s, &s->table.entry[i]);
    s->sweep_at = end < s->table.n_touched ? end : 0;
}
