// Prefixes that outlive the engine: what a later one finds in the block store gives the very text
// that computing gives, whatever the disk does, and nothing is found that is not the same in
// everything. On the CPU, where a wrong block would show; on the null executor where only hits
// count.
#include "tests/ask.h"
#include <dirent.h>
#include <errno.h>
#include <unistd.h>
#include "engine/run/priv.h"
#include "kvstore/sim.h"
#include "base/base.h"
#include "base/clock.h"

enum { N_PROMPT = 200, N_NEW = 70, N_KEPT = 192 };

static struct answer want, got;
static int32_t prompt[2][N_PROMPT];

static struct request request(unsigned which)
{
    for (int i = 0; i < N_PROMPT; i++)
        prompt[which][i] = 1000 + (i * 37 + (int)which * 11) % 20000;
    struct request r = request_of(prompt[which], N_PROMPT, N_NEW);
    r.gen.ignore_end = true;
    r.gen.logprobs = 1;                 // their sum is compared: every bit counts
    return r;
}

static struct engine_stats stats_of(struct engine *e)
{
    struct engine_stats st;
    engine_stats(e, &st);
    return st;
}

static void close_stored(struct engine *e)
{
    uint64_t until = clock_now_ns() + 20 * NS_PER_S;
    require_idle(e);
    while (stats_of(e).store.queued > 0 && clock_now_ns() < until)
        usleep(1000);
    REQUIRE_INT(stats_of(e).store.queued, 0);
    engine_close(e);
}

static void remove_folder(const char *path)
{
    DIR *d = opendir(path);
    struct dirent *f;
    REQUIRE(d);
    while ((f = readdir(d)) != NULL)
        unlinkat(dirfd(d), f->d_name, 0);
    closedir(d);
    rmdir(path);
}

static void make_folder(char path[32])
{
    snprintf(path, 32, "/tmp/godwit-stored-XXXXXX");
    REQUIRE(mkdtemp(path));
}

static uint32_t cached(struct engine *e, const struct request *r)
{
    ask(e, r, &got);
    return got.done.usage.cached_tokens;
}

static void compute(const char *device, unsigned which)
{
    struct request r = request(which);
    struct engine *e = open_engine(device, (struct engine_params){.ctx_tokens = 512});
    ask(e, &r, &want);
    engine_close(e);
}

// ---- the same text ----

TEST(another_process_goes_on)
{
    char path[32];
    compute("cpu", 0);
    make_folder(path);
    struct engine_params p = {.ctx_tokens = 512, .kv_store = path, .kv_store_bytes = 256 << 20};
    struct request r = request(0);
    struct engine *e = open_engine("cpu", p);
    REQUIRE_INT(cached(e, &r), 0);
    REQUIRE(same(&got, &want));
    close_stored(e);
    p.threads = 1;                      // which is no part of the arithmetic
    e = open_engine("cpu", p);
    REQUIRE_INT(cached(e, &r), N_KEPT);
    REQUIRE(same(&got, &want));
    struct engine_store st = stats_of(e).store;
    REQUIRE(st.on && !st.degraded);
    REQUIRE_INT(st.read_blocks, 3);
    REQUIRE_INT(st.loads, 1);
    REQUIRE_INT(st.written_blocks, 0);  // all that it computed anew is there too
    REQUIRE_INT(cached(e, &r), N_KEPT); // this time from the pool
    REQUIRE_INT(stats_of(e).store.read_blocks, 3);
    // the answer's full block too: the text so far as a prompt
    static int32_t longer[N_PROMPT + N_NEW];
    memcpy(longer, prompt[0], sizeof prompt[0]);
    memcpy(longer + N_PROMPT, want.token, N_NEW * sizeof *longer);
    close_stored(e);
    e = open_engine("cpu", p);
    r = request_of(longer, N_PROMPT + N_NEW, 4);
    REQUIRE_INT(cached(e, &r), 256);
    close_stored(e);
    remove_folder(path);
}

TEST(one_store_one_engine)
{
    char path[32], model[4096];
    make_folder(path);
    struct engine_params p = {.kv_store = path, .kv_store_bytes = 64 << 20, .device = "null"};
    struct engine *e = open_engine("null", p), *other;
    struct err err = {0};
    p.model_path = test_model(ASK_MODEL, model, sizeof model);
    REQUIRE_INT(engine_open(&other, &p, &err), -EBUSY);
    REQUIRE(strstr(err.msg, path));
    close_stored(e);
    remove_folder(path);
}

