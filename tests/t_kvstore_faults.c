// Protects what a store does when its disk is slow or fails, and when time passes, case by case on
// the simulated machine.
#include "tests/test.h"
#include "kvstore/sim.h"
#include "tests/kvcase.h"

TEST_MAIN

#define BLOCK 65536u

static _Alignas(4096) uint8_t buf[16 * BLOCK];

static void count_done(struct kv_io *io) { ++*(int *)io->ctx; }

static struct kv_store_params sim_params(struct kv_sim *m)
{
    return (struct kv_store_params){.sim = m, .capacity_bytes = 16u << 20, .inflight_max = 4,
                                    .block_bytes_max = BLOCK, .segment_bytes = 1u << 20};
}

// A clock that jumps expires nothing; time that passes does, but what a record pins.
TEST(time_to_live)
{
    struct kv_sim *m = kv_sim_create(1);
    struct kv_store_params p = sim_params(m);
    struct kv_store *s = open_store(&p);
    for (uint64_t k = 0; k < 3; k++) {
        struct kv_io io = {.kind = KV_IO_PUT, .key = rig_key(k), .buf = buf, .bytes = BLOCK,
                           .ttl_s = 100};
        rig_fill(k, buf, BLOCK);
        REQUIRE_INT(rig_run(s, &io), 0);
    }
    struct hash pin = rig_key(2);
    struct kv_io r = {.kind = KV_IO_RECORD_PUT, .name = "r", .pin = &pin, .n_pins = 1, .ttl_s = 500,
                      .buf = buf};
    REQUIRE_INT(rig_run(s, &r), 0);
    kv_sim_set_unix(m, 4000000000);
    kv_store_poll(s, 0);
    REQUIRE_INT(rig_get(s, 0, 0, buf, BLOCK), 0);
    kv_sim_set_unix(m, 0);              // and after a start at 1970
    kv_store_close(s);
    s = open_store(&p);
    REQUIRE_INT(rig_get(s, 0, 0, buf, BLOCK), 0);
    kv_sim_advance(m, 200);
    kv_store_poll(s, 0);
    REQUIRE_INT(rig_get(s, 1, 0, buf, BLOCK), -ENOENT);
    REQUIRE_INT(rig_get(s, 2, 0, buf, BLOCK), 0);
    kv_sim_advance(m, 400);
    for (int i = 0; i < 100; i++)
        kv_store_poll(s, 0);
    REQUIRE_INT(stats(s).records, 0);
    REQUIRE_INT(rig_get(s, 2, 0, buf, BLOCK), -ENOENT);
    kv_store_close(s);
    kv_sim_destroy(m);
}

// Two sizes so near that a class of the larger would do for both: in whatever order their segments
// are found, every one is.
TEST(neighbouring_classes)
{
    struct kv_sim *m = kv_sim_create(1);
    struct kv_store_params p = sim_params(m);
    struct kv_store *s = open_store(&p);
    REQUIRE_INT(rig_put(s, 1, buf, BLOCK - 4096), 0);       // the smaller first: a class of its own
    REQUIRE_INT(rig_put(s, 2, buf, BLOCK), 0);
    for (int i = 0; i < 20; i++) {
        kv_store_close(s);
        s = open_store(&p);
        REQUIRE_INT(rig_get(s, 1, 0, buf, BLOCK - 4096), 0);
        REQUIRE_INT(rig_get(s, 2, 0, buf, BLOCK), 0);
    }
    kv_store_close(s);
    kv_sim_destroy(m);
}

static int put_record(struct kv_store *s, const char *name)
{
    struct kv_io io = {.kind = KV_IO_RECORD_PUT, .name = name, .buf = buf, .bytes = 100};
    return rig_run(s, &io);
}

