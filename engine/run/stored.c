// See stored.h.
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "engine/run/paged.h"
#include "engine/run/stored.h"
#include "kvstore/kvstore.h"
#include "base/clock.h"

#define CAPACITY_DEFAULT (UINT64_C(16) << 30)
#define BUFFERS_BYTES (UINT64_C(256) << 20)     // of memory for buffers, as far as the limits let
#define BUFFERS_MIN 4
#define BUFFERS_MAX 64
#define QUEUE_MAX 65536                 // blocks noted, not yet copied
// A load may take as long as computing the same tokens, and never less than this.
#define LATE_NS NS_PER_S
// A simulated store has no descriptor to wait for.
#define SIM_WAIT_NS (NS_PER_MS / 2)

enum transfer_state { IDLE, WRITING, READING, READ /* its sequence has not taken it yet */ };

struct transfer {
    struct kv_io        io;
    enum transfer_state state;
    struct stored      *stored;
    struct job         *job;            // READING, READ: who wants it; NULL: nobody any more
    uint32_t            index;          // of the block in that sequence
};

struct noted { struct hash key; uint32_t block; };

struct stored {
    struct engine       *e;
    struct kv_store     *store;
    struct transfer     *transfer;      // (n_transfers), each with a buffer for life
    uint32_t             n_transfers, n_writing;
    uint32_t             io_bytes, digest_bytes;    // of a block, of its digests, in whole units
    struct noted        *noted;         // (queue_max) ring
    uint32_t             queue_max, noted_first, n_noted;
    uint64_t             n_noted_ever;
    bool                 is_sim;
    struct engine_store  count;
};

// ---- opening ----

static uint32_t count_buffers(uint32_t io_bytes)
{
    return (uint32_t)CLAMP(BUFFERS_BYTES / io_bytes, BUFFERS_MIN, BUFFERS_MAX);
}

bool stored_wanted(const struct engine_params *p) { return p->kv_store || p->kv_store_sim; }

uint64_t stored_capacity(const struct engine_params *p)
{
    return p->kv_store_bytes ? p->kv_store_bytes : CAPACITY_DEFAULT;
}

static int open_store(struct stored *s, const struct engine_params *p, struct err *err)
{
    size_t bytes = s->e->layout.block_bytes;
    if (bytes > KV_BLOCK_BYTES_MAX)
        return err_set(err, -EINVAL, "a KV block has %zu bytes, the store takes at most %u", bytes,
                       KV_BLOCK_BYTES_MAX);
    s->io_bytes = (uint32_t)ALIGN_UP(bytes, KV_UNIT_BYTES);
    s->digest_bytes = (uint32_t)ALIGN_UP(s->e->layout.digest_bytes, KV_UNIT_BYTES);
    s->n_transfers = count_buffers(s->io_bytes);
    struct kv_store_params kp = {
        .path = p->kv_store, .sim = p->kv_store_sim, .block_bytes_max = s->io_bytes,
        .capacity_bytes = stored_capacity(p),
        .write_bytes_per_day = p->kv_store_bytes_per_day, .buffers = s->n_transfers,
    };
    if (s->e->paged) {
        kp.memory = paged_buffers(s->e->paged, &kp.memory_bytes);
        kp.sums_bytes_max = (uint64_t)s->e->info.kv_blocks * (s->io_bytes / KV_UNIT_BYTES + 1) *
                            sizeof(uint64_t);
    }
    int r = kv_store_open(&s->store, &kp, err);
    if (r < 0)
        err_prefix(err, "kv-store %s", p->kv_store ? p->kv_store : "(simulated)");
    return r;
}

static void make_transfers(struct stored *s)
{
    for (uint32_t i = 0; i < s->n_transfers; i++) {
        struct transfer *t = &s->transfer[i];
        t->stored = s;
        t->io.buf = kv_store_buffer(s->store);
        assert(t->io.buf);
    }
}

