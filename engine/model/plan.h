// The plan: a model as one flat list of operations on numbered activation slots.
//
// The same list runs one decode row or thousands of prefill rows. It is built once from model_cfg
// and says nothing about a device. An executor may merge neighbouring operations, but only through
// a rewrite of the plan (plan_fuse.h; plan_print shows it).
// Slots hold float32 (rows, slot_width). Weight matrices are (n_out, n_in), n_in contiguous.
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "base/err.h"
#include "engine/model/cfg.h"
#include "engine/model/gguf.h"

enum op_kind {
    OP_EMBED,       // dst[r] = w[0][token[r]] * scale
    OP_NORM,        // dst = RMSNorm(src; w[0], eps) over head_dim-wide pieces or the whole width
    OP_MATMUL,      // dst[i] = w[i] * src + bias[i], for i < n_w: matrices that share their input
    OP_ROPE,        // dst[0] (q heads) and dst[1] (k heads) rotated in place by position
    OP_KV_WRITE,    // rows src[0] (k), src[1] (v) into the sequence's blocks; digests at block ends
    OP_ATTN,        // dst = attention(src[0] = q) over the blocks that the layer's selector lists
    OP_GLU,         // dst = act(src[0]) * src[1]
    OP_GATHER,      // dst[i] = the batch's output rows of src[i], i < n_w; later operations run on
                    // those only
    OP_LOGITS,      // logits = softcap(scale * w[0] * src); the step's result
    // Of plan_fuse only:
    OP_QKV_STORE,   // dst[0] (q heads) rotated in place; src[0] (k), rotated, and src[1] (v) into
                    // the blocks as KV_WRITE does; before that w[0], w[1], unless NULL, norm each
                    // head of q and k. Slot src[0] stays as it was
    OP_KIND_COUNT
};

enum op_flags {
    OP_ADD = 1,     // NORM, MATMUL: dst += result * scale instead of dst = result
    OP_GLU_OUT = 2, // MATMUL of two, from plan_fuse: dst[0] = act(first result) * second, which
                    // may be kept in dst[1]
};

enum slot {         // activation slots, by role
    SLOT_X,         // residual stream (width)
    SLOT_H,         // normed input of a block (width)
    SLOT_Q,         // (n_heads * head_dim)
    SLOT_K, SLOT_V, // (n_kv_heads * head_dim)
    SLOT_A,         // attention output (n_heads * head_dim)
    SLOT_G, SLOT_U, // MLP gate and up (ff_width); GLU writes into SLOT_G
    SLOT_Y,         // a block's output before a post norm (width)
    SLOT_O,         // output rows of SLOT_X (width)
    SLOT_B,         // output rows of SLOT_A (n_heads * head_dim)
    SLOT_COUNT
};

#define OP_W_MAX 3

struct op_norm {                                // RMSNorm of whole rows inside another operation
    const struct tensor *w;                     // borrowed; NULL: none
    float   eps, scale;
    uint8_t slot;
};

struct op {
    enum op_kind kind;
    uint32_t     flags;                         // enum op_flags
    uint16_t     layer;                         // of KV_WRITE, ATTN; else for the print
    uint8_t      n_w;                           // matrices of a MATMUL, slots of a GATHER
    uint8_t      dst[OP_W_MAX], src[2];         // enum slot
    const struct tensor *w[OP_W_MAX];           // borrowed
    const struct tensor *bias[OP_W_MAX];        // borrowed or NULL
    // MATMUL and LOGITS from plan_fuse, in this order: src[0] += scale * RMSNorm(slot), which
    // stays; and what is multiplied is RMSNorm(src[0]) * scale, which may be kept in its slot.
    struct op_norm added, normed;
    union {
        struct { float scale; } embed;
        struct { float eps, scale; uint32_t piece; } norm;  // piece: width of one normed vector
        struct { float scale; enum act_kind act; } matmul;  // with OP_ADD; with OP_GLU_OUT
        struct { bool local; float eps; } rope;             // cfg->rope_local instead of cfg->rope;
                                                            // eps of QKV_STORE's norms
        struct { float scale, softcap; uint32_t window; } attn; // window 0: the whole sequence
        struct { enum act_kind act; } glu;
        struct { float scale, softcap; } logits;            // scale 1, softcap 0: none
    };
};

struct plan {
    struct op *op;                              // (n_ops), owned
    uint32_t   n_ops;
    uint32_t   slot_width[SLOT_COUNT];          // floats; 0: unused
};

struct weights;
struct str;

// Builds the plan of a model whose cfg and weights are bound. Returns 0 or -ENOMEM.
int  plan_build(struct plan **ret, const struct model_cfg *cfg, const struct weights *w,
                struct err *err);
void plan_free(struct plan *p);                 // NULL is fine
// One line per operation.
void plan_print(const struct plan *p, struct str *out);
const char *op_name(enum op_kind kind);
const char *slot_name(enum slot slot);
