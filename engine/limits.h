// Every maximum of the engine, with the relations between them.
#pragma once
#include "base/base.h"

#define KV_BLOCK_TOKENS 64          // tokens of a KV block
#define LAYERS_MAX 1024
#define HEADS_MAX 1024
#define HEAD_DIM_MAX 512
#define VOCAB_MAX (1u << 22)
#define CTX_MAX (1u << 24)          // tokens of one sequence
#define TENSOR_DIMS_MAX 4
#define BATCH_ROWS_MAX 4096         // rows of one step
#define BATCH_SEQS_MAX 1024         // sequences of one step
#define STOP_STRINGS_MAX 16
#define STOP_BYTES_MAX 256          // of one stop string
#define LOGIT_BIAS_MAX 1024
#define LOGPROBS_MAX 20

static_assert(BATCH_ROWS_MAX % KV_BLOCK_TOKENS == 0, "a full batch is whole blocks");
static_assert(BATCH_SEQS_MAX <= BATCH_ROWS_MAX, "every sequence of a batch has a row");
