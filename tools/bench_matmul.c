// Speed of the CPU matrix kernels, by format and shape: packing, one row (against a plain read of
// memory) and 512 rows (against the limit of 8-bit multiply-adds at the measured clock).
//
//     bench_matmul [FORMAT...]        default: the formats of common models
//     bench_matmul -k KERNELS ...     other kernels than the best ("portable", "AVX2", ..)
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "base/base.h"
#include "engine/exec/cpu/matmul.h"

enum { THREADS_MAX = 2, ROWS_MAX = 512, REPEATS = 5 };

// What caches could hold is of no use: one pass reads at least this much.
static const size_t pass_bytes = 160u << 20;

static const struct { uint32_t n_in, n_out; } shapes[] = {
    { 576, 1536 }, { 896, 4864 }, { 640, 2048 }, { 576, 49152 },
};

// Copies of a matrix, together larger than the caches.
struct set {
    struct cpu_mat *m;
    uint32_t        n;
    uint32_t        n_rows;
    const void     *act;
    float          *dst;
};

struct job {
    void  (*run)(const struct set *s, uint32_t thread, uint32_t n_threads);
    const struct set *set;
    uint32_t thread, n_threads;
    double   seconds;           // out
};

// Processor time, so that other programs on the machine disturb less.
static double cpu_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void *job_main(void *arg)
{
    struct job *j = arg;
    double t0 = cpu_seconds();
    j->run(j->set, j->thread, j->n_threads);
    j->seconds = cpu_seconds() - t0;
    return NULL;
}

// Best time of one pass: of its slowest thread.
static double seconds(void (*run)(const struct set *s, uint32_t thread, uint32_t n_threads),
                      const struct set *s, uint32_t n_threads)
{
    double best = 1e9;
    for (int i = 0; i < REPEATS; i++) {
        pthread_t id[THREADS_MAX];
        struct job job[THREADS_MAX];
        double slowest = 0;
        for (uint32_t t = 0; t < n_threads; t++) {
            job[t] = (struct job){ run, s, t, n_threads, 0 };
            pthread_create(&id[t], NULL, job_main, &job[t]);
        }
        for (uint32_t t = 0; t < n_threads; t++) {
            pthread_join(id[t], NULL);
            slowest = MAX(slowest, job[t].seconds);
        }
        best = MIN(best, slowest);
    }
    return best;
}

static uint64_t sink;

static void run_read(const struct set *s, uint32_t thread, uint32_t n_threads)
{
    typedef uint64_t vec __attribute__((vector_size(32)));
    vec sum[4] = { 0 };
    for (uint32_t i = 0; i < s->n; i++) {
        const struct cpu_mat *m = &s->m[i];
        size_t n = m->n_panels * m->panel_bytes / sizeof(vec);
        const vec *p = m->panel, *end = p + n * (thread + 1) / n_threads;
        for (p += n * thread / n_threads; p + 4 <= end; p += 4) {
            __builtin_prefetch((const char *)p + 2048);
            __builtin_prefetch((const char *)p + 2112);
            for (int j = 0; j < 4; j++)
                sum[j] += p[j];
        }
    }
    vec all = sum[0] + sum[1] + sum[2] + sum[3];
    __atomic_fetch_add(&sink, all[0] + all[1] + all[2] + all[3], __ATOMIC_RELAXED);
}

static void run_mul(const struct set *s, uint32_t thread, uint32_t n_threads)
{
    for (uint32_t i = 0; i < s->n; i++) {
        const struct cpu_mat *m = &s->m[i];
        struct cpu_mul p = { .act = s->act, .n_rows = s->n_rows, .dst = s->dst,
                             .dst_stride = m->n_out, .scale = 1 };
        cpu_mat_mul(m, m->n_panels * thread / n_threads,
                    m->n_panels * (thread + 1) / n_threads, &p);
    }
}

static void run_pack(const struct set *s, uint32_t thread, uint32_t n_threads)
{
    for (uint32_t i = 0; i < s->n; i++)
        cpu_mat_pack(&s->m[i], s->m[i].n_panels * thread / n_threads,
                     s->m[i].n_panels * (thread + 1) / n_threads);
}

// Cycles per second, by a chain of dependent additions.
static double clock_hz(void)
{
    enum { N = 20000000 };
    double best = 0;
    for (int i = 0; i < 3; i++) {
        uint64_t x = 1;
        double t0 = cpu_seconds();
        for (int j = 0; j < N; j++)
            __asm__ volatile("add $1, %0" : "+r"(x));
        best = MAX(best, N / (cpu_seconds() - t0));
    }
    return best;
}

// Random bits with scales that are no NaN: every half of every byte pair below 2.
static void fill(uint8_t *p, size_t n)
{
    uint32_t x = 1;
    for (size_t i = 0; i < n; i++) {
        x = x * 1664525 + 1013904223;
        p[i] = (uint8_t)(x >> 24) & 0x3f;
    }
}

