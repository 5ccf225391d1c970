// Speed of the block store next to the disk's own, which bare io_uring measures in the same run.
//
//     bench_kvstore [--dir FOLDER] [--backend NAME] [--seconds S] [--rounds N] [--blocks N]
//                   [--only KIB:DEPTH]
//
// Reads are of whole blocks at random; "depth" is how many requests the disk has at once. Writes
// replace what a full store holds. A put ends when its block is durable and named by the index; at
// depth 32 up to 512 puts (128 MiB) wait for their commit meanwhile. So its fair neighbour is
// "grouped": as many bytes at that depth, then fdatasync, and so on. "bare" does not sync at all.
// Disks are moody: each round measures all of them one after the other, ratios are of one round,
// and what is printed are medians over the rounds.
// --blocks also opens a store of N blocks (an index of that many records over an empty file).
#include <fcntl.h>
#include <getopt.h>
#include <liburing.h>
#include <sys/resource.h>
#include "base/clock.h"
#include "kvstore/format.h"
#include "kvstore/index.h"
#include "tests/kvrig.h"

#define FILE_BYTES (UINT64_C(1) << 30)
#define BLOCK_MAX (1u << 20)
#define WINDOW_MAX 512u                 // puts that wait for a commit; fewer of large blocks
#define MEMORY_BYTES (128u << 20)
#define SLOT_BYTES 8192u                // of --blocks
#define BATCH 50000u

#define ROUNDS_MAX 64u

struct options {
    const char *dir, *backend;
    double      seconds;
    uint64_t    blocks;
    uint32_t    rounds, only_kib, only_depth;
};
struct figure { double bytes_per_s, cpu_s_per_gb; };

static struct options opt = {.dir = "/tmp", .seconds = 0.5, .rounds = 5};
static uint8_t *memory;                 // (MEMORY_BYTES)
static uint64_t rng = 1;

static uint64_t pick(uint64_t n)
{
    uint64_t z = rng += UINT64_C(0x9e3779b97f4a7c15);   // splitmix64
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return (z ^ (z >> 31)) % n;
}

static void fail(const char *what, int r)
{
    fprintf(stderr, "%s: %s\n", what, strerror(r < 0 ? -r : r));
    exit(1);
}

static double cpu_s(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
           (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

struct timer { uint64_t begin_ns; double begin_cpu_s; };

static struct timer start_timer(void) { return (struct timer){clock_now_ns(), cpu_s()}; }

static bool is_over(const struct timer *t)
{
    return (double)(clock_now_ns() - t->begin_ns) / 1e9 >= opt.seconds;
}

static struct figure stop_timer(const struct timer *t, uint64_t bytes)
{
    double s = (double)(clock_now_ns() - t->begin_ns) / 1e9;
    return (struct figure){(double)bytes / s, (cpu_s() - t->begin_cpu_s) * 1e9 / (double)bytes};
}

// ---- the disk itself ---------------------------------------------------------------------------

static struct io_uring ring;
static int bare_fd;

static void bare_open(void)
{
    char path[300];
    snprintf(path, sizeof(path), "%s/bench_kvstore.bare", opt.dir);
    bare_fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_DIRECT, 0600);
    if (bare_fd < 0 || fallocate(bare_fd, 0, 0, (off_t)FILE_BYTES) != 0)
        fail(path, errno);
    unlink(path);
    for (uint64_t at = 0; at < FILE_BYTES; at += BLOCK_MAX)
        if (pwrite(bare_fd, memory, BLOCK_MAX, (off_t)at) != (ssize_t)BLOCK_MAX)
            fail(path, errno);
    fdatasync(bare_fd);
    struct iovec v = {memory, MEMORY_BYTES};
    int r = io_uring_queue_init(WINDOW_MAX, &ring, 0);
    if (r)
        fail("io_uring", r);
    io_uring_register_files(&ring, &bare_fd, 1);
    if (io_uring_register_buffers(&ring, &v, 1) != 0)
        fail("registered buffers (RLIMIT_MEMLOCK?)", ENOMEM);
}

static void bare_submit(bool write, uint32_t bytes, uint32_t slot, uint64_t at)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&ring);
    void *p = memory + (size_t)slot * BLOCK_MAX;
    if (write)
        io_uring_prep_write_fixed(sqe, 0, p, bytes, at, 0);
    else
        io_uring_prep_read_fixed(sqe, 0, p, bytes, at, 0);
    sqe->flags |= IOSQE_FIXED_FILE;
    io_uring_sqe_set_data64(sqe, slot);
}

