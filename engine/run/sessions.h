// The catalogue of sessions, for the rest of the engine. engine/sessions.h has what callers see.
//
// The catalogue is in memory, under a lock that is a leaf; texts are in the records of the block
// store, and in memory only until they are there. Changes are saved behind what runs: the engine
// thread waits until the blocks of a new text are written, then puts its record, whose pins are
// counted from that commit on. A crash before leaves the session as it was.
#pragma once
#include "engine/run/priv.h"

struct sessions;

// Reads the catalogue. The engine has its store. Returns 0 or -ENOMEM.
int  sessions_open(struct sessions **ret, struct engine *e, struct err *err);
// What is to be saved, or was asked for, is started; closing the store ends it. Then the catalogue
// may be closed.
void sessions_stop(struct sessions *s);
void sessions_close(struct sessions *s);

// The engine thread, between two steps. All of these do nothing without sessions (s NULL).
void sessions_turn(struct sessions *s);
// How long it may wait at most before the next one.
uint64_t sessions_wait_ns(struct sessions *s, uint64_t most_ns);
// The job ends; nothing of its sequence is gone yet. Its session becomes what it left.
void sessions_job_ends(struct sessions *s, const struct job *j, enum finish_reason reason);

void sessions_stats(struct sessions *s, struct engine_sessions *ret);
// Of the blocks of a session that is taken.
const struct hash *session_salt(const struct session *x);
