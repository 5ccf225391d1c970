// What the files of sessions share.
#pragma once
#include "engine/run/session_format.h"
#include "engine/run/sessions.h"
#include "kvstore/kvstore.h"

// Something for the engine thread, which owns the store.
struct session_op {
    void  (*run)(struct session_op *op);    // engine thread; goes on to session_op_end()
    void  (*done)(struct session_op *op);   // engine thread, at the end; NULL: somebody waits
    struct sessions   *sessions;
    struct session_op *next;
    struct kv_io       io;
    bool               finished;            // lock; only where somebody waits
};

struct session_save {                   // the engine thread's, of one record
    struct session_op op;
    uint8_t     *value;
    struct hash *pin;
    uint32_t     n_pins;
    uint64_t     version;               // of the session that it holds
};

struct session {
    char     name[KV_RECORD_NAME_MAX + 1];  // of its record: owner and id
    struct session_meta m;
    struct hash salt;                   // of its blocks, while it is taken
    bool     busy, hidden, foreign;     // hidden: it is being made or deleted
    bool     durable;                   // the record is as m says
    uint32_t n_pinned;                  // by the record
    // Newer than the record, or NULL.
    int32_t     *text;                  // (m.n_tokens)
    struct hash *key;                   // (n_keys) of blocks that are to be pinned
    uint32_t     n_keys;
    uint64_t     version;
    // To be saved.
    bool     dirty, saving;
    uint64_t mark;                      // when these were noted by the store's queue
    uint64_t until_ns, retry_ns;        // how long to wait for blocks; when to try again
    uint32_t n_seen, n_failed;          // leading blocks known to be there; failures in a row
    int      result;                    // of the last save
    struct session_save save;
};

struct sessions {
    struct engine   *e;
    struct kv_store *store;
    uint64_t         swept_ns;          // engine thread's
    bool             stopping;          // and this: no block comes any more

    pthread_mutex_t  lock;              // a leaf; all that follows
    pthread_cond_t   changed;           // an operation ended, or a save
    struct session **session;           // (n), any order
    uint32_t         n, cap, n_dirty, n_exports;
    uint64_t         save_failures;
    struct session_op *op, **op_end;    // queue
};

// sessions.c
void session_op_post(struct sessions *s, struct session_op *op);    // any thread
void session_op_post_locked(struct sessions *s, struct session_op *op);     // the engine's
int  session_op_wait(struct session_op *op);                        // its I/O's result
void session_op_end(struct session_op *op);                         // engine thread
void session_op_io(struct session_op *op);                          // a run(): submits op->io
void session_op_init(struct session_op *op, struct sessions *s);
bool session_is_expired(const struct session *x);
struct session *session_find_any_locked(struct sessions *s, const char *name);
struct session *session_find_locked(struct sessions *s, const char *name);  // visible, or NULL
int  session_add_locked(struct sessions *s, struct session *x);     // 0 or -ENOMEM
void session_remove_locked(struct sessions *s, struct session *x);  // and frees it
void session_name(const struct hash *owner, const char *id, char name[KV_RECORD_NAME_MAX + 1]);
void session_describe_locked(struct sessions *s, const struct session *x, struct session_info *ret);
void session_identity(const struct engine *e, struct session_identity *ret);
// The salt of a session's blocks.
void session_salt_of(const struct session_meta *m, const struct hash *owner, struct hash *ret);
// Keys of the text's full blocks; *n of them. NULL: there are none, or no memory (*n > 0).
struct hash *session_keys(const struct engine *e, const struct session_meta *m,
                          const struct hash *owner, const int32_t *token, uint32_t *n);
struct session *session_new(struct sessions *s, const struct hash *owner, const char *id);
void session_free(struct session *x);

// session_calls.c
// Reads a session's text and entry as they are now. The caller frees *text. Waits for the disk.
// Returns 0, -ENOENT, -ESTALE, -ENOMEM, -EIO.
int  session_read(struct sessions *s, const char *name, struct session_meta *m, int32_t **text,
                  struct err *err);
// Adds it to the catalogue and waits until it is saved; then others see it. Owned by the catalogue,
// or, on failure, freed. Returns 0, -EEXIST, -EBUSY, -ENOSPC, -EIO, -ENOMEM.
int  session_publish(struct sessions *s, struct session *x, struct session_info *ret,
                     struct err *err);

// session_save.c
void session_set_dirty_locked(struct sessions *s, struct session *x, bool dirty);
void sessions_save_turn(struct sessions *s);