// ---- what is not the same ----

enum { CHANGED_WEIGHT, CHANGED_ROPE };

// The test model with one number changed: its last weight, or the base of RoPE.
static void write_changed(char *path, int what)
{
    static const char rope[] = "llama.rope.freq_base";
    char model[4096];
    FILE *f = fopen(test_model(ASK_MODEL, model, sizeof model), "rb");
    REQUIRE(f);
    fseek(f, 0, SEEK_END);
    size_t n = (size_t)ftell(f);
    rewind(f);
    char *p = malloc(n);
    REQUIRE(fread(p, 1, n, f) == n);
    fclose(f);
    if (what == CHANGED_WEIGHT) {
        p[n - 1] ^= 1;
    } else {
        char *at = memmem(p, n, rope, sizeof rope - 1);
        float base;
        REQUIRE(at);
        memcpy(&base, at + sizeof rope - 1 + 4, 4);     // behind the key comes its type
        base *= 2;
        memcpy(at + sizeof rope - 1 + 4, &base, 4);
    }
    int fd = mkstemp(path);
    REQUIRE(fd >= 0 && write(fd, p, n) == (ssize_t)n);
    close(fd);
    free(p);
}

static uint32_t cached_of_file(const char *file, struct engine_params p, const struct request *r)
{
    struct engine *e;
    struct err err = {0};
    p.model_path = file;
    p.attn = attn_policy_dense();
    REQUIRE_OK(engine_open(&e, &p, &err), err);
    uint32_t n = cached(e, r);
    close_stored(e);
    return n;
}

TEST(anything_else_is_a_miss)
{
    char path[32];
    make_folder(path);
    struct engine_params p = {.ctx_tokens = 512, .kv_store = path, .kv_store_bytes = 256 << 20};
    struct request r = request(0);
    struct engine *e = open_engine("null", p);
    REQUIRE_INT(cached(e, &r), 0);
    close_stored(e);

    struct engine_params other = p;
    other.exact = true;
    other.kv_k = other.kv_v = "f16";
    e = open_engine("null", other);
    REQUIRE_INT(cached(e, &r), 0);
    close_stored(e);
    other = p;
    other.kv_v = "q8_0";
    e = open_engine("null", other);
    REQUIRE_INT(cached(e, &r), 0);
    close_stored(e);
    e = open_engine("cpu", p);
    REQUIRE_INT(cached(e, &r), 0);
    close_stored(e);

    for (int what = CHANGED_WEIGHT; what <= CHANGED_ROPE; what++) {
        char file[] = "/tmp/godwit-changed-XXXXXX";
        write_changed(file, what);
        other = p;
        other.device = "null";
        uint32_t n = cached_of_file(file, other, &r);
        unlink(file);
        REQUIRE_INT(n, 0);
    }

    e = open_engine("null", p);
    struct request o = r;
    o.salt.b[31] = 1;
    REQUIRE_INT(cached(e, &o), 0);
    o = r;
    REQUIRE_INT(attn_policy_init(&o.attn, "window"), 0);
    REQUIRE_INT(cached(e, &o), 0);
    for (int i = 0; i < 3; i++) {
        o.attn = r.attn;
        *(uint32_t *[]){&o.attn.budget_tokens, &o.attn.window_tokens, &o.attn.sink_tokens}[i] += 64;
        REQUIRE_INT(cached(e, &o), 0);
    }
    prompt[0][0]++;                     // the text itself
    REQUIRE_INT(cached(e, &r), 0);
    prompt[0][0]--;
    REQUIRE_INT(stats_of(e).store.read_blocks, 0);
    REQUIRE_INT(cached(e, &r), N_KEPT); // and it was there all the time
    REQUIRE_INT(stats_of(e).store.read_blocks, 3);
    close_stored(e);
    remove_folder(path);
}

// ---- a disk that fails ----

