// Large memory straight from the kernel: zeroed, touched only where it is used, in huge pages where
// there are any.
#pragma once
#include <stddef.h>
#include <stdint.h>

struct mem { void *p; size_t bytes; };      // zero-initialised: nothing

// Maps at least `bytes` in place of what m held. Returns 0, or -ENOMEM with m untouched.
int  mem_map(struct mem *m, size_t bytes);
// mem_map unless m is that large already; what it held is lost then.
int  mem_grow(struct mem *m, size_t bytes);
void mem_unmap(struct mem *m);
// Of this machine; UINT64_MAX where that is not known.
uint64_t mem_machine_bytes(void);
