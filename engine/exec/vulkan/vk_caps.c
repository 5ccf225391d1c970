// What a physical device can do: one table of features, read when devices are listed and asked for
// when one is opened.
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/base.h"
#include "engine/exec/vulkan/vk_int.h"

// ---- features ---------------------------------------------------------------------------------

struct vk_features {
    VkPhysicalDeviceFeatures2 core;
    VkPhysicalDeviceVulkan11Features v11;
    VkPhysicalDeviceVulkan12Features v12;
    VkPhysicalDeviceSubgroupSizeControlFeatures subgroup;
    VkPhysicalDeviceShaderIntegerDotProductFeatures dot;
    VkPhysicalDeviceMaintenance4Features maintenance4;
#ifdef VK_KHR_cooperative_matrix
    VkPhysicalDeviceCooperativeMatrixFeaturesKHR matrix;
#endif
#ifdef VK_NV_cooperative_matrix2
    VkPhysicalDeviceCooperativeMatrix2FeaturesNV matrix2;
#endif
#ifdef VK_KHR_shader_bfloat16
    VkPhysicalDeviceShaderBfloat16FeaturesKHR bf16;
#endif
};

#define REQUIRED_FEATURES(F) \
    F(core.features.shaderInt64, "64-bit integers") \
    F(v11.storageBuffer16BitAccess, "16-bit storage") \
    F(v12.storageBuffer8BitAccess, "8-bit storage") \
    F(v12.bufferDeviceAddress, "device addresses") \
    F(v12.timelineSemaphore, "timeline semaphores") \
    F(v12.scalarBlockLayout, "scalar layout")

#ifdef VK_KHR_cooperative_matrix
#define MATRIX_FEATURES(F) F(matrix.cooperativeMatrix, "")
#else
#define MATRIX_FEATURES(F)
#endif
#ifdef VK_NV_cooperative_matrix2
#define MATRIX2_FEATURES(F) \
    F(matrix2.cooperativeMatrixWorkgroupScope, "") \
    F(matrix2.cooperativeMatrixFlexibleDimensions, "") \
    F(matrix2.cooperativeMatrixReductions, "") \
    F(matrix2.cooperativeMatrixConversions, "") \
    F(matrix2.cooperativeMatrixPerElementOperations, "") \
    F(matrix2.cooperativeMatrixTensorAddressing, "") \
    F(matrix2.cooperativeMatrixBlockLoads, "")
#else
#define MATRIX2_FEATURES(F)
#endif
#ifdef VK_KHR_shader_bfloat16
#define BF16_FEATURES(F) \
    F(bf16.shaderBFloat16Type, "") F(bf16.shaderBFloat16CooperativeMatrix, "")
#else
#define BF16_FEATURES(F)
#endif

#define OPTIONAL_FEATURES(F) \
    F(core.features.shaderInt16, "") \
    F(v11.uniformAndStorageBuffer16BitAccess, "") \
    F(v12.uniformAndStorageBuffer8BitAccess, "") \
    F(v12.shaderFloat16, "") \
    F(v12.shaderInt8, "") \
    F(v12.shaderSubgroupExtendedTypes, "") \
    F(v12.vulkanMemoryModel, "") \
    F(v12.vulkanMemoryModelDeviceScope, "") \
    F(subgroup.subgroupSizeControl, "") \
    F(subgroup.computeFullSubgroups, "") \
    F(dot.shaderIntegerDotProduct, "") \
    F(maintenance4.maintenance4, "") \
    MATRIX_FEATURES(F) MATRIX2_FEATURES(F) BF16_FEATURES(F)

#define REQUIRED_SUBGROUP_OPERATIONS \
    (VK_SUBGROUP_FEATURE_BASIC_BIT | VK_SUBGROUP_FEATURE_VOTE_BIT | \
     VK_SUBGROUP_FEATURE_ARITHMETIC_BIT | VK_SUBGROUP_FEATURE_BALLOT_BIT | \
     VK_SUBGROUP_FEATURE_SHUFFLE_BIT)

#define SUBGROUP_MIN 8                  // which share a group of act.glsl

static const struct { const char *name; uint32_t core; } extensions[EXTENSION_COUNT] = {
#define E(id, name, core) [EXTENSION_##id] = { name, core },
    VK_EXTENSIONS(E)
#undef E
};

