// What the two ways of sampling share: from whole rows (sample.c), and from what an executor picked
// out of them (sample_top.c).
#pragma once
#include "engine/run/sample.h"

// Weights are at most 1; as multiples of this they add up to the same in any order. So where top_p
// cuts depends on nothing but the tokens above the cut.
#define MASS_ONE 0x1p40

static inline uint64_t mass_of(float weight) { return (uint64_t)(weight * (float)MASS_ONE); }

// The mass that top_p keeps of all weights' sum; UINT64_MAX: all of it.
uint64_t sampler_mass(const struct gen_params *p, double sum);
// 1 / temperature.
float    sampler_scale(const struct gen_params *p);
bool     sampler_is_unfiltered(const struct gen_params *p);     // no top_k, top_p or min_p

// Makes n candidates by id, whose weight is the logit still, ready for what follows.
void     sampler_set_keys(struct sampler_scratch *w, size_t n);
// Of n candidates by id, in w, keeps the best ones that hold this mass. Returns how many.
size_t   sampler_keep_mass(struct sampler_scratch *w, size_t n, uint64_t mass);
// Applies min_p to the candidates, whose weights are known, and draws one.
int32_t  sampler_draw_kept(const struct sampler *s, struct sampler_scratch *w, size_t n);
// The index at which the running sum of weights passes target; the last with any weight if none.
size_t   sampler_pass(const float *weight, size_t n, double target);

// Whether bias or penalties change any logit.
bool     sampler_adjusts(const struct sampler *s);
// NULL: the token was not seen.
const struct seen *sampler_find_seen(const struct sampler *s, int32_t token);
float    sampler_penalised(const struct gen_params *p, const struct seen *e, float logit);

// Makes sure that a token can be remembered. Returns 0 or -ENOMEM.
int      sampler_reserve(struct sampler *s, struct err *err);
void     sampler_remember(struct sampler *s, int32_t token);
// Whether a row with this largest logit can be sampled from. Returns 0 or -EDOM.
int      sampler_check_max(float max, struct err *err);
