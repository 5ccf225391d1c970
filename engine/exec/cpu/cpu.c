// The CPU executor's table: the plan on a pool of threads, with kernels chosen at start.
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "engine/exec/cpu/cpu.h"
#include "base/base.h"

static int cpu_open(struct executor **ret, const struct executor_params *p, struct err *err)
{
    if (p->device_arg)
        return err_set(err, -EINVAL, "the cpu is one device, not \"%.80s\"", p->device_arg);
    struct cpu_executor *c = calloc(1, sizeof(*c));
    if (!c)
        return err_set(err, -ENOMEM, "no memory for an executor");
    *c = (struct cpu_executor){
        .x.ops = &executor_cpu, .vec = vec_best(), .exact = p->exact,
    };
    int r = pool_create(&c->pool, p->threads, err);
    if (r) {
        free(c);
        return r;
    }
    *ret = &c->x;
    return 0;
}

static void cpu_close(struct executor *x)
{
    if (!x)
        return;
    struct cpu_executor *c = container_of(x, struct cpu_executor, x);
    pool_destroy(c->pool);
    free(c);
}

static void cpu_describe(const struct executor *x, char *buf, size_t size)
{
    const struct cpu_executor *c = container_of(x, const struct cpu_executor, x);
    uint32_t n = pool_threads(c->pool);
    snprintf(buf, size, "cpu: %u thread%s, %s%s", n, n == 1 ? "" : "s", cpu_kernels_name(),
             c->exact ? ", exact" : "");
}

// Any number of threads gives the same bits.
static void cpu_arithmetic(const struct executor *x, char *buf, size_t size)
{
    (void)x;
    snprintf(buf, size, "cpu: %s", cpu_kernels_name());
}

// The step ran in submit().
static int cpu_wait(struct program *p, uint64_t timeout_ns, struct err *err)
{
    (void)p, (void)timeout_ns, (void)err;
    return 0;
}

static int cpu_slot_read(struct program *p, enum slot s, uint32_t row0, uint32_t n_rows, float *dst)
{
    const struct cpu_program *g = container_of(p, struct cpu_program, p);
    size_t width = g->plan->slot_width[s];
    assert(row0 + n_rows <= g->params.rows_max);
    for (uint32_t i = 0; i < n_rows; i++)
        memcpy(dst + i * width, slot_row(g, s, row0 + i), width * sizeof(float));
    return 0;
}

static int cpu_slot_write(struct program *p, enum slot s, uint32_t row0, uint32_t n_rows,
                          const float *src)
{
    const struct cpu_program *g = container_of(p, struct cpu_program, p);
    size_t width = g->plan->slot_width[s];
    assert(row0 + n_rows <= g->params.rows_max);
    for (uint32_t i = 0; i < n_rows; i++)
        memcpy(slot_row(g, s, row0 + i), src + i * width, width * sizeof(float));
    return 0;
}

const struct executor_ops executor_cpu = {
    .name = "cpu",
    .open = cpu_open,
    .close = cpu_close,
    .describe = cpu_describe,
    .arithmetic = cpu_arithmetic,
    .load = cpu_load,
    .unload = cpu_unload,
    .kv_alloc = cpu_kv_alloc,
    .kv_copy = cpu_kv_copy,
    .kv_read = cpu_kv_read,
    .kv_write = cpu_kv_write,
    .kv_page = cpu_kv_page,
    .kv_backed = cpu_kv_backed,
    .kv_write_digests = cpu_kv_write_digests,
    .kv_page_stats = cpu_kv_page_stats,
    .submit = cpu_submit,
    .wait = cpu_wait,
    .slot_read = cpu_slot_read,
    .slot_write = cpu_slot_write,
};
