// Attention of the Vulkan executor in a model's shape: rows of generated tokens at a depth, beside
// their floor, the KV bytes they must read over the bandwidth; and rows of a prompt, beside the
// multiply-adds they need. Keys and values are random; each step is LAYERS layers of KV_WRITE and
// ATTN and nothing else.
//
// usage: bench_vkattn [-d DEVICE] [-g HEADS/KV_HEADSxDIM] [-k TYPE] [-n DEPTH] [-s STREAMS]
//                     [-t BUDGET] [-r PROMPT_ROWS] [-p]
//   without -n: depths of 1k, 4k, 32k and 128k, dense and with topk of 4096
//   -p  also what each kernel takes, measured with the others waiting
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "base/base.h"
#include "base/clock.h"
#include "engine/exec/executor.h"

#define LAYERS 8                        // together more than a cache holds, from a few k tokens on
#define ROWS_MAX 2048
#define STREAMS_MAX 64
#define REPEATS 7
#define WAIT_NS (60 * NS_PER_S)

static struct {
    const char *device;
    uint32_t    heads, kv_heads, dim, depth, streams, budget, rows;
    enum kv_type type;
    bool        profile;
} opt = { .heads = 32, .kv_heads = 8, .dim = 128, .streams = 1, .rows = 512, .type = KV_F16 };

static struct model model;
static struct op ops[2 * LAYERS];
static struct plan plan = { .op = ops, .n_ops = 2 * LAYERS };
static struct executor *x;
static struct program *g;
static struct kv_layout layout;

static void require(int r, const struct err *err)
{
    if (r == 0)
        return;
    fprintf(stderr, "bench_vkattn: %s\n", err->msg);
    exit(1);
}

static void make_plan(void)
{
    model.cfg = (struct model_cfg){
        .n_layers = LAYERS, .n_heads = opt.heads, .n_kv_heads = opt.kv_heads, .head_dim = opt.dim };
    for (uint16_t i = 0; i < LAYERS; i++) {
        ops[2 * i] = (struct op){ .kind = OP_KV_WRITE, .layer = i, .src = { SLOT_K, SLOT_V } };
        ops[2 * i + 1] = (struct op){ .kind = OP_ATTN, .layer = i, .src = { SLOT_Q },
                                      .dst = { SLOT_A } };
        ops[2 * i + 1].attn.scale = 1.0f / sqrtf((float)opt.dim);
    }
    plan.slot_width[SLOT_Q] = plan.slot_width[SLOT_A] = opt.heads * opt.dim;
    plan.slot_width[SLOT_K] = plan.slot_width[SLOT_V] = opt.kv_heads * opt.dim;
}

static float random_float(void)
{
    static uint32_t seed = 1;
    float sum = 0;
    for (int i = 0; i < 4; i++) {
        seed = seed * 1664525 + 1013904223;
        sum += (float)(seed >> 8) / 8388608.0f - 1.0f;
    }
    return sum * 0.87f;
}

static void fill_slots(void)
{
    static const enum slot slots[] = { SLOT_Q, SLOT_K, SLOT_V };
    for (unsigned s = 0; s < ARRAY_LEN(slots); s++) {
        uint32_t width = plan.slot_width[slots[s]];
        float *row = malloc(width * sizeof(float));
        for (uint32_t i = 0; i < ROWS_MAX; i++) {
            for (uint32_t k = 0; k < width; k++)
                row[k] = random_float();
            x->ops->slot_write(g, slots[s], i, 1, row);
        }
        free(row);
    }
}

static void open_program(uint32_t n_blocks)
{
    struct err err;
    struct executor_params p = { .device_arg = opt.device };
    struct load_params lp = {
        .rows_max = ROWS_MAX, .seqs_max = STREAMS_MAX, .outputs_max = 1, .k_type = opt.type,
        .v_type = opt.type,
    };
    make_plan();
    if (!x)
        require(executor_vulkan.open(&x, &p, &err), &err);
    require(x->ops->load(x, &model, &plan, &lp, &g, &err), &err);
    require(x->ops->kv_alloc(g, n_blocks, &layout, &err), &err);
    fill_slots();
}

// One block that the executor wrote, then copies of it: what is read matters little, where from
// does.
static void fill_blocks(uint32_t n_blocks)
{
    struct err err;
    uint32_t block = 0;
    struct batch_seq seq = { .block = &block, .n_blocks = 1, .n_rows = KV_BLOCK_TOKENS };
    struct batch b = { .n_rows = KV_BLOCK_TOKENS, .n_seqs = 1, .seq = &seq };
    require(x->ops->submit(g, &b, &err), &err);
    require(x->ops->wait(g, WAIT_NS, &err), &err);
    for (uint32_t i = 1; i < n_blocks; i++)
        x->ops->kv_copy(g, i, 0);
}

