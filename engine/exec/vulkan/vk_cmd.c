// Recording: dispatches, copies and fills, and the barriers between those that depend on each
// other.
//
// A barrier is one global VkMemoryBarrier: buffer barriers buy nothing on the GPUs we know. Before
// a dispatch it names the compute stage alone as what waits, since copies and indirect counts make
// each cost 2 us more on an H100. What it settles is then settled for dispatches only, and kept in
// mind: a copy that meets it, or counts that do, get a barrier for all stages. The last one of a
// command buffer makes all its writes visible to the host and to the next submission.
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "base/base.h"
#include "engine/exec/vulkan/vk_int.h"

#define STAGES_ALL \
    (VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT | VK_PIPELINE_STAGE_TRANSFER_BIT | \
     VK_PIPELINE_STAGE_DRAW_INDIRECT_BIT)
#define WRITES (VK_ACCESS_SHADER_WRITE_BIT | VK_ACCESS_TRANSFER_WRITE_BIT)
#define READS \
    (VK_ACCESS_SHADER_READ_BIT | VK_ACCESS_TRANSFER_READ_BIT | VK_ACCESS_INDIRECT_COMMAND_READ_BIT)

// ---- life -------------------------------------------------------------------------------------

static VkResult create(struct vk *vk, struct vk_cmd *c)
{
    const VkCommandPoolCreateInfo pool = {
        .sType = VK_STRUCTURE_TYPE_COMMAND_POOL_CREATE_INFO,
        .queueFamilyIndex = vk->caps.queue_family,
    };
    VkResult r = vk->f.CreateCommandPool(vk->device, &pool, NULL, &c->pool);
    if (r)
        return r;
    const VkCommandBufferAllocateInfo buffer = {
        .sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_ALLOCATE_INFO,
        .commandPool = c->pool,
        .level = VK_COMMAND_BUFFER_LEVEL_PRIMARY,
        .commandBufferCount = 1,
    };
    return vk->f.AllocateCommandBuffers(vk->device, &buffer, &c->buffer);
}

int vk_cmd_create(struct vk *vk, struct vk_cmd **ret, struct err *err)
{
    if (vk->lost)
        return vk_is_lost(err);
    struct vk_cmd *c = calloc(1, sizeof(*c));
    if (!c)
        return err_set(err, -ENOMEM, "command buffer: out of memory");
    c->vk = vk;
    VkResult r = create(vk, c);
    if (r) {
        vk_cmd_destroy(c);
        return vk_failed(vk, r, "command buffer", err);
    }
    *ret = c;
    return 0;
}

static bool has_run(struct vk_cmd *c)
{
    return c->ticket <= c->vk->done_ticket || vk_idle(c->vk);
}

static void destroy(struct vk_cmd *c)
{
    vk_times_finish(c);
    c->vk->f.DestroyCommandPool(c->vk->device, c->pool, NULL);
    free(c);
}

void vk_cmd_destroy(struct vk_cmd *c)
{
    if (!c)
        return;
    if (has_run(c)) {
        destroy(c);
        return;
    }
    // On a device that was given up, it may still be running: it stays until the device is closed.
    assert(c->vk->lost);
    c->orphan_next = c->vk->orphan;
    c->vk->orphan = c;
}

void vk_cmds_finish(struct vk *vk)
{
    while (vk->orphan) {
        struct vk_cmd *c = vk->orphan;
        vk->orphan = c->orphan_next;
        destroy(c);
    }
}

void vk_cmd_fail(struct vk_cmd *c, int code, const char *what)
{
    if (c->err.code == 0)
        err_set(&c->err, code, "%s", what);
}

static void check(struct vk_cmd *c, VkResult r, const char *what)
{
    struct err err = {0};
    if (r && vk_failed(c->vk, r, what, &err))
        vk_cmd_fail(c, err.code, err.msg);
}

