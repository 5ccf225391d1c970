// Where the KV pages of a pool lie. A page is one layer's part of a block.
#pragma once
#include <stdint.h>

struct kv_homes {                       // all 0 where there is but one memory
    uint64_t page_bytes;
    uint64_t device_pages, host_pages;  // there are, in the device's memory and in the host's
    uint64_t device_reads, host_reads;  // pages that steps read, each once a step; counted only
                                        // while some are the host's
    uint64_t moved_in, moved_out;       // pages copied to the device, to the host
};

struct kv_page_stats {                  // of paging (paging.h), since the start
    uint64_t memory_pages;              // most pages in memory
    uint64_t resident_pages;            // now
    uint64_t hits;                      // pages that steps read where they lay, each about once a
                                        // step
    uint64_t faults;                    // pages that rows had to wait for or did not get
    uint64_t prefetches;                // pages fetched before a row came for them
    uint64_t evictions;
    uint64_t missed;                    // sequences, each once a step
    uint64_t wait_ns;                   // of all threads
};
