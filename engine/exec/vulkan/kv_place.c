// See kv_place.h. Pages on the device form a list by their last use; every use moves a page to its
// end, so the list is always sorted and its first page is the only one that a swap need look at.
#include "engine/exec/vulkan/kv_place.h"
#include <errno.h>
#include <stdlib.h>
#include "base/base.h"

// ---- slots ------------------------------------------------------------------------------------

static enum kv_home home_of(const struct kv_place *p, uint32_t slot)
{
    return slot < p->n_device ? KV_HOME_DEVICE : KV_HOME_HOST;
}

static void give_slot(struct kv_place *p, uint32_t page, uint32_t slot)
{
    struct kv_page *x = &p->page[page];
    struct kv_place_list *l = &p->home[home_of(p, slot)];
    x->slot = slot;
    x->prev = l->last;
    x->next = KV_PLACE_NONE;
    if (l->last == KV_PLACE_NONE)
        l->first = page;
    else
        p->page[l->last].next = page;
    l->last = page;
}

static uint32_t take_slot(struct kv_place *p, uint32_t page)
{
    struct kv_page *x = &p->page[page];
    struct kv_place_list *l = &p->home[home_of(p, x->slot)];
    uint32_t slot = x->slot;
    if (x->prev == KV_PLACE_NONE)
        l->first = x->next;
    else
        p->page[x->prev].next = x->next;
    if (x->next == KV_PLACE_NONE)
        l->last = x->prev;
    else
        p->page[x->next].prev = x->prev;
    x->slot = KV_PLACE_NONE;
    return slot;
}

static void free_slot(struct kv_place *p, uint32_t slot)
{
    enum kv_home h = home_of(p, slot);
    p->free[h][p->n_free[h]++] = slot;
}

// ---- life -------------------------------------------------------------------------------------

static int alloc(struct kv_place *p)
{
    size_t swaps = MAX(p->swaps_max, 1u);
    p->backed = calloc(p->n_blocks, sizeof(*p->backed));
    p->free[KV_HOME_DEVICE] = calloc(MAX(p->n_device, 1u), sizeof(uint32_t));
    p->free[KV_HOME_HOST] = calloc(p->n_memory - p->n_device + swaps, sizeof(uint32_t));
    p->left = calloc(swaps + 1, sizeof(*p->left));
    p->page = calloc(p->n_pages, sizeof(*p->page));
    p->written = calloc(p->n_pages, sizeof(*p->written));
    p->wanted = calloc(p->n_pages, sizeof(*p->wanted));
    p->spare = calloc(swaps, sizeof(*p->spare));
    p->out = calloc(swaps, sizeof(*p->out));
    p->in = calloc(swaps, sizeof(*p->in));
    p->swap = calloc(swaps, sizeof(*p->swap));
    return p->page && p->written && p->wanted && p->spare && p->out && p->in && p->swap &&
                   p->backed && p->left && p->free[KV_HOME_DEVICE] && p->free[KV_HOME_HOST]
               ? 0 : -ENOMEM;
}

// Blocks are taken from the first one on: the last ones are the first to give up their places.
static void place_all(struct kv_place *p, uint32_t n_layers)
{
    for (uint32_t slot = p->n_pages; slot-- > 0;)
        give_slot(p, slot % n_layers * p->n_blocks + slot / n_layers, slot);
}

int kv_place_init(struct kv_place *ret, const struct kv_place_params *params, struct err *err)
{
    const struct kv_place_list none = { KV_PLACE_NONE, KV_PLACE_NONE };
    struct kv_place p = {
        .n_pages = params->n_layers * params->n_blocks, .n_blocks = params->n_blocks,
        .home = { none, none }, .now = 1,
    };
    assert(p.n_pages > 0 && params->n_blocks < KV_PLACE_NONE / 2 / params->n_layers);
    p.n_memory = params->n_memory ? MIN(params->n_memory, p.n_pages) : p.n_pages;
    p.n_device = MIN(params->n_device, p.n_memory);
    p.swaps_max = MIN(MIN(params->swaps_max, p.n_device), p.n_memory - p.n_device);
    p.n_slots = p.n_memory + p.swaps_max;
    if (alloc(&p)) {
        kv_place_finish(&p);
        return err_set(err, -ENOMEM, "no memory for %u KV pages",
                       params->n_layers * params->n_blocks);
    }
    for (uint32_t i = 0; i < p.n_pages; i++)
        p.page[i] = (struct kv_page){ .slot = KV_PLACE_NONE, .dead = true };
    for (uint32_t i = 0; i < p.swaps_max; i++)
        p.spare[i] = p.n_memory + i;
    if (!params->n_memory)
        place_all(&p, params->n_layers);
    for (uint32_t slot = p.n_memory; params->n_memory && slot-- > 0;)
        free_slot(&p, slot);
    *ret = p;
    return 0;
}

void kv_place_finish(struct kv_place *p)
{
    for (unsigned h = 0; h < KV_HOMES; h++)
        free(p->free[h]);
    free(p->backed);
    free(p->left);
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
    give_slot(p, page, take_slot(p, page));
}

void kv_place_touch(struct kv_place *p, uint32_t page)
{
    use(p, page);
}

void kv_place_tick(struct kv_place *p)
{
    p->now++;
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
    kv_place_tick(p);
    p->n_out = p->n_in = p->n_swaps = p->n_written = p->n_spared = 0;
}

