// The index: what is committed. The store keeps all of it in memory too and reads it only when it
// opens; from then on it hands over groups of changes, each committed whole or not at all.
//
// Thread-safety: none; one thread at a time (opening, then the one that commits).
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "base/err.h"
#include "base/hash.h"
#include "kvstore/format.h"

enum index_change_kind {
    INDEX_BLOCK,                        // put or replace, at its segment and slot
    INDEX_FORGET,                       // remove one there that is not newer than its generation
    INDEX_NAMED,                        // put or replace a named record
    INDEX_UNNAME,
    INDEX_META,
    INDEX_NOTHING,                      // to be told when what came before it is committed
};

struct index_change {
    enum index_change_kind kind;
    bool skip;                          // not to be done after all
    struct hash        key;
    struct index_block block;
    uint32_t           file;            // handle of the block's segment, for the sync before
    const char        *name;            // borrowed
    const struct hash *pin;             // (n_pins) borrowed
    const void        *value;           // borrowed
    uint32_t           n_pins, value_bytes;
    uint64_t           expires_s;
    struct index_meta  meta;
};

// What loading finds. A function returns false to stop, as damaged.
struct index_visitor {
    void *ctx;
    bool (*block)(void *ctx, const struct hash *key, const struct index_block *b);  // in any order
    bool (*named)(void *ctx, const char *name, const struct index_named *h, const uint8_t *pins);
    bool (*meta)(void *ctx, const struct index_meta *m);
};

struct index;
struct index_ops {
    // Calls the visitor for everything. Returns 0, -ENOENT (there is no index), -EUCLEAN (damaged,
    // or the visitor stopped), or another error.
    int  (*load)(struct index *x, const struct index_visitor *v, struct err *err);
    // The same, and the index stays closed and unchanged.
    int  (*check)(struct index *x, const struct index_visitor *v, struct err *err);
    // Makes an empty one; an old one is kept aside.
    int  (*reset)(struct index *x, struct err *err);
    // All changes but skipped ones, durably. After an error other than -ENOSPC nobody knows what
    // is on disk: the index takes nothing more.
    int  (*commit)(struct index *x, const struct index_change *c, uint32_t n);
    // Returns 0, -ENOENT, -ENOBUFS (*bytes is set), -EIO.
    int  (*read_named)(struct index *x, const char *name, void *p, uint32_t n, uint32_t *bytes);
    uint64_t (*bytes)(struct index *x);
    uint64_t (*written)(struct index *x);   // by commits since it was opened
    void (*close)(struct index *x, bool clean);
};
struct index { const struct index_ops *ops; };

// bytes_max: of its file. Opens nothing yet: load() or reset() comes first.
int index_open(struct index **ret, const char *folder, uint64_t bytes_max, struct err *err);
