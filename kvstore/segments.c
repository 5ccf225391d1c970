// Segments and their free slots: a list through the slots of each segment.
#include "kvstore/segments.h"
#include <errno.h>
#include <stdlib.h>
#include "base/base.h"

int segments_init(struct segments *g, uint32_t n_max)
{
    *g = (struct segments){.n_max = n_max, .next_id = 1};
    for (uint32_t i = 0; i < CLASSES_MAX; i++)
        use_init(&g->cls[i].use);
    g->segment = calloc(n_max, sizeof(*g->segment));
    return g->segment ? 0 : -ENOMEM;
}

void segments_finish(struct segments *g)
{
    for (uint32_t i = 0; g->segment && i < g->n_max; i++)
        free(g->segment[i].slot);
    free(g->segment);
    g->segment = NULL;
}

static bool is_idle(const struct slot_class *c)
{
    return !c->n_segments && !c->n_coming && c->use.oldest == NO_ENTRY;
}

struct slot_class *segments_class(struct segments *g, uint32_t slot_bytes)
{
    struct slot_class *best = NULL, *unused = NULL;
    for (struct slot_class *c = g->cls; c < g->cls + CLASSES_MAX; c++) {
        if (is_idle(c) && c->slot_bytes != slot_bytes)
            unused = unused ? unused : c;
        else if (c->slot_bytes >= slot_bytes && (!best || c->slot_bytes < best->slot_bytes))
            best = c;
    }
    if (best && (best->slot_bytes - slot_bytes <= slot_bytes / 16 || !unused))
        return best;
    if (unused)
        unused->slot_bytes = slot_bytes;
    return unused;
}

// The class of exactly this size, else one that nothing uses. A segment's own size is a fact: that
// another class would do as well is a matter for new blocks only.
static struct slot_class *exact_class(struct segments *g, uint32_t slot_bytes)
{
    struct slot_class *unused = NULL;
    for (struct slot_class *c = g->cls; c < g->cls + CLASSES_MAX; c++) {
        if (c->slot_bytes == slot_bytes)
            return c;
        if (!unused && is_idle(c))
            unused = c;
    }
    if (unused)
        unused->slot_bytes = slot_bytes;
    return unused;
}

static void link_slots(struct segment *s)
{
    for (uint32_t i = 0; i < s->n_slots; i++)
        s->slot[i] = SLOT_FREE | (i + 1 < s->n_slots ? i + 1 : SLOT_LAST);
    s->first_free = 0;
    s->n_free = s->n_slots;
}

uint32_t segments_add(struct segments *g, uint32_t id, uint32_t slot_bytes, uint64_t bytes,
                      enum segment_state state)
{
    uint32_t number = 0;
    while (number < g->n_max && g->segment[number].state != SEGMENT_NONE)
        number++;
    struct slot_class *c = number < g->n_max ? exact_class(g, slot_bytes) : NULL;
    uint64_t n_slots = bytes / slot_bytes;
    if (!c || n_slots == 0 || n_slots >= SLOT_LAST)
        return NO_SEGMENT;
    struct segment s = {.id = id, .slot_bytes = slot_bytes, .n_slots = (uint32_t)n_slots,
                        .cls = (uint32_t)(c - g->cls), .bytes = bytes, .state = SEGMENT_MAKING};
    s.slot = malloc(n_slots * sizeof(*s.slot));
    if (!s.slot)
        return NO_SEGMENT;
    link_slots(&s);
    g->segment[number] = s;
    g->next_id = MAX(g->next_id, id + 1);
    g->bytes += bytes;
    c->n_coming++;
    if (state == SEGMENT_READY)
        segments_ready(g, number);
    return number;
}

void segments_ready(struct segments *g, uint32_t number)
{
    struct segment *s = &g->segment[number];
    struct slot_class *c = segment_class(g, number);
    assert(s->state == SEGMENT_MAKING && c->n_coming > 0);
    s->state = SEGMENT_READY;
    c->n_coming--;
    c->n_segments++;
    c->n_free += s->n_free;
    c->hint = number;
}

void segments_remove(struct segments *g, uint32_t number)
{
    struct segment *s = &g->segment[number];
    struct slot_class *c = segment_class(g, number);
    assert(s->n_free == s->n_slots);
    if (s->state == SEGMENT_MAKING)
        c->n_coming--;
    else if (s->state == SEGMENT_READY)
        segment_seal(g, number);
    if (s->state != SEGMENT_MAKING)
        c->n_segments--;
    g->bytes -= s->bytes;
    free(s->slot);
    *s = (struct segment){.state = SEGMENT_NONE};
}

void segment_seal(struct segments *g, uint32_t number)
{
    struct segment *s = &g->segment[number];
    if (!s->sealed)
        segment_class(g, number)->n_free -= s->n_free;
    s->sealed = true;
}

static bool has_free(const struct segments *g, uint32_t number, const struct slot_class *c)
{
    const struct segment *s = &g->segment[number];
    return s->state == SEGMENT_READY && !s->sealed && s->n_free > 0 && &g->cls[s->cls] == c;
}

bool slot_take(struct segments *g, struct slot_class *c, uint32_t entry, uint32_t *segment,
               uint32_t *slot)
{
    if (c->n_free == 0)
        return false;
    uint32_t number = c->hint;
    if (!has_free(g, number, c))
        for (number = 0; !has_free(g, number, c); number++)
            assert(number + 1 < g->n_max);
    struct segment *s = &g->segment[number];
    uint32_t i = s->first_free;
    s->first_free = s->slot[i] & SLOT_LAST;
    s->slot[i] = entry;
    s->n_free--;
    c->n_free--;
    c->hint = number;
    *segment = number;
    *slot = i;
    return true;
}

bool slot_claim(struct segments *g, uint32_t segment, uint32_t slot, uint32_t entry)
{
    struct segment *s = &g->segment[segment];
    if (slot >= s->n_slots || !(s->slot[slot] & SLOT_FREE))
        return false;
    s->slot[slot] = entry;
    s->n_free--;
    segment_class(g, segment)->n_free--;
    return true;
}

static void relink(struct segment *s)
{
    s->first_free = SLOT_LAST;
    for (uint32_t i = s->n_slots; i-- > 0;) {
        if (!(s->slot[i] & SLOT_FREE))
            continue;
        s->slot[i] = SLOT_FREE | s->first_free;
        s->first_free = i;
    }
}

void segments_relink(struct segments *g)
{
    for (uint32_t i = 0; i < g->n_max; i++)
        if (g->segment[i].state != SEGMENT_NONE)
            relink(&g->segment[i]);
}

void slot_free(struct segments *g, uint32_t segment, uint32_t slot)
{
    struct segment *s = &g->segment[segment];
    assert(slot < s->n_slots && !(s->slot[slot] & SLOT_FREE));
    s->slot[slot] = SLOT_FREE | s->first_free;
    s->first_free = slot;
    s->n_free++;
    if (s->state == SEGMENT_READY && !s->sealed)
        segment_class(g, segment)->n_free++;
}