static uint32_t bare_reap(uint32_t bytes)
{
    struct io_uring_cqe *cqe = NULL;
    int r = io_uring_submit_and_wait(&ring, 1);
    if (r < 0 || (r = io_uring_wait_cqe(&ring, &cqe)) < 0)
        fail("bare request", r);
    if (cqe->res != (int)bytes)
        fail("bare request", cqe->res < 0 ? cqe->res : EIO);
    uint32_t slot = (uint32_t)io_uring_cqe_get_data64(cqe);
    io_uring_cqe_seen(&ring, cqe);
    return slot;
}

// As many requests as the depth; after each `group` of them (0: never) all end, and fdatasync.
static struct figure bare(bool write, uint32_t bytes, uint32_t depth, uint32_t group)
{
    uint64_t n_places = FILE_BYTES / bytes, place = 0, done = 0;
    uint32_t free_slot[WINDOW_MAX], n_free_slots = 0, in_group = 0;
    for (uint32_t i = 0; i < depth; i++)
        free_slot[n_free_slots++] = i;
    struct timer t = start_timer();
    while (!is_over(&t) || n_free_slots < depth) {
        while (n_free_slots && !is_over(&t) && (!group || in_group < group)) {
            uint64_t at = (write ? place++ % n_places : pick(n_places)) * bytes;
            bare_submit(write, bytes, free_slot[--n_free_slots], at);
            in_group++;
        }
        if (n_free_slots < depth) {
            free_slot[n_free_slots++] = bare_reap(bytes);
            done += bytes;
        }
        if (group && in_group && n_free_slots == depth) {
            fdatasync(bare_fd);
            in_group = 0;
        }
    }
    struct figure f = stop_timer(&t, done);
    fdatasync(bare_fd);                 // what is left in caches is not for the next to pay
    return f;
}

// ---- the store ---------------------------------------------------------------------------------

static struct kv_store *store;
static struct kv_io io[WINDOW_MAX];
static uint32_t free_io[WINDOW_MAX], n_free;
static uint64_t ended_bytes, n_failed, next_key;

static void done(struct kv_io *o)
{
    n_failed += o->result != 0;
    ended_bytes += o->result == 0 ? o->bytes : 0;
    free_io[n_free++] = (uint32_t)(o - io);
}

static void submit(enum kv_io_kind kind, uint64_t key, uint32_t bytes)
{
    uint32_t i = free_io[--n_free];
    io[i] = (struct kv_io){.kind = kind, .key = rig_key(key), .bytes = bytes, .done = done,
                           .buf = memory + (size_t)i * bytes,
                           .priority = kind == KV_IO_GET ? KV_RESTORE : KV_WRITE_BEHIND};
    kv_store_submit(store, &io[i]);
}

// One of the newest n_keys that is still there.
static uint64_t pick_key(uint64_t n_keys)
{
    for (;;) {
        uint64_t k = next_key - 1 - pick(n_keys);
        struct hash h = rig_key(k);
        if (kv_store_has(store, &h, NULL))
            return k;
    }
}

// `window` operations at once: gets of the newest n_keys, or puts of new ones.
static struct figure run(enum kv_io_kind kind, uint32_t bytes, uint32_t window, uint64_t n_keys,
                         uint64_t bytes_max)
{
    ended_bytes = n_failed = n_free = 0;
    for (uint32_t i = 0; i < window; i++)
        free_io[n_free++] = i;
    struct timer t = start_timer();
    for (;;) {
        bool go_on = !is_over(&t) && ended_bytes < bytes_max;
        while (go_on && n_free)
            submit(kind, kind == KV_IO_GET ? pick_key(n_keys) : next_key++, bytes);
        if (n_free == window)
            break;
        kv_store_poll(store, NS_PER_S);
    }
    if (n_failed)
        fprintf(stderr, "%llu operations failed\n", (unsigned long long)n_failed);
    return stop_timer(&t, ended_bytes);
}

static void open_store(const char *folder, uint32_t bytes, uint32_t depth)
{
    struct err e = {0};
    const struct kv_store_params p = {
        .path = folder, .capacity_bytes = FILE_BYTES, .block_bytes_max = bytes,
        .inflight_max = MAX(depth * 4 / 3 + 1, 4), .backend = opt.backend, .memory = memory,
        .memory_bytes = MEMORY_BYTES};
    if (kv_store_open(&store, &p, &e))
        fail(e.msg, e.code);
}

