// Group commits: data is made durable, then one transaction of the index names it.
//
// A group is filled by the store's thread while the committer works on the one before. Its order is
// fixed: new segment file, fdatasync of every segment with new blocks, the transaction, and removal
// of segment files that nothing names any more. A failed sync is never tried again: the kernel may
// have forgotten what it did not write. Blocks of that segment which are not committed are given
// up, and nothing new goes into it.
#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include "base/clock.h"
#include "kvstore/store.h"

#define RETRY_PAUSE_NS (NS_PER_S / 2)   // after a transaction failed
#define HOLD_NS_MAX (NS_PER_S / 20)

// ---- the committer -----------------------------------------------------------------------------

// Segments of the group that have yet to be synced, each once. Returns how many.
static uint32_t find_unsynced(const struct group *g, struct disk_sync *ret)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < g->n && n < SYNCS_MAX; i++) {
        uint32_t k = 0;
        while (k < n && ret[k].file != g->change[i].file)
            k++;
        if (g->ref[i].sync && !g->ref[i].synced && k == n)
            ret[n++].file = g->change[i].file;
    }
    return n;
}

static void take_sync(struct group *g, const struct disk_sync *s)
{
    g->sync_errors += s->result != 0;
    for (uint32_t i = 0; i < g->n; i++) {
        if (!g->ref[i].sync || g->change[i].file != s->file)
            continue;
        g->ref[i].synced = true;
        g->ref[i].result = s->result ? -EIO : 0;
        g->change[i].skip = s->result && g->ref[i].kind == REF_BLOCK;
    }
}

static void sync_segments(struct committer *c, struct group *g)
{
    struct disk_sync s[SYNCS_MAX];
    uint32_t n;
    while ((n = find_unsynced(g, s)) > 0) {
        c->disk->ops->sync(c->disk, s, n);
        for (uint32_t i = 0; i < n; i++)
            take_sync(g, &s[i]);
    }
}

static void make_file(struct committer *c, struct group *g)
{
    char name[SEGMENT_NAME_MAX];
    segment_name(name, g->made.id, g->made.slot_bytes);
    uint64_t bytes = g->made.bytes;
    g->make_result = c->disk->ops->file_open(c->disk, g->made.number, name, true, &bytes);
}

static void drop_files(struct committer *c, struct group *g)
{
    char name[SEGMENT_NAME_MAX];
    for (uint32_t i = 0; i < g->n_drop; i++) {
        segment_name(name, g->drop[i].id, g->drop[i].slot_bytes);
        c->disk->ops->file_close(c->disk, g->drop[i].number);
        c->disk->ops->file_remove(c->disk, name);       // if not, it is found at the next start
    }
}

static void read_records(struct committer *c, struct group *g)
{
    for (struct kv_io *io = g->reads; io; io = io->priv.next)
        io->priv.status = c->index->ops->read_named(c->index, io->name, io->buf, io->bytes,
                                                    &io->value_bytes);
}

// Some of a group's changes with its counters, which are the last of them.
static int commit_some(struct committer *c, struct group *g, uint32_t first, uint32_t end)
{
    struct index_change kept = g->change[end];
    g->change[end] = g->change[g->n - 1];
    int r = c->index->ops->commit(c->index, g->change + first, end - first + 1);
    g->change[end] = kept;
    return r;
}

static void refuse_growth(struct group *g, uint32_t first)
{
    for (uint32_t i = first; i < g->n - 1; i++) {
        enum index_change_kind kind = g->change[i].kind;
        if (g->change[i].skip || (kind != INDEX_BLOCK && kind != INDEX_NAMED))
            continue;
        g->change[i].skip = true;
        g->ref[i].commit_result = -ENOSPC;
    }
}

// A full index takes what it can: what it refuses is tried by halves, in its order, until a single
// change does not fit. From there on it takes only what makes it smaller.
static void commit_changes(struct committer *c, struct group *g)
{
    uint32_t n = g->n - 1, step = n;
    for (uint32_t at = 0, end; at < n; at = end) {
        end = MIN(at + step, n);
        int r = commit_some(c, g, at, end);
        if (r == -ENOSPC && end - at > 1) {
            step = (end - at) / 2;
            end = at;
            continue;
        }
        for (uint32_t i = at; i < end; i++)
            if (!g->ref[i].commit_result)
                g->ref[i].commit_result = r;
        if (r && g->result != -EIO)
            g->result = r;
        if (r == -ENOSPC && step < n) {
            refuse_growth(g, end);
            step = n;
        }
    }
}

