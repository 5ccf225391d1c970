// Telling the service manager; see notify.h.
#include "server/notify.h"
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

void notify_send(const char *path, const char *fmt, ...)
{
    struct sockaddr_un a = { .sun_family = AF_UNIX };
    char text[512];
    size_t n_path = path ? strlen(path) : 0;
    if (n_path < 2 || n_path >= sizeof(a.sun_path))
        return;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    memcpy(a.sun_path, path, n_path);
    if (path[0] == '@')                 // an abstract name
        a.sun_path[0] = '\0';
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return;
    socklen_t len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n_path);
    ssize_t ignored = sendto(fd, text, strlen(text), MSG_NOSIGNAL | MSG_DONTWAIT,
                             (struct sockaddr *)&a, len);
    (void)ignored;                      // a manager that went away changes nothing for us
    close(fd);
}
