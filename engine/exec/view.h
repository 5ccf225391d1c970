// What a row's attention reads, as every executor means it: a list of blocks and a mask of tokens
// in each.
#pragma once
#include "engine/kv/layout.h"
#include "engine/select/select.h"

// Entries of a row's list whose softmax is one running sum. The list is cut every so many entries,
// and the parts are merged in order by log-sum-exp: so a row's bits depend neither on the batch nor
// on how many threads or workgroups share the work.
#define ATTN_SPLIT_BLOCKS 4

// The blocks that a row reads, n entries: `list` when it is there, else blocks [0, n_sink) and then
// those from `first` on.
struct row_view { const uint32_t *list; uint32_t n, n_sink, first; };

// `window` is the layer's own, 0: the request's policy holds. A view that selects has n but no list
// yet: the selector makes it.
struct row_view attn_view(const struct attn_policy *policy, uint32_t window, uint32_t pos);
// topk reads fewer blocks than there are: the list must be chosen.
bool attn_view_selects(const struct attn_policy *policy, uint32_t window, uint32_t pos);

// Tokens that a row at `pos` sees: position < sink, or start <= position <= pos.
struct row_sight { uint32_t start, sink; };
struct row_sight attn_sight(const struct attn_policy *policy, uint32_t window, uint32_t pos);
// The same as a mask; bit j: token j of the block is visible.
uint64_t attn_visible(const struct attn_policy *policy, uint32_t window, uint32_t pos,
                      uint32_t block);
