// Paging on the Vulkan executor (engine/kv/paging.h): a page may lie on no device and in no host
// memory, and is fetched from disk when a step needs it.
//
// What rows read without a choice the host knows, and has it there before the step. Of what rows
// choose only the step can tell: it runs with the pages that there are, kernels skip the others,
// and marks tell which ones those were. These are fetched, and the step runs again, from its start:
// all that a step writes it writes anew. The hidden states of a run that lacked pages are about
// right, so its marks are about what later layers will need too, and disks like to be asked for
// much at once.
//
// A step that needs more than memory holds, or still lacks something after a second run, runs
// layer by layer: rows choose their blocks, the host fetches them, and attention goes on. So one
// layer's pages are all that must fit. Every run gives the same bits to sequences that lack
// nothing.
#pragma once
#include "engine/exec/vulkan/vulkan.h"

struct page_state { bool fetching, lost, needed; };

struct seq_use {                        // of a sequence of the batch
    bool     missed;
    bool     streams;                   // its rows read about as much as memory holds, or more
    bool     waits;                     // for some of what is fetched next
    uint32_t lost, faults;              // as struct batch_seq has them
    uint64_t wait_ns;
};

struct vk_paging {
    struct kv_disk    *disk;
    struct page_state *state;           // (n_pages), owned
    uint32_t *need, *miss;              // (n_need), (n_miss) pages that the step needs; of those,
                                        // the ones that are not in memory; owned
    uint32_t  n_need, n_miss;
    uint64_t  n_arrived;                // pages since the start
    bool      no_room;                  // a page that the step needs found no slot

    // The step.
    struct seq_use *seq;                // (seqs_max), owned
    uint64_t  start_ns;
    bool      lacks_reach;              // it began without pages that the host knows of
    bool      by_layers;
    struct shape   shape;
    struct vk_cmd *whole;               // borrowed: its commands
    struct vk_cmd *part;                // those of a layer

    // Digests on their way to the device.
    struct vk_mem    digests, digest_block;     // (digests_max): of blocks, pinned; blocks, upload
    uint32_t         n_digests, digests_max;
    const struct vk_kernel *spread;     // kv_digests.comp

    struct kv_page_stats count;         // but for memory_pages and resident_pages
};

// ---- fetch.c ----------------------------------------------------------------------------------

void vk_pages_clear(struct vk_program *g);
// The step needs this page, which stays if it is there. Returns whether it is.
bool vk_pages_need(struct vk_program *g, uint32_t page);
bool vk_pages_there(const struct vk_program *g);       // all of them are there
// Fetches what is needed, until that time at most; 0: only asks for it. Returns how long it took.
uint64_t vk_pages_fetch(struct vk_program *g, uint64_t until_ns);
