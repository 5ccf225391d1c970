// Mapped memory; see mem.h.
#include "engine/exec/mem.h"
#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>
#include "base/base.h"

#define HUGE_BYTES ((size_t)2 << 20)

int mem_map(struct mem *m, size_t bytes)
{
    size_t size;
    if (!align_size(MAX(bytes, (size_t)1), bytes < HUGE_BYTES ? 4096 : HUGE_BYTES, &size))
        return -ENOMEM;
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
        return -ENOMEM;
    if (size >= HUGE_BYTES)
        madvise(p, size, MADV_HUGEPAGE);    // a wish
    mem_unmap(m);
    *m = (struct mem){ p, size };
    return 0;
}

int mem_grow(struct mem *m, size_t bytes)
{
    return bytes <= m->bytes ? 0 : mem_map(m, MAX(bytes, m->bytes * 2));
}

void mem_unmap(struct mem *m)
{
    if (m->p)
        munmap(m->p, m->bytes);
    *m = (struct mem){0};
}

uint64_t mem_machine_bytes(void)
{
    long pages = sysconf(_SC_PHYS_PAGES), page_bytes = sysconf(_SC_PAGESIZE);
    return pages > 0 && page_bytes > 0 ? (uint64_t)pages * (uint64_t)page_bytes : UINT64_MAX;
}
