// What a store finds when it opens: superblock, segment files, index. A damaged or missing index is
// rebuilt from the headers of the slots; records are lost with it.
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include "base/clock.h"
#include "kvstore/store.h"

#define SUPER_NAME "super"

struct by_id { uint32_t id, number; };

// A segment that is there and cannot be opened.
struct shut_segment { uint32_t id; int error; char name[SEGMENT_NAME_MAX]; };

struct place { uint32_t segment, slot; };

struct loading {
    struct kv_store *s;
    struct by_id    *by_id;             // (n_segments) ascending, owned
    uint32_t         n_segments;
    struct place    *lost;              // (n_lost) records of blocks that are not there, owned
    uint32_t         n_lost, n_lost_max;
    struct shut_segment *shut;          // (n_shut) owned
    uint32_t         n_shut;
    const struct shut_segment *wanted;  // the index has a block there
    int              segment_error;     // what opens no file at all
    bool             has_meta, is_other_store, out_of_memory;
    bool             has_strangers;     // names that no store has
};

// ---- superblock --------------------------------------------------------------------------------

static bool look_for_strangers(void *ctx, const char *name)
{
    struct loading *l = ctx;
    // A fresh file system has its own folder.
    l->has_strangers |= strcmp(name, "lock") != 0 && strcmp(name, SUPER_NAME ".new") != 0 &&
                        strcmp(name, "lost+found") != 0;
    return true;
}

int store_write_super(struct kv_store *s, struct err *err)
{
    uint8_t both[SUPER_FILE_BYTES];
    for (uint32_t i = 0; i < SUPER_COPIES; i++)
        super_encode(both + i * KV_UNIT_BYTES, s->uuid, s->time_s, i);
    int r = s->disk->ops->replace_file(s->disk, SUPER_NAME, both, sizeof(both));
    return r ? err_set(err, r, "%.300s/" SUPER_NAME ": %s", s->path, strerror(-r)) : 0;
}

static int create_super(struct kv_store *s, struct loading *l, struct err *err)
{
    int r = s->disk->ops->list(s->disk, look_for_strangers, l);
    if (r)
        return err_set(err, r, "%.300s: %s", s->path, strerror(-r));
    if (l->has_strangers)
        return err_set(err, -EEXIST, "%.300s is not empty and holds no store", s->path);
    if (s->is_found)
        return err_set(err, -ENOENT, "%.300s holds no store", s->path);
    random_bytes(s->uuid, UUID_BYTES);
    return store_write_super(s, err);
}

// The first good copy. A newer version in either, if its check holds, is believed: this program
// must not touch it.
static int choose_super(const uint8_t *both, struct super *ret)
{
    struct super found;
    int result = -EUCLEAN;
    for (uint32_t i = SUPER_COPIES; i-- > 0;) {
        int r = super_decode(both + i * KV_UNIT_BYTES, i, &found);
        if (r == -ENOTSUP)
            return r;
        if (r == 0)
            *ret = found;
        result = r == 0 ? 0 : result == -EUCLEAN && r == -EEXIST ? r : result;
    }
    return result;
}

static int load_super(struct kv_store *s, struct loading *l, bool *is_new, struct err *err)
{
    uint8_t both[SUPER_FILE_BYTES] = {0};
    struct super super = {0};
    int n = s->disk->ops->read_file(s->disk, SUPER_NAME, both, sizeof(both));
    *is_new = n == -ENOENT;
    if (n == -ENOENT)
        return create_super(s, l, err);
    if (n < 0)
        return err_set(err, n, "%.300s/" SUPER_NAME ": %s", s->path, strerror(-n));
    int r = choose_super(both, &super);
    if (r == -ENOTSUP)
        return err_set(err, r, "%.300s has a newer or foreign format", s->path);
    if (r == -EEXIST)
        return err_set(err, r, "%.300s/" SUPER_NAME " is no superblock", s->path);
    if (r)
        return err_set(err, r, "%.300s/" SUPER_NAME ": both superblocks are damaged", s->path);
    memcpy(s->uuid, super.uuid, UUID_BYTES);
    return 0;
}

// ---- segments ----------------------------------------------------------------------------------

