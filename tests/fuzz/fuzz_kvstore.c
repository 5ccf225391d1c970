// Fuzzes the rebuilding of a store: headers of slots are overwritten with what comes, with their
// checks made right, and the index is lost. The store opens all the same; what it then believes to
// have is read, and is right or a miss.
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "base/base.h"
#include "kvstore/format.h"
#include "kvstore/sim.h"

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);

#define BLOCKS 4u
#define BYTES 8192u
#define PATCH_BYTES 64u                 // of input for one header at most: where, and what

static _Alignas(4096) uint8_t buf[65536];

static void done(struct kv_io *io) { *(bool *)io->ctx = true; }

static int run(struct kv_store *s, enum kv_io_kind kind, const struct hash *key, uint32_t bytes)
{
    bool is_done = false;
    struct kv_io io = {.kind = kind, .key = *key, .buf = buf, .bytes = bytes, .done = done,
                       .ctx = &is_done};
    kv_store_submit(s, &io);
    while (!is_done)
        kv_store_poll(s, 1);
    return io.result;
}

static struct kv_store *open_store(struct kv_sim *m)
{
    struct kv_store *s = NULL;
    const struct kv_store_params p = {.capacity_bytes = KV_CAPACITY_BYTES_MIN, .sim = m,
                                      .block_bytes_max = sizeof(buf), .segment_bytes = 131072};
    int r = kv_store_open(&s, &p, NULL);
    assert(r == 0);
    (void)r;
    return s;
}

static struct hash key_of(uint8_t k)
{
    struct hash h = {{k}};
    return h;
}

static void patch(uint8_t *file, uint64_t bytes, const uint8_t *p, size_t n)
{
    uint32_t slot_bytes = slot_bytes_for(BYTES);
    uint64_t slot = p[0] % (bytes / slot_bytes), at = p[1] % 104;
    uint8_t *h = file + slot * slot_bytes;
    memcpy(h + at, p + 2, MIN(104 - at, n - 2));
    uint64_t check = sum_bytes(h, sizeof(struct slot_header) - sizeof(check));
    memcpy(h + sizeof(struct slot_header) - sizeof(check), &check, sizeof(check));
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
    struct kv_sim *m = kv_sim_create(1);
    struct kv_store *s = open_store(m);
    char name[SEGMENT_NAME_MAX];
    uint64_t bytes;
    for (uint8_t k = 0; k < BLOCKS; k++) {
        struct hash key = key_of(k);
        memset(buf, k + 1, BYTES);
        run(s, KV_IO_PUT, &key, BYTES);
    }
    kv_store_close(s);
    segment_name(name, 1, slot_bytes_for(BYTES));
    uint8_t *file = kv_sim_file(m, name, &bytes);
    assert(file);
    for (size_t k; n > 2; p += k, n -= k) {
        k = MIN(n, PATCH_BYTES);
        if (k > 2)
            patch(file, bytes, p, k);
    }
    kv_sim_damage_index(m);
    s = open_store(m);
    struct kv_block_info info;
    for (uint32_t cursor = 0; kv_store_next(s, &cursor, &info);) {
        int r = run(s, KV_IO_GET, &info.key, info.bytes <= sizeof(buf) ? info.bytes : 4096);
        assert(r == 0 || r == -ENOENT);
        assert(r != 0 || (info.bytes == BYTES && buf[0] > 0 && buf[0] <= BLOCKS &&
                          buf[0] == buf[BYTES - 1]));
    }
    struct hash key = key_of(77);
    run(s, KV_IO_PUT, &key, BYTES);
    kv_store_close(s);
    kv_sim_destroy(m);
    return 0;
}
