// Device and host memory in slabs, and the zeroing of what is new.
//
// Slabs of a home start small and double, so that a small program takes little and a large one
// makes few allocations. A slab that got empty is given back, unless it is a small one.
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include "base/base.h"
#include "engine/exec/vulkan/vk_int.h"

#define ALIGN_BYTES 256
#define FIRST_SLAB_BYTES ((size_t)32 << 20)
#define ZEROS_MAX 4096                  // kept until a submit; more make a submit of their own

static const char *const home_name[VK_HOME_COUNT] = { "device", "upload", "host" };

// ---- slabs ------------------------------------------------------------------------------------

static void slab_destroy(struct vk *vk, struct vk_slab *s)
{
    if (!s)
        return;
    vk->f.DestroyBuffer(vk->device, s->buffer, NULL);
    vk->f.FreeMemory(vk->device, s->memory, NULL);
    if (s->memory)
        vk->taken_bytes[s->heap] -= s->bytes;
    vk_space_finish(&s->space);
    free(s);
}

static VkResult create_buffer(struct vk *vk, struct vk_slab *s)
{
    const VkBufferCreateInfo info = {
        .sType = VK_STRUCTURE_TYPE_BUFFER_CREATE_INFO,
        .size = s->bytes,
        .usage = VK_BUFFER_USAGE_STORAGE_BUFFER_BIT | VK_BUFFER_USAGE_SHADER_DEVICE_ADDRESS_BIT |
                 VK_BUFFER_USAGE_TRANSFER_SRC_BIT | VK_BUFFER_USAGE_TRANSFER_DST_BIT |
                 VK_BUFFER_USAGE_INDIRECT_BUFFER_BIT,
    };
    return vk->f.CreateBuffer(vk->device, &info, NULL, &s->buffer);
}

static VkResult allocate(struct vk *vk, struct vk_slab *s, uint32_t type, VkDeviceSize bytes)
{
    const VkMemoryAllocateFlagsInfo flags = {
        .sType = VK_STRUCTURE_TYPE_MEMORY_ALLOCATE_FLAGS_INFO,
        .flags = VK_MEMORY_ALLOCATE_DEVICE_ADDRESS_BIT,
    };
    const VkMemoryAllocateInfo info = {
        .sType = VK_STRUCTURE_TYPE_MEMORY_ALLOCATE_INFO, .pNext = &flags,
        .allocationSize = bytes, .memoryTypeIndex = type,
    };
    VkResult r = vk->f.AllocateMemory(vk->device, &info, NULL, &s->memory);
    if (r)
        return r;
    s->heap = vk->caps.memory.memoryTypes[type].heapIndex;
    vk->taken_bytes[s->heap] += s->bytes;
    r = vk->f.BindBufferMemory(vk->device, s->buffer, s->memory, 0);
    if (r == VK_SUCCESS && s->home != VK_HOME_DEVICE)
        r = vk->f.MapMemory(vk->device, s->memory, 0, VK_WHOLE_SIZE, 0, (void **)&s->map);
    return r;
}

static VkResult slab_fill(struct vk *vk, struct vk_slab *s, uint32_t choice)
{
    VkMemoryRequirements need;
    uint32_t type;
    VkResult r = create_buffer(vk, s);
    if (r)
        return r;
    vk->f.GetBufferMemoryRequirements(vk->device, s->buffer, &need);
    if (!vk_memory_type(&vk->caps, s->home, choice, need.memoryTypeBits, &type))
        return VK_ERROR_OUT_OF_DEVICE_MEMORY;
    r = allocate(vk, s, type, need.size);
    if (r)
        return r;
    const VkBufferDeviceAddressInfo info = {
        .sType = VK_STRUCTURE_TYPE_BUFFER_DEVICE_ADDRESS_INFO, .buffer = s->buffer };
    s->addr = vk->f.GetBufferDeviceAddress(vk->device, &info);
    // A driver may align less than we promise; the slab is that much larger.
    size_t at = ALIGN_UP(s->addr, (VkDeviceAddress)ALIGN_BYTES) - s->addr;
    if (at >= s->bytes)
        return VK_ERROR_OUT_OF_DEVICE_MEMORY;
    size_t usable = (s->bytes - at) / ALIGN_BYTES * ALIGN_BYTES;
    return vk_space_init(&s->space, at, usable) ? VK_ERROR_OUT_OF_HOST_MEMORY : VK_SUCCESS;
}

static VkResult slab_create(struct vk *vk, enum vk_home home, size_t bytes, uint32_t choice,
                            struct vk_slab **ret)
{
    struct vk_slab *s = calloc(1, sizeof(*s));
    if (!s)
        return VK_ERROR_OUT_OF_HOST_MEMORY;
    s->bytes = bytes;
    s->home = home;
    VkResult r = slab_fill(vk, s, choice);
    if (r == VK_SUCCESS)
        *ret = s;
    else
        slab_destroy(vk, s);
    return r;
}

