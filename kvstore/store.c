// Opening, polling and closing a store.
#include "kvstore/store.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include "base/clock.h"
#include "kvstore/sim.h"

#define SECONDS_PER_DAY 86400u
#define CLOSE_TIMEOUT_NS (10 * NS_PER_S)    // for requests that the disk does not end
#define SEGMENTS_MAX 1024u
#define SEGMENT_BYTES_USUAL (UINT64_C(64) << 20)
#define INDEX_BYTES_PER_BLOCK 512u          // a record is 89 bytes; pages are half full at worst
#define INDEX_BYTES_MIN (1u << 20)
#define SIM_POLLS_MAX 100000u               // a simulated machine that does nothing any more

// ---- lists of operations -----------------------------------------------------------------------

void io_list_init(struct io_list *l)
{
    l->first = NULL;
    l->end = &l->first;
}

void io_list_add(struct io_list *l, struct kv_io *io)
{
    io->priv.next = NULL;
    *l->end = io;
    l->end = &io->priv.next;
}

struct kv_io *io_list_take(struct io_list *l)
{
    struct kv_io *io = l->first;
    if (io)
        io_list_remove(l, io);
    return io;
}

bool io_list_remove(struct io_list *l, struct kv_io *io)
{
    struct kv_io **link = &l->first;
    while (*link && *link != io)
        link = &(*link)->priv.next;
    if (!*link)
        return false;
    *link = io->priv.next;
    if (l->end == &io->priv.next)
        l->end = link;
    return true;
}

void io_end(struct kv_store *s, struct kv_io *io, int result)
{
    io->result = result;
    if (!s->done.first && s->eventfd >= 0)
        eventfd_write(s->eventfd, 1);
    io_list_add(&s->done, io);
}

// ---- time and wear -----------------------------------------------------------------------------

uint64_t store_now_ns(const struct kv_store *s)
{
    return s->p.sim ? kv_sim_now_ns(s->p.sim) : clock_now_ns();
}

static uint64_t unix_now_s(const struct kv_store *s)
{
    return s->p.sim ? kv_sim_unix_s(s->p.sim) : (uint64_t)MAX(clock_unix_s(), 0);
}

// The system's clock counts when the store is opened, unless it is behind what the store has seen;
// from then on time is what passes. So a clock that jumps expires nothing.
void store_tick(struct kv_store *s)
{
    uint64_t now = store_now_ns(s);
    if (!s->opened_ns) {
        s->opened_ns = MAX(now, 1);
        s->time_base_s = MAX(s->time_s, unix_now_s(s));
    }
    s->time_s = s->time_base_s + (now - MIN(now, s->opened_ns)) / NS_PER_S;
    if (s->time_s / SECONDS_PER_DAY != s->wear_day) {
        s->wear_day = s->time_s / SECONDS_PER_DAY;
        s->wear_bytes = 0;
    }
}

void count_wear(struct kv_store *s, uint64_t bytes)
{
    s->wear_bytes += bytes;
    s->written_bytes += bytes;
}

void count_failure(struct kv_store *s)
{
    if (++s->failures >= FAILURES_MAX)
        s->stats.degraded = true;
}

// ---- parameters --------------------------------------------------------------------------------

static int check_params(const struct kv_store_params *p, struct err *err)
{
    if (!p->path && !p->sim)
        return err_set(err, -EINVAL, "the store has no path");
    if (p->read_only && p->capacity_bytes)
        return err_set(err, -EINVAL, "a store that is only looked at has no cap");
    if (!p->sim && p->capacity_bytes == 0 && p->block_bytes_max == 0)
        return 0;                       // an existing store as it is
    if (p->capacity_bytes < KV_CAPACITY_BYTES_MIN)
        return err_set(err, -EINVAL, "a store needs at least %u MiB", KV_CAPACITY_BYTES_MIN >> 20);
    if (!p->block_bytes_max || p->block_bytes_max % KV_UNIT_BYTES ||
        p->block_bytes_max > KV_BLOCK_BYTES_MAX)
        return err_set(err, -EINVAL, "blocks of %u bytes cannot be stored", p->block_bytes_max);
    if (slot_bytes_for(p->block_bytes_max) > p->capacity_bytes / 4)
        return err_set(err, -EINVAL, "the store is too small for blocks of %u bytes",
                       p->block_bytes_max);
    if ((uintptr_t)p->memory % KV_UNIT_BYTES || p->memory_bytes % KV_UNIT_BYTES)
        return err_set(err, -EINVAL, "the store's memory is not aligned");
    return 0;
}

