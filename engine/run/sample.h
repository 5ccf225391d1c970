// Sampling: from a row of logits to a token, for one sequence.
//
// In this order: logit_bias is added; tokens of prompt and answer have their logit divided by
// repeat_penalty when positive, else multiplied by it; tokens of the answer lose frequency_penalty
// per occurrence and presence_penalty once; logits are divided by the temperature; then top_k,
// top_p and min_p keep the most likely tokens, each measured on what the one before left. Equal
// logits rank by lower id. Temperature 0 takes the best token.
//
// Draw i of a sequence depends on (seed, i) and the logits alone: not on threads, on what else
// runs, or on the width of the machine's vectors.
// Thread-safety: none; samplers of one thread may share a scratch.
#pragma once
#include <stdint.h>
#include "engine/engine.h"
#include "engine/exec/executor.h"

struct sampler_scratch {        // one per thread that samples; sized for a vocabulary
    uint32_t  n_vocab;
    uint32_t  n_kept;           // tokens that the last draw chose from; in token[] unless all
    float    *row;              // (n_vocab) logits after bias and penalties
    float    *block_max;        // (blocks of ROW_BLOCK logits)
    float    *block_sum;        // (blocks) of weights
    uint32_t *key;              // (n_vocab) candidates: logit as an ordered integer,
    float    *weight;           // (n_vocab) probability relative to the best token's,
    int32_t  *token;            // (n_vocab) ascending
    uint32_t *bin_n;            // (SAMPLER_BINS)
    uint64_t *bin_mass;         // (SAMPLER_BINS)
};
#define SAMPLER_BINS 2048

// Returns 0 or -ENOMEM.
int  sampler_scratch_init(struct sampler_scratch *w, uint32_t n_vocab);
void sampler_scratch_finish(struct sampler_scratch *w);     // a zeroed one is fine

struct sampler_seen {           // an open hash table: tokens that penalties look at
    struct seen { int32_t token; uint32_t generated; bool prompt; } *slot;  // token -1: free
    uint32_t n, n_slots;        // n_slots is a power of two, or 0
};

struct sampler {
    struct gen_params   params; // bias is borrowed
    uint32_t            n_vocab;
    uint64_t            step;   // tokens picked so far
    struct sampler_seen seen;
};

// The parameters' ranges are the caller's to check, bias tokens included; p->bias must outlive the
// sampler. Returns 0 or -ENOMEM.
int  sampler_init(struct sampler *s, const struct gen_params *p, uint32_t n_vocab,
                  const int32_t *prompt, uint32_t n_prompt);
void sampler_finish(struct sampler *s);     // a zeroed one is fine

// Picks the next token and remembers it. lp, if not NULL, gets its logprobs with params.logprobs
// alternatives: of the model's own distribution, before bias, penalties and temperature.
// Returns 0, -EDOM (a logit is NaN or infinite, or all are minus infinity), -ENOMEM. On failure
// nothing changed.
int sampler_pick(struct sampler *s, struct sampler_scratch *w, const float *logits, int32_t *token,
                 struct token_logprob *lp, struct err *err);

// ---- without the whole row ----

// What an executor should pick out of the row of the next token.
void sampler_want(const struct sampler *s, struct out_want *ret);

struct row_reader {             // gives logits [first, first + n) of a row
    int  (*read)(void *ctx, uint32_t first, uint32_t n, float *dst, struct err *err);
    void  *ctx;
};

// sampler_pick from what the executor picked: the same token, the same logprobs.
// Returns as sampler_pick does, and -EAGAIN: this takes the whole row; or what read() gave.
int sampler_pick_top(struct sampler *s, struct sampler_scratch *w, const struct out_top *t,
                     const struct row_reader *reader, int32_t *token, struct token_logprob *lp,
                     struct err *err);

// ---- prompts ----

// Logprobs of a token that was not sampled (a prompt's). logits (w->n_vocab). Returns 0 or -EDOM.
int sampler_logprob(struct sampler_scratch *w, const float *logits, int32_t token, uint32_t n_top,
                    struct token_logprob *ret, struct err *err);

// Uniform in [0, 1), from seed and number of the draw.
double sampler_uniform(uint64_t seed, uint64_t draw);
