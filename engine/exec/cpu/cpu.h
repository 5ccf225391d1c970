// Inside the CPU executor: a program is the plan cut into phases, and a step walks the phases
// inside one region of the thread pool with one barrier after each.
//
//   PHASE_ROWS      row-wise operations in a chain, and the preparation of the next product's input
//   PHASE_KV_WRITE  unit: the rows of one sequence in one block, one KV head
//   PHASE_ATTN      unit: a tile of rows and a KV head, or one split of a single row and a KV head
//   PHASE_MUL       unit: a range of panels
#pragma once
#include "engine/exec/cpu/matmul.h"
#include "engine/exec/mem.h"
#include "engine/exec/cpu/pages.h"
#include "engine/exec/cpu/pool.h"
#include "engine/exec/cpu/vec.h"
#include "engine/exec/executor.h"
#include "engine/exec/view.h"

#define CPU_LAYOUT_VERSION 2            // of the order of elements in K and V slices (kv.c)

struct cpu_executor {
    struct executor   x;
    struct pool      *pool;
    const struct vec *vec;
    bool              exact;
};

enum phase_kind { PHASE_ROWS, PHASE_KV_WRITE, PHASE_ATTN, PHASE_MUL };

#define PREPARE_NONE SLOT_COUNT

struct phase {
    enum phase_kind kind;
    bool      gathered;                 // runs on the output rows
    uint8_t   prepare;                  // ROWS: enum slot whose rows are prepared at the end
    uint16_t  attn_class;               // ATTN
    uint32_t  op0, n_ops;
};

// An operation's weights as this executor keeps them.
struct cpu_op {
    const struct op  *op;
    struct cpu_mat   *mat[OP_W_MAX];    // borrowed from the program
    const float      *vector[OP_W_MAX]; // NORM: [0] its weights; MATMUL: biases or NULL
};

// Rows of one sequence at consecutive positions inside one block.
struct tile { uint32_t seq, row0, n_rows, pos0; };

// ---- attention (attn_units.c, attn.c) ---------------------------------------------------------

// Layers that share a window share lists and units.
struct attn_unit {
    uint32_t tile, head;
    uint32_t split, n_splits;           // n_splits 0: the whole tile
    uint32_t row;                       // of a split: its (row, head)'s countdown and list
    size_t   partial;                   // of a split: its place among the partial results, floats
};

struct attn_class {
    uint32_t  window;                   // 0: the request's policy
    uint32_t  n_ops;                    // attention operations of the plan
    struct mem unit;                    // (n_units) struct attn_unit
    struct mem select;                  // (n_selects) uint32_t: units whose row chooses its blocks
    uint32_t  n_units, n_selects;       // before any of its splits runs
};

struct attn_scratch;                    // of a thread

// ---- the program ------------------------------------------------------------------------------

struct rope_table {
    struct mem cos, sin;                // (rows_max, n_rot / 2), of the rows of this step
    struct mem freq;                    // (n_rot / 2) double, radians per token
    uint32_t   n_rot;
    float      magnitude;
    bool       used;
};

struct cpu_program {
    struct program          p;
    struct cpu_executor    *cpu;
    const struct model     *model;
    const struct model_cfg *cfg;
    const struct plan      *plan;
    struct load_params      params;

    struct cpu_op  *op;                 // (plan->n_ops), owned
    struct phase   *phase;              // (n_phases), owned
    struct cpu_mat *mat;                // (n_mats), owned
    uint32_t        n_phases, n_mats;
    struct mem      vectors;            // norm weights and biases, float32
    struct rope_table rope[2];          // global, local

    struct mem slot[SLOT_COUNT];        // (rows_max, stride) float
    uint32_t   stride[SLOT_COUNT];      // floats, a multiple of a cache line
    struct mem act;                     // (rows_max, cpu_act_bytes of the widest input)
    struct mem logits;                  // (outputs_max, n_vocab) float
    uint32_t   n_vocab;

