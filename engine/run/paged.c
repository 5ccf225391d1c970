// See paged.h.
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "engine/exec/mem.h"
#include "engine/run/paged.h"
#include "engine/run/stored.h"
#include "kvstore/kvstore.h"
#include "base/clock.h"

#define FETCHES 64                      // pages under way; more do not make a disk faster
#define FETCHES_FAULTS 16               // of which prefetches leave so many
#define STALL_PART 4                    // of the goal for a step, when others are in it too
#define STALL_FOREVER_NS (3600 * NS_PER_S)
#define HELD_NS (50 * NS_PER_MS)        // then a sequence goes on, whatever is under way for others
#define PATIENCE 3                      // void steps; then all wait
// Blocks of which memory keeps this part for pages that are read, while any can leave it.
#define CLEAN_PART 4
#define LOST_MAX 20                    // blocks of a sequence
#define RETRY_NS NS_PER_S
#define RETRIES 3
#define EVICT_BLOCKS 16                 // cached ones given up at a time
#define STORE_PART(bytes) ((bytes) / 100 * 85)  // the rest: headers, index, what is being replaced
#define HEADER_BYTES (2 * KV_UNIT_BYTES)
#define DIGESTS_PART 8                  // of the machine's memory at most

enum block_state { UNUSED, DIRTY, BACKED };

struct fetch {
    struct kv_io  io;
    struct paged *paged;
    uint32_t      block, layer, skip_bytes;     // before the page begins in the buffer
    bool          busy, stale;
};

struct paged {
    struct kv_disk   disk;
    struct engine   *e;
    struct kv_store *store;             // borrowed
    uint64_t         memory_blocks;     // whose pages there is room for
    struct fetch     fetch[FETCHES];
    uint8_t         *buffers;           // (FETCHES, buffer_bytes), owned
    size_t           buffer_bytes;
    uint32_t         n_busy;
    uint8_t         *state;             // (kv_blocks) enum block_state, owned
    uint32_t         n_dirty, n_backed; // blocks
    uint32_t         n_held;            // sequences
    uint64_t         held_until_ns;
    uint64_t         retry_ns;          // when the store may be asked again
    uint32_t         retries;           // without any success
    struct engine_paging count;
};

// ---- fetching ---------------------------------------------------------------------------------

static struct fetch *find_idle(struct paged *p)
{
    for (uint32_t i = 0; i < FETCHES; i++)
        if (!p->fetch[i].busy)
            return &p->fetch[i];
    return NULL;
}

static void fetch_done(struct kv_io *io)
{
    struct fetch *f = container_of(io, struct fetch, io);
    struct paged *p = f->paged;
    const uint8_t *page = (const uint8_t *)io->buf + f->skip_bytes;
    f->busy = false;
    p->n_busy--;
    if (f->stale)
        return;
    p->count.fetched_pages += io->result == 0;
    p->count.fetched_bytes += io->result == 0 ? io->bytes : 0;
    p->count.lost_pages += io->result < 0;
    p->disk.arrived(p->disk.arrived_ctx, f->block, f->layer, io->result < 0 ? NULL : page);
}

static bool fetch_page(struct kv_disk *d, uint32_t block, uint32_t layer, bool prefetch)
{
    struct paged *p = container_of(d, struct paged, disk);
    const struct kv_layout *l = &p->e->layout;
    const struct hash *key = kv_pool_key(p->e->pool, block);
    struct fetch *f = p->n_busy + (prefetch ? FETCHES_FAULTS : 0) < FETCHES ? find_idle(p) : NULL;
    if (!f)
        return false;
    assert(p->state[block] == BACKED && key);
    size_t begin = kv_page_offset(l, layer), end = begin + l->page_bytes;
    size_t offset = begin / KV_UNIT_BYTES * KV_UNIT_BYTES;
    f->block = block;
    f->layer = layer;
    f->skip_bytes = (uint32_t)(begin - offset);
    f->busy = true;
    f->stale = false;
    p->n_busy++;
    f->io = (struct kv_io){
        .kind = KV_IO_GET, .priority = prefetch ? KV_PREFETCH : KV_FAULT, .key = *key,
        .buf = p->buffers + (size_t)(f - p->fetch) * p->buffer_bytes, .offset_bytes = offset,
        .bytes = (uint32_t)(ALIGN_UP(end, (size_t)KV_UNIT_BYTES) - offset), .done = fetch_done,
    };
    kv_store_submit(p->store, &f->io);
    return true;
}

static void poll_store(struct kv_disk *d)
{
    kv_store_poll(container_of(d, struct paged, disk)->store, 0);
}

static void let_go(struct paged *p, uint32_t block)
{
    for (uint32_t i = 0; i < FETCHES; i++) {
        struct fetch *f = &p->fetch[i];
        if (f->busy && f->block == block) {
            f->stale = true;
            kv_store_cancel(p->store, &f->io);
        }
    }
}

