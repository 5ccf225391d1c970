// The thread pool. A region is one bump of `epoch`; its end, like every barrier inside it, is one
// bump of `generation` by the last thread to arrive. Both are words that waiters first spin on and
// then sleep on (futex).
#include "engine/exec/cpu/pool.h"
#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "base/base.h"

#define LINE_BYTES 64
#define SPINS_HOT 5000              // about 100 us, while every thread has a core
#define SPINS_CROWDED 200           // with more threads than cores the awaited one needs this core

struct worker { struct pool *pool; pthread_t thread; uint32_t index; };

// Each word that threads write lies on a line of its own.
struct pool {
    _Alignas(LINE_BYTES) _Atomic uint32_t epoch;        // regions begun
    _Alignas(LINE_BYTES) _Atomic uint32_t generation;   // barriers passed
    _Alignas(LINE_BYTES) _Atomic uint32_t arrived;      // at the coming barrier
    _Alignas(LINE_BYTES) _Atomic uint64_t next;         // of pool_next
    _Alignas(LINE_BYTES) _Atomic uint32_t sleepers;
    // Written by thread 0 before it bumps epoch, read by workers after they saw that.
    _Alignas(LINE_BYTES) void (*fn)(void *ctx, uint32_t thread);    // NULL: the pool ends
    void          *ctx;
    uint32_t       n_threads, spins, n_started;
    struct worker *worker;          // (n_threads), owned; [0] unused
};

static inline void cpu_relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void futex(_Atomic uint32_t *word, int op, uint32_t value)
{
    syscall(SYS_futex, word, op, value, NULL, NULL, 0);
}

static void wait_change(struct pool *p, _Atomic uint32_t *word, uint32_t old)
{
    for (uint32_t i = 0; i < p->spins; i++) {
        if (atomic_load_explicit(word, memory_order_acquire) != old)
            return;
        cpu_relax();
    }
    // A waker changes the word and then looks for sleepers; a sleeper counts itself and then the
    // kernel compares the word. In either order one sees the other.
    atomic_fetch_add(&p->sleepers, 1);
    while (atomic_load(word) == old)
        futex(word, FUTEX_WAIT_PRIVATE, old);
    atomic_fetch_sub(&p->sleepers, 1);
}

static void bump(struct pool *p, _Atomic uint32_t *word)
{
    atomic_fetch_add(word, 1);
    if (atomic_load(&p->sleepers) > 0)
        futex(word, FUTEX_WAKE_PRIVATE, INT32_MAX);
}

void pool_barrier(struct pool *p)
{
    uint32_t generation = atomic_load_explicit(&p->generation, memory_order_relaxed);
    if (atomic_fetch_add(&p->arrived, 1) + 1 < p->n_threads) {
        wait_change(p, &p->generation, generation);
        return;
    }
    atomic_store_explicit(&p->arrived, 0, memory_order_relaxed);
    atomic_store_explicit(&p->next, 0, memory_order_relaxed);
    bump(p, &p->generation);
}

int pool_next(struct pool *p, uint32_t n, uint32_t grain, struct pool_range *ret)
{
    uint64_t begin = atomic_fetch_add_explicit(&p->next, grain, memory_order_relaxed);
    if (begin >= n)
        return 0;
    ret->begin = (uint32_t)begin;
    ret->end = (uint32_t)MIN(begin + grain, (uint64_t)n);
    return 1;
}

static void *worker_main(void *arg)
{
    struct worker *w = arg;
    struct pool *p = w->pool;
    for (uint32_t epoch = 0;; epoch++) {
        wait_change(p, &p->epoch, epoch);
        if (!p->fn)
            return NULL;
        p->fn(p->ctx, w->index);
        pool_barrier(p);
    }
}

void pool_run(struct pool *p, void (*fn)(void *ctx, uint32_t thread), void *ctx)
{
    p->fn = fn;
    p->ctx = ctx;
    bump(p, &p->epoch);
    fn(ctx, 0);
    pool_barrier(p);
}

// The core that worker i gets: the i-th of the mask.
static void pin(pthread_t thread, const cpu_set_t *mask, uint32_t i)
{
    for (int core = 0; core < CPU_SETSIZE; core++) {
        if (!CPU_ISSET(core, mask) || i-- > 0)
            continue;
        cpu_set_t one;
        CPU_ZERO(&one);
        CPU_SET(core, &one);
        pthread_setaffinity_np(thread, sizeof(one), &one);  // a wish: the pool works without it
        return;
    }
}

static int start_workers(struct pool *p, const cpu_set_t *mask, uint32_t n_cores)
{
    for (uint32_t i = 1; i < p->n_threads; i++) {
        p->worker[i] = (struct worker){ .pool = p, .index = i };
        int r = pthread_create(&p->worker[i].thread, NULL, worker_main, &p->worker[i]);
        if (r)
            return -r;
        p->n_started = i;
        if (p->n_threads <= n_cores)
            pin(p->worker[i].thread, mask, i);
    }
    return 0;
}

int pool_create(struct pool **ret, uint32_t n_threads, struct err *err)
{
    cpu_set_t mask;
    uint32_t n_cores = 0;
    if (sched_getaffinity(0, sizeof(mask), &mask) == 0)
        n_cores = (uint32_t)CPU_COUNT(&mask);
    n_cores = MAX(n_cores, 1u);
    n_threads = n_threads ? n_threads : n_cores;
    struct pool *p = aligned_alloc(LINE_BYTES, sizeof(*p));
    struct worker *worker = calloc(n_threads, sizeof(*worker));
    if (!p || !worker) {
        free(p);
        free(worker);
        return err_set(err, -ENOMEM, "no memory for a pool of %u threads", n_threads);
    }
    *p = (struct pool){
        .n_threads = n_threads, .worker = worker,
        .spins = n_threads <= n_cores ? SPINS_HOT : SPINS_CROWDED,
    };
    int r = start_workers(p, &mask, n_cores);
    if (r) {
        pool_destroy(p);
        return err_set(err, r, "cannot start %u threads", n_threads);
    }
    *ret = p;
    return 0;
}

void pool_destroy(struct pool *p)
{
    if (!p)
        return;
    p->fn = NULL;
    bump(p, &p->epoch);
    for (uint32_t i = 1; i <= p->n_started; i++)
        pthread_join(p->worker[i].thread, NULL);
    free(p->worker);
    free(p);
}

uint32_t pool_threads(const struct pool *p)
{
    return p->n_threads;
}