void kv_place_write(struct kv_place *p, uint32_t page, bool fresh)
{
    struct kv_page *x = &p->page[page];
    assert(p->n_written < p->n_pages && kv_place_in_memory(p, page));
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
    uint32_t from = take_slot(p, page), slot = take_slot(p, victim), to = from;
    bool spared = !x->dead && !v->dead;
    if (spared) {
        to = p->spare[p->n_spared];
        p->spare[p->n_spared++] = from;
    }
    if (!v->dead)
        p->out[p->n_out++] = (struct kv_slot_copy){ slot, to };
    if (!x->dead)
        p->in[p->n_in++] = (struct kv_slot_copy){ from, slot };
    p->swap[p->n_swaps++] = (struct kv_swap){ page, victim, spared };
    give_slot(p, page, slot);
    give_slot(p, victim, to);
}

// Into a free slot of the device. Its own is free from the next step on.
static void fill(struct kv_place *p, uint32_t page)
{
    uint32_t from = take_slot(p, page);
    uint32_t to = p->free[KV_HOME_DEVICE][--p->n_free[KV_HOME_DEVICE]];
    if (!p->page[page].dead)
        p->in[p->n_in++] = (struct kv_slot_copy){ from, to };
    p->swap[p->n_swaps++] = (struct kv_swap){ page, KV_PLACE_NONE, false };
    free_slot(p, from);
    give_slot(p, page, to);
}

static bool may_move(const struct kv_place *p, uint32_t page)
{
    return p->n_swaps < p->swaps_max && kv_place_in_memory(p, page) &&
           !kv_place_on_device(p, page);
}

// This page, or one that is as much used, comes to the device if there is a place for it.
static void bring(struct kv_place *p, uint32_t page, bool written)
{
    if (!may_move(p, page))
        return;
    uint32_t victim = p->home[KV_HOME_DEVICE].first;
    uint64_t before = p->page[page].before;
    if (p->n_free[KV_HOME_DEVICE] > 0) {
        use(p, page);
        fill(p, page);
        return;
    }
    const struct kv_page *v = &p->page[victim];
    if (v->used < p->now && (written || v->dead || v->used < before)) {
        use(p, page);
        swap(p, page, victim);
    }
}

void kv_place_plan(struct kv_place *p)
{
    for (uint32_t i = 0; i < p->n_written; i++)
        bring(p, p->written[i], true);
    for (uint32_t i = 0; i < p->n_wanted; i++)
        bring(p, p->wanted[i], false);
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
        uint32_t slot = take_slot(p, s->page);
        if (s->victim == KV_PLACE_NONE) {
            give_slot(p, s->page, p->free[KV_HOME_HOST][--p->n_free[KV_HOME_HOST]]);
            free_slot(p, slot);
            continue;
        }
        struct kv_page *v = &p->page[s->victim];
        uint32_t from = take_slot(p, s->victim);
        if (s->spared) {
            uint32_t spare = p->spare[--p->n_spared];
            p->spare[p->n_spared] = from;
            from = spare;
        }
        give_slot(p, s->page, from);
        v->used = v->before = p->now;
        give_slot(p, s->victim, slot);
    }
    p->n_out = p->n_in = 0;
}

// ---- paging -----------------------------------------------------------------------------------

static uint32_t find_leaver(const struct kv_place *p, enum kv_home home)
{
    uint32_t page = p->home[home].first;
    while (page != KV_PLACE_NONE &&
           (!p->backed[page % p->n_blocks] || p->page[page].used == p->now))
        page = p->page[page].next;
    return page;
}

static bool evict(struct kv_place *p, enum kv_home home)
{
    uint32_t page = find_leaver(p, home);
    if (page == KV_PLACE_NONE)
        return false;
    kv_place_leave(p, page);
    p->left[p->n_left++] = page;
    p->evictions++;
    return true;
}

void kv_place_leave(struct kv_place *p, uint32_t page)
{
    free_slot(p, take_slot(p, page));
    p->page[page].dead = true;
}

bool kv_place_enter(struct kv_place *p, uint32_t page, bool host)
{
    const uint32_t *n = p->n_free;
    if (kv_place_in_memory(p, page))
        return true;
    bool none = n[KV_HOME_HOST] == 0 && (host || n[KV_HOME_DEVICE] == 0);
    if (none && !evict(p, KV_HOME_HOST) && (host || !evict(p, KV_HOME_DEVICE)))
        return false;
    enum kv_home h = !host && n[KV_HOME_DEVICE] > 0 ? KV_HOME_DEVICE : KV_HOME_HOST;
    give_slot(p, page, p->free[h][--p->n_free[h]]);
    return true;
}

bool kv_place_rise(struct kv_place *p)
{
    assert(p->n_left == 0);
    p->n_out = p->n_in = p->n_swaps = 0;
    while (p->n_swaps < p->swaps_max && p->home[KV_HOME_HOST].last != KV_PLACE_NONE &&
           (p->n_free[KV_HOME_DEVICE] > 0 || evict(p, KV_HOME_DEVICE))) {
        uint32_t page = p->home[KV_HOME_HOST].last;
        use(p, page);
        fill(p, page);
    }
    p->moved_in += p->n_in;
    return p->n_swaps > 0;
}
