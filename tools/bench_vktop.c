// Speed of what the Vulkan executor picks out of rows of logits, for kinds of requests: what it
// adds to a step, next to its floor, the rows' bytes over the bandwidth, and what each kernel takes
// when it is timed alone.
//
// usage: bench_vktop [-d DEVICE] [-r ROWS] [-v VOCABULARY]
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "base/base.h"
#include "base/clock.h"
#include "engine/exec/vulkan/top.h"

#define WAIT_NS (60 * NS_PER_S)
#define ROWS_MAX 64
#define REPEATS 5
#define STEPS 20                        // one behind the other in a command buffer

static const struct kind { const char *name; struct out_want want; } kinds[] = {
    { "greedy", { .n_top = 1, .draw = -1 } },
    { "top_k 40", { .n_top = 40, .draw = -1 } },
    { "logprobs 20", { .n_top = 20, .lse = true, .draw = -1 } },
    { "top_p", { .n_top = OUT_TOP_MAX, .scale = 1.25f, .draw = -1 } },
    { "draw", { .n_top = 1, .scale = 1, .draw = 0.5 } },
};

static struct { const char *device; uint32_t rows, n_vocab; } options;
static struct vk *vk;

static void require(int r, const struct err *err)
{
    if (r == 0)
        return;
    fprintf(stderr, "bench_vktop: %s\n", err->msg);
    exit(1);
}

// ---- rows -------------------------------------------------------------------------------------

// About a normal distribution.
static float random_logit(void)
{
    float sum = 0;
    for (int i = 0; i < 6; i++)
        sum += (float)random() / (float)RAND_MAX;
    return (sum - 3) * 4;
}

static void fill_rows(struct vk_program *g, struct vk_cmd *c)
{
    struct err err;
    struct vk_mem host;
    size_t n = (size_t)ROWS_MAX * g->n_vocab;
    require(vk_alloc(vk, VK_HOME_HOST, n * sizeof(float), &host, &err), &err);
    for (size_t i = 0; i < n; i++)
        ((float *)host.map)[i] = random_logit();
    vk_cmd_begin(c);
    vk_copy(c, &g->top->rows, 0, &host, 0, host.bytes);
    require(vk_cmd_end(c, &err), &err);
    require(vk_run(vk, c, WAIT_NS, &err), &err);
    vk_free(vk, &host);
}

// ---- times ------------------------------------------------------------------------------------

static void record(struct vk_program *g, struct vk_cmd *c, uint32_t rows, const struct kind *kind)
{
    struct err err;
    struct out_want want[ROWS_MAX];
    struct batch b = { .n_out = rows, .want = want };
    for (uint32_t i = 0; i < rows; i++)
        want[i] = kind->want;
    g->batch = &b;
    *(struct step_head *)g->step.head.map = (struct step_head){ .n_out = rows };
    struct shape shape = { .n_out = rows, .outputs = vk_top_prepare(g) };
    g->batch = NULL;
    vk_cmd_begin(c);
    for (int i = 0; i < STEPS; i++)
        vk_top_record(g, c, &shape);
    require(vk_cmd_end(c, &err), &err);
}

static double best_us(struct vk_cmd *c)
{
    struct err err;
    uint64_t best_ns = UINT64_MAX;
    for (int i = 0; i < REPEATS; i++) {
        uint64_t start_ns = clock_now_ns();
        require(vk_run(vk, c, WAIT_NS, &err), &err);
        best_ns = MIN(best_ns, clock_now_ns() - start_ns);
    }
    return (double)best_ns / 1e3 / STEPS;
}

static void print_label(void *ctx, const char *label, uint64_t ns, uint64_t n)
{
    bool *prints = ctx;
    if (*prints && n > 0)
        printf(" %s %.2f", label, (double)ns / 1e3 / (double)n);
}

static void print_labels(struct vk_program *g, struct vk_cmd *c, uint32_t rows,
                         const struct kind *kind)
{
    struct err err;
    bool prints = false;
    vk_profile(vk, print_label, &prints);
    vk_profile_enable(vk, true);
    record(g, c, rows, kind);
    require(vk_run(vk, c, WAIT_NS, &err), &err);
    prints = true;
    vk_profile(vk, print_label, &prints);
    vk_profile_enable(vk, false);
}

static void bench(uint32_t n_vocab)
{
    struct err err;
    struct vk_cmd *c;
    struct vk_program g = { .vk = vk, .n_vocab = n_vocab, .params.outputs_max = ROWS_MAX };
    require(vk_alloc(vk, VK_HOME_UPLOAD, sizeof(struct step_head), &g.step.head, &err), &err);
    require(vk_top_init(&g, &err), &err);
    require(vk_cmd_create(vk, &c, &err), &err);
    fill_rows(&g, c);
    for (uint32_t rows = 1; rows <= ROWS_MAX; rows *= 8)
        for (unsigned k = 0; k < ARRAY_LEN(kinds); k++) {
            if (options.rows && rows != options.rows)
                continue;
            record(&g, c, rows, &kinds[k]);
            double us = best_us(c);
            printf("%6u tokens %2u rows %-11s %9.2f us %7.0f GB/s ", n_vocab, rows, kinds[k].name,
                   us, (double)rows * n_vocab * sizeof(float) / us / 1e3);
            print_labels(&g, c, rows, &kinds[k]);
            printf("\n");
            fflush(stdout);
        }
    vk_cmd_destroy(c);
    vk_top_finish(&g);
    vk_free(vk, &g.step.head);
}

// ---- main -------------------------------------------------------------------------------------

static void parse(int argc, char **argv)
{
    bool ok = true;
    for (int o; ok && (o = getopt(argc, argv, "d:r:v:")) != -1;)
        switch (o) {
        case 'd': options.device = optarg; break;
        case 'r': ok = sscanf(optarg, "%u", &options.rows) == 1; break;
        case 'v': ok = sscanf(optarg, "%u", &options.n_vocab) == 1 && options.n_vocab > 0; break;
        default: ok = false;
        }
    if (ok && optind == argc)
        return;
    fprintf(stderr, "usage: bench_vktop [-d DEVICE] [-r ROWS] [-v VOCABULARY]\n");
    exit(2);
}

int main(int argc, char **argv)
{
    static const uint32_t sizes[] = { 32000, 128256, 262144 };
    struct err err;
    parse(argc, argv);
    require(vk_open(&vk, options.device, &err), &err);
    printf("%s\n", vk_info(vk)->name);
    for (unsigned i = 0; !options.n_vocab && i < ARRAY_LEN(sizes); i++)
        bench(sizes[i]);
    if (options.n_vocab)
        bench(options.n_vocab);
    vk_close(vk);
    return 0;
}
