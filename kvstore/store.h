// The inside of a store: its state, and what its files ask of each other.
//
// All of it belongs to the store's thread, but for the group that the committer works on.
#pragma once
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include "base/base.h"
#include "kvstore/disk.h"
#include "kvstore/format.h"
#include "kvstore/index.h"
#include "kvstore/kvstore.h"
#include "kvstore/segments.h"
#include "kvstore/table.h"

#define GROUP_MAX 1024u                 // changes of one transaction
#define DROPS_MAX 8u                    // files removed after one
#define CHUNK_BYTES (1u << 20)          // of one disk request
#define TRIES_MAX 16u                   // of a request that the system would not take
#define FAILURES_MAX 8u                 // writes or syncs in a row: the store stores no more
#define RECORDS_USUAL 65536u

struct io_list { struct kv_io *first, **end; };

struct pin { struct hash key; uint64_t generation; };
struct record {
    char       *name;                   // owned
    uint64_t    name_hash, expires_s;
    struct pin *pin;                    // (n_pins) owned
    uint32_t    n_pins, value_bytes;
    bool        leaving;                // its deletion is under way
};

// What a change of a group is about: a block's commit or removal, its last use, or a record.
enum change_ref_kind { REF_BLOCK, REF_FORGET, REF_USE, REF_RECORD, REF_NOTHING };
struct change_ref {
    enum change_ref_kind kind;
    uint32_t      entry;
    struct kv_io *io;                   // REF_RECORD; NULL: the store's own wish
    bool          sync, synced;         // its segment, before the transaction
    int           result;               // of the sync
    int           commit_result;
};

struct segment_file { uint32_t number, id, slot_bytes; uint64_t bytes; };

// One transaction and the file work around it: make, sync, commit, drop.
struct group {
    struct index_change change[GROUP_MAX];
    struct change_ref   ref[GROUP_MAX];
    uint32_t            n, n_drop;
    bool                make;
    struct segment_file made, drop[DROPS_MAX];
    struct kv_io       *reads;          // RECORD_GET
    int                 result, make_result;
    uint32_t            sync_errors;
    uint64_t            took_ns, index_bytes, index_written;
};

struct committer {
    struct index   *index;              // owned
    struct disk    *disk;               // borrowed
    bool            threaded;
    int             eventfd;
    pthread_t       thread;
    pthread_mutex_t lock;               // a leaf; protects job, is_done, quit
    pthread_cond_t  work;
    struct group   *job;                // to be done; NULL: none
    bool            is_done, quit;
    bool            was_asked;          // without a thread
};

struct kv_store {
    struct kv_store_params p;
    char              *path;            // owned
    uint8_t            uuid[UUID_BYTES];
    bool               is_found;        // opened as it is: without a cap, and never made
    const int         *lock;            // see disk_params; while it is opened
    uint64_t           data_bytes_max, index_bytes_max;
    int                eventfd;         // -1: simulated
    struct disk       *disk;            // owned
    struct table       table;
    struct segments    segments;
    struct use_list    sums;            // entries with sums, by use (sums_prev, sums_next)
    uint64_t           sums_bytes;

    // Operations
    struct io_list     queue[KV_PRIORITY_COUNT];    // for the disk
    struct io_list     room;            // puts that wait for a slot
    struct io_list     records;         // RECORD_* that wait for blocks or for their turn
    struct io_list     done;            // to be told
    struct io_list     flushes;
    uint64_t           seq;
    uint32_t           n_changing;      // puts, deletes and records that are not done
    struct disk_io    *request;         // (inflight_max) owned
    struct disk_io    *free_request;
    uint32_t           in_flight;
    uint64_t          *scratch;         // (units_of(p.block_bytes_max)) owned
    uint8_t           *headers;         // (inflight_max, header_bytes) aligned, owned
    uint8_t          **free_header;     // (n_free_headers) owned
    uint32_t           n_free_headers, header_bytes;

    // Commits
    struct committer   committer;
    struct group      *filling;         // owned, as is the other, which may be the committer's
    struct group      *other;
    bool               is_committing, index_broken;
    uint32_t           commit_first, commit_last;   // entries to be committed, by use_next
    uint32_t           n_to_commit;
    bool               is_urgent;       // somebody waits for one of them
    uint32_t           n_writing;       // puts that will be there soon
    uint64_t           held_since_ns, commit_took_ns;   // 0: no group is held; the last one
    struct io_list     record_changes, record_reads;    // also deletions of absent blocks
    uint32_t           n_draining;      // segments

    // Records
    struct record     *record;          // (n_records) owned
    uint32_t           n_records, n_records_max;    // counted; with memory
    uint32_t           n_coming;        // records that are being committed
    uint64_t           record_bytes, coming_bytes;     // in the index
    bool               retry_records;   // something ended that one may have waited for

    // Buffers
    uint8_t           *buffers;         // (p.buffers, p.block_bytes_max) mapped
    void             **free_buffer;     // (n_free_buffers) owned
    uint32_t           n_free_buffers;

