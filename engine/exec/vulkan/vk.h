// The device layer: everything that is Vulkan and nothing that is a model.
//
// libvulkan is opened at run time, so one binary serves machines with and without it. Shaders reach
// all memory through device addresses in push constants: there are no descriptors, and no buffer
// is limited by maxStorageBufferRange.
//
// Thread-safety: a device belongs to one thread, except where said otherwise.
// Errors: -ENODEV (no loader, no such device), -ENOTSUP (a device that lacks what we need, named),
// -ENOMEM, -ETIMEDOUT, -EIO (the device is lost: nothing more will work).
#pragma once
#define VK_NO_PROTOTYPES
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <vulkan/vulkan_core.h>
#include "base/err.h"
#include "engine/exec/vulkan/spirv.h"

// ---- devices ----------------------------------------------------------------------------------

struct vk_info {                        // a physical device as people and the choice see it
    char     name[VK_MAX_PHYSICAL_DEVICE_NAME_SIZE];
    char     driver[VK_MAX_DRIVER_NAME_SIZE + VK_MAX_DRIVER_INFO_SIZE];
    bool     software;                  // runs on the CPU: only taken by name
    bool     integrated;
    char     missing[96];               // what we need and it lacks; "": usable
    uint64_t device_bytes, free_bytes;  // of its largest device-local heap
    uint64_t alloc_max_bytes;
    uint32_t subgroup, shared_bytes, push_bytes;
    bool     direct;                    // the host writes device-local memory in place (ReBAR)
    bool     budget, host_import;
    bool     int_dot;                   // 8-bit integer dot products, accelerated
    bool     f16;                       // 16-bit float arithmetic
    bool     matrix, matrix2;           // KHR and NV cooperative matrices
    bool     bf16;
    bool     timestamps;
};

// All devices in the loader's order. *ret (n) is freed by the caller. Without a loader or a device
// returns 0 with *n == 0.
int vk_list(struct vk_info **ret, uint32_t *n, struct err *err);
// Which of info[] a name means: NULL or "": the best real one (most device memory); else the first
// whose name contains `name`, whatever the case. -ENODEV, -ENOTSUP.
int vk_choose(const struct vk_info *info, uint32_t n, const char *name, uint32_t *ret,
              struct err *err);

struct vk;                              // an opened device

int  vk_open(struct vk **ret, const char *name, struct err *err);
void vk_close(struct vk *vk);           // NULL is fine; waits for what runs
const struct vk_info *vk_info(const struct vk *vk);
// Ends up true once a call returned -EIO.
bool vk_lost(const struct vk *vk);

// ---- memory -----------------------------------------------------------------------------------

enum vk_home {
    VK_HOME_DEVICE,                     // device-local
    VK_HOME_UPLOAD,                     // written by the host, read by shaders: mapped, coherent,
                                        // device-local where the host can write that in place
    VK_HOME_HOST,                       // pinned host memory, cached, coherent: mapped
    VK_HOME_COUNT
};

struct vk_mem {                         // zero-initialised: nothing
    VkDeviceAddress addr;
    void           *map;                // NULL in VK_HOME_DEVICE
    size_t          bytes;
    VkBuffer        buffer;             // with `offset`: for copies
    VkDeviceSize    offset;
    uint32_t        slab;               // private
};

// A piece of a slab of at most VK_SLAB_BYTES; larger pieces get memory of their own, up to
// alloc_max_bytes. Zeroed. Addresses are multiples of 256.
#define VK_SLAB_BYTES ((size_t)1 << 30)
int  vk_alloc(struct vk *vk, enum vk_home home, size_t bytes, struct vk_mem *ret, struct err *err);
void vk_free(struct vk *vk, struct vk_mem *m);      // NULL or nothing is fine

// ---- kernels ----------------------------------------------------------------------------------

// One compute pipeline: a shader of shaders/kernels.def with its specialisation.
struct vk_kernel;

