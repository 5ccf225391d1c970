// Which KV pages lie in device memory, which in the host's and which in neither, and when they
// change places. Numbers only: it knows neither Vulkan nor bytes.
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
// With paging there are fewer slots than pages. A page that enters takes a free slot, or that of
// the page that was unused for longest of those that may leave: it is backed, and the step has no
// use for it. What leaves the device by a swap counts as new in the host's memory, so the two homes
// together keep what was used last.
//
//   for each step:  begin, [enter...], write..., plan, [copies: all of `out`, then all of `in`],
//                   [enter..., rise, copies, touch...], read...
//
// Thread-safety: none. No allocation after kv_place_init.
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "base/err.h"

#define KV_PLACE_NONE UINT32_MAX

struct kv_page {
    uint64_t used, before;              // the last step that used it, and the one before; 0: none
    uint32_t slot;                      // KV_PLACE_NONE: it is not in memory
    uint32_t prev, next;                // of its home's list
    bool     dead;
};

enum kv_home { KV_HOME_DEVICE, KV_HOME_HOST, KV_HOMES };

// Pages: those of the device by `used`, those of the host by when they were used or came there.
struct kv_place_list { uint32_t first, last; };

struct kv_slot_copy { uint32_t from, to; };
struct kv_swap { uint32_t page, victim; bool spared; };     // victim: KV_PLACE_NONE: a free slot

struct kv_place {
    struct kv_page *page;               // (n_pages)
    bool     *backed;                   // (n_blocks) its pages may leave
    uint32_t n_pages, n_blocks;
    uint32_t n_memory, n_device;        // slots that pages lie in; of them on the device
    uint32_t n_slots;                   // n_memory, and swaps_max to move through
    uint32_t swaps_max;                 // of a step
    struct kv_place_list home[KV_HOMES];
    uint64_t now;                       // the step

    uint32_t *free[KV_HOMES];           // (n_free) slots without a page
    uint32_t  n_free[KV_HOMES];
    uint32_t *left;                     // (n_left) pages that lost their slots to others
    uint32_t  n_left;

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
    uint64_t evictions;
};

struct kv_place_params {
    uint32_t n_layers, n_blocks;
    uint32_t n_memory;                  // slots, with paging; 0: one for each page
    uint32_t n_device;                  // of them on the device; cut to what there is
    uint32_t swaps_max;                 // cut to what can be of use
};

// Pages (layer * n_blocks + block), all dead. With paging none of them has a slot; else those of
// the first blocks begin on the device. Returns 0 or -ENOMEM.
int  kv_place_init(struct kv_place *p, const struct kv_place_params *params, struct err *err);
void kv_place_finish(struct kv_place *p);       // a zeroed one is fine

static inline bool kv_place_in_memory(const struct kv_place *p, uint32_t page)
{
    return p->page[page].slot != KV_PLACE_NONE;
}

static inline bool kv_place_on_device(const struct kv_place *p, uint32_t page)
{
    return p->page[page].slot < p->n_device;
}

// A step begins; nothing is planned yet.
void kv_place_begin(struct kv_place *p);
// It writes this page, which is in memory; fresh: all of it that will ever be read.
void kv_place_write(struct kv_place *p, uint32_t page, bool fresh);
void kv_place_plan(struct kv_place *p);
// Its copies cannot be made: everything lies where it lay.
void kv_place_undo(struct kv_place *p);
// The step has read this page, which is in memory; once a page.
void kv_place_read(struct kv_place *p, uint32_t page);

// ---- paging -----------------------------------------------------------------------------------

// The page gets a slot, of the host if `host`. False: it has none, and there is none to be had. Who
// loses its own is added to `left`, which the caller empties.
bool kv_place_enter(struct kv_place *p, uint32_t page, bool host);
void kv_place_leave(struct kv_place *p, uint32_t page);     // gives up its slot
// Where no page of the host may leave, some of them move to the device, into free slots and those
// of pages that may. Its copies are in `in`, its moves in `swap`; false: there are none.
bool kv_place_rise(struct kv_place *p);
// The step needs this page, so it stays.
void kv_place_touch(struct kv_place *p, uint32_t page);
// What was touched, written and read before may leave again.
void kv_place_tick(struct kv_place *p);

// Between steps, its content was set; it is in memory.
void kv_place_set(struct kv_place *p, uint32_t page);
