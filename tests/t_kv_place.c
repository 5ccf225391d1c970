// Protects the placement of KV pages: whatever is written, read, planned and given up, every page's
// content is where it is said to be, nothing more than agreed is moved, and what is moved helps.
#include "tests/test.h"
#include <string.h>
#include "base/base.h"
#include "engine/exec/vulkan/kv_place.h"

TEST_MAIN

static uint32_t seed = 1;

static uint32_t random_below(uint32_t n)
{
    seed = seed * 1664525 + 1013904223;
    return (uint32_t)((uint64_t)(seed >> 4) * n >> 28);
}

// ---- a device and a host of one number per slot -----------------------------------------------

struct rig {
    struct kv_place p;
    uint64_t *slot;                     // (n_slots) what lies there
    uint64_t *want;                     // (n_pages) what a page holds; 0: nobody knows
    uint64_t  stamp;
};

static void rig_open_as(struct rig *r, const struct kv_place_params *p)
{
    struct err err;
    *r = (struct rig){0};
    REQUIRE_OK(kv_place_init(&r->p, p, &err), err);
    r->slot = calloc(r->p.n_slots, sizeof(uint64_t));
    r->want = calloc(r->p.n_pages, sizeof(uint64_t));
}

static void rig_open(struct rig *r, uint32_t n_layers, uint32_t n_blocks, uint32_t n_device,
                     uint32_t swaps_max)
{
    const struct kv_place_params p = { n_layers, n_blocks, 0, n_device, swaps_max };
    rig_open_as(r, &p);
}

static void rig_close(struct rig *r)
{
    kv_place_finish(&r->p);
    free(r->slot);
    free(r->want);
}

static void write(struct rig *r, uint32_t page)
{
    r->slot[r->p.page[page].slot] = r->want[page] = ++r->stamp;
}

// All copies of one array at once, as a device may.
static void copy(struct rig *r, const struct kv_slot_copy *c, uint32_t n)
{
    uint64_t *held = malloc((n + 1) * sizeof(*held));
    for (uint32_t i = 0; i < n; i++)
        held[i] = r->slot[c[i].from];
    for (uint32_t i = 0; i < n; i++)
        r->slot[c[i].to] = held[i];
    free(held);
}

// Marks a slot, which nobody else has.
static void claim(const struct rig *r, uint8_t *taken, uint32_t slot, bool on_device)
{
    REQUIRE(slot < r->p.n_slots && !taken[slot] && (slot < r->p.n_device) == on_device);
    taken[slot] = 1;
}

static void check_lists(const struct rig *r)
{
    const struct kv_place *p = &r->p;
    uint64_t used = 0;
    for (unsigned h = 0; h < KV_HOMES; h++) {
        uint32_t n = h == KV_HOME_DEVICE ? p->n_device : p->n_memory - p->n_device, listed = 0;
        for (uint32_t i = p->home[h].first; i != KV_PLACE_NONE; i = p->page[i].next, listed++) {
            REQUIRE(kv_place_on_device(p, i) == (h == KV_HOME_DEVICE));
            REQUIRE(h != KV_HOME_DEVICE || p->page[i].used >= used);
            used = p->page[i].used;
        }
        REQUIRE_INT(listed + p->n_free[h], n);
    }
}

static void check(const struct rig *r)
{
    const struct kv_place *p = &r->p;
    uint8_t *taken = calloc(p->n_slots, 1);
    for (uint32_t i = 0; i < p->n_pages; i++) {
        if (!kv_place_in_memory(p, i))
            continue;
        claim(r, taken, p->page[i].slot, kv_place_on_device(p, i));
        REQUIRE(!r->want[i] || r->slot[p->page[i].slot] == r->want[i]);
    }
    for (uint32_t i = 0; i < p->swaps_max; i++)
        claim(r, taken, p->spare[i], false);
    for (unsigned h = 0; h < KV_HOMES; h++)
        for (uint32_t i = 0; i < p->n_free[h]; i++)
            claim(r, taken, p->free[h][i], h == KV_HOME_DEVICE);
    REQUIRE(!memchr(taken, 0, p->n_slots));
    check_lists(r);
    REQUIRE(p->n_out <= p->swaps_max && p->n_in <= p->swaps_max);
    free(taken);
}

// ---- whatever happens -------------------------------------------------------------------------

struct write { uint32_t page; bool fresh; };