static double step_seconds(struct batch *b)
{
    struct err err;
    double best = 1e9;
    for (int i = 0; i < REPEATS; i++) {
        uint64_t t0 = clock_now_ns();
        require(x->ops->submit(g, b, &err), &err);
        require(x->ops->wait(g, WAIT_NS, &err), &err);
        best = fmin(best, (double)(clock_now_ns() - t0) * 1e-9);
    }
    return best;
}

static void print_label(void *ctx, const char *label, uint64_t ns, uint64_t n)
{
    (void)ctx;
    if (n)
        printf("    %-16s %8.2f us\n", label, (double)ns * 1e-3 / (double)n);
}

static void print_profile(struct batch *b)
{
    if (!opt.profile)
        return;
    x->ops->profile(g, true, NULL, NULL);
    step_seconds(b);
    x->ops->profile(g, false, print_label, NULL);
}

// Rows of `streams` sequences at a depth, one each, or n_rows of one prompt.
static void measure(uint32_t depth, uint32_t streams, uint32_t n_rows, struct attn_policy attn)
{
    uint32_t n_blocks = DIV_UP(depth + n_rows, KV_BLOCK_TOKENS);
    uint32_t *table = malloc((size_t)streams * n_blocks * sizeof(uint32_t));
    struct batch_seq seq[STREAMS_MAX];
    for (uint32_t i = 0; i < streams * n_blocks; i++)
        table[i] = i;
    for (uint32_t i = 0; i < streams; i++)
        seq[i] = (struct batch_seq){
            .block = table + (size_t)i * n_blocks, .n_blocks = n_blocks, .row0 = i,
            .n_rows = n_rows, .pos0 = depth, .decode = n_rows == 1, .attn = attn,
        };
    struct batch b = { .n_rows = streams * n_rows, .n_seqs = streams, .seq = seq };
    open_program(streams * n_blocks);
    fill_blocks(streams * n_blocks);
    double us = step_seconds(&b) * 1e6 / LAYERS;
    double blocks = (double)seq[0].blocks_read * streams / LAYERS / opt.kv_heads;
    double bytes = blocks * (double)layout.head_bytes * opt.kv_heads;
    double flops = blocks * KV_BLOCK_TOKENS * 4.0 * opt.heads * opt.dim;
    printf("%-5s depth %7u, %3u %-8s %9.1f us a layer, ", selectors[attn.selector].name, depth,
           n_rows > 1 ? n_rows : streams, n_rows > 1 ? "rows:" : "streams:", us);
    if (n_rows > 1)
        printf("%7.1f TFLOP/s\n", flops / us * 1e-6);
    else
        printf("%7.1f GB/s\n", bytes / us * 1e-3);
    print_profile(&b);
    fflush(stdout);
    x->ops->unload(g);
    free(table);
}

static void measure_all(uint32_t depth)
{
    struct attn_policy topk = { SELECT_topk, opt.budget ? opt.budget : 4096, 0, 64 };
    measure(depth, opt.streams, 1, attn_policy_dense());
    if (depth > topk.budget_tokens)
        measure(depth, opt.streams, 1, topk);
    if (!opt.rows)
        return;
    measure(depth, 1, opt.rows, attn_policy_dense());
    if (depth > topk.budget_tokens)
        measure(depth, 1, opt.rows, topk);
}

static bool parse(int argc, char **argv)
{
    for (int c; (c = getopt(argc, argv, "d:g:k:n:s:t:r:p")) != -1;)
        switch (c) {
        case 'd': opt.device = optarg; break;
        case 'g':
            if (sscanf(optarg, "%u/%ux%u", &opt.heads, &opt.kv_heads, &opt.dim) != 3)
                return false;
            break;
        case 'k':
            if (kv_type_parse(optarg, &opt.type))
                return false;
            break;
        case 'n': opt.depth = (uint32_t)strtoul(optarg, NULL, 10); break;
        case 's': opt.streams = (uint32_t)strtoul(optarg, NULL, 10); break;
        case 't': opt.budget = (uint32_t)strtoul(optarg, NULL, 10); break;
        case 'r': opt.rows = (uint32_t)strtoul(optarg, NULL, 10); break;
        case 'p': opt.profile = true; break;
        default: return false;
        }
    return opt.streams > 0 && opt.streams <= STREAMS_MAX && opt.rows <= ROWS_MAX &&
           opt.kv_heads > 0 && opt.heads % opt.kv_heads == 0;
}

int main(int argc, char **argv)
{
    static const uint32_t depths[] = { 1024, 4096, 32768, 131072 };
    if (!parse(argc, argv)) {
        fprintf(stderr, "usage: bench_vkattn [-d DEVICE] [-g HEADS/KV_HEADSxDIM] [-k TYPE] "
                        "[-n DEPTH] [-s STREAMS] [-t BUDGET] [-r PROMPT_ROWS] [-p]\n");
        return 2;
    }
    for (unsigned i = 0; i < ARRAY_LEN(depths); i++)
        if (!opt.depth || i == 0)
            measure_all(opt.depth ? opt.depth : depths[i]);
    if (x)
        x->ops->close(x);
    return 0;
}