void vk_cmd_begin(struct vk_cmd *c)
{
    struct vk *vk = c->vk;
    const VkCommandBufferBeginInfo info = {
        .sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_BEGIN_INFO };
    assert(!c->recording && (has_run(c) || vk->lost));
    vk_times_collect(vk);
    c->err = (struct err){0};
    c->recording = true;
    c->recorded = false;
    c->bound = NULL;
    c->stages = 0;
    c->n_barriers = c->n_dispatches = c->n_ops = 0;
    vk_hazards_clear(&c->recent);
    vk_hazards_clear(&c->settled);
    vk_hazards_clear(&c->counts);
    if (vk->lost) {
        vk_cmd_fail(c, -EIO, "the Vulkan device is lost");
        return;
    }
    check(c, vk->f.ResetCommandPool(vk->device, c->pool, 0), "command buffer");
    check(c, vk->f.BeginCommandBuffer(c->buffer, &info), "command buffer");
    c->profiled = vk->profiling;
    if (c->profiled)
        vk_times_begin(c);
}

int vk_cmd_end(struct vk_cmd *c, struct err *err)
{
    const VkMemoryBarrier last = {
        .sType = VK_STRUCTURE_TYPE_MEMORY_BARRIER,
        .srcAccessMask = WRITES,
        .dstAccessMask = READS | WRITES | VK_ACCESS_HOST_READ_BIT,
    };
    assert(c->recording);
    c->recording = false;
    if (c->err.code == 0) {
        c->vk->f.CmdPipelineBarrier(c->buffer, STAGES_ALL,
                                    STAGES_ALL | VK_PIPELINE_STAGE_HOST_BIT, 0, 1, &last, 0, NULL,
                                    0, NULL);
        check(c, c->vk->f.EndCommandBuffer(c->buffer), "command buffer");
    }
    if (c->err.code)
        return err_set(err, c->err.code, "%s", c->err.msg);
    c->recorded = true;
    return 0;
}

uint32_t vk_cmd_barriers(const struct vk_cmd *c)
{
    return c->n_barriers;
}

uint32_t vk_cmd_dispatches(const struct vk_cmd *c)
{
    return c->n_dispatches;
}

// ---- order ------------------------------------------------------------------------------------

static void barrier(struct vk_cmd *c, VkPipelineStageFlags from, VkPipelineStageFlags to,
                    VkAccessFlags seen)
{
    const VkMemoryBarrier b = {
        .sType = VK_STRUCTURE_TYPE_MEMORY_BARRIER,
        .srcAccessMask =
            (from & VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT ? VK_ACCESS_SHADER_WRITE_BIT : 0) |
            (from & VK_PIPELINE_STAGE_TRANSFER_BIT ? VK_ACCESS_TRANSFER_WRITE_BIT : 0),
        .dstAccessMask = seen,
    };
    c->vk->f.CmdPipelineBarrier(c->buffer, from, to, 0, 1, &b, 0, NULL, 0, NULL);
    c->stages = 0;
    c->n_barriers++;
    vk_hazards_clear(&c->recent);
}

static void barrier_for_all(struct vk_cmd *c)
{
    barrier(c, STAGES_ALL, STAGES_ALL, READS | WRITES);
    vk_hazards_clear(&c->settled);
    vk_hazards_clear(&c->counts);
}

static void barrier_for_dispatches(struct vk_cmd *c)
{
    if (vk_hazards_move(&c->settled, &c->recent))
        barrier(c, c->stages, VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT,
                VK_ACCESS_SHADER_READ_BIT | VK_ACCESS_SHADER_WRITE_BIT);
    else
        barrier_for_all(c);
}

// What a command uses: its own accesses, in its stage, and the counts of an indirect dispatch.
struct uses {
    VkPipelineStageFlags stage;
    const struct vk_use *item, *counts; // counts: NULL, or one
    uint32_t             n;
};

static bool waits_for_all(const struct vk_cmd *c, const struct uses *u)
{
    bool copies = u->stage == VK_PIPELINE_STAGE_TRANSFER_BIT;
    return vk_hazards_meet(&c->counts, u->item, u->n) ||
           (copies && vk_hazards_meet(&c->settled, u->item, u->n)) ||
           (u->counts && (vk_hazards_meet(&c->recent, u->counts, 1) ||
                          vk_hazards_meet(&c->settled, u->counts, 1)));
}

static bool take_in(struct vk_cmd *c, const struct uses *u)
{
    return vk_hazards_add(&c->recent, u->item, u->n) &&
           (!u->counts || vk_hazards_add(&c->counts, u->counts, 1));
}

