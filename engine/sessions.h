// Sessions: texts that have a name, outlive requests and processes, and keep their KV blocks.
//
// A session is the text that its last request left behind: prompt and answer. Its record in the
// block store holds the tokens and pins the text's full blocks, so that the next request with the
// same beginning reads them, whatever was evicted meanwhile. A session belongs to an owner (the
// salt of requests); to others it does not exist. One request at a time runs on a session.
//
// Any thread may call these functions. Those that say so wait for the disk.
// All return -ENOTSUP where the engine has no block store.
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"
#include "base/hash.h"
#include "engine/select/select.h"
#include "engine/text/tokenizer.h"

#define SESSION_ID_MAX 64               // bytes: letters, digits, '_', '-', '.'
#define SESSION_METADATA_MAX 1024       // bytes of the caller's own
#define SESSION_TOKENS_MAX 3000000u
#define SESSIONS_MAX 16384u             // of an engine

struct engine;
struct session;                         // one that was taken

struct session_info {
    char     id[SESSION_ID_MAX + 1];
    char     parent[SESSION_ID_MAX + 1];    // "": it is no fork
    uint32_t parent_tokens;             // what it took from there
    uint32_t n_tokens;                  // of the text
    uint32_t n_pinned;                  // blocks
    uint64_t pinned_bytes;
    int64_t  created_s, used_s;         // seconds since 1970
    int64_t  expires_s;                 // 0: never
    uint32_t ttl_s;                     // counts from the last use; 0: none
    bool     pin;                       // else its blocks may be evicted, its text stays
    bool     imported;
    bool     busy;                      // a request runs on it
    bool     durable;                   // it is on disk as it is here
    bool     foreign;                   // of another model file: it can only be deleted
    bool     has_attn;                  // attn is of its last request
    struct attn_policy attn;
    char     metadata[SESSION_METADATA_MAX + 1];
};

struct session_spec {
    const char *id;                     // NULL: one is made
    uint32_t    ttl_s;
    bool        pin;
    const char *metadata;               // at most SESSION_METADATA_MAX bytes; NULL: ""
    const char *fork_from;              // NULL: the text is empty
    uint32_t    at_token;               // of a fork: takes so many; UINT32_MAX: all
};

bool session_id_ok(const char *id);

// Makes a session, or a fork, which shares the full blocks of what it takes. Waits for the disk.
// Returns 0, -EINVAL (id), -EEXIST (id), -ENOENT (fork_from), -ERANGE (at_token), -ESTALE (the
// parent is foreign), -EBUSY (SESSIONS_MAX), -ENOSPC (the store takes no more records), -EIO.
int engine_session_create(struct engine *e, const struct hash *owner,
                          const struct session_spec *spec, struct session_info *ret,
                          struct err *err);
// Returns 0 or -ENOENT.
int engine_session_get(struct engine *e, const struct hash *owner, const char *id,
                       struct session_info *ret);
// The owner's sessions, the newest first, from behind `after` on (NULL: all), at most cap. Returns
// how many.
uint32_t engine_session_list(struct engine *e, const struct hash *owner,
                             const struct session_info *after, struct session_info *ret,
                             uint32_t cap);
// Its blocks become ordinary cache. Waits for the disk. Returns 0, -ENOENT, -EBUSY (a request
// runs), -EIO.
int engine_session_delete(struct engine *e, const struct hash *owner, const char *id,
                          struct err *err);

// ---- for requests ------------------------------------------------------------------------------

// Takes the session for one request; ends with a request that engine_submit() admitted, or with
// engine_session_drop(). Returns 0, -ENOENT, -EBUSY (it is taken), -ESTALE (it is foreign).
int  engine_session_take(struct engine *e, const struct hash *owner, const char *id,
                         struct session **ret, struct session_info *info, struct err *err);
void engine_session_drop(struct engine *e, struct session *s);  // NULL is fine
// Appends its text to out. May wait for the disk. Returns 0, -ENOMEM, -EIO.
int  engine_session_text(struct engine *e, struct session *s, struct tokens *out, struct err *err);

// ---- as a file ----------------------------------------------------------------------------------

struct session_export;
struct session_import;

// The session as it is now: text, entry, and those of its blocks that are stored. Waits for the
// disk. wake() as that of a request. Returns 0, -ENOENT, -ESTALE, -EBUSY (too many at once),
// -ENOMEM, -EIO.
int      engine_export_open(struct session_export **ret, struct engine *e, const struct hash *owner,
                            const char *id, void (*wake)(void *ctx), void *wake_ctx,
                            struct err *err);
uint64_t engine_export_bytes(const struct session_export *x);
// The next bytes of it, at most n. 0: there are none yet (wake() will be called), or it is read.
size_t   engine_export_read(struct session_export *x, void *buf, size_t n);
void     engine_export_close(struct session_export *x);         // NULL is fine

// Takes such a file, piece by piece. Nothing of it is to be seen before engine_import_end(), and
// its blocks are never found by requests without this session or its forks: that they hold what
// this model computes, nobody can tell.
// id: another one than the file's; NULL: that. Returns 0, -EINVAL (id), -ENOMEM.
int  engine_import_open(struct session_import **ret, struct engine *e, const struct hash *owner,
                        const char *id, struct err *err);
// May wait for the disk. Returns 0, -EINVAL (no such file, or damaged), -ENOTSUP (a newer format),
// -ESTALE (of another model, layout or executor), -E2BIG, -EEXIST, -ENOSPC, -ENOMEM, -EIO.
int  engine_import_feed(struct session_import *i, const void *p, size_t n, struct err *err);
// Also -EINVAL: there is more to come.
int  engine_import_end(struct session_import *i, struct session_info *ret, struct err *err);
void engine_import_close(struct session_import *i);             // NULL is fine