static void do_group(struct committer *c, struct group *g)
{
    uint64_t begin = clock_now_ns();
    read_records(c, g);
    if (g->make)
        make_file(c, g);
    sync_segments(c, g);
    if (g->n)
        commit_changes(c, g);
    drop_files(c, g);
    g->index_bytes = c->index->ops->bytes(c->index);
    g->index_written = c->index->ops->written(c->index);
    g->took_ns = clock_now_ns() - begin;
}

static void *committer_main(void *arg)
{
    struct committer *c = arg;
    pthread_mutex_lock(&c->lock);
    for (;;) {
        while (!c->quit && !(c->job && !c->is_done))
            pthread_cond_wait(&c->work, &c->lock);
        if (c->quit)
            break;
        struct group *g = c->job;
        pthread_mutex_unlock(&c->lock);
        do_group(c, g);
        pthread_mutex_lock(&c->lock);
        c->is_done = true;
        eventfd_write(c->eventfd, 1);
    }
    pthread_mutex_unlock(&c->lock);
    return NULL;
}

int committer_start(struct committer *c, int eventfd, bool threaded)
{
    c->eventfd = eventfd;
    pthread_mutex_init(&c->lock, NULL);
    pthread_cond_init(&c->work, NULL);
    int r = threaded ? -disk_thread(&c->thread, committer_main, c) : 0;
    c->threaded = threaded && r == 0;
    return r;
}

void committer_stop(struct committer *c)
{
    if (c->threaded) {
        pthread_mutex_lock(&c->lock);
        c->quit = true;
        pthread_cond_signal(&c->work);
        pthread_mutex_unlock(&c->lock);
        pthread_join(c->thread, NULL);
    }
    c->threaded = false;
    pthread_cond_destroy(&c->work);
    pthread_mutex_destroy(&c->lock);
}

static void start_job(struct committer *c, struct group *g)
{
    pthread_mutex_lock(&c->lock);
    assert(!c->job);
    c->job = g;
    c->is_done = c->was_asked = false;
    pthread_cond_signal(&c->work);
    pthread_mutex_unlock(&c->lock);
}

// Without a thread the work is done here, when it is asked for a second time: as beside a thread,
// requests end between the filling of a group and its sync.
static struct group *take_result(struct committer *c)
{
    if (!c->threaded && c->job) {
        c->is_done = c->was_asked;
        c->was_asked = true;
        if (c->is_done)
            do_group(c, c->job);
    }
    pthread_mutex_lock(&c->lock);
    struct group *g = c->is_done ? c->job : NULL;
    if (g) {
        c->job = NULL;
        c->is_done = false;
    }
    pthread_mutex_unlock(&c->lock);
    return g;
}

// ---- filling a group ---------------------------------------------------------------------------

void commit_entry(struct kv_store *s, struct entry *e)
{
    uint32_t number = entry_number(&s->table, e);
    assert(!e->in_use_list);
    e->use_next = NO_ENTRY;
    if (s->commit_first == NO_ENTRY)
        s->commit_first = number;
    else
        s->table.entry[s->commit_last].use_next = number;
    s->commit_last = number;
    s->n_to_commit++;
    s->is_urgent |= e->state != ENTRY_DYING || e->puts || e->wiped;
}

static struct entry *take_entry(struct kv_store *s)
{
    if (s->commit_first == NO_ENTRY)
        return NULL;
    struct entry *e = &s->table.entry[s->commit_first];
    s->commit_first = e->use_next;
    s->n_to_commit--;
    return e;
}

static struct index_change *add_change(struct group *g, enum index_change_kind kind,
                                       enum change_ref_kind ref, uint32_t entry, struct kv_io *io)
{
    assert(g->n < GROUP_MAX);
    struct index_change *c = &g->change[g->n];
    *c = (struct index_change){.kind = kind};
    g->ref[g->n++] = (struct change_ref){.kind = ref, .entry = entry, .io = io};
    return c;
}