// These say nothing about the file.
static bool is_shortage(int r) { return r == -EMFILE || r == -ENFILE || r == -ENOMEM; }

static int add_shut(struct loading *l, uint32_t id, const char *name, int error)
{
    struct shut_segment *more = realloc(l->shut, (l->n_shut + 1) * sizeof(*more));
    if (!more)
        return -ENOMEM;
    l->shut = more;
    more[l->n_shut] = (struct shut_segment){.id = id, .error = error};
    memcpy(more[l->n_shut++].name, name, MIN(strlen(name), SEGMENT_NAME_MAX - 1));
    return 0;
}

static bool load_segment(void *ctx, const char *name)
{
    struct loading *l = ctx;
    struct kv_store *s = l->s;
    uint32_t id, slot_bytes, number = 0;
    uint64_t bytes = 0;
    if (!segment_name_parse(name, &id, &slot_bytes))
        return true;
    while (number < s->segments.n_max && s->segments.segment[number].state != SEGMENT_NONE)
        number++;
    s->segments.next_id = MAX(s->segments.next_id, id + 1);
    if (number == s->segments.n_max)
        return true;                    // its blocks are misses
    int r = s->disk->ops->file_open(s->disk, number, name, false, &bytes);
    if (r == -ENOENT)
        return true;
    if (r) {
        l->segment_error = is_shortage(r) ? r : add_shut(l, id, name, r);
        return l->segment_error == 0;
    }
    uint32_t added = bytes < slot_bytes ? NO_SEGMENT
                     : segments_add(&s->segments, id, slot_bytes, bytes, SEGMENT_READY);
    if (added == NO_SEGMENT)
        s->disk->ops->file_close(s->disk, number);
    else
        l->n_segments++;
    assert(added == NO_SEGMENT || added == number);
    return true;
}

static int compare_ids(const void *a, const void *b)
{
    const struct by_id *x = a, *y = b;
    return (x->id > y->id) - (x->id < y->id);
}

static int load_segments(struct kv_store *s, struct loading *l, struct err *err)
{
    int r = s->disk->ops->list(s->disk, load_segment, l);
    if (r)
        return err_set(err, r, "%.300s: %s", s->path, strerror(-r));
    if (l->segment_error)
        return err_set(err, l->segment_error, "the segments of %.300s cannot be opened: %s",
                       s->path, strerror(-l->segment_error));
    l->by_id = malloc(MAX(l->n_segments, 1) * sizeof(*l->by_id));
    if (!l->by_id)
        return err_set(err, -ENOMEM, "out of memory");
    uint32_t n = 0;
    for (uint32_t i = 0; i < s->segments.n_max; i++)
        if (s->segments.segment[i].state == SEGMENT_READY)
            l->by_id[n++] = (struct by_id){s->segments.segment[i].id, i};
    assert(n == l->n_segments);
    qsort(l->by_id, n, sizeof(*l->by_id), compare_ids);
    return 0;
}

// ---- index -------------------------------------------------------------------------------------

// A record that cannot be right is taken out once all are read: a lost segment has many.
static bool lose(struct loading *l, uint32_t segment, uint32_t slot)
{
    if (l->n_lost == l->n_lost_max) {
        uint32_t n = MAX(GROUP_MAX, l->n_lost_max * 2);
        struct place *more = realloc(l->lost, n * sizeof(*more));
        if (!more) {
            l->out_of_memory = true;
            return false;
        }
        l->lost = more;
        l->n_lost_max = n;
    }
    l->lost[l->n_lost++] = (struct place){segment, slot};
    return true;
}

static struct entry *add_entry(struct loading *l, const struct hash *key)
{
    struct table *t = &l->s->table;
    if (t->n_used == t->n_max && table_grow(t) != 0) {
        l->out_of_memory = true;
        return NULL;
    }
    return table_add(t, key);
}