// As many records as there may be, also of many at once; a store that has more opens without them.
TEST(too_many_records)
{
    static const char *const names[] = {"a", "b", "c", "d", "e", "f"};
    struct kv_sim *m = kv_sim_create(1);
    struct kv_store_params p = sim_params(m);
    p.records_max = 4;
    struct kv_store *s = open_store(&p);
    struct kv_io io[6], del = {.kind = KV_IO_RECORD_DELETE, .name = "b"};
    int n_done = 0, n_refused = 0;
    for (int i = 0; i < 6; i++) {
        io[i] = (struct kv_io){.kind = KV_IO_RECORD_PUT, .name = names[i], .buf = buf, .bytes = 100,
                               .done = count_done, .ctx = &n_done};
        kv_store_submit(s, &io[i]);
    }
    while (n_done < 6)
        kv_store_poll(s, 1);
    for (int i = 0; i < 6; i++)
        n_refused += io[i].result == -ENOSPC;
    REQUIRE_INT(n_refused, 2);
    REQUIRE_INT(put_record(s, "a"), 0);             // another value of the same
    REQUIRE_INT(put_record(s, "g"), -ENOSPC);
    REQUIRE_INT(rig_run(s, &del), 0);
    REQUIRE_INT(put_record(s, "g"), 0);
    kv_store_close(s);
    p.records_max = 2;
    s = open_store(&p);
    REQUIRE_INT(stats(s).records, 2);
    kv_store_close(s);
    p.records_max = 4;
    s = open_store(&p);
    REQUIRE_INT(stats(s).records, 2);               // the others are gone for good
    kv_store_close(s);
    kv_sim_destroy(m);
}

// While the disk holds everything back, polling returns, queued reads can be taken back, and what
// the disk has stays its own until it ends.
TEST(slow_disk)
{
    struct kv_sim *m = kv_sim_create(1);
    struct kv_store_params p = sim_params(m);
    struct kv_store *s = open_store(&p);
    struct kv_io io[12];
    int n_done = 0;
    for (uint64_t k = 0; k < 12; k++)
        REQUIRE_INT(rig_put(s, k, buf, BLOCK), 0);
    kv_sim_hold(m, true);
    for (uint64_t k = 0; k < 12; k++) {
        io[k] = (struct kv_io){.kind = KV_IO_GET, .key = rig_key(k), .buf = buf + k * BLOCK,
                               .bytes = BLOCK, .done = count_done, .ctx = &n_done,
                               .priority = k < 10 ? KV_PREFETCH : KV_FAULT};
        kv_store_submit(s, &io[k]);
    }
    for (int i = 0; i < 50; i++)
        kv_store_poll(s, 0);
    REQUIRE_INT(n_done, 0);
    for (uint64_t k = 0; k < 12; k++)
        kv_store_cancel(s, &io[k]);
    kv_store_poll(s, 0);
    // Three requests of four are for prefetches; the last is the first fault's.
    REQUIRE_INT(n_done, 8);
    REQUIRE(io[3].result == -ECANCELED && io[9].result == -ECANCELED);
    REQUIRE(io[11].result == -ECANCELED);
    kv_sim_hold(m, false);
    while (!kv_store_idle(s))
        kv_store_poll(s, 1);
    REQUIRE(n_done == 12 && io[0].result == 0 && io[2].result == 0 && io[10].result == 0);
    kv_store_close(s);
    kv_sim_destroy(m);
}

// A disk that takes no writes: the store gives up storing, and still reads.
TEST(degraded)
{
    struct kv_sim *m = kv_sim_create(1);
    struct kv_store_params p = sim_params(m);
    struct kv_store *s = open_store(&p);
    REQUIRE_INT(rig_put(s, 1, buf, BLOCK), 0);
    struct kv_sim_faults f = {.write_eio = 1000000};
    kv_sim_set_faults(m, &f);
    for (uint64_t k = 10; k < 30; k++)
        REQUIRE_INT(rig_put(s, k, buf, BLOCK), -EIO);
    struct kv_stats st = stats(s);
    REQUIRE(st.degraded && st.write_errors >= 8 && st.write_errors < 20);
    REQUIRE_INT(rig_get(s, 1, 0, buf, BLOCK), 0);
    REQUIRE_INT(rig_get(s, 10, 0, buf, BLOCK), -ENOENT);
    kv_store_close(s);
    kv_sim_destroy(m);
}