// The bytes of the files in a folder. Errors show when it is opened.
static uint64_t folder_bytes(const char *path)
{
    uint64_t bytes = 0;
    DIR *dir = opendir(path);
    struct dirent *e;
    struct stat st;
    while (dir && (e = readdir(dir)))
        if (fstatat(dirfd(dir), e->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode))
            bytes += (uint64_t)st.st_size;
    if (dir)
        closedir(dir);
    return bytes;
}

static void set_defaults(struct kv_store *s)
{
    struct kv_store_params *p = &s->p;
    s->is_found = p->capacity_bytes == 0;
    if (s->is_found) {                  // nothing of it has to go
        p->capacity_bytes = MAX(2 * folder_bytes(p->path), 8 * (uint64_t)KV_BLOCK_BYTES_MAX);
        p->block_bytes_max = KV_BLOCK_BYTES_MAX;
        p->inflight_max = 4;
    }
    p->inflight_max = p->inflight_max ? CLAMP(p->inflight_max, 4, 4096) : 64;
    p->sums_bytes_max = p->sums_bytes_max ? p->sums_bytes_max : 64u << 20;
    p->records_max = p->records_max ? p->records_max : s->is_found ? UINT32_MAX : RECORDS_USUAL;
    uint64_t blocks = p->blocks_max ? p->blocks_max : MAX(p->capacity_bytes >> 16, 1024);
    blocks = MIN(blocks, p->capacity_bytes / (8 * INDEX_BYTES_PER_BLOCK));
    p->blocks_max = (uint32_t)MIN(blocks, SLOT_LAST - 1);
    s->index_bytes_max = MAX(p->capacity_bytes / 64, blocks * INDEX_BYTES_PER_BLOCK);
    s->index_bytes_max = ALIGN_UP(MAX(s->index_bytes_max, INDEX_BYTES_MIN), 65536);
    // A damaged index is kept beside its successor; what else is in the folder fits in a few units.
    s->data_bytes_max = p->capacity_bytes - 2 * s->index_bytes_max - 16 * KV_UNIT_BYTES;
    // Every segment that a group wrote to costs a flush of the disk: few and large ones.
    uint64_t segment = MAX(p->capacity_bytes / 128,
                           MIN(p->capacity_bytes / 8, SEGMENT_BYTES_USUAL));
    segment = p->segment_bytes ? p->segment_bytes : segment;
    segment = MAX(segment, DIV_UP(s->data_bytes_max, SEGMENTS_MAX / 2));
    p->segment_bytes = MAX(ALIGN_UP(segment, KV_UNIT_BYTES), slot_bytes_for(p->block_bytes_max));
}

// ---- open --------------------------------------------------------------------------------------

static void *map(uint64_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        return NULL;
    madvise(p, bytes, MADV_DONTDUMP);   // what users wrote has no place in a core dump
    madvise(p, bytes, MADV_DONTFORK);   // and requests write to it whoever forks meanwhile
    return p;
}

static uint64_t buffers_bytes(const struct kv_store *s)
{
    return (uint64_t)s->p.buffers * s->p.block_bytes_max;
}

static uint64_t headers_bytes(const struct kv_store *s)
{
    return (uint64_t)s->p.inflight_max * s->header_bytes;
}

static int alloc_buffers(struct kv_store *s)
{
    uint32_t n = s->p.inflight_max;
    s->header_bytes = slot_header_bytes(s->p.block_bytes_max);
    s->headers = map(headers_bytes(s));
    s->free_header = malloc(n * sizeof(*s->free_header));
    s->request = calloc(n, sizeof(*s->request));
    s->scratch = malloc(units_of(s->p.block_bytes_max) * sizeof(*s->scratch));
    s->buffers = s->p.buffers ? map(buffers_bytes(s)) : NULL;
    s->free_buffer = malloc(MAX(s->p.buffers, 1) * sizeof(*s->free_buffer));
    s->filling = calloc(1, sizeof(*s->filling));
    s->other = calloc(1, sizeof(*s->other));
    if (!s->headers || !s->free_header || !s->request || !s->scratch || !s->free_buffer ||
        !s->filling || !s->other || (s->p.buffers && !s->buffers))
        return -ENOMEM;
    for (uint32_t i = 0; i < n; i++) {
        s->free_header[i] = s->headers + (size_t)i * s->header_bytes;
        s->request[i].next = s->free_request;
        s->free_request = &s->request[i];
    }
    s->n_free_headers = n;
    for (uint32_t i = s->p.buffers; i-- > 0;)
        s->free_buffer[s->n_free_buffers++] = s->buffers + (size_t)i * s->p.block_bytes_max;
    return 0;
}

