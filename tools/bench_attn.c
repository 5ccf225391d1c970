// Attention of the three test models' shapes on this machine's CPU: what decode reads a second and
// what prefill multiplies a second, each beside its floor.
//
// usage: bench_attn [THREADS [RUNS]]
// decode:  one row at a depth, all layers. Floor: the KV bytes it must read over what the threads
//          read from memory in a plain loop.
// prefill: 512 rows that end at a depth, causal. Floor: the multiply-adds over the threads' peak of
//          fused multiply-adds.
// Times are the best of RUNS. With one thread they are processor time, which other programs on the
// machine disturb less.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "base/base.h"
#include "base/clock.h"
#include "engine/exec/cpu/pool.h"
#include "engine/exec/executor.h"
#ifdef __x86_64__
#include <immintrin.h>
#endif

#define CHUNK 512
#define DEPTH_MAX 8192
#define LAYERS 32
#define PREFILL_LAYERS 2            // the same work each; enough to time
#define READ_BYTES ((size_t)256 << 20)
#define FMA_ROUNDS 20000000

struct shape { const char *name; uint32_t layers, heads, kv_heads, dim; };

static const struct shape shapes[] = {
    { "SmolLM2-135M", 30, 9, 3, 64 },
    { "Qwen2.5-0.5B", 24, 14, 2, 64 },
    { "Gemma-3-270M global", 3, 4, 1, 256 },
};

static uint32_t n_threads, n_runs = 7;

static uint64_t now_ns(void)
{
    if (n_threads != 1)
        return clock_now_ns();
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}

// ---- the machine ------------------------------------------------------------------------------

struct machine { struct pool *pool; uint64_t *memory; uint64_t sum; };

static void read_memory(void *ctx, uint32_t thread)
{
    struct machine *m = ctx;
    size_t n = READ_BYTES / sizeof(uint64_t) / pool_threads(m->pool);
    const uint64_t *p = m->memory + thread * n;
    uint64_t a[8] = {0};
    for (size_t i = 0; i + 8 <= n; i += 8)
        for (int k = 0; k < 8; k++)
            a[k] += p[i + k];
    __atomic_fetch_add(&m->sum, a[0] + a[1] + a[2] + a[3] + a[4] + a[5] + a[6] + a[7],
                       __ATOMIC_RELAXED);
}

#ifdef __x86_64__
__attribute__((target("avx2,fma"))) static float fma_loop(void)
{
    __m256 x = _mm256_set1_ps(0.999f), a[12];
    for (int k = 0; k < 12; k++)
        a[k] = _mm256_set1_ps((float)k);
    for (int i = 0; i < FMA_ROUNDS / 12; i++)
        for (int k = 0; k < 12; k++)
            a[k] = _mm256_fmadd_ps(a[k], x, x);
    for (int k = 1; k < 12; k++)
        a[0] = _mm256_add_ps(a[0], a[k]);
    return _mm256_cvtss_f32(a[0]);
}
#endif

static void multiply(void *ctx, uint32_t thread)
{
    (void)thread;
    struct machine *m = ctx;
#ifdef __x86_64__
    if (__builtin_cpu_supports("fma") && __builtin_cpu_supports("avx2"))
        __atomic_fetch_add(&m->sum, (uint64_t)fma_loop(), __ATOMIC_RELAXED);
#else
    (void)m;
#endif
}

static double best_ns(struct machine *m, void (*fn)(void *, uint32_t))
{
    uint64_t best = UINT64_MAX;
    for (uint32_t i = 0; i < n_runs; i++) {
        uint64_t begin = now_ns();
        pool_run(m->pool, fn, m);
        best = MIN(best, now_ns() - begin);
    }
    return (double)best;
}