// What passes is a miss, and the block is still there.
TEST(passing_errors)
{
    struct kv_sim *m = kv_sim_create(1);
    struct kv_store_params p = sim_params(m);
    struct kv_store *s = open_store(&p);
    struct kv_sim_faults again = {.again = 1000000}, eio = {.read_eio = 1000000}, none = {0};
    REQUIRE_INT(rig_put(s, 1, buf, BLOCK), 0);
    for (int i = 0; i < 10; i++) {
        kv_sim_set_faults(m, &again);
        REQUIRE_INT(rig_get(s, 1, 4096 * (uint64_t)i, buf, 4096), -ENOENT);
        kv_sim_set_faults(m, &none);
        REQUIRE_INT(rig_get(s, 1, 0, buf, BLOCK), 0);
    }
    kv_sim_set_faults(m, &eio);
    REQUIRE_INT(rig_get(s, 1, 0, buf, BLOCK), -ENOENT);
    kv_sim_set_faults(m, &none);
    REQUIRE_INT(rig_get(s, 1, 0, buf, BLOCK), -ENOENT);     // a disk that failed is not asked again
    kv_store_close(s);
    kv_sim_destroy(m);
}

// A put that is refused leaves the block alone that it would have replaced.
TEST(refused_replacement)
{
    struct kv_sim *m = kv_sim_create(1);
    struct kv_store_params p = sim_params(m);
    struct kv_store *s = open_store(&p);
    REQUIRE_INT(rig_put(s, 1, buf, BLOCK), 0);
    kv_store_close(s);
    kv_sim_damage_index(m);
    p.write_bytes_per_day = BLOCK;
    s = open_store(&p);
    REQUIRE(stats(s).rebuilt);
    REQUIRE_INT(rig_put(s, 1, buf, BLOCK), -EDQUOT);
    REQUIRE_INT(rig_get(s, 1, 0, buf, BLOCK), 0);
    kv_store_close(s);
    kv_sim_destroy(m);
}

// A failed sync is not tried again: its blocks are given up, and the segment takes no more.
TEST(failed_sync)
{
    struct kv_sim *m = kv_sim_create(1);
    struct kv_store_params p = sim_params(m);
    struct kv_store *s = open_store(&p);
    REQUIRE_INT(rig_put(s, 1, buf, BLOCK), 0);
    struct kv_sim_faults f = {.sync_eio = 1000000}, none = {0};
    kv_sim_set_faults(m, &f);
    REQUIRE_INT(rig_put(s, 2, buf, BLOCK), -EIO);
    kv_sim_set_faults(m, &none);
    REQUIRE_INT(stats(s).sync_errors, 1);
    REQUIRE_INT(rig_get(s, 2, 0, buf, BLOCK), -ENOENT);
    REQUIRE_INT(rig_put(s, 2, buf, BLOCK), 0);
    REQUIRE(stats(s).data_bytes > p.segment_bytes);         // in another segment
    kv_sim_crash_in(m, 0, false);
    kv_store_close(s);
    kv_sim_restart(m);
    s = open_store(&p);
    REQUIRE_INT(rig_get(s, 1, 0, buf, BLOCK), 0);
    REQUIRE_INT(rig_get(s, 2, 0, buf, BLOCK), 0);
    kv_store_close(s);
    kv_sim_destroy(m);
}

// Blocks that were written while a sync of their segment failed are not acknowledged by the next.
TEST(failed_sync_of_neighbours)
{
    uint64_t acked = 0, refused = 0;
    for (uint64_t seed = 1; seed <= 400; seed++) {
        struct kv_sim *m = kv_sim_create(seed);
        struct kv_store_params p = sim_params(m);
        p.inflight_max = 16;
        struct kv_store *s = open_store(&p);
        struct kv_sim_faults f = {.sync_eio = 400000, .delay = 600000};
        struct kv_io io[8];
        int n_done = 0;
        REQUIRE_INT(rig_put(s, 99, buf, BLOCK), 0);
        kv_sim_set_faults(m, &f);
        for (uint64_t k = 0; k < 8; k++) {
            io[k] = (struct kv_io){.kind = KV_IO_PUT, .key = rig_key(k), .buf = buf + k * BLOCK,
                                   .bytes = BLOCK, .done = count_done, .ctx = &n_done};
            rig_fill(k, io[k].buf, BLOCK);
            kv_store_submit(s, &io[k]);
        }
        while (n_done < 8)
            kv_store_poll(s, 1);
        kv_sim_crash_in(m, 0, false);
        kv_store_close(s);
        kv_sim_restart(m);
        f = (struct kv_sim_faults){0};
        kv_sim_set_faults(m, &f);
        s = open_store(&p);
        for (uint64_t k = 0; k < 8; k++) {
            acked += io[k].result == 0;
            refused += io[k].result != 0;
            int r = rig_get(s, k, 0, buf + 8 * BLOCK, BLOCK);
            if (io[k].result == 0 && r)
                TEST_FAIL("seed %llu: block %llu was stored, and is not there",
                          (unsigned long long)seed, (unsigned long long)k);
        }
        kv_store_close(s);
        kv_sim_destroy(m);
    }
    REQUIRE(acked > 300 && refused > 300);
}