static size_t largest_slab(const struct vk *vk, enum vk_home home)
{
    size_t bytes = 0;
    for (uint32_t i = 0; i < vk->n_slabs; i++)
        if (vk->slab[i] && vk->slab[i]->home == home && vk->slab[i]->bytes <= VK_SLAB_BYTES)
            bytes = MAX(bytes, vk->slab[i]->bytes);
    return bytes;
}

static int slab_keep(struct vk *vk, struct vk_slab *s, uint32_t *ret)
{
    uint32_t i = 0;
    while (i < vk->n_slabs && vk->slab[i])
        i++;
    if (i == vk->n_slabs) {
        struct vk_slab **slab = realloc(vk->slab, (vk->n_slabs + 1) * sizeof(struct vk_slab *));
        if (!slab)
            return -ENOMEM;
        vk->slab = slab;
        vk->n_slabs++;
    }
    vk->slab[i] = s;
    *ret = i;
    return 0;
}

// A new slab with room for `bytes`, larger if that can be had.
static VkResult slab_add(struct vk *vk, enum vk_home home, size_t bytes, uint32_t *ret)
{
    VkResult r = VK_ERROR_OUT_OF_DEVICE_MEMORY;
    struct vk_slab *s = NULL;
    size_t least = bytes + ALIGN_BYTES, most = least;
    if (bytes <= VK_SLAB_BYTES / 2)
        most = CLAMP(largest_slab(vk, home) * 2, FIRST_SLAB_BYTES, VK_SLAB_BYTES);
    for (size_t n = MAX(most, least); !s; n = MAX(n / 2, least)) {
        for (uint32_t choice = 0; choice < VK_MEMORY_CHOICES && !s; choice++)
            r = slab_create(vk, home, n, choice, &s);
        if (r == VK_ERROR_DEVICE_LOST || n == least)
            break;
    }
    if (s && slab_keep(vk, s, ret)) {
        slab_destroy(vk, s);
        return VK_ERROR_OUT_OF_HOST_MEMORY;
    }
    return s ? VK_SUCCESS : r;
}

// ---- zeroing ----------------------------------------------------------------------------------

static int zeros_flush(struct vk *vk, struct err *err)
{
    struct vk_cmd *c;
    int r = vk_cmd_create(vk, &c, err);
    if (r)
        return r;
    vk_cmd_begin(c);
    r = vk_cmd_end(c, err);
    if (r == 0)
        r = vk_run(vk, c, VK_HOST_WAIT_NS, err);
    vk_cmd_destroy(c);
    return r;
}

static int zero_later(struct vk *vk, const struct vk_mem *m, size_t bytes, struct err *err)
{
    if (vk->n_zeros == ZEROS_MAX) {
        int r = zeros_flush(vk, err);
        if (r)
            return r;
    }
    if (vk->n_zeros == vk->zeros_cap) {
        uint32_t cap = MAX(64, vk->zeros_cap * 2);
        struct vk_zero *zero = realloc(vk->zero, cap * sizeof(*zero));
        if (!zero)
            return err_set(err, -ENOMEM, "device memory: out of host memory");
        vk->zero = zero;
        vk->zeros_cap = cap;
    }
    vk->zero[vk->n_zeros++] = (struct vk_zero){ m->buffer, m->offset, bytes };
    return 0;
}

static void zero_never(struct vk *vk, const struct vk_mem *m)
{
    for (uint32_t i = 0; i < vk->n_zeros; i++)
        if (vk->zero[i].buffer == m->buffer && vk->zero[i].offset == m->offset)
            vk->zero[i--] = vk->zero[--vk->n_zeros];
}

int vk_zeros_record(struct vk *vk, struct vk_cmd **ret, struct err *err)
{
    int r = 0;
    *ret = NULL;
    if (vk->n_zeros == 0)
        return 0;
    if (!vk->zero_cmd)
        r = vk_cmd_create(vk, &vk->zero_cmd, err);
    if (r == 0)
        r = vk_wait(vk, vk->zero_cmd->ticket, VK_HOST_WAIT_NS, err);
    if (r)
        return r;
    vk_cmd_begin(vk->zero_cmd);
    for (uint32_t i = 0; i < vk->n_zeros; i++)
        vk->f.CmdFillBuffer(vk->zero_cmd->buffer, vk->zero[i].buffer, vk->zero[i].offset,
                            vk->zero[i].bytes, 0);
    r = vk_cmd_end(vk->zero_cmd, err);
    if (r == 0)
        *ret = vk->zero_cmd;
    return r;
}

// ---- pieces -----------------------------------------------------------------------------------

