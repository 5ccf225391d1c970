// What stands for the Vulkan executor in a build without it.
#include <errno.h>
#include "engine/exec/executor.h"

bool executor_vulkan_wanted(void)
{
    return false;
}

static int no_open(struct executor **ret, const struct executor_params *p, struct err *err)
{
    (void)ret, (void)p;
    return err_set(err, -ENOTSUP, "this build has no Vulkan executor");
}

const struct executor_ops executor_vulkan = { .name = "vulkan", .open = no_open };
