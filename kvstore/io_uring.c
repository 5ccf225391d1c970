// The disk through io_uring: one ring, used by the store's thread, with registered files and, where
// the limit on locked memory lets it, registered buffers. This is the only file that includes
// liburing.
#include <errno.h>
#include <liburing.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include "base/base.h"
#include "kvstore/files.h"

#define BUFFERS_MAX 64u                 // registered pieces of memory
#define PIECE_BYTES ((size_t)1 << 30)   // what the kernel takes as one

struct ring_disk {
    struct files    base;
    struct io_uring ring;
    struct io_uring syncs;              // the committer's
    bool            has_syncs;
    struct disk_io *waiting, **waiting_end;     // found no free entry in the submission queue
    struct iovec    piece[BUFFERS_MAX];
    uint32_t        n_pieces;           // registered
    uint32_t        in_flight;
    bool            has_files;
};

static struct ring_disk *of(struct disk *d) { return (struct ring_disk *)d; }

// No IORING_SETUP_COOP_TASKRUN: the owner may have lent the store to a thread that waits for what
// another one submitted, which then computes without entering the kernel.
static int setup_ring(struct ring_disk *r, uint32_t entries)
{
    return io_uring_queue_init(entries, &r->ring, 0);
}

// After a fork, the first to write to a page gets a copy: the parent, while the ring still reads
// and writes the page that it has registered. So no child may have these pages.
static bool keep_from_children(struct ring_disk *r, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        if (madvise(r->piece[i].iov_base, r->piece[i].iov_len, MADV_DONTFORK) != 0)
            return false;
    return true;
}

static void give_to_children(struct ring_disk *r, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        madvise(r->piece[i].iov_base, r->piece[i].iov_len, MADV_DOFORK);
}

// Pieces of at most 1 GiB of the memory that requests will use. Refused ones are done without.
static void register_memory(struct ring_disk *r, const struct disk_params *p)
{
    uint32_t n = 0;
    for (size_t i = 0; i < ARRAY_LEN(p->memory); i++) {
        char *base = p->memory[i].iov_base;
        for (size_t left = p->memory[i].iov_len; left > 0 && n < BUFFERS_MAX; n++) {
            size_t bytes = MIN(left, PIECE_BYTES);
            r->piece[n] = (struct iovec){base, bytes};
            base += bytes;
            left -= bytes;
        }
    }
    if (n && keep_from_children(r, n) && io_uring_register_buffers(&r->ring, r->piece, n) == 0)
        r->n_pieces = n;
    else
        give_to_children(r, n);
}

// The lock is the ring's too: it lasts until the last request has ended in the kernel, also when
// the process is killed or has given up on a disk that does not answer.
static void register_files(struct ring_disk *r, uint32_t files_max)
{
    const int *lock = &r->base.lock;
    r->has_files = io_uring_register_files_sparse(&r->ring, files_max + 1) == 0;
    if (r->has_files)
        io_uring_register_files_update(&r->ring, files_max, lock, 1);
    else
        io_uring_register_files(&r->ring, lock, 1);
}

static int ring_open(struct disk **ret, const struct disk_params *p, struct err *err)
{
    struct ring_disk *r = calloc(1, sizeof(*r));
    if (!r)
        return err_set(err, -ENOMEM, "out of memory");
    int e = setup_ring(r, p->inflight_max);
    if (e) {
        free(r);
        return err_set(err, e, "io_uring: %s%s", strerror(-e),
                       e == -EPERM ? " (a container or kernel.io_uring_disabled?)" :
                       e == -ENOMEM ? " (RLIMIT_MEMLOCK?)" : "");
    }
    e = files_open(&r->base, p, err);
    if (e == 0 && (e = io_uring_register_eventfd(&r->ring, p->eventfd)) != 0) {
        files_finish(&r->base);
        err_set(err, e, "io_uring with an eventfd: %s", strerror(-e));
    }
    if (e) {
        io_uring_queue_exit(&r->ring);
        free(r);
        return e;
    }
    r->base.disk.ops = &disk_io_uring;
    r->waiting_end = &r->waiting;
    register_files(r, p->files_max);
    register_memory(r, p);
    r->has_syncs = io_uring_queue_init(SYNCS_MAX, &r->syncs, 0) == 0;
    *ret = &r->base.disk;
    return 0;
}