    struct pages         kv;
    struct attn_class   *attn_class;    // (n_attn_classes), owned
    uint32_t             n_attn_classes;
    uint32_t             attn_tile_rows;    // the most rows of an attention tile
    struct attn_scratch *attn_scratch;  // (threads), owned
    struct mem           attn_partial;  // (m, l, o) of splits
    struct mem           attn_pending;  // (attn_rows) _Atomic uint32_t: splits still to come
    struct mem           attn_list;     // (attn_rows, attn_list_max) uint32_t: chosen blocks
    uint32_t             attn_list_max;
    struct page_use     *page_use;      // (seqs_max), owned
    uint32_t             pages_ahead;   // of a list, that are fetched before their turn

    // The step.
    _Atomic uint64_t stall_until_ns;    // 0: nobody has waited for a page yet
    struct batch *batch;
    uint32_t     *row_pos, *row_seq;    // (rows_max), owned
    struct tile  *kv_tile;              // (rows_max), owned: whole blocks
    struct tile  *attn_tile;            // (rows_max), owned
    uint32_t      n_kv_tiles, n_attn_tiles;
};

static inline float *slot_row(const struct cpu_program *g, unsigned slot, uint32_t row)
{
    return (float *)g->slot[slot].p + (size_t)row * g->stride[slot];
}

static inline uint32_t group_heads(const struct cpu_program *g)
{
    return g->cfg->n_heads / g->cfg->n_kv_heads;
}

// load.c
int  cpu_load(struct executor *x, const struct model *m, const struct plan *plan,
              const struct load_params *p, struct program **ret, struct err *err);
void cpu_unload(struct program *p);

// step.c
int cpu_submit(struct program *p, struct batch *b, struct err *err);

// rows.c: operations [op0, op0 + n_ops) of a ROWS phase on rows [row0, row1).
void rows_run(struct cpu_program *g, const struct phase *ph, uint32_t row0, uint32_t row1);

// rope.c
int  rope_init(struct cpu_program *g, struct rope_table *t, const struct rope_cfg *cfg,
               struct err *err);
void rope_finish(struct rope_table *t);
void rope_fill(const struct cpu_program *g, struct rope_table *t, uint32_t row);
void rope_run(const struct cpu_program *g, const struct op *op, uint32_t row);

// kv.c
int   cpu_kv_alloc(struct program *p, uint32_t n_blocks, struct kv_layout *ret, struct err *err);
void  cpu_kv_copy(struct program *p, uint32_t dst_block, uint32_t src_block);
void  cpu_kv_read(struct program *p, uint32_t block, void *dst);
void  cpu_kv_write(struct program *p, uint32_t block, const void *src);
void  cpu_kv_page(struct program *p, struct kv_disk *disk, uint64_t memory_bytes);
void  cpu_kv_backed(struct program *p, uint32_t block, bool backed);
void  cpu_kv_write_digests(struct program *p, uint32_t block, const void *digests);
void  cpu_kv_page_stats(const struct program *p, struct kv_page_stats *ret);
// Writes the rows of a tile, and its block's digest with the last of them.
void  kv_write_tile(struct cpu_program *g, const struct op *op, const struct tile *t,
                    uint32_t head);
enum vec_form kv_k_form(enum kv_type t);
enum vec_form kv_v_form(enum kv_type t);

// page_use.c: pages that the sequences of a step need, with paging.
int      page_use_init(struct cpu_program *g, struct err *err);
// A step begins: whatever its rows write has a place. Returns 0 or -ENOMEM.
int      page_use_begin(struct cpu_program *g, struct err *err);
// A page of sequence i_seq's block `index`, held; NULL: it did not come.
uint8_t *page_use_hold(struct cpu_program *g, uint32_t i_seq, uint32_t index, uint32_t layer);
void     page_use_end(struct cpu_program *g);       // tells the batch

// attn_units.c
// Finds the classes of the plan; its ATTN phases must be there.
int  attn_classes_init(struct cpu_program *g, struct err *err);
void attn_classes_finish(struct cpu_program *g);
// Units of every class for the step's tiles, and the counts of blocks in the batch.
int  attn_units_build(struct cpu_program *g, struct err *err);

// attn.c
int   attn_scratch_init(struct cpu_program *g, struct err *err);
void  attn_scratch_finish(struct cpu_program *g);
// Room to choose attn_list_max of at most n_blocks blocks.
int   attn_scratch_grow(struct cpu_program *g, uint32_t n_blocks, struct err *err);
void  attn_run(struct cpu_program *g, const struct phase *ph, uint32_t thread);
