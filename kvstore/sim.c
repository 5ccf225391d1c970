// The simulated disk. Reads see what was written; power loss sees only what was synced, and of the
// rest any part, in any order, cut at any sector.
#include "kvstore/sim.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "base/base.h"
#include "base/clock.h"
#include "kvstore/disk.h"

#define FILES_MAX 1024u
#define SECTOR_BYTES 512u
#define STEP_NS (NS_PER_MS / 10)
#define MILLION 1000000u

struct pending { uint64_t offset_bytes; uint32_t n; struct pending *next; uint8_t data[]; };

struct sim_file {
    char            name[64];           // "": free
    uint8_t        *seen, *durable;     // (bytes) owned
    uint64_t        bytes;
    struct pending *pending;            // written, not synced; newest first
    bool            removed;            // not durably
};

struct kv_sim {
    struct kv_sim_faults faults;
    uint64_t             state;         // of the generator
    uint64_t             now_ns, unix_s, steps, crash_at;
    bool                 process_only, crashed, hold;
    struct sim_file      file[FILES_MAX];
    struct sim_index_data index;
};

struct sim_disk {
    struct disk      disk;
    struct kv_sim   *m;
    struct sim_file *open[FILES_MAX];   // by handle
    struct disk_io  *in_flight;
};

static struct sim_disk *of(struct disk *d) { return (struct sim_disk *)d; }

// ---- chance and steps --------------------------------------------------------------------------

uint64_t kv_sim_random(struct kv_sim *m, uint64_t n)
{
    uint64_t z = m->state += UINT64_C(0x9e3779b97f4a7c15);      // splitmix64
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return (z ^ (z >> 31)) % n;
}

bool sim_chance(struct kv_sim *m, uint32_t per_million)
{
    return per_million && kv_sim_random(m, MILLION) < per_million;
}

const struct kv_sim_faults *sim_faults(const struct kv_sim *m) { return &m->faults; }
struct sim_index_data *sim_index_data(struct kv_sim *m) { return &m->index; }

bool sim_step(struct kv_sim *m)
{
    m->now_ns += STEP_NS;
    if (!m->crashed && ++m->steps >= m->crash_at)
        m->crashed = true;
    return !m->crashed;
}

// ---- the machine -------------------------------------------------------------------------------

struct kv_sim *kv_sim_create(uint64_t seed)
{
    struct kv_sim *m = calloc(1, sizeof(*m));
    if (m) {
        m->state = seed;
        m->crash_at = UINT64_MAX;
        m->unix_s = 1700000000;
    }
    return m;
}

static void forget_pending(struct sim_file *f)
{
    for (struct pending *next, *p = f->pending; p; p = next) {
        next = p->next;
        free(p);
    }
    f->pending = NULL;
}

static void free_file(struct sim_file *f)
{
    forget_pending(f);
    free(f->seen);
    free(f->durable);
    *f = (struct sim_file){0};
}

void kv_sim_destroy(struct kv_sim *m)
{
    if (!m)
        return;
    for (uint32_t i = 0; i < FILES_MAX; i++)
        free_file(&m->file[i]);
    sim_index_data_finish(&m->index);
    free(m);
}

void kv_sim_set_faults(struct kv_sim *m, const struct kv_sim_faults *f) { m->faults = *f; }
void kv_sim_hold(struct kv_sim *m, bool hold) { m->hold = hold; }
bool kv_sim_has_crashed(const struct kv_sim *m) { return m->crashed; }
void kv_sim_set_unix(struct kv_sim *m, uint64_t unix_s) { m->unix_s = unix_s; }
uint64_t kv_sim_now_ns(const struct kv_sim *m) { return m->now_ns; }
uint64_t kv_sim_unix_s(const struct kv_sim *m) { return m->unix_s; }
void kv_sim_limit_index(struct kv_sim *m, uint32_t n_max) { m->index.n_limit = n_max; }
void kv_sim_damage_index(struct kv_sim *m) { m->index.damaged = true; }

void kv_sim_advance(struct kv_sim *m, uint64_t seconds)
{
    m->now_ns += seconds * NS_PER_S;
    m->unix_s += seconds;
}

void kv_sim_crash_in(struct kv_sim *m, uint64_t steps, bool process_only)
{
    m->crash_at = m->steps + steps;
    m->process_only = process_only;
    if (steps == 0)
        m->crashed = true;
}

uint64_t kv_sim_file_bytes(const struct kv_sim *m)
{
    uint64_t n = 0;
    for (uint32_t i = 0; i < FILES_MAX; i++)
        n += m->file[i].removed ? 0 : m->file[i].bytes;
    return n;
}

