// Rows of activation slots to and from the host, between steps.
//
// They pass through pinned host memory by a command of their own. Nobody waits for a write: the
// step that is submitted after it runs after it.
#include <string.h>
#include "base/base.h"
#include "base/clock.h"
#include "engine/exec/vulkan/vulkan.h"

#define MOVE_TIMEOUT_NS (60 * NS_PER_S)

// Room for all rows of the slot that nothing on the device uses any more.
static int make_ready(struct vk_program *g, enum slot s)
{
    struct vk_slot_move *m = &g->slot_move;
    size_t bytes = (size_t)g->params.rows_max * g->stride[s] * sizeof(float);
    int r = m->cmd ? 0 : vk_cmd_create(g->vk, &m->cmd, NULL);
    if (r == 0)
        r = vk_wait(g->vk, m->ticket, MOVE_TIMEOUT_NS, NULL);
    if (r || m->staging.bytes >= bytes)
        return r;
    vk_free(g->vk, &m->staging);
    return vk_alloc(g->vk, VK_HOME_HOST, bytes, &m->staging, NULL);
}

static int move(struct vk_program *g, enum slot s, uint32_t row0, uint32_t n_rows, bool read)
{
    struct vk_slot_move *m = &g->slot_move;
    size_t row_bytes = g->stride[s] * sizeof(float), at = row0 * row_bytes;
    vk_cmd_begin(m->cmd);
    if (read)
        vk_copy(m->cmd, &m->staging, 0, &g->slot[s], at, n_rows * row_bytes);
    else
        vk_copy(m->cmd, &g->slot[s], at, &m->staging, 0, n_rows * row_bytes);
    int r = vk_cmd_end(m->cmd, NULL);
    return r ? r : vk_submit(g->vk, m->cmd, &m->ticket, NULL);
}

int vulkan_slot_read(struct program *p, enum slot s, uint32_t row0, uint32_t n_rows, float *dst)
{
    struct vk_program *g = container_of(p, struct vk_program, p);
    size_t width = g->plan->slot_width[s];
    assert(row0 + n_rows <= g->params.rows_max);
    int r = make_ready(g, s);
    if (r == 0)
        r = move(g, s, row0, n_rows, true);
    if (r == 0)
        r = vk_wait(g->vk, g->slot_move.ticket, MOVE_TIMEOUT_NS, NULL);
    const float *src = g->slot_move.staging.map;
    for (uint32_t i = 0; r == 0 && i < n_rows; i++)
        memcpy(dst + i * width, src + (size_t)i * g->stride[s], width * sizeof(float));
    return r;
}

int vulkan_slot_write(struct program *p, enum slot s, uint32_t row0, uint32_t n_rows,
                      const float *src)
{
    struct vk_program *g = container_of(p, struct vk_program, p);
    size_t width = g->plan->slot_width[s];
    assert(row0 + n_rows <= g->params.rows_max);
    int r = make_ready(g, s);
    float *dst = g->slot_move.staging.map;
    for (uint32_t i = 0; r == 0 && i < n_rows; i++, dst += g->stride[s]) {
        memcpy(dst, src + i * width, width * sizeof(float));
        memset(dst + width, 0, (g->stride[s] - width) * sizeof(float));
    }
    return r ? r : move(g, s, row0, n_rows, false);
}

void vk_slots_finish(struct vk_program *g)
{
    vk_cmd_destroy(g->slot_move.cmd);
    vk_free(g->vk, &g->slot_move.staging);
    g->slot_move = (struct vk_slot_move){0};
}