int stored_open(struct stored **ret, struct engine *e, const struct engine_params *p,
                struct err *err)
{
    struct stored *s = calloc(1, sizeof *s);
    if (!s)
        return err_set(err, -ENOMEM, "no memory for a block store");
    s->e = e;
    s->is_sim = p->kv_store_sim != NULL;
    s->queue_max = MIN(e->info.kv_blocks, QUEUE_MAX);
    int r = open_store(s, p, err);
    if (r < 0)
        goto fail;
    s->transfer = calloc(s->n_transfers, sizeof *s->transfer);
    s->noted = calloc(s->queue_max, sizeof *s->noted);
    if (!s->transfer || !s->noted) {
        r = err_set(err, -ENOMEM, "no memory for a block store");
        goto fail;
    }
    make_transfers(s);
    if (e->paged)
        r = paged_start(e->paged, s->store, err);
    if (r < 0)
        goto fail;
    *ret = s;
    return 0;

fail:
    stored_close(s);
    return r;
}

void stored_close(struct stored *s)
{
    if (!s)
        return;
    kv_store_close(s->store);
    free(s->transfer);
    free(s->noted);
    free(s);
}

// ---- transfers ----

static struct transfer *find_idle(struct stored *s)
{
    for (uint32_t i = 0; i < s->n_transfers; i++)
        if (s->transfer[i].state == IDLE)
            return &s->transfer[i];
    return NULL;
}

static void read_done(struct kv_io *io)
{
    struct transfer *t = container_of(io, struct transfer, io);
    t->state = t->job ? READ : IDLE;
}

static void write_done(struct kv_io *io)
{
    struct transfer *t = container_of(io, struct transfer, io);
    struct engine *e = t->stored->e;
    struct engine_store *c = &t->stored->count;
    t->state = IDLE;
    t->stored->n_writing--;
    if (io->result == 0)                // by now another block may have the key
        paged_stored(e->paged, kv_pool_lookup(e->pool, &io->key), &io->key);
    c->written_blocks += io->result == 0;
    c->written_bytes += io->result == 0 ? io->bytes : 0;
    c->write_failures += io->result < 0;
}

static void submit(struct transfer *t, enum kv_io_kind kind, const struct hash *key,
                   uint32_t bytes)
{
    bool reads = kind == KV_IO_GET;
    t->state = reads ? READING : WRITING;
    t->io = (struct kv_io){
        .kind = kind, .priority = reads ? KV_RESTORE : KV_WRITE_BEHIND, .key = *key,
        .buf = t->io.buf, .bytes = bytes, .done = reads ? read_done : write_done,
    };
    kv_store_submit(t->stored->store, &t->io);
}

// ---- write-behind ----

bool stored_has(void *stored, const struct hash *key)
{
    const struct stored *s = stored;
    uint32_t bytes;
    return kv_store_has(s->store, key, &bytes) && bytes == s->io_bytes;
}

// What the store lost of a block whose pages may have left memory cannot be written again.
static void note(struct stored *s, const struct hash *key, uint32_t block)
{
    if (kv_store_has(s->store, key, NULL)) {
        kv_store_touch(s->store, key);
        paged_stored(s->e->paged, block, key);
    } else if (!paged_is_dirty(s->e->paged, block)) {
        return;
    } else if (s->n_noted == s->queue_max) {
        s->count.write_drops++;
    } else {
        uint32_t at = (s->noted_first + s->n_noted++) % s->queue_max;
        s->n_noted_ever++;
        s->noted[at] = (struct noted){*key, block};
    }
}

void stored_note(struct stored *s, const struct sequence *q, uint32_t first, uint32_t end)
{
    if (!s || !q->reuse)
        return;
    assert(end <= q->n_keys && end <= q->table.n_blocks);
    for (uint32_t i = first; i < end; i++)
        note(s, &q->key[i], q->table.block[i]);
}

void stored_put(struct stored *s, uint32_t block, const struct hash *key)
{
    if (s)
        note(s, key, block);
}

static struct noted take_noted(struct stored *s)
{
    struct noted n = s->noted[s->noted_first];
    s->noted_first = (s->noted_first + 1) % s->queue_max;
    s->n_noted--;
    return n;
}

// Writes leave half of the buffers to reads: requests wait for those.
static bool can_write(const struct stored *s)
{
    return s->n_noted > 0 && s->n_writing < s->n_transfers / 2;
}