static struct sim_file *find_file(struct kv_sim *m, const char *name)
{
    for (uint32_t i = 0; i < FILES_MAX; i++)
        if (m->file[i].name[0] && !m->file[i].removed && strcmp(m->file[i].name, name) == 0)
            return &m->file[i];
    return NULL;
}

uint8_t *kv_sim_file(struct kv_sim *m, const char *name, uint64_t *bytes)
{
    struct sim_file *f = find_file(m, name);
    *bytes = f ? f->bytes : 0;
    return f ? f->seen : NULL;
}

static struct sim_file *any_segment(struct kv_sim *m)
{
    uint64_t first = kv_sim_random(m, FILES_MAX);
    for (uint32_t i = 0; i < FILES_MAX; i++) {
        struct sim_file *f = &m->file[(first + i) % FILES_MAX];
        if (strncmp(f->name, "seg-", 4) == 0 && !f->removed)
            return f;
    }
    return NULL;
}

void kv_sim_damage(struct kv_sim *m, uint32_t bits)
{
    struct sim_file *f;
    for (uint32_t i = 0; i < bits && (f = any_segment(m)); i++) {
        uint64_t at = kv_sim_random(m, f->bytes);
        uint8_t bit = (uint8_t)(1u << kv_sim_random(m, 8));
        f->seen[at] ^= bit;
        f->durable[at] = f->seen[at];
    }
}

void kv_sim_truncate(struct kv_sim *m)
{
    struct sim_file *f = any_segment(m);
    if (f)
        f->bytes = ALIGN_UP(f->bytes / 2, KV_UNIT_BYTES) + 100;     // no whole unit
}

// ---- power loss --------------------------------------------------------------------------------

// Some of a write: all, nothing, or any of its sectors.
static void write_some(struct kv_sim *m, struct sim_file *f, uint64_t at, const uint8_t *p,
                       uint32_t n)
{
    uint64_t how = kv_sim_random(m, 4);
    for (uint32_t i = 0; how != 0 && i < n; i += SECTOR_BYTES)
        if ((how == 1 || kv_sim_random(m, 2)) && at + i + SECTOR_BYTES <= f->bytes)
            memcpy(f->durable + at + i, p + i, SECTOR_BYTES);
}

static void lose_cache(struct kv_sim *m, struct sim_file *f)
{
    struct pending *p = f->pending;
    while (p) {                         // newest first or last: both orders happen
        struct pending *next = p->next;
        if (next && kv_sim_random(m, 2)) {
            write_some(m, f, next->offset_bytes, next->data, next->n);
            next->n = 0;
        }
        write_some(m, f, p->offset_bytes, p->data, p->n);
        p = next;
    }
    forget_pending(f);
    memcpy(f->seen, f->durable, f->bytes);
}

void kv_sim_restart(struct kv_sim *m)
{
    for (uint32_t i = 0; i < FILES_MAX; i++) {
        struct sim_file *f = &m->file[i];
        if (!f->name[0])
            continue;
        if (f->removed && (m->process_only || kv_sim_random(m, 2)))
            free_file(f);
        else if (!m->process_only)
            lose_cache(m, f);
        f->removed = false;
    }
    m->crashed = false;
    m->crash_at = UINT64_MAX;
}

// ---- files -------------------------------------------------------------------------------------

static int sim_list(struct disk *d, bool (*fn)(void *ctx, const char *name), void *ctx)
{
    struct kv_sim *m = of(d)->m;
    // In any order, as a folder's: an odd step meets every file once.
    uint32_t at = (uint32_t)kv_sim_random(m, FILES_MAX);
    uint32_t step = 2 * (uint32_t)kv_sim_random(m, FILES_MAX / 2) + 1;
    for (uint32_t i = 0; i < FILES_MAX; i++, at = (at + step) % FILES_MAX)
        if (m->file[at].name[0] && !m->file[at].removed && !fn(ctx, m->file[at].name))
            break;
    return 0;
}

static int sim_read_file(struct disk *d, const char *name, void *p, uint32_t n)
{
    const struct sim_file *f = find_file(of(d)->m, name);
    if (!sim_step(of(d)->m))
        return -EIO;
    if (!f)
        return -ENOENT;
    memcpy(p, f->seen, MIN(n, f->bytes));
    return (int)MIN(n, f->bytes);
}

