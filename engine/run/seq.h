// A sequence: tokens, the blocks that hold their keys and values, and where it stands.
//
//   WAITING -> PREFILL -> DECODE -> DONE
//      ^         |           |
//      +---------+-----------+
//
//   Preemption goes back to WAITING: blocks are given up, tokens stay and are computed again.
//   DONE is reached from anywhere.
//   LOADING is for blocks that come from the store: WAITING -> LOADING -> PREFILL.
//
// Thread-safety: none; after it was handed to the scheduler a sequence is the engine thread's.
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "base/hash.h"
#include "engine/kv/table.h"

enum seq_state { SEQ_WAITING, SEQ_LOADING, SEQ_PREFILL, SEQ_DECODE, SEQ_DONE, SEQ_STATE_COUNT };

struct sequence {
    enum seq_state  state;
    int32_t        *token;          // (n_max), owned: the prompt, then what was generated
    uint32_t        n_prompt, n_tokens, n_max;
    uint32_t        n_computed;     // tokens whose KV rows are in the table; the rest is pending
    uint32_t        out_from, out_to;   // rows in [from, to) need logits too, not only the last one
    struct kv_table table;
    struct hash     root;           // parent key of the first block
    struct hash    *key;            // (n_max / KV_BLOCK_TOKENS), owned
    uint32_t        n_keys;         // blocks whose key is known
    bool            reuse;          // blocks are taken from and given to the prefix cache
    uint64_t        client;
    uint32_t        n_cached;       // prompt tokens that the cache had, at the first admission
    uint32_t        n_stored;       // LOADING: leading blocks that pool and store have together
    uint32_t        n_preempted;    // times
    bool            held;           // its pages are under way: it is in no step before they came
    uint32_t        n_missed;       // steps in a row that were void for want of its pages
    uint32_t        n_lost;         // blocks that could not be read back
    uint32_t        n_begun;        // blocks that steps wrote into, void ones too

    // The scheduler's.
    uint64_t         arrival;       // lower is older
    uint32_t         client_slot;
    uint64_t         planned, deferred; // number of the step that has it, or that passed it over
    struct sequence *next;          // in the client's queue
};

struct seq_params {
    const int32_t *token; uint32_t n_tokens;    // the prompt, copied
    uint32_t       n_max;           // prompt and generated tokens, >= n_tokens
    struct hash    root;
    bool           reuse;
    bool           score;           // every row but the prompt's last needs logits
    uint64_t       client;
};

// Also computes the keys of the prompt's blocks. Returns 0 or -ENOMEM.
int  seq_init(struct sequence *s, const struct seq_params *p);
void seq_finish(struct sequence *s);            // its table must be empty; a zeroed one is fine

// The one place where the state changes; asserts that the step is allowed.
void seq_move(struct sequence *s, enum seq_state to);
// Appends a generated token: everything before it is computed.
void seq_push(struct sequence *s, int32_t token);
// Makes keys of the first n blocks available; their tokens must be known.
void seq_make_keys(struct sequence *s, uint32_t n);

static inline uint32_t seq_pending(const struct sequence *s)
{
    return s->n_tokens - s->n_computed;
}

// Leading blocks that may come from the cache: the last token is always computed, since its row
// gives the logits, and so is every row whose own logits are wanted.
uint32_t seq_n_reusable(const struct sequence *s);
// The rows in [from, to) that need logits.
uint32_t seq_n_outputs(const struct sequence *s, uint32_t from, uint32_t to);
bool     seq_is_output(const struct sequence *s, uint32_t row);
