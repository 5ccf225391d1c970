// A fixed pool of threads that run one function together, with barriers inside it.
//
// Workers spin for a short while between regions and barriers, then sleep; a region costs about a
// microsecond while the pool is hot. Thread 0 is the caller.
#pragma once
#include <stdint.h>
#include "base/err.h"

struct pool;

// n_threads 0: one for each core in this process's affinity mask. Returns 0, -ENOMEM, -EAGAIN.
int      pool_create(struct pool **ret, uint32_t n_threads, struct err *err);
void     pool_destroy(struct pool *p);              // NULL is fine
uint32_t pool_threads(const struct pool *p);

// Runs fn(ctx, thread) on every thread, 0 <= thread < pool_threads; returns when all have.
void pool_run(struct pool *p, void (*fn)(void *ctx, uint32_t thread), void *ctx);
// Inside a region: waits until all threads are here.
void pool_barrier(struct pool *p);
// Inside a region, between two barriers: hands out [0, n) in pieces of `grain`. Every thread calls
// it in a loop; false: nothing left. The counter is fresh after each barrier.
struct pool_range { uint32_t begin, end; };
int  pool_next(struct pool *p, uint32_t n, uint32_t grain, struct pool_range *ret);