static struct sim_file *make_file(struct kv_sim *m, const char *name, uint64_t bytes)
{
    uint32_t i = 0;
    while (i < FILES_MAX && m->file[i].name[0])
        i++;
    if (i == FILES_MAX)
        return NULL;
    struct sim_file *f = &m->file[i];
    f->seen = calloc(1, bytes);
    f->durable = calloc(1, bytes);
    f->bytes = bytes;
    if (!f->seen || !f->durable) {
        free_file(f);
        return NULL;
    }
    memcpy(f->name, name, strlen(name));
    return f;
}

static int sim_replace_file(struct disk *d, const char *name, const void *p, uint32_t n)
{
    struct kv_sim *m = of(d)->m;
    if (!sim_step(m))
        return -EIO;
    struct sim_file *f = find_file(m, name);
    if (f)
        free_file(f);
    f = make_file(m, name, n);
    if (!f)
        return -ENOMEM;
    memcpy(f->seen, p, n);
    memcpy(f->durable, p, n);
    return 0;
}

static int sim_file_open(struct disk *d, uint32_t file, const char *name, bool make,
                         uint64_t *bytes)
{
    struct kv_sim *m = of(d)->m;
    assert(!of(d)->open[file]);
    if (!sim_step(m))
        return -EIO;
    if (make && sim_chance(m, m->faults.make_enospc))
        return -ENOSPC;
    struct sim_file *f = make ? make_file(m, name, *bytes) : find_file(m, name);
    if (!f)
        return make ? -ENOSPC : -ENOENT;
    *bytes = f->bytes;
    of(d)->open[file] = f;
    return 0;
}

static void sim_file_close(struct disk *d, uint32_t file) { of(d)->open[file] = NULL; }

static int sim_file_remove(struct disk *d, const char *name)
{
    struct sim_file *f = find_file(of(d)->m, name);
    if (!sim_step(of(d)->m))
        return -EIO;
    if (f)
        f->removed = true;
    return 0;
}

static int sync_one(struct sim_disk *s, uint32_t file)
{
    struct kv_sim *m = s->m;
    struct sim_file *f = s->open[file];
    if (!sim_step(m))
        return -EIO;
    bool fails = sim_chance(m, m->faults.sync_eio);
    for (struct pending *p = f->pending; p; p = p->next) {
        if (fails)                      // and nobody will ever try those again
            write_some(m, f, p->offset_bytes, p->data, p->n);
        else
            memcpy(f->durable + p->offset_bytes, f->seen + p->offset_bytes, p->n);
    }
    forget_pending(f);
    return fails ? -EIO : 0;
}

static void sim_sync(struct disk *d, struct disk_sync *s, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        s[i].result = sync_one(of(d), s[i].file);
}

// ---- requests ----------------------------------------------------------------------------------

static void gather(const struct disk_io *io, uint8_t *to)
{
    for (uint32_t i = 0; i < io->n_iov; i++) {
        memcpy(to, io->iov[i].iov_base, io->iov[i].iov_len);
        to += io->iov[i].iov_len;
    }
}

static void scatter(const struct disk_io *io, const uint8_t *from, uint32_t n)
{
    for (uint32_t i = 0; i < io->n_iov && n > 0; i++) {
        uint32_t k = (uint32_t)MIN(io->iov[i].iov_len, n);
        memcpy(io->iov[i].iov_base, from, k);
        from += k;
        n -= k;
    }
}

static void put_pending(struct sim_file *f, uint64_t at, struct pending *p, uint32_t n)
{
    *p = (struct pending){.offset_bytes = at, .n = n, .next = f->pending};
    f->pending = p;
    memcpy(f->seen + at, p->data, n);
}

// Applies a write of n bytes, where it should go or not.
static int write_bytes(struct kv_sim *m, struct sim_file *f, const struct disk_io *io, uint32_t n)
{
    uint64_t at = io->offset_bytes;
    if (sim_chance(m, m->faults.lost))
        return (int)n;
    if (sim_chance(m, m->faults.misdirected)) {
        f = any_segment(m);
        at = kv_sim_random(m, f->bytes / KV_UNIT_BYTES) * KV_UNIT_BYTES;
    }
    n = at < f->bytes ? (uint32_t)MIN(n, f->bytes - at) : 0;
    struct pending *p = malloc(sizeof(*p) + disk_io_bytes(io));
    if (!p)
        return -EIO;
    gather(io, p->data);
    put_pending(f, at, p, n);
    return (int)n;
}