// With zeros behind it, to the end of its last unit.
static void copy_block(struct stored *s, uint32_t block, uint8_t *buf)
{
    size_t bytes = s->e->layout.block_bytes;
    s->e->x->ops->kv_read(s->e->prog, block, buf);
    memset(buf + bytes, 0, s->io_bytes - bytes);
}

static void write_behind(struct stored *s)
{
    struct transfer *t;
    while (can_write(s) && (t = find_idle(s)) != NULL) {
        struct noted n = take_noted(s);
        if (kv_store_has(s->store, &n.key, NULL)) {
            paged_stored(s->e->paged, n.block, &n.key);
            continue;
        }
        if (!kv_pool_has(s->e->pool, n.block, &n.key) ||
            !paged_is_dirty(s->e->paged, n.block)) {
            s->count.write_drops++;
            continue;
        }
        copy_block(s, n.block, t->io.buf);
        s->n_writing++;
        submit(t, KV_IO_PUT, &n.key, s->io_bytes);
    }
}

static void delete_done(struct kv_io *io) { free(io); }

// Without memory a block stays that may be wrong, until it is evicted; then so does the request's
// error, which says why.
static void delete(struct stored *s, const struct hash *key)
{
    struct kv_io *io = kv_store_has(s->store, key, NULL) ? malloc(sizeof *io) : NULL;
    if (!io)
        return;
    *io = (struct kv_io){.kind = KV_IO_DELETE, .key = *key, .done = delete_done};
    kv_store_submit(s->store, io);
}

void stored_forget(struct stored *s, const struct sequence *q)
{
    uint32_t n = MIN(q->n_keys, q->n_computed / KV_BLOCK_TOKENS);
    for (uint32_t i = 0; s && i < n; i++)
        delete(s, &q->key[i]);
}

void stored_drop(struct stored *s, uint32_t block)
{
    const struct hash *key = kv_pool_key(s->e->pool, block);
    if (key)
        delete(s, key);
}

// ---- restore ----

void stored_leave(struct stored *s, struct job *j)
{
    if (!j->load.active)
        return;
    j->load.active = false;
    s->count.load_ns += clock_now_ns() - j->load.start_ns;
    for (uint32_t i = 0; i < s->n_transfers; i++) {
        struct transfer *t = &s->transfer[i];
        if (t->job != j)
            continue;
        t->job = NULL;
        if (t->state == READ)
            t->state = IDLE;
        else
            kv_store_cancel(s->store, &t->io);
    }
}

static void begin(struct stored *s, struct job *j)
{
    uint32_t pos = j->seq.n_computed;
    uint64_t now = clock_now_ns();
    uint64_t expected_ns = sched_expect_ns(s->e->sched, pos,
                                           j->seq.n_stored * KV_BLOCK_TOKENS - pos);
    j->load = (struct load){
        .active = true, .n_preempted = j->seq.n_preempted, .next = pos / KV_BLOCK_TOKENS,
        .by_index = paged_by_index(s->e->paged, &j->attn, j->seq.n_stored),
        .start_ns = now, .until_ns = now + MAX(LATE_NS, expected_ns),
    };
    s->count.loads++;
}

static void read_ahead(struct stored *s, struct job *j)
{
    struct transfer *t;
    while (j->load.next < j->seq.n_stored && (t = find_idle(s)) != NULL) {
        t->job = j;
        t->index = j->load.next++;
        submit(t, KV_IO_GET, &j->seq.key[t->index],
               j->load.by_index ? s->digest_bytes : s->io_bytes);
    }
}

static struct transfer *find_read(struct stored *s, const struct job *j, uint32_t index)
{
    for (uint32_t i = 0; i < s->n_transfers; i++) {
        struct transfer *t = &s->transfer[i];
        if (t->job == j && t->index == index && t->state == READ)
            return t;
    }
    return NULL;
}

