// GGUF files: mapping, split sets, and lookup by name. The parser is gguf_read.c.
#include "engine/model/gguf.h"
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include "base/base.h"
#include "base/str.h"
#include "engine/model/gguf_file.h"

// ---- names ----------------------------------------------------------------------------------

static const char *name_at(const struct names *s, size_t i)
{
    const char *name;
    memcpy(&name, (const char *)s->item + i * s->stride, sizeof(name));
    return name;
}

static int name_cmp(const void *a, const void *b, void *names)
{
    return strcmp(name_at(names, *(const uint32_t *)a), name_at(names, *(const uint32_t *)b));
}

int names_sort(struct names *s, struct arena *a, const char *what, struct err *err)
{
    s->order = arena_calloc(a, s->n, sizeof(*s->order));
    if (!s->order)
        return err_set(err, -ENOMEM, "%zu names: out of memory", s->n);
    for (size_t i = 0; i < s->n; i++)
        s->order[i] = (uint32_t)i;
    qsort_r(s->order, s->n, sizeof(*s->order), name_cmp, s);
    for (size_t i = 1; i < s->n; i++)
        if (name_cmp(&s->order[i - 1], &s->order[i], s) == 0)
            return err_set(err, -EINVAL, "%s %.80s appears twice", what, name_at(s, s->order[i]));
    return 0;
}

bool names_find(const struct names *s, const char *name, size_t *ret)
{
    for (size_t lo = 0, hi = s->n; lo < hi;) {
        size_t mid = lo + (hi - lo) / 2;
        int c = strcmp(name, name_at(s, s->order[mid]));
        if (c == 0) {
            *ret = s->order[mid];
            return true;
        }
        if (c < 0)
            hi = mid;
        else
            lo = mid + 1;
    }
    return false;
}

// ---- files ----------------------------------------------------------------------------------

static int part_map(struct part *f, const char *path, struct err *err)
{
    struct stat st;
    // O_NONBLOCK: a FIFO in the file's place must not hang us.
    f->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (f->fd < 0 || fstat(f->fd, &st) < 0)
        return err_set(err, -errno, "%s", strerror(errno));
    if (!S_ISREG(st.st_mode))
        return err_set(err, -EINVAL, "not a regular file");
    if (st.st_size == 0)
        return err_set(err, -EINVAL, "magic at byte 0: the file is empty");
    void *p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, f->fd, 0);
    if (p == MAP_FAILED)
        return err_set(err, -errno, "map of %" PRIu64 " bytes: %s", (uint64_t)st.st_size,
                       strerror(errno));
    f->p = p;
    f->bytes = (size_t)st.st_size;
    return 0;
}

static int part_open(struct part *f, const char *path, struct arena *a, struct err *err)
{
    int rc = part_map(f, path, err);
    if (rc == 0)
        rc = part_read(f, a, err);
    if (rc < 0)
        err_prefix(err, "%s", path);
    return rc;
}

static void part_close(struct part *f)
{
    if (f->fd < 0)
        return;
    if (f->p)
        munmap((void *)(uintptr_t)f->p, f->bytes);
    close(f->fd);
}

// How many parts the set of this first part has.
static int split_count(const struct part *first, size_t *ret, struct err *err)
{
    uint64_t count = 1, no = 0;
    int rc = part_u64(first, "split.count", 0, GGUF_PARTS_MAX, &count, err);
    if (rc == 0 || rc == -ENOENT)
        rc = part_u64(first, "split.no", 0, GGUF_PARTS_MAX, &no, err);
    if (rc < 0 && rc != -ENOENT)
        return rc;
    if (count > 1 && no != 0)
        return err_set(err, -EINVAL, "this is part %" PRIu64 " of %" PRIu64 ", open the first",
                       no + 1, count);
    *ret = count > 1 ? (size_t)count : 1;
    return 0;
}

static int split_check(const struct part *f, size_t no, size_t count, struct err *err)
{
    uint64_t v;
    int rc = part_u64(f, "split.count", count, count, &v, err);
    if (rc == 0)
        rc = part_u64(f, "split.no", no, no, &v, err);
    return rc == -ENOENT ? err_set(err, -EINVAL, "no key split.count or split.no") : rc;
}

static int split_open(struct gguf *g, const char *path, size_t count, struct err *err)
{
    struct str name = {0};
    size_t n = strlen(path);
    char tail[32];
    int rc = 0, n_tail = snprintf(tail, sizeof(tail), "-00001-of-%05zu.gguf", count);
    if (n < (size_t)n_tail || strcmp(path + n - (size_t)n_tail, tail) != 0)
        return err_set(err, -EINVAL, "%s: first of %zu parts, so its name must end in %s", path,
                       count, tail);
    for (size_t i = 1; i < count && rc == 0; i++) {
        str_clear(&name);
        str_add(&name, path, n - (size_t)n_tail);
        str_printf(&name, "-%05zu-of-%05zu.gguf", i + 1, count);
        if (!str_ok(&name)) {
            rc = err_set(err, -ENOMEM, "%s: out of memory", path);
            break;
        }
        g->n_parts = i + 1;
        rc = part_open(&g->part[i], name.p, &g->arena, err);
        if (rc == 0 && (rc = split_check(&g->part[i], i, count, err)) < 0)
            err_prefix(err, "%s", name.p);
    }
    str_free(&name);
    return rc;
}

