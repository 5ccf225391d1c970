// Protects the store against what happens to its files: damage anywhere, indexes that cannot be
// read, processes that are killed while they open one. Nothing wrong is believed, and nothing good
// is thrown away.
#include "tests/test.h"
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include "kvstore/format.h"
#include "tests/kvfolder.h"

TEST_MAIN

static _Alignas(4096) uint8_t buf[MIB];

// ---- what power loss would leave ----------------------------------------------------------------

// These stand before the system's. Is there a change of the index's files that nobody made durable?
static bool folder_is_dirty;
static uint64_t n_removed;

int unlink(const char *path)
{
    bool is_sum = strstr(path, "/index.sum") != NULL;
    int r = (int)syscall(SYS_unlinkat, AT_FDCWD, path, 0);
    folder_is_dirty |= is_sum && r == 0;
    n_removed += is_sum && r == 0;
    return r;
}

int rename(const char *from, const char *to)
{
    folder_is_dirty |= strstr(to, "/index.damaged") != NULL;
    return (int)syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
}

int fsync(int fd)
{
    struct stat st;
    int r = (int)syscall(SYS_fsync, fd);
    if (r == 0 && fstat(fd, &st) == 0 && S_ISDIR(st.st_mode))
        folder_is_dirty = false;
    return r;
}

// A checksum that came back beside an index that has changed since would condemn it, and a rebuilt
// index that was lost again would be the damaged one.
TEST(index_files_are_durable)
{
    new_folder();
    struct kv_store_params p = params("posix");
    char path[128];
    path_of(path, sizeof(path), "index");
    kv_store_close(open_store(&p));
    folder_is_dirty = false;
    n_removed = 0;
    struct kv_store *s = open_store(&p);
    REQUIRE_INT(n_removed, 1);
    REQUIRE(!folder_is_dirty);
    kv_store_close(s);
    flip_file(path, 5000, 1);
    s = open_store(&p);
    REQUIRE(stats(s).rebuilt && n_removed == 2 && !folder_is_dirty);
    kv_store_close(s);
    // What was kept aside stays when the next one is damaged too.
    char aside[128];
    struct stat kept, now;
    path_of(aside, sizeof(aside), "index.damaged");
    REQUIRE(stat(aside, &kept) == 0);
    flip_file(path, 5000, 1);
    s = open_store(&p);
    REQUIRE(stats(s).rebuilt && stat(aside, &now) == 0 && now.st_ino == kept.st_ino);
    kv_store_close(s);
    rig_remove(folder);
}

// Makes a copy of the superblock that another program would have written.
static void write_version(const char *path, uint32_t copy, uint32_t version, uint32_t endian)
{
    struct super s;
    int fd = open(path, O_RDWR);
    REQUIRE(fd >= 0 && pread(fd, &s, sizeof(s), copy * 4096) == (ssize_t)sizeof(s));
    s.version = version;
    s.endian = endian;
    s.check = sum_bytes(&s, offsetof(struct super, check));
    if (endian != FORMAT_ENDIAN)
        s.check = __builtin_bswap64(s.check);
    REQUIRE(pwrite(fd, &s, sizeof(s), copy * 4096) == (ssize_t)sizeof(s));
    close(fd);
}

TEST(superblocks)
{
    new_folder();
    struct kv_store_params p = params("posix");
    char path[128];
    path_of(path, sizeof(path), "super");
    struct kv_store *s = open_store(&p);
    REQUIRE_INT(rig_put(s, 1, buf, BLOCK), 0);
    kv_store_close(s);
    // A byte of either copy, of its version too: the other one serves.
    for (uint64_t at = 0; at < 2 * 4096; at = at % 4096 >= 110 ? ALIGN_UP(at, 4096) : at + 4) {
        flip_file(path, at, 0x11);
        s = open_store(&p);
        REQUIRE_INT(rig_get(s, 1, 0, buf, BLOCK), 0);
        kv_store_close(s);
        flip_file(path, at, 0x11);
    }
    for (uint32_t copy = 0; copy < SUPER_COPIES; copy++) {
        write_version(path, copy, FORMAT_VERSION + 1, FORMAT_ENDIAN);
        require_refused(&p, -ENOTSUP);
        write_version(path, copy, FORMAT_VERSION, __builtin_bswap32(FORMAT_ENDIAN));
        require_refused(&p, -ENOTSUP);
        write_version(path, copy, FORMAT_VERSION, FORMAT_ENDIAN);
    }
    flip_file(path, 50, 1);
    flip_file(path, 4096 + 50, 1);
    require_refused(&p, -EUCLEAN);
    flip_file(path, 50, 1);
    REQUIRE(truncate(path, 4096) == 0); // the first copy is enough
    kv_store_close(open_store(&p));
    rig_remove(folder);
}

