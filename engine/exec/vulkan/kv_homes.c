// Where KV pages lie: slots in device memory and in pinned host memory, the table that shaders read
// them by, which pages a step read, and pages that change places ahead of a step (kv_place.h).
//
// Rows that choose their blocks mark them in a word per page on the device; what all other rows
// read, the host knows. Swaps are commands of their own before the step's on the same queue:
// nobody waits for them, and the step's command buffer stays as it was recorded.
//
// With paging (paging.h) there are fewer slots than pages, and a page without one has address 0.
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "base/base.h"
#include "engine/exec/vulkan/attn.h"

#define SWAP_BYTES_MAX ((size_t)32 << 20)   // of a step, each way: 1.3 ms of a bus at 50 GB/s
#define SWAPS_MAX 4096
#define SWAP_GROUP_WORDS (KV_MOVE_THREADS * 8)  // WORDS of kv_swap.comp an invocation
#define MARKS 4                             // of a word
#define PAGED_BLOCKS_MIN 4                  // a cap below these is a mistake
// What comes from disk comes to the host: so much of what there is room for, and no more than that.
#define LANDING_SHARE 8
#define LANDING_BYTES_MAX ((size_t)1 << 30)

struct page_copy { VkDeviceAddress src, dst; };     // kv_swap.comp
struct swap_push { VkDeviceAddress copy; uint32_t page_words; };

// ---- memory -----------------------------------------------------------------------------------

// Content comes with the first row of a block, so the host's pages need no zeros.
static int alloc_slots(struct vk *vk, enum vk_home home, uint32_t n, size_t page,
                       struct vk_slots *s, struct err *err)
{
    if (n == 0)
        return 0;
    s->per_slab = (uint32_t)CLAMP(VK_SLAB_BYTES / page, (size_t)1, (size_t)n);
    s->n_slabs = DIV_UP(n, s->per_slab);
    s->slab = calloc(s->n_slabs, sizeof(*s->slab));
    if (!s->slab)
        return err_set(err, -ENOMEM, "no memory for %u slabs", s->n_slabs);
    int r = 0;
    for (uint32_t i = 0; r == 0 && i < s->n_slabs; i++) {
        size_t bytes = MIN(s->per_slab, n - i * s->per_slab) * page;
        r = home == VK_HOME_HOST ? vk_alloc_dirty(vk, home, bytes, &s->slab[i], err)
                                 : vk_alloc(vk, home, bytes, &s->slab[i], err);
    }
    return r;
}

static void free_slots(struct vk *vk, struct vk_slots *s)
{
    for (uint32_t i = 0; s->slab && i < s->n_slabs; i++)
        vk_free(vk, &s->slab[i]);
    free(s->slab);
}

struct slot_at { const struct vk_mem *slab; size_t at; };

static struct slot_at find_slot(const struct vk_kv *kv, uint32_t slot)
{
    bool on_device = slot < kv->place.n_device;
    const struct vk_slots *s = on_device ? &kv->device : &kv->host;
    uint32_t i = on_device ? slot : slot - kv->place.n_device;
    return (struct slot_at){ &s->slab[i / s->per_slab], i % s->per_slab * kv->layout.page_bytes };
}

static VkDeviceAddress slot_addr(const struct vk_kv *kv, uint32_t slot)
{
    if (slot == KV_PLACE_NONE)
        return 0;
    struct slot_at s = find_slot(kv, slot);
    return s.slab->addr + s.at;
}

static void write_page(struct vk_kv *kv, uint32_t page)
{
    ((uint64_t *)kv->page.map)[page] = slot_addr(kv, kv->place.page[page].slot);
}

void vk_kv_write_page(struct vk_program *g, uint32_t page)
{
    write_page(&g->kv, page);
}

