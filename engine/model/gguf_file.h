// Inside of an open GGUF file; shared by gguf.c (files), gguf_read.c (parsing) and gguf_meta.c
// (metadata). Nobody else includes this.
#pragma once
#include "base/arena.h"
#include "engine/model/gguf.h"

// Bounds on what a file may ask for, each checked before anything is allocated for it.
#define GGUF_NAME_BYTES_MAX ((size_t)64 << 10)      // of a key or tensor name
#define GGUF_STRING_BYTES_MAX ((size_t)16 << 20)
#define GGUF_ARRAY_ITEMS_MAX ((size_t)1 << 24)
#define GGUF_KEYS_BYTES_MAX ((size_t)256 << 20)     // of all metadata
#define GGUF_KEYS_MAX ((size_t)1 << 16)
#define GGUF_TENSORS_MAX ((size_t)1 << 20)          // of one part
#define GGUF_ELEMS_MAX ((uint64_t)1 << 48)          // of one tensor
#define GGUF_PARTS_MAX 512
#define GGUF_ALIGN_DEFAULT 32

struct key {
    const char       *name;         // must come first, see struct names; in the arena
    bool              is_array;
    struct gguf_array v;            // a single value is an array of one
};

// Things with names, in file order: an array of structs that begin with `const char *name`, and the
// same sorted, for lookup in O(log n) whatever names a stranger chose.
struct names {
    const void *item;               // (n) of stride bytes each
    size_t      stride, n;
    uint32_t   *order;              // (n) in the arena
};

// Sorts. Returns 0, -EINVAL when a name appears twice (err: "<what> NAME appears twice"), -ENOMEM.
int  names_sort(struct names *s, struct arena *a, const char *what, struct err *err);
bool names_find(const struct names *s, const char *name, size_t *ret);

struct part {                       // one file of the set
    const uint8_t *p;               // (bytes)
    size_t         bytes;
    int            fd;              // -1: caller's memory, else p is our mapping of it
    size_t         header_bytes;    // metadata and tensor directory
    struct key    *key;             // (keys.n)
    struct names   keys;
    struct tensor *tensor;          // (n_tensors)
    size_t         n_tensors;
};

struct gguf {
    struct arena   arena;           // everything below, and all names
    struct part   *part;            // (n_parts); the first part's metadata is the set's
    size_t         n_parts;
    struct tensor *tensor;          // (tensors.n) of all parts
    struct names   tensors;
};

// Reads keys and tensors of a part whose p and bytes are set.
int part_read(struct part *f, struct arena *a, struct err *err);
// As gguf_u64, on any part.
int part_u64(const struct part *f, const char *key, uint64_t lo, uint64_t hi, uint64_t *ret,
             struct err *err);
// Bytes of one element; 0 for strings and arrays.
size_t gguf_type_bytes(enum gguf_type type);