static void add_block(struct group *g, struct kv_store *s, const struct entry *e,
                      enum change_ref_kind ref)
{
    struct index_change *c = add_change(g, INDEX_BLOCK, ref, entry_number(&s->table, e), NULL);
    g->ref[g->n - 1].sync = ref == REF_BLOCK;
    c->key = e->key;
    c->file = e->segment;
    c->block = (struct index_block){.segment = s->segments.segment[e->segment].id, .slot = e->slot,
                                    .bytes = e->bytes, .generation = e->generation,
                                    .sum = e->sum, .last_use = e->last_use,
                                    .expires_s = e->expires_s,
                                    .flags = e->unproven ? INDEX_UNPROVEN : 0};
}

bool commit_use(struct kv_store *s, const struct entry *e)
{
    if (s->filling->n >= GROUP_MAX / 2 || s->index_broken)
        return false;
    add_block(s->filling, s, e, REF_USE);
    return true;
}

static void add_forget(struct group *g, struct kv_store *s, const struct entry *e)
{
    struct index_change *c = add_change(g, INDEX_FORGET, REF_FORGET, entry_number(&s->table, e),
                                        NULL);
    g->ref[g->n - 1].sync = e->wiped;
    c->block = (struct index_block){.segment = s->segments.segment[e->segment].id, .slot = e->slot,
                                    .generation = e->generation};
    c->file = e->segment;
}

static void add_entries(struct kv_store *s, struct group *g)
{
    struct entry *e;
    while (g->n < GROUP_MAX - 1 && (e = take_entry(s))) {
        if (e->state == ENTRY_DYING) {
            add_forget(g, s, e);
        } else if (s->segments.segment[e->segment].sealed) {
            block_quarantine(s, e);     // a sync failed while it was written
            op_put_done(s, e, -EIO);
        } else {
            add_block(g, s, e, REF_BLOCK);
        }
    }
}

static void add_records(struct kv_store *s, struct group *g)
{
    struct kv_io *io;
    while (g->n < GROUP_MAX - 1 && (io = io_list_take(&s->record_changes)))
        record_fill(add_change(g, INDEX_NAMED, REF_RECORD, NO_ENTRY, io), io);
}

static void add_drops(struct kv_store *s, struct group *g)
{
    for (uint32_t i = 0; s->n_draining && i < s->segments.n_max && g->n_drop < DROPS_MAX; i++) {
        struct segment *x = &s->segments.segment[i];
        if (x->state != SEGMENT_DRAINING || x->n_free != x->n_slots)
            continue;
        x->state = SEGMENT_DROPPING;
        g->drop[g->n_drop++] = (struct segment_file){i, x->id, x->slot_bytes, x->bytes};
    }
}

void commit_add_meta(struct kv_store *s)
{
    struct index_change *c = add_change(s->filling, INDEX_META, REF_NOTHING, NO_ENTRY, NULL);
    c->meta = (struct index_meta){.generation = s->generation, .use_clock = s->use_clock,
                                  .time_s = s->time_s, .wear_day = s->wear_day,
                                  .wear_bytes = s->wear_bytes, .written_bytes = s->written_bytes,
                                  .segment_id = s->segments.next_id};
    memcpy(c->meta.uuid, s->uuid, UUID_BYTES);
}

// Nothing can be committed any more: what waits is told so, and dying blocks keep their slots.
static void give_up(struct kv_store *s)
{
    struct kv_io *io;
    struct entry *e;
    while ((io = io_list_take(&s->record_changes)))
        record_changed(s, io, -EIO);
    while ((e = take_entry(s))) {
        if (e->state == ENTRY_DYING) {
            op_forgotten(s, e, -EIO, false);
            continue;
        }
        block_quarantine(s, e);
        op_put_done(s, e, -EIO);
    }
}

// Evicted blocks alone are no reason for a commit of their own while puts are under way that will
// bring one, and have room. And a commit costs the same few flushes for many blocks as for one,
// while a disk that flushes writes little: so a group waits for the puts that are being written,
// but not for longer than the last commit took.
static bool may_wait(struct kv_store *s)
{
    const struct group *g = s->filling;
    if (s->index_broken || s->record_changes.first || s->record_reads.first || s->n_draining)
        return false;
    if (!s->is_urgent && !s->room.first && s->n_changing && !g->n && !g->make)
        return true;
    uint64_t now = store_now_ns(s), most = MIN(s->commit_took_ns, HOLD_NS_MAX);
    if (!s->held_since_ns)
        s->held_since_ns = now;
    return s->n_writing && s->n_to_commit < GROUP_MAX / 2 && now - s->held_since_ns < most;
}

