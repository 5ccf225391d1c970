// The catalogue of sessions; see sessions.h. session_calls.c has what callers do with it,
// session_save.c writes it, session_export.c and session_import.c move sessions between stores.
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "engine/kv/key.h"
#include "engine/run/sessions_priv.h"
#include "engine/run/stored.h"
#include "base/clock.h"

#define NAME_PREFIX "session/"
#define OWNER_BYTES 16                  // of the owner's hash, in names
#define LOAD_NS (10 * NS_PER_S)         // for reading one record when the engine opens
#define SWEEP_NS NS_PER_S
#define UNSAVED_NS (5 * NS_PER_MS)      // between two looks whether blocks are written

static_assert(sizeof NAME_PREFIX + 2 * OWNER_BYTES + 1 + SESSION_ID_MAX <= KV_RECORD_NAME_MAX,
              "every id fits into a record's name");
static_assert(SESSION_TOKENS_MAX * 4 + SESSION_TOKENS_MAX / KV_BLOCK_TOKENS * HASH_BYTES + 4096 <=
              KV_RECORD_BYTES_MAX, "every text fits into a record");

// ---- operations of the engine thread ----

void session_op_init(struct session_op *op, struct sessions *s)
{
    *op = (struct session_op){.sessions = s, .run = session_op_io};
}

void session_op_post_locked(struct sessions *s, struct session_op *op)
{
    op->sessions = s;
    op->next = NULL;
    *s->op_end = op;
    s->op_end = &op->next;
}

void session_op_post(struct sessions *s, struct session_op *op)
{
    pthread_mutex_lock(&s->lock);
    session_op_post_locked(s, op);
    pthread_mutex_unlock(&s->lock);
    engine_wake(s->e);
}

int session_op_wait(struct session_op *op)
{
    struct sessions *s = op->sessions;
    pthread_mutex_lock(&s->lock);
    while (!op->finished)
        pthread_cond_wait(&s->changed, &s->lock);
    pthread_mutex_unlock(&s->lock);
    return op->io.result;
}

// Whoever waits may take the operation's memory away as soon as it is finished.
void session_op_end(struct session_op *op)
{
    struct sessions *s = op->sessions;
    if (op->done) {
        op->done(op);
        return;
    }
    pthread_mutex_lock(&s->lock);
    op->finished = true;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
}

static void io_done(struct kv_io *io) { session_op_end(container_of(io, struct session_op, io)); }

void session_op_io(struct session_op *op)
{
    op->io.done = io_done;
    kv_store_submit(op->sessions->store, &op->io);
}

static void run_ops(struct sessions *s)
{
    pthread_mutex_lock(&s->lock);
    struct session_op *op = s->op, *next;
    s->op = NULL;
    s->op_end = &s->op;
    pthread_mutex_unlock(&s->lock);
    for (; op; op = next) {
        next = op->next;
        op->run(op);
    }
}

// ---- names ----

bool session_id_ok(const char *id)
{
    size_t n = strlen(id);
    for (size_t i = 0; i < n; i++)
        if (!isalnum((unsigned char)id[i]) && !strchr("_-.", id[i]))
            return false;
    return n > 0 && n <= SESSION_ID_MAX;
}

static void put_hex(char *to, const uint8_t *b, size_t n)
{
    static const char digit[] = "0123456789abcdef";
    for (size_t i = 0; i < n; i++) {
        to[2 * i] = digit[b[i] >> 4];
        to[2 * i + 1] = digit[b[i] & 15];
    }
    to[2 * n] = '\0';
}

// The owner's salt itself is nobody's to read on the disk.
void session_name(const struct hash *owner, const char *id, char name[KV_RECORD_NAME_MAX + 1])
{
    static const char tag[] = "godwit session owner";
    struct hash_state s;
    struct hash h;
    char hex[2 * OWNER_BYTES + 1];
    hash_start(&s);
    hash_add(&s, tag, sizeof tag);
    hash_add(&s, owner->b, HASH_BYTES);
    hash_end(&s, &h);
    put_hex(hex, h.b, OWNER_BYTES);
    snprintf(name, KV_RECORD_NAME_MAX + 1, NAME_PREFIX "%s/%s", hex, id);
}

// The length of what all names of an owner begin with.
static size_t owner_length(void) { return sizeof NAME_PREFIX - 1 + 2 * OWNER_BYTES + 1; }

static void make_id(char id[SESSION_ID_MAX + 1])
{
    uint8_t b[12];
    random_bytes(b, sizeof b);
    memcpy(id, "sess_", 5);
    put_hex(id + 5, b, sizeof b);
}

// ---- what sessions are of ----

void session_identity(const struct engine *e, struct session_identity *ret)
{
    *ret = (struct session_identity){e->kv_model, e->kv_executor, e->layout, e->exact};
}

