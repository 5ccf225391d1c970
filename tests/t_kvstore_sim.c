// Protects what a store promises, on a simulated machine: random operations are compared with a
// naive map while the machine loses power, is killed, and its disk fails.
//
// On an honest disk (one that delays, cuts short and loses what was not synced) an acknowledged
// block, deletion or record survives every crash. A failing one also refuses writes, syncs and
// commits: what it let be acknowledged survives all the same. On a lying disk nothing need survive,
// but what is read is right, every operation ends, and the cap holds.
//
//     t_kvstore_sim [CASE]        KVSIM_OPS=N for more operations, KVSIM_SEED=N for one seed
#include <errno.h>
#include "base/base.h"
#include "kvstore/kvstore.h"
#include "kvstore/sim.h"
#include "tests/test.h"

TEST_MAIN

#define KEYS 48u
#define NAMES 6u
#define SLOTS 24u                       // operations at once
#define STEPS 600u                      // operations of one seed
#define BUF_BYTES (1u << 20)
#define PINS_MAX 4u
#define VALUE_WORDS 64u

struct slot {                           // an operation in flight
    struct kv_io io;
    struct world *w;
    bool     busy;
    uint32_t key, name;
    uint64_t epoch;                     // of the key when it was submitted
    bool     must_hit, must_miss;
    struct hash pin[PINS_MAX];
    uint8_t *buf;
    uint64_t value[VALUE_WORDS];
};

struct key_state {
    bool acked, gone;                   // stored for sure; not there for sure
    uint32_t puts, deletes;             // in flight
    uint64_t epoch, last_delete;        // counts what was begun
};

struct name_state {
    bool     known;                     // what is there is certain:
    bool     exists;
    uint64_t version;
    uint32_t pins[PINS_MAX], n_pins;
    uint32_t changes;                   // in flight
};

enum disk_kind { HONEST, FAILING, LYING };

struct world {
    struct kv_sim   *m;
    struct kv_store *s;
    struct kv_store_params p;
    enum disk_kind   disk;
    bool             honest;            // it does not lie
    bool             roomy;             // nothing is ever evicted
    bool             evicted;           // something was
    bool             down;              // what ends now ends because of a crash
    struct key_state key[KEYS];
    struct name_state name[NAMES];
    struct slot      slot[SLOTS];
    uint64_t         version, ops, wrong;
    uint64_t         hits, misses, crashes, corrupt;
};

static uint64_t pick(struct world *w, uint64_t n) { return kv_sim_random(w->m, n); }

static struct hash key_of(uint32_t k)
{
    struct hash h;
    hash_bytes(&k, sizeof(k), &h);
    return h;
}

static uint32_t bytes_of(uint32_t k)
{
    static const uint32_t bytes[] = {4096, 8192, 20480, 61440, 65536};
    return bytes[k % ARRAY_LEN(bytes)];
}

// What key k holds, from an offset on.
static void fill(uint32_t k, uint64_t offset, void *p, uint32_t n)
{
    uint64_t *word = p;
    for (uint32_t i = 0; i < n / 8; i++)
        word[i] = (offset / 8 + i + 1) * UINT64_C(0x9e3779b97f4a7c15) ^ ((uint64_t)k << 32);
}

static bool is_right(uint32_t k, uint64_t offset, const void *p, uint32_t n)
{
    const uint64_t *word = p;
    for (uint32_t i = 0; i < n / 8; i++)
        if (word[i] != ((offset / 8 + i + 1) * UINT64_C(0x9e3779b97f4a7c15) ^ ((uint64_t)k << 32)))
            return false;
    return true;
}

static void fill_value(struct slot *o, uint64_t version)
{
    for (uint32_t i = 0; i < VALUE_WORDS; i++)
        o->value[i] = version * 1000 + i;
}

#define WRONG(...) (printf(__VA_ARGS__), putchar('\n'), o->w->wrong++)

// ---- results -----------------------------------------------------------------------------------