// Few pages, each once.
static uint32_t random_writes(const struct rig *r, struct write *w)
{
    uint32_t n = 0, tries = random_below(8);
    while (tries-- > 0) {
        uint32_t page = random_below(r->p.n_pages), k = 0;
        while (k < n && w[k].page != page)
            k++;
        if (k == n)
            w[n++] = (struct write){ page, random_below(2) || r->want[page] == 0 };
    }
    return n;
}

// A step that writes some pages, some of them anew, and reads others.
static void random_step(struct rig *r)
{
    struct kv_place *p = &r->p;
    struct write w[8];
    uint32_t n = random_writes(r, w);
    kv_place_begin(p);
    for (uint32_t i = 0; i < n; i++) {
        kv_place_write(p, w[i].page, w[i].fresh);
        if (w[i].fresh)
            r->want[w[i].page] = 0;
    }
    kv_place_plan(p);
    if (random_below(8) == 0) {
        kv_place_undo(p);
        check(r);
        return;
    }
    copy(r, p->out, p->n_out);
    copy(r, p->in, p->n_in);
    check(r);
    for (uint32_t i = 0; i < n; i++)
        write(r, w[i].page);
    uint32_t from = random_below(p->n_pages), every = 1 + random_below(9);
    for (uint32_t i = from; i < p->n_pages; i += every)
        if (r->want[i])
            kv_place_read(p, i);
}

TEST(every_page_is_where_it_is_said_to_be)
{
    for (uint32_t round = 0; round < 60; round++) {
        struct rig r;
        uint32_t layers = 1 + random_below(4), blocks = 1 + random_below(30);
        uint32_t device = random_below(layers * blocks + 4), swaps = random_below(12);
        rig_open(&r, layers, blocks, device, swaps);
        check(&r);
        for (uint32_t step = 0; step < 300; step++) {
            random_step(&r);
            if (random_below(4) == 0) {             // between steps: kv_copy, kv_write
                uint32_t page = random_below(r.p.n_pages);
                kv_place_set(&r.p, page);
                write(&r, page);
            }
            check(&r);
        }
        REQUIRE(device == 0 || device >= layers * blocks || swaps == 0 || r.p.moved_in > 0);
        rig_close(&r);
    }
}

// ---- what is moved ----------------------------------------------------------------------------

// A step that writes nothing and reads pages [from, to). Returns how many of them were the host's.
static uint64_t read_step(struct rig *r, uint32_t from, uint32_t to)
{
    uint64_t before = r->p.reads_host;
    kv_place_begin(&r->p);
    kv_place_plan(&r->p);
    copy(r, r->p.out, r->p.n_out);
    copy(r, r->p.in, r->p.n_in);
    check(r);
    for (uint32_t i = from; i < to; i++)
        kv_place_read(&r->p, i);
    return r->p.reads_host - before;
}

static void set_all(struct rig *r)
{
    for (uint32_t i = 0; i < r->p.n_pages; i++) {
        kv_place_set(&r->p, i);
        write(r, i);
    }
}

TEST(first_blocks_begin_on_the_device)
{
    struct rig r;
    rig_open(&r, 3, 5, 7, 2);
    for (uint32_t layer = 0; layer < 3; layer++)
        for (uint32_t block = 0; block < 5; block++)
            REQUIRE_INT(kv_place_on_device(&r.p, layer * 5 + block), block * 3 + layer < 7);
    REQUIRE_INT(r.p.n_slots, 17);
    rig_close(&r);
}

// What is read again and again comes to the device, a bounded number a step, and stays.
TEST(the_hot_come_in)
{
    struct rig r;
    rig_open(&r, 1, 100, 20, 3);
    set_all(&r);
    REQUIRE_INT(read_step(&r, 60, 75), 15);
    REQUIRE_INT(read_step(&r, 60, 75), 15);             // read once before: nothing moved
    for (uint32_t step = 1; step <= 5; step++)
        REQUIRE_INT(read_step(&r, 60, 75), 15 - 3 * step);
    REQUIRE_INT(read_step(&r, 60, 75), 0);
    REQUIRE_INT(r.p.moved_in, 15);
    REQUIRE_INT(r.p.moved_out, 15);
    rig_close(&r);
}

TEST(what_is_read_once_moves_nothing)
{
    struct rig r;
    rig_open(&r, 1, 100, 20, 50);
    set_all(&r);
    for (uint32_t from = 20; from < 100; from += 10)
        REQUIRE_INT(read_step(&r, from, from + 10), 10);
    read_step(&r, 0, 0);
    REQUIRE_INT(r.p.moved_in + r.p.moved_out, 0);
    rig_close(&r);
}