// How many pages may be in memory and how many of them on the device. A device that shares the
// host's memory has nothing to gain from a home of its own.
static int count_slots(const struct vk *vk, const struct vk_kv *kv, struct kv_place_params *ret,
                       struct err *err)
{
    const struct vk_info *info = vk_info(vk);
    size_t page = kv->layout.page_bytes;
    uint64_t n_device = kv->limited ? kv->device_bytes_max / page : UINT32_MAX;
    if (kv->disk) {
        uint64_t n = MIN(kv->memory_bytes_max / page, (uint64_t)kv->n_blocks * ret->n_layers);
        if (n < (uint64_t)MIN(kv->n_blocks, (uint32_t)PAGED_BLOCKS_MIN) * ret->n_layers)
            return err_set(err, -EINVAL, "%llu bytes of KV pages are less than %d blocks take",
                           (unsigned long long)kv->memory_bytes_max, PAGED_BLOCKS_MIN);
        uint64_t landing = MIN(n / LANDING_SHARE, LANDING_BYTES_MAX / page);
        ret->n_memory = (uint32_t)n;
        n_device = MIN(n_device, n - MAX(landing, 1u));
        if (!kv->limited && (info->software || info->integrated))
            n_device = 0;
    }
    ret->n_device = (uint32_t)MIN(n_device, (uint64_t)UINT32_MAX);
    return 0;
}

static int alloc_pages(struct vk *vk, struct vk_kv *kv, struct err *err)
{
    size_t page = kv->layout.page_bytes;
    struct kv_place_params params = {
        .n_layers = kv->layout.n_layers, .n_blocks = kv->n_blocks,
        .swaps_max = (uint32_t)CLAMP(SWAP_BYTES_MAX / page, (size_t)1, (size_t)SWAPS_MAX),
    };
    int r = count_slots(vk, kv, &params, err);
    if (r == 0)
        r = kv_place_init(&kv->place, &params, err);
    if (r)
        return r;
    const struct kv_place *p = &kv->place;
    r = alloc_slots(vk, VK_HOME_DEVICE, p->n_device, page, &kv->device, err);
    if (r == 0)
        r = alloc_slots(vk, VK_HOME_HOST, p->n_slots - p->n_device, page, &kv->host, err);
    if (r == 0)
        r = vk_alloc(vk, VK_HOME_UPLOAD, p->n_pages * sizeof(uint64_t), &kv->page, err);
    for (uint32_t i = 0; r == 0 && i < p->n_pages; i++)
        write_page(kv, i);
    return r;
}

static int alloc_used(struct vk *vk, struct vk_kv *kv, struct err *err)
{
    const struct kv_place *p = &kv->place;
    size_t bytes = ALIGN_UP(p->n_pages, (uint32_t)MARKS) * sizeof(uint16_t);
    size_t copies = MAX(p->swaps_max, 1u) * 2 * sizeof(struct page_copy);
    if (p->n_device == p->n_pages && !kv->disk)
        return 0;
    int r = vk_alloc(vk, VK_HOME_DEVICE, bytes, &kv->used, err);
    if (r == 0)
        r = vk_alloc(vk, VK_HOME_HOST, bytes, &kv->used_host, err);
    if (r == 0)
        r = vk_alloc(vk, VK_HOME_UPLOAD, copies, &kv->copies, err);
    return r;
}

static int alloc_digests(struct vk *vk, struct vk_kv *kv, struct err *err)
{
    uint32_t n = kv->layout.n_layers;
    kv->digest = calloc(n, sizeof(*kv->digest));
    if (!kv->digest)
        return err_set(err, -ENOMEM, "no memory for %u layers", n);
    int r = vk_alloc(vk, VK_HOME_UPLOAD, n * sizeof(uint64_t), &kv->digest_at, err);
    for (uint32_t i = 0; r == 0 && i < n; i++) {
        r = vk_alloc(vk, VK_HOME_DEVICE, kv->n_blocks * kv->layout.digest_layer_bytes,
                     &kv->digest[i], err);
        if (r == 0)
            ((uint64_t *)kv->digest_at.map)[i] = kv->digest[i].addr;
    }
    return r;
}

static void free_memory(struct vk *vk, struct vk_kv *kv)
{
    struct vk_mem *mem[] = { &kv->page, &kv->digest_at, &kv->staging, &kv->used, &kv->used_host,
                             &kv->copies };
    vk_cmd_destroy(kv->cmd);
    free_slots(vk, &kv->device);
    free_slots(vk, &kv->host);
    for (uint32_t i = 0; kv->digest && i < kv->layout.n_layers; i++)
        vk_free(vk, &kv->digest[i]);
    free(kv->digest);
    for (unsigned i = 0; i < ARRAY_LEN(mem); i++)
        vk_free(vk, mem[i]);
    kv_place_finish(&kv->place);
}

