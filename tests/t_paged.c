// Sessions that are larger than the memory they may use give the very text that they give with all
// of it, whatever the disk does, alone and beside others; and a parked one comes back by its
// digests. On the CPU, or on what TEST_DEVICE names.
#include "tests/ask.h"
#include <errno.h>
#include <stdlib.h>
#include <time.h>
#include "kvstore/sim.h"
#include "base/base.h"

TEST_MAIN

#define TEXTS 4
#define N_PROMPT 400                    // tokens, 7 blocks
#define N_NEW 24
#define STORE_BYTES (UINT64_C(256) << 20)

enum { DENSE, TOPK, WINDOW, POLICIES };

static const struct attn_policy policy[POLICIES] = {
    [DENSE] = { SELECT_dense, 0, 0, 0 },
    [TOPK] = { SELECT_topk, 320, 0, 64 },
    [WINDOW] = { SELECT_window, 0, 200, 64 },
};

static int32_t prompt[TEXTS][N_PROMPT];
static struct answer truth[TEXTS], got;
static uint64_t block_bytes;

static const char *device(void)
{
    const char *name = getenv("TEST_DEVICE");
    return name ? name : "cpu";
}

static struct request request(unsigned text, unsigned kind)
{
    for (int i = 0; i < N_PROMPT; i++)
        prompt[text][i] = 1000 + (i * 37 + (int)text * 11) % 20000;
    struct request r = request_of(prompt[text], N_PROMPT, N_NEW);
    r.attn = policy[kind];
    r.gen.ignore_end = true;
    r.gen.logprobs = 1;                 // their sum is compared: every bit counts
    return r;
}

static void compute(unsigned n_texts, unsigned kind)
{
    struct engine *e = open_engine(device(), (struct engine_params){ .ctx_tokens = 1024 });
    block_bytes = engine_info(e)->kv_block_bytes;
    for (unsigned i = 0; i < n_texts; i++) {
        struct request r = request(i, kind);
        ask(e, &r, &truth[i]);
    }
    engine_close(e);
}

static struct engine *open_paged(struct kv_sim *m, uint32_t memory_blocks)
{
    struct engine_stats st;
    struct engine *e = open_engine(device(), (struct engine_params){
        .ctx_tokens = 1024, .kv_memory_bytes = memory_blocks * block_bytes, .kv_store_sim = m,
        .kv_store_bytes = STORE_BYTES });
    engine_stats(e, &st);
    if (!st.paging.on) {
        engine_close(e);
        kv_sim_destroy(m);
        SKIP("no paging");
    }
    return e;
}

static void close_all(struct engine *e, struct kv_sim *m)
{
    require_idle(e);
    engine_close(e);
    kv_sim_destroy(m);
}

static struct engine_stats stats_of(struct engine *e)
{
    struct engine_stats st;
    engine_stats(e, &st);
    return st;
}

static void require_truth(struct engine *e, unsigned text, unsigned kind)
{
    struct request r = request(text, kind);
    ask(e, &r, &got);
    if (!same(&got, &truth[text]))
        TEST_FAIL("text %u, policy %u: another text than with all memory: %s", text, kind,
                  got.done.err.msg);
}

// ---- one session ------------------------------------------------------------------------------

TEST(a_session_larger_than_memory)
{
    for (unsigned kind = 0; kind < POLICIES; kind++) {
        compute(1, kind);
        struct kv_sim *m = kv_sim_create(1);
        struct engine *e = open_paged(m, 4);
        require_truth(e, 0, kind);
        struct engine_stats st = stats_of(e);
        REQUIRE(st.paging.pages.resident_pages <= st.paging.pages.memory_pages);
        REQUIRE_INT(st.paging.lost_blocks, 0);
        REQUIRE(kind == WINDOW || st.paging.fetched_pages > 0);
        REQUIRE(got.done.usage.page_faults > 0 || kind == WINDOW);
        close_all(e, m);
    }
}

TEST(a_disk_that_fails)
{
    static const struct kv_sim_faults faults[] = {
        { .read_eio = 3000 }, { .flip = 3000 }, { .delay = 900000 },
        { .again = 200000, .short_transfer = 200000 }, { .lost = 20000, .misdirected = 20000 },
    };
    compute(1, TOPK);
    for (unsigned i = 0; i < ARRAY_LEN(faults); i++) {
        struct kv_sim *m = kv_sim_create(i + 1);
        struct engine *e = open_paged(m, 5);
        kv_sim_set_faults(m, &faults[i]);
        require_truth(e, 0, TOPK);
        close_all(e, m);
    }
}

