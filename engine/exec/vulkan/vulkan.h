// Inside the Vulkan executor: a program is the plan with each operation's weights and kernels, and
// a step is one command buffer that was recorded for the shape of the batch.
//
// All that differs from step to step (tokens, positions, block tables, what attention reads) lies
// in memory that the host writes before the submit (struct step_mem); a recorded command buffer
// depends only on the shape. Kernels launched for more rows than there are leave at once.
//
// Rows of generated tokens come first in a batch and run on kernels for few rows; rows of prompts
// run on tiled kernels where the device has matrices. Which of the two a row takes depends on its
// role alone (batch_seq.decode), so its bits never depend on the batch around it.
#pragma once
#include "engine/exec/executor.h"
#include "engine/exec/view.h"
#include "engine/exec/vulkan/kv_place.h"
#include "engine/exec/vulkan/vk.h"

#define VULKAN_LAYOUT_VERSION 3         // of the order of elements in K and V slices (kv.c)

// Rules of plan_fuse.h whose results all kernels here understand.
#define VULKAN_FUSE_RULES FUSE_ALL

#define VK_KV_TIMEOUT_NS (10 * UINT64_C(1000000000))

struct vulkan_executor {
    struct executor x;
    struct vk      *vk;
    bool            exact;
    char           *cache;              // path of the file of compiled kernels, owned; NULL: none
};

// ---- weights (weights.c) ----------------------------------------------------------------------

#define MAT_PARTS_MAX 16

// A matrix as kernels read it: planes of integers, scales and so on, each row-major, cut by rows
// into parts of at most VK_SLAB_BYTES. What the planes hold is the format's own (shaders/quant/).
struct vk_mat {
    const struct tensor *t;             // borrowed: dim[0] = n_in, dim[1] = n_out
    uint32_t n_in, n_out;
    uint32_t part_rows, n_parts;        // rows of every part but the last
    struct vk_mem part[MAT_PARTS_MAX];
    size_t   row_bytes;
};

struct vk_op {
    const struct op *op;
    struct vk_mat   *mat[OP_W_MAX];     // borrowed from the program; EMBED too
    struct vk_mem    vector[OP_W_MAX];  // NORM: its weights; MATMUL: biases; in `vectors`
    struct vk_mem    norm_weight[2];    // MATMUL, LOGITS: of `normed` and `added`; QKV_STORE: q, k
    const struct vk_kernel *kernel;     // EMBED, ROPE, GLU, GATHER, KV_WRITE, QKV_STORE
    const struct vk_kernel *norm;       // NORM; what makes a product's input, or NULL
    uint32_t         norm_steps;        // of enum norm_step
    uint8_t          act;               // MATMUL, LOGITS: which of g->act has its input
    const struct vk_op *next;           // MATMUL, ATTN: the product whose input its results are,
                                        // if its kernels can make that (norm.c)
    uint16_t         attn_class;        // ATTN
    bool             gathered;          // runs on output rows
};

// What norm.comp does with a row, as norm.glsl has it.
enum norm_step {
    NORM_ADDED = 1, NORM_NORMED = 2, NORM_FLOATS = 4, NORM_BYTES = 8, NORM_HALVES = 16,
    NORM_UNIT = 32
};

// ---- a step's data (step.c) -------------------------------------------------------------------

// As shaders/step.glsl has it.
struct step_row { int32_t token; uint32_t pos, table, seq; };   // table: first entry of its blocks
struct step_head { uint32_t n_rows, n_decode, n_out, n_seqs; };

struct step_mem {
    struct vk_mem head;                 // struct step_head
    struct vk_mem row;                  // (rows_max) struct step_row
    struct vk_mem out_row;              // (outputs_max) uint32
    struct vk_mem table;                // block tables of all sequences, one after the other
};

// What comes back of rows of logits: all of them, in host memory; or, while they stay on the device
// (top.h), the best tokens of each; or those and sums. Single rows may want less.
enum vk_outputs { VK_OUTPUTS_ROWS, VK_OUTPUTS_BEST, VK_OUTPUTS_SUMS };

