// The folder of a store: its lock, small files, and segment files.
#include "kvstore/files.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include "base/base.h"

// A process that was killed holds its lock until its last requests have ended in the kernel.
#define LOCK_TRIES 20
#define LOCK_PAUSE_NS 50000000L

static struct files *of(struct disk *d) { return (struct files *)d; }

static int open_folder(const char *path, bool create, struct err *err)
{
    int fd = -1;
    if (!create || mkdir(path, 0700) == 0 || errno == EEXIST)
        fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    return fd >= 0 ? fd : err_set(err, -errno, "%.300s: %s", path, strerror(errno));
}

static int owner_of(int lock)
{
    char text[16] = "";
    ssize_t n = pread(lock, text, sizeof(text) - 1, 0);
    return n > 0 ? (int)strtol(text, NULL, 10) : 0;
}

static int take_lock(int dir, const char *path, struct err *err)
{
    int fd = openat(dir, "lock", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return err_set(err, -errno, "%.300s/lock: %s", path, strerror(errno));
    for (int i = 0; flock(fd, LOCK_EX | LOCK_NB) != 0; i++) {
        if (errno != EWOULDBLOCK || i == LOCK_TRIES) {
            err_set(err, -EBUSY, "%.300s: in use by process %d", path, owner_of(fd));
            close(fd);
            return -EBUSY;
        }
        nanosleep(&(struct timespec){.tv_nsec = LOCK_PAUSE_NS}, NULL);
    }
    char text[16];
    int n = snprintf(text, sizeof(text), "%d\n", (int)getpid());
    // Only people read it: a full disk is no reason to fail.
    if (ftruncate(fd, 0) != 0 || pwrite(fd, text, (size_t)n, 0) != n)
        errno = 0;
    return fd;
}

int files_lock(const char *path, struct err *err)
{
    int dir = open_folder(path, false, err);
    int fd = dir < 0 ? dir : take_lock(dir, path, err);
    if (dir >= 0)
        close(dir);
    return fd;
}

static int borrow_lock(int lock, struct err *err)
{
    int fd = fcntl(lock, F_DUPFD_CLOEXEC, 0);
    return fd >= 0 ? fd : err_set(err, -errno, "a lock: %s", strerror(errno));
}

// Some file systems have no O_DIRECT: there the page cache is used.
static bool has_direct(int dir)
{
    int fd = openat(dir, ".", O_TMPFILE | O_RDWR | O_DIRECT | O_CLOEXEC, 0600);
    if (fd < 0)
        return errno != EINVAL;
    close(fd);
    return true;
}

int files_open(struct files *f, const struct disk_params *p, struct err *err)
{
    f->dir = f->lock = -1;
    f->n_max = p->files_max;
    f->fd = malloc(p->files_max * sizeof(*f->fd));
    if (!f->fd)
        return err_set(err, -ENOMEM, "out of memory");
    for (uint32_t i = 0; i < f->n_max; i++)
        f->fd[i] = -1;
    f->owns_lock = !p->lock;
    f->dir = open_folder(p->path, p->create, err);
    if (f->dir >= 0)
        f->lock = p->lock ? borrow_lock(*p->lock, err) : take_lock(f->dir, p->path, err);
    int r = MIN(MIN(f->dir, f->lock), 0);
    if (r)
        files_finish(f);
    else
        f->direct = has_direct(f->dir);
    return r;
}

void files_finish(struct files *f)
{
    for (uint32_t i = 0; f->fd && i < f->n_max; i++)
        files_segment_close(&f->disk, i);
    free(f->fd);
    // A ring that is being taken down, or a child, may have the file for a little longer.
    if (f->lock >= 0 && f->owns_lock && !f->is_busy)
        flock(f->lock, LOCK_UN);
    if (f->lock >= 0)
        close(f->lock);
    if (f->dir >= 0)
        close(f->dir);
    f->fd = NULL;
    f->dir = f->lock = -1;
}

int files_list(struct disk *d, bool (*fn)(void *ctx, const char *name), void *ctx)
{
    struct files *f = of(d);
    int fd = openat(f->dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    if (!dir) {
        int r = -errno;
        if (fd >= 0)
            close(fd);
        return r;
    }
    for (struct dirent *e; (e = readdir(dir));)
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0 && !fn(ctx, e->d_name))
            break;
    closedir(dir);
    return 0;
}

// ---- small files -------------------------------------------------------------------------------

static int read_fully(int fd, uint64_t offset_bytes, void *p, uint32_t n)
{
    uint32_t got = 0;
    while (got < n) {
        ssize_t k = pread(fd, (char *)p + got, n - got, (off_t)(offset_bytes + got));
        if (k < 0 && errno == EINTR)
            continue;
        if (k < 0)
            return -errno;
        if (k == 0)
            break;
        got += (uint32_t)k;
    }
    return (int)got;
}

int files_read(struct disk *d, const char *name, void *p, uint32_t n)
{
    struct files *f = of(d);
    int fd = openat(f->dir, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0)
        return -errno;
    int r = read_fully(fd, 0, p, n);
    close(fd);
    return r;
}

static int write_fully(int fd, const void *p, uint32_t n)
{
    uint32_t done = 0;
    while (done < n) {
        ssize_t k = pwrite(fd, (const char *)p + done, n - done, done);
        if (k < 0 && errno != EINTR)
            return -errno;
        done += k > 0 ? (uint32_t)k : 0;
    }
    return fdatasync(fd) == 0 ? 0 : -errno;
}

int files_replace(struct disk *d, const char *name, const void *p, uint32_t n)
{
    struct files *f = of(d);
    char temp[64];
    snprintf(temp, sizeof(temp), "%.50s.new", name);
    int fd = openat(f->dir, temp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return -errno;
    int r = write_fully(fd, p, n);
    close(fd);
    if (r == 0 && (renameat(f->dir, temp, f->dir, name) != 0 || fsync(f->dir) != 0))
        r = -errno;
    if (r)
        unlinkat(f->dir, temp, 0);
    return r;
}

// ---- segments ----------------------------------------------------------------------------------

static int open_segment(const struct files *f, const char *name, int flags)
{
    flags |= O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | (f->direct ? O_DIRECT : 0);
    int fd = openat(f->dir, name, flags, 0600);
    return fd < 0 ? -errno : fd;
}

// Space is taken here, so that a full disk shows now and not in the middle of a write.
static int take_space(int dir, int fd, uint64_t bytes)
{
    int r;
    do
        r = fallocate(fd, 0, 0, (off_t)bytes) == 0 ? 0 : -errno;
    while (r == -EINTR);
    if (r == -EOPNOTSUPP)
        r = ftruncate(fd, (off_t)bytes) == 0 ? 0 : -errno;
    if (r == 0 && (fsync(fd) != 0 || fsync(dir) != 0))
        r = -errno;
    return r;
}

int files_segment(struct disk *d, uint32_t file, const char *name, bool make, uint64_t *bytes)
{
    struct files *f = of(d);
    assert(file < f->n_max && f->fd[file] < 0);
    int fd = open_segment(f, name, make ? O_CREAT | O_EXCL : 0);
    if (fd < 0)
        return fd;
    struct stat st;
    int r = make ? take_space(f->dir, fd, *bytes) : 0;
    if (r == 0 && fstat(fd, &st) != 0)
        r = -errno;
    if (r == 0 && !S_ISREG(st.st_mode))
        r = -EINVAL;
    if (r) {
        close(fd);
        if (make)
            unlinkat(f->dir, name, 0);
        return r;
    }
    *bytes = (uint64_t)st.st_size;
    f->fd[file] = fd;
    return 0;
}

void files_segment_close(struct disk *d, uint32_t file)
{
    struct files *f = of(d);
    if (f->fd[file] >= 0)
        close(f->fd[file]);
    f->fd[file] = -1;
}

int files_remove(struct disk *d, const char *name)
{
    struct files *f = of(d);
    return unlinkat(f->dir, name, 0) == 0 || errno == ENOENT ? 0 : -errno;
}

int files_read_now(struct disk *d, uint32_t file, uint64_t offset_bytes, void *p, uint32_t n)
{
    struct files *f = of(d);
    int r = read_fully(f->fd[file], offset_bytes, p, n);
    return r < 0 ? r : (uint32_t)r == n ? 0 : -ENODATA;
}

void files_sync(struct disk *d, struct disk_sync *s, uint32_t n)
{
    struct files *f = of(d);
    for (uint32_t i = 0; i < n; i++)
        s[i].result = fdatasync(f->fd[s[i].file]) == 0 ? 0 : -errno;
}

void files_traits(struct disk *d, struct disk_traits *ret)
{
    *ret = (struct disk_traits){.direct = of(d)->direct};
}
