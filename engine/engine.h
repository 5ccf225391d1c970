// The engine: one model behind a queue. The only engine header that server/ sees.
//
// A request goes in as tokens and comes back as a stream of deltas. The engine never waits for a
// client: a stream holds everything that its request may produce. One engine thread owns the
// executor, the blocks and the sequences; every function here may be called from any thread unless
// it says otherwise.
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"
#include "base/hash.h"
#include "base/str.h"
#include "engine/exec/devices.h"
#include "engine/kv/homes.h"
#include "engine/limits.h"
#include "engine/select/select.h"
#include "engine/sessions.h"
#include "engine/text/template.h"
#include "engine/text/tokenizer.h"

struct engine;
struct kv_sim;

struct engine_params {
    const char *model_path;
    const char *device;             // "auto", "cpu", "vulkan", "vulkan:NAME", "null"
    bool        gpu_limited;        // the device, a GPU, gets the model's last gpu_layers layers
    uint32_t    gpu_layers;         // and the output, the CPU the others; all that there are: as
                                    // if not limited, 0: the CPU alone
    const char *cache_dir;          // where compiled kernels are kept; NULL: nowhere
    uint32_t    threads;            // 0: all cores
    bool        exact;              // exactly dequantised weights, float32 activations and KV
    const char *kv_k, *kv_v;        // "f16", "q8_0" ("f32"); NULL: f16, or f32 when exact
    uint32_t    ctx_tokens;         // of one sequence; 0: what the model was trained with
    uint32_t    kv_blocks;          // of the block pool; 0: as many as kv_memory_bytes holds
    uint64_t    kv_memory_bytes;    // of the block pool; with a kv_store only of the pages that are
                                    // in memory, if the executor can fetch others from there.
                                    // 0: four full sequences within a quarter of this machine's
                                    // memory, at least one sequence; on a device with memory of
                                    // its own, what seqs_max full ones need, or what there is: of
                                    // that memory, or within kv_device_bytes and
                                    // a quarter of the machine's
    bool        kv_limited;         // by kv_device_bytes
    uint64_t    kv_device_bytes;    // of the pool's pages that may lie in a device's own memory;
                                    // the others lie in pinned host memory, with the same results,
                                    // and those in use change places with them. Not limited: what
                                    // there is. An executor that has the machine's memory ignores
                                    // it
    const char *kv_store;           // folder of a block store: full blocks are written to it
                                    // behind what runs, and prefixes found there are not computed
                                    // again, by later processes either. NULL: none
    struct kv_sim *kv_store_sim;    // a simulated machine instead, for tests; borrowed
    uint64_t    kv_store_bytes;     // cap of its files; 0: 16 GiB
    uint64_t    kv_store_bytes_per_day;     // that may be written; 0: any number
    uint32_t    seqs_max;           // running at once; 0: 64
    uint32_t    queue_max;          // waiting requests; 0: 256
    uint32_t    max_step_ms;        // goal for one step, sizes prefill chunks; 0: 100
    uint32_t    prefix_cache;       // 0: on, 1: off
    struct attn_policy attn;        // default of requests
    int       (*progress)(void *ctx, uint64_t done_bytes, uint64_t total_bytes);    // of the load
    void       *progress_ctx;
};

// Loads the model and starts the engine thread. Returns 0, or what model_open, the executor and
// memory give, explained in err. On failure *ret is untouched.
int  engine_open(struct engine **ret, const struct engine_params *p, struct err *err);
// Has the executor run a few steps, about a second of them at most, so that the first request is as
// fast as later ones. To be called before it, with the attention that requests mostly have; only
// times are different then. Returns 0, -EBUSY (requests run), -ENOSPC (the pool is in use),
// -ENOMEM, -EDOM (a logit is no finite number), or that the executor is lost.
int  engine_warm(struct engine *e, const struct attn_policy *attn, struct err *err);
// Cancels what runs, joins the thread. Streams must have been closed. What is queued for the store
// is not written any more (store.queued of engine_stats() tells). NULL is fine.
void engine_close(struct engine *e);
// Admits nothing new (-ESHUTDOWN); what runs goes on, and what is to be stored.
void engine_drain(struct engine *e);

struct engine_info {                // constant for the engine's life; strings are the engine's
    const char *arch, *name, *file, *device;
    uint32_t    n_layers, n_vocab, ctx_tokens, ctx_train_tokens;
    uint64_t    weight_bytes, n_params;
    uint64_t    kv_block_bytes;
    uint32_t    kv_blocks;
    const char *kv_k, *kv_v;
    bool        has_template;
    struct hash fingerprint;
};
const struct engine_info *engine_info(const struct engine *e);
const struct tokenizer   *engine_tokenizer(const struct engine *e);

