// Which devices there are, and which one a name means.
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "engine/exec/vulkan/vk_int.h"

int vk_list(struct vk_info **ret, uint32_t *n, struct err *err)
{
    const struct vk_instance *instance;
    struct vk_caps *caps = NULL;
    struct vk_info *info = NULL;
    uint32_t count = 0;
    int r = vk_instance(&instance, err);
    if (r == -ENODEV)
        r = 0;
    else if (r == 0)
        r = vk_caps_list(instance, &caps, &count, err);
    if (r == 0 && !(info = calloc(count + 1, sizeof(*info))))
        r = err_set(err, -ENOMEM, "Vulkan devices: out of memory");
    if (r == 0) {
        for (uint32_t i = 0; i < count; i++)
            info[i] = caps[i].info;
        *ret = info;
        *n = count;
    }
    free(caps);
    return r;
}

static bool is_better(const struct vk_info *a, const struct vk_info *b)
{
    if (a->integrated != b->integrated)
        return b->integrated;
    return a->device_bytes > b->device_bytes;
}

static bool is_meant(const struct vk_info *info, const char *name)
{
    return name && name[0] ? strcasestr(info->name, name) != NULL : !info->software;
}

int vk_choose(const struct vk_info *info, uint32_t n, const char *name, uint32_t *ret,
              struct err *err)
{
    bool named = name && name[0];
    uint32_t best = n, lacking = n;
    for (uint32_t i = 0; i < n; i++) {
        if (!is_meant(&info[i], name))
            continue;
        if (info[i].missing[0])
            lacking = lacking == n ? i : lacking;
        else if (best == n || (!named && is_better(&info[i], &info[best])))
            best = i;
    }
    if (best < n) {
        *ret = best;
        return 0;
    }
    if (lacking < n)
        return err_set(err, -ENOTSUP, "%s lacks %s", info[lacking].name, info[lacking].missing);
    if (named)
        return err_set(err, -ENODEV, "no Vulkan device has \"%.100s\" in its name", name);
    return err_set(err, -ENODEV, "no Vulkan device%s", n ? " but software ones, which are only "
                   "taken by name" : "");
}
