// Protects the store on a real disk: blocks and records come back, the cap holds, and what is
// damaged, foreign or in use is refused or found absent, never believed.
#include "tests/test.h"
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include "kvstore/format.h"
#include "tests/kvfolder.h"

TEST_MAIN

static _Alignas(4096) uint8_t buf[4 * MIB];

// ---- format ------------------------------------------------------------------------------------

// Any bit of anything on disk is noticed.
TEST(every_bit)
{
    static _Alignas(8) uint8_t unit[4096];
    struct slot_header h = {.segment = 3, .slot = 4, .generation = 5, .payload_bytes = 16384}, got;
    uint64_t sums[4] = {1, 2, 3, 4};
    slot_encode(unit, &h, sums);
    REQUIRE(slot_decode(unit, &got) == 0 && slot_sums(unit, &got) && got.slot == 4);
    for (uint32_t bit = 0; bit < 8 * (sizeof(h) + sizeof(sums)); bit++) {
        unit[bit / 8] ^= (uint8_t)(1u << bit % 8);
        REQUIRE(slot_decode(unit, &got) != 0 || !slot_sums(unit, &got));
        unit[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    uint8_t uuid[UUID_BYTES] = {9};
    struct super s;
    super_encode(unit, uuid, 77, 1);
    REQUIRE(super_decode(unit, 1, &s) == 0 && s.created_s == 77);
    REQUIRE_INT(super_decode(unit, 0, &s), -EUCLEAN);       // each copy in its place
    for (uint32_t bit = 0; bit < 8 * sizeof(s); bit++) {
        unit[bit / 8] ^= (uint8_t)(1u << bit % 8);
        REQUIRE(super_decode(unit, 1, &s) != 0);
        unit[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    struct hash key = rig_key(1);
    struct index_block b = {.segment = 1, .bytes = 8192, .generation = 9};
    index_block_seal(&b, &key);
    REQUIRE(index_block_ok(&b));
    for (uint32_t bit = 0; bit < 8 * sizeof(b); bit++) {
        ((uint8_t *)&b)[bit / 8] ^= (uint8_t)(1u << bit % 8);
        REQUIRE(!index_block_ok(&b));
        ((uint8_t *)&b)[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
}

// ---- blocks ------------------------------------------------------------------------------------

static void blocks(const char *backend)
{
    new_folder_on_disk();
    struct kv_store_params p = params(backend);
    struct kv_store *s = open_store(&p);
    uint32_t n;
    for (uint64_t k = 0; k < 40; k++)
        REQUIRE_INT(rig_put(s, k, buf, BLOCK - 4096 * (uint32_t)(k % 3)), 0);
    struct kv_stats st = stats(s);
    REQUIRE_STR(st.backend, backend);
    REQUIRE_INT(st.blocks, 40);
    for (int again = 0; again < 2; again++) {
        for (uint64_t k = 0; k < 40; k++) {
            uint32_t bytes = BLOCK - 4096 * (uint32_t)(k % 3);
            struct hash h = rig_key(k);
            REQUIRE(kv_store_has(s, &h, &n) && n == bytes);
            REQUIRE_INT(rig_get(s, k, 0, buf, bytes), 0);
            REQUIRE_INT(rig_get(s, k, 8192, buf, 4096), 0);
            REQUIRE_INT(rig_get(s, k, bytes - 8192, buf, 8192), 0);
            REQUIRE_INT(rig_get(s, k, 4096, buf, BLOCK), -ENOENT);
        }
        REQUIRE_INT(rig_get(s, 1000, 0, buf, 4096), -ENOENT);
        REQUIRE_INT(stats(s).corrupt, 0);
        kv_store_close(s);
        s = open_store(&p);
    }
    REQUIRE_INT(rig_put(s, 7, buf, BLOCK - 4096), 0);      // it is there: nothing is written
    REQUIRE_INT(stats(s).stored, 0);
    REQUIRE_INT(rig_delete(s, 7), 0);
    REQUIRE_INT(rig_delete(s, 7), -ENOENT);
    REQUIRE_INT(rig_get(s, 7, 0, buf, 4096), -ENOENT);
    kv_store_close(s);
    s = open_store(&p);
    REQUIRE_INT(rig_get(s, 7, 0, buf, 4096), -ENOENT);
    REQUIRE_INT(stats(s).blocks, 39);
    kv_store_close(s);
    rig_remove(folder);
}

TEST(blocks_io_uring)
{
    new_folder();
    struct kv_store_params p = params("io_uring");
    struct kv_store *s;
    struct err e = {0};
    int r = kv_store_open(&s, &p, &e);
    rig_remove(folder);
    if (r)
        SKIP("%s", e.msg);
    kv_store_close(s);
    blocks("io_uring");
}

TEST(blocks_posix) { blocks("posix"); }

// Longer than one disk request; through memory that is registered, and memory that is not.
TEST(large_blocks)
{
    new_folder();
    struct kv_store_params p = params(NULL);
    p.block_bytes_max = 3 * MIB;
    p.capacity_bytes = 64 * MIB;
    struct kv_store *s = open_store(&p);
    uint64_t bytes;
    uint8_t *all = kv_store_buffers(s, &bytes), *one = kv_store_buffer(s);
    REQUIRE(all && bytes == 12 * MIB && one >= all && one + 3 * MIB <= all + bytes);
    REQUIRE_INT(rig_put(s, 1, one, 3 * MIB), 0);
    REQUIRE_INT(rig_put(s, 2, buf, 3 * MIB - 4096), 0);
    REQUIRE_INT(rig_get(s, 1, 0, buf, 3 * MIB), 0);
    REQUIRE_INT(rig_get(s, 2, 0, one, 3 * MIB - 4096), 0);
    REQUIRE_INT(rig_get(s, 1, MIB - 4096, one, MIB + 8192), 0);
    kv_store_buffer_free(s, one);
    void *lent[5];
    for (int i = 0; i < 5; i++)
        lent[i] = kv_store_buffer(s);
    REQUIRE(lent[3] && !lent[4]);
    kv_store_close(s);
    rig_remove(folder);
}

static void count_done(struct kv_io *io) { ++*(int *)io->ctx; }

// The descriptor says when to poll; nothing ends before that.
TEST(eventfd)
{
    new_folder_on_disk();
    struct kv_store_params p = params(NULL);
    struct kv_store *s = open_store(&p);
    int n_done = 0;
    struct kv_io io[8];
    struct pollfd fd = {.fd = kv_store_fd(s), .events = POLLIN};
    for (uint64_t k = 0; k < 8; k++) {
        io[k] = (struct kv_io){.kind = KV_IO_PUT, .key = rig_key(k), .buf = buf + k * BLOCK,
                               .bytes = BLOCK, .done = count_done, .ctx = &n_done,
                               .priority = KV_WRITE_BEHIND};
        kv_store_submit(s, &io[k]);
    }
    REQUIRE_INT(n_done, 0);
    for (int i = 0; i < 1000 && n_done < 8; i++) {
        kv_store_poll(s, 0);
        if (n_done < 8)
            REQUIRE(poll(&fd, 1, 5000) == 1);
    }
    REQUIRE_INT(n_done, 8);
    // A miss is told by poll, too, and the descriptor says so.
    kv_store_poll(s, 0);
    io[0] = (struct kv_io){.kind = KV_IO_GET, .key = rig_key(99), .buf = buf, .bytes = 4096,
                           .done = count_done, .ctx = &n_done};
    kv_store_submit(s, &io[0]);
    REQUIRE(n_done == 8 && poll(&fd, 1, 0) == 1);
    kv_store_poll(s, 0);
    REQUIRE(n_done == 9 && io[0].result == -ENOENT);
    kv_store_close(s);
    rig_remove(folder);
}

// ---- records -----------------------------------------------------------------------------------

TEST(records)
{
    new_folder();
    struct kv_store_params p = params(NULL);
    struct kv_store *s = open_store(&p);
    struct hash pin[3] = {rig_key(1), rig_key(2), rig_key(3)};
    char value[64];
    REQUIRE_INT(rig_put(s, 1, buf, BLOCK), 0);
    REQUIRE_INT(rig_put(s, 2, buf, BLOCK), 0);
    REQUIRE_INT(record_put(s, "session", "a value", pin, 2), 0);
    REQUIRE_INT(record_put(s, "other", "more", pin, 3), -ENOENT);   // block 3 is not there
    REQUIRE_INT(record_put(s, "other", "", NULL, 0), 0);
    kv_store_close(s);
    s = open_store(&p);
    REQUIRE_INT(record_get(s, "session", value, sizeof(value)), 0);
    REQUIRE_STR(value, "a value");
    REQUIRE_INT(record_get(s, "session", value, 3), -ENOBUFS);
    REQUIRE_INT(record_get(s, "none", value, sizeof(value)), -ENOENT);
    REQUIRE(stats(s).pinned_bytes >= 2 * BLOCK);
    // Pinned blocks survive a flood, and go once the record is gone.
    for (uint64_t k = 100; k < 500; k++)
        REQUIRE_INT(rig_put(s, k, buf, BLOCK), 0);
    REQUIRE_INT(rig_get(s, 1, 0, buf, BLOCK), 0);
    REQUIRE_INT(rig_get(s, 2, 0, buf, BLOCK), 0);
    struct kv_io del = {.kind = KV_IO_RECORD_DELETE, .name = "session"};
    REQUIRE_INT(rig_run(s, &del), 0);
    REQUIRE_INT(stats(s).pinned_bytes, 0);
    for (uint64_t k = 500; k < 900; k++)
        REQUIRE_INT(rig_put(s, k, buf, BLOCK), 0);
    REQUIRE_INT(rig_get(s, 1, 0, buf, BLOCK), -ENOENT);
    struct kv_record_info info;
    uint32_t cursor = 0;
    REQUIRE(kv_store_next_record(s, &cursor, &info));
    REQUIRE_STR(info.name, "other");
    REQUIRE(!kv_store_next_record(s, &cursor, &info));
    kv_store_close(s);
    rig_remove(folder);
}

// ---- the cap -----------------------------------------------------------------------------------

TEST(cap_and_eviction)
{
    new_folder();
    struct kv_store_params p = params(NULL);
    struct kv_store *s = open_store(&p);
    struct hash held = rig_key(0);
    for (uint64_t k = 0; k < 600; k++) {
        REQUIRE_INT(rig_put(s, k, buf, BLOCK), 0);
        if (k == 0)
            REQUIRE(kv_store_hold(s, &held));
        if (k % 50 == 0) {
            REQUIRE(rig_bytes(folder) <= p.capacity_bytes);
            REQUIRE_INT(rig_get(s, 0, 0, buf, BLOCK), 0);
        }
    }
    struct kv_stats st = stats(s);
    REQUIRE(st.evicted > 300 && st.blocks > 150);
    REQUIRE(kv_write_amplification(&st) > 1 && kv_write_amplification(&st) < 3);
    REQUIRE_INT(rig_get(s, 599, 0, buf, BLOCK), 0);         // the newest are there
    REQUIRE_INT(rig_get(s, 10, 0, buf, BLOCK), -ENOENT);    // the oldest are not
    kv_store_release(s, &held);
    REQUIRE(kv_store_evict(s, UINT64_MAX) > 0);
    REQUIRE_INT(rig_get(s, 0, 0, buf, BLOCK), -ENOENT);
    REQUIRE_INT(stats(s).blocks, 0);
    kv_store_close(s);
    // Another size takes over the room of the first.
    s = open_store(&p);
    for (uint64_t k = 1000; k < 1600; k++)
        REQUIRE_INT(rig_put(s, k, buf, 8192), 0);
    for (uint64_t k = 2000; k < 2400; k++)
        REQUIRE_INT(rig_put(s, k, buf, 32768), 0);
    REQUIRE_INT(rig_get(s, 2399, 0, buf, 32768), 0);
    REQUIRE(rig_bytes(folder) <= p.capacity_bytes);
    kv_store_close(s);
    // A lower cap is kept too.
    p.capacity_bytes = 8 * MIB;
    s = open_store(&p);
    REQUIRE_INT(rig_put(s, 1, buf, BLOCK), 0);
    struct kv_io flush = {.kind = KV_IO_FLUSH};
    REQUIRE_INT(rig_run(s, &flush), 0);
    kv_store_close(s);
    REQUIRE(rig_bytes(folder) <= p.capacity_bytes);
    rig_remove(folder);
}

TEST(everything_held)
{
    new_folder();
    struct kv_store_params p = params(NULL);
    p.capacity_bytes = 4 * MIB;
    struct kv_store *s = open_store(&p);
    uint64_t k = 0;
    for (int r = 0; r == 0; k++) {
        struct hash h = rig_key(k);
        r = rig_put(s, k, buf, BLOCK);
        REQUIRE(r == 0 || r == -ENOSPC);
        REQUIRE(kv_store_hold(s, &h) == (r == 0));
        REQUIRE(k < 100);
    }
    struct hash h = rig_key(3);
    kv_store_release(s, &h);
    REQUIRE_INT(rig_put(s, 1000, buf, BLOCK), 0);
    REQUIRE_INT(rig_get(s, 3, 0, buf, BLOCK), -ENOENT);
    kv_store_close(s);
    rig_remove(folder);
}

TEST(wear_budget)
{
    new_folder();
    struct kv_store_params p = params(NULL);
    p.write_bytes_per_day = 10 * MIB;
    struct kv_store *s = open_store(&p);
    int r = 0;
    uint64_t k = 0;
    for (; r == 0 && k < 400; k++)
        r = rig_put(s, k, buf, BLOCK);
    REQUIRE_INT(r, -EDQUOT);
    REQUIRE(stats(s).written_today_bytes <= p.write_bytes_per_day + MIB);
    REQUIRE_INT(rig_get(s, 0, 0, buf, BLOCK), 0);
    kv_store_close(s);
    s = open_store(&p);                 // it is kept over restarts
    REQUIRE_INT(rig_put(s, 1000, buf, BLOCK), -EDQUOT);
    kv_store_close(s);
    rig_remove(folder);
}

// Names take room in the index too: what they leave is enough for the blocks.
TEST(names_fill_the_index)
{
    enum { AT_ONCE = 64 };
    static char name[AT_ONCE][KV_RECORD_NAME_MAX + 1];
    static struct kv_io io[AT_ONCE];
    new_folder();
    struct kv_store_params p = params(NULL);
    p.capacity_bytes = 4 * MIB;
    struct kv_store *s = open_store(&p);
    int n_full = 0;
    for (uint32_t n = 0; n < 20000 && !n_full; n += AT_ONCE) {
        int n_done = 0;
        for (uint32_t i = 0; i < AT_ONCE; i++) {
            snprintf(name[i], sizeof(name[i]), "%0126u", (n + i) * 2654435761u);
            io[i] = (struct kv_io){.kind = KV_IO_RECORD_PUT, .name = name[i], .done = count_done,
                                   .ctx = &n_done};
            kv_store_submit(s, &io[i]);
        }
        while (n_done < AT_ONCE)
            kv_store_poll(s, RIG_NS_PER_S);
        for (uint32_t i = 0; i < AT_ONCE; i++)
            n_full += io[i].result == -ENOSPC;
    }
    REQUIRE(n_full > 0 && stats(s).records > 1000);
    REQUIRE_INT(stats(s).commit_errors, 0);
    for (uint64_t k = 0; k < 100; k++)
        REQUIRE_INT(rig_put(s, k, buf, 4096), 0);
    kv_store_close(s);
    s = open_store(&p);
    REQUIRE_INT(rig_get(s, 99, 0, buf, 4096), 0);
    kv_store_close(s);
    rig_remove(folder);
}

// ---- refused stores ----------------------------------------------------------------------------

TEST(foreign_folders)
{
    new_folder();
    struct kv_store_params p = params(NULL);
    char path[128], target[64];
    path_of(path, sizeof(path), "letter.txt");
    close(open(path, O_CREAT | O_WRONLY, 0600));
    require_refused(&p, -EEXIST);       // somebody else's folder
    REQUIRE(unlink(path) == 0);
    path_of(path, sizeof(path), "lost+found");
    REQUIRE(mkdir(path, 0700) == 0);    // a file system's own
    kv_store_close(open_store(&p));
    REQUIRE(rmdir(path) == 0);
    snprintf(target, sizeof(target), "%s", folder);
    snprintf(path, sizeof(path), "%s.link", target);
    REQUIRE(symlink(target, path) == 0);
    p.path = path;
    require_refused(&p, -ENOTDIR);
    REQUIRE(unlink(path) == 0);
    p.path = "/dev/null";
    require_refused(&p, -ENOTDIR);
    p.path = "/nowhere/at/all";
    require_refused(&p, -ENOENT);
    p = params("paper");
    require_refused(&p, -EINVAL);
    p = params(NULL);
    p.block_bytes_max = 5000;
    require_refused(&p, -EINVAL);
    rig_remove(folder);
}

static int hold_pipe[2];

static void hold_store(void)
{
    struct kv_store_params p = params(NULL);
    struct kv_store *s = open_store(&p);
    char c = 0;
    REQUIRE(write(hold_pipe[1], &c, 1) == 1);
    usleep(400000);
    kv_store_close(s);
}

// A second one waits for a little, and then is refused with the process that has the store.
TEST(two_processes)
{
    new_folder();
    char c;
    struct kv_store_params p = params(NULL);
    REQUIRE(pipe(hold_pipe) == 0);
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        if (setjmp(test_out) == 0)
            hold_store();
        _exit(0);
    }
    REQUIRE(read(hold_pipe[0], &c, 1) == 1);
    struct kv_store *s = open_store(&p);    // as soon as the other lets go
    REQUIRE(waitpid(pid, NULL, 0) == pid);
    struct kv_store *second = NULL;
    struct err e = {0};
    REQUIRE_INT(kv_store_open(&second, &p, &e), -EBUSY);
    char who[32];
    snprintf(who, sizeof(who), "process %d", (int)getpid());
    REQUIRE(strstr(e.msg, who));
    kv_store_close(s);
    rig_remove(folder);
}

// ---- other processes ---------------------------------------------------------------------------

// Pages that the ring has registered would be copied for whoever writes to them first after a fork.
TEST(no_child_has_buffers)
{
    new_folder();
    uint8_t *mine = mmap(NULL, MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct kv_store_params p = params(NULL);
    p.memory = mine;
    p.memory_bytes = MIB;
    memset(mine, 1, MIB);
    struct kv_store *s = open_store(&p);
    uint64_t bytes;
    void *all = kv_store_buffers(s, &bytes);
    bool registered = stats(s).registered_buffers;
    pid_t pid = fork();
    if (pid == 0) {
        unsigned char in[MIB / 4096];
        bool has = mincore(all, 4096, in) == 0 || (registered && mincore(mine, MIB, in) == 0);
        _exit(has);
    }
    int status;
    REQUIRE(waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    memset(mine, 2, MIB);
    REQUIRE_INT(rig_put(s, 1, mine, BLOCK), 0);
    REQUIRE_INT(rig_get(s, 1, 0, mine + BLOCK, BLOCK), 0);
    kv_store_close(s);
    pid = fork();                       // the caller's own again
    if (pid == 0)
        _exit(mine[MIB - 1] != 2);
    REQUIRE(waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    munmap(mine, MIB);
    rig_remove(folder);
}

// A file that the kernel lists among those of a ring.
static bool ring_has(const char *name)
{
    char path[64], link[64], line[512];
    bool found = false;
    for (int fd = 3; fd < 200 && !found; fd++) {
        snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
        ssize_t n = readlink(path, link, sizeof(link) - 1);
        link[MAX(n, 0)] = '\0';
        if (!strstr(link, "io_uring"))
            continue;
        snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
        FILE *f = fopen(path, "r");
        while (f && fgets(line, sizeof(line), f))
            found |= strstr(line, name) != NULL;
        if (f)
            fclose(f);
    }
    return found;
}

// The lock is not free before the last request has ended, whatever became of the process.
TEST(ring_has_the_lock)
{
    new_folder();
    struct kv_store_params p = params(NULL);
    struct kv_store *s = open_store(&p);
    REQUIRE_INT(rig_put(s, 1, buf, BLOCK), 0);
    bool is_told = strcmp(stats(s).backend, "io_uring") == 0 && ring_has("seg-");
    bool has_lock = ring_has("lock");
    kv_store_close(s);
    rig_remove(folder);
    if (!is_told)
        SKIP("no ring, or a kernel that does not tell its files");
    REQUIRE(has_lock);
}

// ---- what a system may deny --------------------------------------------------------------------

static void deny_io_uring(void)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog filter = {ARRAY_LEN(code), code};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter))
        SKIP("no seccomp");
    struct kv_store_params p = params(NULL);
    struct kv_store *s = open_store(&p);
    struct kv_stats st = stats(s);
    REQUIRE_STR(st.backend, "posix");
    REQUIRE(strstr(st.note, "io_uring"));
    REQUIRE_INT(rig_put(s, 1, buf, BLOCK), 0);
    REQUIRE_INT(rig_get(s, 1, 4096, buf, BLOCK - 4096), 0);
    kv_store_close(s);
    p.backend = "io_uring";
    require_refused(&p, -EPERM);
}

TEST(io_uring_denied)
{
    new_folder();
    in_child(deny_io_uring);
    rig_remove(folder);
}

static void little_locked_memory(void)
{
    struct rlimit none = {65536, 65536};
    if (geteuid() == 0 && setuid(65534) != 0)
        SKIP("cannot be another user");
    REQUIRE(setrlimit(RLIMIT_MEMLOCK, &none) == 0);
    struct kv_store_params p = params(NULL);
    struct kv_store *s = open_store(&p);
    struct kv_stats st = stats(s);
    REQUIRE(!st.registered_buffers);
    void *b = kv_store_buffer(s);
    REQUIRE_INT(rig_put(s, 1, b, BLOCK), 0);
    REQUIRE_INT(rig_get(s, 1, 0, b, BLOCK), 0);
    kv_store_close(s);
}

TEST(memlock)
{
    new_folder();
    REQUIRE(chmod(folder, 0777) == 0);
    in_child(little_locked_memory);
    rig_remove(folder);
}

static void small_files(void)
{
    struct rlimit limit = {3 * MIB, 3 * MIB};
    struct kv_store_params p = params(NULL);
    p.segment_bytes = 4 * MIB;
    p.block_bytes_max = BLOCK;
    struct kv_store *s = open_store(&p);
    REQUIRE(setrlimit(RLIMIT_FSIZE, &limit) == 0);
    REQUIRE_INT(rig_put(s, 1, buf, BLOCK), -ENOSPC);
    REQUIRE(stats(s).no_space > 0);
    REQUIRE_INT(rig_get(s, 1, 0, buf, BLOCK), -ENOENT);
    kv_store_close(s);
}

TEST(file_size_limit)
{
    new_folder();
    in_child(small_files);
    rig_remove(folder);
}

static bool write_text(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY);
    bool ok = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);
    if (fd >= 0)
        close(fd);
    return ok;
}

static bool own_namespace(void)
{
    char uid[32], gid[32];
    snprintf(uid, sizeof(uid), "0 %d 1", (int)geteuid());
    snprintf(gid, sizeof(gid), "0 %d 1", (int)getegid());
    return unshare(CLONE_NEWUSER | CLONE_NEWNS) == 0 &&
           write_text("/proc/self/setgroups", "deny") &&
           write_text("/proc/self/uid_map", uid) && write_text("/proc/self/gid_map", gid);
}

static void full_disk(void)
{
    if (!own_namespace() ||
        mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
        mount("tmpfs", folder, "tmpfs", 0, "size=6m") != 0)
        SKIP("no tmpfs of one's own");
    char path[80];
    snprintf(path, sizeof(path), "%s/store", folder);
    struct kv_store_params p = params(NULL);
    p.path = path;
    p.capacity_bytes = 64 * MIB;
    p.segment_bytes = MIB;
    struct kv_store *s = open_store(&p);
    uint64_t stored = 0;
    for (uint64_t k = 0; k < 200; k++) {
        int r = rig_put(s, k, buf, BLOCK);
        REQUIRE(r == 0 || r == -ENOSPC);
        stored += r == 0;
    }
    struct kv_stats st = stats(s);
    REQUIRE(st.no_space > 0 && st.evicted > 0 && !st.degraded);
    REQUIRE(stored > 60 && st.blocks > 20);
    REQUIRE_INT(rig_get(s, 199, 0, buf, BLOCK), 0);
    kv_store_close(s);
    s = open_store(&p);
    REQUIRE_INT(rig_get(s, 199, 0, buf, BLOCK), 0);
    kv_store_close(s);
}

TEST(disk_is_full)
{
    new_folder();
    in_child(full_disk);
    rig_remove(folder);
}
