// Block lists and masks of rows.
#include "engine/exec/view.h"
#include "base/base.h"

#define TOKENS KV_BLOCK_TOKENS

// The first position that a window of n tokens up to pos sees.
static uint32_t window_start(uint32_t pos, uint32_t n)
{
    n = MAX(n, 1u);
    return pos >= n ? pos - n + 1 : 0;
}

bool attn_view_selects(const struct attn_policy *policy, uint32_t window, uint32_t pos)
{
    if (window || policy->selector != SELECT_topk)
        return false;
    struct topk_split s = topk_split_for(policy, pos);
    return s.sink + s.local + s.chosen < pos / TOKENS + 1;
}

struct row_view attn_view(const struct attn_policy *policy, uint32_t window, uint32_t pos)
{
    struct row_view v = {0};
    if (window) {
        v.first = window_start(pos, window) / TOKENS;
    } else if (policy->selector == SELECT_window) {
        v.first = window_start(pos, policy->window_tokens) / TOKENS;
        v.n_sink = MIN(v.first, (policy->sink_tokens + (uint64_t)TOKENS - 1) / TOKENS);
    } else if (attn_view_selects(policy, window, pos)) {
        struct topk_split s = topk_split_for(policy, pos);
        v.n = s.sink + s.local + s.chosen;
        return v;
    }
    v.n = v.n_sink + pos / TOKENS + 1 - v.first;
    return v;
}

// Bits [0, n).
static uint64_t below(uint64_t n)
{
    return n >= 64 ? UINT64_MAX : (UINT64_C(1) << n) - 1;
}

// Tokens of a block before position `end`.
static uint64_t before(uint32_t block, uint64_t end)
{
    uint64_t start = (uint64_t)block * TOKENS;
    return end > start ? below(end - start) : 0;
}

struct row_sight attn_sight(const struct attn_policy *policy, uint32_t window, uint32_t pos)
{
    if (window)
        return (struct row_sight){ .start = window_start(pos, window) };
    if (policy->selector != SELECT_window)
        return (struct row_sight){0};
    return (struct row_sight){
        .start = window_start(pos, policy->window_tokens), .sink = policy->sink_tokens,
    };
}

uint64_t attn_visible(const struct attn_policy *policy, uint32_t window, uint32_t pos,
                      uint32_t block)
{
    struct row_sight s = attn_sight(policy, window, pos);
    uint64_t past = before(block, (uint64_t)pos + 1);
    return past & (~before(block, s.start) | before(block, s.sink));
}
