// Prefixes that outlive the process: between the block pool and the block store on disk.
//
// Write-behind: a block that became full, and has its key, is noted; when a buffer is free it is
// copied there and put into the store. A block that the pool gave away meanwhile is dropped.
// Restore: the scheduler asks what is stored and makes the sequence LOADING; its blocks are read
// in order, checked by the store, copied into the pool's blocks and published under their keys.
// The first that fails, or all that is late, is computed instead, so the store never fails a
// request.
//
// Reads and writes end in buffers of the store, never in blocks of the pool: a sequence may leave
// at any time, and its reads end later.
// Thread-safety: none; the engine thread owns it between open and close.
#pragma once
#include "engine/run/priv.h"

struct stored;

// Whether there is to be a store, and the bytes that its files may take.
bool stored_wanted(const struct engine_params *p);
uint64_t stored_capacity(const struct engine_params *p);

// The store of an engine whose executor has its blocks. Returns 0, -ENOMEM, -EINVAL, or what
// kv_store_open() says.
int  stored_open(struct stored **ret, struct engine *e, const struct engine_params *p,
                 struct err *err);
void stored_close(struct stored *s);                        // NULL is fine

// For struct sched_params.
bool stored_has(void *stored, const struct hash *key);

// All that follows does nothing without a store (s NULL).

// Full blocks [first, end) of a sequence are in use: they are to be stored, if they are not.
void stored_note(struct stored *s, const struct sequence *q, uint32_t first, uint32_t end);
// So is this block of the pool, which has this key.
void stored_put(struct stored *s, uint32_t block, const struct hash *key);
// What the sequence holds must not be believed.
void stored_forget(struct stored *s, const struct sequence *q);
// What this block of the pool holds must not be believed.
void stored_drop(struct stored *s, uint32_t block);
// A request leaves.
void stored_leave(struct stored *s, struct job *j);
// Moves loads and writes on: between two steps, and when stored_fd() is readable. With `lost` the
// executor is not asked for anything any more.
void stored_turn(struct stored *s, bool lost);

// How long the engine thread may wait at most before the next turn, with nothing else to do.
uint64_t stored_wait_ns(const struct stored *s, uint64_t most_ns);
int  stored_fd(const struct stored *s);                     // -1: none

// For sessions, whose records pin blocks.
struct kv_store *stored_kv(struct stored *s);
// A mark, and whether what was noted before it was handed to the store, or given up.
uint64_t stored_mark(const struct stored *s);
bool     stored_passed(const struct stored *s, uint64_t mark);

void stored_stats(const struct stored *s, struct engine_store *ret);
