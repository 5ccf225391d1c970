// Encoding and checking of what is on disk. Checksums are XXH3 (64 bits) of libxxhash; this is the
// only file that includes it. They guard against the disk, not against people: keys do that.
#include "kvstore/format.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "structs are written as they lie");

static const uint8_t super_magic[8] = "godwitKV", slot_magic[8] = "godwitSL";

#define CHECKED(s) sum_bytes((s), sizeof(*(s)) - sizeof((s)->check))

uint64_t sum_bytes(const void *p, size_t n)
{
    return XXH3_64bits(p, n);
}

uint32_t slot_header_bytes(uint32_t payload_bytes)
{
    size_t bytes = sizeof(struct slot_header) + units_of(payload_bytes) * sizeof(uint64_t);
    return (uint32_t)ALIGN_UP(bytes, KV_UNIT_BYTES);
}

uint32_t slot_bytes_for(uint32_t payload_bytes)
{
    return slot_header_bytes(payload_bytes) + payload_bytes;
}

void unit_sums(const void *payload, uint32_t bytes, uint64_t *ret)
{
    const uint8_t *p = payload;
    for (uint32_t i = 0; i < units_of(bytes); i++)
        ret[i] = sum_bytes(p + (size_t)i * KV_UNIT_BYTES, KV_UNIT_BYTES);
}

uint64_t sums_sum(const uint64_t *sums, uint32_t n)
{
    return sum_bytes(sums, n * sizeof(*sums));
}

// ---- superblock --------------------------------------------------------------------------------

void super_encode(uint8_t unit[KV_UNIT_BYTES], const uint8_t uuid[UUID_BYTES], uint64_t created_s,
                  uint32_t copy)
{
    struct super s = {.version = FORMAT_VERSION, .endian = FORMAT_ENDIAN, .created_s = created_s,
                      .copy = copy};
    memcpy(s.magic, super_magic, sizeof(s.magic));
    memcpy(s.uuid, uuid, UUID_BYTES);
    s.check = CHECKED(&s);
    memset(unit, 0, KV_UNIT_BYTES);
    memcpy(unit, &s, sizeof(s));
}

int super_decode(const uint8_t unit[KV_UNIT_BYTES], uint32_t copy, struct super *ret)
{
    struct super s;
    memcpy(&s, unit, sizeof(s));
    if (memcmp(s.magic, super_magic, sizeof(s.magic)) != 0)
        return -EEXIST;
    // Every version checks its superblocks like this: one whose check fails says nothing.
    bool is_swapped = s.endian == __builtin_bswap32(FORMAT_ENDIAN);
    if ((is_swapped ? __builtin_bswap64(s.check) : s.check) != CHECKED(&s))
        return -EUCLEAN;
    if (s.version > FORMAT_VERSION || s.endian != FORMAT_ENDIAN)
        return -ENOTSUP;
    if (s.copy != copy || s.version == 0)
        return -EUCLEAN;
    *ret = s;
    return 0;
}

// ---- slots -------------------------------------------------------------------------------------

void slot_encode(uint8_t *p, const struct slot_header *h, const uint64_t *sums)
{
    uint32_t n = units_of(h->payload_bytes);
    struct slot_header s = *h;
    memcpy(s.magic, slot_magic, sizeof(s.magic));
    s.version = FORMAT_VERSION;
    s.header_bytes = slot_header_bytes(h->payload_bytes);
    s.sum = sums_sum(sums, n);
    s.unused = 0;
    s.check = CHECKED(&s);
    memset(p, 0, s.header_bytes);
    memcpy(p, &s, sizeof(s));
    memcpy(p + sizeof(s), sums, n * sizeof(*sums));
}

int slot_decode(const uint8_t *unit, struct slot_header *ret)
{
    struct slot_header s;
    memcpy(&s, unit, sizeof(s));
    if (memcmp(s.magic, slot_magic, sizeof(s.magic)) != 0)
        return -ENOENT;
    if (s.check != CHECKED(&s))
        return -EUCLEAN;
    if (s.version != FORMAT_VERSION)
        return -ENOTSUP;
    if (s.payload_bytes == 0 || s.payload_bytes % KV_UNIT_BYTES ||
        s.payload_bytes > KV_BLOCK_BYTES_MAX ||
        s.header_bytes != slot_header_bytes(s.payload_bytes))
        return -EUCLEAN;
    *ret = s;
    return 0;
}

const uint64_t *slot_sums(const uint8_t *p, const struct slot_header *h)
{
    const uint64_t *sums = (const uint64_t *)(const void *)(p + sizeof(*h));
    return sums_sum(sums, units_of(h->payload_bytes)) == h->sum ? sums : NULL;
}

// ---- index -------------------------------------------------------------------------------------

void index_block_seal(struct index_block *b, const struct hash *key)
{
    memcpy(b->key, key->b, HASH_BYTES);
    b->check = CHECKED(b);
}

bool index_block_ok(const struct index_block *b)
{
    return b->check == CHECKED(b) && b->bytes > 0 && b->bytes % KV_UNIT_BYTES == 0 &&
           b->bytes <= KV_BLOCK_BYTES_MAX;
}

void index_meta_seal(struct index_meta *m)
{
    m->version = FORMAT_VERSION;
    m->unused = 0;
    m->check = CHECKED(m);
}

bool index_meta_ok(const struct index_meta *m)
{
    return m->check == CHECKED(m) && m->version == FORMAT_VERSION;
}

uint64_t index_named_check(const char *name, const void *p, size_t n)
{
    const size_t head = offsetof(struct index_named, check);
    const uint8_t *bytes = p;
    uint64_t part[3] = {sum_bytes(name, strlen(name)), sum_bytes(bytes, head),
                        sum_bytes(bytes + sizeof(struct index_named),
                                  n - sizeof(struct index_named))};
    return sum_bytes(part, sizeof(part));
}

int index_named_decode(const char *name, const void *p, size_t n, struct index_named *ret)
{
    struct index_named r;
    if (n < sizeof(r) || n > sizeof(r) + KV_RECORD_BYTES_MAX)
        return -EUCLEAN;
    memcpy(&r, p, sizeof(r));
    if (r.n_pins > KV_PINS_MAX || r.value_bytes > KV_RECORD_BYTES_MAX ||
        n != sizeof(r) + (size_t)r.n_pins * HASH_BYTES + r.value_bytes ||
        r.check != index_named_check(name, p, n))
        return -EUCLEAN;
    *ret = r;
    return 0;
}

// ---- names -------------------------------------------------------------------------------------

void segment_name(char ret[SEGMENT_NAME_MAX], uint32_t id, uint32_t slot_bytes)
{
    snprintf(ret, SEGMENT_NAME_MAX, "seg-%08x-%08x", id, slot_bytes);
}

bool segment_name_parse(const char *name, uint32_t *id, uint32_t *slot_bytes)
{
    char again[SEGMENT_NAME_MAX];
    if (strlen(name) != 21 || strncmp(name, "seg-", 4) != 0)
        return false;
    uint32_t i = (uint32_t)strtoul(name + 4, NULL, 16);
    uint32_t b = (uint32_t)strtoul(name + 13, NULL, 16);
    segment_name(again, i, b);
    if (strcmp(again, name) != 0 || b < 2 * KV_UNIT_BYTES || b % KV_UNIT_BYTES ||
        b > slot_bytes_for(KV_BLOCK_BYTES_MAX))
        return false;
    *id = i;
    *slot_bytes = b;
    return true;
}
