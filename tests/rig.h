// A small model by hand on any executor, for tests: slots of chosen widths, a plan of a few
// operations, random weights.
//
// The device is what TEST_DEVICE names ("vulkan:llvmpipe"), else the CPU; where there is no such
// device, the test is skipped. All rigs of a program share one executor.
#pragma once
#include "tests/test.h"
#include "engine/exec/executor.h"
#include "tests/rows.h"

#define RIG_ROWS_MAX 1024
#define RIG_OPS_MAX 64
#define RIG_TENSORS_MAX 32
#define RIG_THREADS 2

struct rig {
    struct model  model;
    struct plan   plan;
    struct op     op[RIG_OPS_MAX];
    struct tensor tensor[RIG_TENSORS_MAX];
    uint32_t      n_tensors;
    uint32_t      threads;              // 0: RIG_THREADS
    bool          fast;                 // not exact
    enum kv_type  k_type, v_type;

    struct executor *x;                 // borrowed
    struct program  *g;
    struct kv_layout layout;
    uint32_t         n_blocks;
};

bool rig_is_cpu(void);

// A rig with heads and no operations yet.
void rig_init(struct rig *r, uint32_t heads, uint32_t kv_heads, uint32_t dim);
const struct tensor *rig_tensor(struct rig *r, uint32_t n_in, uint32_t n_out, float scale,
                                float offset);
struct op *rig_op(struct rig *r, enum op_kind kind);
// Loads what was put together, with n_blocks KV blocks unless that is 0.
void rig_open(struct rig *r, uint32_t n_blocks);
void rig_close(struct rig *r);          // the model stays
void rig_finish(struct rig *r);
// The executor for a rig's threads and exactness; rig_forget ends it, so that the next is fresh.
struct executor *rig_executor(const struct rig *r);
void rig_forget(void);

void rig_step(struct rig *r, struct batch *b);
// Rows [0, n) as one sequence at pos0.
struct batch_seq rig_step_one(struct rig *r, const uint32_t *table, uint32_t n_blocks,
                              uint32_t pos0, uint32_t n, struct attn_policy attn);
// Fills a slot of both sides with the same floats.
void rig_fill_slot(struct rig *r, struct ref *ref, enum slot s, float scale);
double rig_slot_error(struct rig *r, const struct ref *ref, enum slot s);
