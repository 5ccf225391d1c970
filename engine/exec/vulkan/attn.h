// Attention in the Vulkan executor: the step's rows, as the host describes them to shaders, and the
// work they are cut into.
//
// Rows of generated tokens are gathered (attn_gather.comp): a unit is one split of a row's list,
// and the last of a row's to end folds the partial results. When those would take too much memory,
// units are whole rows. Rows of prompts are taken in tiles of neighbours (attn_prompt.comp on
// matrix units, else attn_tile.comp). Rows of topk first choose their blocks (select_score.comp,
// select_choose.comp), in slices of as many rows as there is room for their scores.
#pragma once
#include "engine/exec/vulkan/vulkan.h"

#define ATTN_PARTIAL_BYTES_MAX ((size_t)128 << 20)
#define ATTN_SCORE_BYTES_MAX ((size_t)128 << 20)
#define ATTN_UNITS_MAX 65535u           // workgroups in x that every device takes
#define ATTN_NO_LIST UINT32_MAX

#define SCORE_THREADS 64                // blocks of a workgroup of select_score.comp

// As shaders/attn.glsl, attn_gather.comp and select.glsl have them.
struct attn_row {
    uint32_t start, sink;               // struct row_sight
    uint32_t n, n_sink, first;          // struct row_view
    uint32_t list;                      // its lists, n entries for each KV head; ATTN_NO_LIST
};
struct attn_unit {                      // all that it takes at once: every load waits for another
    uint32_t row, pos, table;           // table: as struct step_row has it
    uint32_t split, n_splits;
    uint32_t partial;                   // the row's first partial result
    struct attn_row attn;
    uint32_t block[ATTN_SPLIT_BLOCKS];  // of its first split, where there is no list
};
struct attn_tile { uint32_t row, n_rows; };
struct attn_select {
    uint32_t row;
    uint32_t sink, n, local, chosen;    // blocks: sinks, candidates, local ones; of the candidates
    uint32_t list;
};
struct attn_slice {                     // of selects
    struct vk_groups score, choose;
    uint32_t first, stride;             // its first select; vec4s of a select's scores
};

// Layers that share a window share rows and units.
struct attn_class {
    uint32_t window;                    // 0: the request's policy
    uint32_t n_ops;                     // attention operations of the plan
    struct vk_mem row;                  // (rows_max) struct attn_row of prompts, upload
    struct vk_mem unit;                 // (n_units) struct attn_unit, upload
    struct vk_mem tile;                 // (rows_max) struct attn_tile, upload
    struct vk_mem groups;               // struct attn_groups, upload
    size_t   n_splits;                  // of all gathered rows
};

struct attn_groups { struct vk_groups gather, tile; };

struct vk_attn {
    struct attn_class *class;           // (n_classes), owned
    uint32_t n_classes;
    uint32_t group;                     // query heads of a KV head
    uint32_t heads;                     // of those, how many a workgroup gathers for
    uint32_t splits_max;                // of a step, before rows run whole
    size_t   score_bytes_max;           // of a slice
    uint32_t tile_rows, tile_heads;     // of a tile, at most; tile_rows a power of two
    const struct vk_kernel *gather, *tile, *score, *choose;

    struct vk_mem select;               // (n_selects) struct attn_select, upload
    struct vk_mem slice;                // (attn_slices) struct attn_slice, upload
    uint32_t n_selects;
    uint32_t candidates_max;            // of a row
    size_t   list_entries;              // of all lists

    struct vk_mem partial_ml, partial_o;    // (splits, n_heads): m and l, (head_dim)
    struct vk_mem done;                 // (rows_max, KV heads, parts) uint32: splits that ended
    struct vk_mem scores;               // (rows of a slice, KV heads, group / 4, stride) vec4
    struct vk_mem list;                 // (list_entries) uint32
};

// Workgroups of a KV head that each take `heads` of its query heads.
static inline uint32_t attn_parts(const struct vk_attn *a, uint32_t heads)
{
    return DIV_UP(a->group, heads);
}

static inline uint32_t attn_head_quads(const struct vk_attn *a)
{
    return DIV_UP(a->group, 4);
}

static inline size_t attn_partial_bytes(const struct vk_program *g)
{
    return g->cfg->n_heads * (size_t)(g->cfg->head_dim + 2) * sizeof(float);
}

// attn.c: the kernels that read K and V, for wide subgroups or for narrow ones.
int  attn_make_readers(struct vk_program *g, bool is_wide, struct err *err);
// attn_units.c: the classes of the plan, and what vk_attn_prepare does.
int  vk_attn_classes_init(struct vk_program *g, struct err *err);
void vk_attn_classes_finish(struct vk_program *g);
