// The door of a listener: accepts, reads each connection's first head without taking it from the
// socket, refuses in JSON, and hands good ones to an epoll thread of libmicrohttpd. The same thread
// closes what misses its deadline and tells calls that their client is gone, neither of which
// libmicrohttpd can do: its only timeout is inactivity, and it does not look at suspended
// connections.
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <linux/tcp.h>              // not netinet: its tcp_info is an old one
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <unistd.h>
#include "base/base.h"
#include "base/clock.h"
#include "base/log.h"
#include "server/http_head.h"
#include "server/http_int.h"

#define EVENTS_MAX 128
#define ACCEPTS_MAX 64                  // in a row, before other events get their turn
#define LINGER_NS (1 * NS_PER_S)        // for a refused client to read why
#define LINGER_MAX 512                  // refused connections held open
#define ACCEPT_PAUSE_NS (100 * NS_PER_MS)
#define SEND_BUFFER_BYTES (256 << 10)   // else the kernel keeps megabytes for each slow reader
#define IDLE_LOOK_TICKS 10              // idle connections are looked at every so many ticks
// A tick that comes so late says that the process stood still, stopped or with its machine. Its
// clients get a moment to be served before anything is held against them.
#define STANDSTILL_NS (1 * NS_PER_S)
#define GRACE_NS (1 * NS_PER_S)

// ---- the lists; http.lock is held ---------------------------------------------------------------

static void list_add(struct conn **head, struct conn *c)
{
    c->prev = NULL;
    c->next = *head;
    if (*head)
        (*head)->prev = c;
    *head = c;
}

static void list_remove(struct conn **head, struct conn *c)
{
    if (c->prev)
        c->prev->next = c->next;
    else
        *head = c->next;
    if (c->next)
        c->next->prev = c->prev;
}

static void addr_key(const struct sockaddr_storage *a, unsigned char key[16])
{
    memset(key, 0, 16);
    if (a->ss_family == AF_INET)
        memcpy(key, &((const struct sockaddr_in *)a)->sin_addr, 4);
    if (a->ss_family != AF_INET6)
        return;
    const struct in6_addr *ip = &((const struct sockaddr_in6 *)a)->sin6_addr;
    if (IN6_IS_ADDR_V4MAPPED(ip))       // of a socket for both families
        memcpy(key, ip->s6_addr + 12, 4);
    else
        memcpy(key, ip, 8);             // a /64 is one customer
}

static struct addr_count **addr_slot(struct http *h, const unsigned char key[16])
{
    uint64_t hash = h->addr_seed;
    for (int i = 0; i < 16; i++)
        hash = (hash ^ key[i]) * UINT64_C(0x100000001b3);
    struct addr_count **at = &h->addr[(hash >> 32) % ADDR_BUCKETS];
    while (*at && memcmp((*at)->addr, key, 16) != 0)
        at = &(*at)->next;
    return at;
}

// Returns 0, or -1 when this address has too many.
static int addr_take(struct http *h, struct conn *c)
{
    unsigned char key[16];
    addr_key(&c->peer, key);
    struct addr_count **at = addr_slot(h, key), *a = *at;
    if (!a) {
        a = calloc(1, sizeof(*a));
        if (!a)
            return -1;
        memcpy(a->addr, key, 16);
        *at = a;
    }
    if (a->n >= h->p.per_address_max)
        return -1;
    a->n++;
    c->addr = a;
    return 0;
}

static void addr_give(struct http *h, struct conn *c)
{
    struct addr_count *a = c->addr;
    c->addr = NULL;
    if (!a || --a->n)
        return;
    struct addr_count **at = addr_slot(h, a->addr);
    assert(*at == a);
    *at = a->next;
    free(a);
}

static void forget(struct http *h, struct conn *c)
{
    list_remove(&h->conns, c);
    h->by_fd[c->fd] = NULL;
    if (atomic_load(&c->phase) == CONN_LINGER)
        h->n_linger--;
    else
        h->n_conns--;
    addr_give(h, c);
    atomic_store(&c->phase, CONN_DEAD);
    list_add(&h->dead, c);
}

