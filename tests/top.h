// What an executor may pick out of rows of logits (struct out_top), computed plainly from them; and
// an executor around another one that gives nothing but that.
#pragma once
#include "engine/exec/executor.h"

struct top_row {                        // the arrays of one out_top
    int32_t token[OUT_TOP_MAX];
    float   logit[OUT_TOP_MAX];
    float  *sum, *sum1;                 // (n_vocab / 64, rounded up), owned
};

void top_row_init(struct top_row *r, uint32_t n_vocab);
void top_row_finish(struct top_row *r);

// As wanted; what would be drawn is near only if `near` says so.
void top_pick(const float *row, uint32_t n_vocab, const struct out_want *want, bool near,
              struct top_row *r, struct out_top *ret);

struct top_counts { uint64_t picked, read_tokens; };    // rows; logits that were read afterwards

// Makes x give picks from now on, whatever it is; until top_unwrap. One at a time.
void top_wrap(struct executor *x, uint32_t n_vocab, uint32_t outputs_max);
struct top_counts top_unwrap(struct executor *x);
