// fsck: proves a store that nobody has open. Looking changes nothing; repairing lets the store's
// own code do it, which drops what it cannot believe.
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include "kvstore/files.h"
#include "kvstore/store.h"

#define SUPER_NAME "super"
#define FILES_MAX 1024u
#define LINE_MAX_BYTES 256u

struct found_segment {
    uint32_t id, slot_bytes, n_slots;
    bool    *known;                     // (n_slots) the index has a block there, owned
    bool     bad_size;
};

struct keys { struct hash *key; uint32_t n, n_max; };      // (n) owned

struct checking {
    const char *path;
    void      (*say)(void *ctx, const char *line);
    void       *ctx;
    struct kv_fsck *f;
    struct disk    *disk;
    int             lock;               // from the first look to the last repair
    uint8_t         uuid[UUID_BYTES];
    struct found_segment segment[FILES_MAX];
    uint32_t        n_segments;
    struct keys     good, bad;          // blocks
    bool            is_sorted;          // good ones, for records, which come after all blocks
    uint8_t        *slot;               // the largest slot, mapped
    uint64_t       *sums;               // of the largest payload, owned
    uint64_t        bytes;              // of all segments
};

__attribute__((format(printf, 2, 3))) static void tell(struct checking *c, const char *fmt, ...)
{
    char line[LINE_MAX_BYTES];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(line, sizeof(line), fmt, ap);
    va_end(ap);
    if (c->say)
        c->say(c->ctx, line);
}

// ---- superblock and files ----------------------------------------------------------------------

static int check_super(struct checking *c, struct err *err)
{
    uint8_t both[SUPER_FILE_BYTES] = {0};
    struct super s;
    uint32_t n_good = 0;
    int n = c->disk->ops->read_file(c->disk, SUPER_NAME, both, sizeof(both));
    if (n < 0)
        return err_set(err, n, "%.300s holds no store: %s", c->path, strerror(-n));
    for (uint32_t i = 0; i < SUPER_COPIES; i++) {
        int r = super_decode(both + i * KV_UNIT_BYTES, i, &s);
        if (r == -ENOTSUP)
            return err_set(err, r, "%.300s has a newer or foreign format", c->path);
        if (r == 0) {
            memcpy(c->uuid, s.uuid, UUID_BYTES);
            n_good++;
            continue;
        }
        tell(c, "superblock %u is damaged", i);
        c->f->bad_super = true;
    }
    return n_good ? 0 : err_set(err, -EUCLEAN, "%.300s: no good superblock", c->path);
}

static bool is_known_name(const char *name)
{
    static const char *const names[] = {"lock", SUPER_NAME, "index", "index.sum",
                                        "index.damaged", SUPER_NAME ".new", "lost+found"};
    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        if (strcmp(name, names[i]) == 0)
            return true;
    return false;
}

static bool check_file(void *ctx, const char *name)
{
    struct checking *c = ctx;
    uint32_t id, slot_bytes, n = c->n_segments;
    uint64_t bytes = 0;
    if (is_known_name(name))
        return true;
    bool is_segment = segment_name_parse(name, &id, &slot_bytes) && n < FILES_MAX;
    int r = is_segment ? c->disk->ops->file_open(c->disk, n, name, false, &bytes) : 0;
    if (!is_segment)
        tell(c, "%.100s is no segment of a store", name);
    else if (r)
        tell(c, "%.100s cannot be opened: %s", name, strerror(-r));
    if (!is_segment || r) {
        c->f->bad_files++;
        return true;
    }
    uint32_t n_slots = (uint32_t)MIN(bytes / slot_bytes, SLOT_LAST - 1);
    struct found_segment s = {id, slot_bytes, n_slots, calloc(MAX(n_slots, 1), 1),
                              bytes % slot_bytes != 0 || n_slots == 0};
    if (!s.known)
        return false;
    if (s.bad_size) {
        tell(c, "%s was cut: %llu bytes", name, (unsigned long long)bytes);
        c->f->bad_files++;
    }
    c->bytes += bytes;
    c->segment[c->n_segments++] = s;
    return true;
}

// ---- blocks and records ------------------------------------------------------------------------

static struct found_segment *find_segment(struct checking *c, uint32_t id)
{
    for (uint32_t i = 0; i < c->n_segments; i++)
        if (c->segment[i].id == id)
            return &c->segment[i];
    return NULL;
}