static void got(struct slot *o)
{
    struct world *w = o->w;
    int r = o->io.result;
    bool same = w->key[o->key].epoch == o->epoch && !w->down && r != -ECANCELED;
    if (r == 0 && !is_right(o->key, o->io.offset_bytes, o->buf, o->io.bytes))
        WRONG("key %u has other bytes", o->key);
    if (r == 0 && o->must_miss && same)
        WRONG("key %u was deleted, and is there", o->key);
    if (r != 0 && o->must_hit && same && !w->evicted)
        WRONG("key %u was stored, and is not there (%d)", o->key, r);
    w->hits += r == 0;
    w->misses += r != 0;
}

static void put(struct slot *o)
{
    struct key_state *k = &o->w->key[o->key];
    int r = o->io.result;
    k->puts--;
    if (r != 0 && r != -ECANCELED && o->w->disk == HONEST && o->w->roomy && !o->w->down)
        WRONG("key %u could not be stored (%d)", o->key, r);
    if (r == 0 && k->last_delete < o->epoch)
        k->acked = true;
}

static void deleted(struct slot *o)
{
    struct key_state *k = &o->w->key[o->key];
    int r = o->io.result;
    k->deletes--;
    if (k->epoch == o->epoch)           // nothing was begun after it
        k->gone = (r == 0 || r == -ENOENT) && !o->w->down;
}

static void record_changed(struct slot *o)
{
    struct name_state *n = &o->w->name[o->name];
    int r = o->io.result;
    n->changes--;
    n->known = r == 0 && n->changes == 0;
    n->exists = o->io.kind == KV_IO_RECORD_PUT;
    n->version = o->value[0] / 1000;
    n->n_pins = o->io.n_pins;
    for (uint32_t i = 0; i < o->io.n_pins; i++)
        n->pins[i] = (uint32_t)(o->value[8 + i] % 1000);
}

static void record_got(struct slot *o)
{
    const struct name_state *n = &o->w->name[o->name];
    int r = o->io.result;
    if (r == 0 && o->io.value_bytes != sizeof(o->value))
        WRONG("record %u has %u bytes", o->name, o->io.value_bytes);
    bool certain = o->w->honest && !o->w->down && o->must_hit && n->known && n->changes == 0;
    if (certain && n->exists && (r != 0 || o->value[0] / 1000 != n->version))
        WRONG("record %u is not what was stored (%d)", o->name, r);
    if (certain && !n->exists && r != -ENOENT)
        WRONG("record %u was deleted, and is there (%d)", o->name, r);
}

// A failing disk can make a roomy store a narrow one.
static void look_for_evictions(struct world *w)
{
    struct kv_stats st;
    kv_store_stats(w->s, &st);
    w->evicted |= st.evicted > 0;
}

static void done(struct kv_io *io)
{
    struct slot *o = io->ctx;
    o->busy = false;
    look_for_evictions(o->w);
    switch (io->kind) {
    case KV_IO_GET: got(o); break;
    case KV_IO_PUT: put(o); break;
    case KV_IO_DELETE: deleted(o); break;
    case KV_IO_RECORD_GET: record_got(o); break;
    case KV_IO_RECORD_PUT:
    case KV_IO_RECORD_DELETE: record_changed(o); break;
    case KV_IO_FLUSH: break;
    }
}

// ---- operations --------------------------------------------------------------------------------

static void submit_get(struct slot *o)
{
    struct world *w = o->w;
    const struct key_state *k = &w->key[o->key];
    uint32_t n = bytes_of(o->key) / KV_UNIT_BYTES, first = 0;
    if (pick(w, 2)) {
        first = (uint32_t)pick(w, n);
        n = (uint32_t)pick(w, n - first) + 1;
    }
    o->io.kind = KV_IO_GET;
    o->io.offset_bytes = (uint64_t)first * KV_UNIT_BYTES;
    o->io.bytes = n * KV_UNIT_BYTES;
    o->epoch = k->epoch;
    o->must_hit = w->honest && w->roomy && k->acked && !k->deletes;
    o->must_miss = w->honest && k->gone && !k->puts;
    kv_store_submit(w->s, &o->io);
}