// As an extension, or because this version of Vulkan made it core.
static bool has(const struct vk_caps *c, enum vk_extension e)
{
    return c->listed[e] || (extensions[e].core && c->version >= extensions[e].core);
}

// Puts a feature struct of that type at the head of the chain behind f->core.
#define LINK(f, field, type) \
    do { \
        (f)->field.sType = (type); \
        (f)->field.pNext = (f)->core.pNext; \
        (f)->core.pNext = &(f)->field; \
    } while (0)

static void chain(struct vk_features *f, const struct vk_caps *c)
{
    *f = (struct vk_features){ .core.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_FEATURES_2 };
    LINK(f, v11, VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_1_FEATURES);
    LINK(f, v12, VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_2_FEATURES);
    if (has(c, EXTENSION_subgroup_size_control))
        LINK(f, subgroup, VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SUBGROUP_SIZE_CONTROL_FEATURES);
    if (has(c, EXTENSION_integer_dot_product))
        LINK(f, dot, VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SHADER_INTEGER_DOT_PRODUCT_FEATURES);
    if (has(c, EXTENSION_maintenance4))
        LINK(f, maintenance4, VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_MAINTENANCE_4_FEATURES);
#ifdef VK_KHR_cooperative_matrix
    if (has(c, EXTENSION_cooperative_matrix))
        LINK(f, matrix, VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_COOPERATIVE_MATRIX_FEATURES_KHR);
#endif
#ifdef VK_NV_cooperative_matrix2
    if (has(c, EXTENSION_cooperative_matrix2))
        LINK(f, matrix2, VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_COOPERATIVE_MATRIX_2_FEATURES_NV);
#endif
#ifdef VK_KHR_shader_bfloat16
    if (has(c, EXTENSION_bfloat16))
        LINK(f, bf16, VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SHADER_BFLOAT16_FEATURES_KHR);
#endif
}

// Of what there is, what we ask for.
static void want(struct vk_features *f, const struct vk_features *there)
{
#define COPY(field, text) f->field = there->field;
    REQUIRED_FEATURES(COPY)
    OPTIONAL_FEATURES(COPY)
#undef COPY
}

// ---- a device's properties --------------------------------------------------------------------

struct properties {
    VkPhysicalDeviceProperties2 core;
    VkPhysicalDeviceVulkan11Properties v11;
    VkPhysicalDeviceVulkan12Properties v12;
    VkPhysicalDeviceSubgroupSizeControlProperties subgroup;
    VkPhysicalDeviceShaderIntegerDotProductProperties dot;
    VkPhysicalDeviceMaintenance4Properties maintenance4;
};

static void read_properties(const struct vk_instance *i, const struct vk_caps *c,
                            struct properties *p)
{
    *p = (struct properties){ .core.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PROPERTIES_2 };
    LINK(p, v11, VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_1_PROPERTIES);
    LINK(p, v12, VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_2_PROPERTIES);
    if (has(c, EXTENSION_subgroup_size_control))
        LINK(p, subgroup, VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SUBGROUP_SIZE_CONTROL_PROPERTIES);
    if (has(c, EXTENSION_integer_dot_product))
        LINK(p, dot, VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SHADER_INTEGER_DOT_PRODUCT_PROPERTIES);
    if (has(c, EXTENSION_maintenance4))
        LINK(p, maintenance4, VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_MAINTENANCE_4_PROPERTIES);
    i->GetPhysicalDeviceProperties2(c->handle, &p->core);
}

static void miss(struct vk_info *info, const char *what)
{
    size_t n = strlen(info->missing);
    snprintf(info->missing + n, sizeof(info->missing) - n, "%s%s", n ? ", " : "", what);
}

static int read_extensions(const struct vk_instance *i, struct vk_caps *c, struct err *err)
{
    uint32_t n = 0;
    VkResult r = i->EnumerateDeviceExtensionProperties(c->handle, NULL, &n, NULL);
    VkExtensionProperties *list = calloc(n + 1, sizeof(*list));
    if (list && r == VK_SUCCESS)
        r = i->EnumerateDeviceExtensionProperties(c->handle, NULL, &n, list);
    for (uint32_t k = 0; list && r == VK_SUCCESS && k < n; k++)
        for (uint32_t e = 0; e < EXTENSION_COUNT; e++)
            c->listed[e] |= strcmp(list[k].extensionName, extensions[e].name) == 0;
    free(list);
    if (!list)
        return err_set(err, -ENOMEM, "Vulkan extensions: out of memory");
    return 0;       // a device that cannot name them has none
}