// Bytes and floating-point operations a nanosecond.
static int measure_machine(double *read_rate, double *flop_rate)
{
    struct err err;
    struct machine m = { .memory = malloc(READ_BYTES) };
    if (!m.memory || pool_create(&m.pool, n_threads, &err))
        return 1;
    n_threads = pool_threads(m.pool);
    memset(m.memory, 1, READ_BYTES);
    *read_rate = READ_BYTES / best_ns(&m, read_memory);
    *flop_rate = (double)n_threads * (FMA_ROUNDS / 12 * 12) * 16 / best_ns(&m, multiply);
    pool_destroy(m.pool);
    free(m.memory);
    return 0;
}

// ---- attention --------------------------------------------------------------------------------

struct bench {
    struct model     model;
    struct op        op[2 * LAYERS];
    struct plan      plan;
    struct executor *x;
    struct program  *g;
    struct kv_layout layout;
    uint32_t         table[DEPTH_MAX / KV_BLOCK_TOKENS + 1];
};

static void build(struct bench *b, const struct shape *s)
{
    struct model_cfg *c = &b->model.cfg;
    *b = (struct bench){0};
    c->n_layers = s->layers;
    c->n_heads = s->heads;
    c->n_kv_heads = s->kv_heads;
    c->head_dim = s->dim;
    b->plan.op = b->op;
    for (uint32_t i = 0; i < s->layers; i++) {
        b->op[b->plan.n_ops++] = (struct op){
            .kind = OP_KV_WRITE, .layer = (uint16_t)i, .src = { SLOT_K, SLOT_V },
        };
        b->op[b->plan.n_ops++] = (struct op){
            .kind = OP_ATTN, .layer = (uint16_t)i, .dst = { SLOT_A }, .src = { SLOT_Q },
            .attn = { .scale = 1.0f / sqrtf((float)s->dim) },
        };
    }
    uint32_t *w = b->plan.slot_width;
    w[SLOT_Q] = w[SLOT_A] = s->heads * s->dim;
    w[SLOT_K] = w[SLOT_V] = s->kv_heads * s->dim;
    for (uint32_t i = 0; i < ARRAY_LEN(b->table); i++)
        b->table[i] = i;
}

static int open_bench(struct bench *b, const struct shape *s, enum kv_type type, struct err *err)
{
    build(b, s);
    struct executor_params xp = { .threads = n_threads };
    struct load_params lp = { CHUNK, 1, 1, type, type, NULL, NULL };
    int r = executor_cpu.open(&b->x, &xp, err);
    if (!r)
        r = b->x->ops->load(b->x, &b->model, &b->plan, &lp, &b->g, err);
    if (!r)
        r = b->x->ops->kv_alloc(b->g, ARRAY_LEN(b->table), &b->layout, err);
    if (r)
        return r;
    size_t n = (size_t)CHUNK * s->heads * s->dim;
    float *x = malloc(n * sizeof(float));
    for (size_t i = 0; i < n; i++)
        x[i] = (float)(i * 2654435761u % 1024) / 512.0f - 1.0f;
    for (enum slot slot = SLOT_Q; slot <= SLOT_V; slot++)
        b->x->ops->slot_write(b->g, slot, 0, CHUNK, x);
    free(x);
    return 0;
}

static void close_bench(struct bench *b)
{
    if (b->g)
        b->x->ops->unload(b->g);
    if (b->x)
        b->x->ops->close(b->x);
}

static double step_ns(struct bench *b, uint32_t pos0, uint32_t n_rows, struct attn_policy attn)
{
    struct err err;
    struct batch_seq seq = {
        .block = b->table, .n_blocks = ARRAY_LEN(b->table), .n_rows = n_rows, .pos0 = pos0,
        .decode = n_rows == 1, .attn = attn,
    };
    struct batch batch = { .n_rows = n_rows, .n_seqs = 1, .seq = &seq };
    uint64_t begin = now_ns();
    if (b->x->ops->submit(b->g, &batch, &err) || b->x->ops->wait(b->g, UINT64_MAX, &err))
        return INFINITY;
    return (double)(now_ns() - begin);
}

static double best_step_ns(struct bench *b, uint32_t pos0, uint32_t n_rows,
                           struct attn_policy attn)
{
    double best = INFINITY;
    for (uint32_t i = 0; i < n_runs; i++)
        best = fmin(best, step_ns(b, pos0, n_rows, attn));
    return best;
}

