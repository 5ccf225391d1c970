// One Vulkan device for all cases of a test program.
#pragma once
#include <errno.h>
#include "tests/test.h"
#include "engine/exec/vulkan/vk.h"

static struct vk *vk;

static void close_device(void)
{
    vk_close(vk);
}

// The best real device, else a software one; without any the case is skipped.
static void need_device(void)
{
    struct err err;
    if (vk)
        return;
    int r = vk_open(&vk, NULL, &err);
    if (r == -ENODEV || r == -ENOTSUP)
        r = vk_open(&vk, "llvmpipe", &err);
    if (r == -ENODEV || r == -ENOTSUP)
        SKIP("no usable Vulkan device");
    REQUIRE_OK(r, err);
    atexit(close_device);
}