static void find_queue(const struct vk_instance *i, struct vk_caps *c)
{
    VkQueueFamilyProperties family[16];
    uint32_t n = ARRAY_LEN(family), best = UINT32_MAX;
    i->GetPhysicalDeviceQueueFamilyProperties(c->handle, &n, family);
    // One with graphics has the full rate on every GPU; one without is the second choice.
    for (uint32_t k = 0; k < n; k++) {
        VkQueueFlags flags = family[k].queueFlags;
        if (flags & VK_QUEUE_COMPUTE_BIT &&
            (best == UINT32_MAX || (flags & VK_QUEUE_GRAPHICS_BIT &&
                                    !(family[best].queueFlags & VK_QUEUE_GRAPHICS_BIT))))
            best = k;
    }
    c->queue_family = best;
    if (best == UINT32_MAX)
        miss(&c->info, "a compute queue");
    else
        c->timestamp_bits = family[best].timestampValidBits;
}

// ---- cooperative matrices ---------------------------------------------------------------------

#ifdef VK_KHR_cooperative_matrix
static void keep_largest(struct vk_tile *t, const VkCooperativeMatrixPropertiesKHR *p)
{
    uint64_t old = (uint64_t)t->m * t->n * t->k;
    if ((uint64_t)p->MSize * p->NSize * p->KSize > old)
        *t = (struct vk_tile){ p->MSize, p->NSize, p->KSize };
}

static bool multiplies(const VkCooperativeMatrixPropertiesKHR *p, VkComponentTypeKHR in,
                       VkComponentTypeKHR sum)
{
    return p->scope == VK_SCOPE_SUBGROUP_KHR && p->AType == in && p->BType == in &&
           p->CType == sum && p->ResultType == sum && !p->saturatingAccumulation;
}

static int read_tiles(const struct vk_instance *i, struct vk_caps *c, struct err *err)
{
    uint32_t n = 0;
    if (!i->GetPhysicalDeviceCooperativeMatrixPropertiesKHR)
        return 0;
    i->GetPhysicalDeviceCooperativeMatrixPropertiesKHR(c->handle, &n, NULL);
    VkCooperativeMatrixPropertiesKHR *p = calloc(n + 1, sizeof(*p));
    if (!p)
        return err_set(err, -ENOMEM, "Vulkan matrices: out of memory");
    for (uint32_t k = 0; k < n; k++)
        p[k].sType = VK_STRUCTURE_TYPE_COOPERATIVE_MATRIX_PROPERTIES_KHR;
    if (i->GetPhysicalDeviceCooperativeMatrixPropertiesKHR(c->handle, &n, p) != VK_SUCCESS)
        n = 0;
    for (uint32_t k = 0; k < n; k++) {
        if (multiplies(&p[k], VK_COMPONENT_TYPE_FLOAT16_KHR, VK_COMPONENT_TYPE_FLOAT32_KHR))
            keep_largest(&c->info.tile_f16, &p[k]);
        if (multiplies(&p[k], VK_COMPONENT_TYPE_SINT8_KHR, VK_COMPONENT_TYPE_SINT32_KHR))
            keep_largest(&c->info.tile_s8, &p[k]);
#ifdef VK_KHR_shader_bfloat16
        if (multiplies(&p[k], VK_COMPONENT_TYPE_BFLOAT16_KHR, VK_COMPONENT_TYPE_FLOAT32_KHR))
            keep_largest(&c->info.tile_bf16, &p[k]);
#endif
    }
    free(p);
    return 0;
}

static int judge_matrices(const struct vk_instance *i, struct vk_caps *c,
                          const struct vk_features *f, struct err *err)
{
    if (!f->matrix.cooperativeMatrix || !f->v12.vulkanMemoryModel)
        return 0;
    int r = read_tiles(i, c, err);
    c->info.matrix = c->info.f16 && c->info.tile_f16.m > 0;
    if (!f->v12.shaderInt8)
        c->info.tile_s8 = (struct vk_tile){0};
#ifdef VK_NV_cooperative_matrix2
    c->info.matrix2 = c->info.matrix;
#define ALL(field, text) c->info.matrix2 &= f->field;
    MATRIX2_FEATURES(ALL)
#undef ALL
#endif
#ifdef VK_KHR_shader_bfloat16
    c->info.bf16 = c->info.matrix && f->bf16.shaderBFloat16Type &&
                   f->bf16.shaderBFloat16CooperativeMatrix && c->info.tile_bf16.m > 0;
#endif
    return r;
}
#else
static int judge_matrices(const struct vk_instance *i, struct vk_caps *c,
                          const struct vk_features *f, struct err *err)
{
    (void)i, (void)c, (void)f, (void)err;
    return 0;
}
#endif