static void fill_and_start(struct kv_store *s)
{
    struct group *g = s->filling;
    if (may_wait(s))
        return;
    s->held_since_ns = 0;
    if (s->index_broken)
        give_up(s);
    add_entries(s, g);
    s->is_urgent = s->n_to_commit > 0;  // the group is full
    add_records(s, g);
    add_drops(s, g);
    g->reads = s->record_reads.first;
    io_list_init(&s->record_reads);
    if (!g->n && !g->make && !g->n_drop && !g->reads)
        return;
    if (g->n)
        commit_add_meta(s);
    s->filling = s->other;
    s->other = g;
    s->is_committing = true;
    start_job(&s->committer, g);
}

// ---- results -----------------------------------------------------------------------------------

static void take_change(struct kv_store *s, const struct group *g, uint32_t i)
{
    const struct change_ref *ref = &g->ref[i];
    struct entry *e = ref->entry == NO_ENTRY ? NULL : &s->table.entry[ref->entry];
    int r = ref->result ? ref->result : ref->commit_result;
    if (ref->result)                    // the sync failed, also for what was written meanwhile
        segment_seal(&s->segments, e->segment);
    switch (ref->kind) {
    case REF_BLOCK:
        if (ref->result) {              // so the index does not name it
            block_quarantine(s, e);
        } else if (r == -ENOSPC) {      // nothing was written
            block_hide(s, e);
            e->forgotten = true;
        } else if (r) {                 // it may be named or not
            block_hide(s, e);
            commit_entry(s, e);
        }
        op_put_done(s, e, r == 0 || r == -ENOSPC ? r : -EIO);
        break;
    case REF_FORGET:
        op_forgotten(s, e, r ? -EIO : 0, ref->commit_result == 0);
        break;
    case REF_RECORD: record_changed(s, ref->io, r); break;
    case REF_USE:
    case REF_NOTHING: break;
    }
}

static void count_commit(struct kv_store *s, const struct group *g)
{
    s->stats.sync_errors += g->sync_errors;
    s->stats.commit_errors += g->result != 0;
    s->stats.commits += g->n > 0 && g->result == 0;
    s->stats.committed += g->result == 0 ? g->n : 0;
    s->stats.commit_ns += g->took_ns;
    s->stats.commit_ns_max = MAX(s->stats.commit_ns_max, g->took_ns);
    s->stats.index_bytes = g->index_bytes;
    count_wear(s, g->index_written - s->stats.index_written_bytes);
    s->stats.index_written_bytes = g->index_written;
    if (g->result && g->result != -ENOSPC) {
        s->index_broken = true;
        s->stats.degraded = true;
    }
    if (g->sync_errors || g->result)
        count_failure(s);
    if (g->result)
        s->commit_after_ns = store_now_ns(s) + RETRY_PAUSE_NS;
}

static void take_group(struct kv_store *s, struct group *g)
{
    struct kv_io *next;
    s->is_committing = false;
    s->commit_took_ns = g->took_ns;
    count_commit(s, g);
    for (struct kv_io *io = g->reads; io; io = next) {
        next = io->priv.next;
        io_end(s, io, io->priv.status);
    }
    if (g->make)
        room_made(s, &g->made, g->make_result);
    for (uint32_t i = 0; i < g->n; i++)
        take_change(s, g, i);
    for (uint32_t i = 0; i < g->n_drop; i++) {
        s->n_draining--;
        room_dropped(s, &g->drop[i]);
    }
    g->n = g->n_drop = 0;
    g->make = false;
    g->reads = NULL;
    g->sync_errors = 0;
    g->result = 0;
}

void commit_poll(struct kv_store *s)
{
    if (s->is_committing) {
        struct group *g = take_result(&s->committer);
        if (!g)
            return;
        take_group(s, g);
        // Whose puts have ended may have more, once they are told.
        if (s->done.first && !s->is_urgent && !s->room.first && s->eventfd >= 0) {
            eventfd_write(s->eventfd, 1);
            return;
        }
    }
    if (store_now_ns(s) >= s->commit_after_ns)
        fill_and_start(s);
}

bool commit_is_idle(const struct kv_store *s)
{
    return !s->is_committing && !s->n_to_commit && !s->record_changes.first &&
           !s->record_reads.first && !s->filling->n && !s->filling->make;
}
