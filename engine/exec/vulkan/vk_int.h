// Inside the device layer: Vulkan's functions, and the state of an open device.
#pragma once
#include "base/hash.h"
#include "engine/exec/vulkan/vk.h"
#include "engine/exec/vulkan/vk_hazard.h"
#include "engine/exec/vulkan/vk_space.h"

// ---- functions (vk_load.c) --------------------------------------------------------------------

// All that is called, without the vk in front. An entry of an extension may be NULL.
#define VK_GLOBAL_FUNCTIONS(F) F(CreateInstance) F(EnumerateInstanceVersion)

#define VK_INSTANCE_FUNCTIONS(F) \
    F(CreateDevice) F(DestroyInstance) F(EnumerateDeviceExtensionProperties) \
    F(EnumeratePhysicalDevices) F(GetDeviceProcAddr) F(GetPhysicalDeviceFeatures2) \
    F(GetPhysicalDeviceMemoryProperties2) F(GetPhysicalDeviceProperties) \
    F(GetPhysicalDeviceProperties2) F(GetPhysicalDeviceQueueFamilyProperties)

#ifdef VK_KHR_cooperative_matrix
#define VK_INSTANCE_EXTENSION_FUNCTIONS(F) F(GetPhysicalDeviceCooperativeMatrixPropertiesKHR)
#else
#define VK_INSTANCE_EXTENSION_FUNCTIONS(F)
#endif

#define VK_DEVICE_FUNCTIONS(F) \
    F(AllocateCommandBuffers) F(AllocateMemory) F(BeginCommandBuffer) F(BindBufferMemory) \
    F(CmdBindPipeline) F(CmdCopyBuffer) F(CmdDispatch) F(CmdDispatchIndirect) F(CmdFillBuffer) \
    F(CmdPipelineBarrier) F(CmdPushConstants) F(CmdResetQueryPool) F(CmdWriteTimestamp) \
    F(CreateBuffer) F(CreateCommandPool) F(CreateComputePipelines) F(CreatePipelineCache) \
    F(CreatePipelineLayout) F(CreateQueryPool) F(CreateSemaphore) F(CreateShaderModule) \
    F(DestroyBuffer) F(DestroyCommandPool) F(DestroyDevice) F(DestroyPipeline) \
    F(DestroyPipelineCache) F(DestroyPipelineLayout) F(DestroyQueryPool) F(DestroySemaphore) \
    F(DestroyShaderModule) F(EndCommandBuffer) F(FreeMemory) F(GetBufferDeviceAddress) \
    F(GetBufferMemoryRequirements) F(GetDeviceQueue) F(GetPipelineCacheData) \
    F(GetQueryPoolResults) F(GetSemaphoreCounterValue) F(MapMemory) F(QueueSubmit) \
    F(ResetCommandPool) F(WaitSemaphores)

#define VK_POINTER(name) PFN_vk##name name;

struct vk_instance {
    void      *lib;
    VkInstance handle;
    uint32_t   version;                 // of Vulkan, as asked for
    PFN_vkGetInstanceProcAddr GetInstanceProcAddr;
    VK_INSTANCE_FUNCTIONS(VK_POINTER)
    VK_INSTANCE_EXTENSION_FUNCTIONS(VK_POINTER)
};

struct vk_functions { VK_DEVICE_FUNCTIONS(VK_POINTER) };

// The instance of this process, for any thread. It is never destroyed: that would unload drivers,
// which not all of them survive, and make the next one load them anew.
// -ENODEV: no loader, or one that finds no driver.
int vk_instance(const struct vk_instance **ret, struct err *err);
int vk_functions_load(const struct vk_instance *i, VkDevice device, struct vk_functions *ret,
                      struct err *err);

// ---- what a device can do (vk_caps.c) ---------------------------------------------------------

// Device extensions: name, the version of Vulkan that made it core (0: none).
#define VK_EXTENSIONS(E) \
    E(memory_budget, "VK_EXT_memory_budget", 0) \
    E(external_memory_host, "VK_EXT_external_memory_host", 0) \
    E(subgroup_size_control, "VK_EXT_subgroup_size_control", VK_API_VERSION_1_3) \
    E(integer_dot_product, "VK_KHR_shader_integer_dot_product", VK_API_VERSION_1_3) \
    E(maintenance4, "VK_KHR_maintenance4", VK_API_VERSION_1_3) \
    E(cooperative_matrix, "VK_KHR_cooperative_matrix", 0) \
    E(cooperative_matrix2, "VK_NV_cooperative_matrix2", 0) \
    E(bfloat16, "VK_KHR_shader_bfloat16", 0)

enum vk_extension {
#define E(id, name, core) EXTENSION_##id,
    VK_EXTENSIONS(E)
#undef E
    EXTENSION_COUNT
};

struct vk_caps {
    struct vk_info   info;
    VkPhysicalDevice handle;
    VkPhysicalDeviceLimits limits;
    VkPhysicalDeviceMemoryProperties memory;
    uint32_t version;                   // of Vulkan, as this device is used
    uint32_t vendor_id, device_id, queue_family, timestamp_bits;
    uint8_t  cache_uuid[VK_UUID_SIZE];
    bool     listed[EXTENSION_COUNT];      // the driver names the extension
    bool     full_subgroups, maintenance4;
    uint32_t subgroup_max;
};

// All devices. *ret (n) is the caller's to free; n may be 0.
int  vk_caps_list(const struct vk_instance *i, struct vk_caps **ret, uint32_t *n,
                  struct err *err);