// ---- closing ------------------------------------------------------------------------------------

// libmicrohttpd is about to close the socket. The door may hold an event of it: it frees the
// memory.
void conn_closed(struct http *h, struct conn *c)
{
    atomic_fetch_sub(&c->loop->n_conns, 1);
    pthread_mutex_lock(&h->lock);
    epoll_ctl(h->epoll_fd, EPOLL_CTL_DEL, c->fd, NULL);
    forget(h, c);
    pthread_mutex_unlock(&h->lock);
}

// A connection that is still the door's.
static void close_at_door(struct http *h, struct conn *c)
{
    int fd = c->fd;
    pthread_mutex_lock(&h->lock);
    forget(h, c);
    pthread_mutex_unlock(&h->lock);
    close(fd);
}

static void free_dead(struct http *h)
{
    pthread_mutex_lock(&h->lock);
    struct conn *c = h->dead;
    h->dead = NULL;
    pthread_mutex_unlock(&h->lock);
    for (struct conn *next; c; c = next) {
        next = c->next;
        free(c);
    }
}

// ---- refusing -----------------------------------------------------------------------------------

void door_write_refusal(int fd, const struct fault *f)
{
    struct str body = {0}, head = {0};
    unsigned status = api_error_status(f->error);
    fault_json(&body, f);
    str_printf(&head, "HTTP/1.1 %u %s\r\nContent-Type: application/json\r\n"
               "Content-Length: %zu\r\nConnection: close\r\n", status, http_status_text(status),
               body.n);
    if (status == 429 || status == 503)
        str_puts(&head, "Retry-After: 1\r\n");
    str_puts(&head, "\r\n");
    str_add(&head, body.p, body.n);
    if (str_ok(&body) && str_ok(&head)) {
        ssize_t ignored = send(fd, head.p, head.n, MSG_NOSIGNAL | MSG_DONTWAIT);
        (void)ignored;                  // a client that cannot take 300 bytes goes without
    }
    str_free(&body);
    str_free(&head);
}

// Answers, then waits for the client to close: closing at once would reset the connection and lose
// the answer while unread bytes are there.
static void refuse(struct http *h, struct conn *c, const struct fault *f)
{
    h->p.events->refused(h->p.app, f->error);
    door_write_refusal(c->fd, f);
    shutdown(c->fd, SHUT_WR);
    pthread_mutex_lock(&h->lock);
    bool room = h->n_linger < LINGER_MAX;
    if (room) {
        h->n_linger++;
        h->n_conns--;
        addr_give(h, c);
        atomic_store(&c->phase, CONN_LINGER);
        atomic_store(&c->deadline_ns, clock_now_ns() + LINGER_NS);
    }
    pthread_mutex_unlock(&h->lock);
    if (!room)
        close_at_door(h, c);
}

static void linger(struct http *h, struct conn *c)
{
    char buf[4096];
    for (int i = 0; i < 16; i++) {
        ssize_t n = recv(c->fd, buf, sizeof(buf), MSG_DONTWAIT);
        if (n < 0 && errno == EAGAIN)
            return;
        if (n <= 0) {
            close_at_door(h, c);
            return;
        }
    }
}

// ---- handing over -------------------------------------------------------------------------------

static struct http_loop *idlest(struct http *h)
{
    struct http_loop *best = &h->loop[0];
    for (unsigned i = 1; i < h->p.threads; i++) {
        if (atomic_load(&h->loop[i].n_conns) < atomic_load(&best->n_conns))
            best = &h->loop[i];
    }
    return best;
}

static void hand_over(struct http *h, struct conn *c)
{
    struct epoll_event e = { .events = EPOLLRDHUP | EPOLLET, .data.ptr = c };
    c->loop = idlest(h);
    atomic_fetch_add(&c->loop->n_conns, 1);
    atomic_store(&c->phase, CONN_IDLE);
    atomic_store(&c->deadline_ns, clock_now_ns() + h->p.header_ns);
    epoll_ctl(h->epoll_fd, EPOLL_CTL_MOD, c->fd, &e);
    if (MHD_add_connection(c->loop->mhd, c->fd, (struct sockaddr *)&c->peer, c->peer_len) != MHD_NO)
        return;                         // c may be gone already
    atomic_fetch_sub(&c->loop->n_conns, 1);     // the socket was closed
    pthread_mutex_lock(&h->lock);
    forget(h, c);
    pthread_mutex_unlock(&h->lock);
}

