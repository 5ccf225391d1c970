// A simulated machine for tests: a disk with a volatile write cache, an index with commits, and
// clocks, all driven by one seed. It outlives the stores that are opened on it, as a disk outlives
// a process. It can fail in every way that a disk does, and lose its power at any step.
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "kvstore/index.h"

struct kv_sim;

// Chances in a million, for each request or call.
struct kv_sim_faults {
    uint32_t read_eio, write_eio, write_enospc;
    uint32_t again, short_transfer;     // EAGAIN or EINTR; fewer bytes than asked for
    uint32_t lost, misdirected;         // writes that are reported as done
    uint32_t flip;                      // one bit of what is read
    uint32_t sync_eio, commit_eio, commit_enospc, make_enospc;
    uint32_t delay;                     // of not completing a request in this step
};

struct kv_sim *kv_sim_create(uint64_t seed);    // NULL: out of memory
void kv_sim_destroy(struct kv_sim *m);
void kv_sim_set_faults(struct kv_sim *m, const struct kv_sim_faults *f);
uint64_t kv_sim_random(struct kv_sim *m, uint64_t n);   // below n

// The power fails after so many steps (requests, syncs, commits, ...). From then on every request
// fails, until the store was closed and the machine restarted. With `process_only` nothing that was
// written is lost, as after kill -9; what was in flight may be written or not.
void kv_sim_crash_in(struct kv_sim *m, uint64_t steps, bool process_only);
bool kv_sim_has_crashed(const struct kv_sim *m);
void kv_sim_restart(struct kv_sim *m);

void kv_sim_hold(struct kv_sim *m, bool hold);  // requests do not end while it holds them
void kv_sim_damage(struct kv_sim *m, uint32_t bits);    // of segments, at rest
void kv_sim_limit_index(struct kv_sim *m, uint32_t n_max);  // entries; 0: any number
void kv_sim_damage_index(struct kv_sim *m);     // it will be found damaged
void kv_sim_truncate(struct kv_sim *m);         // halves a segment
uint8_t *kv_sim_file(struct kv_sim *m, const char *name, uint64_t *bytes);  // to be damaged
uint64_t kv_sim_file_bytes(const struct kv_sim *m);
void kv_sim_advance(struct kv_sim *m, uint64_t seconds);
void kv_sim_set_unix(struct kv_sim *m, uint64_t unix_s);    // the clock jumps
uint64_t kv_sim_now_ns(const struct kv_sim *m);
uint64_t kv_sim_unix_s(const struct kv_sim *m);

// ---- sim_index.c -------------------------------------------------------------------------------

int index_sim_open(struct index **ret, struct kv_sim *m, struct err *err);

// ---- between sim.c and sim_index.c -------------------------------------------------------------

struct sim_named {
    char     name[KV_RECORD_NAME_MAX + 1];
    uint8_t *p;                         // as on disk, owned
    uint32_t n;
};
struct sim_index_data {                 // what is committed
    struct index_block *block;           // (n_blocks) owned
    struct sim_named *named;            // (n_named) owned
    uint32_t          n_blocks, n_blocks_max, n_named, n_named_max;
    struct index_meta meta;
    uint32_t          n_limit;          // entries; 0: none
    bool              has_meta, exists, damaged;
};
struct sim_index_data *sim_index_data(struct kv_sim *m);
void sim_index_data_finish(struct sim_index_data *d);
bool sim_step(struct kv_sim *m);        // false: the machine is down
bool sim_chance(struct kv_sim *m, uint32_t per_million);
const struct kv_sim_faults *sim_faults(const struct kv_sim *m);