    // Counters that are kept for good
    uint64_t           generation, use_clock;
    uint64_t           time_s, time_base_s, opened_ns;
    uint64_t           wear_day, wear_bytes, written_bytes;
    uint64_t           wear_coming_bytes;   // of puts that are being written
    uint32_t           failures;        // writes and syncs in a row
    uint64_t           no_space_until_ns, commit_after_ns;
    uint64_t           records_swept_s;
    uint32_t           sweep_at;
    uint64_t           sweep_start_ns;
    struct kv_stats    stats;
};

// ---- store.c -----------------------------------------------------------------------------------

// kv_store_open() for somebody who has the lock already; NULL: nobody has.
int  store_open(struct kv_store **ret, const struct kv_store_params *p, const int *lock,
                struct err *err);
void store_tick(struct kv_store *s);            // s->time_s, which never goes back
uint64_t store_now_ns(const struct kv_store *s);
void io_list_init(struct io_list *l);
void io_list_add(struct io_list *l, struct kv_io *io);
struct kv_io *io_list_take(struct io_list *l);  // NULL: empty
bool io_list_remove(struct io_list *l, struct kv_io *io);
void io_end(struct kv_store *s, struct kv_io *io, int result);      // done() comes with a poll
void count_wear(struct kv_store *s, uint64_t bytes);                // on the budget
void count_failure(struct kv_store *s);

// ---- load.c ------------------------------------------------------------------------------------

// Superblock, segments, index; or makes a new store of an empty folder.
int  store_load(struct kv_store *s, struct err *err);
int  store_write_super(struct kv_store *s, struct err *err);

// ---- block.c: entries --------------------------------------------------------------------------

void block_use(struct kv_store *s, struct entry *e);        // counts as a use
void block_live(struct kv_store *s, struct entry *e);       // writing or loaded -> live
void block_pin(struct kv_store *s, struct entry *e);        // a record names it
void block_unpin(struct kv_store *s, struct entry *e);
void block_evictable(struct kv_store *s, struct entry *e);  // after pins, holds, reads changed
void block_hide(struct kv_store *s, struct entry *e);       // live or writing -> dying
void block_kill(struct kv_store *s, struct entry *e);       // the same, to be forgotten
void block_quarantine(struct kv_store *s, struct entry *e); // the same, its slot is not used again
void block_release(struct kv_store *s, struct entry *e);    // dying: frees it if nothing holds it
void block_drop_sums(struct kv_store *s, struct entry *e);
void block_keep_sums(struct kv_store *s, struct entry *e, const uint64_t *sums);
bool block_expired(const struct kv_store *s, const struct entry *e);
struct entry *block_find(const struct kv_store *s, const struct hash *key);   // not if expired
void block_sweep(struct kv_store *s);   // a piece of a round: expired ones, last uses to be saved

// ---- room.c: slots and segments ----------------------------------------------------------------

// A slot for the entry. Returns 0, -EAGAIN (something is under way that may free one), -ENOSPC.
int  room_take(struct kv_store *s, struct entry *e, uint32_t slot_bytes);
// Makes it likely that the table has a free entry: 0, -EAGAIN, -ENOSPC.
int  room_for_entry(struct kv_store *s);
void room_made(struct kv_store *s, const struct segment_file *f, int result);
void room_dropped(struct kv_store *s, const struct segment_file *f);
void room_shrink(struct kv_store *s);           // under a cap that has become lower
// Evicts one block of any class. Returns the bytes of its slot; 0: nothing can go.
uint32_t room_evict_oldest(struct kv_store *s);

// ---- op.c --------------------------------------------------------------------------------------

void op_dispatch(struct kv_store *s);           // hands queued operations to the disk
void op_changed(struct kv_store *s, struct kv_io *io, int result);  // ends PUT, DELETE, RECORD_*
void op_reaped(struct kv_store *s, struct disk_io *list);
void op_retry_room(struct kv_store *s);
void op_put_done(struct kv_store *s, struct entry *e, int result);  // committed or failed
// What waits for its end gets the result; is_gone: the index no longer has it.
void op_forgotten(struct kv_store *s, struct entry *e, int result, bool is_gone);

// ---- commit.c ----------------------------------------------------------------------------------

int  committer_start(struct committer *c, int eventfd, bool threaded);
void committer_stop(struct committer *c);
void commit_entry(struct kv_store *s, struct entry *e);     // written, or to be forgotten
bool commit_use(struct kv_store *s, const struct entry *e); // its last use; false: no room now
void commit_add_meta(struct kv_store *s);       // the counters, to the group that is being filled
void commit_poll(struct kv_store *s);           // takes results, starts the next group
bool commit_is_idle(const struct kv_store *s);

// ---- record.c ----------------------------------------------------------------------------------

struct record *record_find(struct kv_store *s, const char *name);
void record_submit(struct kv_store *s, struct kv_io *io);
void record_retry(struct kv_store *s);          // those that wait for their blocks
void record_changed(struct kv_store *s, struct kv_io *io, int result);
void record_fill(struct index_change *c, const struct kv_io *io);
// When loading: returns 0 or -ENOMEM.
int  record_load(struct kv_store *s, const char *name, const struct index_named *h,
                 const uint8_t *pins);
void record_sweep(struct kv_store *s);          // deletes expired ones
void records_finish(struct kv_store *s);