enum { BARE, GROUPED, STORE, WAYS };

struct rounds { struct figure figure[WAYS][ROUNDS_MAX]; };

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *v)
{
    qsort(v, opt.rounds, sizeof(*v), compare_doubles);
    return opt.rounds % 2 ? v[opt.rounds / 2] : (v[opt.rounds / 2 - 1] + v[opt.rounds / 2]) / 2;
}

static double speed(const struct rounds *r, int way)
{
    double v[ROUNDS_MAX];
    for (uint32_t i = 0; i < opt.rounds; i++)
        v[i] = r->figure[way][i].bytes_per_s / 1e6;
    return median(v);
}

static double cpu(const struct rounds *r, int way)
{
    double v[ROUNDS_MAX];
    for (uint32_t i = 0; i < opt.rounds; i++)
        v[i] = r->figure[way][i].cpu_s_per_gb;
    return median(v);
}

static double store_to(const struct rounds *r, int way)
{
    double v[ROUNDS_MAX];
    for (uint32_t i = 0; i < opt.rounds; i++)
        v[i] = r->figure[STORE][i].bytes_per_s / r->figure[way][i].bytes_per_s;
    return median(v);
}

static void print(const char *what, uint32_t bytes, uint32_t depth, const struct rounds *r)
{
    bool grouped = r->figure[GROUPED][0].bytes_per_s > 0;
    printf("| %s | %u KiB | %u | %.0f | ", what, bytes >> 10, depth, speed(r, BARE));
    if (grouped)
        printf("%.0f | %.0f | %.2f | %.2f | ", speed(r, GROUPED), speed(r, STORE),
               store_to(r, BARE), store_to(r, GROUPED));
    else
        printf("- | %.0f | %.2f | - | ", speed(r, STORE), store_to(r, BARE));
    printf("%.2f | %.2f |\n", cpu(r, BARE), cpu(r, STORE));
    fflush(stdout);
}

static void fill(uint32_t bytes)
{
    double seconds = opt.seconds;
    opt.seconds = 60;
    run(KV_IO_PUT, bytes, 64, 0, FILE_BYTES * 9 / 8);
    opt.seconds = seconds;
}

static void one_size(uint32_t bytes, uint32_t depth)
{
    static struct rounds writes, reads;
    char folder[300];
    if (opt.only_depth && (opt.only_kib != bytes >> 10 || opt.only_depth != depth))
        return;
    memset(&reads, 0, sizeof(reads));
    snprintf(folder, sizeof(folder), "%s/bench_kvstoreXXXXXX", opt.dir);
    if (!mkdtemp(folder))
        fail(folder, errno);
    open_store(folder, bytes, depth);
    fill(bytes);                        // so that puts replace
    uint32_t window = depth == 1 ? 1 : MIN(WINDOW_MAX, MEMORY_BYTES / bytes);
    for (uint32_t i = 0; i < opt.rounds; i++) {
        writes.figure[BARE][i] = bare(true, bytes, depth, 0);
        writes.figure[STORE][i] = run(KV_IO_PUT, bytes, window, 0, UINT64_MAX);
        writes.figure[GROUPED][i] = bare(true, bytes, depth, window);
        reads.figure[BARE][i] = bare(false, bytes, depth, 0);
        reads.figure[STORE][i] = run(KV_IO_GET, bytes, depth,
                                     FILE_BYTES * 5 / 8 / slot_bytes_for(bytes), UINT64_MAX);
    }
    print("write", bytes, depth, &writes);
    print("read", bytes, depth, &reads);
    struct kv_stats st;
    kv_store_stats(store, &st);
    fprintf(stderr, "%s, O_DIRECT %d, registered buffers %d, write amplification %.3f, "
            "%.0f changes and %.1f ms a commit, at most %.1f ms\n", st.backend, st.direct,
            st.registered_buffers, kv_write_amplification(&st),
            (double)st.committed / (double)st.commits,
            (double)st.commit_ns / (double)st.commits / 1e6, (double)st.commit_ns_max / 1e6);
    kv_store_close(store);
    rig_remove(folder);
}

// ---- opening a large one -----------------------------------------------------------------------

