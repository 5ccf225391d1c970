// Where KV pages lie: slots in device memory and in pinned host memory, the table that shaders read
// them by, which pages a step read, and pages that change places ahead of a step (kv_place.h).
//
// Rows that choose their blocks mark them in a word per page on the device; what all other rows
// read, the host knows. Swaps are commands of their own before the step's on the same queue:
// nobody waits for them, and the step's command buffer stays as it was recorded.
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "base/base.h"
#include "engine/exec/vulkan/attn.h"

#define SWAP_BYTES_MAX ((size_t)32 << 20)   // of a step, each way: 1.3 ms of a bus at 50 GB/s
#define SWAPS_MAX 4096
#define SWAP_GROUP_WORDS (KV_MOVE_THREADS * 8)  // WORDS of kv_swap.comp an invocation
#define MARKS 4                             // of a word

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

static VkDeviceAddress slot_addr(const struct vk_kv *kv, uint32_t slot)
{
    bool on_device = slot < kv->place.n_device;
    const struct vk_slots *s = on_device ? &kv->device : &kv->host;
    uint32_t i = on_device ? slot : slot - kv->place.n_device;
    return s->slab[i / s->per_slab].addr + (size_t)(i % s->per_slab) * kv->layout.page_bytes;
}

static void write_page(struct vk_kv *kv, uint32_t page)
{
    ((uint64_t *)kv->page.map)[page] = slot_addr(kv, kv->place.page[page].slot);
}

static int alloc_pages(struct vk *vk, struct vk_kv *kv, struct err *err)
{
    size_t page = kv->layout.page_bytes;
    uint64_t n_device = kv->limited ? kv->device_bytes_max / page : UINT32_MAX;
    uint32_t swaps = (uint32_t)CLAMP(SWAP_BYTES_MAX / page, (size_t)1, (size_t)SWAPS_MAX);
    const struct kv_place_params params = {
        .n_layers = kv->layout.n_layers, .n_blocks = kv->n_blocks,
        .n_device = (uint32_t)MIN(n_device, (uint64_t)UINT32_MAX), .swaps_max = swaps,
    };
    int r = kv_place_init(&kv->place, &params, err);
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
    if (p->n_device == p->n_pages)
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
    if (r) {
        free_memory(g->vk, &kv);
        return r;
    }
    g->kv = kv;
    *ret = kv.layout;
    return 0;
}

// A step that failed to start may have left swaps running.
static int wait_for_swaps(struct vk_program *g, struct err *err)
{
    return vk_wait(g->vk, g->kv.ticket, VK_KV_TIMEOUT_NS, err);
}

void vk_kv_finish(struct vk_program *g)
{
    wait_for_swaps(g, NULL);
    free_memory(g->vk, &g->kv);
    g->kv = (struct vk_kv){0};
}

void vulkan_kv_homes(const struct program *p, struct kv_homes *ret)
{
    const struct vk_kv *kv = &container_of(p, const struct vk_program, p)->kv;
    const struct kv_place *place = &kv->place;
    *ret = (struct kv_homes){
        .page_bytes = kv->layout.page_bytes,
        .device_pages = place->n_device, .host_pages = place->n_pages - place->n_device,
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
    int r = wait_for_swaps(g, err);
    if (r == 0)
        vk_cmd_begin(g->kv.cmd);
    return r;
}

static void plan_swaps(struct vk_program *g)
{
    struct kv_place *p = &g->kv.place;
    kv_place_begin(p);
    for (uint32_t i = 0; i < g->batch->n_seqs; i++) {
        const struct batch_seq *s = &g->batch->seq[i];
        uint32_t end = DIV_UP(s->pos0 + s->n_rows, KV_BLOCK_TOKENS);
        for (uint32_t b = s->pos0 / KV_BLOCK_TOKENS; b < end; b++)
            for (uint32_t layer = 0; layer < g->kv.layout.n_layers; layer++)
                kv_place_write(p, layer * g->kv.n_blocks + s->block[b],
                               b * KV_BLOCK_TOKENS >= s->pos0);
    }
    kv_place_plan(p);
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

int vk_kv_step_begin(struct vk_program *g, struct err *err)
{
    struct vk_kv *kv = &g->kv;
    struct kv_place *p = &kv->place;
    if (!is_tracked(kv))
        return 0;
    plan_swaps(g);
    int r = p->n_out + p->n_in > 0 ? run_swaps(g, err) : 0;
    if (r) {
        kv_place_undo(p);
        return r;
    }
    for (uint32_t i = 0; i < p->n_swaps; i++) {
        write_page(kv, p->swap[i].page);
        write_page(kv, p->swap[i].victim);
    }
    return 0;
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

struct vk_use vk_kv_used(const struct vk_program *g, uint32_t layer)
{
    size_t bytes = g->kv.n_blocks * sizeof(uint16_t);
    if (!is_tracked(&g->kv))
        return (struct vk_use){0};
    return (struct vk_use){ g->kv.used.addr + layer * bytes, bytes, true };
}

// Blocks that a sequence's rows read without a choice: [0, n_sink) and [first, end).
struct reach { uint32_t n_sink, first, end; };

static struct reach reach_of(const struct batch_seq *s, uint32_t window)
{
    struct reach r = { .first = UINT32_MAX };
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
    struct reach r = reach_of(s, g->attn->class[class].window);
    for (uint32_t i = 0; r.end > 0 && i < g->plan->n_ops; i++) {
        const struct vk_op *o = &g->op[i];
        if (o->op->kind != OP_ATTN || o->attn_class != class)
            continue;
        uint16_t *layer = used + (size_t)o->op->layer * g->kv.n_blocks;
        mark(layer, s->block, 0, r.n_sink);
        mark(layer, s->block, r.first, r.end);
    }
}

static void count_reads(struct kv_place *p, const uint16_t *used)
{
    for (uint32_t i = 0; i < p->n_pages; i += MARKS) {
        uint64_t word;
        memcpy(&word, used + i, sizeof(word));
        for (uint32_t k = i; word && k < MIN(i + MARKS, p->n_pages); k++)
            if (used[k])
                kv_place_read(p, k);
    }
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
    count_reads(&kv->place, used);
}