// Starts one command: waits for those that it depends on. false: the recording has failed before.
static bool start(struct vk_cmd *c, const struct uses *u)
{
    assert(c->recording);
    if (c->err.code)
        return false;
    bool waits = c->stages && (c->profiled || vk_hazards_meet(&c->recent, u->item, u->n));
    if (waits_for_all(c, u) || (waits && u->stage == VK_PIPELINE_STAGE_TRANSFER_BIT))
        barrier_for_all(c);
    else if (waits)
        barrier_for_dispatches(c);
    if (!take_in(c, u)) {
        barrier_for_all(c);
        bool fits = take_in(c, u);
        assert(fits);
    }
    c->stages |= u->stage;
    c->n_ops++;
    return true;
}

static void finish(struct vk_cmd *c, const char *label)
{
    if (c->profiled)
        vk_times_mark(c, label);
}

// ---- commands ---------------------------------------------------------------------------------

static void set_kernel(struct vk_cmd *c, const struct vk_kernel *k, const void *push,
                       size_t push_bytes)
{
    const struct vk_functions *f = &c->vk->f;
    assert(push_bytes <= VK_PUSH_BYTES && push_bytes % 4 == 0);
    if (c->bound != k)
        f->CmdBindPipeline(c->buffer, VK_PIPELINE_BIND_POINT_COMPUTE, k->pipeline);
    c->bound = k;
    if (push_bytes > 0)
        f->CmdPushConstants(c->buffer, c->vk->layout, VK_SHADER_STAGE_COMPUTE_BIT, 0,
                            (uint32_t)push_bytes, push);
}

void vk_dispatch(struct vk_cmd *c, const struct vk_kernel *k, const char *label, const void *push,
                 size_t push_bytes, struct vk_groups n, const struct vk_use *uses, uint32_t n_uses)
{
    const uint32_t *max = c->vk->caps.limits.maxComputeWorkGroupCount;
    const struct uses u = { VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT, uses, NULL, n_uses };
    assert(n.x <= max[0] && n.y <= max[1] && n.z <= max[2]);
    if (n.x == 0 || n.y == 0 || n.z == 0 || !start(c, &u))
        return;
    set_kernel(c, k, push, push_bytes);
    c->vk->f.CmdDispatch(c->buffer, n.x, n.y, n.z);
    c->n_dispatches++;
    finish(c, label);
}

static struct vk_use part(const struct vk_mem *m, size_t at, size_t bytes, bool write)
{
    assert(at <= m->bytes && bytes <= m->bytes - at);
    return (struct vk_use){ m->addr + at, bytes, write };
}

void vk_dispatch_indirect(struct vk_cmd *c, const struct vk_kernel *k, const char *label,
                          const void *push, size_t push_bytes, const struct vk_mem *args, size_t at,
                          const struct vk_use *uses, uint32_t n_uses)
{
    const struct vk_use counts = part(args, at, sizeof(VkDispatchIndirectCommand), false);
    const struct uses u = { VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT, uses, &counts, n_uses };
    assert(at % 4 == 0);
    if (!start(c, &u))
        return;
    set_kernel(c, k, push, push_bytes);
    c->vk->f.CmdDispatchIndirect(c->buffer, args->buffer, args->offset + at);
    c->n_dispatches++;
    finish(c, label);
}

void vk_copy(struct vk_cmd *c, const struct vk_mem *dst, size_t dst_at, const struct vk_mem *src,
             size_t src_at, size_t bytes)
{
    const struct vk_use uses[] = {
        part(dst, dst_at, bytes, true), part(src, src_at, bytes, false) };
    const struct uses u = { VK_PIPELINE_STAGE_TRANSFER_BIT, uses, NULL, ARRAY_LEN(uses) };
    const VkBufferCopy region = { src->offset + src_at, dst->offset + dst_at, bytes };
    if (bytes == 0 || !start(c, &u))
        return;
    c->vk->f.CmdCopyBuffer(c->buffer, src->buffer, dst->buffer, 1, &region);
    finish(c, "copy");
}

void vk_fill(struct vk_cmd *c, const struct vk_mem *dst, size_t at, size_t bytes, uint32_t word)
{
    const struct vk_use use = part(dst, at, bytes, true);
    const struct uses u = { VK_PIPELINE_STAGE_TRANSFER_BIT, &use, NULL, 1 };
    assert(at % 4 == 0 && bytes % 4 == 0);
    if (bytes == 0 || !start(c, &u))
        return;
    c->vk->f.CmdFillBuffer(c->buffer, dst->buffer, dst->offset + at, bytes, word);
    finish(c, "fill");
}