static void submit_put(struct slot *o)
{
    o->io.kind = KV_IO_PUT;
    o->io.bytes = bytes_of(o->key);
    fill(o->key, 0, o->buf, o->io.bytes);
    o->w->key[o->key].puts++;
    o->epoch = ++o->w->key[o->key].epoch;
    o->w->key[o->key].gone = false;
    kv_store_submit(o->w->s, &o->io);
}

static void submit_delete(struct slot *o)
{
    o->io.kind = KV_IO_DELETE;
    o->w->key[o->key].deletes++;
    o->epoch = o->w->key[o->key].last_delete = ++o->w->key[o->key].epoch;
    o->w->key[o->key].acked = false;
    kv_store_submit(o->w->s, &o->io);
}

static void submit_record_put(struct slot *o)
{
    struct world *w = o->w;
    fill_value(o, ++w->version);
    o->io.kind = KV_IO_RECORD_PUT;
    o->io.n_pins = (uint32_t)pick(w, PINS_MAX + 1);
    for (uint32_t i = 0; i < o->io.n_pins; i++) {
        uint32_t k = (uint32_t)pick(w, KEYS);
        o->pin[i] = key_of(k);
        o->value[8 + i] = w->version * 1000 + k;
    }
    o->io.pin = o->pin;
    o->io.buf = o->value;
    o->io.bytes = sizeof(o->value);
    w->name[o->name].changes++;
    kv_store_submit(w->s, &o->io);
}

static void submit_record(struct slot *o, enum kv_io_kind kind)
{
    struct name_state *n = &o->w->name[o->name];
    o->io.kind = kind;
    o->io.buf = o->value;
    o->io.bytes = sizeof(o->value);
    o->must_hit = n->changes == 0;
    if (kind == KV_IO_RECORD_DELETE)
        n->changes++;
    kv_store_submit(o->w->s, &o->io);
}

static struct slot *free_slot(struct world *w)
{
    static const char *const names[NAMES] = {"a", "bb", "session/3", "d", "e", "a long name"};
    for (uint32_t i = 0; i < SLOTS; i++) {
        struct slot *o = &w->slot[i];
        if (o->busy)
            continue;
        o->busy = true;
        o->must_hit = o->must_miss = false;
        o->key = (uint32_t)pick(w, KEYS);
        o->name = (uint32_t)pick(w, NAMES);
        o->io = (struct kv_io){.key = key_of(o->key), .buf = o->buf, .done = done, .ctx = o,
                               .name = names[o->name],
                               .priority = (enum kv_priority)pick(w, KV_PRIORITY_COUNT)};
        return o;
    }
    return NULL;
}

static void one_operation(struct world *w)
{
    struct slot *o = free_slot(w);
    if (!o) {
        kv_store_poll(w->s, 1);
        return;
    }
    uint64_t n = pick(w, 100);
    w->ops++;
    if (n < 36)
        submit_put(o);
    else if (n < 74)
        submit_get(o);
    else if (n < 82)
        submit_delete(o);
    else if (n < 88)
        submit_record_put(o);
    else if (n < 92)
        submit_record(o, KV_IO_RECORD_GET);
    else if (n < 94)
        submit_record(o, KV_IO_RECORD_DELETE);
    else if (n < 96) {
        o->io.kind = KV_IO_FLUSH;
        kv_store_submit(w->s, &o->io);
    } else {
        o->busy = false;
        struct hash h = key_of(o->key);
        if (kv_store_hold(w->s, &h)) {
            REQUIRE(kv_store_has(w->s, &h, NULL));
            kv_store_touch(w->s, &h);
            kv_store_release(w->s, &h);
        }
    }
    if (o->busy && pick(w, 40) == 0)
        kv_store_cancel(w->s, &o->io);
    if (pick(w, 3) == 0)
        kv_store_poll(w->s, pick(w, 2));
}

// ---- the machine -------------------------------------------------------------------------------