void vulkan_kv_limit(struct program *p, uint64_t device_bytes)
{
    struct vk_program *g = container_of(p, struct vk_program, p);
    assert(!g->kv.n_blocks);
    g->kv.limited = true;
    g->kv.device_bytes_max = device_bytes;
}

int vulkan_kv_alloc(struct program *p, uint32_t n_blocks, struct kv_layout *ret, struct err *err)
{
    struct vk_program *g = container_of(p, struct vk_program, p);
    struct vk_kv kv = g->kv;
    assert(n_blocks > 0 && !g->kv.n_blocks);
    kv.n_blocks = n_blocks;
    int r = kv_layout_init(&kv.layout, g->cfg, g->params.k_type, g->params.v_type,
                           VULKAN_LAYOUT_VERSION, err);
    if (r)
        return r;
    if (n_blocks >= KV_PLACE_NONE / 2 / kv.layout.n_layers)
        return err_set(err, -ENOMEM, "no memory for %u KV blocks", n_blocks);
    r = alloc_pages(g->vk, &kv, err);
    if (r == 0)
        r = alloc_used(g->vk, &kv, err);
    if (r == 0)
        r = alloc_digests(g->vk, &kv, err);
    if (r == 0)
        r = vk_alloc(g->vk, VK_HOME_HOST, kv.layout.block_bytes, &kv.staging, err);
    if (r == 0)
        r = vk_cmd_create(g->vk, &kv.cmd, err);
    struct vk_kv before = g->kv;
    g->kv = kv;
    if (r == 0 && kv.disk)
        r = vk_paging_init(g, err);
    if (r) {
        free_memory(g->vk, &g->kv);
        g->kv = before;
        return r;
    }
    *ret = kv.layout;
    return 0;
}

int vk_kv_idle(struct vk_program *g, struct err *err)
{
    return vk_wait(g->vk, g->kv.ticket, VK_KV_TIMEOUT_NS, err);
}

void vk_kv_finish(struct vk_program *g)
{
    vk_kv_idle(g, NULL);
    vk_paging_finish(g);
    free_memory(g->vk, &g->kv);
    g->kv = (struct vk_kv){0};
}

void vulkan_kv_homes(const struct program *p, struct kv_homes *ret)
{
    const struct vk_kv *kv = &container_of(p, const struct vk_program, p)->kv;
    const struct kv_place *place = &kv->place;
    *ret = (struct kv_homes){
        .page_bytes = kv->layout.page_bytes,
        .device_pages = place->n_device, .host_pages = place->n_memory - place->n_device,
        .device_reads = place->reads_device, .host_reads = place->reads_host,
        .moved_in = place->moved_in, .moved_out = place->moved_out,
    };
}

// ---- swaps ------------------------------------------------------------------------------------

static bool is_tracked(const struct vk_kv *kv)
{
    return kv->used.buffer != VK_NULL_HANDLE;
}

void vk_kv_block_set(struct vk_program *g, uint32_t block)
{
    for (uint32_t layer = 0; is_tracked(&g->kv) && layer < g->kv.layout.n_layers; layer++)
        kv_place_set(&g->kv.place, layer * g->kv.n_blocks + block);
}

int vk_kv_cmd_begin(struct vk_program *g, struct err *err)
{
    int r = vk_kv_idle(g, err);
    if (r == 0)
        vk_cmd_begin(g->kv.cmd);
    return r;
}

// Who lost its slot to another has address 0 from now on.
static void write_left(struct vk_kv *kv)
{
    while (kv->place.n_left > 0)
        write_page(kv, kv->place.left[--kv->place.n_left]);
}

int vk_kv_claim(struct vk_program *g, uint32_t block, struct err *err)
{
    struct vk_kv *kv = &g->kv;
    assert(!kv->disk || !kv->place.backed[block]);
    for (uint32_t page = block; kv->disk && page < kv->place.n_pages; page += kv->n_blocks) {
        if (!kv_place_enter(&kv->place, page, false))
            return err_set(err, -ENOMEM, "no KV page may leave memory for the tokens of a step");
        write_left(kv);
        write_page(kv, page);
    }
    return 0;
}