// The content is in the pool, under its key. False: there is no room for it, or it is there already
// under another number, without which digests alone are of no use.
static bool put_block(struct stored *s, struct job *j, const struct transfer *t)
{
    struct engine *e = s->e;
    struct sequence *q = &j->seq;
    uint32_t block = q->table.block[t->index];
    if (j->load.by_index) {
        if (kv_pool_lookup(e->pool, &q->key[t->index]) != KV_BLOCK_NONE ||
            !paged_adopt(e->paged, block, &q->key[t->index]))
            return false;
        e->x->ops->kv_write_digests(e->prog, block, t->io.buf);
        sched_loaded(e->sched, q);
        return true;
    }
    if (e->paged && paged_room(e->paged) == 0)
        return false;
    paged_write(e->paged, block);
    e->x->ops->kv_write(e->prog, block, t->io.buf);
    sched_loaded(e->sched, q);
    paged_stored(e->paged, block, &q->key[t->index]);
    return true;
}

// Blocks go into the pool in order. False: the one whose turn it is could not be read.
static bool take_read(struct stored *s, struct job *j)
{
    struct sequence *q = &j->seq;
    struct transfer *t;
    while ((t = find_read(s, j, q->n_computed / KV_BLOCK_TOKENS)) != NULL) {
        if (t->io.result < 0 || !put_block(s, j, t))
            return false;
        s->count.read_blocks++;
        s->count.read_bytes += t->io.bytes;
        t->job = NULL;
        t->state = IDLE;
    }
    return true;
}

static void load(struct stored *s, struct job *j)
{
    if (!j->load.active)
        begin(s, j);
    bool ok = take_read(s, j), whole = j->seq.n_computed == j->seq.n_stored * KV_BLOCK_TOKENS;
    if (ok && !whole && clock_now_ns() < j->load.until_ns) {
        read_ahead(s, j);
        return;
    }
    s->count.read_failures += !whole;
    stored_leave(s, j);
    sched_load_end(&j->seq);
}

static bool has_left(const struct job *j)
{
    return j->seq.state != SEQ_LOADING || j->seq.n_preempted != j->load.n_preempted;
}

// The oldest first.
static void restore(struct stored *s)
{
    struct job *j = s->e->jobs;
    while (j && j->next)
        j = j->next;
    for (; j; j = j->prev) {
        if (j->load.active && has_left(j))
            stored_leave(s, j);
        if (j->seq.state == SEQ_LOADING)
            load(s, j);
    }
}

// ---- the engine thread's turn ----

static void note_again(void *stored, uint32_t block)
{
    struct stored *s = stored;
    note(s, kv_pool_key(s->e->pool, block), block);
}

void stored_turn(struct stored *s, bool lost)
{
    if (!s)
        return;
    if (lost)
        s->n_noted = 0;
    // Twice: the first polling takes what ended since the last turn, the second starts what was
    // asked for meanwhile. A store without any latency would go on for ever.
    for (unsigned i = 0; i < 2; i++) {
        kv_store_poll(s->store, 0);
        if (lost)
            continue;
        restore(s);
        write_behind(s);
    }
    if (lost)
        return;
    paged_turn(s->e->paged);
    if (s->n_noted + s->n_writing == 0)
        paged_rescue(s->e->paged, note_again, s);
}

uint64_t stored_wait_ns(const struct stored *s, uint64_t most_ns)
{
    return s && s->is_sim && !kv_store_idle(s->store) ? MIN(most_ns, SIM_WAIT_NS) : most_ns;
}

int stored_fd(const struct stored *s) { return s ? kv_store_fd(s->store) : -1; }

struct kv_store *stored_kv(struct stored *s) { return s->store; }

uint64_t stored_mark(const struct stored *s) { return s->n_noted_ever; }

bool stored_passed(const struct stored *s, uint64_t mark)
{
    return s->n_noted_ever - s->n_noted >= mark;
}

void stored_stats(const struct stored *s, struct engine_store *ret)
{
    struct kv_stats st;
    if (!s)
        return;
    kv_store_stats(s->store, &st);
    *ret = s->count;
    ret->on = true;
    ret->degraded = st.degraded;
    ret->capacity_bytes = st.capacity_bytes;
    ret->used_bytes = st.used_bytes;
    ret->blocks = st.blocks;
    ret->queued = s->n_noted + s->n_writing;
    ret->disk_written_bytes = st.disk_written_bytes + st.index_written_bytes;
    ret->disk_errors = st.read_errors + st.write_errors + st.sync_errors + st.commit_errors +
                       st.corrupt;
}