static void init_lists(struct kv_store *s)
{
    for (uint32_t i = 0; i < KV_PRIORITY_COUNT; i++)
        io_list_init(&s->queue[i]);
    io_list_init(&s->room);
    io_list_init(&s->records);
    io_list_init(&s->done);
    io_list_init(&s->flushes);
    io_list_init(&s->record_changes);
    io_list_init(&s->record_reads);
    use_init(&s->sums);
    s->commit_first = NO_ENTRY;
}

static int alloc(struct kv_store *s, struct err *err)
{
    init_lists(s);
    s->eventfd = -1;
    s->path = strdup(s->p.path ? s->p.path : "sim");
    int r = s->path ? alloc_buffers(s) : -ENOMEM;
    if (r == 0)
        r = table_init(&s->table, s->p.blocks_max);
    if (r == 0)
        r = segments_init(&s->segments, SEGMENTS_MAX);
    if (r == 0 && !s->p.sim) {
        s->eventfd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        r = s->eventfd < 0 ? -errno : 0;
    }
    return r ? err_set(err, r, "memory for a store of %u blocks: %s", s->p.blocks_max, strerror(-r))
             : 0;
}

static int open_backends(struct kv_store *s, struct err *err)
{
    struct disk_params d = {.path = s->path, .create = !s->is_found, .files_max = SEGMENTS_MAX,
                            .inflight_max = s->p.inflight_max, .eventfd = s->eventfd,
                            .memory = {{s->buffers, s->buffers ? buffers_bytes(s) : 0},
                                       {s->p.memory, s->p.memory_bytes}},
                            .lock = s->lock, .sim = s->p.sim};
    int r = disk_open(&s->disk, s->p.backend, &d, s->stats.note, sizeof(s->stats.note), err);
    if (r)
        return r;
    struct disk_traits t;
    s->disk->ops->traits(s->disk, &t);
    s->stats.backend = s->disk->ops->name;
    s->stats.direct = t.direct;
    s->stats.registered_files = t.registered_files;
    s->stats.registered_buffers = t.registered_buffers;
    s->committer.disk = s->disk;
    return s->p.sim ? index_sim_open(&s->committer.index, s->p.sim, err)
                    : index_open(&s->committer.index, s->path, s->index_bytes_max, err);
}

static void destroy(struct kv_store *s)
{
    if (s->committer.index)
        s->committer.index->ops->close(s->committer.index, !s->index_broken);
    if (s->disk)
        s->disk->ops->close(s->disk);   // the last, since it ends the lock
    records_finish(s);
    table_finish(&s->table);
    segments_finish(&s->segments);
    if (s->eventfd >= 0)
        close(s->eventfd);
    // The kernel may still write to what belongs to a request that never ended.
    if (!s->in_flight && s->headers)
        munmap(s->headers, headers_bytes(s));
    if (!s->in_flight && s->buffers)
        munmap(s->buffers, buffers_bytes(s));
    if (!s->in_flight)
        free(s->request);
    free(s->free_header);
    free(s->scratch);
    free(s->free_buffer);
    free(s->filling);
    free(s->other);
    free(s->path);
    free(s);
}

int kv_store_open(struct kv_store **ret, const struct kv_store_params *p, struct err *err)
{
    return store_open(ret, p, NULL, err);
}

int store_open(struct kv_store **ret, const struct kv_store_params *p, const int *lock,
               struct err *err)
{
    int r = check_params(p, err);
    if (r)
        return r;
    struct kv_store *s = calloc(1, sizeof(*s));
    if (!s)
        return err_set(err, -ENOMEM, "out of memory");
    s->p = *p;
    s->lock = lock;
    set_defaults(s);
    r = alloc(s, err);
    if (r == 0)
        r = open_backends(s, err);
    if (r == 0)
        r = store_load(s, err);
    if (r == 0) {
        r = committer_start(&s->committer, s->eventfd, !p->sim);
        if (r)
            err_set(err, r, "a thread for the store: %s", strerror(-r));
    }
    if (r) {
        destroy(s);
        return r;
    }
    s->lock = NULL;
    *ret = s;
    return 0;
}

// ---- poll --------------------------------------------------------------------------------------