// Creates the device with all that we need and all that is there of what we can use.
int  vk_caps_create_device(const struct vk_instance *i, const struct vk_caps *caps, VkDevice *ret,
                           struct err *err);
// Free bytes of a heap, as vk_left_bytes.
uint64_t vk_heap_free(const struct vk_instance *i, const struct vk_caps *caps, uint32_t heap);

// ---- an open device ---------------------------------------------------------------------------

#define VK_HOST_WAIT_NS (10 * UINT64_C(1000000000))     // for our own small work

struct vk_slab {                        // vk_mem.c
    VkDeviceMemory  memory;
    VkBuffer        buffer;
    VkDeviceAddress addr;
    char           *map;
    size_t          bytes;
    enum vk_home    home;
    uint32_t        heap;
    struct vk_space space;
};

struct vk_zero { VkBuffer buffer; VkDeviceSize offset, bytes; };    // to be filled with 0

struct vk_sum { const char *label; uint64_t ns, n; };

struct vk {
    const struct vk_instance *instance; // borrowed
    struct vk_caps      caps;
    VkDevice            device;
    VkQueue             queue;
    struct vk_functions f;
    bool                lost;

    struct vk_slab    **slab;           // (n_slabs), owned; NULL where one was given back
    uint32_t            n_slabs;
    uint64_t            taken_bytes[VK_MAX_MEMORY_HEAPS];
    struct vk_zero     *zero;           // (n_zeros), owned
    uint32_t            n_zeros, zeros_cap;
    struct vk_cmd      *zero_cmd;

    VkPipelineLayout    layout;
    VkPipelineCache     cache;
    struct hash         cached;         // what the file of the cache holds
    struct vk_kernel   *kernel[KERNEL_COUNT];   // lists, owned

    VkSemaphore         timeline;
    uint64_t            last_ticket, done_ticket, spin_ns;
    uint64_t            stuck_ticket;   // injected: never done; 0: none
    enum vk_fault       fault;
    uint32_t            fault_after;

    struct vk_cmd      *orphan;         // destroyed while nobody knew whether it was running

    bool                profiling;
    struct vk_cmd      *timed;          // submitted, its times not yet read
    struct vk_sum      *sum;            // (n_sums), owned
    uint32_t            n_sums, sums_cap;
};

// What a Vulkan call's failure means; fills err with "what: reason". May mark the device lost.
int  vk_failed(struct vk *vk, VkResult r, const char *what, struct err *err);
int  vk_is_lost(struct err *err);       // fills err; -EIO
// The injected fault is due at this call.
bool vk_fault_due(struct vk *vk, enum vk_fault kind);
// All that was submitted has run, or never will.
bool vk_idle(struct vk *vk);
// Waits until it is; false: it is not.
bool vk_drain(struct vk *vk, uint64_t timeout_ns);

// vk_type.c: the memory type of a home, of those in `bits`. Choice 0 is the best, and where that is
// full there may be another.
#define VK_MEMORY_CHOICES 2
bool vk_memory_type(const struct vk_caps *c, enum vk_home home, uint32_t choice, uint32_t bits,
                    uint32_t *ret);

// vk_mem.c
void vk_mem_finish(struct vk *vk);
// Fills of new device memory that have to run first. *ret: NULL if there are none. Once they are
// submitted, n_zeros is set to 0.
int  vk_zeros_record(struct vk *vk, struct vk_cmd **ret, struct err *err);

// vk_kernel.c, vk_cache.c
int  vk_kernels_init(struct vk *vk, struct err *err);
void vk_kernels_finish(struct vk *vk);

struct vk_kernel {
    VkPipeline        pipeline;
    const char       *name;
    uint32_t          spec[VK_SPEC_MAX], n_spec;
    struct vk_kernel *next;
};

// ---- commands (vk_cmd.c, vk_profile.c) --------------------------------------------------------

#define VK_TIMES_PER_POOL 512

struct vk_times {                       // timestamps of one command buffer
    VkQueryPool  *pool;                 // (n_pools), owned
    uint32_t      n_pools, n;           // n: timestamps recorded, the first before all operations
    const char  **label;                // (n_pools * VK_TIMES_PER_POOL), owned, static texts
};

struct vk_cmd {
    struct vk        *vk;
    VkCommandPool     pool;
    VkCommandBuffer   buffer;
    struct vk_hazards recent;           // since the last barrier
    struct vk_hazards settled, counts;  // before it, for dispatches; and read by indirect ones
    VkPipelineStageFlags stages;        // of commands since the last barrier
    const struct vk_kernel *bound;
    uint32_t          n_barriers, n_dispatches, n_ops;
    uint64_t          ticket;           // of its last submission
    bool              recording, recorded;
    struct err        err;              // the first failure since it began

    bool              profiled;
    struct vk_times   times;
    struct vk_cmd    *timed_next, *orphan_next;     // in the lists of the device
};

void vk_cmds_finish(struct vk *vk);

// The first failure of a recording stays.
void vk_cmd_fail(struct vk_cmd *c, int code, const char *what);

void vk_times_begin(struct vk_cmd *c);
void vk_times_mark(struct vk_cmd *c, const char *label);
void vk_times_finish(struct vk_cmd *c);
// Its results will be there once it has run.
void vk_times_submitted(struct vk_cmd *c);
// Takes in results of all that has run.
void vk_times_collect(struct vk *vk);
