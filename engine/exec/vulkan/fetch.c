// Pages on their way from disk, and digests on theirs to the device: see paging.h.
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "base/base.h"
#include "base/clock.h"
#include "engine/exec/vulkan/paging.h"

// Somebody else may take the event that ends a wait: so it looks again this often.
#define WAIT_NS (100 * NS_PER_US)
#define DIGEST_BYTES_MAX ((size_t)8 << 20)      // on their way at once
#define DIGESTS_MAX 256

// ---- life -------------------------------------------------------------------------------------

void vulkan_kv_page(struct program *p, struct kv_disk *disk, uint64_t memory_bytes)
{
    struct vk_program *g = container_of(p, struct vk_program, p);
    assert(!g->kv.n_blocks);
    g->kv.disk = disk;
    g->kv.memory_bytes_max = memory_bytes;
}

static void arrived(void *program, uint32_t block, uint32_t layer, const void *data);

static int alloc_digests(struct vk_program *g, struct vk_paging *p, struct err *err)
{
    const uint32_t threads[] = { KV_MOVE_THREADS };
    size_t bytes = g->kv.layout.digest_bytes;
    p->digests_max = (uint32_t)CLAMP(DIGEST_BYTES_MAX / bytes, (size_t)1, (size_t)DIGESTS_MAX);
    int r = vk_alloc(g->vk, VK_HOME_HOST, p->digests_max * bytes, &p->digests, err);
    if (r == 0)
        r = vk_alloc(g->vk, VK_HOME_UPLOAD, p->digests_max * sizeof(uint32_t), &p->digest_block,
                     err);
    return r ? r : vk_kernel(g->vk, KERNEL_kv_digests, threads, 1, &p->spread, err);
}

int vk_paging_init(struct vk_program *g, struct err *err)
{
    uint32_t n_pages = g->kv.place.n_pages;
    struct vk_paging *p = g->paging = calloc(1, sizeof(*p));
    if (!p)
        return err_set(err, -ENOMEM, "no memory for paging");
    p->disk = g->kv.disk;
    p->state = calloc(n_pages, sizeof(*p->state));
    p->need = calloc(n_pages, sizeof(*p->need));
    p->miss = calloc(n_pages, sizeof(*p->miss));
    p->seq = calloc(g->params.seqs_max, sizeof(*p->seq));
    int r = 0;
    if (!p->state || !p->need || !p->miss || !p->seq)
        r = err_set(err, -ENOMEM, "no memory for %u KV pages", n_pages);
    if (r == 0)
        r = alloc_digests(g, p, err);
    if (r == 0)
        r = vk_cmd_create(g->vk, &p->part, err);
    if (r == 0)
        r = vk_attn_readers(g, err);
    if (r) {
        vk_paging_finish(g);
        return r;
    }
    vk_recorded_drop(g);
    p->disk->arrived = arrived;
    p->disk->arrived_ctx = g;
    return 0;
}

void vk_paging_finish(struct vk_program *g)
{
    struct vk_paging *p = g->paging;
    if (!p)
        return;
    vk_cmd_destroy(p->part);
    vk_free(g->vk, &p->digests);
    vk_free(g->vk, &p->digest_block);
    free(p->state);
    free(p->need);
    free(p->miss);
    free(p->seq);
    free(p);
    g->paging = NULL;
}

void vulkan_kv_page_stats(const struct program *program, struct kv_page_stats *ret)
{
    const struct vk_program *g = container_of(program, const struct vk_program, p);
    const struct kv_place *place = &g->kv.place;
    *ret = g->paging->count;
    ret->memory_pages = place->n_memory;
    ret->resident_pages = place->n_memory - place->n_free[KV_HOME_DEVICE] -
                          place->n_free[KV_HOME_HOST];
    ret->evictions = place->evictions;
}

// ---- blocks -----------------------------------------------------------------------------------

// What is under way for pages of a block that is no more does not arrive. A poll within a step may
// find that a block is stored.
void vulkan_kv_backed(struct program *program, uint32_t block, bool backed)
{
    struct vk_program *g = container_of(program, struct vk_program, p);
    struct kv_place *place = &g->kv.place;
    if (!vk_is_paged(g))
        return;
    assert(block < g->kv.n_blocks && (backed || !g->batch));
    place->backed[block] = backed;
    for (uint32_t page = block; !backed && page < place->n_pages; page += g->kv.n_blocks) {
        g->paging->state[page] = (struct page_state){0};
        if (kv_place_in_memory(place, page))
            kv_place_leave(place, page);
        vk_kv_write_page(g, page);
    }
}

void vulkan_kv_write_digests(struct program *program, uint32_t block, const void *digests)
{
    struct vk_program *g = container_of(program, struct vk_program, p);
    struct vk_paging *p = g->paging;
    size_t bytes = g->kv.layout.digest_bytes;
    vulkan_kv_backed(program, block, false);
    if (p->n_digests == p->digests_max)
        vk_kv_digests_flush(g);
    if (p->n_digests == 0)
        vk_kv_idle(g, NULL);            // what was flushed before is read
    memcpy((uint8_t *)p->digests.map + p->n_digests * bytes, digests, bytes);
    ((uint32_t *)p->digest_block.map)[p->n_digests++] = block;
    vulkan_kv_backed(program, block, true);
}

struct spread_push {                    // kv_digests.comp
    VkDeviceAddress digest, staging, block;
    uint32_t digest_words;
};