static void drain(struct world *w)
{
    for (uint32_t i = 0; i < 100000 && !kv_store_idle(w->s); i++)
        kv_store_poll(w->s, 1);
    REQUIRE(kv_store_idle(w->s));
    for (uint32_t i = 0; i < SLOTS; i++)
        REQUIRE(!w->slot[i].busy);
}

static void reopen(struct world *w)
{
    struct kv_stats st;
    struct err e = {0};
    kv_store_stats(w->s, &st);
    w->corrupt += st.corrupt;
    kv_store_close(w->s);
    w->s = NULL;
    for (uint32_t i = 0; i < SLOTS; i++)
        REQUIRE(!w->slot[i].busy);
    if (kv_sim_has_crashed(w->m))
        kv_sim_restart(w->m);
    w->down = false;
    REQUIRE_OK(kv_store_open(&w->s, &w->p, &e), e);
}

// Power loss or kill -9, also while the store opens again.
static void crash(struct world *w)
{
    struct kv_sim_faults none = {0}, faults = *sim_faults(w->m);
    struct err e = {0};
    w->crashes++;
    w->down = true;
    kv_sim_crash_in(w->m, 0, pick(w, 3) == 0);
    drain(w);
    kv_store_close(w->s);
    kv_sim_restart(w->m);
    if (w->disk != HONEST)
        kv_sim_set_faults(w->m, &none); // a machine that cannot even start proves nothing
    while (pick(w, 4) == 0) {
        kv_sim_crash_in(w->m, pick(w, 12), pick(w, 2));
        w->s = NULL;
        if (kv_store_open(&w->s, &w->p, &e) == 0) {
            kv_sim_crash_in(w->m, 0, false);
            drain(w);
            kv_store_close(w->s);
        }
        kv_sim_restart(w->m);
    }
    if (pick(w, 8) == 0) {
        kv_sim_damage_index(w->m);
        for (uint32_t i = 0; i < NAMES; i++)
            w->name[i].known = false;
        for (uint32_t i = 0; i < KEYS; i++)
            w->key[i].gone = false;     // a copy that was never committed may be found
    }
    w->down = false;
    REQUIRE_OK(kv_store_open(&w->s, &w->p, &e), e);
    kv_sim_set_faults(w->m, &faults);
}

static void random_faults(struct world *w)
{
    struct kv_sim_faults f = {.again = 20000, .short_transfer = 30000,
                              .delay = (uint32_t)pick(w, 2) * 300000};
    if (w->disk != HONEST) {
        f.write_eio = (uint32_t)pick(w, 2000);
        f.write_enospc = (uint32_t)pick(w, 4000);
        f.sync_eio = (uint32_t)pick(w, w->disk == FAILING ? 150000 : 3000);
        f.commit_eio = (uint32_t)pick(w, 1000);
        f.commit_enospc = (uint32_t)pick(w, 5000);
        f.make_enospc = (uint32_t)pick(w, 100000);
    }
    if (w->disk == LYING) {
        f.read_eio = (uint32_t)pick(w, 5000);
        f.lost = (uint32_t)pick(w, 20000);
        f.misdirected = (uint32_t)pick(w, 20000);
        f.flip = (uint32_t)pick(w, 10000);
    }
    kv_sim_set_faults(w->m, &f);
}

static void event(struct world *w)
{
    switch (pick(w, 6)) {
    case 0: crash(w); break;
    case 1: reopen(w); break;
    case 2: random_faults(w); break;
    case 3: kv_sim_advance(w->m, pick(w, 200)); break;
    case 4:
        if (w->disk == LYING)
            kv_sim_damage(w->m, 4);
        break;
    case 5: drain(w); break;
    }
}

static void check_cap(const struct world *w)
{
    struct kv_stats st;
    kv_store_stats(w->s, &st);
    REQUIRE(kv_sim_file_bytes(w->m) <= w->p.capacity_bytes);
    REQUIRE(st.used_bytes <= st.data_bytes);
    uint32_t cursor = 0, n = 0;
    struct kv_block_info info;
    while (kv_store_next(w->s, &cursor, &info))
        n++;
    REQUIRE_INT(n, st.blocks);
}