static size_t rounded(size_t bytes)
{
    return ALIGN_UP(bytes, (size_t)ALIGN_BYTES);
}

uint64_t vk_left_bytes(struct vk *vk, enum vk_home home)
{
    uint32_t type;
    if (!vk_memory_type(&vk->caps, home, 0, UINT32_MAX, &type) &&
        !vk_memory_type(&vk->caps, home, 1, UINT32_MAX, &type))
        return 0;
    uint32_t heap = vk->caps.memory.memoryTypes[type].heapIndex;
    uint64_t left = vk_heap_free(vk->instance, &vk->caps, heap);
    if (vk->caps.info.budget)
        return left;
    return left > vk->taken_bytes[heap] ? left - vk->taken_bytes[heap] : 0;
}

static int no_memory(struct vk *vk, enum vk_home home, size_t bytes, struct err *err)
{
    return err_set(err, -ENOMEM, "%s: no %zu bytes of %s memory, %" PRIu64 " are left",
                   vk->caps.info.name, bytes, home_name[home], vk_left_bytes(vk, home));
}

// The slab whose smallest fitting gap is the smallest.
static bool find_slab(const struct vk *vk, enum vk_home home, size_t bytes, uint32_t *ret)
{
    size_t best = 0;
    for (uint32_t i = 0; i < vk->n_slabs; i++) {
        const struct vk_slab *s = vk->slab[i];
        size_t fit = s && s->home == home ? vk_space_fit(&s->space, bytes) : 0;
        if (fit && (!best || fit < best)) {
            best = fit;
            *ret = i;
        }
    }
    return best > 0;
}

static int take(struct vk *vk, enum vk_home home, size_t bytes, struct vk_mem *ret,
                struct err *err)
{
    uint32_t i = 0;
    size_t at;
    if (!find_slab(vk, home, bytes, &i)) {
        VkResult r = slab_add(vk, home, bytes, &i);
        if (r == VK_ERROR_OUT_OF_DEVICE_MEMORY || r == VK_ERROR_OUT_OF_HOST_MEMORY ||
            r == VK_ERROR_TOO_MANY_OBJECTS)
            return no_memory(vk, home, bytes, err);
        if (r)
            return vk_failed(vk, r, "memory", err);
    }
    struct vk_slab *s = vk->slab[i];
    if (vk_space_take(&s->space, bytes, &at))
        return no_memory(vk, home, bytes, err);
    *ret = (struct vk_mem){ .addr = s->addr + at, .map = s->map ? s->map + at : NULL,
                            .buffer = s->buffer, .offset = at, .slab = i };
    return 0;
}

int vk_alloc_dirty(struct vk *vk, enum vk_home home, size_t bytes, struct vk_mem *ret,
                   struct err *err)
{
    assert(bytes > 0);
    if (vk->lost)
        return vk_is_lost(err);
    if (vk_fault_due(vk, VK_FAULT_ALLOC))
        return no_memory(vk, home, bytes, err);
    if (bytes > vk->caps.info.alloc_max_bytes - ALIGN_BYTES * 2)
        return err_set(err, -ENOMEM, "%s: no %zu bytes in one piece, %" PRIu64 " at most",
                       vk->caps.info.name, bytes,
                       vk->caps.info.alloc_max_bytes - ALIGN_BYTES * 2);
    int r = take(vk, home, rounded(bytes), ret, err);
    if (r == 0)
        ret->bytes = bytes;
    return r;
}

int vk_alloc(struct vk *vk, enum vk_home home, size_t bytes, struct vk_mem *ret, struct err *err)
{
    struct vk_mem m;
    int r = vk_alloc_dirty(vk, home, bytes, &m, err);
    if (r)
        return r;
    if (m.map)
        memset(m.map, 0, rounded(bytes));
    else
        r = zero_later(vk, &m, rounded(bytes), err);
    if (r)
        vk_free(vk, &m);
    else
        *ret = m;
    return r;
}

void vk_free(struct vk *vk, struct vk_mem *m)
{
    if (!m || !m->buffer)
        return;
    struct vk_slab *s = vk->slab[m->slab];
    assert(s && s->buffer == m->buffer);
    zero_never(vk, m);
    vk_space_give(&s->space, m->offset, rounded(m->bytes));
    // A lost device may still be using it: then it stays until the device is closed.
    if (s->space.n_pieces == 0 && s->bytes > FIRST_SLAB_BYTES && !vk->lost) {
        vk->slab[m->slab] = NULL;
        slab_destroy(vk, s);
    }
    *m = (struct vk_mem){0};
}

void vk_mem_finish(struct vk *vk)
{
    vk_cmd_destroy(vk->zero_cmd);
    for (uint32_t i = 0; i < vk->n_slabs; i++)
        slab_destroy(vk, vk->slab[i]);
    free(vk->slab);
    free(vk->zero);
}
