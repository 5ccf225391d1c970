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
