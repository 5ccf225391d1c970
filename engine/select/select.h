// Attention selectors: which blocks a row reads. One row of shaders/select.def each.
//
// A selector turns (row position, digests) into an ascending list of blocks per KV head; gather
// attention consumes it. Selection depends on the row alone, never on what else is in the batch or
// on how a prompt was cut into chunks.
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "base/err.h"
#include "engine/limits.h"

enum selector_id {
#define SELECTOR(name, digests) SELECT_##name,
#include "shaders/select.def"
#undef SELECTOR
    SELECTOR_COUNT
};

struct attn_policy {                    // of a request
    uint8_t  selector;                  // enum selector_id
    uint32_t budget_tokens;             // topk: tokens read by a row, forced blocks included
    uint32_t window_tokens;             // window: tokens up to and including the row's own
    uint32_t sink_tokens;               // always read from the start of the sequence
};

#define ATTN_BUDGET_DEFAULT 4096
#define ATTN_WINDOW_DEFAULT 4096
#define ATTN_SINK_DEFAULT 64

struct selector {
    const char *name;
    uint32_t    digests;                // vectors per block and KV head
};
extern const struct selector selectors[SELECTOR_COUNT];

int selector_by_name(const char *name);             // enum selector_id, or -ENOENT
// The policy that native attention means; and one by name with its defaults.
struct attn_policy attn_policy_dense(void);
int attn_policy_init(struct attn_policy *p, const char *name);

// topk: the number of blocks that are forced and chosen for a row at `pos`.
//   sink blocks: the first DIV_UP(sink_tokens, KV_BLOCK_TOKENS), at least 1
//   local blocks: the last MAX(2, budget_blocks / 4), the row's own included
//   the rest of budget_blocks = MAX(budget_tokens / KV_BLOCK_TOKENS, sink + local) by score
struct topk_split { uint32_t sink, local, chosen; };    // blocks; at most those there are
struct topk_split topk_split_for(const struct attn_policy *p, uint32_t pos);

// Chooses the k highest of n scores, ties to the lower index, into ascending `list` (k).
// Requires k <= n. scratch holds n uint32.
void topk_choose(const float *score, uint32_t n, uint32_t k, uint32_t *list, uint32_t *scratch);