// More of a first head arrived. hup: the client will send nothing more.
static void look_at_head(struct http *h, struct conn *c, bool hup)
{
    char buf[HEAD_BYTES_MAX + 1];
    struct http_head head;
    struct fault f = {0};
    ssize_t n = recv(c->fd, buf, sizeof(buf), MSG_PEEK | MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    int r = n > 0 ? http_head_parse(buf, (size_t)n, &head, &f) : 0;
    if (r > 0)
        hand_over(h, c);
    else if (r < 0)
        refuse(h, c, &f);
    else if (n <= 0 || hup)
        close_at_door(h, c);
}

// ---- accepting ----------------------------------------------------------------------------------

static void set_options(int fd)
{
    int on = 1, idle_s = 30, user_ms = 30000, sndbuf = SEND_BUFFER_BYTES;
    // Failures are fine: a unix socket has none of these.
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof(idle_s));
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &sndbuf, sizeof(sndbuf));
    setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &user_ms, sizeof(user_ms));
}

// Counts a new connection. Returns 0 or -1 with the reason to refuse it.
static int admit(struct http *h, struct conn *c, struct fault *f)
{
    int r = 0;
    pthread_mutex_lock(&h->lock);
    list_add(&h->conns, c);
    h->by_fd[c->fd] = c;
    if (++h->n_conns > h->p.connections_max)
        r = fault_set(f, ERROR_overloaded, NULL, "Too many connections.");
    else if (addr_take(h, c) < 0)
        r = fault_set(f, ERROR_too_many_connections, NULL,
                      "Too many connections from this address.");
    pthread_mutex_unlock(&h->lock);
    return r;
}

static void greet(struct http *h, int fd, const struct sockaddr_storage *peer, socklen_t peer_len)
{
    struct fault f = {0};
    struct conn *c = (unsigned)fd < h->by_fd_max ? calloc(1, sizeof(*c)) : NULL;
    if (!c) {
        close(fd);
        return;
    }
    c->fd = fd;
    c->peer = *peer;
    c->peer_len = peer_len;
    atomic_store(&c->phase, CONN_HEAD);
    atomic_store(&c->deadline_ns, clock_now_ns() + h->p.header_ns);
    atomic_fetch_add(&h->n_accepted, 1);
    set_options(fd);
    int refused = admit(h, c, &f);
    struct epoll_event e = { .events = EPOLLIN | EPOLLRDHUP | EPOLLET, .data.ptr = c };
    if (epoll_ctl(h->epoll_fd, EPOLL_CTL_ADD, fd, &e) != 0)
        close_at_door(h, c);
    else if (refused)
        refuse(h, c, &f);
    else
        look_at_head(h, c, false);      // its bytes are often there already
}

// No descriptor is left: the spare one makes room to take a connection and drop it; then accept
// rests.
static void accept_without_fds(struct http *h, int listen_fd)
{
    close(h->spare_fd);
    int fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC);
    if (fd >= 0)
        close(fd);
    h->spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    h->accept_again_ns = clock_now_ns() + ACCEPT_PAUSE_NS;
    h->p.events->refused(h->p.app, ERROR_overloaded);
}

static void accept_some(struct http *h, int listen_fd)
{
    for (int i = 0; i < ACCEPTS_MAX && !h->accept_again_ns; i++) {
        struct sockaddr_storage peer = {0};
        socklen_t len = sizeof(peer);
        int fd = accept4(listen_fd, (struct sockaddr *)&peer, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0)
            greet(h, fd, &peer, len);
        else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)
            accept_without_fds(h, listen_fd);
        else if (errno != EINTR && errno != ECONNABORTED)
            return;
    }
}