static bool dies_in_poll, is_slow;

int poll(struct pollfd *p, nfds_t n, int timeout_ms)
{
    if (dies_in_poll)
        kill(getpid(), SIGKILL);
    if (is_slow)
        return 0;
    struct timespec t = {timeout_ms / 1000, timeout_ms % 1000 * 1000000L};
    return ppoll(p, n, timeout_ms < 0 ? NULL : &t, NULL);
}

// Whoever is killed while its index is being read leaves no child behind that has the lock.
TEST(killed_while_opening)
{
    new_folder();
    struct kv_store_params p = params("posix");
    struct kv_store *s = open_store(&p);
    struct kv_io io = {.kind = KV_IO_RECORD_PUT, .name = "long", .buf = buf, .bytes = 200000};
    REQUIRE_INT(rig_run(s, &io), 0);    // more than a pipe holds
    kv_store_close(s);
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        dies_in_poll = true;
        if (setjmp(test_out) == 0)
            open_store(&p);
        _exit(0);
    }
    int status;
    REQUIRE(waitpid(pid, &status, 0) == pid && WIFSIGNALED(status));
    REQUIRE_INT(WTERMSIG(status), SIGKILL);
    s = open_store(&p);
    REQUIRE_INT(stats(s).records, 1);
    kv_store_close(s);
    rig_remove(folder);
}

// ---- damage ------------------------------------------------------------------------------------

// Bytes of a slot's header and of its payload: a miss, whole or in parts.
TEST(damaged_slots)
{
    new_folder();
    struct kv_store_params p = params("posix");
    char path[128];
    struct kv_store *s = open_store(&p);
    REQUIRE_INT(rig_put(s, 1, buf, BLOCK), 0);
    kv_store_close(s);
    segment_path(path, sizeof(path));
    for (uint64_t at = 0; at < 4096 + BLOCK; at += at < 240 ? 23 : 4777) {
        flip_file(path, at, 4);
        s = open_store(&p);
        bool in_header = at < 112 + 16 * 8;
        bool in_payload = at >= 4096;
        uint64_t unit = in_payload ? (at - 4096) / 4096 * 4096 : 0;
        int part = rig_get(s, 1, unit, buf, 4096);
        REQUIRE_INT(part, in_header || in_payload ? -ENOENT : 0);
        if (!in_header && !in_payload)
            REQUIRE_INT(rig_get(s, 1, 0, buf, BLOCK), 0);
        REQUIRE_INT(rig_put(s, 1, buf, BLOCK), 0);          // computed again, stored again
        REQUIRE_INT(rig_get(s, 1, 0, buf, BLOCK), 0);
        REQUIRE_INT(rig_get(s, 1, unit, buf, 4096), 0);
        kv_store_close(s);
        rig_remove(folder);
        s = open_store(&p);
        REQUIRE_INT(rig_put(s, 1, buf, BLOCK), 0);
        kv_store_close(s);
        segment_path(path, sizeof(path));
    }
    rig_remove(folder);
}

static void require_no_wrong(struct kv_store *s, uint64_t n, uint64_t min_hits)
{
    uint64_t hits = 0;
    for (uint64_t k = 0; k < n; k++) {
        int r = rig_get(s, k, 0, buf, 8192);
        REQUIRE(r == 0 || r == -ENOENT);
        hits += r == 0;
    }
    if (hits < min_hits)
        TEST_FAIL("%llu hits", (unsigned long long)hits);
}

