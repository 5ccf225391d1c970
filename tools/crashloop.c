// Kills a process that uses a store, again and again, at any moment, and looks each time whether
// the store still has what it acknowledged: every stored block, no deleted one, the newest record
// or the one that was under way, and never a wrong byte.
//
// The side log is memory that both processes share: it survives kill -9 of the one.
//
//     crashloop [--cycles N] [--max-ms N] [--backend NAME] [--dir FOLDER | --keep STORE] [--seed N]
#include <getopt.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include "base/clock.h"
#include "tests/kvrig.h"

#define KEYS 200u
#define OPS 16u                         // at once
#define BLOCK_MAX 65536u
#define OPEN_NS_MAX (2 * NS_PER_S)      // of CPU-bound work: more on a busy machine is only told

enum state { ABSENT, PRESENT, UNKNOWN };

struct log {                            // shared
    uint8_t  state[KEYS];
    uint64_t record_begun, record_acked;
    uint64_t ops, acked, checked;
    uint64_t open_ns_max;
    uint64_t wrong;
    volatile bool is_working;           // it is past its checks
    char     message[200];
};

struct op {
    struct kv_io io;
    uint32_t     key;
    bool         busy;
    uint64_t     value;
    uint8_t     *buf;
};

static struct log *side;
static struct op op[OPS];
static bool key_busy[KEYS], record_busy;
static uint64_t seed_state = 1;

static uint64_t pick(uint64_t n)
{
    uint64_t z = seed_state += UINT64_C(0x9e3779b97f4a7c15);    // splitmix64
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return (z ^ (z >> 31)) % n;
}

static uint32_t bytes_of(uint32_t key) { return (key % 4 + 1) * 16384; }

#define WRONG(...) \
    do { \
        snprintf(side->message, sizeof(side->message), __VA_ARGS__); \
        side->wrong++; \
    } while (0)

// ---- the process that is killed ----------------------------------------------------------------

static void check_all(struct kv_store *s)
{
    for (uint32_t k = 0; k < KEYS; k++) {
        int r = rig_get(s, k, 0, op[0].buf, bytes_of(k));
        if (r == -EILSEQ)
            WRONG("key %u has other bytes", k);
        if (side->state[k] == PRESENT && r)
            WRONG("key %u was stored, and is not there (%d)", k, r);
        if (side->state[k] == ABSENT && r != -ENOENT)
            WRONG("key %u was deleted, and is there (%d)", k, r);
        if (r == 0 && rig_get(s, k, 8192, op[0].buf, 4096))
            WRONG("a part of key %u cannot be read", k);
        side->checked++;
    }
    uint64_t value = 0;
    struct kv_io io = {.kind = KV_IO_RECORD_GET, .name = "count", .buf = &value,
                       .bytes = sizeof(value)};
    int r = rig_run(s, &io);
    bool fits = r == 0 ? value >= side->record_acked && value <= side->record_begun
                       : r == -ENOENT && side->record_acked == 0;
    if (!fits)
        WRONG("the record is %llu (%d), not %llu to %llu", (unsigned long long)value, r,
              (unsigned long long)side->record_acked, (unsigned long long)side->record_begun);
}

static void done(struct kv_io *io)
{
    struct op *o = io->ctx;
    o->busy = false;
    side->ops++;
    if (io->kind == KV_IO_RECORD_PUT) {
        record_busy = false;
        if (io->result == 0)
            side->record_acked = o->value;
        return;
    }
    key_busy[o->key] = false;
    bool ok = io->result == 0 || (io->kind == KV_IO_DELETE && io->result == -ENOENT);
    if (ok) {
        side->state[o->key] = io->kind == KV_IO_PUT ? PRESENT : ABSENT;
        side->acked++;
    }
}

static void submit_record(struct kv_store *s, struct op *o)
{
    record_busy = true;
    o->value = ++side->record_begun;
    o->io = (struct kv_io){.kind = KV_IO_RECORD_PUT, .name = "count", .buf = &o->value,
                           .bytes = sizeof(o->value), .done = done, .ctx = o};
    kv_store_submit(s, &o->io);
}

static void submit(struct kv_store *s, struct op *o)
{
    o->busy = true;
    if (!record_busy && pick(20) == 0) {
        submit_record(s, o);
        return;
    }
    do
        o->key = (uint32_t)pick(KEYS);
    while (key_busy[o->key]);
    key_busy[o->key] = true;
    bool put = pick(4) != 0;
    if (!put || side->state[o->key] != PRESENT)
        side->state[o->key] = UNKNOWN;
    o->io = (struct kv_io){.kind = put ? KV_IO_PUT : KV_IO_DELETE, .key = rig_key(o->key),
                           .buf = o->buf, .bytes = bytes_of(o->key), .done = done, .ctx = o,
                           .priority = KV_WRITE_BEHIND};
    rig_fill(o->key, o->buf, bytes_of(o->key));
    kv_store_submit(s, &o->io);
}