#define VK_SPEC_MAX 12
#define VK_PUSH_BYTES 128

// Makes a pipeline, or returns the one made before with the same specialisation. spec[i] is
// constant_id i. The device keeps it. -ENOTSUP: this build lacks the shader (an old compiler).
// All pipelines are made while a program loads, never in a step.
int vk_kernel(struct vk *vk, enum kernel_id id, const uint32_t *spec, uint32_t n_spec,
              const struct vk_kernel **ret, struct err *err);
bool vk_kernel_built(enum kernel_id id);    // the build has its shader

// ---- commands ---------------------------------------------------------------------------------

// A recorded command buffer, submitted any number of times. While it records, one hazard tracker
// places barriers: a command waits for earlier ones only if their ranges of memory meet and one of
// them writes. `uses` must name all that a command touches and that a command writes.
struct vk_cmd;

struct vk_use { VkDeviceAddress addr; size_t bytes; bool write; };

static inline struct vk_use vk_reads(const struct vk_mem *m)
{
    return (struct vk_use){ m->addr, m->bytes, false };
}

static inline struct vk_use vk_writes(const struct vk_mem *m)
{
    return (struct vk_use){ m->addr, m->bytes, true };
}

int  vk_cmd_create(struct vk *vk, struct vk_cmd **ret, struct err *err);
void vk_cmd_destroy(struct vk_cmd *c);  // NULL is fine; must not be running
// Empties it and starts recording; end returns what failed since, if anything did.
void vk_cmd_begin(struct vk_cmd *c);
int  vk_cmd_end(struct vk_cmd *c, struct err *err);

struct vk_groups { uint32_t x, y, z; };

// `label` is static text, what the profile calls it.
void vk_dispatch(struct vk_cmd *c, const struct vk_kernel *k, const char *label, const void *push,
                 size_t push_bytes, struct vk_groups n, const struct vk_use *uses, uint32_t n_uses);
// The three group counts (uint32) lie at `at` bytes of `args` when it runs.
void vk_dispatch_indirect(struct vk_cmd *c, const struct vk_kernel *k, const char *label,
                          const void *push, size_t push_bytes, const struct vk_mem *args, size_t at,
                          const struct vk_use *uses, uint32_t n_uses);
void vk_copy(struct vk_cmd *c, const struct vk_mem *dst, size_t dst_at, const struct vk_mem *src,
             size_t src_at, size_t bytes);
void vk_fill(struct vk_cmd *c, const struct vk_mem *dst, size_t at, size_t bytes, uint32_t word);
uint32_t vk_cmd_barriers(const struct vk_cmd *c);       // dependent steps recorded: for tests
uint32_t vk_cmd_dispatches(const struct vk_cmd *c);

// Starts it; *ticket is what to wait for. Submissions run in order.
int vk_submit(struct vk *vk, struct vk_cmd *c, uint64_t *ticket, struct err *err);
int vk_wait(struct vk *vk, uint64_t ticket, uint64_t timeout_ns, struct err *err);
// Submit and wait.
int vk_run(struct vk *vk, struct vk_cmd *c, uint64_t timeout_ns, struct err *err);

// ---- profile ----------------------------------------------------------------------------------

// With profiling on, commands recorded from then on take a timestamp after every operation (and so
// run one after the other). vk_profile calls f with the sums since the last call, by label.
void vk_profile_enable(struct vk *vk, bool on);
void vk_profile(struct vk *vk, void (*f)(void *ctx, const char *label, uint64_t ns, uint64_t n),
                void *ctx);

// ---- injected faults, for tests ---------------------------------------------------------------

enum vk_fault { VK_FAULT_NONE, VK_FAULT_LOST, VK_FAULT_ALLOC, VK_FAULT_TIMEOUT };
// The call after `after` more of its kind (submit or alloc) fails as if the driver said so.
void vk_inject(struct vk *vk, enum vk_fault fault, uint32_t after);
