// A GGUF model file (versions 2 and 3, one file or a split set), mapped read-only.
//
// Every number in the file is checked against the bytes that remain before anything is allocated; a
// refusal names the field and its offset. Source: the GGUF specification (ggml docs/gguf.md).
// Thread-safety: immutable after gguf_open; read from any thread.
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"
#include "base/hash.h"
#include "engine/limits.h"
#include "engine/quant/quant.h"

struct tensor {                             // immutable
    const char         *name;               // owned by the file
    const struct quant *quant;              // row of quant.def
    uint64_t            dim[TENSOR_DIMS_MAX];   // dim[0] contiguous; unused dimensions are 1
    uint32_t            n_dims;
    const void         *data;               // borrowed from the mapping
    uint64_t            bytes;
};

enum gguf_type {
    GGUF_U8, GGUF_I8, GGUF_U16, GGUF_I16, GGUF_U32, GGUF_I32, GGUF_F32, GGUF_BOOL, GGUF_STRING,
    GGUF_ARRAY, GGUF_U64, GGUF_I64, GGUF_F64,
};

struct gguf_str { const char *p; size_t n; };   // borrowed from the file; no NUL at the end

struct gguf_array {
    enum gguf_type type;                    // of the elements; never GGUF_ARRAY
    size_t         n;
    const void    *data;                    // packed elements as in the file, any alignment;
                                            // NULL for strings
    const struct gguf_str *str;             // (n) for GGUF_STRING
};

struct gguf;

// Opens and checks a file. For a split set (split.count > 1) path names the first part and the
// others are opened beside it. On failure *ret is untouched.
// Returns 0, -ENOENT and other errnos of open(2), -EINVAL (malformed), -ENOTSUP (a tensor type or
// version that is not supported), -ENOMEM.
int  gguf_open(struct gguf **ret, const char *path, struct err *err);
// The same over memory that stays the caller's, for fuzzing.
int  gguf_open_mem(struct gguf **ret, const void *p, size_t n, struct err *err);
void gguf_close(struct gguf *g);            // NULL is fine

// -EIO when the file shrank since it was opened (reading its mapping would be a SIGBUS).
int gguf_check_size(const struct gguf *g, struct err *err);

// Typed metadata. Each returns 0, -ENOENT (no such key; *ret untouched, err NOT set, so that an
// optional key needs no special case), -EINVAL (another type, or outside [lo, hi]; err names the
// key). Integers of every width are accepted where they fit; gguf_f32 also takes integers and f64.
int gguf_u64(const struct gguf *g, const char *key, uint64_t lo, uint64_t hi, uint64_t *ret,
             struct err *err);
int gguf_u32(const struct gguf *g, const char *key, uint32_t lo, uint32_t hi, uint32_t *ret,
             struct err *err);
int gguf_f32(const struct gguf *g, const char *key, float *ret, struct err *err);
int gguf_bool(const struct gguf *g, const char *key, bool *ret, struct err *err);
int gguf_string(const struct gguf *g, const char *key, struct gguf_str *ret, struct err *err);
int gguf_get_array(const struct gguf *g, const char *key, struct gguf_array *ret, struct err *err);
// Element i of an integer or boolean array as int64; asserts i < n and an integer type.
int64_t gguf_array_int(const struct gguf_array *a, size_t i);
float   gguf_array_f32(const struct gguf_array *a, size_t i);

// Tensors in file order.
size_t               gguf_n_tensors(const struct gguf *g);
const struct tensor *gguf_tensor_at(const struct gguf *g, size_t i);
const struct tensor *gguf_tensor(const struct gguf *g, const char *name);   // NULL: none

// Keys in file order, for `inspect`: name, type, and the value as one line of JSON (long arrays and
// strings shortened with a count). Returns false past the end.
struct str;
bool gguf_key_at(const struct gguf *g, size_t i, const char **name, enum gguf_type *type);
void gguf_key_json(const struct gguf *g, size_t i, size_t max_items, struct str *out);

uint64_t gguf_file_bytes(const struct gguf *g);         // all parts
// Hash of everything before the tensor data: metadata and tensor directory.
void     gguf_header_hash(const struct gguf *g, struct hash *ret);