// What is wrong with a block, or NULL.
static const char *fault_of(struct checking *c, const struct hash *key, const struct index_block *b)
{
    struct found_segment *s = find_segment(c, b->segment);
    uint32_t all = slot_bytes_for(b->bytes), head = slot_header_bytes(b->bytes);
    struct slot_header h;
    if (!s || b->slot >= s->n_slots || all > s->slot_bytes)
        return "its slot does not exist";
    if (s->known[b->slot])
        return "its slot has another block";
    s->known[b->slot] = true;
    if (c->disk->ops->read_now(c->disk, (uint32_t)(s - c->segment),
                               (uint64_t)b->slot * s->slot_bytes, c->slot, all))
        return "its slot cannot be read";
    if (slot_decode(c->slot, &h))
        return "its header is damaged";
    if (memcmp(h.uuid, c->uuid, UUID_BYTES) != 0 || h.segment != b->segment || h.slot != b->slot ||
        h.generation != b->generation || h.payload_bytes != b->bytes || h.sum != b->sum ||
        memcmp(h.key, key->b, HASH_BYTES) != 0)
        return "its header is another block's";
    const uint64_t *sums = slot_sums(c->slot, &h);
    unit_sums(c->slot + head, b->bytes, c->sums);
    if (!sums || memcmp(sums, c->sums, units_of(b->bytes) * sizeof(*sums)) != 0)
        return "its contents do not match";
    return NULL;
}

static bool keep_key(struct keys *k, const struct hash *key)
{
    if (k->n == k->n_max) {
        uint32_t n = MAX(1024, k->n_max * 2);
        struct hash *more = realloc(k->key, n * sizeof(*more));
        if (!more)
            return false;
        k->key = more;
        k->n_max = n;
    }
    k->key[k->n++] = *key;
    return true;
}

static bool check_block(void *ctx, const struct hash *key, const struct index_block *b)
{
    struct checking *c = ctx;
    const char *fault = fault_of(c, key, b);
    if (!fault) {
        c->f->blocks++;
        return keep_key(&c->good, key);
    }
    c->f->bad_blocks++;
    tell(c, "block %02x%02x%02x%02x..., segment %u, slot %u: %s", key->b[0], key->b[1], key->b[2],
         key->b[3], b->segment, b->slot, fault);
    return keep_key(&c->bad, key);
}

static int compare_keys(const void *a, const void *b) { return memcmp(a, b, HASH_BYTES); }

static bool check_named(void *ctx, const char *name, const struct index_named *h,
                        const uint8_t *pins)
{
    struct checking *c = ctx;
    uint64_t lost = 0;
    if (!c->is_sorted && c->good.n)
        qsort(c->good.key, c->good.n, HASH_BYTES, compare_keys);
    c->is_sorted = true;
    for (uint32_t i = 0; i < h->n_pins; i++)
        lost += !c->good.n || !bsearch(pins + (size_t)i * HASH_BYTES, c->good.key, c->good.n,
                                       HASH_BYTES, compare_keys);
    c->f->records++;
    c->f->lost_pins += lost;
    if (lost)
        tell(c, "record %.60s: %llu of its %u blocks are not there", name, (unsigned long long)lost,
             h->n_pins);
    return true;
}

static bool check_meta(void *ctx, const struct index_meta *m)
{
    struct checking *c = ctx;
    return memcmp(m->uuid, c->uuid, UUID_BYTES) == 0;
}

static int check_index(struct checking *c, struct err *err)
{
    const struct index_visitor v = {c, check_block, check_named, check_meta};
    struct index *x;
    struct err why = {0};
    int r = index_open(&x, c->path, MAX(c->bytes / 4, 64u << 20), err);
    if (r)
        return r;
    r = x->ops->check(x, &v, &why);
    x->ops->close(x, false);
    if (r == 0 || (r == -ENOENT && c->n_segments == 0))
        return 0;
    c->f->bad_index = true;
    tell(c, "the index is damaged or missing");
    return r == -ENOENT || r == -EUCLEAN ? 0 : err_set(err, r, "%s", why.msg);
}

static void count_strays(struct checking *c)
{
    struct slot_header h;
    for (uint32_t i = 0; i < c->n_segments; i++) {
        struct found_segment *s = &c->segment[i];
        for (uint32_t slot = 0; slot < s->n_slots; slot++)
            c->f->strays += !s->known[slot] &&
                            c->disk->ops->read_now(c->disk, i, (uint64_t)slot * s->slot_bytes,
                                                   c->slot, KV_UNIT_BYTES) == 0 &&
                            slot_decode(c->slot, &h) == 0;
    }
}