TEST(a_disk_that_reads_nothing)
{
    compute(1, DENSE);
    struct kv_sim *m = kv_sim_create(6);
    struct engine *e = open_paged(m, 5);
    kv_sim_set_faults(m, &(struct kv_sim_faults){ .read_eio = 1000000 });
    struct request r = request(0, DENSE);
    ask(e, &r, &got);
    REQUIRE_INT(got.done.reason, FINISH_ERROR);
    REQUIRE_INT(got.done.err.code, -EIO);
    close_all(e, m);
}

// ---- several ----------------------------------------------------------------------------------

TEST(many_under_one_cap)
{
    compute(TEXTS, TOPK);
    struct kv_sim *m = kv_sim_create(3);
    struct engine *e = open_paged(m, 16);
    kv_sim_set_faults(m, &(struct kv_sim_faults){ .delay = 800000 });
    struct stream *s[TEXTS];
    for (unsigned i = 0; i < TEXTS; i++) {
        struct request r = request(i, TOPK);
        s[i] = submit(e, &r);
    }
    for (unsigned i = 0; i < TEXTS; i++) {
        collect(s[i], &got);
        if (!same(&got, &truth[i]))
            TEST_FAIL("text %u: another than alone: %s", i, got.done.err.msg);
    }
    REQUIRE(stats_of(e).paging.fetched_pages > 0);
    close_all(e, m);
}

// ---- a parked session -------------------------------------------------------------------------

static void drain(struct engine *e)
{
    require_idle(e);
    for (unsigned i = 0; i < 10000 && stats_of(e).store.queued > 0; i++)
        nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
    REQUIRE_INT(stats_of(e).store.queued, 0);
}

TEST(a_parked_session_comes_back_by_its_digests)
{
    compute(1, TOPK);
    struct kv_sim *m = kv_sim_create(4);
    struct engine *e = open_paged(m, 8);
    require_truth(e, 0, TOPK);
    drain(e);
    engine_close(e);
    e = open_paged(m, 8);
    require_truth(e, 0, TOPK);
    REQUIRE_INT(got.done.usage.cached_tokens, N_PROMPT / KV_BLOCK_TOKENS * KV_BLOCK_TOKENS);
    struct engine_stats st = stats_of(e);
    REQUIRE_INT(st.store.read_blocks, N_PROMPT / KV_BLOCK_TOKENS);
    REQUIRE(st.store.read_bytes * 20 < st.store.read_blocks * block_bytes);
    REQUIRE(st.paging.fetched_pages > 0);
    drain(e);
    close_all(e, m);
}

// What became damaged while it was parked is computed again.
TEST(a_parked_session_that_was_damaged)
{
    compute(1, TOPK);
    struct kv_sim *m = kv_sim_create(7);
    struct engine *e = open_paged(m, 8);
    require_truth(e, 0, TOPK);
    drain(e);
    engine_close(e);
    kv_sim_damage(m, 300);
    e = open_paged(m, 8);
    require_truth(e, 0, TOPK);
    struct engine_stats st = stats_of(e);
    REQUIRE(st.paging.lost_blocks + st.store.read_failures > 0);
    drain(e);
    close_all(e, m);
}

// ---- a store that takes nothing any more ------------------------------------------------------

// What does not fit into memory then ends with the reason; what fits goes on.
TEST(a_disk_that_is_full)
{
    compute(1, DENSE);
    struct kv_sim *m = kv_sim_create(5);
    struct engine *e = open_paged(m, 5);
    kv_sim_set_faults(m, &(struct kv_sim_faults){ .write_enospc = 1000000 });
    struct request r = request(0, DENSE), small = r;
    ask(e, &r, &got);
    REQUIRE_INT(got.done.reason, FINISH_ERROR);
    REQUIRE_INT(got.done.err.code, -ENOSPC);
    small.n_tokens = 200;
    ask(e, &small, &got);
    if (got.done.reason != FINISH_LENGTH)
        TEST_FAIL("what fits ended too: %s", got.done.err.msg);
    close_all(e, m);
}
