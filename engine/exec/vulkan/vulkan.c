// The Vulkan executor's table, and a device by name.
#include "engine/exec/vulkan/vulkan.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/base.h"

#define ROOM_KEPT_BYTES (UINT64_C(512) << 20)

// ---- the device -------------------------------------------------------------------------------

bool executor_vulkan_wanted(void)
{
    struct vk_info *info;
    uint32_t n, i;
    if (vk_list(&info, &n, NULL))
        return false;
    bool wanted = vk_choose(info, n, NULL, &i, NULL) == 0;
    free(info);
    return wanted;
}

// Compiled kernels of runs before. They only save time: what goes wrong with them is no error.
static void open_cache(struct vulkan_executor *x, const char *dir)
{
    char name[256];
    vk_cache_name(x->vk, name, sizeof(name));
    if (asprintf(&x->cache, "%s/%s", dir, name) < 0)
        x->cache = NULL;
    if (x->cache)
        vk_cache_load(x->vk, x->cache, NULL);
}

static int vulkan_open(struct executor **ret, const struct executor_params *p, struct err *err)
{
    struct vulkan_executor *x = calloc(1, sizeof(*x));
    if (!x)
        return err_set(err, -ENOMEM, "no memory for an executor");
    x->x.ops = &executor_vulkan;
    x->exact = p->exact;
    int r = vk_open(&x->vk, p->device_arg, err);
    if (r) {
        free(x);
        return r;
    }
    if (p->cache_dir)
        open_cache(x, p->cache_dir);
    *ret = &x->x;
    return 0;
}

static void vulkan_close(struct executor *x)
{
    if (!x)
        return;
    struct vulkan_executor *v = container_of(x, struct vulkan_executor, x);
    vk_close(v->vk);
    free(v->cache);
    free(v);
}

// ---- what it can ------------------------------------------------------------------------------

static void append(char *buf, size_t size, const char *before, const char *text)
{
    size_t n = strlen(buf);
    snprintf(buf + n, size - n, "%s%s", before, text);
}

static void vulkan_describe(const struct executor *x, char *buf, size_t size)
{
    const struct vulkan_executor *v = container_of(x, const struct vulkan_executor, x);
    const struct vk_info *info = vk_info(v->vk);
    const char *lacks = "; built without ";
    snprintf(buf, size, "vulkan: %s, %s", info->name, info->driver);
    for (enum vk_need n = VK_NEED_int_dot; n < VK_NEED_COUNT; n++)
        if (vk_need_support(n) == VK_BUILT && vk_need_met(info, n))
            append(buf, size, ", ", vk_need_title(n));
    if (v->exact)
        append(buf, size, ", ", "exact");
    for (enum vk_need n = VK_NEED_int_dot; n < VK_NEED_COUNT; n++)
        if (vk_need_support(n) == VK_UNBUILT) {
            append(buf, size, lacks, vk_need_title(n));
            lacks = ", ";
        }
}

// Tiles of prompts want many rows for each read of the weights.
static uint32_t vulkan_rows_usual(const struct executor *x)
{
    const struct vulkan_executor *v = container_of(x, struct vulkan_executor, x);
    return vk_info(v->vk)->software ? 512 : 2048;
}

// Attention's scratch still grows with the steps.
static uint64_t vulkan_kv_room(struct program *p)
{
    struct vk_program *g = container_of(p, struct vk_program, p);
    const struct vk_info *info = vk_info(g->vk);
    uint64_t left = vk_left_bytes(g->vk, VK_HOME_DEVICE);
    uint64_t keep = MAX(info->device_bytes / 16, ROOM_KEPT_BYTES);
    if (info->software || info->integrated)
        return 0;
    return left > keep ? left - keep : 1;
}

static void vulkan_profile(struct program *p, bool on,
                           void (*f)(void *ctx, const char *label, uint64_t ns, uint64_t n),
                           void *ctx)
{
    struct vk_program *g = container_of(p, struct vk_program, p);
    if (f)
        vk_profile(g->vk, f, ctx);
    vk_profile_enable(g->vk, on);
    vk_recorded_drop(g);                // what is recorded from now on takes its times, or does not
}

const struct executor_ops executor_vulkan = {
    .name = "vulkan",
    .open = vulkan_open,
    .close = vulkan_close,
    .describe = vulkan_describe,
    .rows_usual = vulkan_rows_usual,
    .load = vulkan_load,
    .unload = vulkan_unload,
    .kv_room = vulkan_kv_room,
    .kv_limit = vulkan_kv_limit,
    .kv_homes = vulkan_kv_homes,
    .kv_alloc = vulkan_kv_alloc,
    .kv_copy = vulkan_kv_copy,
    .kv_read = vulkan_kv_read,
    .kv_write = vulkan_kv_write,
    .kv_page = vulkan_kv_page,
    .kv_backed = vulkan_kv_backed,
    .kv_write_digests = vulkan_kv_write_digests,
    .kv_page_stats = vulkan_kv_page_stats,
    .submit = vulkan_submit,
    .wait = vulkan_wait,
    .logits_read = vulkan_logits_read,
    .profile = vulkan_profile,
    .slot_read = vulkan_slot_read,
    .slot_write = vulkan_slot_write,
};