// ---- everything about one device --------------------------------------------------------------

static void judge_memory(const struct vk_instance *i, struct vk_caps *c)
{
    VkPhysicalDeviceMemoryProperties2 m = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_MEMORY_PROPERTIES_2 };
    const VkMemoryPropertyFlags direct = VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT |
        VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT | VK_MEMORY_PROPERTY_HOST_COHERENT_BIT;
    uint32_t heap = UINT32_MAX;
    i->GetPhysicalDeviceMemoryProperties2(c->handle, &m);
    c->memory = m.memoryProperties;
    for (uint32_t k = 0; k < c->memory.memoryHeapCount; k++) {
        VkMemoryHeap h = c->memory.memoryHeaps[k];
        if (h.flags & VK_MEMORY_HEAP_DEVICE_LOCAL_BIT && h.size > c->info.device_bytes) {
            c->info.device_bytes = h.size;
            heap = k;
        }
    }
    if (heap == UINT32_MAX)
        return;
    c->info.free_bytes = vk_heap_free(i, c, heap);
    for (uint32_t k = 0; k < c->memory.memoryTypeCount; k++) {
        VkMemoryType t = c->memory.memoryTypes[k];
        c->info.direct |= t.heapIndex == heap && (t.propertyFlags & direct) == direct;
    }
}

static void judge_properties(struct vk_caps *c, const struct properties *p)
{
    struct vk_info *info = &c->info;
    snprintf(info->driver, sizeof(info->driver), "%s%s%s", p->v12.driverName,
             p->v12.driverInfo[0] ? " " : "", p->v12.driverInfo);
    info->alloc_max_bytes = p->v11.maxMemoryAllocationSize;
    if (p->maintenance4.maxBufferSize)
        info->alloc_max_bytes = MIN(info->alloc_max_bytes, p->maintenance4.maxBufferSize);
    info->subgroup = p->v11.subgroupSize;
    c->subgroup_max = MAX(info->subgroup, p->subgroup.maxSubgroupSize);
    bool computes = p->v11.subgroupSupportedStages & VK_SHADER_STAGE_COMPUTE_BIT;
    VkSubgroupFeatureFlags ops = p->v11.subgroupSupportedOperations & REQUIRED_SUBGROUP_OPERATIONS;
    if (!computes || ops != REQUIRED_SUBGROUP_OPERATIONS)
        miss(info, "subgroup operations");
    if (info->subgroup < SUBGROUP_MIN)
        miss(info, "subgroups of 8");
}

static int judge_features(const struct vk_instance *i, struct vk_caps *c,
                          const struct properties *p, struct err *err)
{
    struct vk_info *info = &c->info;
    struct vk_features f;
    chain(&f, c);
    i->GetPhysicalDeviceFeatures2(c->handle, &f.core);
#define CHECK(field, text) \
    if (!f.field) \
        miss(info, text);
    REQUIRED_FEATURES(CHECK)
#undef CHECK
    info->f16 = f.v12.shaderFloat16;
    info->int_dot = f.dot.shaderIntegerDotProduct &&
        (info->software || p->dot.integerDotProduct4x8BitPackedSignedAccelerated);
    info->budget = c->listed[EXTENSION_memory_budget];
    info->host_import = c->listed[EXTENSION_external_memory_host];
    c->full_subgroups = f.subgroup.computeFullSubgroups;
    c->maintenance4 = f.maintenance4.maintenance4;
    return judge_matrices(i, c, &f, err);
}

