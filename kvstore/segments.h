// Segments (files of equal slots) and which of their slots are free. A class is a slot size; every
// segment belongs to one. Pure bookkeeping: no I/O.
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "kvstore/table.h"

#define CLASSES_MAX 64u
#define NO_SEGMENT UINT32_MAX
#define SLOT_FREE 0x80000000u           // with the number of the next free one below it
#define SLOT_LAST 0x7fffffffu

enum segment_state {
    SEGMENT_NONE,
    SEGMENT_MAKING,                     // its file is being made
    SEGMENT_READY,
    SEGMENT_DRAINING,                   // its blocks are being forgotten; then the file goes
    SEGMENT_DROPPING,                   // its file is being removed
};

struct segment {
    uint32_t  id, slot_bytes, n_slots, n_free, cls;
    uint32_t *slot;                     // (n_slots) number of its entry, or SLOT_FREE | next; owned
    uint32_t  first_free;               // SLOT_LAST: none
    uint64_t  bytes, last_use;          // of the file; newest use of any of its blocks
    uint8_t   state;                    // enum segment_state
    bool      sealed;                   // a sync failed: nothing new goes in
};

struct slot_class {
    uint32_t        slot_bytes;         // 0: unused
    uint32_t        n_segments, n_free; // ready ones; slots of those that are not sealed
    uint32_t        n_coming;           // segments that are being made
    uint32_t        n_leaving;          // slots whose blocks are being forgotten
    uint32_t        hint;               // where to look for a free slot first
    struct use_list use;                // blocks that may be evicted
};

struct segments {
    struct segment   *segment;          // (n_max), owned
    struct slot_class cls[CLASSES_MAX];
    uint32_t          n_max, next_id;
    uint64_t          bytes;            // of all files, those being made too
};

int  segments_init(struct segments *g, uint32_t n_max);
void segments_finish(struct segments *g);
// The class for a slot of at least so many bytes: an existing one that wastes little, else a new
// one, else one that wastes more. NULL: there is none.
struct slot_class *segments_class(struct segments *g, uint32_t slot_bytes);
// A segment in that state with all its slots free. NO_SEGMENT: too many, or out of memory.
uint32_t segments_add(struct segments *g, uint32_t id, uint32_t slot_bytes, uint64_t bytes,
                      enum segment_state state);
void segments_ready(struct segments *g, uint32_t number);   // from MAKING
void segments_remove(struct segments *g, uint32_t number);  // without blocks, in any state
// Takes a free slot. False: the class has none.
bool slot_take(struct segments *g, struct slot_class *c, uint32_t entry, uint32_t *segment,
               uint32_t *slot);
// Takes this one, when loading. False: it is not free or not there.
bool slot_claim(struct segments *g, uint32_t segment, uint32_t slot, uint32_t entry);
void segments_relink(struct segments *g);       // after the last claim
void slot_free(struct segments *g, uint32_t segment, uint32_t slot);
void segment_seal(struct segments *g, uint32_t number);
static inline struct slot_class *segment_class(struct segments *g, uint32_t number)
{
    return &g->cls[g->segment[number].cls];
}
