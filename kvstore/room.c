// Room for blocks: free slots, new segments under the cap, and what has to go for them.
//
// A slot or a segment that was given up is used again only after the commit that forgot its blocks.
// So eviction runs a little ahead of need; a put that finds nothing free waits for a commit.
#include <errno.h>
#include "base/clock.h"
#include "kvstore/store.h"

#define NO_SPACE_PAUSE_NS (30 * NS_PER_S)   // after the disk was full: no new segments
#define AHEAD_MIN 32u                       // slots kept free in a store that is not busy
#define CANDIDATES_MAX 4u                   // segments looked at for one to take

static uint32_t class_slots(const struct kv_store *s, const struct slot_class *c)
{
    return (uint32_t)(c->n_segments * MAX(s->p.segment_bytes / c->slot_bytes, 1));
}

// How many slots should be free or on their way to it: as many as a commit will take, for one that
// finds none has to wait for another commit.
static uint32_t slots_ahead(const struct kv_store *s, const struct slot_class *c)
{
    return MIN(MAX(AHEAD_MIN, s->n_changing), class_slots(s, c) / 8);
}

// ---- segments ----------------------------------------------------------------------------------

static uint64_t segment_bytes_for(const struct kv_store *s, uint32_t slot_bytes)
{
    uint64_t left = s->data_bytes_max - MIN(s->segments.bytes, s->data_bytes_max);
    uint64_t n = MAX(s->p.segment_bytes / slot_bytes, 1);
    uint64_t fit = left / slot_bytes;
    // A little rest makes no file of its own.
    return fit >= n ? n * slot_bytes : fit * 4 >= n ? fit * slot_bytes : 0;
}

// Asks for one more segment with the next commit.
static bool make_segment(struct kv_store *s, const struct slot_class *c)
{
    uint64_t bytes = segment_bytes_for(s, c->slot_bytes);
    if (s->filling->make)
        return true;
    if (!bytes || store_now_ns(s) < s->no_space_until_ns || s->index_broken)
        return false;
    uint32_t id = s->segments.next_id;
    uint32_t number = segments_add(&s->segments, id, c->slot_bytes, bytes, SEGMENT_MAKING);
    if (number == NO_SEGMENT)
        return false;
    s->filling->make = true;
    s->filling->made = (struct segment_file){number, id, c->slot_bytes, bytes};
    return true;
}

void room_made(struct kv_store *s, const struct segment_file *f, int result)
{
    if (result == 0) {
        segments_ready(&s->segments, f->number);
        return;
    }
    segments_remove(&s->segments, f->number);
    s->no_space_until_ns = store_now_ns(s) + NO_SPACE_PAUSE_NS;
    s->stats.no_space++;
}

void room_dropped(struct kv_store *s, const struct segment_file *f)
{
    segments_remove(&s->segments, f->number);
}

// ---- eviction ----------------------------------------------------------------------------------

static void evict(struct kv_store *s, struct entry *e)
{
    s->stats.evicted++;
    block_kill(s, e);
}

static bool may_drain(const struct kv_store *s, const struct segment *g)
{
    for (uint32_t i = 0; i < g->n_slots; i++)
        if (!(g->slot[i] & SLOT_FREE) && !s->table.entry[g->slot[i]].in_use_list)
            return false;
    return true;
}

// The segment of another class whose last use is longest ago, if that was before `before` and
// nothing keeps its blocks.
static uint32_t segment_to_take(struct kv_store *s, const struct slot_class *c, uint64_t before)
{
    struct segments *g = &s->segments;
    uint64_t after = 0;
    for (uint32_t tries = 0; tries < CANDIDATES_MAX; tries++) {
        uint32_t best = NO_SEGMENT;
        for (uint32_t i = 0; i < g->n_max; i++) {
            const struct segment *x = &g->segment[i];
            if (x->state == SEGMENT_READY && &g->cls[x->cls] != c && x->last_use >= after &&
                x->last_use < before &&
                (best == NO_SEGMENT || x->last_use < g->segment[best].last_use))
                best = i;
        }
        if (best == NO_SEGMENT || may_drain(s, &g->segment[best]))
            return best;
        after = g->segment[best].last_use + 1;
    }
    return NO_SEGMENT;
}

