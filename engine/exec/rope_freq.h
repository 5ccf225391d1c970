// RoPE's frequencies with their scaling, in double: what every executor's angles come from.
#pragma once
#include "engine/model/model.h"

// Radians per token of each pair of rotated dimensions, (n_rot / 2). `divisors` as the model's
// rope_freqs has them, or NULL.
void rope_frequencies(const struct rope_cfg *c, const struct tensor *divisors, double *freq);
// What cosines and sines are multiplied with.
float rope_magnitude(const struct rope_cfg *c);
