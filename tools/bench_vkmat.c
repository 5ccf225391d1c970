// Speed of weights and products of the Vulkan executor: what the load gives, and for each format,
// shape and number of rows what a product takes next to its floor, the matrix's bytes over the
// bandwidth. Matrices of a chain add up to more than a cache holds; each product waits for the one
// before, as in a model.
//
// usage: bench_vkmat [-d DEVICE] [-f FORMAT] [-r ROWS] [-s N_INxN_OUT]
//                    [-c OUTS,TEAMS,DEPTH] [-b ROWS] [-t ROWS,OUTS,DEPTH,SPLIT] | -m
//   -c  other cuts of vectors than usual (struct vk_matmul_choice)
//   -b  on matrices of bytes from so many rows on, 0: never; without it as usual
//   -t  other cuts of these than usual (struct vk_bytes_cut)
//   -m  rows of prompts, on matrix units where the device has them
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include "base/clock.h"
#include "engine/exec/vulkan/matmul.h"
#include "engine/exec/vulkan/weights.h"
#include "tests/blocks.h"

#define WAIT_NS (60 * NS_PER_S)
#define CHAIN_BYTES ((size_t)384 << 20)
#define CHAIN_OPS_MAX 64
#define ROWS_MAX 64                     // of generated tokens
#define PROMPT_ROWS_MIN 512             // and of prompts
#define PROMPT_ROWS_MAX 2048
#define REPEATS 5
#define LABELS_MAX 8

struct size { uint32_t n_in, n_out; };

static struct {
    const char *device, *format;
    uint32_t    rows;
    struct size size;
    struct vk_matmul_choice choice;
    bool        matrix;
} options;

static struct vk *vk;

static uint32_t rows_max(void)
{
    return options.matrix ? PROMPT_ROWS_MAX : ROWS_MAX;
}

static void require(int r, const struct err *err)
{
    if (r == 0)
        return;
    fprintf(stderr, "bench_vkmat: %s\n", err->msg);
    exit(1);
}

// ---- a chain of products ----------------------------------------------------------------------

struct chain {
    struct plan   plan;
    struct op     op[CHAIN_OPS_MAX];
    struct vk_op  vk_op[CHAIN_OPS_MAX];
    struct tensor tensor[CHAIN_OPS_MAX];        // all of the same bytes in the file
    struct vk_program g;
    struct vk_cmd *cmd;
    uint8_t       *data;
    size_t         mat_bytes;
};

static void chain_init(struct chain *c, const struct quant *q, struct size size)
{
    *c = (struct chain){ .plan.op = c->op };
    size_t n_blocks = (size_t)size.n_in * size.n_out / q->block_elems;
    c->mat_bytes = n_blocks * q->block_bytes;
    c->data = malloc(c->mat_bytes);
    if (!c->data)
        exit(1);
    blocks_fill(q, c->data, n_blocks);
    c->plan.n_ops = (uint32_t)CLAMP(CHAIN_BYTES / c->mat_bytes, (size_t)1, (size_t)CHAIN_OPS_MAX);
    c->plan.slot_width[SLOT_H] = size.n_in;
    c->plan.slot_width[SLOT_Q] = size.n_out;
    for (uint32_t i = 0; i < c->plan.n_ops; i++) {
        c->tensor[i] = (struct tensor){
            .name = "bench", .quant = q, .dim = { size.n_in, size.n_out, 1, 1 }, .n_dims = 2,
            .data = c->data, .bytes = c->mat_bytes,
        };
        c->op[i] = (struct op){ .kind = OP_MATMUL, .n_w = 1, .w = { &c->tensor[i] },
                                .src = { SLOT_H }, .dst = { SLOT_Q } };
        c->vk_op[i].op = &c->op[i];
    }
}

static void chain_take(struct chain *c)
{
    struct err err;
    struct vk_program *g = &c->g;
    g->vk = vk;
    g->plan = &c->plan;
    g->op = c->vk_op;
    g->params.rows_max = g->params.outputs_max = rows_max();
    for (unsigned s = 0; s < SLOT_COUNT; s++) {
        g->stride[s] = ALIGN_UP(c->plan.slot_width[s], 32u);
        if (g->stride[s])
            require(vk_alloc(vk, VK_HOME_DEVICE, rows_max() * g->stride[s] * sizeof(float),
                             &g->slot[s], &err), &err);
    }
    require(vk_alloc(vk, VK_HOME_UPLOAD, sizeof(struct step_head), &g->step.head, &err), &err);
    require(vk_cmd_create(vk, &c->cmd, &err), &err);
    require(vk_weights_init(g, &err), &err);
    if (options.matrix)
        require(vk_matmul_init(g, &err), &err);
    else
        require(vk_matmul_take(g, &options.choice, &err), &err);
}

static void chain_finish(struct chain *c)
{
    vk_cmd_destroy(c->cmd);
    vk_matmul_finish(&c->g);
    vk_weights_finish(&c->g);
    for (unsigned s = 0; s < SLOT_COUNT; s++)
        vk_free(vk, &c->g.slot[s]);
    vk_free(vk, &c->g.step.head);
    free(c->data);
}

static void record(struct chain *c, uint32_t rows)
{
    struct err err;
    uint32_t n_decode = options.matrix ? 0 : rows;
    struct shape shape = { .n_decode = n_decode, .n_prompt = rows - n_decode };
    *(struct step_head *)c->g.step.head.map =
        (struct step_head){ .n_rows = rows, .n_decode = n_decode };
    vk_cmd_begin(c->cmd);
    for (uint32_t i = 0; i < c->plan.n_ops; i++)
        vk_matmul_record(&c->g, c->cmd, &c->vk_op[i], &shape);
    require(vk_cmd_end(c->cmd, &err), &err);
}

