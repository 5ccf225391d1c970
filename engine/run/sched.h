// The scheduler: which rows of which sequences run in the next step.
//
// Every step: first one row of each decoding sequence, then chunks of prompts, sized so that the
// step is expected to stay within max_step_ns, or within a multiple of that for one prompt's chunk
// where nothing decodes. Chunks and admissions go to the client that was served the fewest tokens,
// within a client to the oldest sequence. After a preemption generated tokens are computed again
// like a prompt, but in chunks of their own, since executors may tell them from a prompt's.
//
// A sequence is admitted when the pool has blocks for all its tokens, and gets them at once. Where
// the store has blocks behind those that the pool has, it is LOADING first: it runs, but is in no
// step. Decoding takes a block now and then; when the pool is dry the youngest running sequence is
// preempted. The oldest running one therefore always goes on, and since each fits into the pool
// alone, all finish.
//
// Pure: no clock, no lock, no executor, no allocation after sched_create.
// Thread-safety: none; the engine thread owns it.
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "base/err.h"
#include "engine/kv/pool.h"
#include "engine/run/cost.h"
#include "engine/run/seq.h"

struct sched;

struct sched_params {
    uint32_t rows_max;              // rows of a step, > seqs_max
    uint32_t seqs_max;              // running sequences
    uint32_t outputs_max;           // rows with logits of a step, >= seqs_max
    uint32_t live_max;              // waiting and running sequences
    uint64_t max_step_ns;
    // Whether the block with this key can be loaded; no I/O. NULL: there is no store.
    bool   (*is_stored)(void *ctx, const struct hash *key);
    void    *is_stored_ctx;
    // Blocks that a step may begin to fill. NULL: any number.
    uint32_t (*room)(void *ctx);
    void    *room_ctx;
};

struct sched_item {                 // rows [n_computed, n_computed + n_rows) of a sequence
    struct sequence *seq;
    uint32_t         n_rows, n_out;
    bool             decode;        // of generated tokens, computed again perhaps; else of prompts
    bool             missed;        // set before sched_commit(): the step was void for it
};

struct sched_step {
    struct sched_item *item;        // (n_items), at most seqs_max; generated tokens come first
    uint32_t           n_items, n_rows, n_out;
    struct step_work   work;
};

struct sched_stats { uint32_t n_running, n_waiting; uint64_t preemptions; };

// The pool stays the caller's. Returns 0 or -ENOMEM.
int  sched_create(struct sched **ret, const struct sched_params *p, struct kv_pool *pool,
                  struct err *err);
void sched_destroy(struct sched *s);                        // must be empty; NULL is fine

// A WAITING sequence joins the queue of its client. There are fewer than live_max, and the pool
// could hold its n_max tokens.
void sched_add(struct sched *s, struct sequence *q);
// It leaves, whatever its state: its blocks are given back and it is DONE. Not between sched_plan
// and sched_commit of a step that has it, unless that step is given up.
void sched_remove(struct sched *s, struct sequence *q);
// A block that the running sequence has is lost: it gives up all, and waits to be computed again.
void sched_restart(struct sched *s, struct sequence *q);
// Between steps, the youngest running sequence gives up all for the others, and waits. False: there
// are no others.
bool sched_yield_youngest(struct sched *s);
// Nothing of what it computed or used is found in the cache again.
void sched_forget(struct sched *s, struct sequence *q);

// The next step; valid until the next call. Empty (n_items 0) only when nothing is waiting or
// running, or what runs is LOADING, held, or wants a block that there is no room for.
const struct sched_step *sched_plan(struct sched *s);
// The planned step ran: its rows are computed, its full blocks can be found, and sequences without
// pending rows DECODE. The caller then pushes a token to each of those or removes it.
void sched_commit(struct sched *s);
// All of that took step_ns: what steps cost is learned from it.
void sched_learn(struct sched *s, uint64_t step_ns);
// And so from a step that was not planned here.
void sched_learn_work(struct sched *s, struct step_work w, uint64_t step_ns);

// The next block of a LOADING sequence now holds what was stored under its key.
void sched_loaded(struct sched *s, struct sequence *q);
// It computes the rest. It also leaves the state when it is preempted or removed.
void sched_load_end(struct sequence *q);
// How long computing rows [pos0, pos0 + n_rows) of a sequence is expected to take.
uint64_t sched_expect_ns(const struct sched *s, uint32_t pos0, uint32_t n_rows);

struct sched_stats sched_stats(const struct sched *s);