static void watch_listeners(struct http *h, bool on)
{
    for (unsigned i = 0; i < h->p.n_listen; i++) {
        struct epoll_event e = { .events = on ? EPOLLIN : 0, .data.ptr = &h->p.listen_fd[i] };
        epoll_ctl(h->epoll_fd, EPOLL_CTL_MOD, h->p.listen_fd[i], &e);
    }
}

// ---- watching -----------------------------------------------------------------------------------

// Has an idle connection begun its next request? Then it has as long for the head as a new one.
// idle_ns: the deadline while it was idle; another one belongs to a request and stays.
static void look_at_idle(struct http *h, struct conn *c, uint64_t now_ns, uint64_t idle_ns)
{
    struct tcp_info info;
    socklen_t len = sizeof(info);
    if (getsockopt(c->fd, IPPROTO_TCP, TCP_INFO, &info, &len) != 0 ||
        len < offsetof(struct tcp_info, tcpi_bytes_received) + 8)
        return;
    uint64_t bytes = info.tcpi_bytes_received + 1, deadline = now_ns + h->p.header_ns;
    uint64_t seen = atomic_load(&c->seen_bytes);
    if (seen && bytes != seen && deadline < idle_ns)
        atomic_compare_exchange_strong(&c->deadline_ns, &idle_ns, deadline);
    if (!seen || deadline <= idle_ns)
        atomic_store(&c->seen_bytes, bytes);
}

// may_cut: whether a stalled reader loses its stream.
static void watch_call(struct http *h, struct conn *c, struct call_link *l, uint64_t now_ns,
                       bool may_cut)
{
    if (!atomic_load(&l->flowing))
        return;
    pthread_mutex_lock(&l->lock);       // unparking is progress: both or neither is seen
    bool parked = l->parked;
    uint64_t since = now_ns - MIN(now_ns, atomic_load(&l->progress_ns));
    pthread_mutex_unlock(&l->lock);
    if (!parked && since > h->p.write_ns && may_cut) {
        call_set_gone(l);               // takes nothing: a stalled reader
        shutdown(c->fd, SHUT_RDWR);
    } else if (parked && since > h->p.ping_ns) {
        atomic_store(&l->ping, true);
        call_wake(&l->c);
    }
}

static void tick(struct http *h, uint64_t n_tick, uint64_t now_ns, bool may_cut)
{
    struct conn *late[EVENTS_MAX];      // at the door: closed without the lock
    unsigned n_late = 0;
    pthread_mutex_lock(&h->lock);
    for (struct conn *c = h->conns; c; c = c->next) {
        uint64_t deadline = atomic_load(&c->deadline_ns);   // before the phase; see look_at_idle
        if (n_tick % IDLE_LOOK_TICKS == 0 && atomic_load(&c->phase) == CONN_IDLE)
            look_at_idle(h, c, now_ns, deadline);
        if (c->call)
            watch_call(h, c, c->call, now_ns, may_cut);
        if (!deadline || now_ns < deadline || !may_cut)
            continue;
        if (c->loop)
            shutdown(c->fd, SHUT_RDWR);
        else if (n_late < EVENTS_MAX)
            late[n_late++] = c;
    }
    pthread_mutex_unlock(&h->lock);
    for (unsigned i = 0; i < n_late; i++)
        close_at_door(h, late[i]);
    if (h->accept_again_ns && now_ns >= h->accept_again_ns) {
        h->accept_again_ns = 0;
        watch_listeners(h, true);
    }
}

// The client closed its side. What waits for the engine is given up. Once: to shut a socket down is
// an event of its own.
static void on_hup(struct http *h, struct conn *c)
{
    if (atomic_exchange(&c->hup, true))
        return;
    pthread_mutex_lock(&h->lock);
    if (atomic_load(&c->phase) != CONN_DEAD && c->call) {
        call_set_gone(c->call);
        shutdown(c->fd, SHUT_RDWR);
    }
    pthread_mutex_unlock(&h->lock);
}