static bool add_block(struct loading *l, const struct hash *key, const struct index_block *b,
                      uint32_t segment)
{
    struct kv_store *s = l->s;
    struct entry *e = add_entry(l, key);
    if (!e)
        return false;
    if (!slot_claim(&s->segments, segment, b->slot, entry_number(&s->table, e))) {
        e->state = ENTRY_LIVE;
        table_hide(&s->table, e);
        table_free(&s->table, e);
        return lose(l, b->segment, b->slot);
    }
    e->state = ENTRY_LIVE;
    e->bytes = b->bytes;
    e->segment = segment;
    e->slot = b->slot;
    e->generation = e->pin_generation = b->generation;
    e->sum = b->sum;
    e->last_use = b->last_use;
    e->expires_s = b->expires_s;
    e->unproven = b->flags & INDEX_UNPROVEN;
    struct segment *x = &s->segments.segment[segment];
    x->last_use = MAX(x->last_use, b->last_use);
    s->generation = MAX(s->generation, b->generation + 1);
    s->use_clock = MAX(s->use_clock, b->last_use + 1);
    return true;
}

static void remove_entry(struct kv_store *s, struct entry *e)
{
    slot_free(&s->segments, e->segment, e->slot);
    table_hide(&s->table, e);
    table_free(&s->table, e);
}

// A copy that was replaced, and was not forgotten before the end.
static bool lose_entry(struct loading *l, struct entry *e)
{
    uint32_t segment = l->s->segments.segment[e->segment].id, slot = e->slot;
    remove_entry(l->s, e);
    return lose(l, segment, slot);
}

static bool visit_block(void *ctx, const struct hash *key, const struct index_block *b)
{
    struct loading *l = ctx;
    struct by_id wanted = {.id = b->segment};
    const struct by_id *found = bsearch(&wanted, l->by_id, l->n_segments, sizeof(wanted),
                                        compare_ids);
    for (uint32_t i = 0; !found && i < l->n_shut; i++)
        if (l->shut[i].id == b->segment)
            l->wanted = &l->shut[i];
    if (l->wanted)
        return false;
    if (!found || slot_bytes_for(b->bytes) > l->s->segments.segment[found->number].slot_bytes)
        return lose(l, b->segment, b->slot);
    struct entry *old = table_find(&l->s->table, key);
    if (old && old->generation > b->generation)
        return lose(l, b->segment, b->slot);
    if (old && !lose_entry(l, old))
        return false;
    return add_block(l, key, b, found->number);
}

// Blocks come before records, so pins find theirs.
static bool visit_named(void *ctx, const char *name, const struct index_named *h,
                        const uint8_t *pins)
{
    struct loading *l = ctx;
    l->out_of_memory |= record_load(l->s, name, h, pins) != 0;
    return !l->out_of_memory;
}

static bool visit_meta(void *ctx, const struct index_meta *m)
{
    struct loading *l = ctx;
    struct kv_store *s = l->s;
    l->has_meta = true;
    l->is_other_store = memcmp(m->uuid, s->uuid, UUID_BYTES) != 0;
    s->generation = MAX(s->generation, m->generation);
    s->use_clock = MAX(s->use_clock, m->use_clock);
    s->time_s = MAX(s->time_s, m->time_s);
    s->segments.next_id = MAX(s->segments.next_id, (uint32_t)MIN(m->segment_id, UINT32_MAX));
    s->wear_day = m->wear_day;
    s->wear_bytes = m->wear_bytes;
    s->written_bytes = m->written_bytes;
    return !l->is_other_store;
}

static int commit_now(struct kv_store *s)
{
    struct group *g = s->filling;
    int r = s->committer.index->ops->commit(s->committer.index, g->change, g->n);
    g->n = 0;
    return r;
}

static int forget_lost(struct kv_store *s, const struct loading *l, struct err *err)
{
    struct group *g = s->filling;
    int r = 0;
    for (uint32_t i = 0; i < l->n_lost && r == 0; i++) {
        g->change[g->n++] = (struct index_change){
            .kind = INDEX_FORGET, .block = {.segment = l->lost[i].segment, .slot = l->lost[i].slot,
                                            .generation = UINT64_MAX}};
        if (g->n == GROUP_MAX / 2 || i + 1 == l->n_lost)
            r = commit_now(s);
    }
    if (r == -ENOSPC)                   // then they are found lost again
        return 0;
    return r ? err_set(err, r, "the index of %.300s cannot be written: %s", s->path, strerror(-r))
             : 0;
}