void session_salt_of(const struct session_meta *m, const struct hash *owner, struct hash *ret)
{
    static const char tag[] = "godwit imported session";
    struct hash_state s;
    *ret = *owner;
    if (!m->imported)
        return;
    hash_start(&s);
    hash_add(&s, tag, sizeof tag);
    hash_add(&s, owner->b, HASH_BYTES);
    hash_add(&s, m->nonce.b, HASH_BYTES);
    hash_end(&s, ret);
}

struct hash *session_keys(const struct engine *e, const struct session_meta *m,
                          const struct hash *owner, const int32_t *token, uint32_t *n)
{
    struct hash salt, root;
    *n = m->has_attn ? m->n_tokens / KV_BLOCK_TOKENS : 0;
    struct hash *key = *n ? malloc(*n * sizeof *key) : NULL;
    if (!key)
        return NULL;
    session_salt_of(m, owner, &salt);
    engine_key_root(e, &m->attn, &salt, &root);
    for (uint32_t i = 0; i < *n; i++)
        kv_key_next(i ? &key[i - 1] : &root, i * KV_BLOCK_TOKENS, &token[i * KV_BLOCK_TOKENS],
                    &key[i]);
    return key;
}

// ---- the catalogue ----

static int64_t expires_s(const struct session *x)
{
    return x->m.ttl_s ? x->m.used_s + x->m.ttl_s : 0;
}

bool session_is_expired(const struct session *x)
{
    return x->m.ttl_s && !x->busy && !x->hidden && clock_unix_s() >= expires_s(x);
}

struct session *session_find_any_locked(struct sessions *s, const char *name)
{
    for (uint32_t i = 0; i < s->n; i++)
        if (strcmp(s->session[i]->name, name) == 0)
            return s->session[i];
    return NULL;
}

struct session *session_find_locked(struct sessions *s, const char *name)
{
    struct session *x = session_find_any_locked(s, name);
    return x && !x->hidden && !session_is_expired(x) ? x : NULL;
}

struct session *session_new(struct sessions *s, const struct hash *owner, const char *id)
{
    struct session *x = calloc(1, sizeof *x);
    if (!x)
        return NULL;
    if (id)
        snprintf(x->m.id, sizeof x->m.id, "%s", id);
    else
        make_id(x->m.id);
    session_name(owner, x->m.id, x->name);
    x->m.created_s = x->m.used_s = clock_unix_s();
    x->m.model = s->e->kv_model;
    x->m.pin = true;
    return x;
}

void session_free(struct session *x)
{
    if (!x)
        return;
    assert(!x->saving);
    free(x->text);
    free(x->key);
    free(x);
}

int session_add_locked(struct sessions *s, struct session *x)
{
    if (s->n == s->cap) {
        uint32_t cap = MAX(64, 2 * s->cap);
        struct session **more = realloc(s->session, cap * sizeof(struct session *));
        if (!more)
            return -ENOMEM;
        s->session = more;
        s->cap = cap;
    }
    s->session[s->n++] = x;
    return 0;
}

void session_remove_locked(struct sessions *s, struct session *x)
{
    uint32_t i = 0;
    while (s->session[i] != x)
        i++;
    session_set_dirty_locked(s, x, false);
    s->session[i] = s->session[--s->n];
    session_free(x);
}

// The store drops their records by itself.
static void sweep_locked(struct sessions *s)
{
    for (uint32_t i = s->n; i-- > 0;) {
        struct session *x = s->session[i];
        if (session_is_expired(x) && !x->saving && !x->dirty)
            session_remove_locked(s, x);
    }
}

void session_describe_locked(struct sessions *s, const struct session *x, struct session_info *ret)
{
    *ret = (struct session_info){
        .parent_tokens = x->m.parent_tokens, .n_tokens = x->m.n_tokens, .n_pinned = x->n_pinned,
        .pinned_bytes = x->n_pinned * (uint64_t)s->e->layout.block_bytes,
        .created_s = x->m.created_s, .used_s = x->m.used_s, .expires_s = expires_s(x),
        .ttl_s = x->m.ttl_s, .pin = x->m.pin, .imported = x->m.imported, .busy = x->busy,
        .durable = x->durable, .foreign = x->foreign, .has_attn = x->m.has_attn, .attn = x->m.attn,
    };
    memcpy(ret->id, x->m.id, sizeof ret->id);
    memcpy(ret->parent, x->m.parent, sizeof ret->parent);
    memcpy(ret->metadata, x->m.metadata, sizeof ret->metadata);
}

// ---- opening ----

