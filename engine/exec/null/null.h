// The null executor's own side, for tests and load generators: what it was given, and what it
// pretends.
//
// It computes nothing and touches no weights. Of a row's logits all are zero but one, which is a
// pure function of the row's token and position: greedy sampling gives an endless, repeatable
// stream of ordinary text tokens, that a model's end token may end after a pseudo-random length.
//
// As a device it is "null", or "null:50ms" (also us and s) to end a step every 50 ms, as long as
// the engine keeps up: for load tests. Faults for tests of whole programs, behind commas: "lost=20"
// fails in step 20, and with "bad=4321" rows of token 4321 have a logit that is no number.
#pragma once
#include <stdint.h>
#include "engine/exec/executor.h"

#define NULL_RECORDS 4096           // of steps; the newest are kept

struct null_record { uint32_t n_rows, n_seqs, n_out; };

struct null_settings {              // all zero after load, but end_token and the device's own
    int32_t  end_token;             // the vocabulary's; -1: none
    uint32_t mean_length;           // one token in so many is the end token; 0: never
    float    bad_logit;             // one of the logits of rows of bad_token; 0: of none
    int32_t  bad_token;
    uint64_t step_ns;               // how long wait() takes
    uint64_t period_ns;             // of steps that follow each other; 0, unless the device says so
    uint64_t fail_step;             // the step (from 1) whose wait() fails; 0: none
    int      fail_code;             // with this negative errno
};

struct null_settings null_settings(const struct program *g);
void null_set(struct program *g, const struct null_settings *s);

uint64_t null_steps(const struct program *g);       // submitted so far
// Step i, 0 <= i < null_steps(), among the newest NULL_RECORDS.
struct null_record null_record(const struct program *g, uint64_t i);
// What greedy sampling gives after `token` at position `pos`.
int32_t null_next_token(const struct program *g, int32_t token, uint32_t pos);