// Puts the tensors of all parts into one list.
static int gather_tensors(struct gguf *g, struct err *err)
{
    size_t n = 0, done = 0;
    uint64_t want;
    for (size_t i = 0; i < g->n_parts; i++)
        n += g->part[i].n_tensors;
    int rc = g->n_parts > 1 ? part_u64(&g->part[0], "split.tensors.count", n, n, &want, err) : 0;
    if (rc < 0 && rc != -ENOENT)
        return rc;
    g->tensor = g->part[0].tensor;
    if (g->n_parts > 1) {
        g->tensor = arena_calloc(&g->arena, n, sizeof(*g->tensor));
        if (!g->tensor || n > UINT32_MAX)
            return err_set(err, -ENOMEM, "%zu tensors: out of memory", n);
        for (size_t i = 0; i < g->n_parts; i++) {
            struct part *f = &g->part[i];
            memcpy(g->tensor + done, f->tensor, f->n_tensors * sizeof(*f->tensor));
            done += f->n_tensors;
        }
    }
    g->tensors = (struct names){ g->tensor, sizeof(*g->tensor), n, NULL };
    return names_sort(&g->tensors, &g->arena, "tensor", err);
}

// Memory for `count` parts, of which the one that is there stays the first.
static int parts_alloc(struct gguf *g, size_t count, struct err *err)
{
    struct part *part = arena_calloc(&g->arena, count, sizeof(*part));
    if (!part)
        return err_set(err, -ENOMEM, "out of memory");
    for (size_t i = 0; i < count; i++)
        part[i].fd = -1;
    if (g->n_parts)
        part[0] = g->part[0];
    g->part = part;
    g->n_parts = 1;
    return 0;
}

static int gguf_create(struct gguf **ret, struct err *err)
{
    struct gguf *g = calloc(1, sizeof(*g));
    int rc = g ? parts_alloc(g, 1, err) : err_set(err, -ENOMEM, "out of memory");
    if (rc < 0)
        gguf_close(g);
    else
        *ret = g;
    return rc;
}

int gguf_open(struct gguf **ret, const char *path, struct err *err)
{
    struct gguf *g = NULL;
    size_t count = 1;
    int rc = gguf_create(&g, err);
    if (rc < 0)
        return rc;
    rc = part_open(&g->part[0], path, &g->arena, err);
    if (rc < 0)
        goto out;
    rc = split_count(&g->part[0], &count, err);
    if (rc == 0 && count > 1 && (rc = parts_alloc(g, count, err)) == 0)
        rc = split_open(g, path, count, err);
    else if (rc < 0)
        err_prefix(err, "%s", path);
    if (rc == 0 && (rc = gather_tensors(g, err)) < 0)
        err_prefix(err, "%s", path);
out:
    if (rc < 0)
        gguf_close(g);
    else
        *ret = g;
    return rc;
}

int gguf_open_mem(struct gguf **ret, const void *p, size_t n, struct err *err)
{
    struct gguf *g = NULL;
    size_t count = 1;
    int rc = gguf_create(&g, err);
    if (rc < 0)
        return rc;
    g->part[0].p = p;
    g->part[0].bytes = n;
    rc = part_read(&g->part[0], &g->arena, err);
    if (rc == 0)
        rc = split_count(&g->part[0], &count, err);
    if (rc == 0 && count > 1)
        rc = err_set(err, -EINVAL, "key split.count: a part in memory has no neighbours");
    if (rc == 0)
        rc = gather_tensors(g, err);
    if (rc < 0)
        gguf_close(g);
    else
        *ret = g;
    return rc;
}

void gguf_close(struct gguf *g)
{
    if (!g)
        return;
    for (size_t i = 0; i < g->n_parts; i++)
        part_close(&g->part[i]);
    arena_reset(&g->arena);
    free(g);
}

int gguf_check_size(const struct gguf *g, struct err *err)
{
    for (size_t i = 0; i < g->n_parts; i++) {
        const struct part *f = &g->part[i];
        struct stat st;
        if (f->fd < 0)
            continue;
        if (fstat(f->fd, &st) < 0)
            return err_set(err, -EIO, "model file: %s", strerror(errno));
        if ((uint64_t)st.st_size < f->bytes)
            return err_set(err, -EIO, "model file, part %zu: shrank from %zu to %" PRIu64 " bytes",
                           i + 1, f->bytes, (uint64_t)st.st_size);
    }
    return 0;
}

// ---- what is inside ----------------------------------------------------------------------------

size_t gguf_n_tensors(const struct gguf *g)
{
    return g->tensors.n;
}

const struct tensor *gguf_tensor_at(const struct gguf *g, size_t i)
{
    assert(i < g->tensors.n);
    return &g->tensor[i];
}

const struct tensor *gguf_tensor(const struct gguf *g, const char *name)
{
    size_t i;
    return names_find(&g->tensors, name, &i) ? &g->tensor[i] : NULL;
}

uint64_t gguf_file_bytes(const struct gguf *g)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < g->n_parts; i++)
        bytes += g->part[i].bytes;
    return bytes;
}

void gguf_header_hash(const struct gguf *g, struct hash *ret)
{
    struct hash_state s;
    hash_start(&s);
    for (size_t i = 0; i < g->n_parts; i++) {
        const struct part *f = &g->part[i];
        // The lengths keep parts apart.
        uint64_t bytes = f->header_bytes;
        hash_add(&s, &bytes, sizeof(bytes));
        hash_add(&s, f->p, f->header_bytes);
    }
    hash_end(&s, ret);
}
