// The CPU, and the Vulkan devices where this build knows Vulkan.
#include "engine/exec/devices.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "base/base.h"
#include "engine/exec/cpu/cpu.h"
#include "engine/exec/executor.h"

static void describe_cpu(struct device *d)
{
    long page = sysconf(_SC_PAGESIZE);
    *d = (struct device){
        .name = "cpu",
        .memory_bytes = (uint64_t)page * (uint64_t)sysconf(_SC_PHYS_PAGES),
        .free_bytes = (uint64_t)page * (uint64_t)sysconf(_SC_AVPHYS_PAGES),
        .is_auto = true,
    };
    snprintf(d->abilities, sizeof(d->abilities), "%s", cpu_kernels_name());
}

#ifdef HAVE_VULKAN
#include "engine/exec/vulkan/vk.h"

static void add_word(char *words, size_t size, bool there, const char *word)
{
    size_t n = strlen(words);
    if (there)
        snprintf(words + n, size - n, "%s%s", n ? " " : "", word);
}

static void describe_vulkan(const struct vk_info *info, struct device *d)
{
    const struct { const char *word; bool there; } ability[] = {
        { "direct_upload", info->direct }, { "memory_budget", info->budget },
        { "host_import", info->host_import }, { "timestamps", info->timestamps },
    };
    *d = (struct device){ .memory_bytes = info->device_bytes, .free_bytes = info->free_bytes,
                          .software = info->software };
    snprintf(d->name, sizeof(d->name), "vulkan:%s", info->name);
    snprintf(d->driver, sizeof(d->driver), "%s", info->driver);
    snprintf(d->missing, sizeof(d->missing), "%s", info->missing);
    add_word(d->abilities, sizeof(d->abilities), info->f16, "f16");
    for (enum vk_need n = VK_NEED_int_dot; n < VK_NEED_COUNT; n++) {
        bool met = vk_need_met(info, n);
        add_word(d->abilities, sizeof(d->abilities), met, vk_need_name(n));
        add_word(d->unbuilt, sizeof(d->unbuilt), met && vk_need_support(n) == VK_UNBUILT,
                 vk_need_name(n));
    }
    for (size_t i = 0; i < ARRAY_LEN(ability); i++)
        add_word(d->abilities, sizeof(d->abilities), ability[i].there, ability[i].word);
}

static int list_vulkan(struct device **list, uint32_t *n, struct err *err)
{
    struct vk_info *info;
    uint32_t n_info, best;
    int r = vk_list(&info, &n_info, err);
    if (r)
        return r;
    struct device *more = realloc(*list, (*n + n_info) * sizeof(*more));
    if (!more) {
        free(info);
        return err_set(err, -ENOMEM, "devices: out of memory");
    }
    *list = more;
    for (uint32_t i = 0; i < n_info; i++)
        describe_vulkan(&info[i], &more[*n + i]);
    if (vk_choose(info, n_info, NULL, &best, NULL) == 0) {
        more[0].is_auto = false;
        more[*n + best].is_auto = true;
    }
    *n += n_info;
    free(info);
    return 0;
}
#else
static int list_vulkan(struct device **list, uint32_t *n, struct err *err)
{
    (void)list, (void)n, (void)err;
    return 0;
}
#endif

int devices_list(struct device **ret, uint32_t *n, struct err *err)
{
    uint32_t count = 1;
    struct device *list = malloc(sizeof(*list));
    if (!list)
        return err_set(err, -ENOMEM, "devices: out of memory");
    describe_cpu(list);
    int r = list_vulkan(&list, &count, err);
    if (r) {
        free(list);
        return r;
    }
    *ret = list;
    *n = count;
    return 0;
}