// Whatever happens to the index, the blocks are found again, or some are misses. Without the
// checksum of a clean end, the child that reads first must be enough.
TEST(damaged_index)
{
    new_folder();
    struct kv_store_params p = params("posix");
    p.capacity_bytes = 8 * MIB;
    p.inflight_max = 4;
    char path[128], sum[128], segment[128];
    path_of(path, sizeof(path), "index");
    path_of(sum, sizeof(sum), "index.sum");
    struct kv_store *s = open_store(&p);
    for (uint64_t k = 0; k < 60; k++)
        REQUIRE_INT(rig_put(s, k, buf, 8192), 0);
    REQUIRE_INT(record_put(s, "r", "value", NULL, 0), 0);
    REQUIRE_INT(rig_delete(s, 5), 0);
    kv_store_close(s);
    struct stat st;
    REQUIRE(stat(path, &st) == 0 && stat(sum, &st) == 0);
    flip_file(path, 5000, 1);           // at rest: the checksum tells
    s = open_store(&p);
    REQUIRE(stats(s).rebuilt);
    require_no_wrong(s, 60, 59);
    REQUIRE_INT(rig_get(s, 5, 0, buf, 8192), -ENOENT);      // deleted is deleted
    kv_store_close(s);
    REQUIRE(stat(path, &st) == 0);
    for (uint64_t i = 0; i < 60; i++) {
        uint64_t at = i * 2654435761u % (uint64_t)st.st_size;
        unlink(sum);
        flip_file(path, at, (uint8_t)(1u << i % 8));
        s = open_store(&p);
        require_no_wrong(s, 60, stats(s).rebuilt ? 59 : 0);
        REQUIRE_INT(rig_put(s, i % 60, buf, 8192), 0);
        kv_store_close(s);
        REQUIRE(stat(path, &st) == 0);
    }
    REQUIRE(truncate(path, st.st_size / 2) == 0);
    s = open_store(&p);
    REQUIRE(stats(s).rebuilt);
    kv_store_close(s);
    REQUIRE(unlink(path) == 0);
    s = open_store(&p);
    REQUIRE(stats(s).rebuilt);
    require_no_wrong(s, 60, 50);
    kv_store_close(s);
    segment_path(segment, sizeof(segment));
    REQUIRE(truncate(segment, 100000) == 0);
    s = open_store(&p);
    require_no_wrong(s, 60, 0);
    REQUIRE_INT(rig_put(s, 1, buf, 8192), 0);
    kv_store_close(s);
    rig_remove(folder);
}

enum child_fault { FINE, NO_FILES, KILLED, CRASHED } child_fault;

static void befall_child(void)
{
    if (child_fault == CRASHED)         // a sanitizer would make a report of it
        signal(SIGSEGV, SIG_DFL);
    if (child_fault == NO_FILES)
        setrlimit(RLIMIT_NOFILE, &(struct rlimit){0, 0});
    else if (child_fault != FINE)
        kill(getpid(), child_fault == KILLED ? SIGKILL : SIGSEGV);
}

// What keeps a good index from being read is no reason to set it aside: only disorder is, or the
// end that its reader makes of itself.
TEST(unread_index)
{
    new_folder();
    struct kv_store_params p = params("posix");
    struct kv_store *s = open_store(&p);
    char sum[128];
    path_of(sum, sizeof(sum), "index.sum");
    REQUIRE_INT(rig_put(s, 1, buf, BLOCK), 0);
    REQUIRE_INT(record_put(s, "r", "value", NULL, 0), 0);
    kv_store_close(s);
    REQUIRE(pthread_atfork(NULL, NULL, befall_child) == 0);
    is_slow = true;
    require_refused(&p, -ETIMEDOUT);
    is_slow = false;
    child_fault = NO_FILES;
    require_refused(&p, -EMFILE);
    child_fault = KILLED;
    require_refused(&p, -EINTR);
    child_fault = FINE;
    REQUIRE(unlink(sum) == 0 && symlink("nowhere", sum) == 0);
    s = open_store(&p);
    REQUIRE(!stats(s).rebuilt && stats(s).records == 1 && stats(s).blocks == 1);
    kv_store_close(s);
    child_fault = CRASHED;
    s = open_store(&p);
    child_fault = FINE;
    REQUIRE(stats(s).rebuilt && stats(s).records == 0 && stats(s).blocks == 1);
    kv_store_close(s);
    rig_remove(folder);
}

// A segment that is gone takes its blocks with it, and nothing else; one that cannot be opened is
// no reason to forget anything.
TEST(lost_segment)
{
    new_folder();
    struct kv_store_params p = params(NULL);
    p.capacity_bytes = 64 * MIB;
    p.segment_bytes = 4 * MIB;
    char path[128], aside[140];
    struct kv_store *s = open_store(&p);
    for (uint64_t k = 0; k < 400; k++)
        REQUIRE_INT(rig_put(s, k, buf, 4096), 0);
    REQUIRE_INT(record_put(s, "r", "value", NULL, 0), 0);
    kv_store_close(s);
    segment_path(path, sizeof(path));
    snprintf(aside, sizeof(aside), "%s.aside", path);
    REQUIRE(rename(path, aside) == 0 && symlink("nowhere", path) == 0);
    require_refused(&p, -ELOOP);
    REQUIRE(rename(aside, path) == 0);
    s = open_store(&p);
    REQUIRE_INT(rig_get(s, 399, 0, buf, 4096), 0);
    kv_store_close(s);
    REQUIRE(unlink(path) == 0);
    for (int i = 0; i < 2; i++) {
        s = open_store(&p);
        REQUIRE(!stats(s).rebuilt && stats(s).records == 1 && stats(s).blocks == 0);
        REQUIRE_INT(rig_get(s, 1, 0, buf, 4096), -ENOENT);
        kv_store_close(s);
    }
    rig_remove(folder);
}