// Nobody waits for them: what is submitted later runs later. A failure means a lost device.
void vk_kv_digests_flush(struct vk_program *g)
{
    struct vk_paging *p = g->paging;
    struct vk_kv *kv = &g->kv;
    if (!p || p->n_digests == 0)
        return;
    const struct spread_push push = {
        .digest = kv->digest_at.addr, .staging = p->digests.addr, .block = p->digest_block.addr,
        .digest_words = (uint32_t)(kv->layout.digest_layer_bytes / 16),
    };
    const struct vk_groups n = {
        DIV_UP(push.digest_words, KV_MOVE_THREADS), kv->layout.n_layers, p->n_digests };
    const struct vk_use use = vk_writes(&kv->page);
    p->n_digests = 0;
    if (vk_kv_cmd_begin(g, NULL))
        return;
    vk_dispatch(kv->cmd, p->spread, "kv_digests", &push, sizeof(push), n, &use, 1);
    if (vk_cmd_end(kv->cmd, NULL) == 0)
        vk_submit(g->vk, kv->cmd, &kv->ticket, NULL);
}

// ---- what a step needs ------------------------------------------------------------------------

void vk_pages_clear(struct vk_program *g)
{
    struct vk_paging *p = g->paging;
    for (uint32_t i = 0; i < p->n_need; i++)
        p->state[p->need[i]].needed = false;
    p->n_need = p->n_miss = 0;
    p->no_room = false;
}

bool vk_pages_need(struct vk_program *g, uint32_t page)
{
    struct vk_paging *p = g->paging;
    bool is_there = kv_place_in_memory(&g->kv.place, page);
    if (is_there)
        kv_place_touch(&g->kv.place, page);
    if (p->state[page].needed)
        return is_there;
    p->state[page].needed = true;
    p->need[p->n_need++] = page;
    p->count.hits += is_there;
    if (!is_there) {
        p->miss[p->n_miss++] = page;
        p->count.faults++;
    }
    return is_there;
}

bool vk_pages_there(const struct vk_program *g)
{
    const struct vk_paging *p = g->paging;
    bool met = true;
    for (uint32_t i = 0; i < p->n_need; i++)
        met &= kv_place_in_memory(&g->kv.place, p->need[i]);
    return met;
}

// Where no slot can be had it is as if it had never been asked for.
static void arrived(void *program, uint32_t block, uint32_t layer, const void *data)
{
    struct vk_program *g = program;
    struct vk_paging *p = g->paging;
    uint32_t page = layer * g->kv.n_blocks + block;
    struct page_state *s = &p->state[page];
    assert(s->fetching && !kv_place_in_memory(&g->kv.place, page));
    s->fetching = false;
    s->lost = data == NULL;
    p->n_arrived++;
    if (!data)
        return;
    void *at = vk_kv_enter(g, page);
    p->no_room |= !at && s->needed;
    if (!at)
        return;
    memcpy(at, data, g->kv.layout.page_bytes);
    g->kv.place.page[page].dead = false;
    if (s->needed)
        kv_place_touch(&g->kv.place, page);
    vk_kv_write_page(g, page);
}

// Asks for one page; false: the disk is busy. One that is neither there nor backed was given up.
static bool ask(struct vk_program *g, uint32_t page, bool ahead)
{
    struct vk_paging *p = g->paging;
    uint32_t n_blocks = g->kv.n_blocks;
    if (!p->disk->fetch(p->disk, page % n_blocks, page / n_blocks, ahead))
        return false;
    p->state[page].fetching = true;
    p->count.prefetches += ahead;
    return true;
}

// Returns how many pages are to come.
static uint32_t ask_all(struct vk_program *g, bool ahead)
{
    struct vk_paging *p = g->paging;
    uint32_t n = 0;
    bool is_busy = false;
    for (uint32_t i = 0; i < p->n_miss; i++) {
        uint32_t page = p->miss[i];
        struct page_state *s = &p->state[page];
        if (kv_place_in_memory(&g->kv.place, page))
            continue;
        s->lost |= !g->kv.place.backed[page % g->kv.n_blocks];
        if (s->lost)
            continue;
        p->miss[n++] = page;
        if (!s->fetching && !is_busy)
            is_busy = !ask(g, page, ahead);
    }
    p->n_miss = n;
    return n;
}

// What was needed before makes room for what is needed now.
static void forget_others(struct vk_program *g)
{
    const struct vk_paging *p = g->paging;
    kv_place_tick(&g->kv.place);
    for (uint32_t i = 0; i < p->n_need; i++)
        if (kv_place_in_memory(&g->kv.place, p->need[i]))
            kv_place_touch(&g->kv.place, p->need[i]);
}

static void sleep_on(const struct kv_disk *d)
{
    struct timespec ts = { .tv_nsec = WAIT_NS };
    struct pollfd fd = { .fd = d->fd, .events = POLLIN };
    ppoll(&fd, d->fd >= 0, &ts, NULL);
}

uint64_t vk_pages_fetch(struct vk_program *g, uint64_t until_ns)
{
    struct vk_paging *p = g->paging;
    uint64_t start_ns = clock_now_ns(), now_ns = start_ns;
    bool has_forgotten = false;
    while (ask_all(g, until_ns == 0) > 0) {
        uint64_t n = p->n_arrived;
        p->disk->poll(p->disk);
        now_ns = clock_now_ns();
        if (p->no_room && has_forgotten)
            break;
        if (p->no_room) {
            forget_others(g);
            has_forgotten = true;
            p->no_room = false;
        }
        if (now_ns >= until_ns)
            break;
        if (p->n_arrived == n)
            sleep_on(p->disk);
    }
    p->count.wait_ns += now_ns - start_ns;
    return now_ns - start_ns;
}