// ---- opening ----------------------------------------------------------------------------------

int paged_create(struct paged **ret, struct engine *e, uint64_t memory_bytes, struct err *err)
{
    const struct kv_layout *l = &e->layout;
    struct paged *p = calloc(1, sizeof *p);
    if (!p)
        return err_set(err, -ENOMEM, "no memory for paging");
    p->e = e;
    p->disk = (struct kv_disk){.fetch = fetch_page, .poll = poll_store, .fd = -1};
    p->memory_blocks = memory_bytes / ((uint64_t)l->n_layers * l->page_bytes);
    p->buffer_bytes = ALIGN_UP(l->page_bytes, (size_t)KV_UNIT_BYTES) + KV_UNIT_BYTES;
    p->buffers = aligned_alloc(KV_UNIT_BYTES, FETCHES * p->buffer_bytes);
    if (!p->buffers) {
        paged_destroy(p);
        return err_set(err, -ENOMEM, "no memory for paging");
    }
    memset(p->buffers, 0, FETCHES * p->buffer_bytes);
    for (uint32_t i = 0; i < FETCHES; i++)
        p->fetch[i].paged = p;
    e->x->ops->kv_page(e->prog, &p->disk, memory_bytes);
    *ret = p;
    return 0;
}

void paged_destroy(struct paged *p)
{
    if (!p || p->n_busy > 0)            // what the disk never ended may still be written to
        return;
    free(p->buffers);
    free(p->state);
    free(p);
}

uint64_t paged_blocks(const struct paged *p, uint64_t store_bytes)
{
    const struct kv_layout *l = &p->e->layout;
    uint64_t stored = STORE_PART(store_bytes) / (l->block_bytes + HEADER_BYTES);
    uint64_t digests = mem_machine_bytes() / DIGESTS_PART / l->digest_bytes;
    return MAX(p->memory_blocks, MIN(stored, digests));
}

void *paged_buffers(const struct paged *p, uint64_t *bytes)
{
    *bytes = FETCHES * p->buffer_bytes;
    return p->buffers;
}

static void block_gone(void *paged, uint32_t block, const struct hash *key, bool used);

int paged_start(struct paged *p, struct kv_store *store, struct err *err)
{
    p->state = calloc(p->e->info.kv_blocks, sizeof *p->state);
    if (!p->state)
        return err_set(err, -ENOMEM, "no memory for paging");
    p->store = store;
    p->disk.fd = kv_store_fd(store);
    kv_pool_watch(p->e->pool, block_gone, p);
    return 0;
}

// ---- blocks -----------------------------------------------------------------------------------

static void set_state(struct paged *p, uint32_t block, enum block_state to)
{
    p->n_dirty -= p->state[block] == DIRTY;
    p->n_dirty += to == DIRTY;
    p->n_backed -= p->state[block] == BACKED;
    p->n_backed += to == BACKED;
    p->state[block] = (uint8_t)to;
}

// A dirty block that lost its key stays in memory while somebody uses it.
static void block_gone(void *paged, uint32_t block, const struct hash *key, bool used)
{
    struct paged *p = paged;
    enum block_state was = p->state[block];
    if (was == UNUSED || (was == DIRTY && used))
        return;
    if (was == BACKED) {
        assert(key);
        kv_store_release(p->store, key);
        let_go(p, block);
    }
    set_state(p, block, UNUSED);
    p->e->x->ops->kv_backed(p->e->prog, block, false);
}

uint64_t paged_memory_blocks(const struct paged *p) { return p->memory_blocks; }

static uint32_t room_of(const struct paged *p)
{
    uint64_t most = p->memory_blocks - MIN(p->n_backed, p->memory_blocks / CLEAN_PART);
    return most > p->n_dirty ? (uint32_t)MIN(most - p->n_dirty, UINT32_MAX) : 0;
}

uint32_t paged_room(void *paged) { return room_of(paged); }

void paged_write(struct paged *p, uint32_t block)
{
    if (p && p->state[block] == UNUSED)
        set_state(p, block, DIRTY);
}

bool paged_is_dirty(const struct paged *p, uint32_t block)
{
    return !p || p->state[block] == DIRTY;
}

void paged_stored(struct paged *p, uint32_t block, const struct hash *key)
{
    if (!p || block == KV_BLOCK_NONE || p->state[block] != DIRTY ||
        !kv_pool_has(p->e->pool, block, key) || !kv_store_hold(p->store, key))
        return;
    p->retries = 0;
    set_state(p, block, BACKED);
    p->e->x->ops->kv_backed(p->e->prog, block, true);
}

bool paged_adopt(struct paged *p, uint32_t block, const struct hash *key)
{
    assert(p->state[block] == UNUSED);
    if (!kv_store_hold(p->store, key))
        return false;
    set_state(p, block, BACKED);
    return true;
}

