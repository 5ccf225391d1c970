// The devices that a model can run on, as people see them.
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "base/err.h"

struct device {
    char     name[288];                 // for --device: "cpu", "vulkan:NVIDIA H200"
    char     driver[512];
    char     abilities[160];            // words, a blank between two
    char     unbuilt[64];               // those of them that this build has no kernels for
    char     missing[160];              // why it cannot be used; "": it can
    uint64_t memory_bytes, free_bytes;
    bool     software;                  // runs on the CPU in another way: only taken by name
    bool     is_auto;                   // what "auto" means
};

// All devices, the CPU first. *ret (n) is freed by the caller. Returns 0 or -ENOMEM.
int devices_list(struct device **ret, uint32_t *n, struct err *err);