static int read_bytes(struct kv_sim *m, const struct sim_file *f, const struct disk_io *io,
                      uint32_t n)
{
    uint64_t at = io->offset_bytes;
    n = at < f->bytes ? (uint32_t)MIN(n, f->bytes - at) : 0;
    scatter(io, f->seen + at, n);
    if (n && sim_chance(m, m->faults.flip))
        ((uint8_t *)io->iov[0].iov_base)[kv_sim_random(m, MIN(n, io->iov[0].iov_len))] ^=
            (uint8_t)(1u << kv_sim_random(m, 8));
    return (int)n;
}

static int transfer(struct sim_disk *s, const struct disk_io *io)
{
    struct kv_sim *m = s->m;
    struct sim_file *f = s->open[io->file];
    uint32_t n = disk_io_bytes(io);
    if (!f)
        return -EBADF;
    if (sim_chance(m, m->faults.again))
        return kv_sim_random(m, 2) ? -EAGAIN : -EINTR;
    if (sim_chance(m, io->write ? m->faults.write_eio : m->faults.read_eio))
        return -EIO;
    if (io->write && sim_chance(m, m->faults.write_enospc))
        return -ENOSPC;
    if (sim_chance(m, m->faults.short_transfer))
        n = (uint32_t)kv_sim_random(m, n / SECTOR_BYTES) * SECTOR_BYTES + SECTOR_BYTES;
    return io->write ? write_bytes(m, f, io, n) : read_bytes(m, f, io, n);
}

// At a crash what is in flight may have reached the disk, or a part of it.
static int crash_request(struct sim_disk *s, const struct disk_io *io)
{
    struct sim_file *f = s->open[io->file];
    if (f && io->write && kv_sim_random(s->m, 2))
        write_bytes(s->m, f, io, (uint32_t)kv_sim_random(s->m, disk_io_bytes(io) / SECTOR_BYTES) *
                                     SECTOR_BYTES);
    return -EIO;
}

static void sim_submit(struct disk *d, struct disk_io *io)
{
    io->next = of(d)->in_flight;
    of(d)->in_flight = io;
}

// Whatever is in flight ends in any order, or a little later.
static struct disk_io *sim_reap(struct disk *d)
{
    struct sim_disk *s = of(d);
    struct disk_io *list = NULL, **link = &s->in_flight, *io;
    sim_step(s->m);
    while ((io = *link)) {
        bool later = !s->m->crashed && (s->m->hold || sim_chance(s->m, s->m->faults.delay));
        if (later || (io->next && !s->m->crashed && kv_sim_random(s->m, 4) == 0)) {
            link = &io->next;
            continue;
        }
        *link = io->next;
        bool up = !s->m->crashed && sim_step(s->m);
        io->result = up ? transfer(s, io) : crash_request(s, io);
        io->next = list;
        list = io;
    }
    return list;
}

static int sim_read_now(struct disk *d, uint32_t file, uint64_t offset_bytes, void *p, uint32_t n)
{
    struct sim_disk *s = of(d);
    for (uint32_t done = 0; done < n;) {
        struct disk_io io = {.n_iov = 1, .file = file, .offset_bytes = offset_bytes + done,
                             .iov = {{(uint8_t *)p + done, n - done}}};
        int r = sim_step(s->m) ? transfer(s, &io) : -EIO;
        if (r == 0 || (r < 0 && r != -EAGAIN && r != -EINTR))
            return r ? r : -ENODATA;
        done += r > 0 ? (uint32_t)r : 0;
    }
    return 0;
}

static void sim_kick(struct disk *d) { (void)d; }

static void sim_cancel(struct disk *d, struct disk_io *io)
{
    (void)d;
    (void)io;
}

static void sim_traits(struct disk *d, struct disk_traits *ret)
{
    (void)d;
    *ret = (struct disk_traits){.direct = true};
}

static int sim_open(struct disk **ret, const struct disk_params *p, struct err *err)
{
    struct sim_disk *s = calloc(1, sizeof(*s));
    if (!s)
        return err_set(err, -ENOMEM, "out of memory");
    s->disk.ops = &disk_sim;
    s->m = p->sim;
    *ret = &s->disk;
    return 0;
}

static void sim_close(struct disk *d)
{
    assert(!of(d)->in_flight);
    free(d);
}

const struct disk_ops disk_sim = {
    .name = "sim", .open = sim_open, .close = sim_close, .list = sim_list,
    .read_file = sim_read_file, .replace_file = sim_replace_file, .file_open = sim_file_open,
    .file_close = sim_file_close, .file_remove = sim_file_remove, .read_now = sim_read_now,
    .sync = sim_sync, .submit = sim_submit, .kick = sim_kick, .cancel = sim_cancel,
    .reap = sim_reap, .traits = sim_traits,
};
