// The folder of a store and its files: what the backends of real disks share.
#pragma once
#include "kvstore/disk.h"

// The first member of both backends' structs.
struct files {
    struct disk disk;
    int         dir, lock;              // -1: not open
    bool        owns_lock;              // it was taken here
    bool        is_busy;                // requests have not ended: the lock is theirs
    int        *fd;                     // (n_max), -1: closed; owned
    uint32_t    n_max;
    bool        direct;                 // O_DIRECT is on for segments
};

// The file that locks a store's folder against every other process, locked, or a negative errno.
int  files_lock(const char *path, struct err *err);
// Opens the folder and locks it.
int  files_open(struct files *f, const struct disk_params *p, struct err *err);
void files_finish(struct files *f);

// The functions of struct disk_ops that are about files.
int  files_list(struct disk *d, bool (*fn)(void *ctx, const char *name), void *ctx);
int  files_read(struct disk *d, const char *name, void *p, uint32_t n);
int  files_replace(struct disk *d, const char *name, const void *p, uint32_t n);
int  files_segment(struct disk *d, uint32_t file, const char *name, bool make, uint64_t *bytes);
void files_segment_close(struct disk *d, uint32_t file);
int  files_remove(struct disk *d, const char *name);
int  files_read_now(struct disk *d, uint32_t file, uint64_t offset_bytes, void *p, uint32_t n);
void files_sync(struct disk *d, struct disk_sync *s, uint32_t n);
void files_traits(struct disk *d, struct disk_traits *ret);
#define FILES_OPS \
    .list = files_list, .read_file = files_read, .replace_file = files_replace, \
    .file_remove = files_remove, .read_now = files_read_now
