// Submission and waiting: one timeline semaphore whose value is the last ticket that has run.
#include <errno.h>
#include "base/base.h"
#include "base/clock.h"
#include "engine/exec/vulkan/vk_int.h"

// ---- injected faults --------------------------------------------------------------------------

void vk_inject(struct vk *vk, enum vk_fault fault, uint32_t after)
{
    vk->fault = fault;
    vk->fault_after = after;
}

bool vk_fault_due(struct vk *vk, enum vk_fault kind)
{
    if (vk->fault != kind || vk->fault_after-- > 0)
        return false;
    vk->fault = VK_FAULT_NONE;
    return true;
}

// ---- submit -----------------------------------------------------------------------------------

static VkResult queue(struct vk *vk, const VkCommandBuffer *buffer, uint32_t n, uint64_t ticket)
{
    const VkTimelineSemaphoreSubmitInfo timeline = {
        .sType = VK_STRUCTURE_TYPE_TIMELINE_SEMAPHORE_SUBMIT_INFO,
        .signalSemaphoreValueCount = 1,
        .pSignalSemaphoreValues = &ticket,
    };
    const VkSubmitInfo info = {
        .sType = VK_STRUCTURE_TYPE_SUBMIT_INFO,
        .pNext = &timeline,
        .commandBufferCount = n,
        .pCommandBuffers = buffer,
        .signalSemaphoreCount = 1,
        .pSignalSemaphores = &vk->timeline,
    };
    return vk->f.QueueSubmit(vk->queue, 1, &info, VK_NULL_HANDLE);
}

int vk_submit(struct vk *vk, struct vk_cmd *c, uint64_t *ticket, struct err *err)
{
    VkCommandBuffer buffer[2];
    struct vk_cmd *zeros = NULL;
    uint32_t n = 0;
    if (vk->lost)
        return vk_is_lost(err);
    assert(c->recorded && (c->ticket <= vk->done_ticket || vk_idle(vk)));
    if (vk_fault_due(vk, VK_FAULT_LOST))
        return vk_failed(vk, VK_ERROR_DEVICE_LOST, "submit", err);
    vk_times_collect(vk);
    int r = vk_zeros_record(vk, &zeros, err);
    if (r)
        return r;
    if (zeros)
        buffer[n++] = zeros->buffer;
    buffer[n++] = c->buffer;
    VkResult result = queue(vk, buffer, n, vk->last_ticket + 1);
    if (result)
        return vk_failed(vk, result, "submit", err);
    c->ticket = ++vk->last_ticket;
    if (zeros) {
        zeros->ticket = c->ticket;
        vk->n_zeros = 0;
    }
    if (vk_fault_due(vk, VK_FAULT_TIMEOUT))
        vk->stuck_ticket = c->ticket;
    if (c->profiled)
        vk_times_submitted(c);
    *ticket = c->ticket;
    return 0;
}

// ---- wait -------------------------------------------------------------------------------------

void vk_spin(struct vk *vk, uint64_t ns)
{
    vk->spin_ns = ns;
}

static VkResult poll(struct vk *vk)
{
    uint64_t value = 0;
    VkResult r = vk->f.GetSemaphoreCounterValue(vk->device, vk->timeline, &value);
    // A lost device may report any value.
    if (r == VK_SUCCESS && value <= vk->last_ticket)
        vk->done_ticket = MAX(vk->done_ticket, value);
    return r;
}

bool vk_idle(struct vk *vk)
{
    VkResult r = VK_SUCCESS;
    if (vk->done_ticket < vk->last_ticket)
        r = poll(vk);
    return r == VK_ERROR_DEVICE_LOST || vk->done_ticket == vk->last_ticket;
}

static VkResult spin(struct vk *vk, uint64_t ticket, uint64_t ns)
{
    uint64_t end_ns = clock_now_ns() + ns;
    VkResult r = poll(vk);
    while (r == VK_SUCCESS && vk->done_ticket < ticket && clock_now_ns() < end_ns) {
#if defined(__x86_64__)
        __builtin_ia32_pause();
#endif
        r = poll(vk);
    }
    return r;
}

static VkResult sleep_for(struct vk *vk, uint64_t ticket, uint64_t timeout_ns)
{
    const VkSemaphoreWaitInfo info = {
        .sType = VK_STRUCTURE_TYPE_SEMAPHORE_WAIT_INFO,
        .semaphoreCount = 1,
        .pSemaphores = &vk->timeline,
        .pValues = &ticket,
    };
    VkResult r = vk->f.WaitSemaphores(vk->device, &info, timeout_ns);
    if (r == VK_SUCCESS)
        vk->done_ticket = MAX(vk->done_ticket, ticket);
    return r;
}

bool vk_drain(struct vk *vk, uint64_t timeout_ns)
{
    if (!vk_idle(vk))
        sleep_for(vk, vk->last_ticket, timeout_ns);
    return vk_idle(vk);
}

int vk_wait(struct vk *vk, uint64_t ticket, uint64_t timeout_ns, struct err *err)
{
    assert(ticket <= vk->last_ticket);
    if (ticket <= vk->done_ticket && !(vk->stuck_ticket && ticket >= vk->stuck_ticket))
        return 0;
    if (vk->lost)
        return vk_is_lost(err);
    VkResult r = VK_TIMEOUT;
    if (!vk->stuck_ticket || ticket < vk->stuck_ticket) {
        uint64_t spin_ns = MIN(vk->spin_ns, timeout_ns);
        r = spin(vk, ticket, spin_ns);
        if (r == VK_SUCCESS && vk->done_ticket < ticket)
            r = sleep_for(vk, ticket, timeout_ns - spin_ns);
    }
    if (r == VK_TIMEOUT) {
        vk->lost = true;
        return err_set(err, -ETIMEDOUT, "%s: a step did not end within %.3f s",
                       vk->caps.info.name, (double)timeout_ns / (double)NS_PER_S);
    }
    if (r)
        return vk_failed(vk, r, "wait", err);
    vk_times_collect(vk);
    return 0;
}

int vk_run(struct vk *vk, struct vk_cmd *c, uint64_t timeout_ns, struct err *err)
{
    uint64_t ticket;
    int r = vk_submit(vk, c, &ticket, err);
    return r ? r : vk_wait(vk, ticket, timeout_ns, err);
}
