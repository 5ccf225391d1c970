// What the store writes: superblock, slot headers, and the checksums of all of it.
//
// Integers are little-endian. Every struct ends in a check of the bytes before it.
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/base.h"
#include "base/err.h"
#include "base/hash.h"
#include "kvstore/kvstore.h"

#define FORMAT_VERSION 1u
#define FORMAT_ENDIAN 0x01020304u
#define UUID_BYTES 16

// The file "super" is two of these, each alone in a unit.
struct super {
    uint8_t  magic[8];
    uint32_t version, endian;
    uint8_t  uuid[UUID_BYTES];
    uint64_t created_s;
    uint32_t copy;                      // 0, 1
    uint32_t unused;
    uint64_t reserved[8];
    uint64_t check;
};
static_assert(sizeof(struct super) == 120, "on disk");
#define SUPER_COPIES 2u
#define SUPER_FILE_BYTES (SUPER_COPIES * KV_UNIT_BYTES)

// A slot is this, the sums of the payload's units, zeros up to a whole unit, and the payload.
struct slot_header {
    uint8_t  magic[8];
    uint32_t version, header_bytes;
    uint8_t  uuid[UUID_BYTES];          // of the store
    uint32_t segment, slot;             // where it believes to be
    uint64_t generation;
    uint8_t  key[HASH_BYTES];
    uint64_t expires_s;
    uint64_t sum;                       // of the sums
    uint32_t payload_bytes, unused;
    uint64_t check;
};
static_assert(sizeof(struct slot_header) == 112, "on disk");

// A block's record in the index, where its key is segment and slot: what is written together lies
// together there.
struct index_block {
    uint32_t segment, slot, bytes, flags;
    uint64_t generation, sum, last_use, expires_s;
    uint8_t  key[HASH_BYTES];
    uint64_t check;
};
static_assert(sizeof(struct index_block) == 88, "on disk");

// Rebuilt from a slot's header: it may be torn, or never have become durable.
#define INDEX_UNPROVEN 1u

// A named record's value: this, then (n_pins) keys, then the value.
struct index_named {
    uint64_t expires_s;
    uint32_t n_pins, value_bytes;
    uint64_t check;                     // of name, pins and value too
};
static_assert(sizeof(struct index_named) == 24, "on disk");

struct index_meta {
    uint32_t version, unused;
    uint8_t  uuid[UUID_BYTES];
    uint64_t generation, use_clock;     // the next ones
    uint64_t time_s;                    // no clock of ours ever went behind it
    uint64_t wear_day, wear_bytes, written_bytes;
    uint64_t segment_id;                // the next one; removed files may come back
    uint64_t reserved[3];
    uint64_t check;
};
static_assert(sizeof(struct index_meta) == 112, "on disk");

uint64_t sum_bytes(const void *p, size_t n);

static inline uint32_t units_of(uint32_t bytes) { return bytes / KV_UNIT_BYTES; }
// Header of a slot for a payload of so many bytes; and with the payload, the smallest such slot.
uint32_t slot_header_bytes(uint32_t payload_bytes);
uint32_t slot_bytes_for(uint32_t payload_bytes);

// (units_of(bytes)) sums of a payload; and the one of all of them.
void     unit_sums(const void *payload, uint32_t bytes, uint64_t *ret);
uint64_t sums_sum(const uint64_t *sums, uint32_t n);

void super_encode(uint8_t unit[KV_UNIT_BYTES], const uint8_t uuid[UUID_BYTES], uint64_t created_s,
                  uint32_t copy);
// Returns 0, -EEXIST (no superblock of ours), -ENOTSUP (of another version or byte order), -EUCLEAN
// (ours, damaged).
int super_decode(const uint8_t unit[KV_UNIT_BYTES], uint32_t copy, struct super *ret);

// The text of segment, slot, generation, key, expires_s, payload_bytes is the caller's; sums of
// the payload follow. `p` has slot_header_bytes().
void slot_encode(uint8_t *p, const struct slot_header *h, const uint64_t *sums);
// What a header claims, if it is whole: the first unit is enough for all but the sums. Returns 0,
// -ENOENT (no header), -ENOTSUP (of another version), -EUCLEAN.
int slot_decode(const uint8_t *unit, struct slot_header *ret);
// The sums of a whole header, checked against h->sum. NULL: they do not match.
const uint64_t *slot_sums(const uint8_t *p, const struct slot_header *h);

void index_block_seal(struct index_block *b, const struct hash *key);
bool index_block_ok(const struct index_block *b);
void index_meta_seal(struct index_meta *m);
bool index_meta_ok(const struct index_meta *m);
// p is a whole value of n bytes, sealed with the name.
uint64_t index_named_check(const char *name, const void *p, size_t n);
// Returns 0 or -EUCLEAN; *ret and what follows lie in p.
int index_named_decode(const char *name, const void *p, size_t n, struct index_named *ret);

// Names of segment files: "seg-<id>-<slot_bytes>" in hexadecimal.
#define SEGMENT_NAME_MAX 32
void segment_name(char ret[SEGMENT_NAME_MAX], uint32_t id, uint32_t slot_bytes);
bool segment_name_parse(const char *name, uint32_t *id, uint32_t *slot_bytes);