// Under a running store: nothing crashes, what is gone is a miss.
TEST(files_vanish)
{
    new_folder();
    struct kv_store_params p = params(NULL);
    char path[128];
    struct kv_store *s = open_store(&p);
    for (uint64_t k = 0; k < 60; k++)
        REQUIRE_INT(rig_put(s, k, buf, BLOCK), 0);
    segment_path(path, sizeof(path));
    REQUIRE(truncate(path, 200000) == 0);
    require_no_wrong(s, 0, 0);
    uint64_t misses = 0;
    for (uint64_t k = 0; k < 60; k++) {
        int r = rig_get(s, k, 0, buf, BLOCK);
        REQUIRE(r == 0 || r == -ENOENT);
        misses += r != 0;
    }
    REQUIRE(misses > 0 && misses < 60);
    REQUIRE(unlink(path) == 0);
    for (uint64_t k = 100; k < 120; k++)
        REQUIRE_INT(rig_put(s, k, buf, BLOCK), 0);
    kv_store_close(s);
    s = open_store(&p);                 // the blocks of the missing file are misses
    for (uint64_t k = 0; k < 120; k++) {
        int r = rig_get(s, k, 0, buf, BLOCK);
        REQUIRE(r == 0 || r == -ENOENT);
    }
    kv_store_close(s);
    rig_remove(folder);
}

// Looking at a store changes nothing of it, also where opening it would rebuild it.
TEST(only_looked_at)
{
    new_folder();
    struct kv_store_params p = params("posix"), look = {.path = folder, .read_only = true};
    char path[128], sum[128];
    struct stat before, after;
    path_of(path, sizeof(path), "index");
    path_of(sum, sizeof(sum), "index.sum");
    struct kv_store *s = open_store(&p);
    REQUIRE_INT(rig_put(s, 1, buf, BLOCK), 0);
    REQUIRE_INT(record_put(s, "r", "value", NULL, 0), 0);
    kv_store_close(s);
    REQUIRE(stat(path, &before) == 0);
    s = open_store(&look);
    REQUIRE(stats(s).blocks == 1 && stats(s).records == 1);
    REQUIRE_INT(rig_get(s, 1, 0, buf, BLOCK), 0);
    REQUIRE_INT(rig_put(s, 2, buf, BLOCK), -EIO);
    REQUIRE_INT(rig_delete(s, 1), -EIO);
    REQUIRE_INT(record_put(s, "r", "other", NULL, 0), -EIO);
    kv_store_close(s);
    REQUIRE(stat(path, &after) == 0 && after.st_ino == before.st_ino);
    REQUIRE(after.st_mtim.tv_nsec == before.st_mtim.tv_nsec && stat(sum, &after) == 0);
    flip_file(path, 5000, 1);
    require_refused(&look, -EUCLEAN);
    flip_file(path, 5000, 1);
    s = open_store(&p);
    REQUIRE(!stats(s).rebuilt && stats(s).records == 1);
    REQUIRE_INT(rig_get(s, 1, 0, buf, BLOCK), 0);
    kv_store_close(s);
    rig_remove(folder);
    look.path = "/dev/shm/kvstore_none";
    require_refused(&look, -ENOENT);
}