// One that may be back tomorrow is no reason to forget its blocks.
static int refuse_shut(const struct kv_store *s, const struct shut_segment *x, struct err *err)
{
    return err_set(err, x->error, "%.300s/%s has blocks and cannot be opened: %s", s->path, x->name,
                   strerror(-x->error));
}

static int load_index(struct kv_store *s, struct loading *l, struct err *err)
{
    const struct index_visitor v = {l, visit_block, visit_named, visit_meta};
    const struct index_ops *ops = s->committer.index->ops;
    int r = (s->p.read_only ? ops->check : ops->load)(s->committer.index, &v, err);
    if (l->out_of_memory)
        return err_set(err, -ENOMEM, "out of memory for the index of the store");
    if (l->wanted)
        return refuse_shut(s, l->wanted, err);
    return r == 0 && !l->has_meta ? -EUCLEAN : r;   // without it, rebuilding was not finished
}

// ---- rebuilding --------------------------------------------------------------------------------

static void unload(struct kv_store *s)
{
    for (uint32_t i = 0; i < s->table.n_touched; i++) {
        struct entry *e = &s->table.entry[i];
        if (e->state != ENTRY_FREE)
            remove_entry(s, e);
    }
    records_finish(s);
    s->record_bytes = 0;
    s->n_records_max = 0;
    s->filling->n = 0;
}