// A record that cannot be read, or is of a newer program, stays where it is and is not seen.
static void load(struct sessions *s, const struct kv_record_info *info, const char *name)
{
    struct session *x = calloc(1, sizeof *x);
    struct session_op op;
    uint8_t *value = malloc(info->value_bytes);
    bool keep = false;
    if (!x || !value)
        goto out;
    session_op_init(&op, s);
    op.io = (struct kv_io){.kind = KV_IO_RECORD_GET, .name = name, .buf = value,
                           .bytes = info->value_bytes, .priority = KV_RESTORE};
    op.run(&op);
    // The store belongs to whoever opens the engine, until its thread runs.
    for (uint64_t until = clock_now_ns() + LOAD_NS; !op.finished;) {
        kv_store_poll(s->store, NS_PER_MS);
        if (clock_now_ns() > until)
            kv_store_cancel(s->store, &op.io);
    }
    if (op.io.result < 0 ||
        session_record_read(value, op.io.value_bytes, &x->m, NULL, NULL) < 0)
        goto out;
    memcpy(x->name, name, strlen(name) + 1);
    x->n_pinned = info->n_pins;
    x->durable = true;
    x->foreign = !hash_equal(&x->m.model, &s->e->kv_model);
    keep = strcmp(name + owner_length(), x->m.id) == 0 && session_add_locked(s, x) == 0;
out:
    if (!keep)
        free(x);
    free(value);
}

static bool is_session(const char *name)
{
    return strncmp(name, NAME_PREFIX, sizeof NAME_PREFIX - 1) == 0 &&
           strlen(name) > owner_length() && strlen(name) < KV_RECORD_NAME_MAX;
}

struct listed { char name[KV_RECORD_NAME_MAX + 1]; struct kv_record_info info; };

static int load_all(struct sessions *s, struct err *err)
{
    struct kv_record_info info;
    struct listed *list = NULL;
    uint32_t n = 0, cursor = 0;
    // Names first: reading lets the store change its list.
    while (n < SESSIONS_MAX && kv_store_next_record(s->store, &cursor, &info)) {
        struct listed *more = is_session(info.name) ? realloc(list, (n + 1) * sizeof *more) : NULL;
        if (!is_session(info.name))
            continue;
        if (!more) {
            free(list);
            return err_set(err, -ENOMEM, "no memory for %u sessions", n + 1);
        }
        list = more;
        snprintf(list[n].name, sizeof list[n].name, "%s", info.name);
        list[n++].info = info;
    }
    for (uint32_t i = 0; i < n; i++)
        load(s, &list[i].info, list[i].name);
    free(list);
    return 0;
}

int sessions_open(struct sessions **ret, struct engine *e, struct err *err)
{
    struct sessions *s = calloc(1, sizeof *s);
    if (!s)
        return err_set(err, -ENOMEM, "no memory for sessions");
    s->e = e;
    s->store = stored_kv(e->stored);
    s->op_end = &s->op;
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->changed, NULL);
    int r = load_all(s, err);
    if (r < 0) {
        sessions_close(s);
        return r;
    }
    *ret = s;
    return 0;
}

void sessions_stop(struct sessions *s)
{
    if (!s)
        return;
    s->stopping = true;
    sessions_save_turn(s);
    run_ops(s);
}

void sessions_close(struct sessions *s)
{
    if (!s)
        return;
    assert(!s->op);
    for (uint32_t i = 0; i < s->n; i++)
        session_free(s->session[i]);
    free(s->session);
    pthread_cond_destroy(&s->changed);
    pthread_mutex_destroy(&s->lock);
    free(s);
}

// ---- the engine thread's turn ----

void sessions_turn(struct sessions *s)
{
    if (!s)
        return;
    uint64_t now = clock_now_ns();
    sessions_save_turn(s);
    run_ops(s);
    if (now - s->swept_ns < SWEEP_NS)
        return;
    s->swept_ns = now;
    pthread_mutex_lock(&s->lock);
    sweep_locked(s);
    pthread_mutex_unlock(&s->lock);
}

// Those to be saved wait for blocks of which nobody tells.
uint64_t sessions_wait_ns(struct sessions *s, uint64_t most_ns)
{
    if (!s)
        return most_ns;
    pthread_mutex_lock(&s->lock);
    bool waits = s->n_dirty > 0;
    pthread_mutex_unlock(&s->lock);
    return waits ? MIN(most_ns, UNSAVED_NS) : most_ns;
}

void sessions_stats(struct sessions *s, struct engine_sessions *ret)
{
    *ret = (struct engine_sessions){0};
    if (!s)
        return;
    pthread_mutex_lock(&s->lock);
    ret->n = s->n;
    ret->unsaved = s->n_dirty;
    ret->save_failures = s->save_failures;
    for (uint32_t i = 0; i < s->n; i++)
        ret->busy += s->session[i]->busy;
    pthread_mutex_unlock(&s->lock);
}

const struct hash *session_salt(const struct session *x) { return &x->salt; }
