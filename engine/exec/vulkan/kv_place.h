// Which KV pages lie in device memory and which in the host's, and when they change places. Numbers
// only: it knows neither Vulkan nor bytes.
//
// A page (one layer's part of a block) lies in a slot; slots [0, n_device) are the device's. Pages
// of the host are read and written where they lie: what lies there costs speed and nothing else.
// Between two steps a bounded number of pages change places:
//   1. Pages that the next step writes take the places of those that were unused for longest.
//   2. A page that was read in the host's memory takes the place of the one unused for longest, if
//      that was idle ever since the read before this one. So what is read once moves nothing; and
//      where more is read in turns than there is room for, what is on the device stays there
//      instead of leaving just before its turn.
// A page whose content nobody will read is dead, and is not copied.
//
//   for each step:  begin, write..., plan, [copies: all of `out`, then all of `in`], read...
//
// Thread-safety: none. No allocation after kv_place_init.
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "base/err.h"

#define KV_PLACE_NONE UINT32_MAX

struct kv_page {
    uint64_t used, before;              // the last step that used it, and the one before; 0: none
    uint32_t slot;
    uint32_t prev, next;                // of pages on the device, by `used`
    bool     dead;
};

struct kv_slot_copy { uint32_t from, to; };
struct kv_swap { uint32_t page, victim; bool spared; };

struct kv_place {
    struct kv_page *page;               // (n_pages)
    uint32_t n_pages, n_device;
    uint32_t n_slots;                   // of both homes: n_pages and swaps_max to move through
    uint32_t swaps_max;                 // of a step
    uint32_t first, last;               // pages on the device: unused for longest; for shortest
    uint64_t now;                       // the step

    uint32_t *written;                  // (n_written) by the next step
    uint32_t *wanted;                   // (n_wanted) read in the host's memory by the last one
    uint32_t *spare;                    // (swaps_max) slots without a page; n_spared were taken
    uint32_t  n_written, n_wanted, n_spared;

    // Out: copies between slots that the plan needs. Those of one array in any order.
    struct kv_slot_copy *out, *in;      // (n_out), (n_in): to the host; to the device
    struct kv_swap      *swap;          // (n_swaps) the pages whose slots are others now
    uint32_t             n_out, n_in, n_swaps;

    uint64_t reads_device, reads_host;  // pages read, each once a step
    uint64_t moved_out, moved_in;       // pages copied
};

// Pages (layer * n_blocks + block), of which those of the first blocks begin on the device; all are
// dead. n_device is cut to the number of pages, swaps_max to what can be of use.
// Returns 0 or -ENOMEM.
int  kv_place_init(struct kv_place *p, uint32_t n_layers, uint32_t n_blocks, uint32_t n_device,
                   uint32_t swaps_max, struct err *err);
void kv_place_finish(struct kv_place *p);       // a zeroed one is fine

static inline bool kv_place_on_device(const struct kv_place *p, uint32_t page)
{
    return p->page[page].slot < p->n_device;
}

// A step begins; nothing is planned yet.
void kv_place_begin(struct kv_place *p);
// It writes this page; fresh: all of it that will ever be read.
void kv_place_write(struct kv_place *p, uint32_t page, bool fresh);
void kv_place_plan(struct kv_place *p);
// Its copies cannot be made: everything lies where it lay.
void kv_place_undo(struct kv_place *p);
// The step has read this page; once a page.
void kv_place_read(struct kv_place *p, uint32_t page);

// Between steps, its content was set.
void kv_place_set(struct kv_place *p, uint32_t page);