static void live(const struct kv_store_params *p, bool only_check)
{
    struct kv_store *s;
    struct err e = {0};
    uint64_t begin = clock_now_ns();
    if (kv_store_open(&s, p, &e) != 0) {
        WRONG("open: %.150s", e.msg);
        return;
    }
    side->open_ns_max = MAX(side->open_ns_max, clock_now_ns() - begin);
    uint8_t *memory = aligned_alloc(KV_UNIT_BYTES, (size_t)OPS * BLOCK_MAX);
    for (uint32_t i = 0; i < OPS; i++)
        op[i].buf = memory + (size_t)i * BLOCK_MAX;
    check_all(s);
    side->is_working = true;
    while (!only_check && !side->wrong) {
        for (uint32_t i = 0; i < OPS; i++)
            if (!op[i].busy)
                submit(s, &op[i]);
        kv_store_poll(s, NS_PER_S);
    }
    kv_store_close(s);
    free(memory);
}

// ---- the process that kills --------------------------------------------------------------------

static void one_cycle(const struct kv_store_params *p, uint64_t max_ms)
{
    uint64_t child_seed = pick(UINT64_MAX);
    side->is_working = false;
    pid_t pid = fork();
    if (pid == 0) {
        seed_state = child_seed;
        live(p, false);
        _exit(0);
    }
    // One of four is killed at any time, also while it opens; the others while they work.
    bool waits = pick(4) != 0;
    for (uint32_t i = 0; waits && !side->is_working && !side->wrong && i < 10000; i++)
        usleep(1000);
    usleep((useconds_t)pick(max_ms * 1000));
    kill(pid, SIGKILL);
    int status = 0;
    waitpid(pid, &status, 0);
    // One that died of itself was not killed: an assertion, a damaged address.
    if (!side->wrong && !(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL))
        WRONG("the process ended by itself, status %#x", (unsigned)status);
    if (rig_bytes(p->path) > p->capacity_bytes)
        WRONG("the store has outgrown its cap");
}

struct options { uint64_t cycles, max_ms, seed; const char *backend, *dir, *keep; };

static bool read_options(struct options *o, int argc, char **argv)
{
    static const struct option names[] = {
        {"cycles", required_argument, NULL, 'c'}, {"max-ms", required_argument, NULL, 'm'},
        {"backend", required_argument, NULL, 'b'}, {"dir", required_argument, NULL, 'd'},
        {"seed", required_argument, NULL, 's'}, {"keep", required_argument, NULL, 'k'}, {0}};
    for (int c; (c = getopt_long(argc, argv, "", names, NULL)) != -1;) {
        switch (c) {
        case 'c': o->cycles = strtoull(optarg, NULL, 10); break;
        case 'm': o->max_ms = MAX(strtoull(optarg, NULL, 10), 1); break;
        case 'b': o->backend = optarg; break;
        case 'd': o->dir = optarg; break;
        case 'k': o->keep = optarg; break;
        case 's': o->seed = strtoull(optarg, NULL, 10); break;
        default: return false;
        }
    }
    return optind == argc;
}

int main(int argc, char **argv)
{
    struct options o = {.cycles = 20, .max_ms = 400, .seed = clock_now_ns(), .dir = "/tmp"};
    if (!read_options(&o, argc, argv))
        return 2;
    char folder[256];
    snprintf(folder, sizeof(folder), o.keep ? "%s" : "%s/crashloopXXXXXX", o.keep ? o.keep : o.dir);
    side = mmap(NULL, sizeof(*side), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if ((!o.keep && !mkdtemp(folder)) || side == MAP_FAILED) {
        perror(o.dir);
        return 1;
    }
    printf("seed %llu\n", (unsigned long long)o.seed);
    fflush(stdout);
    seed_state = o.seed;
    const struct kv_store_params p = {.path = folder, .capacity_bytes = 64u << 20,
                                      .block_bytes_max = BLOCK_MAX, .segment_bytes = 1u << 20,
                                      .inflight_max = OPS, .backend = o.backend};
    uint64_t n = 0;
    while (n < o.cycles && !side->wrong) {
        one_cycle(&p, o.max_ms);
        n++;
    }
    if (!side->wrong)
        live(&p, true);
    printf("%llu kills, %llu operations, %llu acknowledged changes, %llu reads checked, "
           "open at most %.0f ms: %s\n", (unsigned long long)n, (unsigned long long)side->ops,
           (unsigned long long)side->acked, (unsigned long long)side->checked,
           (double)side->open_ns_max / 1e6, side->wrong ? side->message : "nothing wrong");
    if (side->open_ns_max > OPEN_NS_MAX)
        printf("slow to open\n");
    if (!o.keep)
        rig_remove(folder);
    return side->wrong || side->acked == 0;
}