static void *map(uint32_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

// Reads all of a slot.
static bool slot_is_whole(struct kv_store *s, uint32_t number, uint32_t slot)
{
    uint32_t bytes = s->segments.segment[number].slot_bytes;
    uint8_t *p = map(bytes);
    struct slot_header h;
    bool ok = p && s->disk->ops->read_now(s->disk, number, (uint64_t)slot * bytes, p, bytes) == 0 &&
              slot_decode(p, &h) == 0 && slot_bytes_for(h.payload_bytes) <= bytes;
    const uint64_t *sums = ok ? slot_sums(p, &h) : NULL;
    uint64_t *found = sums ? malloc(units_of(h.payload_bytes) * sizeof(*found)) : NULL;
    if (found)
        unit_sums(p + h.header_bytes, h.payload_bytes, found);
    ok = found && memcmp(found, sums, units_of(h.payload_bytes) * sizeof(*found)) == 0;
    free(found);
    if (p)
        munmap(p, bytes);
    return ok;
}

static bool rebuild_slot(struct loading *l, uint32_t number, uint32_t slot, const uint8_t *unit)
{
    struct kv_store *s = l->s;
    const struct segment *x = &s->segments.segment[number];
    struct slot_header h;
    struct hash key;
    if (slot_decode(unit, &h) != 0 || memcmp(h.uuid, s->uuid, UUID_BYTES) != 0 ||
        h.segment != x->id || h.slot != slot || slot_bytes_for(h.payload_bytes) > x->slot_bytes)
        return true;
    memcpy(key.b, h.key, HASH_BYTES);
    struct entry *old = table_find(&s->table, &key);
    // Of two copies the newer, unless it is torn: it may never have been committed.
    if (old && (old->generation > h.generation ? slot_is_whole(s, old->segment, old->slot)
                                               : !slot_is_whole(s, number, slot)))
        return true;
    if (old)
        remove_entry(s, old);
    struct index_block b = {.slot = slot, .bytes = h.payload_bytes, .generation = h.generation,
                            .sum = h.sum, .last_use = h.generation, .expires_s = h.expires_s,
                            .flags = INDEX_UNPROVEN};
    return add_block(l, &key, &b, number);
}

static bool rebuild_segment(struct loading *l, uint32_t number, uint8_t *unit)
{
    struct kv_store *s = l->s;
    const struct segment *x = &s->segments.segment[number];
    for (uint32_t slot = 0; slot < x->n_slots; slot++)
        if (s->disk->ops->read_now(s->disk, number, (uint64_t)slot * x->slot_bytes, unit,
                                   KV_UNIT_BYTES) == 0 &&
            !rebuild_slot(l, number, slot, unit))
            return false;
    return true;
}

// The counters come last: an index without them is rebuilt again.
static int save_index(struct kv_store *s)
{
    int r = 0;
    for (uint32_t i = 0; i < s->table.n_touched && r == 0; i++) {
        const struct entry *e = &s->table.entry[i];
        if (e->state == ENTRY_LIVE && !commit_use(s, e)) {
            r = commit_now(s);
            i--;
        }
    }
    if (r == 0) {
        commit_add_meta(s);
        r = commit_now(s);
    }
    return r;
}

// What a process that was killed left in a cache is not to be named before it is durable: it may be
// preferred to an older copy that is. Where that fails, the blocks are as unproven as they were.
static void sync_all(struct kv_store *s, const struct loading *l)
{
    for (uint32_t i = 0; i < l->n_segments; i++) {
        struct disk_sync one = {.file = l->by_id[i].number};
        s->disk->ops->sync(s->disk, &one, 1);
        s->stats.sync_errors += one.result != 0;
    }
}

static int rebuild(struct kv_store *s, struct loading *l, struct err *err)
{
    if (l->n_shut)
        return refuse_shut(s, &l->shut[0], err);
    unload(s);
    l->is_other_store = false;
    int r = s->committer.index->ops->reset(s->committer.index, err);
    if (r)
        return r;
    uint8_t *unit = map(KV_UNIT_BYTES);
    if (!unit)
        return err_set(err, -ENOMEM, "out of memory");
    sync_all(s, l);
    for (uint32_t i = 0; i < l->n_segments && !l->out_of_memory; i++)
        rebuild_segment(l, l->by_id[i].number, unit);
    munmap(unit, KV_UNIT_BYTES);
    if (l->out_of_memory)
        return err_set(err, -ENOMEM, "out of memory for the index of the store");
    r = save_index(s);
    return r ? err_set(err, r, "the index of %.300s cannot be written: %s", s->path, strerror(-r))
             : 0;
}

// ---- all together ------------------------------------------------------------------------------

struct use { uint64_t last_use; uint32_t entry; };

static int compare_uses(const void *a, const void *b)
{
    const struct use *x = a, *y = b;
    return (x->last_use > y->last_use) - (x->last_use < y->last_use);
}

static int order_by_use(struct kv_store *s)
{
    uint32_t n = 0;
    struct use *u = malloc(MAX(s->table.n_used, 1) * sizeof(*u));
    if (!u)
        return -ENOMEM;
    for (uint32_t i = 0; i < s->table.n_touched; i++)
        if (s->table.entry[i].state == ENTRY_LIVE)
            u[n++] = (struct use){s->table.entry[i].last_use, i};
    qsort(u, n, sizeof(*u), compare_uses);
    for (uint32_t i = 0; i < n; i++)
        block_live(s, &s->table.entry[u[i].entry]);
    free(u);
    return 0;
}

static int load_or_rebuild(struct kv_store *s, struct loading *l, bool is_new, struct err *err)
{
    int r = load_index(s, l, err);
    if (s->p.read_only && r == -ENOENT && !l->n_segments)
        return 0;
    if (s->p.read_only && (r == -ENOENT || r == -EUCLEAN))
        return err_set(err, -EUCLEAN, "the index of %.300s is damaged or missing; it is rebuilt "
                       "when the store is opened to be used", s->path);
    if (r == 0)
        return s->p.read_only ? 0 : forget_lost(s, l, err);
    if (r != -ENOENT && r != -EUCLEAN)
        return r;
    l->n_lost = 0;
    s->stats.rebuilt = r == -EUCLEAN || (!is_new && l->n_segments);
    return rebuild(s, l, err);
}

int store_load(struct kv_store *s, struct err *err)
{
    struct loading l = {.s = s};
    bool is_new = false;
    s->generation = s->use_clock = 1;
    store_tick(s);
    int r = load_super(s, &l, &is_new, err);
    if (r == 0)
        r = load_segments(s, &l, err);
    if (r == 0)
        r = load_or_rebuild(s, &l, is_new, err);
    free(l.by_id);
    free(l.lost);
    free(l.shut);
    if (r)
        return r;
    segments_relink(&s->segments);
    if (order_by_use(s) != 0)
        return err_set(err, -ENOMEM, "out of memory");
    s->opened_ns = 0;                   // the clock starts behind what the index says
    store_tick(s);
    if (s->p.read_only)
        s->index_broken = s->stats.degraded = true;     // nothing can be stored
    else
        room_shrink(s);
    return 0;
}