static int judge(const struct vk_instance *i, VkPhysicalDevice handle, struct vk_caps *ret,
                 struct err *err)
{
    struct vk_caps c = { .handle = handle };
    VkPhysicalDeviceProperties p;
    struct properties all;
    i->GetPhysicalDeviceProperties(handle, &p);
    snprintf(c.info.name, sizeof(c.info.name), "%s", p.deviceName);
    c.version = MIN(p.apiVersion, i->version);
    c.limits = p.limits;
    c.vendor_id = p.vendorID;
    c.device_id = p.deviceID;
    memcpy(c.cache_uuid, p.pipelineCacheUUID, sizeof(c.cache_uuid));
    c.info.software = p.deviceType == VK_PHYSICAL_DEVICE_TYPE_CPU;
    c.info.integrated = p.deviceType == VK_PHYSICAL_DEVICE_TYPE_INTEGRATED_GPU;
    c.info.shared_bytes = p.limits.maxComputeSharedMemorySize;
    c.info.push_bytes = p.limits.maxPushConstantsSize;
    find_queue(i, &c);
    c.info.timestamps = c.timestamp_bits > 0;
    int r = read_extensions(i, &c, err);
    judge_memory(i, &c);
    if (c.version < VK_API_VERSION_1_2) {
        miss(&c.info, "Vulkan 1.2");
    } else if (r == 0) {
        read_properties(i, &c, &all);
        judge_properties(&c, &all);
        r = judge_features(i, &c, &all, err);
    }
    if (r == 0)
        *ret = c;
    return r;
}

int vk_caps_list(const struct vk_instance *i, struct vk_caps **ret, uint32_t *n, struct err *err)
{
    uint32_t count = 0;
    int r = 0;
    if (i->EnumeratePhysicalDevices(i->handle, &count, NULL) != VK_SUCCESS)
        count = 0;
    VkPhysicalDevice *device = calloc(count + 1, sizeof(VkPhysicalDevice));
    struct vk_caps *caps = calloc(count + 1, sizeof(*caps));
    if (!device || !caps) {
        r = err_set(err, -ENOMEM, "Vulkan devices: out of memory");
        goto out;
    }
    // A device that comes or goes in between is left to the next list.
    if (count && i->EnumeratePhysicalDevices(i->handle, &count, device) < 0)
        count = 0;
    for (uint32_t k = 0; r == 0 && k < count; k++)
        r = judge(i, device[k], &caps[k], err);
    if (r == 0) {
        *ret = caps;
        *n = count;
        caps = NULL;
    }
out:
    free(caps);
    free(device);
    return r;
}

uint64_t vk_heap_free(const struct vk_instance *i, const struct vk_caps *c, uint32_t heap)
{
    VkPhysicalDeviceMemoryBudgetPropertiesEXT budget = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_MEMORY_BUDGET_PROPERTIES_EXT };
    VkPhysicalDeviceMemoryProperties2 m = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_MEMORY_PROPERTIES_2, .pNext = &budget };
    if (!c->listed[EXTENSION_memory_budget])
        return c->memory.memoryHeaps[heap].size;
    i->GetPhysicalDeviceMemoryProperties2(c->handle, &m);
    uint64_t total = budget.heapBudget[heap], used = budget.heapUsage[heap];
    return total > used ? total - used : 0;
}

int vk_caps_create_device(const struct vk_instance *i, const struct vk_caps *c, VkDevice *ret,
                          struct err *err)
{
    struct vk_features there, f;
    const char *name[EXTENSION_COUNT];
    uint32_t n = 0;
    const float priority = 1;
    chain(&there, c);
    chain(&f, c);
    i->GetPhysicalDeviceFeatures2(c->handle, &there.core);
    want(&f, &there);
    for (uint32_t e = 0; e < EXTENSION_COUNT; e++)
        if (c->listed[e])
            name[n++] = extensions[e].name;
    const VkDeviceQueueCreateInfo queue = {
        .sType = VK_STRUCTURE_TYPE_DEVICE_QUEUE_CREATE_INFO,
        .queueFamilyIndex = c->queue_family,
        .queueCount = 1,
        .pQueuePriorities = &priority,
    };
    const VkDeviceCreateInfo info = {
        .sType = VK_STRUCTURE_TYPE_DEVICE_CREATE_INFO,
        .pNext = &f.core,
        .queueCreateInfoCount = 1,
        .pQueueCreateInfos = &queue,
        .enabledExtensionCount = n,
        .ppEnabledExtensionNames = name,
    };
    VkResult r = i->CreateDevice(c->handle, &info, NULL, ret);
    if (r == VK_ERROR_OUT_OF_HOST_MEMORY || r == VK_ERROR_OUT_OF_DEVICE_MEMORY)
        return err_set(err, -ENOMEM, "%s: no memory to open it", c->info.name);
    if (r != VK_SUCCESS)
        return err_set(err, -ENODEV, "%s: cannot be opened (Vulkan error %d)", c->info.name, r);
    return 0;
}
