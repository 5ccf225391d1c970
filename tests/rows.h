// Rows of one whole sequence for tests of attention: random queries, keys and values, and what came
// out of them.
#pragma once
#include "engine/model/plan.h"
#include "tests/ref.h"

struct rows {
    uint32_t n;
    uint32_t width, kv_width;
    float   *q, *a;                     // (n, width), owned
    float   *k, *v;                     // (n, kv_width), owned
};

float random_float(void);               // about a normal distribution

void   rows_init(struct rows *x, const struct plan *plan, uint32_t n);
void   rows_finish(struct rows *x);
size_t rows_bytes(const struct rows *x);        // of the outputs
// The oracle's inputs; it was made for as many rows.
void   rows_to_ref(const struct rows *x, struct ref *ref);

// Blocks of a sequence in an order that is not theirs.
void table_fill(uint32_t *table, uint32_t first, uint32_t n);