static void drain(struct kv_store *s, uint32_t number)
{
    struct segment *g = &s->segments.segment[number];
    segment_seal(&s->segments, number);
    g->state = SEGMENT_DRAINING;
    s->n_draining++;
    for (uint32_t i = 0; i < g->n_slots; i++)
        if (!(g->slot[i] & SLOT_FREE))
            evict(s, &s->table.entry[g->slot[i]]);
}

static bool evict_some(struct kv_store *s, struct slot_class *c)
{
    uint32_t ahead = slots_ahead(s, c), have = c->n_free + c->n_leaving, n = 0;
    uint32_t batch = MAX(ahead - MIN(have, ahead), 1);
    while (n < batch && c->use.oldest != NO_ENTRY) {
        evict(s, &s->table.entry[c->use.oldest]);
        n++;
    }
    return n > 0;
}

// Lets something go for the class: a segment of another class that was used less recently than
// anything here, else blocks of its own.
static bool make_way(struct kv_store *s, struct slot_class *c)
{
    uint64_t oldest = c->use.oldest == NO_ENTRY ? UINT64_MAX
                                                : s->table.entry[c->use.oldest].last_use;
    uint32_t number = s->n_draining ? NO_SEGMENT : segment_to_take(s, c, oldest);
    if (number == NO_SEGMENT)
        return evict_some(s, c) || s->n_draining > 0;
    drain(s, number);
    return true;
}

uint32_t room_evict_oldest(struct kv_store *s)
{
    struct slot_class *best = NULL;
    uint64_t last_use = UINT64_MAX;
    for (struct slot_class *c = s->segments.cls; c < s->segments.cls + CLASSES_MAX; c++) {
        if (c->use.oldest == NO_ENTRY || s->table.entry[c->use.oldest].last_use >= last_use)
            continue;
        last_use = s->table.entry[c->use.oldest].last_use;
        best = c;
    }
    if (!best)
        return 0;
    evict(s, &s->table.entry[best->use.oldest]);
    return best->slot_bytes;
}

void room_shrink(struct kv_store *s)
{
    uint64_t bytes = s->segments.bytes;
    while (bytes > s->data_bytes_max) {
        uint32_t number = segment_to_take(s, NULL, UINT64_MAX);
        if (number == NO_SEGMENT)
            return;                     // pinned: nothing can be done but refuse new blocks
        bytes -= s->segments.segment[number].bytes;
        drain(s, number);
    }
}

// ---- what puts ask -----------------------------------------------------------------------------

// Keeps some slots free, once no more segments can be made.
static void run_ahead(struct kv_store *s, struct slot_class *c)
{
    if (c->n_free + c->n_leaving < slots_ahead(s, c) && !c->n_coming && !make_segment(s, c))
        make_way(s, c);
}

int room_take(struct kv_store *s, struct entry *e, uint32_t slot_bytes)
{
    struct slot_class *c = segments_class(&s->segments, slot_bytes);
    if (!c)
        return -ENOSPC;
    if (slot_take(&s->segments, c, entry_number(&s->table, e), &e->segment, &e->slot)) {
        run_ahead(s, c);
        return 0;
    }
    bool coming = c->n_coming || c->n_leaving || make_segment(s, c) || make_way(s, c);
    return coming ? -EAGAIN : -ENOSPC;
}

int room_for_entry(struct kv_store *s)
{
    if (s->table.n_used < s->table.n_max)
        return 0;
    bool coming = s->n_to_commit || s->is_committing || room_evict_oldest(s);
    return coming ? -EAGAIN : -ENOSPC;
}
