// Passes over a row of logits. Sums run in a fixed order: every machine gives the same bits.
#pragma once
#include <stdbool.h>
#include <stddef.h>

#define ROW_BLOCK 64            // logits that share an entry of block_max and block_sum

// Largest value of each block and of the row. Returns whether there is a NaN: they are void then.
bool   row_max(const float *x, size_t n, float *block_max, float *max);
// weight = exp((x - max) * scale), 0 where that is below 1e-37: sums of each block and of the row.
double row_sum_exp(const float *x, size_t n, float max, float scale, float *block_sum);
// The same weights of n values, in place. Returns their sum.
double row_exp(float *x, size_t n, float max, float scale);
