// Fuzzes the GGUF reader: a file that opens must be safe to use.
#include "engine/model/gguf.h"
#include "tests/fuzz/walk_gguf.h"

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
    struct gguf *g = NULL;
    struct err err;
    if (gguf_open_mem(&g, p, n, &err) == 0)
        walk_gguf(g);
    gguf_close(g);
    return 0;
}
