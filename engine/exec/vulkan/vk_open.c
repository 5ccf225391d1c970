// An open device: its creation, its end, and what the failures of its calls mean.
#include <errno.h>
#include <stdlib.h>
#include "base/base.h"
#include "engine/exec/vulkan/vk_int.h"

#define SPIN_NS UINT64_C(50000)

static int choose(struct vk *vk, const char *name, struct err *err)
{
    struct vk_caps *caps = NULL;
    struct vk_info *info = NULL;
    uint32_t n = 0, i;
    int r = vk_caps_list(vk->instance, &caps, &n, err);
    if (r == 0 && !(info = calloc(n + 1, sizeof(*info))))
        r = err_set(err, -ENOMEM, "Vulkan devices: out of memory");
    for (uint32_t k = 0; r == 0 && k < n; k++)
        info[k] = caps[k].info;
    if (r == 0)
        r = vk_choose(info, n, name, &i, err);
    if (r == 0)
        vk->caps = caps[i];
    free(info);
    free(caps);
    return r;
}

static int create_timeline(struct vk *vk, struct err *err)
{
    const VkSemaphoreTypeCreateInfo type = {
        .sType = VK_STRUCTURE_TYPE_SEMAPHORE_TYPE_CREATE_INFO,
        .semaphoreType = VK_SEMAPHORE_TYPE_TIMELINE,
    };
    const VkSemaphoreCreateInfo info = {
        .sType = VK_STRUCTURE_TYPE_SEMAPHORE_CREATE_INFO, .pNext = &type };
    VkResult r = vk->f.CreateSemaphore(vk->device, &info, NULL, &vk->timeline);
    return r ? vk_failed(vk, r, "timeline semaphore", err) : 0;
}

static int create_device(struct vk *vk, struct err *err)
{
    VkDevice device;
    int r = vk_caps_create_device(vk->instance, &vk->caps, &device, err);
    if (r)
        return r;
    r = vk_functions_load(vk->instance, device, &vk->f, err);
    if (r) {
        PFN_vkDestroyDevice destroy = vk->f.DestroyDevice;
        if (destroy)
            destroy(device, NULL);
        return r;
    }
    vk->device = device;
    // One queue does everything. A queue for transfers would be taken here, next to this one.
    vk->f.GetDeviceQueue(device, vk->caps.queue_family, 0, &vk->queue);
    return 0;
}

int vk_open(struct vk **ret, const char *name, struct err *err)
{
    struct vk *vk = calloc(1, sizeof(*vk));
    if (!vk)
        return err_set(err, -ENOMEM, "Vulkan: out of memory");
    int r = vk_instance(&vk->instance, err);
    if (r == 0)
        r = choose(vk, name, err);
    if (r == 0)
        r = create_device(vk, err);
    if (r == 0)
        r = create_timeline(vk, err);
    if (r == 0)
        r = vk_kernels_init(vk, err);
    if (r) {
        vk_close(vk);
        return r;
    }
    // Where the host is the device, asking again and again takes the cores it runs on.
    vk->spin_ns = vk->caps.info.software ? 0 : SPIN_NS;
    *ret = vk;
    return 0;
}

static void destroy_device(struct vk *vk)
{
    vk_mem_finish(vk);
    vk_cmds_finish(vk);
    vk_kernels_finish(vk);
    vk->f.DestroySemaphore(vk->device, vk->timeline, NULL);
    vk->f.DestroyDevice(vk->device, NULL);
}

void vk_close(struct vk *vk)
{
    if (!vk)
        return;
    if (vk->device && vk_drain(vk, VK_HOST_WAIT_NS))
        destroy_device(vk);
    free(vk->sum);
    free(vk);
}

const struct vk_info *vk_info(const struct vk *vk)
{
    return &vk->caps.info;
}

bool vk_lost(const struct vk *vk)
{
    return vk->lost;
}

int vk_is_lost(struct err *err)
{
    return err_set(err, -EIO, "the Vulkan device is lost");
}

int vk_failed(struct vk *vk, VkResult r, const char *what, struct err *err)
{
    switch (r) {
    case VK_ERROR_DEVICE_LOST:
        vk->lost = true;
        return err_set(err, -EIO, "%s: the Vulkan device is lost", what);
    case VK_ERROR_OUT_OF_HOST_MEMORY:
        return err_set(err, -ENOMEM, "%s: out of host memory", what);
    case VK_ERROR_OUT_OF_DEVICE_MEMORY:
        return err_set(err, -ENOMEM, "%s: out of device memory", what);
    case VK_ERROR_TOO_MANY_OBJECTS:
        return err_set(err, -ENOMEM, "%s: too many Vulkan objects", what);
    case VK_ERROR_FEATURE_NOT_PRESENT:
    case VK_ERROR_EXTENSION_NOT_PRESENT:
        return err_set(err, -ENOTSUP, "%s: %s lacks it", what, vk->caps.info.name);
    default:
        // What no call may return, and what drivers return when they do not know any further.
        vk->lost = true;
        return err_set(err, -EIO, "%s: Vulkan error %d", what, r);
    }
}
