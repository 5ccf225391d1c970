// Which backend: the named one, or the best that works here.
#include "kvstore/disk.h"
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include "base/base.h"

int disk_thread(pthread_t *ret, void *(*fn)(void *arg), void *arg)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before);
    int r = pthread_create(ret, NULL, fn, arg);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return r;
}

// These say that the ring is missing, not that the folder is wrong.
static bool is_refusal(int r)
{
    return r == -EPERM || r == -ENOSYS || r == -ENOMEM || r == -EINVAL;
}

int disk_open(struct disk **ret, const char *backend, const struct disk_params *p, char *note,
              uint32_t n, struct err *err)
{
    note[0] = '\0';
    if (p->sim)
        return disk_sim.open(ret, p, err);
    if (backend && strcmp(backend, disk_posix.name) == 0)
        return disk_posix.open(ret, p, err);
    if (backend && strcmp(backend, disk_io_uring.name) != 0)
        return err_set(err, -EINVAL, "unknown backend \"%.40s\"", backend);
    struct err why = {0};
    int r = disk_io_uring.open(ret, p, backend ? err : &why);
    if (r == 0 || backend)
        return r;
    if (!is_refusal(r))
        return err_set(err, r, "%s", why.msg);
    snprintf(note, n, "%.150s", why.msg);
    return disk_posix.open(ret, p, err);
}
