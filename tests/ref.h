// The oracle: every operation of the plan in double precision, one plain loop each, for one
// sequence from position 0. Executors are compared with it; it shares no arithmetic with them.
#pragma once
#include <stdint.h>
#include "engine/exec/executor.h"

struct ref {
    const struct model *model;
    const struct plan  *plan;
    enum kv_type        k_type, v_type;
    struct attn_policy  attn;
    uint32_t            n;              // rows: positions [0, n)
    const int32_t      *token;          // (n)
    const uint32_t     *out_row;        // (n_out)
    uint32_t            n_out;
    double             *slot[SLOT_COUNT];   // (n, slot_width), owned
    double             *k, *v;          // (layers, n, n_kv_heads, head_dim) as stored, owned
    double             *logits;         // (n_out, n_vocab), owned
    uint64_t            blocks_read, blocks_held;
    double             *weight, *score, *one;   // scratch of attention, owned
    bool               *read;
};

// Allocates; the caller may then fill slots.
void ref_init(struct ref *r, const struct model *m, const struct plan *plan, uint32_t n);
void ref_finish(struct ref *r);
// Runs the plan.
void ref_run(struct ref *r);

// One element as a KV type keeps it; `group` is its group of KV_Q8_GROUP elements for q8_0.
double ref_kv_value(enum kv_type t, const double *group, uint32_t i);
// Largest difference relative to the largest value of `want`.
double ref_error(const float *got, const double *want, size_t n);