// Best of a few; of one product with its inputs.
static double time_us(struct chain *c)
{
    struct err err;
    uint64_t best_ns = UINT64_MAX;
    for (int i = 0; i < REPEATS + 1; i++) {
        uint64_t start_ns = clock_now_ns();
        require(vk_run(vk, c->cmd, WAIT_NS, &err), &err);
        if (i > 0)
            best_ns = MIN(best_ns, clock_now_ns() - start_ns);
    }
    return (double)best_ns / 1e3 / c->plan.n_ops;
}

struct label { const char *name; double us; };
struct labels { struct label item[LABELS_MAX]; unsigned n; };

static void add_label(void *ctx, const char *label, uint64_t ns, uint64_t n)
{
    struct labels *l = ctx;
    if (l->n < LABELS_MAX && n > 0)
        l->item[l->n++] = (struct label){ label, (double)ns / 1e3 / (double)n };
}

static void print_rows(struct chain *c, const char *format, struct size size, uint32_t rows)
{
    struct err err;
    struct labels labels = {0}, drop = {0};
    record(c, rows);
    double us = time_us(c);
    printf("%-5s %6u x %6u %5u rows %9.2f us %7.0f GB/s %4.0f T/s  ", format, size.n_in,
           size.n_out, rows, us, (double)c->mat_bytes / us / 1e3,
           2e-6 * size.n_in * size.n_out * rows / us);
    vk_profile(vk, add_label, &drop);
    vk_profile_enable(vk, true);
    record(c, rows);
    for (int i = 0; i < 3; i++)
        require(vk_run(vk, c->cmd, WAIT_NS, &err), &err);
    vk_profile(vk, add_label, &labels);
    vk_profile_enable(vk, false);
    for (unsigned i = 0; i < labels.n; i++)
        printf(" %s %.2f", labels.item[i].name, labels.item[i].us);
    printf("\n");
    fflush(stdout);
}

static void bench(const struct quant *q, struct size size)
{
    static struct chain c;
    chain_init(&c, q, size);
    uint64_t start_ns = clock_now_ns();
    chain_take(&c);
    double s = (double)(clock_now_ns() - start_ns) / 1e9;
    printf("%-5s %6u x %6u load %.2f GB/s, with kernels\n", q->name, size.n_in, size.n_out,
           (double)c.mat_bytes * c.plan.n_ops / s / 1e9);
    for (uint32_t rows = options.matrix ? PROMPT_ROWS_MIN : 1; rows <= rows_max(); rows *= 2)
        if (!options.rows || rows == options.rows)
            print_rows(&c, q->name, size, rows);
    chain_finish(&c);
}

// ---- main -------------------------------------------------------------------------------------

static bool parse_cut(const char *s, struct vk_bytes_cut *c)
{
    return sscanf(s, "%u,%u,%u,%u", &c->rows, &c->outs, &c->depth, &c->split) == 4;
}

static void parse(int argc, char **argv)
{
    options.choice.bytes_from = VK_BYTES_FROM;
    bool ok = true;
    for (int o; ok && (o = getopt(argc, argv, "d:f:r:s:c:b:t:m")) != -1;)
        switch (o) {
        case 'd': options.device = optarg; break;
        case 'f': options.format = optarg; break;
        case 'r': ok = sscanf(optarg, "%u", &options.rows) == 1; break;
        case 's': ok = sscanf(optarg, "%ux%u", &options.size.n_in, &options.size.n_out) == 2; break;
        case 'c':
            ok = sscanf(optarg, "%u,%u,%u", &options.choice.outs, &options.choice.teams,
                        &options.choice.depth) == 3;
            break;
        case 'b': ok = sscanf(optarg, "%u", &options.choice.bytes_from) == 1; break;
        case 't': ok = parse_cut(optarg, &options.choice.cut); break;
        case 'm': options.matrix = true; break;
        default: ok = false;
        }
    if (ok && optind == argc)
        return;
    fprintf(stderr, "usage: bench_vkmat [-d DEVICE] [-f FORMAT] [-r ROWS] [-s N_INxN_OUT] "
                    "[-c OUTS,TEAMS,DEPTH] [-b ROWS] [-t ROWS,OUTS,DEPTH,SPLIT] | -m\n");
    exit(2);
}

int main(int argc, char **argv)
{
    static const enum quant_id format[] = { QUANT_q4_k, QUANT_q6_k, QUANT_q8_0, QUANT_q4_0,
                                            QUANT_bf16 };
    static const struct size sizes[] = { { 4096, 4096 }, { 4096, 14336 }, { 14336, 4096 } };
    struct err err;
    parse(argc, argv);
    require(vk_open(&vk, options.device, &err), &err);
    options.choice.int_dot = vk_kernel_runs(vk, KERNEL_matvec_dot + QUANT_q4_0);
    options.choice.wide = vk_info(vk)->subgroup > 8;
    printf("%s, %s\n", vk_info(vk)->name, options.matrix ? "matrix units" :
           options.choice.int_dot ? "integer dot products" : "plain");
    for (unsigned i = 0; i < ARRAY_LEN(format); i++)
        for (unsigned k = 0; k < ARRAY_LEN(sizes); k++) {
            const struct quant *q = &quants[format[i]];
            if (options.format && strcmp(options.format, q->name) != 0)
                continue;
            if (options.size.n_in == 0)
                bench(q, sizes[k]);
            else if (k == 0)
                bench(q, options.size);
        }
    vk_close(vk);
    return 0;
}
