// The disk where io_uring is denied or absent: preadv and pwritev on a few threads.
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/uio.h>
#include <unistd.h>
#include "base/base.h"
#include "kvstore/files.h"

#define THREADS_MAX 16u

struct posix_disk {
    struct files    base;
    int             eventfd;
    pthread_mutex_t lock;               // a leaf; protects everything below
    pthread_cond_t  work;
    struct disk_io *todo, **todo_end;
    struct disk_io *done;
    bool            quit;
    pthread_t       thread[THREADS_MAX];
    uint32_t        n_threads;
};

static struct posix_disk *of(struct disk *d) { return (struct posix_disk *)d; }

static int transfer(struct posix_disk *p, struct disk_io *io)
{
    int fd = p->base.fd[io->file];
    off_t at = (off_t)io->offset_bytes;
    ssize_t n = io->write ? pwritev(fd, io->iov, io->n_iov, at)
                          : preadv(fd, io->iov, io->n_iov, at);
    return n < 0 ? -errno : (int)n;
}

static void *worker(void *arg)
{
    struct posix_disk *p = arg;
    pthread_mutex_lock(&p->lock);
    for (;;) {
        while (!p->todo && !p->quit)
            pthread_cond_wait(&p->work, &p->lock);
        struct disk_io *io = p->todo;
        if (!io)
            break;
        p->todo = io->next;
        if (!p->todo)
            p->todo_end = &p->todo;
        pthread_mutex_unlock(&p->lock);
        io->result = transfer(p, io);
        pthread_mutex_lock(&p->lock);
        io->next = p->done;
        p->done = io;
        if (!io->next)
            eventfd_write(p->eventfd, 1);
    }
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

static void posix_close(struct disk *d)
{
    struct posix_disk *p = of(d);
    pthread_mutex_lock(&p->lock);
    p->quit = true;
    pthread_cond_broadcast(&p->work);
    pthread_mutex_unlock(&p->lock);
    for (uint32_t i = 0; i < p->n_threads; i++)
        pthread_join(p->thread[i], NULL);
    pthread_cond_destroy(&p->work);
    pthread_mutex_destroy(&p->lock);
    files_finish(&p->base);
    free(p);
}

static int posix_open(struct disk **ret, const struct disk_params *params, struct err *err)
{
    struct posix_disk *p = calloc(1, sizeof(*p));
    if (!p)
        return err_set(err, -ENOMEM, "out of memory");
    int r = files_open(&p->base, params, err);
    if (r) {
        free(p);
        return r;
    }
    p->base.disk.ops = &disk_posix;
    p->eventfd = params->eventfd;
    p->todo_end = &p->todo;
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->work, NULL);
    uint32_t n = MIN(params->inflight_max, THREADS_MAX);
    while (r == 0 && p->n_threads < n) {
        r = -disk_thread(&p->thread[p->n_threads], worker, p);
        p->n_threads += r == 0;
    }
    if (p->n_threads == 0) {            // fewer than wanted will do
        posix_close(&p->base.disk);
        return err_set(err, r, "threads for the store: %s", strerror(-r));
    }
    *ret = &p->base.disk;
    return 0;
}

static void posix_submit(struct disk *d, struct disk_io *io)
{
    struct posix_disk *p = of(d);
    io->next = NULL;
    pthread_mutex_lock(&p->lock);
    *p->todo_end = io;
    p->todo_end = &io->next;
    pthread_cond_signal(&p->work);
    pthread_mutex_unlock(&p->lock);
}

static void posix_kick(struct disk *d) { (void)d; }

static void posix_cancel(struct disk *d, struct disk_io *io)
{
    (void)d;
    (void)io;
}

static struct disk_io *posix_reap(struct disk *d)
{
    struct posix_disk *p = of(d);
    pthread_mutex_lock(&p->lock);
    struct disk_io *list = p->done;
    p->done = NULL;
    pthread_mutex_unlock(&p->lock);
    return list;
}

const struct disk_ops disk_posix = {
    .name = "posix", .open = posix_open, .close = posix_close, FILES_OPS,
    .file_open = files_segment, .file_close = files_segment_close, .traits = files_traits,
    .sync = files_sync, .submit = posix_submit, .kick = posix_kick, .cancel = posix_cancel,
    .reap = posix_reap,
};