static void bench(const struct quant *q, uint32_t n_in, uint32_t n_out, double hz)
{
    if (n_in % q->block_elems != 0)
        n_in = n_in / q->block_elems * q->block_elems;
    struct err err;
    size_t n = (size_t)n_in * n_out, bytes = n / q->block_elems * q->block_bytes;
    uint8_t *data = malloc(bytes);
    fill(data, bytes);
    struct tensor t = { .name = q->name, .quant = q, .dim = { n_in, n_out, 1, 1 }, .n_dims = 2,
                        .data = data, .bytes = bytes };
    struct set s = { .n = (uint32_t)(pass_bytes / bytes + 1) };
    s.m = calloc(s.n, sizeof(*s.m));
    for (uint32_t i = 0; i < s.n; i++)
        if (cpu_mat_init(&s.m[i], &t, false, &err) != 0)
            exit(1);
    size_t act_bytes = cpu_act_bytes(n_in, s.m->exact);
    float *x = malloc(n_in * sizeof(float));
    for (uint32_t i = 0; i < n_in; i++)
        x[i] = (float)(i * 7919 % 1013) / 500 - 1;
    uint8_t *act = aligned_alloc(64, ROWS_MAX * act_bytes);
    double t0 = cpu_seconds();
    for (uint32_t r = 0; r < ROWS_MAX; r++)
        cpu_act_prepare(x, n_in, s.m->exact, act + r * act_bytes);
    double prepare_s = cpu_seconds() - t0;
    s.act = act;
    s.dst = calloc((size_t)n_out * ROWS_MAX, sizeof(float));
    run_pack(&s, 0, 1);
    double packed = (double)(s.m->n_panels * s.m->panel_bytes);
    for (uint32_t threads = 1; threads <= THREADS_MAX; threads++) {
        double read_s = seconds(run_read, &s, threads) / s.n;
        s.n_rows = 1;
        double one_s = seconds(run_mul, &s, threads) / s.n;
        s.n_rows = 4;
        double four_s = seconds(run_mul, &s, threads) / s.n;
        struct set few = s;
        few.n = MIN(s.n, (uint32_t)(1 + 6000000 / n));
        double pack_s = seconds(run_pack, &few, threads) / few.n;
        few.n_rows = ROWS_MAX;
        double many_s = seconds(run_mul, &few, threads) / few.n;
        few.n_rows = 16;
        double sixteen_s = seconds(run_mul, &few, threads) / few.n;
        double gmacs = (double)n * 1e-9;
        printf("%-5s %5u x %-6u %6.3f %2u  %5.1f %5.1f %4.0f%% %5.1f  %6.1f %6.1f %4.0f%%  "
               "%5.2f %5.2f\n",
               q->name, n_in, n_out, packed * 8 / (double)n, threads,
               packed / read_s * 1e-9, packed / one_s * 1e-9, 100 * read_s / one_s,
               packed / four_s * 1e-9,
               16 * gmacs / sixteen_s, ROWS_MAX * gmacs / many_s,
               100 * ROWS_MAX * (double)n / many_s / (64 * hz * threads),
               packed / pack_s * 1e-9, (double)n_in * ROWS_MAX / prepare_s * 1e-9);
        fflush(stdout);
    }
    for (uint32_t i = 0; i < s.n; i++)
        cpu_mat_finish(&s.m[i]);
    free(s.m);
    free(s.dst);
    free(act);
    free(x);
    free(data);
}

int main(int argc, char **argv)
{
    static const char *const usual[] = { "q4_1", "q5_0", "q6_k", "q8_0", "q4_k", "f16" };
    int i = 1;
    if (argc > 2 && strcmp(argv[1], "-k") == 0) {
        if (cpu_kernels_force(argv[2]) != 0) {
            fprintf(stderr, "no kernels \"%s\" here\n", argv[2]);
            return 1;
        }
        i = 3;
    }
    double hz = clock_hz();
    printf("%s, %.2f GHz\n"
           "                   bits/       GB/s                   GMAC/s               Gweight/s\n"
           "format in x out    weight thr  read 1 row       4     16 rows   512  peak   "
           "pack GB/s prep\n",
           cpu_kernels_name(), hz * 1e-9);
    bool all = i == argc;
    for (size_t k = 0; k < (all ? ARRAY_LEN(usual) : (size_t)(argc - i)); k++) {
        const struct quant *q = quant_by_name(all ? usual[k] : argv[i + (int)k]);
        for (size_t j = 0; q && j < ARRAY_LEN(shapes); j++)
            bench(q, shapes[j].n_in, shapes[j].n_out, hz);
    }
    return 0;
}