// More than there is room for, all of it in every step or in turns: a cache that evicts what was
// unused for longest would move everything and never find anything.
TEST(what_does_not_fit_does_not_thrash)
{
    struct rig r;
    rig_open(&r, 1, 100, 40, 50);
    set_all(&r);
    for (uint32_t step = 0; step < 20; step++)
        REQUIRE_INT(read_step(&r, 0, 100), 60);
    REQUIRE_INT(r.p.moved_in, 0);
    for (uint32_t step = 0; step < 40; step++)
        read_step(&r, step % 4 * 25, step % 4 * 25 + 25);
    REQUIRE_INT(r.p.moved_in, 0);
    REQUIRE_INT(r.p.reads_device, 20 * 40 + 10 * 40);
    rig_close(&r);
}

static void write_step(struct rig *r, uint32_t from, uint32_t to, bool fresh)
{
    kv_place_begin(&r->p);
    for (uint32_t i = from; i < to; i++) {
        kv_place_write(&r->p, i, fresh);
        r->want[i] = fresh ? 0 : r->want[i];
    }
    kv_place_plan(&r->p);
    copy(r, r->p.out, r->p.n_out);
    copy(r, r->p.in, r->p.n_in);
    check(r);
    for (uint32_t i = from; i < to; i++)
        write(r, i);
}

// Pages that are written come first, and only what is alive is copied.
TEST(written_pages)
{
    struct rig r;
    rig_open(&r, 1, 20, 6, 4);
    write_step(&r, 0, 4, true);
    REQUIRE_INT(r.p.n_swaps, 0);
    write_step(&r, 10, 12, true);                       // into places where nothing was
    REQUIRE_INT(r.p.n_swaps, 2);
    REQUIRE_INT(r.p.moved_in + r.p.moved_out, 0);
    write_step(&r, 12, 14, true);                       // others must leave, nothing comes
    REQUIRE_INT(r.p.n_out, 2);
    REQUIRE_INT(r.p.n_in, 0);
    REQUIRE(!kv_place_on_device(&r.p, 0) && kv_place_on_device(&r.p, 12));
    REQUIRE(r.p.moved_out == 2 && r.p.moved_in == 0);
    write_step(&r, 0, 1, false);                        // one comes back with what it holds
    REQUIRE_INT(r.p.n_out, 1);
    REQUIRE_INT(r.p.n_in, 1);
    write_step(&r, 0, 20, false);                       // more than there is room for
    REQUIRE(r.p.n_swaps <= 4);
    write_step(&r, 0, 20, false);
    REQUIRE_INT(r.p.n_swaps, 0);
    write_step(&r, 0, 1, true);                         // a new page has no past
    REQUIRE_INT(r.p.page[0].before, 0);
    REQUIRE(r.p.page[1].before > 0);
    rig_close(&r);
}

TEST(all_or_nothing_on_the_device)
{
    struct rig r;
    rig_open(&r, 2, 10, 0, 8);
    set_all(&r);
    REQUIRE_INT(read_step(&r, 0, 20), 20);
    write_step(&r, 0, 20, false);
    REQUIRE_INT(r.p.n_slots, 20);
    REQUIRE_INT(r.p.n_swaps, 0);
    rig_close(&r);
    rig_open(&r, 2, 10, UINT32_MAX, 8);
    set_all(&r);
    REQUIRE_INT(read_step(&r, 0, 20), 0);
    write_step(&r, 0, 20, true);
    REQUIRE_INT(r.p.n_slots, 20);
    REQUIRE_INT(r.p.n_swaps, 0);
    rig_close(&r);
}

// ---- paging -----------------------------------------------------------------------------------

// Pages that are not in memory hold nothing, and none did that was not backed.
static void take_left(struct rig *r)
{
    struct kv_place *p = &r->p;
    while (p->n_left > 0) {
        uint32_t page = p->left[--p->n_left];
        REQUIRE(!kv_place_in_memory(p, page) && p->backed[page % p->n_blocks]);
        REQUIRE(p->page[page].used < p->now);
    }
}

// What a backed block holds is on the disk: `want`.
static bool fetch(struct rig *r, uint32_t page)
{
    struct kv_place *p = &r->p;
    bool is_there = kv_place_in_memory(p, page);
    bool ok = kv_place_enter(p, page, true);
    take_left(r);
    if (!ok && kv_place_rise(p)) {
        take_left(r);
        copy(r, p->in, p->n_in);
        check(r);
        ok = kv_place_enter(p, page, true);
        take_left(r);
        REQUIRE(ok);
    }
    if (ok && !is_there) {
        REQUIRE(!kv_place_on_device(p, page));
        r->slot[p->page[page].slot] = r->want[page];
    }
    if (ok)
        kv_place_set(p, page);
    return ok;
}