// What a command buffer is recorded for: counts rounded up, never beyond rows_max and outputs_max,
// so that few shapes occur. The attn_* are attention's (attn.h): rows of generated tokens run
// whole, not in splits; and the number of slices in which rows choose their blocks, 0 where none
// does.
struct shape {
    uint32_t n_decode, n_prompt, n_out;
    enum vk_outputs outputs;
    bool attn_whole;
    uint32_t attn_slices;
};

// ---- RoPE (rope.c) ----------------------------------------------------------------------------

struct vk_rope {
    struct vk_mem turn;                 // (rows_max, half, 2) cos, sin of the step's rows, upload
    uint32_t      half;                 // n_rot / 2; 0: unused
    float         magnitude;
    double       *table;                // (ROPE_DIGITS, ROPE_BASE, 2, half) cos | sin, owned
    double       *scratch;              // (2, half), owned
};

// ---- KV (kv.c, kv_homes.c) --------------------------------------------------------------------

// Pages in one home.
struct vk_slots {
    struct vk_mem *slab;                // (n_slabs), owned
    uint32_t       n_slabs, per_slab;
};

#define KV_MOVE_THREADS 256             // of kv_move.comp and kv_swap.comp

// A page is one layer of one block. page.map[layer * n_blocks + block] is its address: device or
// pinned host memory, shaders do not care. Digests have arrays of their own, compact and always on
// the device: a layer's digest of (block, head) at (block * n_kv_heads + head) * digest_head_bytes.
struct vk_kv {
    bool             limited;           // by vulkan_kv_limit
    uint64_t         device_bytes_max;
    struct kv_disk  *disk;              // the engine's; NULL: no paging
    uint64_t         memory_bytes_max;
    struct kv_layout layout;
    uint32_t         n_blocks;
    struct vk_slots  device, host;
    struct kv_place  place;             // which page lies in which slot
    struct vk_mem    page;              // (n_layers, n_blocks) uint64, upload
    struct vk_mem   *digest;            // (n_layers), owned
    struct vk_mem    digest_at;         // (n_layers) uint64: their addresses, upload
    struct vk_mem    staging;           // one block, pinned on the host
    struct vk_cmd   *cmd;               // of whole blocks that are moved, and of swaps
    uint64_t         ticket;            // its last run of swaps
    const struct vk_kernel *move, *swap;

    // Only while pages lie in both homes or on the host:
    struct vk_mem    used, used_host;   // (n_layers, n_blocks) uint16: a row that chose its blocks
                                        // read this page; device, and its copy after the step
    struct vk_mem    copies;            // (2 * swaps_max) struct page_copy, upload
};

struct vk_paging;                       // paging.h
struct vk_attn;                         // attn.c: classes, units, lists, scratch
struct vk_top;                          // top.c: rows that stay, what is picked out of them

struct vk_slot_move {                   // slots.c: rows on their way to or from the host
    struct vk_mem  staging;             // pinned on the host
    struct vk_cmd *cmd;
    uint64_t       ticket;              // of its last submit
};

struct vk_program {
    struct program         p;
    struct vulkan_executor *x;
    struct vk              *vk;
    const struct model     *model;
    const struct model_cfg *cfg;
    struct plan            *plan;       // rewritten, owned
    struct load_params      params;
    bool                    exact, wide_teams;      // wide_teams: a test wants them

    struct vk_op  *op;                  // (plan->n_ops), owned
    struct vk_mat *mat;                 // (n_mats), owned
    uint32_t       n_mats;
    struct vk_mem  vectors;             // norm weights and biases, float32
    struct vk_rope rope[2];             // global, local

