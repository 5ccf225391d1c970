// See pages.h.
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "engine/exec/cpu/pages.h"
#include "base/base.h"
#include "base/clock.h"

#define SLAB_BYTES ((size_t)1 << 30)
#define PAGE_NONE UINT32_MAX
#define HOLDERS UINT32_MAX              // lower half of an entry's place
#define BLOCKS_MIN 4                    // a cap below these is a mistake
#define VICTIMS 16                      // slots that are looked at for one page to leave
// Another thread may take the event that ends this one's wait: so it looks again this often.
#define WAIT_NS (100 * NS_PER_US)

// ---- memory -----------------------------------------------------------------------------------

// Blocks take memory only once they are written, which may be too late to say no.
static int check_memory(const struct pages *p, struct err *err)
{
    double have = (double)mem_machine_bytes(), pages = (double)p->n_slots;
    double need = (double)p->n_blocks * (double)p->layout.digest_bytes +
                  pages * (double)p->layout.page_bytes;
    if (need <= have)
        return 0;
    return err_set(err, -ENOMEM, "%u KV blocks need %.0f MiB, this machine has %.0f MiB",
                   p->n_blocks, need / 0x1p20, have / 0x1p20);
}

static int map_slots(struct pages *p)
{
    size_t page = p->layout.page_bytes;
    p->slots_per_slab = (uint32_t)CLAMP(SLAB_BYTES / page, (size_t)1, (size_t)p->n_slots);
    p->n_slabs = DIV_UP(p->n_slots, p->slots_per_slab);
    p->slab = calloc(p->n_slabs, sizeof(*p->slab));
    int r = p->slab ? 0 : -ENOMEM;
    for (uint32_t i = 0; r == 0 && i < p->n_slabs; i++) {
        uint32_t n = MIN(p->slots_per_slab, p->n_slots - i * p->slots_per_slab);
        r = mem_map(&p->slab[i], n * page);
    }
    return r;
}

static int make_entries(struct pages *p)
{
    size_t n_pages = (size_t)p->n_blocks * p->layout.n_layers;
    p->entry = calloc(n_pages, sizeof(*p->entry));
    p->owner = malloc(p->n_slots * sizeof(*p->owner));
    p->free = malloc(p->n_slots * sizeof(*p->free));
    p->backed = calloc(p->n_blocks, sizeof(*p->backed));
    if (!p->entry || !p->owner || !p->free || !p->backed)
        return -ENOMEM;
    p->n_free = p->n_slots;
    for (uint32_t i = 0; i < p->n_slots; i++) {
        p->owner[i] = PAGE_NONE;
        p->free[i] = p->n_slots - 1 - i;
    }
    atomic_store_explicit(&p->now, 1, memory_order_relaxed);
    return 0;
}

static void arrived(void *pages, uint32_t block, uint32_t layer, const void *page);

void pages_limit(struct pages *p, struct kv_disk *disk, uint64_t memory_bytes)
{
    assert(!p->n_blocks);
    p->disk = disk;
    p->memory_bytes = memory_bytes;
}

static int count_slots(struct pages *p, struct err *err)
{
    uint64_t n_pages = (uint64_t)p->n_blocks * p->layout.n_layers, n = n_pages;
    if (p->disk)
        n = MIN(n, p->memory_bytes / p->layout.page_bytes);
    if (n_pages > UINT32_MAX / 2)
        return err_set(err, -ENOMEM, "no memory for %u KV blocks", p->n_blocks);
    uint64_t least = (uint64_t)MIN(p->n_blocks, BLOCKS_MIN) * p->layout.n_layers;
    if (n < least)
        return err_set(err, -EINVAL, "%llu bytes of KV pages are less than %d blocks take",
                       (unsigned long long)p->memory_bytes, BLOCKS_MIN);
    p->n_slots = (uint32_t)n;
    return 0;
}

int pages_init(struct pages *p, const struct kv_layout *l, uint32_t n_blocks, struct err *err)
{
    assert(n_blocks > 0 && !p->n_blocks);
    p->layout = *l;
    p->n_blocks = n_blocks;
    pthread_mutex_init(&p->lock, NULL);
    int r = count_slots(p, err);
    if (r == 0)
        r = check_memory(p, err);
    if (r)
        goto fail;
    r = mem_map(&p->digest, n_blocks * l->digest_bytes);
    if (r == 0)
        r = map_slots(p);
    if (r == 0 && p->disk)
        r = make_entries(p);
    if (r) {
        err_set(err, r, "no memory for %u KV blocks of %zu bytes", n_blocks, l->block_bytes);
        goto fail;
    }
    if (p->disk) {
        p->disk->arrived = arrived;
        p->disk->arrived_ctx = p;
    }
    return 0;

fail:
    pages_finish(p);
    return r;
}