static uint32_t tell(struct kv_store *s)
{
    struct kv_io *io, *next, *list = s->done.first;
    uint32_t n = 0;
    io_list_init(&s->done);
    for (io = list; io; io = next, n++) {
        next = io->priv.next;
        io->done(io);                   // may free io
    }
    return n;
}

static void move_on(struct kv_store *s)
{
    eventfd_t events;
    if (s->eventfd >= 0)
        eventfd_read(s->eventfd, &events);
    store_tick(s);
    op_reaped(s, s->disk->ops->reap(s->disk));
    commit_poll(s);
    op_retry_room(s);
    record_retry(s);
    op_dispatch(s);
    commit_poll(s);
    if (s->retry_records && s->records.first && s->eventfd >= 0)
        eventfd_write(s->eventfd, 1);
}

static void wait_event(struct kv_store *s, uint64_t wait_ns)
{
    struct pollfd p = {.fd = s->eventfd, .events = POLLIN};
    struct timespec t = {(time_t)(wait_ns / NS_PER_S), (long)(wait_ns % NS_PER_S)};
    ppoll(&p, 1, &t, NULL);
}

uint32_t kv_store_poll(struct kv_store *s, uint64_t wait_ns)
{
    move_on(s);
    block_sweep(s);
    record_sweep(s);
    uint32_t n = tell(s);
    if (s->p.sim) {
        for (uint32_t i = 0; !n && wait_ns && !kv_store_idle(s) && i < SIM_POLLS_MAX; i++) {
            move_on(s);
            n = tell(s);
        }
        return n;
    }
    uint64_t end = clock_now_ns() + wait_ns;
    for (uint64_t now; !n && wait_ns && (now = clock_now_ns()) < end;) {
        wait_event(s, end - now);
        move_on(s);
        n = tell(s);
    }
    return n;
}

int kv_store_fd(const struct kv_store *s) { return s->eventfd; }

bool kv_store_idle(const struct kv_store *s)
{
    bool queued = s->room.first || s->records.first || s->done.first || s->flushes.first;
    for (uint32_t i = 0; i < KV_PRIORITY_COUNT; i++)
        queued |= s->queue[i].first != NULL;
    return !queued && !s->in_flight && !s->n_changing && commit_is_idle(s);
}

// ---- close -------------------------------------------------------------------------------------

static void cancel_queued(struct kv_store *s)
{
    struct kv_io *next;
    for (uint32_t p = 0; p < KV_PRIORITY_COUNT; p++)
        for (struct kv_io *io = s->queue[p].first; io; io = next) {
            next = io->priv.next;
            if (io->kind == KV_IO_GET)
                kv_store_cancel(s, io);
        }
}

static void drain(struct kv_store *s, uint64_t end_ns)
{
    while (!kv_store_idle(s) && store_now_ns(s) < end_ns)
        kv_store_poll(s, NS_PER_S / 10);
}

static void save_uses(struct kv_store *s, uint64_t end_ns)
{
    for (uint32_t i = 0; i < s->table.n_touched && !s->index_broken;) {
        struct entry *e = &s->table.entry[i];
        if (e->state == ENTRY_LIVE && e->use_dirty && !commit_use(s, e)) {
            drain(s, end_ns);           // the group is full
            if (store_now_ns(s) >= end_ns)
                return;
            continue;
        }
        e->use_dirty = false;
        i++;
    }
    drain(s, end_ns);
}

// An operation that the disk does not end in time is never told: its buffer is not the caller's.
void kv_store_close(struct kv_store *s)
{
    if (!s)
        return;
    uint64_t end = store_now_ns(s) + CLOSE_TIMEOUT_NS;
    cancel_queued(s);
    drain(s, end);
    save_uses(s, end);
    committer_stop(&s->committer);
    tell(s);
    destroy(s);
}

// ---- buffers -----------------------------------------------------------------------------------

void *kv_store_buffer(struct kv_store *s)
{
    return s->n_free_buffers ? s->free_buffer[--s->n_free_buffers] : NULL;
}

void kv_store_buffer_free(struct kv_store *s, void *buf)
{
    if (!buf)
        return;
    size_t at = (size_t)((uint8_t *)buf - s->buffers);
    assert(at < buffers_bytes(s) && at % s->p.block_bytes_max == 0);
    assert(s->n_free_buffers < s->p.buffers);
    s->free_buffer[s->n_free_buffers++] = buf;
}

void *kv_store_buffers(struct kv_store *s, uint64_t *bytes)
{
    *bytes = buffers_bytes(s);
    return s->buffers;
}