static int plan_swaps(struct vk_program *g, struct err *err)
{
    struct kv_place *p = &g->kv.place;
    kv_place_begin(p);
    for (uint32_t i = 0; i < g->batch->n_seqs; i++) {
        const struct batch_seq *s = &g->batch->seq[i];
        uint32_t end = DIV_UP(s->pos0 + s->n_rows, KV_BLOCK_TOKENS);
        for (uint32_t b = s->pos0 / KV_BLOCK_TOKENS; b < end; b++) {
            int r = vk_kv_claim(g, s->block[b], err);
            if (r)
                return r;
            for (uint32_t layer = 0; layer < g->kv.layout.n_layers; layer++)
                kv_place_write(p, layer * g->kv.n_blocks + s->block[b],
                               b * KV_BLOCK_TOKENS >= s->pos0);
        }
    }
    kv_place_plan(p);
    return 0;
}

static void record_copies(struct vk_kv *kv, const char *label, const struct kv_slot_copy *copy,
                          uint32_t n, uint32_t first)
{
    struct page_copy *to = (struct page_copy *)kv->copies.map + first;
    const struct swap_push push = {
        .copy = kv->copies.addr + first * sizeof(*to),
        .page_words = (uint32_t)(kv->layout.page_bytes / 16),
    };
    const struct vk_use uses[] = { vk_reads(&kv->copies), vk_writes(&kv->page) };
    for (uint32_t i = 0; i < n; i++)
        to[i] = (struct page_copy){ slot_addr(kv, copy[i].from), slot_addr(kv, copy[i].to) };
    vk_dispatch(kv->cmd, kv->swap, label, &push, sizeof(push),
                (struct vk_groups){ DIV_UP(push.page_words, SWAP_GROUP_WORDS), n, 1 }, uses,
                ARRAY_LEN(uses));
}

static int run_swaps(struct vk_program *g, struct err *err)
{
    struct vk_kv *kv = &g->kv;
    int r = vk_kv_cmd_begin(g, err);
    if (r)
        return r;
    record_copies(kv, "kv_out", kv->place.out, kv->place.n_out, 0);
    record_copies(kv, "kv_in", kv->place.in, kv->place.n_in, kv->place.n_out);
    r = vk_cmd_end(kv->cmd, err);
    return r ? r : vk_submit(g->vk, kv->cmd, &kv->ticket, err);
}

// What changes places does so by commands; then shaders find it there.
static int make_swaps(struct vk_program *g, struct err *err)
{
    struct vk_kv *kv = &g->kv;
    struct kv_place *p = &kv->place;
    int r = p->n_out + p->n_in > 0 ? run_swaps(g, err) : 0;
    if (r) {
        kv_place_undo(p);
        return r;
    }
    for (uint32_t i = 0; i < p->n_swaps; i++) {
        write_page(kv, p->swap[i].page);
        if (p->swap[i].victim != KV_PLACE_NONE)
            write_page(kv, p->swap[i].victim);
    }
    return 0;
}

int vk_kv_step_begin(struct vk_program *g, struct err *err)
{
    if (!is_tracked(&g->kv))
        return 0;
    vk_kv_digests_flush(g);
    int r = plan_swaps(g, err);
    return r ? r : make_swaps(g, err);
}

// Commands may be on their way that read what is now a free slot.
void *vk_kv_enter(struct vk_program *g, uint32_t page)
{
    struct kv_place *p = &g->kv.place;
    if (vk_kv_idle(g, NULL))
        return NULL;
    bool ok = kv_place_enter(p, page, true);
    write_left(&g->kv);
    if (!ok && kv_place_rise(p)) {
        write_left(&g->kv);
        ok = make_swaps(g, NULL) == 0 && vk_kv_idle(g, NULL) == 0 &&
             kv_place_enter(p, page, true);
        write_left(&g->kv);
    }
    if (!ok)
        return NULL;
    struct slot_at s = find_slot(&g->kv, p->page[page].slot);
    return (uint8_t *)s.slab->map + s.at;
}