bool paged_by_index(const struct paged *p, const struct attn_policy *attn, uint32_t n_blocks)
{
    uint32_t pos = n_blocks * KV_BLOCK_TOKENS;
    bool chooses = attn->selector == SELECT_topk &&
                   2 * topk_split_for(attn, pos).chosen < n_blocks;
    return p && (chooses || n_blocks > room_of(p));
}

// ---- steps ------------------------------------------------------------------------------------

uint64_t paged_stall_ns(const struct paged *p, const struct sched_step *t)
{
    if (!p || t->n_items == 1)
        return STALL_FOREVER_NS;
    for (uint32_t i = 0; i < t->n_items; i++)
        if (t->item[i].seq->n_missed >= PATIENCE)
            return STALL_FOREVER_NS;
    return p->e->limits.max_step_ns / STALL_PART;
}

static void hold(struct paged *p, struct sequence *q)
{
    q->held = true;
    q->n_missed++;
    if (p->n_held++ == 0)
        p->held_until_ns = clock_now_ns() + HELD_NS;
    p->count.missed++;
}

// Nothing is believed of a block that cannot be read, and who has it begins anew.
static void lose(struct paged *p, struct sequence *q, uint32_t index)
{
    assert(index < q->table.n_blocks);
    p->count.lost_blocks++;
    q->n_lost++;
    stored_drop(p->e->stored, q->table.block[index]);
    kv_pool_forget(p->e->pool, q->table.block[index]);
    sched_restart(p->e->sched, q);
}

bool paged_is_hopeless(const struct sequence *q) { return q->n_lost > LOST_MAX; }

static void count_use(struct job *j, const struct batch_seq *s, const struct kv_layout *l)
{
    j->usage.page_faults += s->faults;
    j->usage.page_bytes += (uint64_t)s->faults * l->page_bytes;
    j->usage.page_wait_ns += s->wait_ns;
}

bool paged_step_end(struct paged *p, const struct sched_step *t, uint64_t *wait_ns)
{
    bool whole = true;
    *wait_ns = 0;
    for (uint32_t i = 0; p && i < t->n_items; i++) {
        struct sequence *q = t->item[i].seq;
        const struct batch_seq *s = &p->e->batch_seq[i];
        count_use(container_of(q, struct job, seq), s, &p->e->layout);
        *wait_ns = MAX(*wait_ns, s->wait_ns);
        whole &= !s->missed;
        t->item[i].missed = s->missed;
        if (!s->missed)
            q->n_missed = 0;
        else if (s->lost == KV_BLOCK_LOST_NONE)
            hold(p, q);
        else
            lose(p, q, s->lost);
    }
    return whole;
}

void paged_turn(struct paged *p)
{
    if (!p || p->n_held == 0 || (p->n_busy > 0 && clock_now_ns() < p->held_until_ns))
        return;
    for (struct job *j = p->e->jobs; j; j = j->next)
        j->seq.held = false;
    p->n_held = 0;
}

// ---- when nothing goes on ---------------------------------------------------------------------

static bool is_anyone_loading(const struct paged *p)
{
    for (const struct job *j = p->e->jobs; j; j = j->next)
        if (j->seq.state == SEQ_LOADING)
            return true;
    return false;
}

// The youngest makes room for the others; the last one that is left has too little memory.
static bool make_way(struct paged *p)
{
    struct err err;
    if (sched_yield_youngest(p->e->sched))
        return true;
    struct job *j = p->e->jobs;
    while (j && j->seq.table.n_blocks == 0)
        j = j->next;
    if (!j)
        return false;
    err_set(&err, -ENOSPC, "the KV store takes no more blocks, and memory for %llu is full",
            (unsigned long long)p->memory_blocks);
    job_end(p->e, j, FINISH_ERROR, &err);
    return true;
}

void paged_rescue(struct paged *p, void (*retry)(void *ctx, uint32_t block), void *ctx)
{
    uint64_t now = clock_now_ns();
    if (!p || !p->e->starved || p->n_held > 0 || paged_room(p) > 0 || now < p->retry_ns ||
        is_anyone_loading(p))
        return;
    uint32_t n = 0;
    while (n < EVICT_BLOCKS && kv_pool_evict(p->e->pool))
        n++;
    if (n > 0 && paged_room(p) > 0)
        return;
    p->retry_ns = now + RETRY_NS;
    if (p->retries++ >= RETRIES && make_way(p))
        return;
    for (uint32_t b = 0; b < p->e->info.kv_blocks; b++)
        if (p->state[b] == DIRTY && kv_pool_key(p->e->pool, b))
            retry(ctx, b);
}

void paged_stats(const struct paged *p, struct engine_paging *ret)
{
    if (!p)
        return;
    *ret = p->count;
    ret->on = true;
    ret->dirty_blocks = p->n_dirty;
    p->e->x->ops->kv_page_stats(p->e->prog, &ret->pages);
}
