// What the store needs from a disk, and the backends that offer it.
//
// A disk has small whole files (read and replaced atomically) and segment files, which are made at
// full length, named by a handle, and read and written by asynchronous requests. Requests are
// submitted and reaped by the store's thread; every other call may block and is made while opening
// or from the thread that commits. A request's memory is the disk's until it was reaped.
#pragma once
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>
#include "base/err.h"

struct kv_sim;

struct disk_io {
    bool         write;
    uint8_t      n_iov;
    uint32_t     file;                  // handle
    uint64_t     offset_bytes;
    struct iovec iov[2];                // adjacent on disk
    int          result;                // bytes, maybe fewer than asked for, or a negative errno
    void        *owner;                 // the submitter's
    uint32_t     tries;                 // the submitter's
    struct disk_io *next;
};

static inline uint32_t disk_io_bytes(const struct disk_io *io)
{
    return (uint32_t)(io->iov[0].iov_len + (io->n_iov > 1 ? io->iov[1].iov_len : 0));
}

struct disk_params {
    const char  *path;
    bool         create;                // the folder, if it is missing
    uint32_t     files_max, inflight_max;
    struct iovec memory[2];             // that requests will mostly use; empty: none
    int          eventfd;               // to be written when something can be reaped
    const int   *lock;                  // a file that has the store's lock; NULL: it is to be taken
    struct kv_sim *sim;
};

struct disk_sync { uint32_t file; int result; };
#define SYNCS_MAX 16u                   // at once

struct disk_traits { bool direct, registered_files, registered_buffers; };

struct disk;
struct disk_ops {
    const char *name;
    int  (*open)(struct disk **ret, const struct disk_params *p, struct err *err);
    void (*close)(struct disk *d);
    // Calls fn for every name in the folder, until it returns false.
    int  (*list)(struct disk *d, bool (*fn)(void *ctx, const char *name), void *ctx);
    // Whole small files. Read: returns bytes (at most n) or -ENOENT, ...
    int  (*read_file)(struct disk *d, const char *name, void *p, uint32_t n);
    int  (*replace_file)(struct disk *d, const char *name, const void *p, uint32_t n);
    // Opens a segment, or makes one of `bytes` > 0, durably. *bytes becomes its length.
    int  (*file_open)(struct disk *d, uint32_t file, const char *name, bool make, uint64_t *bytes);
    void (*file_close)(struct disk *d, uint32_t file);
    int  (*file_remove)(struct disk *d, const char *name);
    int  (*read_now)(struct disk *d, uint32_t file, uint64_t offset_bytes, void *p, uint32_t n);
    // What was reaped before is durable after, where the result is 0. Files are synced side by side
    // where that can be: a disk makes one flush of several.
    void (*sync)(struct disk *d, struct disk_sync *s, uint32_t n);
    void (*submit)(struct disk *d, struct disk_io *io);
    void (*kick)(struct disk *d);       // hands over what was submitted
    void (*cancel)(struct disk *d, struct disk_io *io);     // a wish
    struct disk_io *(*reap)(struct disk *d);                // a list; NULL: none
    void (*traits)(struct disk *d, struct disk_traits *ret);
};

// The first member of every backend's own struct.
struct disk { const struct disk_ops *ops; };

extern const struct disk_ops disk_io_uring, disk_posix, disk_sim;

// pthread_create() of a thread that gets no signals. Returns 0 or a positive errno.
int disk_thread(pthread_t *ret, void *(*fn)(void *arg), void *arg);

// The named backend, or the best that works; note (n bytes) says why not a better one.
int disk_open(struct disk **ret, const char *backend, const struct disk_params *p, char *note,
              uint32_t n, struct err *err);