// Two texts in a pool that holds one of them take turns, so that each comes from the store.
static struct engine_store take_turns(struct kv_sim *m, unsigned rounds)
{
    static struct answer truth[2];
    static bool known;
    struct engine_params p = {.ctx_tokens = 512, .kv_blocks = 4, .kv_store_sim = m,
                              .kv_store_bytes = 64 << 20};
    struct request r[2] = {request(0), request(1)};
    r[0].gen.max_tokens = r[1].gen.max_tokens = 10;
    struct engine *e;
    if (!known) {
        e = open_engine("cpu", (struct engine_params){.ctx_tokens = 512});
        for (unsigned i = 0; i < 2; i++)
            ask(e, &r[i], &truth[i]);
        engine_close(e);
        known = true;
    }
    e = open_engine("cpu", p);
    for (unsigned i = 0; i < rounds; i++) {
        ask(e, &r[i % 2], &got);
        if (!same(&got, &truth[i % 2]))
            TEST_FAIL("round %u: another text than computed", i);
    }
    require_idle(e);
    struct engine_store st = stats_of(e).store;
    close_stored(e);
    return st;
}

TEST(a_healthy_disk)
{
    struct kv_sim *m = kv_sim_create(1);
    struct engine_store st = take_turns(m, 8);
    REQUIRE(st.read_blocks == 18 && st.read_failures == 0 && st.disk_errors == 0);
    kv_sim_destroy(m);
}

TEST(a_failing_disk)
{
    static const struct kv_sim_faults faults[] = {
        {.read_eio = 300000}, {.write_eio = 300000}, {.flip = 400000},
        {.lost = 300000, .misdirected = 300000}, {.again = 300000, .short_transfer = 300000},
        {.sync_eio = 200000, .commit_eio = 100000}, {.write_enospc = 300000}, {.delay = 900000},
        {.read_eio = 1000000},
    };
    uint64_t n_read = 0, n_failed = 0;
    for (unsigned i = 0; i < ARRAY_LEN(faults); i++) {
        struct kv_sim *m = kv_sim_create(i + 1);
        kv_sim_set_faults(m, &faults[i]);
        struct engine_store st = take_turns(m, 4);
        n_read += st.read_blocks;
        n_failed += st.read_failures;
        kv_sim_destroy(m);
    }
    REQUIRE(n_read > 10 && n_failed > 2);       // both happened
}

// Blocks that were torn while nobody looked, and a crash that lost some: misses, from there on.
TEST(damage_at_rest)
{
    for (uint64_t seed = 1; seed <= 2; seed++) {
        struct kv_sim *m = kv_sim_create(seed);
        take_turns(m, 2);
        kv_sim_damage(m, 40);
        take_turns(m, 2);
        kv_sim_crash_in(m, 30, false);
        take_turns(m, 3);
        kv_sim_restart(m);
        take_turns(m, 2);
        kv_sim_destroy(m);
    }
}

// Several at once in a pool that is too small for them, some of whom leave, with a disk that is
// slow and fails.
TEST(crowds)
{
    enum { N = 4 };
    static struct answer truth[N];
    struct request r[N];
    for (unsigned i = 0; i < N; i++) {
        r[i] = request(i % 2);
        r[i].n_tokens -= 9 * i;
        r[i].gen.max_tokens = 12;
    }
    struct engine *e = open_engine("cpu", (struct engine_params){.ctx_tokens = 512});
    for (unsigned i = 0; i < N; i++)
        ask(e, &r[i], &truth[i]);
    engine_close(e);
    struct kv_sim *m = kv_sim_create(9);
    kv_sim_set_faults(m, &(struct kv_sim_faults){.delay = 950000, .read_eio = 50000});
    e = open_engine("cpu", (struct engine_params){
        .ctx_tokens = 512, .kv_blocks = 5, .kv_store_sim = m, .kv_store_bytes = 64 << 20});
    for (unsigned round = 0; round < 3; round++) {
        struct stream *s[N], *doomed[N];
        for (unsigned i = 0; i < N; i++) {
            doomed[i] = submit(e, &r[i]);
            s[i] = submit(e, &r[i]);
        }
        for (unsigned i = 0; i < N; i++)
            stream_close(doomed[i]);
        for (unsigned i = 0; i < N; i++) {
            collect(s[i], &got);
            if (!same(&got, &truth[i]))
                TEST_FAIL("round %u, request %u: another text than alone", round, i);
        }
    }
    require_idle(e);
    REQUIRE(stats_of(e).store.read_blocks > 0);
    close_stored(e);
    kv_sim_destroy(m);
}