static void ring_close(struct disk *d)
{
    struct ring_disk *r = of(d);
    r->base.is_busy = r->in_flight > 0;
    if (r->has_syncs)
        io_uring_queue_exit(&r->syncs);
    io_uring_queue_exit(&r->ring);
    if (!r->base.is_busy)
        give_to_children(r, r->n_pieces);
    files_finish(&r->base);
    free(r);
}

// The registered piece that holds all of v, or -1.
static int piece_of(const struct ring_disk *r, const struct iovec *v)
{
    for (uint32_t i = 0; i < r->n_pieces; i++) {
        const char *base = r->piece[i].iov_base, *p = v->iov_base;
        if (p >= base && p + v->iov_len <= base + r->piece[i].iov_len)
            return (int)i;
    }
    return -1;
}

static void prepare(struct ring_disk *r, struct io_uring_sqe *sqe, struct disk_io *io)
{
    int fd = r->has_files ? (int)io->file : r->base.fd[io->file];
    int piece = io->n_iov == 1 ? piece_of(r, &io->iov[0]) : -1;
    unsigned n = (unsigned)io->iov[0].iov_len;
    void *p = io->iov[0].iov_base;
    if (io->n_iov > 1 && io->write)
        io_uring_prep_writev(sqe, fd, io->iov, io->n_iov, io->offset_bytes);
    else if (io->n_iov > 1)
        io_uring_prep_readv(sqe, fd, io->iov, io->n_iov, io->offset_bytes);
    else if (piece >= 0 && io->write)
        io_uring_prep_write_fixed(sqe, fd, p, n, io->offset_bytes, piece);
    else if (piece >= 0)
        io_uring_prep_read_fixed(sqe, fd, p, n, io->offset_bytes, piece);
    else if (io->write)
        io_uring_prep_write(sqe, fd, p, n, io->offset_bytes);
    else
        io_uring_prep_read(sqe, fd, p, n, io->offset_bytes);
    if (r->has_files)
        sqe->flags |= IOSQE_FIXED_FILE;
    io_uring_sqe_set_data(sqe, io);
}

static void ring_submit(struct disk *d, struct disk_io *io)
{
    struct ring_disk *r = of(d);
    struct io_uring_sqe *sqe = r->waiting ? NULL : io_uring_get_sqe(&r->ring);
    io->next = NULL;
    if (sqe) {
        prepare(r, sqe, io);
        r->in_flight++;
        return;
    }
    *r->waiting_end = io;
    r->waiting_end = &io->next;
}

static void ring_kick(struct disk *d)
{
    struct ring_disk *r = of(d);
    // EBUSY, EAGAIN and EINTR leave the entries where they are: the next call hands them over.
    int e = io_uring_submit(&r->ring);
    struct io_uring_sqe *sqe;
    while (e >= 0 && r->waiting && (sqe = io_uring_get_sqe(&r->ring))) {
        struct disk_io *io = r->waiting;
        r->waiting = io->next;
        if (!r->waiting)
            r->waiting_end = &r->waiting;
        prepare(r, sqe, io);
        r->in_flight++;
    }
    if (e >= 0 && io_uring_sq_ready(&r->ring))
        io_uring_submit(&r->ring);
}

static void ring_cancel(struct disk *d, struct disk_io *io)
{
    struct ring_disk *r = of(d);
    struct io_uring_sqe *sqe = io_uring_get_sqe(&r->ring);
    if (!sqe)
        return;
    io_uring_prep_cancel(sqe, io, 0);
    io_uring_sqe_set_data(sqe, NULL);
}