// A segment that cannot be opened matters to a store only if it has blocks there.
TEST(shut_segment)
{
    new_folder();
    struct kv_store_params p = params("posix");
    struct kv_fsck f;
    struct err e = {0};
    char path[128], index[128];
    struct kv_store *s = open_store(&p);
    REQUIRE_INT(rig_put(s, 1, buf, BLOCK), 0);
    kv_store_close(s);
    path_of(path, sizeof(path), "seg-00000070-00011000");
    path_of(index, sizeof(index), "index");
    REQUIRE(mkdir(path, 0700) == 0);
    s = open_store(&p);
    REQUIRE_INT(rig_get(s, 1, 0, buf, BLOCK), 0);
    kv_store_close(s);
    REQUIRE_OK(kv_store_fsck(folder, false, NULL, NULL, &f, &e), e);
    REQUIRE(f.blocks == 1 && f.bad_files == 1 && !f.bad_blocks);
    REQUIRE(unlink(index) == 0);        // now nobody knows
    REQUIRE_INT(kv_store_open(&s, &p, &e), -EISDIR);
    REQUIRE(strstr(e.msg, "seg-00000070-00011000"));
    REQUIRE(rmdir(path) == 0);
    s = open_store(&p);
    REQUIRE_INT(rig_get(s, 1, 0, buf, BLOCK), 0);
    kv_store_close(s);
    rig_remove(folder);
}

static bool was_unlocked;

int truncate(const char *path, off_t bytes)
{
    char lock[128];
    path_of(lock, sizeof(lock), "lock");
    int fd = open(lock, O_RDWR);
    was_unlocked |= fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0;
    close(fd);
    return (int)syscall(SYS_truncate, path, bytes);
}

// Nobody else gets at a store between what is found and what is done about it.
TEST(repair_has_the_lock)
{
    new_folder();
    struct kv_store_params p = params("posix");
    struct kv_fsck f;
    struct err e = {0};
    char path[128];
    struct kv_store *s = open_store(&p);
    for (uint64_t k = 0; k < 5; k++)
        REQUIRE_INT(rig_put(s, k, buf, BLOCK), 0);
    kv_store_close(s);
    segment_path(path, sizeof(path));
    REQUIRE(truncate(path, 3 * (4096 + BLOCK) + 100) == 0);
    was_unlocked = false;
    REQUIRE_OK(kv_store_fsck(folder, true, NULL, NULL, &f, &e), e);
    REQUIRE(f.repaired && f.bad_blocks == 2 && !was_unlocked);
    s = open_store(&p);
    REQUIRE_INT(stats(s).blocks, 3);
    kv_store_close(s);
    rig_remove(folder);
}

static uint64_t n_said;
static void say(void *ctx, const char *line)
{
    (void)ctx;
    n_said += line[0] != '\0';
}

TEST(fsck)
{
    new_folder();
    struct kv_store_params p = params(NULL);
    struct kv_fsck f;
    struct err e = {0};
    struct hash pin = rig_key(3);
    char path[128];
    struct kv_store *s = open_store(&p);
    for (uint64_t k = 0; k < 30; k++)
        REQUIRE_INT(rig_put(s, k, buf, BLOCK), 0);
    REQUIRE_INT(record_put(s, "r", "value", &pin, 1), 0);
    kv_store_close(s);
    REQUIRE_OK(kv_store_fsck(folder, false, say, NULL, &f, &e), e);
    REQUIRE(kv_fsck_clean(&f) && f.blocks == 30 && f.records == 1 && n_said == 0);
    segment_path(path, sizeof(path));
    flip_file(path, (4096 + BLOCK) * 3 + 9000, 1);
    flip_file(path, 20, 1);
    path_of(path, sizeof(path), "super");
    flip_file(path, 4096, 1);
    path_of(path, sizeof(path), "stranger");
    close(open(path, O_CREAT | O_WRONLY, 0600));
    for (int i = 0; i < 2; i++) {       // looking changes nothing
        REQUIRE_OK(kv_store_fsck(folder, false, say, NULL, &f, &e), e);
        REQUIRE(!kv_fsck_clean(&f) && f.blocks == 28 && f.bad_blocks == 2 && f.bad_super);
        REQUIRE(f.lost_pins == 1 && f.bad_files == 1 && n_said == (uint64_t)(i + 1) * 5);
    }
    REQUIRE(unlink(path) == 0);
    REQUIRE_OK(kv_store_fsck(folder, true, say, NULL, &f, &e), e);
    REQUIRE(f.repaired);
    REQUIRE_OK(kv_store_fsck(folder, false, say, NULL, &f, &e), e);
    REQUIRE(f.blocks == 28 && !f.bad_blocks && !f.bad_super && !f.bad_index && !f.bad_files);
    s = open_store(&p);
    REQUIRE_INT(kv_store_fsck(folder, false, NULL, NULL, &f, &e), -EBUSY);
    kv_store_close(s);
    rig_remove(folder);
    REQUIRE_INT(kv_store_fsck(folder, false, NULL, NULL, &f, &e), -ENOENT);
}
