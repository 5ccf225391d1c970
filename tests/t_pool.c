// Protects the thread pool: regions, barriers, the shared counter, and that no wake-up is lost.
#include "tests/test.h"
#include <stdatomic.h>
#include <time.h>
#include "engine/exec/cpu/pool.h"

TEST_MAIN

#define THREADS_MAX 8
#define ITEMS 1000

struct work {
    struct pool *pool;
    uint32_t n;                         // items of a round
    uint32_t grain;
    unsigned char hits[ITEMS];          // written without atomics: the pool must hand each out once
    uint32_t plain[THREADS_MAX];        // each thread's own, read by all after a barrier
    _Atomic uint32_t errors;
};

static void rounds(void *ctx, uint32_t thread)
{
    struct work *w = ctx;
    for (uint32_t round = 1; round <= 20; round++) {
        struct pool_range r;
        while (pool_next(w->pool, w->n, w->grain, &r)) {
            if (r.begin >= r.end || r.end > w->n)
                atomic_fetch_add(&w->errors, 1);
            for (uint32_t i = r.begin; i < r.end; i++)
                w->hits[i]++;
        }
        w->plain[thread] = round;
        pool_barrier(w->pool);
        for (uint32_t t = 0; t < pool_threads(w->pool); t++)
            if (w->plain[t] != round)
                atomic_fetch_add(&w->errors, 1);
        for (uint32_t i = thread; i < w->n; i += pool_threads(w->pool))
            if (w->hits[i] != round)
                atomic_fetch_add(&w->errors, 1);
        pool_barrier(w->pool);
    }
}

TEST(every_item_once_and_barriers_hold)
{
    struct err err;
    static const uint32_t sizes[] = { 0, 1, 7, ITEMS }, grains[] = { 1, 3, 64, 5000 };
    for (uint32_t n = 1; n <= THREADS_MAX; n = n * 2 - n / 3) {
        struct pool *pool;
        REQUIRE_OK(pool_create(&pool, n, &err), err);
        REQUIRE_INT(pool_threads(pool), n);
        for (int i = 0; i < 16; i++) {
            struct work w = { .pool = pool, .n = sizes[i / 4], .grain = grains[i % 4] };
            pool_run(pool, rounds, &w);
            REQUIRE_INT(atomic_load(&w.errors), 0);
        }
        pool_destroy(pool);
    }
}

static void count(void *ctx, uint32_t thread)
{
    ((uint32_t *)ctx)[thread]++;
}

// Pauses longer than the workers spin, so that regions also start with all of them asleep.
TEST(regions_after_sleep)
{
    struct err err;
    struct pool *pool;
    uint32_t runs[4] = {0};
    REQUIRE_OK(pool_create(&pool, 4, &err), err);
    for (uint32_t i = 0; i < 200; i++) {
        if (i % 10 == 0)
            nanosleep(&(struct timespec){ .tv_nsec = 3000000 }, NULL);
        pool_run(pool, count, runs);
        for (int t = 0; t < 4; t++)
            REQUIRE_INT(runs[t], i + 1);
    }
    pool_destroy(pool);
}

TEST(defaults_and_null)
{
    struct err err;
    struct pool *pool;
    REQUIRE_OK(pool_create(&pool, 0, &err), err);
    REQUIRE(pool_threads(pool) >= 1);
    pool_destroy(pool);
    pool_destroy(NULL);
}
