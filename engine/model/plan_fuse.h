// Fusions as rewrites of a plan: neighbouring operations become one that does the same arithmetic
// in the same order, for executors that pay for every operation.
//
// A rule takes what it recognises and leaves everything else alone. It never changes what a slot
// holds that anything still reads; a plan that does not end in LOGITS leaves all its slots to the
// caller.
#pragma once
#include <stdint.h>
#include "base/err.h"

enum fuse_rule {
    FUSE_GLU = 1,           // MATMUL of gate and up, GLU -> MATMUL with OP_GLU_OUT
    FUSE_QKV = 2,           // norms of q and k heads if there are any, ROPE, KV_WRITE -> QKV_STORE
    FUSE_NORM = 4,          // NORM, MATMUL or LOGITS of that -> with `normed`
    FUSE_ADDED_NORM = 8,    // NORM that adds, MATMUL or LOGITS with `normed` -> with `added` too
    FUSE_ALL = 15
};

struct model_cfg;
struct plan;

// *ret is the caller's (plan_free); src stays as it is. rules: of enum fuse_rule. Returns 0 or
// -ENOMEM.
int plan_fuse(struct plan **ret, const struct plan *src, const struct model_cfg *cfg,
              uint32_t rules, struct err *err);
