// What test cases of the store on a real disk share: a folder, its files, and what may be done to
// them.
#pragma once
#include <sys/wait.h>
#include "tests/kvcase.h"

#define MIB (1u << 20)
#define BLOCK 65536u

static char folder[64];

static inline struct kv_store_params params(const char *backend)
{
    return (struct kv_store_params){.path = folder, .capacity_bytes = 16 * MIB, .buffers = 4,
                                    .block_bytes_max = BLOCK, .segment_bytes = MIB,
                                    .backend = backend};
}

static inline void new_folder_on_disk(void)
{
    const char *tmp = getenv("TMPDIR");
    snprintf(folder, sizeof(folder), "%.40s/kvstoreXXXXXX", tmp ? tmp : "/tmp");
    REQUIRE(mkdtemp(folder));
}

// Where syncing costs nothing, if there is such a place.
static inline void new_folder(void)
{
    snprintf(folder, sizeof(folder), "/dev/shm/kvstoreXXXXXX");
    if (!mkdtemp(folder))
        new_folder_on_disk();
}

static inline void path_of(char *ret, size_t n, const char *name)
{
    snprintf(ret, n, "%s/%s", folder, name);
}

// The first segment's name.
static inline void segment_path(char *ret, size_t n)
{
    char first[32] = "";
    DIR *d = opendir(folder);
    for (struct dirent *e; d && (e = readdir(d));)
        if (strncmp(e->d_name, "seg-", 4) == 0 && (!first[0] || strcmp(e->d_name, first) < 0))
            snprintf(first, sizeof(first), "%.31s", e->d_name);
    closedir(d);
    REQUIRE(first[0]);
    path_of(ret, n, first);
}

static inline void flip_file(const char *path, uint64_t at, uint8_t bits)
{
    uint8_t b;
    int fd = open(path, O_RDWR);
    REQUIRE(fd >= 0 && pread(fd, &b, 1, (off_t)at) == 1);
    b ^= bits;
    REQUIRE(pwrite(fd, &b, 1, (off_t)at) == 1);
    close(fd);
}

// Runs fn in a child of its own; its status must be 0, or 77 to skip.
static inline void in_child(void (*fn)(void))
{
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        int r = setjmp(test_out);
        if (r == 0)
            fn();
        fflush(stdout);
        _exit(r == 0 ? 0 : r == TEST_SKIPPED ? 77 : 1);
    }
    int status;
    REQUIRE(waitpid(pid, &status, 0) == pid);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
        SKIP("not possible here");
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        TEST_FAIL("the child ended with status %#x", (unsigned)status);
}

static inline int record_put(struct kv_store *s, const char *name, const char *value,
                      const struct hash *pin, uint32_t n_pins)
{
    struct kv_io io = {.kind = KV_IO_RECORD_PUT, .name = name, .buf = (void *)(uintptr_t)value,
                       .bytes = (uint32_t)strlen(value), .pin = pin, .n_pins = n_pins};
    return rig_run(s, &io);
}

static inline int record_get(struct kv_store *s, const char *name, char *value, uint32_t n)
{
    struct kv_io io = {.kind = KV_IO_RECORD_GET, .name = name, .buf = value, .bytes = n};
    int r = rig_run(s, &io);
    if (r == 0)
        value[io.value_bytes] = '\0';
    return r;
}

static inline void require_refused(const struct kv_store_params *p, int code)
{
    struct kv_store *s = NULL;
    struct err e = {0};
    REQUIRE_INT(kv_store_open(&s, p, &e), code);
    REQUIRE(!s && e.msg[0]);
}