static void bench_decode(struct bench *b, uint32_t depth, struct attn_policy attn,
                         double read_rate)
{
    double ns = best_step_ns(b, depth - 1, 1, attn);
    uint32_t tokens = attn.selector == SELECT_topk ? MIN(depth, attn.budget_tokens) : depth;
    double bytes = (double)b->layout.n_layers * b->layout.n_kv_heads *
                   (double)b->layout.head_bytes / KV_BLOCK_TOKENS * tokens;
    printf("  decode  %5s at %4u, %-5s %8.3f ms  %5.1f GB/s  %4.2f x the floor\n",
           kv_type_name(b->layout.k_type), depth, selectors[attn.selector].name, ns / 1e6,
           bytes / ns, ns / (bytes / read_rate));
}

static void bench_prefill(struct bench *b, uint32_t depth, double flop_rate)
{
    double ns = best_step_ns(b, depth - CHUNK, CHUNK, attn_policy_dense());
    const struct model_cfg *c = &b->model.cfg;
    double pairs = (double)CHUNK * (depth - CHUNK) + CHUNK * (CHUNK + 1) / 2.0;
    double flops = 4.0 * pairs * c->n_heads * c->head_dim * c->n_layers;
    printf("  prefill %5s to %4u        %8.1f ms  %5.1f GFLOP/s  %3.0f %% of the peak\n",
           kv_type_name(b->layout.k_type), depth, ns / 1e6, flops / ns,
           100 * flops / ns / flop_rate);
}

// Opens the first n_layers of a shape with every block filled.
static int open_filled(struct bench *b, const struct shape *s, uint32_t n_layers,
                       enum kv_type type)
{
    struct err err;
    struct shape part = *s;
    part.layers = n_layers;
    int r = open_bench(b, &part, type, &err);
    if (r)
        fprintf(stderr, "%s\n", err.msg);
    for (uint32_t pos = 0; r == 0 && pos < DEPTH_MAX; pos += CHUNK)
        step_ns(b, pos, CHUNK, (struct attn_policy){ SELECT_window, 0, 1, 0 });
    return r;
}

static int bench_shape(const struct shape *s, enum kv_type type, double read_rate,
                       double flop_rate)
{
    struct bench b = {0};
    struct attn_policy dense = attn_policy_dense(), topk = { SELECT_topk, 1024, 0, 64 };
    int r = open_filled(&b, s, s->layers, type);
    if (r == 0) {
        bench_decode(&b, 512, dense, read_rate);
        bench_decode(&b, 4096, dense, read_rate);
        bench_decode(&b, 8192, dense, read_rate);
        bench_decode(&b, 8192, topk, read_rate);
    }
    close_bench(&b);
    if (r == 0)
        r = open_filled(&b, s, PREFILL_LAYERS, type);
    if (r == 0) {
        bench_prefill(&b, 2048, flop_rate);
        bench_prefill(&b, 8192, flop_rate);
        close_bench(&b);
    }
    return r;
}

int main(int argc, char **argv)
{
    double read_rate, flop_rate;
    n_threads = argc > 1 ? (uint32_t)strtoul(argv[1], NULL, 10) : 0;
    n_runs = argc > 2 ? (uint32_t)strtoul(argv[2], NULL, 10) : n_runs;
    if (measure_machine(&read_rate, &flop_rate))
        return 1;
    printf("%u threads: memory %.1f GB/s, peak %.0f GFLOP/s\n", n_threads, read_rate, flop_rate);
    for (unsigned i = 0; i < ARRAY_LEN(shapes); i++)
        for (enum kv_type type = KV_F16; type <= KV_Q8_0; type++) {
            printf("%s: %u layers, %u heads, %u KV heads of %u\n", shapes[i].name,
                   shapes[i].layers, shapes[i].heads, shapes[i].kv_heads, shapes[i].dim);
            if (bench_shape(&shapes[i], type, read_rate, flop_rate))
                return 1;
        }
    return 0;
}
