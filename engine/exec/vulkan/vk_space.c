// The free list of a slab. Room for one more gap than there are pieces is made when a piece is
// taken, so that giving one back never needs memory.
#include "engine/exec/vulkan/vk_space.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "base/base.h"

static int reserve(struct vk_space *s, uint32_t n)
{
    if (n <= s->gaps_cap)
        return 0;
    uint32_t cap = MAX(n, s->gaps_cap * 2);
    struct vk_gap *gap = realloc(s->gap, cap * sizeof(*gap));
    if (!gap)
        return -ENOMEM;
    s->gap = gap;
    s->gaps_cap = cap;
    return 0;
}

int vk_space_init(struct vk_space *s, size_t at, size_t bytes)
{
    *s = (struct vk_space){0};
    if (reserve(s, 8))
        return -ENOMEM;
    s->gap[s->n_gaps++] = (struct vk_gap){ at, bytes };
    return 0;
}

void vk_space_finish(struct vk_space *s)
{
    free(s->gap);
    *s = (struct vk_space){0};
}

static struct vk_gap *best(const struct vk_space *s, size_t bytes)
{
    struct vk_gap *ret = NULL;
    for (uint32_t i = 0; i < s->n_gaps; i++)
        if (s->gap[i].bytes >= bytes && (!ret || s->gap[i].bytes < ret->bytes))
            ret = &s->gap[i];
    return ret;
}

size_t vk_space_fit(const struct vk_space *s, size_t bytes)
{
    const struct vk_gap *g = best(s, bytes);
    return g ? g->bytes : 0;
}

int vk_space_take(struct vk_space *s, size_t bytes, size_t *at)
{
    assert(bytes > 0);
    if (reserve(s, s->n_pieces + 2))
        return -ENOMEM;
    struct vk_gap *g = best(s, bytes);
    if (!g)
        return -ENOSPC;
    *at = g->at;
    s->n_pieces++;
    if (g->bytes > bytes) {
        *g = (struct vk_gap){ g->at + bytes, g->bytes - bytes };
        return 0;
    }
    s->n_gaps--;
    memmove(g, g + 1, (size_t)(&s->gap[s->n_gaps] - g) * sizeof(*g));
    return 0;
}

void vk_space_give(struct vk_space *s, size_t at, size_t bytes)
{
    uint32_t i = 0;
    while (i < s->n_gaps && s->gap[i].at < at)
        i++;
    assert(s->n_pieces > 0 && (i == s->n_gaps || at + bytes <= s->gap[i].at));
    assert(i == 0 || s->gap[i - 1].at + s->gap[i - 1].bytes <= at);
    s->n_pieces--;
    bool joins_before = i > 0 && s->gap[i - 1].at + s->gap[i - 1].bytes == at;
    bool joins_after = i < s->n_gaps && at + bytes == s->gap[i].at;
    if (joins_before && joins_after) {
        s->gap[i - 1].bytes += bytes + s->gap[i].bytes;
        s->n_gaps--;
        memmove(&s->gap[i], &s->gap[i + 1], (s->n_gaps - i) * sizeof(s->gap[0]));
    } else if (joins_before) {
        s->gap[i - 1].bytes += bytes;
    } else if (joins_after) {
        s->gap[i] = (struct vk_gap){ at, bytes + s->gap[i].bytes };
    } else {
        assert(s->n_gaps < s->gaps_cap);
        memmove(&s->gap[i + 1], &s->gap[i], (s->n_gaps - i) * sizeof(s->gap[0]));
        s->gap[i] = (struct vk_gap){ at, bytes };
        s->n_gaps++;
    }
}