struct engine_store {               // the block store; counters since engine_open()
    bool     on, degraded;          // degraded: it stores nothing any more
    uint64_t capacity_bytes, used_bytes, blocks;
    uint64_t queued;                // blocks and sessions that are still to be written
    uint64_t read_blocks, read_bytes;       // restored
    uint64_t read_failures;         // stored blocks that could not be read, or not in time: then
                                    // the prompt was computed from there on
    uint64_t loads, load_ns;        // sequences that waited for blocks, and how long
    uint64_t written_blocks, written_bytes;
    uint64_t write_failures, write_drops;   // failed or refused; had to be given up before
    uint64_t disk_written_bytes;    // all of it
    uint64_t disk_errors;           // of reads, writes, syncs and commits; damaged blocks
};

struct engine_paging {              // of KV pages to the block store; counters since engine_open()
    bool     on;
    uint64_t dirty_blocks;          // in memory only, until the store has them
    struct kv_page_stats pages;
    uint64_t fetched_pages, fetched_bytes;  // from the store
    uint64_t lost_pages, lost_blocks;       // could not be fetched; so were computed again
    uint64_t missed;                // steps that were void for a sequence, whose pages were late
};

struct engine_sessions {
    uint32_t n, busy;               // there are; have a request running
    uint32_t unsaved;               // are still to be written
    uint64_t save_failures;         // were given up: what is new of them is in memory only
};

struct engine_stats {               // a consistent snapshot
    uint32_t running, waiting, kv_blocks_used, kv_blocks_cached;
    uint64_t requests_stop, requests_length, requests_cancelled, requests_error, requests_rejected;
    uint64_t prompt_tokens, cached_tokens, generated_tokens;
    uint64_t steps, step_rows, step_ns, preemptions;
    uint64_t blocks_read, blocks_held;
    struct kv_homes kv;
    struct engine_store store;
    struct engine_paging paging;
    struct engine_sessions sessions;
    uint64_t nonfinite;             // requests that failed because a logit was no finite number
    uint64_t last_step_ns;          // clock_now_ns() of the last finished step or idle wait
    bool     failed;                // the executor is lost: nothing more will run
    struct err failure;             // and why
};
void engine_stats(struct engine *e, struct engine_stats *ret);

// ---- prompts ----------------------------------------------------------------------------------

// Renders and tokenises a chat. v's bos_token and eos_token may be NULL: the vocabulary's are used.
// text, if not NULL, gets the rendered text too.
// Returns 0, -ENOTSUP (the file has no template), errors of template_render.
int engine_chat_prompt(const struct engine *e, const struct template_vars *v, struct tokens *out,
                       struct rendered *text, struct err *err);

// The same for messages behind a text that ended within or after an answer: what closes that
// answer, the messages, and the beginning of the next one. No BOS, no tools, and nothing that the
// template puts before the first message.
// Also -ENOTSUP: the template writes messages differently, depending on what stands before them.
int engine_chat_turn(const struct engine *e, const struct template_vars *v, struct tokens *out,
                     struct err *err);

// ---- generation --------------------------------------------------------------------------------

struct logit_bias { int32_t token; float bias; };
struct stop_string { const char *p; size_t n; };

struct gen_params {                 // ranges are the caller's to check; see gen_params_default
    uint32_t max_tokens;            // UINT32_MAX: to the end of the context
    float    temperature;           // 0: greedy
    int32_t  top_k;                 // 0: off
    float    top_p, min_p;          // 1, 0: off
    float    presence_penalty, frequency_penalty, repeat_penalty;   // 0, 0, 1: off
    uint64_t seed;
    const struct logit_bias  *bias; uint32_t n_bias;
    const struct stop_string *stop; uint32_t n_stop;
    int      logprobs;              // -1: none; 0..LOGPROBS_MAX alternatives a token
    bool     prompt_logprobs;       // also of the prompt's tokens (echo)
    bool     ignore_end;            // go on after end-of-sequence tokens (benchmarks)
};
struct gen_params gen_params_default(void);     // temperature 1, nothing else on, seed random

struct request {                    // everything is copied by engine_submit
    const int32_t    *token; uint32_t n_tokens; // prompt, >= 1
    struct gen_params gen;
    struct attn_policy attn;
    uint64_t          deadline_ns;  // clock_now_ns() at which it ends with FINISH_DEADLINE; 0: none
    uint64_t          client;       // fairness is between these
    struct hash       salt;         // prefixes are shared only between equal salts
    struct session   *session;      // taken: becomes what the request leaves; or NULL
    bool              session_append;   // the prompt begins with the session's text: that it keeps
                                        // if the request is cut
    // Called, on the engine thread, when a parked reader has something to read; must not block and
    // must not call back into the engine. NULL: the reader uses stream_wait.
    void            (*wake)(void *ctx);
    void             *wake_ctx;
};