static void write_index(struct index *x, const uint8_t *uuid)
{
    struct index_change *c = calloc(BATCH + 1, sizeof(*c));
    for (uint64_t i = 0; i < opt.blocks;) {
        uint32_t n = 0;
        for (; n < BATCH && i < opt.blocks; i++, n++) {
            c[n] = (struct index_change){.kind = INDEX_BLOCK, .key = rig_key(i)};
            c[n].block = (struct index_block){.segment = 1, .slot = (uint32_t)i, .bytes = 4096,
                                              .generation = i + 1, .last_use = i + 1};
        }
        c[n] = (struct index_change){.kind = INDEX_META};
        c[n].meta.generation = i + 1;
        memcpy(c[n].meta.uuid, uuid, UUID_BYTES);
        int r = x->ops->commit(x, c, n + 1);
        if (r)
            fail("index", r);
    }
    free(c);
}

static void open_large(void)
{
    char folder[300], path[400], name[SEGMENT_NAME_MAX];
    struct err e = {0};
    struct index *x;
    uint8_t super[KV_UNIT_BYTES];
    struct super found;
    struct kv_store_params p = {.path = folder, .capacity_bytes = opt.blocks * SLOT_BYTES * 2,
                                .block_bytes_max = 65536, .blocks_max = (uint32_t)opt.blocks};
    snprintf(folder, sizeof(folder), "%s/bench_kvstoreXXXXXX", opt.dir);
    if (!mkdtemp(folder) || kv_store_open(&store, &p, &e))
        fail("open", e.code);
    kv_store_close(store);
    snprintf(path, sizeof(path), "%s/super", folder);
    int fd = open(path, O_RDONLY);
    if (read(fd, super, sizeof(super)) != (ssize_t)sizeof(super) || super_decode(super, 0, &found))
        fail(path, EIO);
    close(fd);
    segment_name(name, 1, SLOT_BYTES);
    snprintf(path, sizeof(path), "%s/%s", folder, name);
    fd = open(path, O_RDWR | O_CREAT, 0600);
    if (fd < 0 || ftruncate(fd, (off_t)(opt.blocks * SLOT_BYTES)) != 0)
        fail(path, errno);
    close(fd);
    if (index_open(&x, folder, UINT64_C(2) << 30, &e) || x->ops->reset(x, &e))
        fail(e.msg, e.code);
    write_index(x, found.uuid);
    x->ops->close(x, true);
    uint64_t begin = clock_now_ns();
    if (kv_store_open(&store, &p, &e))
        fail(e.msg, e.code);
    double open_s = (double)(clock_now_ns() - begin) / 1e9;
    struct kv_stats st;
    kv_store_stats(store, &st);
    begin = clock_now_ns();
    kv_store_close(store);
    printf("\nopen with %llu blocks: %.2f s; close: %.2f s\n", (unsigned long long)st.blocks,
           open_s, (double)(clock_now_ns() - begin) / 1e9);
    rig_remove(folder);
}

int main(int argc, char **argv)
{
    static const struct option names[] = {
        {"dir", required_argument, NULL, 'd'}, {"backend", required_argument, NULL, 'b'},
        {"seconds", required_argument, NULL, 's'}, {"blocks", required_argument, NULL, 'n'},
        {"rounds", required_argument, NULL, 'r'}, {"only", required_argument, NULL, 'o'}, {0}};
    for (int c; (c = getopt_long(argc, argv, "", names, NULL)) != -1;) {
        switch (c) {
        case 'd': opt.dir = optarg; break;
        case 'b': opt.backend = optarg; break;
        case 's': opt.seconds = strtod(optarg, NULL); break;
        case 'r': opt.rounds = CLAMP((uint32_t)strtoul(optarg, NULL, 10), 1, ROUNDS_MAX); break;
        case 'o':
            if (sscanf(optarg, "%u:%u", &opt.only_kib, &opt.only_depth) != 2)
                return 2;
            break;
        case 'n': opt.blocks = strtoull(optarg, NULL, 10); break;
        default: return 2;
        }
    }
    memory = aligned_alloc(2u << 20, MEMORY_BYTES);
    if (!memory)
        fail("memory", ENOMEM);
    for (uint64_t i = 0; i < MEMORY_BYTES / 8; i++)
        ((uint64_t *)(void *)memory)[i] = i * UINT64_C(0x9e3779b97f4a7c15);
    bare_open();
    printf("| | size | depth | bare MB/s | grouped MB/s | store MB/s | store/bare | "
           "store/grouped | bare CPU s/GB | store CPU s/GB |\n|-|-|-|-|-|-|-|-|-|-|\n");
    static const uint32_t sizes[] = {64u << 10, 256u << 10, 1u << 20};
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        one_size(sizes[i], 1);
        one_size(sizes[i], 32);
    }
    if (opt.blocks)
        open_large();
    return 0;
}
