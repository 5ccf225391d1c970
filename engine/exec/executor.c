// The executors by name.
#include "engine/exec/executor.h"
#include <string.h>

static bool is_called(const char *device, const char *name)
{
    size_t n = strcspn(device, ":");
    return strlen(name) == n && memcmp(device, name, n) == 0;
}

const struct executor_ops *executor_find(const char *device)
{
    if (strcmp(device, "auto") == 0)
        return executor_vulkan_wanted() ? &executor_vulkan : &executor_cpu;
    if (is_called(device, "cpu"))
        return &executor_cpu;
    if (is_called(device, "vulkan"))
        return &executor_vulkan;
    if (is_called(device, "null"))
        return &executor_null;
    return NULL;
}

const char *executor_arg(const char *device)
{
    const char *colon = strchr(device, ':');
    return colon ? colon + 1 : NULL;
}