// ---- use --------------------------------------------------------------------------------------

void vk_kv_used_clear(struct vk_program *g, struct vk_cmd *c)
{
    if (is_tracked(&g->kv))
        vk_fill(c, &g->kv.used, 0, g->kv.used.bytes, 0);
}

void vk_kv_used_fetch(struct vk_program *g, struct vk_cmd *c)
{
    if (is_tracked(&g->kv))
        vk_copy(c, &g->kv.used_host, 0, &g->kv.used, 0, g->kv.used.bytes);
}

void vk_kv_used_fetch_layer(struct vk_program *g, struct vk_cmd *c, uint32_t layer)
{
    size_t bytes = g->kv.n_blocks * sizeof(uint16_t);
    size_t from = layer * bytes & ~(size_t)3, to = ALIGN_UP((layer + 1) * bytes, (size_t)4);
    vk_copy(c, &g->kv.used_host, from, &g->kv.used, from, to - from);
}

struct vk_use vk_kv_used(const struct vk_program *g, uint32_t layer)
{
    size_t bytes = g->kv.n_blocks * sizeof(uint16_t);
    if (!is_tracked(&g->kv))
        return (struct vk_use){0};
    return (struct vk_use){ g->kv.used.addr + layer * bytes, bytes, true };
}

struct kv_reach vk_kv_reach(const struct batch_seq *s, uint32_t window)
{
    struct kv_reach r = { .first = UINT32_MAX };
    for (uint32_t pos = s->pos0; pos < s->pos0 + s->n_rows; pos++) {
        if (attn_view_selects(&s->attn, window, pos))
            continue;
        struct row_view v = attn_view(&s->attn, window, pos);
        r.n_sink = MAX(r.n_sink, v.n_sink);
        r.first = MIN(r.first, v.first);
        r.end = pos / KV_BLOCK_TOKENS + 1;
    }
    return r;
}

static void mark(uint16_t *used, const uint32_t *block, uint32_t first, uint32_t end)
{
    for (uint32_t b = first; b < end; b++)
        used[block[b]] = 1;
}

static void mark_reach(struct vk_program *g, uint16_t *used, const struct batch_seq *s,
                       uint16_t class)
{
    struct kv_reach r = vk_kv_reach(s, g->attn->class[class].window);
    for (uint32_t i = 0; r.end > 0 && i < g->plan->n_ops; i++) {
        const struct vk_op *o = &g->op[i];
        if (o->op->kind != OP_ATTN || o->attn_class != class)
            continue;
        uint16_t *layer = used + (size_t)o->op->layer * g->kv.n_blocks;
        mark(layer, s->block, 0, r.n_sink);
        mark(layer, s->block, r.first, r.end);
    }
}

uint32_t vk_kv_next_used(const struct vk_program *g, uint32_t page)
{
    const uint16_t *used = g->kv.used_host.map;
    uint32_t n = g->kv.place.n_pages;
    while (page < n && !used[page]) {
        uint64_t word;
        page++;
        for (; page % MARKS == 0 && page < n; page += MARKS) {
            memcpy(&word, used + page, sizeof(word));
            if (word)
                break;
        }
    }
    return MIN(page, n);
}

static void count_reads(struct vk_program *g)
{
    struct kv_place *p = &g->kv.place;
    for (uint32_t i = vk_kv_next_used(g, 0); i < p->n_pages; i = vk_kv_next_used(g, i + 1))
        if (kv_place_in_memory(p, i))
            kv_place_read(p, i);
}

void vk_kv_step_end(struct vk_program *g)
{
    struct vk_kv *kv = &g->kv;
    uint16_t *used = kv->used_host.map;
    if (!is_tracked(kv))
        return;
    if (g->attn->n_selects == 0)        // then nothing was fetched
        memset(used, 0, kv->used_host.bytes);
    for (uint32_t i = 0; i < g->batch->n_seqs; i++)
        for (uint32_t c = 0; c < g->attn->n_classes; c++)
            mark_reach(g, used, &g->batch->seq[i], (uint16_t)c);
    count_reads(g);
}
