// Every block of the store in memory: a hash table of entries, made at full size when the store is
// opened, and lists of entries by last use.
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "base/hash.h"
#include "kvstore/kvstore.h"

#define NO_ENTRY UINT32_MAX

enum entry_state {
    ENTRY_FREE,
    ENTRY_WRITING,                      // being written, or waiting for its commit
    ENTRY_LIVE,
    ENTRY_DYING,                        // no longer found; its slot is not free yet
};

struct entry {
    struct hash   key;
    uint64_t      sum, generation, last_use, expires_s;
    uint64_t      pin_generation;       // of the first copy: one that replaces it takes its pins
    uint64_t     *sums;                 // (units_of(bytes)) checked, or NULL; owned
    struct kv_io *puts;                 // of this key, waiting for the commit
    uint32_t      bytes, segment, slot; // segment: number in memory
    uint32_t      pins, holds, reads;   // each keeps it from being evicted
    uint32_t      bucket_next;
    uint32_t      use_prev, use_next;   // in the list of its class; older, newer
    uint32_t      sums_prev, sums_next;
    uint8_t       state;                // enum entry_state
    bool          in_use_list, use_dirty, forgotten;
    bool          unproven;             // INDEX_UNPROVEN
    bool          wiped;                // its header was overwritten: to be synced
};

struct table {
    struct entry *entry;                // (n_max), owned
    uint32_t     *bucket;               // (mask + 1) first entry or NO_ENTRY, owned
    uint32_t      n_max, n_used, n_touched, first_free, mask;
};

int  table_init(struct table *t, uint32_t n_max);   // 0 or -ENOMEM
void table_finish(struct table *t);
int  table_grow(struct table *t);       // twice as many; 0 or -ENOMEM. Entries move.
struct entry *table_find(const struct table *t, const struct hash *key);     // the newest
// The entry of the same key that was added before; NULL: there is none.
struct entry *table_older(const struct table *t, const struct entry *e);
// A new entry, zeroed but for its key; NULL: the table is full. It hides one of the same key until
// it is itself hidden.
struct entry *table_add(struct table *t, const struct hash *key);
void table_hide(struct table *t, struct entry *e);      // no longer found
void table_free(struct table *t, struct entry *e);      // after table_hide()
static inline uint32_t entry_number(const struct table *t, const struct entry *e)
{
    return (uint32_t)(e - t->entry);
}

// Entries by last use.
struct use_list { uint32_t oldest, newest; };
void use_init(struct use_list *l);
void use_add(struct table *t, struct use_list *l, struct entry *e);     // as the newest
void use_remove(struct table *t, struct use_list *l, struct entry *e);  // if it is there