    struct vk_mem  slot[SLOT_COUNT];    // (rows_max, stride) float32
    uint32_t       stride[SLOT_COUNT];  // floats, a multiple of 32
    struct vk_mem  act[2];              // inputs of products as bytes or halves (norm.c)
    struct vk_mem  count;               // of workgroups that ended (last.glsl); 0 between steps
    const struct vk_kernel *rows_act;   // makes only bytes
    struct vk_matvec *matvec;           // matmul.c: kernels, owned
    struct vk_matrix *matrix;           // matrix.c: kernels, owned; NULL: not used
    struct vk_mem  logits;              // (outputs_max, n_vocab) float32, VK_HOME_HOST: whole rows
    uint32_t       n_vocab;
    uint32_t       n_tokens;            // rows of the embedding; 0: the plan has none

    struct vk_kv    kv;
    struct vk_paging *paging;           // NULL: all pages are in memory
    struct vk_attn *attn;
    struct vk_top  *top;                // NULL: there are no logits
    struct step_mem step;
    struct vk_slot_move slot_move;

    struct batch   *batch;
    uint64_t        ticket;
    struct recorded *recorded;          // (n_recorded), owned: step.c's command buffers by shape
    uint32_t         n_recorded;
    uint64_t         n_steps;

    struct { const struct vk_op *op; bool prompts_too; } ready;     // vk_input_ready
};

static inline uint32_t vk_group_heads(const struct vk_program *g)
{
    return g->cfg->n_heads / g->cfg->n_kv_heads;
}

static inline bool vk_is_paged(const struct vk_program *g)
{
    return g->kv.disk != NULL;
}

static inline const struct rope_cfg *vk_rope_cfg(const struct vk_program *g, const struct op *op)
{
    return op->rope.local ? &g->cfg->rope_local : &g->cfg->rope;
}

// Each family of operations has one file with: an init called by load (makes its kernels), a
// record called for each of its operations while a step is recorded, and a finish.

// Rows that an operation is launched for.
static inline uint32_t vk_op_rows(const struct vk_op *o, const struct shape *s)
{
    return o->gathered ? s->n_out : s->n_decode + s->n_prompt;
}

// rows.c: EMBED, GLU (also after a MATMUL with OP_GLU_OUT, for rows of prompts), GATHER
int  vk_rows_init(struct vk_program *g, struct err *err);
void vk_rows_record(struct vk_program *g, struct vk_cmd *c, const struct vk_op *o,
                    const struct shape *s);
// norm.c: NORM
int  vk_norm_init(struct vk_program *g, struct vk_op *o, struct err *err);
void vk_norm_record(struct vk_program *g, struct vk_cmd *c, const struct vk_op *o,
                    const struct shape *s);
// and inputs of MATMUL and LOGITS, in the forms that their kernels take: in g->act[o->act], and as
// floats where they lie or in o->op->normed.slot. matmul.c calls these
int  vk_inputs_init(struct vk_program *g, struct err *err);
void vk_inputs_finish(struct vk_program *g);
// Makes what is not ready: a command before may have said that it makes the input of `o`, for the
// rows of generated tokens or for all rows.
void vk_input_ready(struct vk_program *g, const struct vk_op *o, bool prompts_too);
void vk_input_record(struct vk_program *g, struct vk_cmd *c, const struct vk_op *o,
                     const struct shape *s);
// rope.c: ROPE, and the angles of QKV_STORE
int  vk_rope_init(struct vk_program *g, struct err *err);
void vk_rope_fill(struct vk_program *g);    // the angles of the step's rows
void vk_rope_record(struct vk_program *g, struct vk_cmd *c, const struct vk_op *o,
                    const struct shape *s);
void vk_rope_finish(struct vk_program *g);
// weights.c: takes in all matrices and vectors
int  vk_weights_init(struct vk_program *g, struct err *err);
void vk_weights_finish(struct vk_program *g);
// matmul.c: MATMUL, LOGITS
int  vk_matmul_init(struct vk_program *g, struct err *err);
void vk_matmul_record(struct vk_program *g, struct vk_cmd *c, const struct vk_op *o,
                      const struct shape *s);