void pages_finish(struct pages *p)
{
    if (p->n_blocks)
        pthread_mutex_destroy(&p->lock);
    for (uint32_t i = 0; p->slab && i < p->n_slabs; i++)
        mem_unmap(&p->slab[i]);
    mem_unmap(&p->digest);
    free(p->slab);
    free(p->entry);
    free(p->owner);
    free(p->free);
    free(p->backed);
    *p = (struct pages){0};
}

static uint8_t *slot_at(const struct pages *p, uint32_t slot)
{
    return (uint8_t *)p->slab[slot / p->slots_per_slab].p +
           slot % p->slots_per_slab * p->layout.page_bytes;
}

// ---- slots ------------------------------------------------------------------------------------

static uint64_t place_of(uint32_t slot) { return ((uint64_t)slot + 1) << 32; }
static uint32_t slot_of(uint64_t place) { return (uint32_t)(place >> 32) - 1; }

static void give_up(struct pages *p, uint32_t slot)
{
    p->owner[slot] = PAGE_NONE;
    p->free[p->n_free++] = slot;
}

static bool may_leave(const struct pages *p, uint32_t slot)
{
    uint32_t page = p->owner[slot];
    return page != PAGE_NONE && p->backed[page / p->layout.n_layers] &&
           (atomic_load_explicit(&p->entry[page].place, memory_order_relaxed) & HOLDERS) == 0;
}

static uint32_t age(const struct pages *p, uint32_t slot)
{
    return atomic_load_explicit(&p->now, memory_order_relaxed) -
           atomic_load_explicit(&p->entry[p->owner[slot]].used, memory_order_relaxed);
}

// The oldest of the next few slots behind the hand whose pages may leave; PAGE_NONE: no page may.
static uint32_t find_victim(struct pages *p)
{
    uint32_t best = PAGE_NONE;
    for (uint32_t i = 0, seen = 0; i < p->n_slots && seen < VICTIMS; i++) {
        uint32_t slot = p->hand;
        p->hand = slot + 1 < p->n_slots ? slot + 1 : 0;
        if (!may_leave(p, slot))
            continue;
        seen++;
        if (best == PAGE_NONE || age(p, slot) > age(p, best))
            best = slot;
    }
    return best;
}

// Somebody may come to hold it between the look and this: then it stays.
static bool evict(struct pages *p, uint32_t slot)
{
    struct page_entry *e = &p->entry[p->owner[slot]];
    uint64_t alone = place_of(slot);
    if (!atomic_compare_exchange_strong_explicit(&e->place, &alone, 0, memory_order_acq_rel,
                                                 memory_order_relaxed))
        return false;
    p->count.evictions++;
    give_up(p, slot);
    return true;
}

static bool take_slot(struct pages *p, uint32_t *slot)
{
    while (p->n_free == 0) {
        uint32_t victim = find_victim(p);
        if (victim == PAGE_NONE)
            return false;
        evict(p, victim);
    }
    *slot = p->free[--p->n_free];
    return true;
}

static bool is_resident(const struct pages *p, uint32_t page)
{
    return atomic_load_explicit(&p->entry[page].place, memory_order_relaxed) != 0;
}

static void touch(struct pages *p, uint32_t page)
{
    atomic_store_explicit(&p->entry[page].used,
                          atomic_load_explicit(&p->now, memory_order_relaxed),
                          memory_order_relaxed);
}

static void settle(struct pages *p, uint32_t page, uint32_t slot)
{
    p->owner[slot] = page;
    p->entry[page].lost = false;
    touch(p, page);
    atomic_store_explicit(&p->entry[page].place, place_of(slot), memory_order_release);
}

// Where no slot can be had it is as if it had never been asked for.
static void arrived(void *pages, uint32_t block, uint32_t layer, const void *data)
{
    struct pages *p = pages;
    uint32_t page = page_number(p, block, layer), slot;
    struct page_entry *e = &p->entry[page];
    assert(e->fetching && !is_resident(p, page));
    e->fetching = false;
    e->lost = data == NULL;
    if (!data || !take_slot(p, &slot))
        return;
    memcpy(slot_at(p, slot), data, p->layout.page_bytes);
    settle(p, page, slot);
}

// ---- threads of a step ------------------------------------------------------------------------

uint8_t *pages_hold(struct pages *p, uint32_t page)
{
    if (!p->disk)
        return slot_at(p, page);
    struct page_entry *e = &p->entry[page];
    uint64_t place = atomic_load_explicit(&e->place, memory_order_relaxed);
    do {
        if (!place)
            return NULL;
    } while (!atomic_compare_exchange_weak_explicit(&e->place, &place, place + 1,
                                                    memory_order_acquire, memory_order_relaxed));
    uint32_t now = atomic_load_explicit(&p->now, memory_order_relaxed);
    if (atomic_load_explicit(&e->used, memory_order_relaxed) != now) {
        atomic_store_explicit(&e->used, now, memory_order_relaxed);
        atomic_fetch_add_explicit(&p->hits, 1, memory_order_relaxed);
    }
    return slot_at(p, slot_of(place));
}

