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

struct vk_tile { uint32_t m, n, k; };   // of a cooperative matrix product; 0: none

struct vk_info {                        // a physical device as people and the choice see it
    char     name[VK_MAX_PHYSICAL_DEVICE_NAME_SIZE];
    char     driver[VK_MAX_DRIVER_NAME_SIZE + VK_MAX_DRIVER_INFO_SIZE];
    bool     software;                  // runs on the CPU: only taken by name
    bool     integrated;
    char     missing[160];              // what we need and it lacks; "": usable
    uint64_t device_bytes, free_bytes;  // of its largest device-local heap
    uint64_t alloc_max_bytes;
    uint32_t subgroup, shared_bytes, push_bytes;
    bool     direct;                    // the host writes device-local memory in place (ReBAR)
    bool     budget, host_import;
    bool     int_dot;                   // 8-bit integer dot products, accelerated; or on a software
                                        // device at all, so that kernels can be tested there
    bool     f16;                       // 16-bit float arithmetic
    bool     matrix, matrix2;           // KHR and NV cooperative matrices; NV with all its features
    bool     bf16;
    struct vk_tile tile_f16, tile_s8, tile_bf16;    // the largest of a subgroup, with float32 and
                                        // int32 sums
    bool     timestamps;
};

// All devices in the loader's order. *ret (n) is freed by the caller. Without a loader or a device
// returns 0 with *n == 0.
int vk_list(struct vk_info **ret, uint32_t *n, struct err *err);
// Which of info[] a name means. NULL or "": the best usable real one, which is one with memory of
// its own before an integrated one, then the one with most device memory. Else the first usable one
// whose name contains `name`, whatever the case. -ENODEV: there is none; -ENOTSUP: there is, but
// it lacks something.
int vk_choose(const struct vk_info *info, uint32_t n, const char *name, uint32_t *ret,
              struct err *err);

struct vk;                              // an opened device

int  vk_open(struct vk **ret, const char *name, struct err *err);
// NULL is fine. Waits for what runs; if that does not end in time, its Vulkan objects are left to
// the end of the process, since a driver may not lose what a GPU still uses.
void vk_close(struct vk *vk);
const struct vk_info *vk_info(const struct vk *vk);
// True once a call returned -EIO or -ETIMEDOUT.
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

// A piece of a slab of at most VK_SLAB_BYTES; pieces larger than half of that get memory of their
// own, up to alloc_max_bytes. Addresses are multiples of 256.
//
// Zeroed: host memory at once; device memory by fills that run before the next submit's commands,
// at the speed of the memory (8.5 GB of weights: about 3 ms of an H200).
// -ENOMEM says how much was asked for and what is left.
#define VK_SLAB_BYTES ((size_t)1 << 30)
int  vk_alloc(struct vk *vk, enum vk_home home, size_t bytes, struct vk_mem *ret, struct err *err);
// Not zeroed, for large memory that is written before it is read: a software device then takes no
// pages for what is never used.
int  vk_alloc_dirty(struct vk *vk, enum vk_home home, size_t bytes, struct vk_mem *ret,
                    struct err *err);
// NULL or nothing is fine; *m becomes nothing. No command that is running or will run may use it.
void vk_free(struct vk *vk, struct vk_mem *m);
// What can still be had for a home, as far as the driver says (VK_EXT_memory_budget), else its
// heap less what this device took.
uint64_t vk_left_bytes(struct vk *vk, enum vk_home home);

// ---- what kernels need ------------------------------------------------------------------------

// The last column of shaders/kernels.def: what compiler and device must have.
enum vk_need { VK_NEED_plain, VK_NEED_int_dot, VK_NEED_matrix, VK_NEED_matrix2, VK_NEED_bf16,
               VK_NEED_COUNT };

const char *vk_need_name(enum vk_need need);        // "int_dot"
const char *vk_need_title(enum vk_need need);       // "integer dot products"
bool vk_need_met(const struct vk_info *info, enum vk_need need);    // by the device
// Is there a kernel with that need, and could this build's compiler make them?
enum vk_support { VK_UNUSED, VK_UNBUILT, VK_BUILT };
enum vk_support vk_need_support(enum vk_need need);

// ---- kernels ----------------------------------------------------------------------------------

// One compute pipeline: a shader of shaders/kernels.def with its specialisation.
struct vk_kernel;

#define VK_SPEC_MAX 16
#define VK_PUSH_BYTES 128

// Makes a pipeline, or returns the one made before with the same specialisation. spec[i] is
// constant_id i; constant 0 is local_size_x of every kernel. The device keeps it. Subgroups are
// full where spec[0] is a multiple of the subgroup and the device can promise it.
// -ENOTSUP: this build lacks the shader (an old compiler), or the device what it needs.
// All pipelines are made while a program loads, never in a step.
int vk_kernel(struct vk *vk, enum kernel_id id, const uint32_t *spec, uint32_t n_spec,
              const struct vk_kernel **ret, struct err *err);
bool vk_kernel_built(enum kernel_id id);    // the build has its shader
// And the device has what it needs.
bool vk_kernel_runs(const struct vk *vk, enum kernel_id id);

// What the driver compiled, kept between runs. The name of the file is one for each device and
// driver. A file that is missing, damaged or another driver's is no error: kernels are compiled
// then. Load it before the first kernel. vk_cache_save replaces the file as a whole, if there is
// anything new; it returns a negative errno where it cannot.
void vk_cache_name(const struct vk *vk, char *buf, size_t size);
int  vk_cache_load(struct vk *vk, const char *path, struct err *err);
int  vk_cache_save(struct vk *vk, const char *path, struct err *err);

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

// `label` is static text, what the profile calls it. n: up to 65,535 in x, y and z is what every
// device can; none at all records nothing.
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

// Starts it; *ticket is what to wait for. Submissions run in order, each after all of the one
// before. Commands see what the host wrote before the submit; the host sees all after the wait.
// A command buffer may be submitted again once it has run.
int vk_submit(struct vk *vk, struct vk_cmd *c, uint64_t *ticket, struct err *err);
// -ETIMEDOUT means that the device is lost: what it is still doing cannot be known.
int vk_wait(struct vk *vk, uint64_t ticket, uint64_t timeout_ns, struct err *err);
// How long a wait asks again and again before it sleeps; at first 50 us, 0 on a software device.
void vk_spin(struct vk *vk, uint64_t ns);
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
// The call after `after` more of its kind fails once as if the driver said so: LOST a submit, ALLOC
// an alloc, TIMEOUT the wait for a submit.
void vk_inject(struct vk *vk, enum vk_fault fault, uint32_t after);