void vk_matmul_finish(struct vk_program *g);
// matrix.c: rows of prompts on matrix units, where the device has them (g->matrix)
int  vk_matrix_init(struct vk_program *g, struct err *err);
void vk_matrix_record(struct vk_program *g, struct vk_cmd *c, const struct vk_op *o,
                      const struct shape *s);
void vk_matrix_finish(struct vk_program *g);
// kv.c: KV_WRITE, QKV_STORE and the executor's kv_* functions
int  vk_kv_init(struct vk_program *g, struct err *err);
void vk_kv_record(struct vk_program *g, struct vk_cmd *c, const struct vk_op *o,
                  const struct shape *s);
// A layer's part of the table of pages; and what a command uses that touches the pages or digests
// of a layer: that part stands for them.
VkDeviceAddress vk_kv_pages(const struct vk_program *g, uint32_t layer);
struct vk_use   vk_kv_use(const struct vk_program *g, uint32_t layer, bool write);
void vulkan_kv_copy(struct program *p, uint32_t dst_block, uint32_t src_block);
void vulkan_kv_read(struct program *p, uint32_t block, void *dst);
void vulkan_kv_write(struct program *p, uint32_t block, const void *src);
// kv_homes.c: where pages lie
void vulkan_kv_limit(struct program *p, uint64_t device_bytes);
void vk_kv_write_page(struct vk_program *g, uint32_t page);     // its address, for shaders
int  vk_kv_idle(struct vk_program *g, struct err *err);         // what kv.cmd did last is done
// With paging, all pages of a block that is not backed get slots. Returns 0, -ENOMEM.
int  vk_kv_claim(struct vk_program *g, uint32_t block, struct err *err);
// The page gets a slot in host memory; where that is, or NULL: there is none to be had.
void *vk_kv_enter(struct vk_program *g, uint32_t page);
// Blocks that a sequence's rows read without a choice: [0, n_sink) and [first, end).
struct kv_reach { uint32_t n_sink, first, end; };
struct kv_reach vk_kv_reach(const struct batch_seq *s, uint32_t window);
int  vulkan_kv_alloc(struct program *p, uint32_t n_blocks, struct kv_layout *ret, struct err *err);
void vulkan_kv_homes(const struct program *p, struct kv_homes *ret);
void vk_kv_finish(struct vk_program *g);
// kv.cmd begins anew, when what it did last is done.
int  vk_kv_cmd_begin(struct vk_program *g, struct err *err);
void vk_kv_block_set(struct vk_program *g, uint32_t block);     // its content was
// Before a step's commands are submitted: pages that change places do so ahead of them.
int  vk_kv_step_begin(struct vk_program *g, struct err *err);
// After the step, with its batch: which pages it read.
void vk_kv_step_end(struct vk_program *g);
// The commands by which rows that choose their blocks tell which: at the start of a step and at its
// end; and where a layer's kernels leave it, address 0: nowhere.
void vk_kv_used_clear(struct vk_program *g, struct vk_cmd *c);
void vk_kv_used_fetch(struct vk_program *g, struct vk_cmd *c);
void vk_kv_used_fetch_layer(struct vk_program *g, struct vk_cmd *c, uint32_t layer);
struct vk_use vk_kv_used(const struct vk_program *g, uint32_t layer);
uint32_t vk_kv_next_used(const struct vk_program *g, uint32_t page);    // marked, from there on
// fetch.c: pages that are fetched from disk (paging.h), and the executor's functions for that
void vulkan_kv_page(struct program *p, struct kv_disk *disk, uint64_t memory_bytes);
void vulkan_kv_backed(struct program *p, uint32_t block, bool backed);
void vulkan_kv_write_digests(struct program *p, uint32_t block, const void *digests);
void vulkan_kv_page_stats(const struct program *p, struct kv_page_stats *ret);
void vk_kv_digests_flush(struct vk_program *g);     // those on their way are on the device's queue
int  vk_paging_init(struct vk_program *g, struct err *err);
void vk_paging_finish(struct vk_program *g);
// paged.c: a step with paging, which waits for pages when it starts and when it is waited for
int  vk_paged_submit(struct vk_program *g, const struct shape *s, struct vk_cmd *whole,
                     struct err *err);
