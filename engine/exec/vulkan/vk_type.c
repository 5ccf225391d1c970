// Which of a device's memory types a home takes. Calls no Vulkan.
#include "base/base.h"
#include "engine/exec/vulkan/vk_int.h"

#define LOCAL VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT
#define COHERENT (VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT | VK_MEMORY_PROPERTY_HOST_COHERENT_BIT)
#define CACHED VK_MEMORY_PROPERTY_HOST_CACHED_BIT

struct wish { VkMemoryPropertyFlags must; bool prefers_host; };

// Each home's memory, the best first.
static const struct wish wishes[VK_HOME_COUNT][VK_MEMORY_CHOICES] = {
    [VK_HOME_DEVICE] = { { LOCAL, false }, { LOCAL, false } },
    [VK_HOME_UPLOAD] = { { COHERENT | LOCAL, false }, { COHERENT, true } },
    [VK_HOME_HOST]   = { { COHERENT | CACHED, true }, { COHERENT, true } },
};

// 0: not this one. The largest heap counts first, then that a type has nothing we did not ask for:
// where all device memory is mapped, the type that is not may be the faster one.
static uint64_t score(const struct vk_caps *c, VkMemoryType t, const struct wish *w)
{
    const VkMemoryPropertyFlags known = LOCAL | COHERENT | CACHED;
    if ((t.propertyFlags & w->must) != w->must || t.propertyFlags & ~known)
        return 0;
    bool is_preferred = w->prefers_host && !(t.propertyFlags & LOCAL);
    bool is_plain = !(t.propertyFlags & ~w->must);
    uint64_t size = MIN(c->memory.memoryHeaps[t.heapIndex].size >> 12, UINT64_C(1) << 60);
    return (uint64_t)is_preferred << 62 | size << 1 | is_plain;
}

bool vk_memory_type(const struct vk_caps *c, enum vk_home home, uint32_t choice, uint32_t bits,
                    uint32_t *ret)
{
    uint64_t best = 0;
    for (uint32_t i = 0; i < c->memory.memoryTypeCount; i++) {
        uint64_t s = bits & 1u << i ? score(c, c->memory.memoryTypes[i], &wishes[home][choice]) : 0;
        if (s > best) {
            best = s;
            *ret = i;
        }
    }
    return best > 0;
}
