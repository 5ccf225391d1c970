// Speed of the device layer: what a step pays besides its kernels' work.
//
// usage: bench_vk [DEVICE]      (a part of a Vulkan device's name; the best real one if not given)
#include <stdio.h>
#include <stdlib.h>
#include "base/base.h"
#include "base/clock.h"
#include "engine/exec/vulkan/vk.h"

#define WAIT_NS (20 * NS_PER_S)
#define DISPATCHES 1000
#define REPEATS 5
#define MIB ((size_t)1 << 20)

static struct vk *vk;

static void require(int r, const struct err *err)
{
    if (r == 0)
        return;
    fprintf(stderr, "bench_vk: %s\n", err->msg);
    exit(1);
}

static struct vk_mem get(enum vk_home home, size_t bytes)
{
    struct err err;
    struct vk_mem m;
    require(vk_alloc(vk, home, bytes, &m, &err), &err);
    return m;
}

static struct vk_cmd *begin(void)
{
    struct err err;
    struct vk_cmd *c;
    require(vk_cmd_create(vk, &c, &err), &err);
    vk_cmd_begin(c);
    return c;
}

// Ends it. Returns the best time of a submit and a wait.
static double time_us(struct vk_cmd *c)
{
    struct err err;
    uint64_t best_ns = UINT64_MAX;
    require(vk_cmd_end(c, &err), &err);
    for (int i = 0; i < REPEATS + 1; i++) {
        uint64_t start_ns = clock_now_ns();
        require(vk_run(vk, c, WAIT_NS, &err), &err);
        if (i > 0)
            best_ns = MIN(best_ns, clock_now_ns() - start_ns);
    }
    vk_cmd_destroy(c);
    return (double)best_ns / 1e3;
}

static double time_empty_us(uint64_t spin_ns)
{
    vk_spin(vk, spin_ns);
    return time_us(begin());
}

// One workgroup a dispatch; on the same words, or on words of their own.
static double time_dispatches_us(bool dependent)
{
    struct err err;
    const struct vk_kernel *k;
    struct vk_mem m = get(VK_HOME_DEVICE, DISPATCHES * 256);
    struct vk_cmd *c = begin();
    require(vk_kernel(vk, KERNEL_fill_pattern, (uint32_t[]){ 32 }, 1, &k, &err), &err);
    for (uint32_t i = 0; i < DISPATCHES; i++) {
        const struct { VkDeviceAddress dst; uint32_t n, base; } push = {
            m.addr + (dependent ? 0 : i * 256), 32, i };
        const struct vk_use use = { push.dst, 128, true };
        vk_dispatch(c, k, "pattern", &push, sizeof(push), (struct vk_groups){ 1, 1, 1 }, &use, 1);
    }
    double us = time_us(c);
    vk_free(vk, &m);
    return us;
}

static void print_copy(const char *name, enum vk_home from, enum vk_home to, size_t bytes)
{
    struct vk_mem src = get(from, bytes), dst = get(to, bytes);
    struct vk_cmd *c = begin();
    vk_copy(c, &dst, 0, &src, 0, bytes);
    printf("%-44s %8.1f GB/s\n", name, (double)bytes / time_us(c) / 1e3);
    vk_free(vk, &src);
    vk_free(vk, &dst);
}

static void print_fill(size_t bytes)
{
    struct vk_mem m = get(VK_HOME_DEVICE, bytes);
    struct vk_cmd *c = begin();
    vk_fill(c, &m, 0, bytes, 0);
    printf("%-44s %8.1f GB/s\n", "fill of device memory", (double)bytes / time_us(c) / 1e3);
    vk_free(vk, &m);
}

// Memory taken, zeroed and ready.
static void print_alloc(const char *name, enum vk_home home, size_t bytes)
{
    struct err err;
    struct vk_cmd *c = begin();
    require(vk_cmd_end(c, &err), &err);
    uint64_t start_ns = clock_now_ns();
    struct vk_mem m = get(home, bytes);
    require(vk_run(vk, c, WAIT_NS, &err), &err);
    double s = (double)(clock_now_ns() - start_ns) / 1e9;
    printf("%-44s %8.1f GB/s\n", name, (double)bytes / s / 1e9);
    vk_free(vk, &m);
    vk_cmd_destroy(c);
}

int main(int argc, char **argv)
{
    struct err err;
    if (vk_open(&vk, argc > 1 ? argv[1] : NULL, &err)) {
        printf("skipped: %s\n", err.msg);
        return 77;
    }
    const struct vk_info *info = vk_info(vk);
    size_t bytes = (info->software ? 64 : 512) * MIB;
    printf("%s, %s\n", info->name, info->driver);
    double empty_us = time_empty_us(50000);
    printf("%-44s %8.2f us\n", "submit and wait, asking", empty_us);
    printf("%-44s %8.2f us\n", "submit and wait, asleep", time_empty_us(0));
    vk_spin(vk, 50000);
    printf("%-44s %8.2f us\n", "dispatch that depends on the one before",
           (time_dispatches_us(true) - empty_us) / DISPATCHES);
    printf("%-44s %8.2f us\n", "dispatch that does not",
           (time_dispatches_us(false) - empty_us) / DISPATCHES);
    print_alloc("new device memory, zeroed", VK_HOME_DEVICE, bytes);
    print_alloc("new upload memory, zeroed", VK_HOME_UPLOAD, bytes);
    print_alloc("new host memory, zeroed", VK_HOME_HOST, bytes);
    print_fill(bytes);
    print_copy("copy from upload to device memory", VK_HOME_UPLOAD, VK_HOME_DEVICE, bytes);
    print_copy("copy from host to device memory", VK_HOME_HOST, VK_HOME_DEVICE, bytes);
    print_copy("copy from device to host memory", VK_HOME_DEVICE, VK_HOME_HOST, bytes);
    vk_close(vk);
}
