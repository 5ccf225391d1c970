// The selectors' table, the block budget of a row, and the choice of the best-scored blocks.
#include "engine/select/select.h"
#include <errno.h>
#include <string.h>
#include "base/base.h"

const struct selector selectors[SELECTOR_COUNT] = {
#define SELECTOR(id, n_digests) [SELECT_##id] = { .name = #id, .digests = n_digests },
#include "shaders/select.def"
#undef SELECTOR
};

#define LOCAL_BLOCKS_MIN 2
#define LOCAL_SHARE 4               // the local blocks are a quarter of the budget

int selector_by_name(const char *name)
{
    for (int i = 0; i < SELECTOR_COUNT; i++)
        if (strcmp(name, selectors[i].name) == 0)
            return i;
    return -ENOENT;
}

struct attn_policy attn_policy_dense(void)
{
    return (struct attn_policy){ .selector = SELECT_dense };
}

int attn_policy_init(struct attn_policy *p, const char *name)
{
    int id = selector_by_name(name);
    if (id < 0)
        return id;
    struct attn_policy r = { .selector = (uint8_t)id };
    if (id == SELECT_window)
        r.window_tokens = ATTN_WINDOW_DEFAULT;
    if (id == SELECT_topk)
        r.budget_tokens = ATTN_BUDGET_DEFAULT;
    if (id != SELECT_dense)
        r.sink_tokens = ATTN_SINK_DEFAULT;
    *p = r;
    return 0;
}

struct topk_split topk_split_for(const struct attn_policy *p, uint32_t pos)
{
    uint32_t held = pos / KV_BLOCK_TOKENS + 1;
    uint32_t budget = p->budget_tokens / KV_BLOCK_TOKENS;
    uint32_t sink = MAX(1u, p->sink_tokens / KV_BLOCK_TOKENS +
                            (p->sink_tokens % KV_BLOCK_TOKENS != 0));
    uint32_t local = MAX((uint32_t)LOCAL_BLOCKS_MIN, budget / LOCAL_SHARE);
    uint32_t chosen = (uint64_t)budget > (uint64_t)sink + local ? budget - sink - local : 0;
    // A row whose tokens all fit reads them all, though its last block is only partly filled.
    if (p->budget_tokens > pos)
        chosen = held;
    struct topk_split r;
    r.sink = MIN(sink, held);
    r.local = MIN(local, held - r.sink);
    r.chosen = MIN(chosen, held - r.sink - r.local);
    return r;
}

// Unsigned integers in the order of the floats; equal zeros, and NaN beyond everything.
static uint32_t ordered(float score)
{
    uint32_t u;
    score += 0.0f;                  // -0 becomes +0
    memcpy(&u, &score, sizeof(u));
    return u & 0x80000000u ? ~u : u | 0x80000000u;
}

// The k-th highest key by its bytes from the top down: those with (key & *known) above the returned
// value are among the k, and so are the first *equal of those that have it.
static uint32_t kth_key(const uint32_t *key, uint32_t n, uint32_t k, uint32_t *known,
                        uint32_t *equal)
{
    uint32_t value = 0;
    *known = 0;
    for (int shift = 24; shift >= 0; shift -= 8) {
        uint32_t count[256] = {0}, byte = 255;
        for (uint32_t i = 0; i < n; i++)
            if ((key[i] & *known) == value)
                count[key[i] >> shift & 255]++;
        for (; count[byte] < k; byte--)
            k -= count[byte];
        value |= byte << shift;
        *known |= 255u << shift;
        if (count[byte] == k)
            break;                      // all that share these bytes are among the k
    }
    *equal = k;
    return value;
}

void topk_choose(const float *score, uint32_t n, uint32_t k, uint32_t *list, uint32_t *scratch)
{
    assert(k <= n);
    if (k == 0)
        return;
    for (uint32_t i = 0; i < n; i++)
        scratch[i] = ordered(score[i]);
    uint32_t known, equal, m = 0, value = kth_key(scratch, n, k, &known, &equal);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t key = scratch[i] & known;
        if (key > value || (key == value && equal > 0 && equal--))
            list[m++] = i;
    }
    assert(m == k);
}
