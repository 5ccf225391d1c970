// The executors by name.
#include "engine/exec/executor.h"
#include <string.h>

const struct executor_ops *executor_find(const char *name)
{
    if (strcmp(name, "auto") == 0 || strcmp(name, "cpu") == 0)
        return &executor_cpu;
    if (strcmp(name, "null") == 0)
        return &executor_null;
    return NULL;
}
