// What tests of the engine share: opening one, asking it, and reading the whole answer.
#pragma once
#include "tests/test.h"
#include "engine/engine.h"

#define ASK_MODEL "SmolLM2-135M-Instruct.Q4_1.gguf"

struct answer {
    int32_t    token[4096];
    uint32_t   n_tokens, n_prompt;
    struct str text;
    float      logprob_sum;
    struct delta done;
};

// On a device of the test model, with dense attention. Skips the test without the model.
struct engine *open_engine(const char *device, struct engine_params p);

// Greedy, seed 1.
struct request request_of(const int32_t *token, uint32_t n, uint32_t max_tokens);
struct stream *submit(struct engine *e, const struct request *r);
// Reads to the end and closes.
void collect(struct stream *s, struct answer *a);
void ask(struct engine *e, const struct request *r, struct answer *a);
bool same(const struct answer *a, const struct answer *b);

// Waits until nothing runs and no block is in use.
void require_idle(struct engine *e);