// ---- order -------------------------------------------------------------------------------------

static struct kv_io record(enum kv_io_kind kind, uint64_t *value, int *n_done)
{
    return (struct kv_io){.kind = kind, .name = "r", .buf = value, .bytes = sizeof(*value),
                          .done = count_done, .ctx = n_done};
}

static void wait_for(struct kv_store *s, const int *n_done, int n)
{
    for (int i = 0; *n_done < n && i < 1000; i++)
        kv_store_poll(s, 1);
    REQUIRE_INT(*n_done, n);
}

// Of two changes of a record the one that was submitted later stays, whatever each waits for, and a
// read sees what was submitted before it.
TEST(records_in_order)
{
    struct kv_sim *m = kv_sim_create(1);
    struct kv_store_params p = sim_params(m);
    struct kv_store *s = open_store(&p);
    struct hash pin = rig_key(1);
    uint64_t first = 1, second = 2, value = 0, later = 0;
    int n_done = 0;
    struct kv_io block = {.kind = KV_IO_PUT, .key = pin, .buf = buf, .bytes = BLOCK,
                          .done = count_done, .ctx = &n_done};
    struct kv_io a = record(KV_IO_RECORD_PUT, &first, &n_done);
    struct kv_io b = record(KV_IO_RECORD_PUT, &second, &n_done);
    struct kv_io get = record(KV_IO_RECORD_GET, &value, &n_done);
    struct kv_io del = record(KV_IO_RECORD_DELETE, NULL, &n_done);
    struct kv_io miss = record(KV_IO_RECORD_GET, &later, &n_done);
    a.pin = &pin;
    a.n_pins = 1;
    REQUIRE_INT(rig_put(s, 2, buf, BLOCK), 0);      // there is a segment
    kv_sim_hold(m, true);
    kv_store_submit(s, &block);
    kv_store_submit(s, &a);             // waits for its block
    kv_store_submit(s, &b);
    kv_store_submit(s, &get);
    for (int i = 0; i < 20; i++)
        kv_store_poll(s, 0);
    kv_sim_hold(m, false);
    wait_for(s, &n_done, 4);
    REQUIRE(a.result == 0 && b.result == 0 && get.result == 0);
    REQUIRE_INT(value, 2);
    REQUIRE_INT(stats(s).pinned_bytes, 0);
    n_done = 0;
    kv_store_submit(s, &a);
    kv_store_submit(s, &del);           // of a record that comes
    kv_store_submit(s, &miss);
    wait_for(s, &n_done, 3);
    REQUIRE(a.result == 0 && del.result == 0 && miss.result == -ENOENT);
    REQUIRE_INT(stats(s).records, 0);
    kv_store_close(s);
    s = open_store(&p);
    REQUIRE_INT(stats(s).records, 0);
    kv_store_close(s);
    kv_sim_destroy(m);
}

// A record that expires while its successor is being committed takes nothing with it.
TEST(expired_and_replaced)
{
    struct kv_sim *m = kv_sim_create(1);
    struct kv_store_params p = sim_params(m);
    struct kv_store *s = open_store(&p);
    uint64_t value = 1;
    int n_done = 0;
    struct kv_io put = record(KV_IO_RECORD_PUT, &value, &n_done);
    put.ttl_s = 100;
    kv_store_submit(s, &put);
    wait_for(s, &n_done, 1);
    kv_sim_advance(m, 200);
    put.ttl_s = 0;
    kv_store_submit(s, &put);
    wait_for(s, &n_done, 2);
    for (int i = 0; i < 20; i++)
        kv_store_poll(s, 0);
    REQUIRE_INT(stats(s).records, 1);
    kv_store_close(s);
    kv_sim_destroy(m);
}

