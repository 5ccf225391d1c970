// An executor runs a plan over batches. One struct of functions; the engine never knows which.
//
// An executor gets the whole plan rather than one call per operation: the CPU then keeps its
// threads inside one parallel region per step, and a GPU records a step once per shape. Weights are
// taken in (repacked, uploaded) by load(); KV blocks live in the executor's memory and are named by
// number.
//
// Thread-safety: one thread (the engine's) owns an executor and its program.
// Determinism: what a row computes depends only on its own sequence and on which of its tokens were
// generated: not on the batch around it, not on how its prompt was cut into chunks, not on the
// number of threads.
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "base/err.h"
#include "engine/kv/homes.h"
#include "engine/kv/layout.h"
#include "engine/kv/paging.h"
#include "engine/model/model.h"
#include "engine/model/plan.h"
#include "engine/select/select.h"

// Part of the name of every stored KV block: raise it when a change of any executor changes the
// bits of its results, so that blocks of both never mix.
#define EXECUTOR_VERSION 1

struct executor;                        // each kind embeds this first
struct program;                         // a model taken in by an executor

struct executor_params {
    uint32_t threads;                   // 0: one per core that this process may use
    bool     exact;                     // exactly dequantised weights, float32 activations
    const char *device_arg;             // what stands behind the device's name; NULL: nothing
    const char *cache_dir;              // where compiled kernels are kept; NULL: nowhere
};

struct load_params {
    uint32_t      rows_max;             // rows of a batch
    uint32_t      seqs_max;             // sequences of a batch
    uint32_t      outputs_max;          // rows with logits of a batch; 0: there are none
    enum kv_type  k_type, v_type;
    // Called now and then while weights are taken in; may be NULL. Non-zero stops the load with
    // -ECANCELED.
    int         (*progress)(void *ctx, uint64_t done_bytes, uint64_t total_bytes);
    void         *progress_ctx;
};

struct batch_seq {                      // rows of one sequence, at consecutive positions
    const uint32_t *block;              // (n_blocks) its block table; covers pos0 + n_rows tokens
    uint32_t        n_blocks;
    uint32_t        row0, n_rows;       // its rows in the batch
    uint32_t        pos0;               // position of row0
    // Its tokens were generated, not given: such rows may run on other kernels than prompts do, so
    // the two never mix in one entry. Generating sequences come before those with prompts.
    bool            decode;
    struct attn_policy attn;
    uint64_t        blocks_read, blocks_held;   // out: summed over its rows, layers and KV heads

    // Out, with paging:
    uint32_t        faults;             // pages that its rows waited for, or did not get
    uint64_t        wait_ns;            // how long, about
    bool            missed;             // what the step did for it is void: run it again
    // A block of its table that can be had no more, and so missed; KV_BLOCK_LOST_NONE: all can.
    uint32_t        lost;               // index in `block`
};

#define KV_BLOCK_LOST_NONE UINT32_MAX

// Picking a token mostly takes the best few logits of a row and some sums over it. An executor that
// is far from the host may give just these (struct out_top) and keep its rows, of which parts are
// read on demand; the engine does the rest: penalties, temperature, the cuts, the draw, logprobs.
// What it draws is what it would from the whole row. Where what it was given does not tell, it
// reads that row: so an executor may give less than is wanted, and never needs to be asked twice.

#define OUT_TOP_MAX 256                 // best tokens that anybody wants
#define OUT_SUM_TOKENS 64               // tokens that share a sum

struct out_want {
    uint32_t n_top;                     // best tokens that are of use; 0: only the row itself is
    float    scale;                     // sums of exp((logit - max) * scale) are of use; 0: none
    bool     lse;                       // and so are sums with scale 1
    double   draw;                      // in [0, 1): a token is drawn here in the sums; -1: none is
};

struct out_top {                        // of one output row; the arrays are the executor's
    // A logit is NaN; then the rest is void. Infinite ones just rank first.
    bool         nan;
    // The best tokens, by descending logit; equal ones (-0 and 0 are) by ascending id. May be fewer
    // than were wanted, or 0: the row has to be read.
    uint32_t     n;
    const int32_t *token;               // (n)
    const float *logit;                 // (n)
    // Sums of tokens [64 i, 64 i + 64), with want.scale, and with scale 1 if want.lse says so.
    // NULL: not known. Eight lanes add every eighth token, ascending; their sums, by lane, are
    // added as ((0+4) + (2+6)) + ((1+5) + (3+7)); exp() is 0 below -85. An executor whose exp() is
    // that of engine/run/sample_row.c gives the very tokens and logprobs of whole rows; another's
    // differ where rounding decides, and still depend on nothing but the row.
    const float *sum, *sum1;            // (n_vocab / 64, rounded up)
    // Logits of tokens [near0, near0 + n_near): where the draw probably falls, which saves reading
    // them. n_near 0: none.
    uint32_t     near0, n_near;
    const float *near;                  // (n_near)
};

struct batch {
    uint32_t          n_rows, n_seqs, n_out;
    const int32_t    *token;            // (n_rows)
    struct batch_seq *seq;              // (n_seqs), rows ascending and without gaps
    const uint32_t   *out_row;          // (n_out) rows that need logits, ascending
    const struct out_want *want;        // (n_out), or NULL: whole rows
    // With paging: how long the step may wait for pages before it goes on without the sequences
    // that need them. What reads more than memory holds is waited for whatever this says.
    uint64_t          stall_ns;
    // Out, after wait(), the executor's until the next submit(): whole rows in host memory; or,
    // only where something is wanted, NULL and what was picked out of them.
    float            *logits;           // (n_out, n_vocab)
    const struct out_top *top;          // (n_out)
};