static struct disk_io *ring_reap(struct disk *d)
{
    struct ring_disk *r = of(d);
    struct disk_io *list = NULL;
    struct io_uring_cqe *cqe;
    if (io_uring_sq_ready(&r->ring) || r->waiting)
        ring_kick(d);
    while (io_uring_peek_cqe(&r->ring, &cqe) == 0) {
        struct disk_io *io = io_uring_cqe_get_data(cqe);
        int result = cqe->res;
        io_uring_cqe_seen(&r->ring, cqe);
        if (!io)                        // of a wish to cancel
            continue;
        assert(r->in_flight > 0);
        r->in_flight--;
        io->result = result;
        io->next = list;
        list = io;
    }
    return list;
}

// ---- registered files --------------------------------------------------------------------------

static int ring_file_open(struct disk *d, uint32_t file, const char *name, bool make,
                          uint64_t *bytes)
{
    struct ring_disk *r = of(d);
    int e = files_segment(d, file, name, make, bytes);
    if (e || !r->has_files)
        return e;
    int n = io_uring_register_files_update(&r->ring, file, &r->base.fd[file], 1);
    if (n == 1)
        return 0;
    files_segment_close(d, file);
    if (make)
        files_remove(d, name);
    return n < 0 ? n : -EIO;
}

static void ring_file_close(struct disk *d, uint32_t file)
{
    struct ring_disk *r = of(d);
    int none = -1;
    if (r->has_files)
        io_uring_register_files_update(&r->ring, file, &none, 1);
    files_segment_close(d, file);
}

// ---- syncs -------------------------------------------------------------------------------------

// Until all have ended, for each has to. Returns 0 or what the ring says.
static int wait_for_syncs(struct ring_disk *r, uint32_t n)
{
    struct io_uring_cqe *cqe;
    for (uint32_t i = 0; i < n; i++) {
        int e;
        do
            e = io_uring_wait_cqe(&r->syncs, &cqe);
        while (e == -EINTR || e == -EAGAIN);
        if (e)
            return e;
        struct disk_sync *s = io_uring_cqe_get_data(cqe);
        s->result = cqe->res;
        io_uring_cqe_seen(&r->syncs, cqe);
    }
    return 0;
}

static void ring_sync(struct disk *d, struct disk_sync *s, uint32_t n)
{
    struct ring_disk *r = of(d);
    assert(n <= SYNCS_MAX);
    if (n == 1 || !r->has_syncs) {
        files_sync(d, s, n);
        return;
    }
    for (uint32_t i = 0; i < n; i++) {
        struct io_uring_sqe *sqe = io_uring_get_sqe(&r->syncs);
        io_uring_prep_fsync(sqe, r->base.fd[s[i].file], IORING_FSYNC_DATASYNC);
        io_uring_sqe_set_data(sqe, &s[i]);
        s[i].result = -EIO;             // what is never told did not happen
    }
    int given;
    do
        given = io_uring_submit(&r->syncs);
    while (given == -EINTR);
    if (given == (int)n && wait_for_syncs(r, n) == 0)
        return;
    io_uring_queue_exit(&r->syncs);     // without it from now on
    r->has_syncs = false;
    if (given <= 0)
        files_sync(d, s, n);
}

static void ring_traits(struct disk *d, struct disk_traits *ret)
{
    const struct ring_disk *r = of(d);
    *ret = (struct disk_traits){r->base.direct, r->has_files, r->n_pieces > 0};
}

const struct disk_ops disk_io_uring = {
    .name = "io_uring", .open = ring_open, .close = ring_close, FILES_OPS,
    .file_open = ring_file_open, .file_close = ring_file_close, .traits = ring_traits,
    .sync = ring_sync, .submit = ring_submit, .kick = ring_kick, .cancel = ring_cancel,
    .reap = ring_reap,
};
