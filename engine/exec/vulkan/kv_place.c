// See kv_place.h. Pages on the device form a list by their last use; every use moves a page to its
// end, so the list is always sorted and its first page is the only one that need be looked at.
#include "engine/exec/vulkan/kv_place.h"
#include <errno.h>
#include <stdlib.h>
#include "base/base.h"

// ---- the list ---------------------------------------------------------------------------------

static void list_remove(struct kv_place *p, uint32_t page)
{
    struct kv_page *x = &p->page[page];
    if (x->prev == KV_PLACE_NONE)
        p->first = x->next;
    else
        p->page[x->prev].next = x->next;
    if (x->next == KV_PLACE_NONE)
        p->last = x->prev;
    else
        p->page[x->next].prev = x->prev;
}

static void list_push(struct kv_place *p, uint32_t page)
{
    struct kv_page *x = &p->page[page];
    x->prev = p->last;
    x->next = KV_PLACE_NONE;
    if (p->last == KV_PLACE_NONE)
        p->first = page;
    else
        p->page[p->last].next = page;
    p->last = page;
}

// ---- life -------------------------------------------------------------------------------------

static int alloc(struct kv_place *p)
{
    size_t swaps = MAX(p->swaps_max, 1u);
    p->page = calloc(p->n_pages, sizeof(*p->page));
    p->written = calloc(p->n_pages, sizeof(*p->written));
    p->wanted = calloc(p->n_pages, sizeof(*p->wanted));
    p->spare = calloc(swaps, sizeof(*p->spare));
    p->out = calloc(swaps, sizeof(*p->out));
    p->in = calloc(swaps, sizeof(*p->in));
    p->swap = calloc(swaps, sizeof(*p->swap));
    return p->page && p->written && p->wanted && p->spare && p->out && p->in && p->swap ? 0
                                                                                       : -ENOMEM;
}

int kv_place_init(struct kv_place *ret, uint32_t n_layers, uint32_t n_blocks, uint32_t n_device,
                  uint32_t swaps_max, struct err *err)
{
    struct kv_place p = { .n_pages = n_layers * n_blocks, .first = KV_PLACE_NONE,
                          .last = KV_PLACE_NONE, .now = 1 };
    assert(n_layers > 0 && n_blocks > 0 && n_blocks < KV_PLACE_NONE / 2 / n_layers);
    p.n_device = MIN(n_device, p.n_pages);
    p.swaps_max = MIN(MIN(swaps_max, p.n_device), p.n_pages - p.n_device);
    p.n_slots = p.n_pages + p.swaps_max;
    if (alloc(&p)) {
        kv_place_finish(&p);
        return err_set(err, -ENOMEM, "no memory for %u KV pages", n_layers * n_blocks);
    }
    // Blocks are taken from the first one on: the last ones are the first to give up their places.
    for (uint32_t slot = p.n_pages; slot-- > 0;) {
        uint32_t page = slot % n_layers * n_blocks + slot / n_layers;
        p.page[page] = (struct kv_page){ .slot = slot, .dead = true };
        if (slot < p.n_device)
            list_push(&p, page);
    }
    for (uint32_t i = 0; i < p.swaps_max; i++)
        p.spare[i] = p.n_pages + i;
    *ret = p;
    return 0;
}

void kv_place_finish(struct kv_place *p)
{
    free(p->page);
    free(p->written);
    free(p->wanted);
    free(p->spare);
    free(p->out);
    free(p->in);
    free(p->swap);
    *p = (struct kv_place){0};
}

// ---- use --------------------------------------------------------------------------------------

static void use(struct kv_place *p, uint32_t page)
{
    struct kv_page *x = &p->page[page];
    if (x->used == p->now)
        return;
    x->before = x->used;
    x->used = p->now;
    if (!kv_place_on_device(p, page))
        return;
    list_remove(p, page);
    list_push(p, page);
}

void kv_place_read(struct kv_place *p, uint32_t page)
{
    use(p, page);
    if (kv_place_on_device(p, page)) {
        p->reads_device++;
        return;
    }
    assert(p->n_wanted < p->n_pages);
    p->reads_host++;
    p->wanted[p->n_wanted++] = page;
}

void kv_place_set(struct kv_place *p, uint32_t page)
{
    use(p, page);
    p->page[page].dead = false;
}

// ---- planning ---------------------------------------------------------------------------------

void kv_place_begin(struct kv_place *p)
{
    p->now++;
    p->n_out = p->n_in = p->n_swaps = p->n_written = p->n_spared = 0;
}

void kv_place_write(struct kv_place *p, uint32_t page, bool fresh)
{
    struct kv_page *x = &p->page[page];
    assert(p->n_written < p->n_pages);
    if (fresh) {
        x->dead = true;
        x->used = 0;
    }
    use(p, page);
    p->written[p->n_written++] = page;
}

// Copies to the host are all made before those to the device. So what leaves may take the slot of
// what comes only if that is dead; else it takes a spare one, and that of what comes is spare from
// the next step on.
static void swap(struct kv_place *p, uint32_t page, uint32_t victim)
{
    struct kv_page *x = &p->page[page], *v = &p->page[victim];
    uint32_t from = x->slot, to = from;
    bool spared = !x->dead && !v->dead;
    if (spared) {
        to = p->spare[p->n_spared];
        p->spare[p->n_spared++] = from;
    }
    if (!v->dead)
        p->out[p->n_out++] = (struct kv_slot_copy){ v->slot, to };
    if (!x->dead)
        p->in[p->n_in++] = (struct kv_slot_copy){ from, v->slot };
    p->swap[p->n_swaps++] = (struct kv_swap){ page, victim, spared };
    list_remove(p, victim);
    x->slot = v->slot;
    v->slot = to;
    list_push(p, page);
}

// May this page, or one that is as much used, take a place on the device?
static bool may_swap(const struct kv_place *p, uint32_t page, bool written)
{
    if (p->n_swaps == p->swaps_max || kv_place_on_device(p, page))
        return false;
    const struct kv_page *x = &p->page[page], *v = &p->page[p->first];
    return v->used < p->now && (written || v->dead || v->used < x->before);
}

void kv_place_plan(struct kv_place *p)
{
    for (uint32_t i = 0; i < p->n_written; i++)
        if (may_swap(p, p->written[i], true))
            swap(p, p->written[i], p->first);
    for (uint32_t i = 0; i < p->n_wanted; i++)
        if (may_swap(p, p->wanted[i], false)) {
            uint32_t victim = p->first;
            use(p, p->wanted[i]);
            swap(p, p->wanted[i], victim);
        }
    for (uint32_t i = 0; i < p->n_written; i++)
        p->page[p->written[i]].dead = false;
    p->n_wanted = 0;
    p->moved_out += p->n_out;
    p->moved_in += p->n_in;
}

void kv_place_undo(struct kv_place *p)
{
    p->moved_out -= p->n_out;
    p->moved_in -= p->n_in;
    while (p->n_swaps > 0) {
        const struct kv_swap *s = &p->swap[--p->n_swaps];
        struct kv_page *x = &p->page[s->page], *v = &p->page[s->victim];
        uint32_t slot = x->slot;
        x->slot = v->slot;
        if (s->spared) {
            x->slot = p->spare[--p->n_spared];
            p->spare[p->n_spared] = v->slot;
        }
        list_remove(p, s->page);
        v->slot = slot;
        v->used = v->before = p->now;
        list_push(p, s->victim);
    }
    p->n_out = p->n_in = 0;
}