static void on_event(struct http *h, const struct epoll_event *e)
{
    for (unsigned i = 0; i < h->p.n_listen; i++) {
        if (e->data.ptr != &h->p.listen_fd[i])
            continue;
        accept_some(h, h->p.listen_fd[i]);
        if (h->accept_again_ns)
            watch_listeners(h, false);
        return;
    }
    struct conn *c = e->data.ptr;
    bool hup = e->events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR);
    switch (c ? (enum conn_phase)atomic_load(&c->phase) : CONN_DEAD) {
    case CONN_HEAD:
        look_at_head(h, c, hup);
        break;
    case CONN_LINGER:
        linger(h, c);
        break;
    case CONN_IDLE:
    case CONN_BUSY:
        if (hup)
            on_hup(h, c);
        break;
    case CONN_DEAD:
        break;
    }
}

static void *door_main(void *ctx)
{
    struct http *h = ctx;
    struct epoll_event event[EVENTS_MAX];
    uint64_t next_tick_ns = clock_now_ns(), fair_from_ns = 0, n_tick = 0;
    while (!atomic_load(&h->stopping)) {
        int n = epoll_wait(h->epoll_fd, event, EVENTS_MAX, TICK_MS);
        for (int i = 0; i < n; i++)
            on_event(h, &event[i]);
        uint64_t now_ns = clock_now_ns();
        if (now_ns > next_tick_ns + STANDSTILL_NS)
            fair_from_ns = now_ns + GRACE_NS;
        if (now_ns >= next_tick_ns) {
            tick(h, n_tick++, now_ns, now_ns >= fair_from_ns);
            next_tick_ns = clock_now_ns() + TICK_MS * NS_PER_MS;
        }
        free_dead(h);
    }
    return NULL;
}

// ---- start and stop -----------------------------------------------------------------------------

static int watch(struct http *h, int fd, void *ptr, struct err *err)
{
    struct epoll_event e = { .events = EPOLLIN, .data.ptr = ptr };
    if (epoll_ctl(h->epoll_fd, EPOLL_CTL_ADD, fd, &e) != 0)
        return err_set(err, -errno, "cannot watch a socket: %s", strerror(errno));
    return 0;
}

int door_start(struct http *h, struct err *err)
{
    struct rlimit lim;
    getrlimit(RLIMIT_NOFILE, &lim);
    h->by_fd_max = (unsigned)MIN(lim.rlim_cur, (rlim_t)1 << 20);
    h->by_fd = calloc(h->by_fd_max, sizeof(struct conn *));
    h->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    h->stop_fd = eventfd(0, EFD_CLOEXEC);
    h->spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (!h->by_fd || h->epoll_fd < 0 || h->stop_fd < 0)
        return err_set(err, -ENOMEM, "cannot make the door of a listener");
    random_bytes(&h->addr_seed, sizeof(h->addr_seed));
    int r = watch(h, h->stop_fd, NULL, err);
    for (unsigned i = 0; i < h->p.n_listen && r == 0; i++)
        r = watch(h, h->p.listen_fd[i], &h->p.listen_fd[i], err);
    if (r)
        return r;
    r = pthread_create(&h->door, NULL, door_main, h);
    if (r)
        return err_set(err, -r, "cannot start a thread: %s", strerror(r));
    h->door_runs = true;
    return 0;
}

static struct conn *any_at_door(struct http *h)
{
    pthread_mutex_lock(&h->lock);
    struct conn *c = h->conns;
    while (c && c->loop)
        c = c->next;
    pthread_mutex_unlock(&h->lock);
    return c;
}

// Afterwards no connection is at the door; those in libmicrohttpd end there.
void door_stop(struct http *h)
{
    if (h->door_runs) {
        uint64_t one = 1;
        ssize_t ignored = write(h->stop_fd, &one, sizeof(one));
        (void)ignored;                  // the next tick sees `stopping` too
        pthread_join(h->door, NULL);
        h->door_runs = false;
    }
    for (struct conn *c; (c = any_at_door(h)); )
        close_at_door(h, c);
}
