// Lists of ranges, kept sorted and merged, so that long runs of neighbours stay short lists.
#include "engine/exec/vulkan/vk_hazard.h"
#include <string.h>
#include "base/base.h"

// The first range that ends at or after `addr`.
static uint32_t find(const struct vk_ranges *r, VkDeviceAddress addr)
{
    uint32_t lo = 0, hi = r->n;
    while (lo < hi) {
        uint32_t mid = (lo + hi) / 2;
        if (r->item[mid].hi < addr)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

static bool meets(const struct vk_ranges *r, struct vk_range x)
{
    uint32_t i = find(r, x.lo + 1);     // touching is not meeting
    return i < r->n && r->item[i].lo < x.hi;
}

static bool add(struct vk_ranges *r, struct vk_range x)
{
    uint32_t i = find(r, x.lo), end = i;
    for (; end < r->n && r->item[end].lo <= x.hi; end++) {
        x.lo = MIN(x.lo, r->item[end].lo);
        x.hi = MAX(x.hi, r->item[end].hi);
    }
    if (end == i && r->n == VK_RANGES_MAX)
        return false;
    memmove(&r->item[i + 1], &r->item[end], (r->n - end) * sizeof(r->item[0]));
    r->n = r->n + 1 - (end - i);
    r->item[i] = x;
    return true;
}

static struct vk_range range_of(const struct vk_use *use)
{
    return (struct vk_range){ use->addr, use->addr + use->bytes };
}

void vk_hazards_clear(struct vk_hazards *h)
{
    h->reads.n = h->writes.n = 0;
}

bool vk_hazards_meet(const struct vk_hazards *h, const struct vk_use *uses, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        struct vk_range x = range_of(&uses[i]);
        if (uses[i].bytes == 0)
            continue;
        if (meets(&h->writes, x) || (uses[i].write && meets(&h->reads, x)))
            return true;
    }
    return false;
}

bool vk_hazards_add(struct vk_hazards *h, const struct vk_use *uses, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        if (uses[i].bytes && !add(uses[i].write ? &h->writes : &h->reads, range_of(&uses[i])))
            return false;
    return true;
}

static bool add_all(struct vk_ranges *dst, const struct vk_ranges *src)
{
    for (uint32_t i = 0; i < src->n; i++)
        if (!add(dst, src->item[i]))
            return false;
    return true;
}

bool vk_hazards_move(struct vk_hazards *dst, struct vk_hazards *src)
{
    if (!add_all(&dst->reads, &src->reads) || !add_all(&dst->writes, &src->writes))
        return false;
    vk_hazards_clear(src);
    return true;
}
