// Listening sockets; see listen.h.
#include "server/listen.h"
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include "base/base.h"

#define PASSED_FD_FIRST 3               // of the protocol of sd_listen_fds(3)
#define BACKLOG 4096

static bool is_loopback(const struct sockaddr *a)
{
    if (a->sa_family == AF_UNIX)
        return true;
    if (a->sa_family == AF_INET)
        return (ntohl(((const struct sockaddr_in *)(const void *)a)->sin_addr.s_addr) >> 24) == 127;
    return a->sa_family == AF_INET6 &&
           IN6_IS_ADDR_LOOPBACK(&((const struct sockaddr_in6 *)(const void *)a)->sin6_addr);
}

// Splits ADDRESS:PORT; the brackets of IPv6 addresses go.
static int split(const char *text, char *host, size_t n_host, const char **port)
{
    const char *colon = strrchr(text, ':');
    if (!colon || !colon[1])
        return -EINVAL;
    size_t n = (size_t)(colon - text);
    if (n >= 2 && text[0] == '[' && text[n - 1] == ']') {
        text++;
        n -= 2;
    }
    if (n >= n_host)
        return -EINVAL;
    memcpy(host, text, n);
    host[n] = '\0';
    *port = colon + 1;
    return 0;
}

static int open_one(const struct addrinfo *a)
{
    int on = 1, r = 0;
    int fd = socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -errno;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (a->ai_family == AF_INET6)
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on));
    if (bind(fd, a->ai_addr, a->ai_addrlen) != 0 || listen(fd, BACKLOG) != 0) {
        r = -errno;
        close(fd);
    }
    return r ? r : fd;
}

int listen_on(struct listeners *ret, const char *address, struct err *err)
{
    struct listeners l = { .loopback = true };
    struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE }, *list;
    char host[256];
    const char *port;
    if (split(address, host, sizeof(host), &port) != 0)
        return err_set(err, -EINVAL, "\"%s\" is not ADDRESS:PORT", address);
    int r = getaddrinfo(*host ? host : NULL, port, &hints, &list);
    if (r)
        return err_set(err, -EINVAL, "%s: %s", address, gai_strerror(r));
    int failed = -EADDRNOTAVAIL;
    for (const struct addrinfo *a = list; a && l.n < LISTEN_FDS_MAX; a = a->ai_next) {
        int fd = open_one(a);
        if (fd < 0) {
            failed = fd;
            continue;
        }
        l.fd[l.n++] = fd;
        l.loopback &= is_loopback(a->ai_addr);
    }
    freeaddrinfo(list);
    if (!l.n)
        return err_set(err, failed, "cannot listen on %s: %s", address, strerror(-failed));
    *ret = l;
    return 0;
}

static bool name_at(const char *names, unsigned i, const char *name)
{
    while (names && i--) {
        names = strchr(names, ':');
        names = names ? names + 1 : NULL;
    }
    size_t n = names ? strcspn(names, ":") : 0;
    return n == strlen(name) && memcmp(names, name, n) == 0;
}

void listen_adopt(struct listeners *ret, const struct config *c, const char *name)
{
    struct listeners l = { .loopback = true };
    for (unsigned i = 0; i < c->listen_fds && l.n < LISTEN_FDS_MAX; i++) {
        int fd = PASSED_FD_FIRST + (int)i, listening = 0;
        struct sockaddr_storage a = {0};
        socklen_t len = sizeof(a), n = sizeof(listening);
        bool admin = name_at(c->listen_fd_names, i, "admin");
        if (admin != (strcmp(name, "admin") == 0))
            continue;
        if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &n) != 0 || !listening)
            continue;
        fcntl(fd, F_SETFD, FD_CLOEXEC);
        fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
        getsockname(fd, (struct sockaddr *)&a, &len);
        l.loopback &= is_loopback((struct sockaddr *)&a);
        l.fd[l.n++] = fd;
    }
    *ret = l;
}

void listen_name(int fd, char *buf, size_t size)
{
    struct sockaddr_storage a = {0};
    socklen_t len = sizeof(a);
    char host[128], port[16];
    int flags = NI_NUMERICHOST | NI_NUMERICSERV;
    getsockname(fd, (struct sockaddr *)&a, &len);
    if (a.ss_family == AF_UNIX ||
        getnameinfo((struct sockaddr *)&a, len, host, sizeof(host), port, sizeof(port), flags) != 0)
        snprintf(buf, size, "a unix socket");
    else
        snprintf(buf, size, a.ss_family == AF_INET6 ? "[%s]:%s" : "%s:%s", host, port);
}

void listen_close(struct listeners *l)
{
    for (unsigned i = 0; i < l->n; i++)
        close(l->fd[i]);
    l->n = 0;
}
