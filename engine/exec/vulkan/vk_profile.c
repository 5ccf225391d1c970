// Times of operations: a timestamp after each, in pools that a command buffer resets when it runs,
// summed by label once it has run.
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "base/base.h"
#include "engine/exec/vulkan/vk_int.h"

void vk_profile_enable(struct vk *vk, bool on)
{
    vk->profiling = on && vk->caps.info.timestamps;
}

// ---- recording --------------------------------------------------------------------------------

static int add_pool(struct vk *vk, struct vk_times *t)
{
    const VkQueryPoolCreateInfo info = {
        .sType = VK_STRUCTURE_TYPE_QUERY_POOL_CREATE_INFO,
        .queryType = VK_QUERY_TYPE_TIMESTAMP,
        .queryCount = VK_TIMES_PER_POOL,
    };
    VkQueryPool *pool = realloc(t->pool, (t->n_pools + 1) * sizeof(VkQueryPool));
    if (!pool)
        return -ENOMEM;
    t->pool = pool;
    size_t n_labels = (size_t)(t->n_pools + 1) * VK_TIMES_PER_POOL;
    const char **label = realloc(t->label, n_labels * sizeof(const char *));
    if (!label)
        return -ENOMEM;
    t->label = label;
    if (vk->f.CreateQueryPool(vk->device, &info, NULL, &t->pool[t->n_pools]))
        return -ENOMEM;
    t->n_pools++;
    return 0;
}

void vk_times_mark(struct vk_cmd *c, const char *label)
{
    struct vk_times *t = &c->times;
    const struct vk_functions *f = &c->vk->f;
    uint32_t pool = t->n / VK_TIMES_PER_POOL, at = t->n % VK_TIMES_PER_POOL;
    if (c->err.code)
        return;
    if (pool == t->n_pools && add_pool(c->vk, t)) {
        vk_cmd_fail(c, -ENOMEM, "timestamps: out of memory");
        return;
    }
    if (at == 0)
        f->CmdResetQueryPool(c->buffer, t->pool[pool], 0, VK_TIMES_PER_POOL);
    f->CmdWriteTimestamp(c->buffer, VK_PIPELINE_STAGE_BOTTOM_OF_PIPE_BIT, t->pool[pool], at);
    t->label[t->n++] = label;
}

void vk_times_begin(struct vk_cmd *c)
{
    c->times.n = 0;
    vk_times_mark(c, NULL);
}

void vk_times_finish(struct vk_cmd *c)
{
    struct vk_cmd **at = &c->vk->timed;
    vk_times_collect(c->vk);
    while (*at && *at != c)
        at = &(*at)->timed_next;
    if (*at)
        *at = c->timed_next;            // a lost device never gave its times
    for (uint32_t i = 0; i < c->times.n_pools; i++)
        c->vk->f.DestroyQueryPool(c->vk->device, c->times.pool[i], NULL);
    free(c->times.pool);
    free(c->times.label);
    c->times = (struct vk_times){0};
}

// ---- reading ----------------------------------------------------------------------------------

static void add_time(struct vk *vk, const char *label, uint64_t ns)
{
    uint32_t i = 0;
    while (i < vk->n_sums && strcmp(vk->sum[i].label, label) != 0)
        i++;
    if (i == vk->n_sums) {
        if (vk->n_sums == vk->sums_cap) {
            uint32_t cap = MAX(64, vk->sums_cap * 2);
            struct vk_sum *sum = realloc(vk->sum, cap * sizeof(*sum));
            if (!sum)
                return;     // a profile that misses something beats a step that fails
            vk->sum = sum;
            vk->sums_cap = cap;
        }
        vk->sum[vk->n_sums++] = (struct vk_sum){ label, 0, 0 };
    }
    vk->sum[i].ns += ns;
    vk->sum[i].n++;
}

static void read_times(struct vk *vk, const struct vk_times *t)
{
    uint64_t tick[VK_TIMES_PER_POOL], before = 0;
    uint64_t mask = vk->caps.timestamp_bits < 64 ? (UINT64_C(1) << vk->caps.timestamp_bits) - 1
                                                 : UINT64_MAX;
    for (uint32_t i = 0; i < t->n; i++) {
        uint32_t at = i % VK_TIMES_PER_POOL, n = MIN(t->n - i, VK_TIMES_PER_POOL);
        if (at == 0 && vk->f.GetQueryPoolResults(vk->device, t->pool[i / VK_TIMES_PER_POOL], 0, n,
                                                 n * sizeof(tick[0]), tick, sizeof(tick[0]),
                                                 VK_QUERY_RESULT_64_BIT))
            return;
        if (i > 0)
            add_time(vk, t->label[i], (uint64_t)((double)((tick[at] - before) & mask) *
                                                 (double)vk->caps.limits.timestampPeriod));
        before = tick[at];
    }
}

void vk_times_submitted(struct vk_cmd *c)
{
    c->timed_next = c->vk->timed;
    c->vk->timed = c;
}

void vk_times_collect(struct vk *vk)
{
    for (struct vk_cmd **at = &vk->timed; *at;) {
        struct vk_cmd *c = *at;
        if (c->ticket <= vk->done_ticket) {
            *at = c->timed_next;
            read_times(vk, &c->times);
        } else {
            at = &c->timed_next;
        }
    }
}

void vk_profile(struct vk *vk, void (*f)(void *ctx, const char *label, uint64_t ns, uint64_t n),
                void *ctx)
{
    vk_times_collect(vk);
    for (uint32_t i = 0; i < vk->n_sums; i++)
        f(ctx, vk->sum[i].label, vk->sum[i].ns, vk->sum[i].n);
    vk->n_sums = 0;
}