// A record has pinned the block that was there when it was accepted; what takes that block's place
// meanwhile is not its own, and so not its own to let go of.
TEST(exact_pins)
{
    struct kv_sim *m = kv_sim_create(1);
    struct kv_store_params p = sim_params(m);
    struct kv_store *s = open_store(&p);
    struct kv_sim_faults eio = {.read_eio = 1000000}, none = {0};
    struct hash pin = rig_key(1);
    uint64_t value = 1;
    int n_done = 0;
    REQUIRE_INT(rig_put(s, 1, buf, BLOCK), 0);
    struct kv_io put = record(KV_IO_RECORD_PUT, &value, &n_done), other = put;
    struct kv_io del = record(KV_IO_RECORD_DELETE, NULL, &n_done);
    struct kv_io get = {.kind = KV_IO_GET, .key = pin, .buf = buf, .bytes = BLOCK,
                        .done = count_done, .ctx = &n_done};
    put.pin = other.pin = &pin;
    put.n_pins = other.n_pins = 1;
    other.name = "other";
    kv_sim_set_faults(m, &eio);
    kv_store_submit(s, &put);
    kv_store_submit(s, &get);
    kv_store_poll(s, 0);
    kv_sim_set_faults(m, &none);
    REQUIRE(get.result == -ENOENT && n_done == 1);
    REQUIRE_INT(rig_put(s, 1, buf, BLOCK), 0);
    wait_for(s, &n_done, 2);
    kv_store_submit(s, &other);
    wait_for(s, &n_done, 3);
    REQUIRE(put.result == 0 && other.result == 0 && stats(s).pinned_bytes >= BLOCK);
    kv_store_submit(s, &del);
    wait_for(s, &n_done, 4);
    REQUIRE(del.result == 0 && stats(s).pinned_bytes >= BLOCK);
    kv_store_close(s);
    kv_sim_destroy(m);
}

// A rebuilt block stays until the put that replaces it is durable, and what held it holds on.
TEST(failed_replacement)
{
    struct kv_sim *m = kv_sim_create(1);
    struct kv_store_params p = sim_params(m);
    struct kv_store *s = open_store(&p);
    struct kv_sim_faults fault[] = {{.write_eio = 1000000}, {.sync_eio = 1000000},
                                    {.commit_enospc = 1000000}}, none = {0};
    struct hash key = rig_key(1);
    uint64_t value = 1;
    int n_done = 0;
    struct kv_io put = record(KV_IO_RECORD_PUT, &value, &n_done);
    struct kv_io del = record(KV_IO_RECORD_DELETE, NULL, &n_done);
    put.pin = &key;
    put.n_pins = 1;
    REQUIRE_INT(rig_put(s, 1, buf, BLOCK), 0);
    for (size_t i = 0; i < ARRAY_LEN(fault); i++) {
        kv_store_close(s);
        kv_sim_damage_index(m);
        s = open_store(&p);
        REQUIRE(stats(s).rebuilt);
        kv_sim_set_faults(m, &fault[i]);
        REQUIRE(rig_put(s, 1, buf, BLOCK) < 0);
        kv_sim_set_faults(m, &none);
        REQUIRE_INT(rig_get(s, 1, 0, buf, BLOCK), 0);
        kv_store_close(s);
        s = open_store(&p);
        REQUIRE_INT(rig_get(s, 1, 0, buf, BLOCK), 0);
    }
    REQUIRE(kv_store_hold(s, &key));
    kv_store_submit(s, &put);
    wait_for(s, &n_done, 1);
    REQUIRE_INT(rig_put(s, 1, buf, BLOCK), 0);
    REQUIRE(stats(s).stored == 1 && stats(s).pinned_bytes >= BLOCK && stats(s).blocks == 1);
    kv_store_submit(s, &del);
    wait_for(s, &n_done, 2);
    REQUIRE_INT(stats(s).pinned_bytes, 0);
    kv_store_evict(s, UINT64_MAX);
    REQUIRE_INT(rig_get(s, 1, 0, buf, BLOCK), 0);           // it is held
    kv_store_release(s, &key);
    kv_store_evict(s, UINT64_MAX);
    REQUIRE_INT(rig_get(s, 1, 0, buf, BLOCK), -ENOENT);
    kv_store_close(s);
    kv_sim_destroy(m);
}

// ---- limits ------------------------------------------------------------------------------------