uint8_t *pages_peek(const struct pages *p, uint32_t page)
{
    if (!p->disk)
        return slot_at(p, page);
    uint64_t place = atomic_load_explicit(&p->entry[page].place, memory_order_relaxed);
    return place ? slot_at(p, slot_of(place)) : NULL;
}

void pages_release(struct pages *p, uint32_t page)
{
    if (p->disk)
        atomic_fetch_sub_explicit(&p->entry[page].place, 1, memory_order_release);
}

// A page that is neither there nor backed was given up: another sequence found its block lost.
static bool ask_locked(struct pages *p, uint32_t page, bool prefetch)
{
    struct page_entry *e = &p->entry[page];
    uint32_t block = page / p->layout.n_layers;
    if (is_resident(p, page) || e->fetching)
        return true;
    e->lost |= !p->backed[block];
    if (e->lost || !p->disk->fetch(p->disk, block, page % p->layout.n_layers, prefetch))
        return false;
    e->fetching = true;
    p->count.prefetches += prefetch;
    return true;
}

bool pages_ask(struct pages *p, uint32_t page)
{
    if (!p->disk || is_resident(p, page))
        return true;
    pthread_mutex_lock(&p->lock);
    bool ok = ask_locked(p, page, true);
    pthread_mutex_unlock(&p->lock);
    return ok;
}

static void sleep_on(const struct kv_disk *d)
{
    struct timespec ts = {.tv_nsec = WAIT_NS};
    struct pollfd fd = {.fd = d->fd, .events = POLLIN};
    ppoll(&fd, d->fd >= 0, &ts, NULL);
}

uint8_t *pages_wait(struct pages *p, uint32_t page, uint64_t until_ns, bool *lost)
{
    uint8_t *at = NULL;
    uint64_t start_ns = clock_now_ns(), now = start_ns;
    bool counted = false;
    for (*lost = false; !*lost; now = clock_now_ns()) {
        pthread_mutex_lock(&p->lock);
        ask_locked(p, page, false);
        p->disk->poll(p->disk);
        *lost = p->entry[page].lost;
        p->count.faults += !counted;
        counted = true;
        pthread_mutex_unlock(&p->lock);
        at = pages_hold(p, page);
        if (at || now >= until_ns)
            break;
        if (!*lost)
            sleep_on(p->disk);
    }
    atomic_fetch_add_explicit(&p->wait_ns, now - start_ns, memory_order_relaxed);
    return at;
}

// ---- between steps ----------------------------------------------------------------------------

uint8_t *pages_at(const struct pages *p, uint32_t page)
{
    uint8_t *at = pages_peek(p, page);
    assert(at);
    return at;
}

int pages_claim(struct pages *p, uint32_t block)
{
    int r = 0;
    if (!p->disk)
        return 0;
    assert(!p->backed[block]);
    pthread_mutex_lock(&p->lock);
    for (uint32_t layer = 0; r == 0 && layer < p->layout.n_layers; layer++) {
        uint32_t page = page_number(p, block, layer), slot;
        if (is_resident(p, page))
            touch(p, page);
        else if (take_slot(p, &slot))
            settle(p, page, slot);
        else
            r = -ENOMEM;
    }
    pthread_mutex_unlock(&p->lock);
    return r;
}

// What is under way for pages of a block that is no more does not arrive.
void pages_set_backed(struct pages *p, uint32_t block, bool backed)
{
    if (!p->disk)
        return;
    p->backed[block] = backed;
    for (uint32_t layer = 0; !backed && layer < p->layout.n_layers; layer++) {
        struct page_entry *e = &p->entry[page_number(p, block, layer)];
        uint64_t place = atomic_load_explicit(&e->place, memory_order_relaxed);
        assert((place & HOLDERS) == 0);
        e->fetching = e->lost = false;
        if (place)
            give_up(p, slot_of(place));
        atomic_store_explicit(&e->place, 0, memory_order_relaxed);
    }
}

void pages_tick(struct pages *p)
{
    atomic_fetch_add_explicit(&p->now, 1, memory_order_relaxed);
}

void pages_stats(const struct pages *p, struct kv_page_stats *ret)
{
    *ret = p->count;
    ret->memory_pages = p->n_slots;
    ret->resident_pages = p->n_slots - p->n_free;
    ret->hits = atomic_load_explicit(&p->hits, memory_order_relaxed);
    ret->missed = p->missed;
    ret->wait_ns = atomic_load_explicit(&p->wait_ns, memory_order_relaxed);
}