static int check(struct checking *c, struct err *err)
{
    const struct disk_params p = {.path = c->path, .files_max = FILES_MAX, .inflight_max = 1,
                                  .eventfd = -1, .lock = &c->lock};
    size_t slot_bytes = slot_bytes_for(KV_BLOCK_BYTES_MAX);
    int r = disk_posix.open(&c->disk, &p, err);
    if (r)
        return r;
    c->slot = mmap(NULL, slot_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    c->sums = malloc(units_of(KV_BLOCK_BYTES_MAX) * sizeof(*c->sums));
    if (c->slot == MAP_FAILED || !c->sums)
        r = err_set(err, -ENOMEM, "out of memory");
    if (r == 0)
        r = check_super(c, err);
    if (r == 0 && (r = c->disk->ops->list(c->disk, check_file, c)) != 0)
        err_set(err, r, "%.300s: %s", c->path, strerror(-r));
    if (r == 0)
        r = check_index(c, err);
    if (r == 0)
        count_strays(c);
    if (c->slot != MAP_FAILED)
        munmap(c->slot, slot_bytes);
    c->disk->ops->close(c->disk);
    free(c->sums);
    return r;
}

// ---- repair ------------------------------------------------------------------------------------

// A segment that was cut in the middle of a slot is cut at its end.
static int repair_sizes(struct checking *c)
{
    char name[SEGMENT_NAME_MAX], path[4096];
    for (uint32_t i = 0; i < c->n_segments; i++) {
        const struct found_segment *s = &c->segment[i];
        segment_name(name, s->id, s->slot_bytes);
        int n = snprintf(path, sizeof(path), "%s/%s", c->path, name);
        if (!s->bad_size || n >= (int)sizeof(path))
            continue;
        int r = s->n_slots ? truncate(path, (off_t)s->n_slots * s->slot_bytes) : unlink(path);
        if (r)
            return -errno;
    }
    return 0;
}

static void io_done(struct kv_io *io) { *(bool *)io->ctx = true; }

static void run(struct kv_store *s, struct kv_io *io)
{
    bool done = false;
    io->done = io_done;
    io->ctx = &done;
    kv_store_submit(s, io);
    while (!done)
        kv_store_poll(s, UINT64_C(1000000000));
}

// Of a rebuilt index: reading a block is what drops it if it is bad.
static void read_blocks(struct kv_store *s, void *buf)
{
    struct kv_block_info info;
    uint32_t cursor = 0;
    while (kv_store_next(s, &cursor, &info)) {
        struct kv_io io = {.kind = KV_IO_GET, .priority = KV_RESTORE, .key = info.key, .buf = buf,
                           .bytes = info.bytes};
        run(s, &io);
    }
}

static void delete_bad(struct kv_store *s, const struct keys *bad)
{
    for (uint32_t i = 0; i < bad->n; i++) {
        struct kv_io io = {.kind = KV_IO_DELETE, .priority = KV_RESTORE, .key = bad->key[i]};
        run(s, &io);
    }
}

static int repair(struct checking *c, struct err *err)
{
    int r = repair_sizes(c);
    if (r)
        return err_set(err, r, "%.300s: %s", c->path, strerror(-r));
    struct kv_store *s;
    const struct kv_store_params p = {.path = c->path, .buffers = 1, .backend = "posix"};
    r = store_open(&s, &p, &c->lock, err);
    if (r)
        return r;
    void *buf = kv_store_buffer(s);
    if (c->f->bad_index)
        read_blocks(s, buf);
    else
        delete_bad(s, &c->bad);
    if (c->f->bad_super)
        r = store_write_super(s, err);
    kv_store_buffer_free(s, buf);
    kv_store_close(s);
    c->f->repaired = r == 0;
    return r;
}

int kv_store_fsck(const char *path, bool want_repair, void (*say)(void *ctx, const char *line),
                  void *ctx, struct kv_fsck *ret, struct err *err)
{
    struct kv_fsck f = {0};
    struct checking *c = calloc(1, sizeof(*c));
    if (!c)
        return err_set(err, -ENOMEM, "out of memory");
    c->path = path;
    c->say = say;
    c->ctx = ctx;
    c->f = &f;
    c->lock = files_lock(path, err);
    int r = c->lock < 0 ? c->lock : check(c, err);
    if (r == 0 && want_repair && !kv_fsck_clean(&f))
        r = repair(c, err);
    for (uint32_t i = 0; i < c->n_segments; i++)
        free(c->segment[i].known);
    free(c->good.key);
    free(c->bad.key);
    if (c->lock >= 0)
        close(c->lock);
    free(c);
    if (r == 0)
        *ret = f;
    return r;
}