// ---- what must not be believed ----

// Where a bad number came from is not known: what its text had in the store is gone for good.
TEST(a_bad_logit_takes_its_blocks_along)
{
    struct kv_sim *m = kv_sim_create(7);
    struct engine_params p = {.ctx_tokens = 512, .kv_store_sim = m, .kv_store_bytes = 64 << 20};
    struct request r = request(0);
    struct engine *e = open_engine("null:bad=4321", p);
    r.gen.max_tokens = 1;
    REQUIRE_INT(cached(e, &r), 0);
    close_stored(e);
    e = open_engine("null:bad=4321", p);
    REQUIRE_INT(cached(e, &r), N_KEPT);
    prompt[0][N_PROMPT - 1] = 4321;
    REQUIRE_INT(cached(e, &r), N_KEPT);
    REQUIRE_INT(got.done.reason, FINISH_ERROR);
    close_stored(e);
    prompt[0][N_PROMPT - 1] = 1;
    e = open_engine("null:bad=4321", p);
    REQUIRE_INT(cached(e, &r), 0);
    REQUIRE_INT(got.done.reason, FINISH_LENGTH);
    close_stored(e);
    kv_sim_destroy(m);
}

// ---- a disk that is slow ----

struct hold_call { struct engine_call call; struct kv_sim *m; bool hold; };

static int run_hold(struct engine *e, struct engine_call *c)
{
    struct hold_call *h = container_of(c, struct hold_call, call);
    (void)e;
    kv_sim_hold(h->m, h->hold);
    return 0;
}

// Whether the disk ends anything; the machine is the engine thread's.
static void hold(struct engine *e, struct kv_sim *m, bool hold)
{
    struct err err = {0};
    struct hold_call h = {{.run = run_hold, .while_busy = true, .err = &err}, m, hold};
    REQUIRE_OK(engine_call(e, &h.call), err);
}

static struct engine *open_slow(struct kv_sim *m)
{
    struct engine_params p = {.ctx_tokens = 512, .kv_store_sim = m, .kv_store_bytes = 64 << 20};
    struct request r = request(0);
    struct engine *e = open_engine("null", p);
    ask(e, &r, &want);
    close_stored(e);
    e = open_engine("null", p);
    hold(e, m, true);
    return e;
}

// Reads that never end: the request is computed after a while, and while it waits others run.
TEST(late_reads_are_given_up)
{
    struct kv_sim *m = kv_sim_create(5);
    struct engine *e = open_slow(m);
    struct request r = request(0), o = request(1);
    struct stream *s = submit(e, &r);
    while (stats_of(e).store.loads == 0)
        usleep(1000);
    ask(e, &o, &got);
    REQUIRE_INT(stats_of(e).store.read_failures, 0);
    collect(s, &got);
    REQUIRE(same(&got, &want));
    REQUIRE_INT(got.done.usage.cached_tokens, 0);
    struct engine_store st = stats_of(e).store;
    REQUIRE_INT(st.read_failures, 1);
    REQUIRE(st.load_ns >= NS_PER_S && st.loads == 1);
    hold(e, m, false);                  // what they read then goes nowhere
    REQUIRE_INT(cached(e, &r), N_KEPT);
    REQUIRE(same(&got, &want));
    close_stored(e);
    kv_sim_destroy(m);
}

TEST(clients_leave_while_loading)
{
    struct kv_sim *m = kv_sim_create(6);
    struct engine *e = open_slow(m);
    struct request r = request(0);
    struct stream *s[3];
    for (unsigned i = 0; i < 3; i++)
        s[i] = submit(e, &r);
    while (stats_of(e).store.loads == 0)
        usleep(1000);
    for (unsigned i = 0; i < 3; i++)
        stream_close(s[i]);
    require_idle(e);
    REQUIRE_INT(stats_of(e).requests_cancelled, 3);
    s[0] = submit(e, &r);               // and the engine is closed over this one
    while (stats_of(e).store.loads < 2)
        usleep(1000);
    stream_close(s[0]);
    hold(e, m, false);
    engine_close(e);
    kv_sim_destroy(m);
}

TEST_MAIN