struct executor_ops {
    const char *name;                   // "cpu", "null"
    int  (*open)(struct executor **ret, const struct executor_params *p, struct err *err);
    void (*close)(struct executor *x);
    // One line for people: "cpu: 2 threads, AVX2".
    void (*describe)(const struct executor *x, char *buf, size_t size);
    // What the bits of its results depend on besides model, types and policy, as a line of text.
    // NULL: on all that describe() says.
    void (*arithmetic)(const struct executor *x, char *buf, size_t size);
    // Rows of a step beyond which a prompt runs no faster. NULL: the engine's own idea of it.
    uint32_t (*rows_usual)(const struct executor *x);

    // Takes in a model. m stays the caller's and outlives the program. The tables of RoPE and the
    // like come from m->cfg; the operations from `plan` (m->plan, or a test's own).
    int  (*load)(struct executor *x, const struct model *m, const struct plan *plan,
                 const struct load_params *p, struct program **ret, struct err *err);
    void (*unload)(struct program *g);

    // Bytes of the device's own memory that kv_alloc() may take and still leave room for steps.
    // NULL or 0: it takes the machine's.
    uint64_t (*kv_room)(struct program *g);
    // Bytes of KV pages that may lie in the device's own memory: kv_alloc() puts the others into
    // pinned host memory, where attention reads them in place with the very same results. Called
    // before kv_alloc(), if at all. NULL: the machine's memory is all there is.
    void (*kv_limit)(struct program *g, uint64_t device_bytes);
    // The block pool: allocates n_blocks blocks and fills in the layout. Once per program.
    int  (*kv_alloc)(struct program *g, uint32_t n_blocks, struct kv_layout *ret, struct err *err);
    void (*kv_copy)(struct program *g, uint32_t dst_block, uint32_t src_block);
    // A whole block to or from host memory (layout.block_bytes). With paging: one that is not
    // backed; what is written then takes memory as if a step wrote it.
    void (*kv_read)(struct program *g, uint32_t block, void *dst);
    void (*kv_write)(struct program *g, uint32_t block, const void *src);
    // NULL: all pages lie in one place.
    void (*kv_homes)(const struct program *g, struct kv_homes *ret);

    // Paging (engine/kv/paging.h): pages in memory take at most memory_bytes; `disk` outlives the
    // program's last step. Called before kv_alloc(), which then takes any number of blocks that
    // there is memory for the digests of. NULL: this executor holds all pages.
    void (*kv_page)(struct program *g, struct kv_disk *disk, uint64_t memory_bytes);
    // The stored form of a FULL block can be fetched from now on; or, before the block gets other
    // content, what it holds is of no use any more.
    void (*kv_backed)(struct program *g, uint32_t block, bool backed);
    // The block has this content: its digests (layout.digest_bytes); its pages are fetched when
    // needed. It is backed from now on.
    void (*kv_write_digests)(struct program *g, uint32_t block, const void *digests);
    void (*kv_page_stats)(const struct program *g, struct kv_page_stats *ret);

    // Starts a step; b and what it points to stay valid and untouched until wait() returns.
    // Returns 0, -ENOMEM (it never began, and others may), -EIO (as below).
    int  (*submit)(struct program *g, struct batch *b, struct err *err);
    // Returns 0, -ETIMEDOUT, -EIO (the device is lost: nothing more will work), or -ENOMEM (what
    // the step did is void, and others may go well).
    int  (*wait)(struct program *g, uint64_t timeout_ns, struct err *err);
    // Logits of tokens [first, first + n) of output `out` of the last step. NULL: this executor
    // always gives whole rows, and is not told what is wanted. Returns 0, -ETIMEDOUT, -EIO.
    int  (*logits_read)(struct program *g, uint32_t out, uint32_t first, uint32_t n, float *dst,
                        struct err *err);

    // Times single operations of the steps from now on, or stops it. f, if not NULL, gets what each
    // took since the last call, summed by label (static text). NULL: this executor cannot.
    void (*profile)(struct program *g, bool on,
                    void (*f)(void *ctx, const char *label, uint64_t ns, uint64_t n), void *ctx);

    // Rows of an activation slot, float32 (n_rows, slot_width), between two steps: for executors
    // that share a plan (split.h), and for tests. What is written is there for the step that is
    // submitted next. Returns 0, -ENOMEM, -ETIMEDOUT, -EIO.
    int  (*slot_read)(struct program *g, enum slot s, uint32_t row0, uint32_t n_rows, float *dst);
    int  (*slot_write)(struct program *g, enum slot s, uint32_t row0, uint32_t n_rows,
                       const float *src);
};

struct executor { const struct executor_ops *ops; };
struct program  { struct executor *x; };

extern const struct executor_ops executor_cpu;
extern const struct executor_ops executor_null;
// A build without Vulkan has one that cannot be opened.
extern const struct executor_ops executor_vulkan;
// There is a real GPU that it can use: "auto" takes that.
bool executor_vulkan_wanted(void);

// By a device's name: "auto", or "cpu", "vulkan" or "null" and behind a colon what open() gets as
// device_arg. NULL: unknown.
const struct executor_ops *executor_find(const char *device);
// What stands behind the colon, or NULL.
const char *executor_arg(const char *device);