enum finish_reason {
    FINISH_NONE, FINISH_STOP, FINISH_LENGTH, FINISH_CANCELLED, FINISH_DEADLINE, FINISH_ERROR,
};

struct token_logprob {
    int32_t token;
    float   logprob;
    uint32_t n_top;
    struct { int32_t token; float logprob; } top[LOGPROBS_MAX];     // descending
};

struct usage {
    uint32_t prompt_tokens, cached_tokens, generated_tokens;
    uint64_t blocks_read, blocks_held;
    uint64_t queued_ns, prefill_ns, decode_ns;  // waiting, until the first token, after it
    uint64_t page_faults, page_bytes, page_wait_ns; // KV pages that were not in memory when rows
                                    // came for them, and how long these waited for them
};

enum delta_kind { DELTA_TEXT, DELTA_PROMPT, DELTA_DONE };

// One piece of an answer. Text is whole UTF-8 characters, empty where a token only began one or
// where text is held back for a stop string. Pointers are borrowed until the next stream_read or
// stream_close of the stream.
struct delta {
    enum delta_kind kind;
    const char     *text; size_t n_text;
    const int32_t  *token; uint32_t n_tokens;       // TEXT, PROMPT: tokens this delta stands for
    const struct token_logprob *logprob;            // (n_tokens), or NULL
    uint64_t        time_ns;                        // when the engine made it
    enum finish_reason reason;                      // DONE
    struct usage       usage;                       // DONE
    struct err         err;                         // DONE with FINISH_ERROR
};

struct stream;

// Admits a request. Returns 0 and a stream that the caller closes, or
//   -E2BIG      prompt longer than the context (err has both numbers)
//   -ENOSPC     its blocks would never fit in the pool (err has the numbers)
//   -EBUSY      the queue is full; try again later
//   -ESHUTDOWN  draining;  -EIO  the executor is lost;  -ENOMEM
int  engine_submit(struct engine *e, const struct request *r, struct stream **ret, struct err *err);

// Takes the next delta. Returns true, or false: nothing yet (the reader is parked: wake() will be
// called once when there is something) or everything was read. After DONE always false.
bool stream_read(struct stream *s, struct delta *ret);
// Blocks until stream_read would give something or timeout_ns passed. Returns false on timeout.
bool stream_wait(struct stream *s, uint64_t timeout_ns);
// Asks the engine to end the request soon (within one step); its stream still ends with DONE.
void stream_cancel(struct stream *s);
// Cancels if need be and frees the reader's side. wake() is not called after it returned. NULL is
// fine.
void stream_close(struct stream *s);

// ---- evaluation, for tools ---------------------------------------------------------------------

// Runs tokens as one fresh sequence and hands out each row's logits (n_vocab) in order; a non-zero
// return of row() stops with that value. Refused (-EBUSY) while requests run.
int engine_eval(struct engine *e, const int32_t *token, uint32_t n, const struct attn_policy *attn,
                int (*row)(void *ctx, uint32_t i, const float *logits, uint32_t n_vocab), void *ctx,
                struct err *err);

// Makes the prefix cache hold texts of n_tokens each, a multiple of KV_BLOCK_TOKENS, without
// computing them: copies of a few computed blocks stand for all, so that any depth is reached at
// once and costs what it always costs; what is generated behind it means nothing. Refused (-EBUSY)
// while requests run. -ENOSPC: the pool does not hold the first text, or one beside it. What is not
// true gets into a block store too, and is left there as it is if all texts are in it: so `salt`
// must be nobody's but the benchmark's.
int engine_bench_fill(struct engine *e, const int32_t *const *text, uint32_t n_texts,
                      uint32_t n_tokens, const struct attn_policy *attn, const struct hash *salt,
                      struct err *err);

// The executor's times of single operations: turned on or off between two steps. f, if not NULL,
// gets the sum of each operation since the last call, and *steps how many steps ran so far.
// -ENOTSUP: this executor does not know them.
typedef void profile_fn(void *ctx, const char *label, uint64_t ns, uint64_t n);
int engine_profile(struct engine *e, bool on, profile_fn *f, void *ctx, uint64_t *steps,
                   struct err *err);

// The memory and plan of a model file, for `inspect`, as one JSON object. Loads no weights.
int engine_inspect(const char *model_path, uint32_t ctx_tokens, struct str *out, struct err *err);
// Tokenizer or template of a file that need not hold tensors; closed by tokenizer_close and
// template_close. *tok may be asked for alone (tmpl NULL).
int engine_open_text(const char *model_path, struct tokenizer **tok, struct chat_template **tmpl,
                     struct err *err);
