// Weight matrices on the CPU: taken in once as panels, then multiplied by any number of rows.
//
// A panel is a few output rows interleaved so that one vector register holds the same input group
// of all of them: no sums across lanes, and the same kernel for one row and for many. Integer
// formats stay integers of about their file's width, 16-bit floats stay as they are; activations
// become 8-bit groups of 32 with a float scale. With `exact`, activations stay float32, and integer
// weights are decoded to float32.
// The value of dst[r][o] depends only on row r and matrix row o: not on the other rows of the call,
// the panel range, or the thread.
// Kernels (portable C, AVX2, AVX-512 VNNI) are chosen once at start by what the processor says.
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"
#include "engine/model/gguf.h"

struct cpu_mat {
    const struct tensor *t;             // borrowed: dim[0] = n_in, dim[1] = n_out
    uint32_t n_out, n_in;
    uint32_t panel_rows, n_panels;      // outputs of a panel; DIV_UP(n_out, panel_rows)
    bool     exact;
    uint8_t  layout;                    // private to matmul*.c
    size_t   panel_bytes;
    void    *panel;                     // (n_panels, panel_bytes), owned, 64-byte aligned
    const struct cpu_mat_kernel *kernel;    // private to matmul*.c
};

// Allocates the panels of a matrix; they are empty until packed. Make all matrices of a model
// before packing the first: then their memory becomes one area of huge pages.
// Returns 0, -ENOMEM, -EINVAL (n_in no multiple of the format's block).
int  cpu_mat_init(struct cpu_mat *m, const struct tensor *t, bool exact, struct err *err);
// Fills panels [panel0, panel1) from the tensor; disjoint ranges may be filled by several threads.
void cpu_mat_pack(struct cpu_mat *m, uint32_t panel0, uint32_t panel1);
void cpu_mat_finish(struct cpu_mat *m);

// Bytes of one prepared activation row, a multiple of 64.
size_t cpu_act_bytes(uint32_t n_in, bool exact);
// Prepares one row: src (n_in) float32 -> dst (cpu_act_bytes, 64-byte aligned).
void   cpu_act_prepare(const float *src, uint32_t n_in, bool exact, void *dst);

struct cpu_mul {
    const void  *act;                   // (n_rows, cpu_act_bytes) prepared
    uint32_t     n_rows;
    float       *dst;                   // row r at dst + r * dst_stride; (n_out) written
    size_t       dst_stride;            // floats
    const float *bias;                  // (n_out) or NULL
    float        scale;                 // of the product and bias
    bool         add;                   // dst += instead of =
};
// Output columns of panels [panel0, panel1) for all rows. Disjoint ranges may run on several
// threads; so that weights are expanded for many rows at a time, let ranges be of even length.
void cpu_mat_mul(const struct cpu_mat *m, uint32_t panel0, uint32_t panel1,
                 const struct cpu_mul *p);

// "AVX2", "AVX-512 VNNI", "portable".
const char *cpu_kernels_name(void);
// For tests: takes the kernels of that name from now on. -ENOTSUP: this processor or build lacks
// them.
int cpu_kernels_force(const char *name);