static void put_many(struct kv_store *s, struct kv_io *io, uint64_t n)
{
    int n_done = 0;
    for (uint64_t k = 0; k < n; k++) {
        io[k] = (struct kv_io){.kind = KV_IO_PUT, .key = rig_key(k), .buf = buf, .bytes = BLOCK,
                               .done = count_done, .ctx = &n_done, .priority = KV_WRITE_BEHIND};
        kv_store_submit(s, &io[k]);
    }
    wait_for(s, &n_done, (int)n);
}

// Puts that are submitted together share one budget; what a failed one did not write is given back.
TEST(budget_of_many)
{
    struct kv_sim *m = kv_sim_create(1);
    struct kv_store_params p = sim_params(m);
    p.write_bytes_per_day = 5 * (BLOCK + 4096);
    struct kv_store *s = open_store(&p);
    struct kv_sim_faults eio = {.write_eio = 1000000}, none = {0};
    struct kv_io io[16];
    kv_sim_set_faults(m, &eio);
    put_many(s, io, 5);
    kv_sim_set_faults(m, &none);
    REQUIRE_INT(stats(s).written_today_bytes, 0);
    put_many(s, io, 16);
    int n_stored = 0;
    for (int i = 0; i < 16; i++) {
        REQUIRE(io[i].result == 0 || io[i].result == -EDQUOT);
        n_stored += io[i].result == 0;
    }
    REQUIRE_INT(n_stored, 5);
    REQUIRE_INT(stats(s).written_today_bytes, p.write_bytes_per_day);
    kv_store_close(s);
    kv_sim_destroy(m);
}

// However long a block is that is written behind, the last quarter of the requests is not for it.
TEST(requests_for_the_urgent)
{
    const uint32_t large = 8u << 20;
    struct kv_sim *m = kv_sim_create(1);
    struct kv_store_params p = {.sim = m, .capacity_bytes = 128u << 20, .inflight_max = 4,
                                .block_bytes_max = large};
    struct kv_store *s = open_store(&p);
    uint8_t *p_large = aligned_alloc(4096, large);
    int n_done = 0;
    REQUIRE_INT(rig_put(s, 1, buf, BLOCK), 0);
    struct kv_io put = {.kind = KV_IO_PUT, .key = rig_key(2), .buf = p_large, .bytes = large,
                        .done = count_done, .ctx = &n_done, .priority = KV_WRITE_BEHIND};
    struct kv_io get = {.kind = KV_IO_GET, .key = rig_key(1), .buf = buf, .bytes = BLOCK,
                        .done = count_done, .ctx = &n_done, .priority = KV_FAULT};
    rig_fill(2, p_large, large);
    kv_sim_hold(m, true);
    kv_store_submit(s, &put);
    for (int i = 0; i < 20; i++)        // also when its segment has to be made first
        kv_store_poll(s, 0);
    kv_store_submit(s, &get);
    kv_store_cancel(s, &get);           // only what the disk has not got can be taken back
    kv_sim_hold(m, false);
    wait_for(s, &n_done, 2);
    REQUIRE(get.result == 0 && put.result == 0);
    REQUIRE_INT(rig_get(s, 2, 0, p_large, large), 0);
    free(p_large);
    kv_store_close(s);
    kv_sim_destroy(m);
}

// An index that is full refuses what does not fit, and nothing else of its group.
TEST(full_index)
{
    struct kv_sim *m = kv_sim_create(1);
    struct kv_store_params p = sim_params(m);
    p.inflight_max = 64;
    kv_sim_limit_index(m, 20);
    struct kv_store *s = open_store(&p);
    struct kv_io io[30];
    int n_stored = 0;
    put_many(s, io, 30);
    for (int i = 0; i < 30; i++) {
        REQUIRE(io[i].result == 0 || io[i].result == -ENOSPC);
        n_stored += io[i].result == 0;
    }
    REQUIRE_INT(n_stored, 20);
    for (uint64_t k = 0; k < 30; k++)
        REQUIRE_INT(kv_store_has(s, &io[k].key, NULL), io[k].result == 0);
    kv_store_evict(s, 5 * BLOCK);
    kv_sim_advance(m, 1);
    kv_store_poll(s, 1);
    REQUIRE_INT(rig_put(s, 100, buf, BLOCK), 0);
    REQUIRE(!stats(s).degraded);
    kv_store_close(s);
    s = open_store(&p);
    REQUIRE(stats(s).blocks >= 15 && stats(s).blocks <= 20);
    kv_store_close(s);
    kv_sim_destroy(m);
}
