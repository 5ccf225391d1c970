// Fuzzes what the block store reads from a disk: superblocks, slot headers and records as they
// come, and again with their checks made right, so that the fields behind them are reached.
#include <errno.h>
#include <string.h>
#include "base/base.h"
#include "kvstore/format.h"

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);

static _Alignas(8) uint8_t unit[4 * KV_UNIT_BYTES];

static void seal(size_t struct_bytes)
{
    uint64_t check = sum_bytes(unit, struct_bytes - sizeof(check));
    memcpy(unit + struct_bytes - sizeof(check), &check, sizeof(check));
}

static void slots(void)
{
    struct slot_header h;
    if (slot_decode(unit, &h) != 0)
        return;
    assert(h.payload_bytes > 0 && h.payload_bytes <= KV_BLOCK_BYTES_MAX);
    assert(h.payload_bytes % KV_UNIT_BYTES == 0 && h.header_bytes % KV_UNIT_BYTES == 0);
    assert(h.header_bytes >= sizeof(h) + units_of(h.payload_bytes) * sizeof(uint64_t));
    if (h.header_bytes > sizeof(unit))
        return;
    const uint64_t *sums = slot_sums(unit, &h);
    if (!sums)
        return;
    // What was read can be written, and is the same.
    static _Alignas(8) uint8_t again[sizeof(unit)];
    struct slot_header same;
    slot_encode(again, &h, sums);
    assert(slot_decode(again, &same) == 0 && same.slot == h.slot && same.sum == h.sum);
}

static void supers(void)
{
    struct super s;
    for (uint32_t copy = 0; copy < SUPER_COPIES; copy++)
        if (super_decode(unit, copy, &s) == 0)
            assert(s.version == FORMAT_VERSION && s.copy == copy);
}

static void records(size_t n)
{
    struct index_named h;
    if (index_named_decode("name", unit, n, &h) != 0)
        return;
    assert(sizeof(h) + (size_t)h.n_pins * HASH_BYTES + h.value_bytes == n);
}

static void names(const uint8_t *p, size_t n)
{
    char name[64] = "", again[SEGMENT_NAME_MAX];
    uint32_t id, slot_bytes;
    memcpy(name, p, MIN(n, sizeof(name) - 1));
    if (!segment_name_parse(name, &id, &slot_bytes))
        return;
    segment_name(again, id, slot_bytes);
    assert(strcmp(name, again) == 0 && slot_bytes % KV_UNIT_BYTES == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
    names(p, n);
    n = MIN(n, sizeof(unit));
    memset(unit, 0, sizeof(unit));
    memcpy(unit, p, n);
    slots();
    supers();
    records(n);
    if (n >= sizeof(struct index_named)) {
        uint64_t check = index_named_check("name", unit, n);
        memcpy(unit + offsetof(struct index_named, check), &check, sizeof(check));
        records(n);
    }
    memcpy(unit, p, n);
    memcpy(unit, "godwitSL", 8);
    seal(sizeof(struct slot_header));
    slots();
    memcpy(unit, p, n);
    memcpy(unit, "godwitKV", 8);
    seal(sizeof(struct super));
    supers();
    return 0;
}