int  vk_paged_wait(struct vk_program *g, uint64_t timeout_ns, struct err *err);
// attn.c: ATTN
int  vk_attn_init(struct vk_program *g, struct err *err);
// Units and views of the step into upload memory, and the batch's counts of blocks. Memory that has
// to grow drops all recorded command buffers (vk_recorded_drop). Sets s->attn_whole and
// s->attn_slices.
int  vk_attn_prepare(struct vk_program *g, struct shape *s, struct err *err);
void vk_attn_record(struct vk_program *g, struct vk_cmd *c, const struct vk_op *o,
                    const struct shape *s);
// That in two parts: rows choose their blocks; they read them.
void vk_attn_select(struct vk_program *g, struct vk_cmd *c, const struct vk_op *o,
                    const struct shape *s);
void vk_attn_read(struct vk_program *g, struct vk_cmd *c, const struct vk_op *o,
                  const struct shape *s);
// The kernels that read, anew once there is paging.
int  vk_attn_readers(struct vk_program *g, struct err *err);
void vk_attn_finish(struct vk_program *g);
// top.c: what is picked out of rows of logits
int  vk_top_init(struct vk_program *g, struct err *err);
void vk_top_finish(struct vk_program *g);
enum vk_outputs vk_top_prepare(struct vk_program *g);   // what the batch wants, into upload memory
const struct vk_mem *vk_top_rows(const struct vk_program *g, const struct shape *s);    // LOGITS'
void vk_top_record(struct vk_program *g, struct vk_cmd *c, const struct shape *s);
void vk_top_take(struct vk_program *g);     // what came back, into the batch
int  vulkan_logits_read(struct program *p, uint32_t out, uint32_t first, uint32_t n, float *dst,
                        struct err *err);
// step.c
int  vk_step_init(struct vk_program *g, struct err *err);
void vk_step_finish(struct vk_program *g);
void vk_recorded_drop(struct vk_program *g);    // addresses in them are no longer right
// Makes room in memory that recorded command buffers address; what was there is lost.
static inline int vk_grow(struct vk_program *g, struct vk_mem *m, enum vk_home home, size_t bytes,
                          struct err *err)
{
    size_t more = m->bytes + m->bytes / 2;
    if (bytes <= m->bytes)
        return 0;
    vk_recorded_drop(g);
    vk_free(g->vk, m);
    return vk_alloc(g->vk, home, bytes > more ? bytes : more, m, err);
}
void vk_op_record(struct vk_program *g, struct vk_cmd *c, const struct vk_op *o,
                  const struct shape *s);
uint32_t vk_recorded_barriers(const struct vk_program *g);      // of the last step's, for tests
int  vulkan_submit(struct program *p, struct batch *b, struct err *err);
int  vulkan_wait(struct program *p, uint64_t timeout_ns, struct err *err);
// slots.c: the executor's slot_* functions
int  vulkan_slot_read(struct program *p, enum slot s, uint32_t row0, uint32_t n_rows, float *dst);
int  vulkan_slot_write(struct program *p, enum slot s, uint32_t row0, uint32_t n_rows,
                       const float *src);
void vk_slots_finish(struct vk_program *g);
// program.c
int  vulkan_load(struct executor *x, const struct model *m, const struct plan *plan,
                 const struct load_params *p, struct program **ret, struct err *err);
// With choices of a test's own: rewrites (enum fuse_rule), and kernels for few rows as a device
// with subgroups of 32 has them.
struct vulkan_choice { uint32_t rules; bool wide_teams; };
int  vulkan_load_as(struct executor *x, const struct model *m, const struct plan *plan,
                    const struct vulkan_choice *choice, const struct load_params *p,
                    struct program **ret, struct err *err);
void vulkan_unload(struct program *p);
