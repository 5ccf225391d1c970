// What the files of the engine share: the engine and one job per request.
#pragma once
#include <pthread.h>
#include "engine/engine.h"
#include "engine/exec/executor.h"
#include "engine/kv/pool.h"
#include "engine/model/model.h"
#include "engine/run/sample.h"
#include "engine/run/sched.h"
#include "engine/run/stop.h"
#include "engine/run/stream.h"
#include "engine/text/utf8.h"

struct paged;
struct stored;
struct sessions;

struct load {                           // of blocks from the store, while the sequence is LOADING
    bool     active;
    bool     by_index;                  // only digests
    uint32_t n_preempted;               // of the sequence when it began: not the same load later
    uint32_t next;                      // block to be read
    uint64_t start_ns, until_ns;        // until then
};

struct job {                            // a request; the engine thread's once it is in the queue
    struct sequence    seq;
    struct stream     *stream;          // the engine's reference
    struct gen_params  gen;             // its lists are the job's own
    struct attn_policy attn;
    struct logit_bias *bias;            // owned: the sampler's
    struct sampler     sampler;
    struct stop        stop;
    struct utf8_stream utf8;
    struct session    *session;         // taken, or NULL
    bool               session_append;  // the prompt begins with its text
    uint64_t           deadline_ns;
    uint64_t           submitted_ns, started_ns, first_ns;  // 0: not yet
    struct load        load;
    bool               prompt_begun;    // its first prompt token was handed out
    struct usage       usage;
    struct job        *prev, *next;
};

struct engine_call {                    // what a tool has the engine thread do, on its own stack
    int       (*run)(struct engine *e, struct engine_call *c);
    bool        while_busy;             // requests may be running
    struct err *err;
    int         result;
    bool        finished;
};

struct engine {
    // Constant after engine_open.
    struct engine_info    info;
    struct model         *model;
    struct tokenizer     *tok;
    struct chat_template *tmpl;         // NULL: none, and tmpl_err says why
    struct err            tmpl_err;
    char                 *file, *bos, *eos;     // owned
    char                  device[512];
    struct executor      *x;
    struct program       *prog;
    struct kv_layout      layout;
    struct sched_params   limits;
    bool                  exact, prefix_cache;
    struct hash           kv_model;     // the model in content keys; with a store also its weights
    struct hash           kv_executor;  // and whose arithmetic it is
    int                   wake_fd;      // an eventfd, for the engine thread
    pthread_t             thread;

    // The engine thread's.
    struct kv_pool       *pool;
    struct sched         *sched;
    struct stored        *stored;       // NULL: none
    struct paged         *paged;        // NULL: all pages of the pool are in memory
    struct sessions      *sessions;     // NULL: none; has a lock of its own
    struct job           *jobs;         // all that it has
    bool                  starved;      // the last step was empty: all wait for the store
    uint64_t              n_prompt, n_cached, n_generated;  // tokens, for stats
    struct batch          batch;
    int32_t              *batch_token;  // (rows_max)
    struct batch_seq     *batch_seq;    // (seqs_max)
    uint32_t             *batch_out;    // (outputs_max)
    struct out_want      *batch_want;   // (outputs_max)
    float                *row;          // (n_vocab) a row that was read from the executor
    struct sampler_scratch scratch;
    struct str            text, shown;  // scratch: characters of a token; what of them may be seen

    // Under lock, a leaf.
    pthread_mutex_t       lock;
    pthread_cond_t        call_done;
    struct job           *queue, **queue_end;   // submitted, not yet taken; linked by next
    uint32_t              n_live;       // requests admitted and not ended
    bool                  draining, closing;
    struct engine_call   *call;
    struct engine_stats   stats;
};

// submit.c
// The parent key of the first block of a text under this policy.
void engine_key_root(const struct engine *e, const struct attn_policy *attn,
                     const struct hash *salt, struct hash *ret);
void job_destroy(struct job *j);        // its stream is finished; NULL is fine

// step.c
void *engine_main(void *engine);
void  engine_wake(struct engine *e);    // there is something new for the engine thread
// Fills in the batch and runs it. Returns 0, -ENOMEM (it never began), or that the device is lost,
// which is marked.
int   engine_run_batch(struct engine *e, uint32_t n_rows, uint32_t n_seqs, uint32_t n_out,
                       struct err *err);
// Logits of tokens [first, first + n) of an output of the last step. Returns 0, or that the device
// is lost, which is marked.
int   engine_read_logits(struct engine *e, uint32_t out, uint32_t first, uint32_t n, float *dst,
                         struct err *err);
// The request leaves the engine and its reader gets DONE.
void  job_end(struct engine *e, struct job *j, enum finish_reason reason, const struct err *err);

// output.c
// A step computed rows [from, from + it->n_rows) of j; its outputs in the batch begin at `out`. May
// end the job.
void job_outputs(struct engine *e, struct job *j, const struct sched_item *it, uint32_t from,
                 uint32_t out);
// The token that follows an output of the last step, as sampler_pick() gives it.
int  engine_pick(struct engine *e, struct sampler *s, uint32_t out, int32_t *token,
                 struct token_logprob *lp, struct err *err);
// What stop strings and half characters held back is shown; the text ends here.
void job_flush_text(struct engine *e, struct job *j);

// call.c
// Has the engine thread run c between two steps, and waits. Returns what run() does, or that it was
// refused.
int  engine_call(struct engine *e, struct engine_call *c);
void engine_serve_call(struct engine *e, struct engine_call *c);    // on the engine thread

// eval.c
// Whether a text fits the context and the vocabulary.
int  engine_check_text(const struct engine *e, const int32_t *token, uint32_t n, struct err *err);