// Every block that a record pins is there, and every acknowledged one.
static void check_all(struct world *w)
{
    drain(w);
    for (uint32_t k = 0; k < KEYS; k++) {
        struct slot *o = &w->slot[0];
        *o = (struct slot){.w = w, .key = k, .buf = o->buf, .busy = true};
        o->io = (struct kv_io){.kind = KV_IO_GET, .key = key_of(k), .buf = o->buf, .done = done,
                               .ctx = o, .bytes = bytes_of(k)};
        o->epoch = w->key[k].epoch;
        o->must_hit = w->honest && w->roomy && w->key[k].acked;
        o->must_miss = w->honest && w->key[k].gone;
        kv_store_submit(w->s, &o->io);
        drain(w);
    }
}

static uint64_t seed_of_run(uint64_t i)
{
    const char *seed = getenv("KVSIM_SEED");
    return seed ? strtoull(seed, NULL, 0) : i;
}

static uint64_t operations(void)
{
    const char *n = getenv("KVSIM_OPS");
    return n ? strtoull(n, NULL, 0) : 250000;
}

static void run_seed(struct world *w, uint64_t seed)
{
    static uint8_t *memory;
    struct err e = {0};
    if (!memory)
        memory = aligned_alloc(KV_UNIT_BYTES, (size_t)SLOTS * BUF_BYTES);
    *w = (struct world){.m = kv_sim_create(seed), .disk = w->disk, .honest = w->disk != LYING,
                        .ops = w->ops,
                        .hits = w->hits, .misses = w->misses, .crashes = w->crashes,
                        .corrupt = w->corrupt};
    w->roomy = pick(w, 2);
    w->p = (struct kv_store_params){.capacity_bytes = w->roomy ? 12u << 20 : 4u << 20,
                                    .segment_bytes = 131072, .block_bytes_max = 65536,
                                    .inflight_max = 4 + (uint32_t)pick(w, 12), .sim = w->m,
                                    .sums_bytes_max = pick(w, 2) ? 200 : 0};
    for (uint32_t i = 0; i < SLOTS; i++) {
        w->slot[i].w = w;
        w->slot[i].buf = memory + (size_t)i * BUF_BYTES;
    }
    REQUIRE_OK(kv_store_open(&w->s, &w->p, &e), e);
    random_faults(w);
    for (uint32_t i = 0; i < STEPS && !w->wrong; i++) {
        one_operation(w);
        if (pick(w, 60) == 0)
            event(w);
        if (i % 50 == 0)
            check_cap(w);
    }
    check_all(w);
    kv_store_close(w->s);
    kv_sim_destroy(w->m);
    if (w->wrong)
        TEST_FAIL("seed %llu: %llu times wrong", (unsigned long long)seed,
                  (unsigned long long)w->wrong);
}

static void run_seeds(enum disk_kind disk)
{
    static struct world w;
    memset(&w, 0, sizeof(w));
    w.disk = disk;
    for (uint64_t seed = 1; w.ops < operations(); seed++) {
        run_seed(&w, seed_of_run(seed));
        if (getenv("KVSIM_SEED"))
            break;
    }
    printf("%llu operations, %llu hits, %llu misses, %llu crashes, %llu damaged blocks found\n",
           (unsigned long long)w.ops, (unsigned long long)w.hits, (unsigned long long)w.misses,
           (unsigned long long)w.crashes, (unsigned long long)w.corrupt);
    REQUIRE(getenv("KVSIM_SEED") || (w.hits > 1000 && w.crashes > 10));
    REQUIRE(getenv("KVSIM_SEED") || disk != LYING || w.corrupt > 0);
}

TEST(honest_disk) { run_seeds(HONEST); }
TEST(failing_disk) { run_seeds(FAILING); }
TEST(lying_disk) { run_seeds(LYING); }
