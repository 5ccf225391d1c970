// Opening and closing listeners; see http.h.
#include "server/http.h"
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include "base/base.h"
#include "base/clock.h"
#include "base/log.h"
#include "server/http_int.h"

#define CLOSE_WAIT_NS (5 * NS_PER_S)    // for calls to end when a listener closes

// Paths are compared as they were sent: what is escaped is another path.
static size_t keep_escapes(void *ctx, struct MHD_Connection *mhd, char *text)
{
    (void)ctx;
    (void)mhd;
    return strlen(text);
}

static void mhd_log(void *ctx, const char *fmt, va_list ap)
{
    (void)ctx;
    (void)fmt;                          // texts about clients' mistakes; the client gets its own
    (void)ap;
}

static struct MHD_Daemon *start_mhd(struct http_loop *loop)
{
    unsigned flags = MHD_USE_EPOLL_INTERNAL_THREAD | MHD_USE_NO_LISTEN_SOCKET | MHD_USE_ITC |
                     MHD_ALLOW_SUSPEND_RESUME | MHD_USE_TURBO;
    return MHD_start_daemon(flags, 0, NULL, NULL, conn_request, loop,
                            MHD_OPTION_EXTERNAL_LOGGER, mhd_log, NULL,
                            MHD_OPTION_NOTIFY_COMPLETED, conn_completed, loop,
                            MHD_OPTION_NOTIFY_CONNECTION, conn_notify, loop,
                            MHD_OPTION_UNESCAPE_CALLBACK, keep_escapes, NULL,
                            MHD_OPTION_CONNECTION_MEMORY_LIMIT, POOL_BYTES,
                            MHD_OPTION_CONNECTION_LIMIT, loop->http->p.connections_max + 64,
                            MHD_OPTION_CONNECTION_TIMEOUT, 0u,
                            MHD_OPTION_STRICT_FOR_CLIENT, 1,
                            MHD_OPTION_END);
}

static void nap(void)
{
    nanosleep(&(struct timespec){ .tv_nsec = 2000000 }, NULL);
}

// Ends what waits. libmicrohttpd must not be stopped with suspended connections.
static void end_calls(struct http *h)
{
    uint64_t until_ns = clock_now_ns() + CLOSE_WAIT_NS;
    while (atomic_load(&h->n_calls) && clock_now_ns() < until_ns) {
        pthread_mutex_lock(&h->lock);
        for (struct conn *c = h->conns; c; c = c->next) {
            if (!c->call)
                continue;
            call_set_gone(c->call);
            shutdown(c->fd, SHUT_RDWR);
        }
        pthread_mutex_unlock(&h->lock);
        nap();
    }
}

static void free_conns(struct conn *c)
{
    for (struct conn *next; c; c = next) {
        next = c->next;
        free(c);
    }
}

// listeners: close the listening sockets too. They are not shut down: the service manager may hold
// them, for whoever comes next.
static void destroy(struct http *h, bool listeners)
{
    atomic_store(&h->stopping, true);
    door_stop(h);
    end_calls(h);
    workers_stop(h);
    end_calls(h);                       // those that workers were busy with for longer
    if (atomic_load(&h->n_calls))
        log_error("%u calls did not end", atomic_load(&h->n_calls));
    for (unsigned i = 0; h->loop && i < h->p.threads; i++) {
        if (h->loop[i].mhd)
            MHD_stop_daemon(h->loop[i].mhd);
    }
    free_conns(h->dead);
    free_conns(h->conns);
    int fds[] = { h->epoll_fd, h->stop_fd, h->spare_fd };
    for (size_t i = 0; i < ARRAY_LEN(fds); i++) {
        if (fds[i] >= 0)
            close(fds[i]);
    }
    for (unsigned i = 0; listeners && i < h->p.n_listen; i++)
        close(h->p.listen_fd[i]);
    pthread_mutex_destroy(&h->lock);
    pthread_mutex_destroy(&h->work_lock);
    pthread_cond_destroy(&h->work_cond);
    free(h->by_fd);
    free(h->loop);
    free(h->p.listen_fd);
    free(h);
}

static int start(struct http *h, struct err *err)
{
    for (unsigned i = 0; i < h->p.threads; i++) {
        h->loop[i].http = h;
        h->loop[i].mhd = start_mhd(&h->loop[i]);
        if (!h->loop[i].mhd)
            return err_set(err, -EIO, "cannot start an HTTP thread");
    }
    int r = workers_start(h, err);
    return r ? r : door_start(h, err);
}

int http_open(struct http **ret, const struct http_params *p, struct err *err)
{
    struct http *h = calloc(1, sizeof(*h));
    if (!h)
        return err_set(err, -ENOMEM, "out of memory");
    h->p = *p;
    h->epoll_fd = h->stop_fd = h->spare_fd = -1;
    pthread_mutex_init(&h->lock, NULL);
    pthread_mutex_init(&h->work_lock, NULL);
    pthread_cond_init(&h->work_cond, NULL);
    h->loop = calloc(p->threads, sizeof(*h->loop));
    h->p.listen_fd = calloc(p->n_listen + 1, sizeof(int));
    int r = -ENOMEM;
    if (!h->loop || !h->p.listen_fd) {
        err_set(err, r, "out of memory");
        goto fail;
    }
    memcpy(h->p.listen_fd, p->listen_fd, p->n_listen * sizeof(int));
    r = start(h, err);
    if (r)
        goto fail;
    *ret = h;
    return 0;
fail:
    destroy(h, false);
    return r;
}

void http_close(struct http *h)
{
    if (h)
        destroy(h, true);
}

void http_wake_all(struct http *h)
{
    pthread_mutex_lock(&h->lock);
    for (struct conn *c = h->conns; c; c = c->next) {
        if (c->call)
            call_wake(&c->call->c);
    }
    pthread_mutex_unlock(&h->lock);
}

void http_counts(struct http *h, struct http_counts *ret)
{
    struct http_counts n = { .calls = atomic_load(&h->n_calls),
                            .accepted = atomic_load(&h->n_accepted) };
    pthread_mutex_lock(&h->lock);
    n.connections = h->n_conns;
    pthread_mutex_unlock(&h->lock);
    *ret = n;
}