// Blocks are written as a whole, and backed or given up afterwards.
static bool write_block(struct rig *r, uint32_t block)
{
    struct kv_place *p = &r->p;
    bool ok = true;
    kv_place_begin(p);
    for (uint32_t page = block; ok && page < p->n_pages; page += p->n_blocks) {
        ok = kv_place_enter(p, page, false);
        take_left(r);
        r->want[page] = 0;
    }
    for (uint32_t page = block; ok && page < p->n_pages; page += p->n_blocks)
        kv_place_write(p, page, true);
    kv_place_plan(p);
    if (random_below(8) == 0) {
        kv_place_undo(p);
        check(r);
        return false;
    }
    copy(r, p->out, p->n_out);
    copy(r, p->in, p->n_in);
    check(r);
    for (uint32_t page = block; ok && page < p->n_pages; page += p->n_blocks)
        write(r, page);
    return ok;
}

static void give_up(struct rig *r, uint32_t block)
{
    r->p.backed[block] = false;
    for (uint32_t page = block; page < r->p.n_pages; page += r->p.n_blocks) {
        if (kv_place_in_memory(&r->p, page))
            kv_place_leave(&r->p, page);
        r->want[page] = 0;
    }
}

static void paged_step(struct rig *r)
{
    struct kv_place *p = &r->p;
    uint32_t block = random_below(p->n_blocks), page = random_below(p->n_pages);
    give_up(r, block);
    if (write_block(r, block))
        p->backed[block] = random_below(4) != 0;
    else
        give_up(r, block);
    check(r);
    for (uint32_t n = random_below(8); n-- > 0; page = (page + 7) % p->n_pages)
        if (r->want[page] && p->backed[page % p->n_blocks] && fetch(r, page)) {
            check(r);
            kv_place_read(p, page);
        }
    if (random_below(4) == 0)
        kv_place_tick(p);
}

TEST(pages_come_and_go)
{
    uint64_t evictions = 0, moved = 0;
    for (uint32_t round = 0; round < 60; round++) {
        struct rig r;
        struct kv_place_params k = { 1 + random_below(4), 4 + random_below(30) };
        k.n_memory = k.n_layers * (2 + random_below(k.n_blocks));
        k.n_device = random_below(k.n_memory);
        k.swaps_max = random_below(6);
        rig_open_as(&r, &k);
        check(&r);
        for (uint32_t step = 0; step < 300; step++)
            paged_step(&r);
        evictions += r.p.evictions;
        moved += r.p.moved_in;
        for (uint32_t i = 0; i < k.n_blocks; i++)
            give_up(&r, i);
        REQUIRE_INT(r.p.n_free[KV_HOME_DEVICE] + r.p.n_free[KV_HOME_HOST], r.p.n_memory);
        rig_close(&r);
    }
    REQUIRE(evictions > 1000 && moved > 1000);
}

// The one unused for longest goes, but neither what the step needs nor what is not backed.
TEST(who_leaves)
{
    struct rig r;
    const struct kv_place_params k = { 1, 10, 4, 0, 0 };
    rig_open_as(&r, &k);
    for (uint32_t i = 0; i < 4; i++) {
        r.p.backed[i] = i != 0;
        kv_place_begin(&r.p);
        REQUIRE(kv_place_enter(&r.p, i, true));
    }
    REQUIRE(kv_place_enter(&r.p, 5, true));
    REQUIRE_INT(r.p.n_left, 1);
    REQUIRE_INT(r.p.left[--r.p.n_left], 1);
    kv_place_begin(&r.p);
    kv_place_touch(&r.p, 2);
    REQUIRE(kv_place_enter(&r.p, 6, true));
    REQUIRE_INT(r.p.left[--r.p.n_left], 3);
    REQUIRE(!kv_place_enter(&r.p, 7, true));        // 0 and 5 are not backed
    kv_place_tick(&r.p);
    REQUIRE(kv_place_enter(&r.p, 7, true));
    REQUIRE_INT(r.p.left[--r.p.n_left], 2);
    REQUIRE(!kv_place_in_memory(&r.p, 2) && kv_place_in_memory(&r.p, 0));
    rig_close(&r);
}
