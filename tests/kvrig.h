// What tests and tools of the store share: a folder of its own, and operations that wait.
#pragma once
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "base/base.h"
#include "base/hash.h"
#include "kvstore/kvstore.h"

#define RIG_NS_PER_S UINT64_C(1000000000)

static inline struct hash rig_key(uint64_t k)
{
    struct hash h;
    hash_bytes(&k, sizeof(k), &h);
    return h;
}

// What key k holds.
static inline uint64_t rig_word(uint64_t k, uint64_t i)
{
    return (i + 1) * UINT64_C(0x9e3779b97f4a7c15) ^ (k << 32);
}

static inline void rig_fill(uint64_t k, void *p, uint32_t n)
{
    for (uint32_t i = 0; i < n / 8; i++)
        ((uint64_t *)p)[i] = rig_word(k, i);
}

static inline bool rig_is_right(uint64_t k, uint64_t offset, const void *p, uint32_t n)
{
    for (uint32_t i = 0; i < n / 8; i++)
        if (((const uint64_t *)p)[i] != rig_word(k, offset / 8 + i))
            return false;
    return true;
}

static inline void rig_done(struct kv_io *io) { *(bool *)io->ctx = true; }

// Submits and waits. Returns the result.
static inline int rig_run(struct kv_store *s, struct kv_io *io)
{
    bool done = false;
    io->done = rig_done;
    io->ctx = &done;
    kv_store_submit(s, io);
    while (!done)
        kv_store_poll(s, RIG_NS_PER_S / 10);
    return io->result;
}

static inline int rig_put(struct kv_store *s, uint64_t k, void *buf, uint32_t n)
{
    struct kv_io io = {.kind = KV_IO_PUT, .key = rig_key(k), .buf = buf, .bytes = n};
    rig_fill(k, buf, n);
    return rig_run(s, &io);
}

static inline int rig_get(struct kv_store *s, uint64_t k, uint64_t offset, void *buf, uint32_t n)
{
    struct kv_io io = {.kind = KV_IO_GET, .key = rig_key(k), .buf = buf, .offset_bytes = offset,
                       .bytes = n};
    memset(buf, 0xee, n);
    int r = rig_run(s, &io);
    return r ? r : rig_is_right(k, offset, buf, n) ? 0 : -EILSEQ;   // wrong: never to happen
}

static inline int rig_delete(struct kv_store *s, uint64_t k)
{
    struct kv_io io = {.kind = KV_IO_DELETE, .key = rig_key(k)};
    return rig_run(s, &io);
}

// Removes a folder of files.
static inline void rig_remove(const char *path)
{
    DIR *d = opendir(path);
    for (struct dirent *e; d && (e = readdir(d));)
        if (e->d_name[0] != '.')
            unlinkat(dirfd(d), e->d_name, 0);
    if (d)
        closedir(d);
    rmdir(path);
}

static inline uint64_t rig_bytes(const char *path)
{
    uint64_t n = 0;
    struct stat st;
    DIR *d = opendir(path);
    for (struct dirent *e; d && (e = readdir(d));)
        if (fstatat(dirfd(d), e->d_name, &st, 0) == 0 && S_ISREG(st.st_mode))
            n += (uint64_t)st.st_size;
    if (d)
        closedir(d);
    return n;
}
