// Sessions as callers see them: reading, making, forking, deleting, and taking one for a request.
// On any thread; those that need the disk wait for the engine thread.
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "engine/run/sessions_priv.h"
#include "base/clock.h"

#define READS_MAX 16                    // of a record that changes meanwhile

// ---- reading ----

static int no_store(struct err *err)
{
    return err_set(err, -ENOTSUP, "there is no block store");
}

static int unknown(struct err *err) { return err_set(err, -ENOENT, "there is no such session"); }

// What an owner's session is called in the store.
static int name_of(const struct sessions *s, const struct hash *owner, const char *id,
                   char name[KV_RECORD_NAME_MAX + 1], struct err *err)
{
    if (!s)
        return no_store(err);
    if (!session_id_ok(id))
        return unknown(err);
    session_name(owner, id, name);
    return 0;
}

static int no_memory(struct err *err)
{
    return err_set(err, -ENOMEM, "no memory for a session");
}

static int foreign(struct err *err)
{
    return err_set(err, -ESTALE, "the session is of another model file");
}

struct snapshot { uint64_t version; size_t bytes; bool in_memory; };

// What is in memory of it. *text is set where that is the text too.
static int look(struct sessions *s, const char *name, struct session_meta *m, int32_t **text,
                struct snapshot *ret, struct err *err)
{
    int r = 0;
    pthread_mutex_lock(&s->lock);
    const struct session *x = session_find_locked(s, name);
    if (!x) {
        r = unknown(err);
    } else if (x->foreign) {
        r = foreign(err);
    } else {
        *m = x->m;
        *ret = (struct snapshot){x->version, session_record_bytes(&x->m), x->text != NULL};
        if (x->text || x->m.n_tokens == 0) {
            *text = malloc(MAX(x->m.n_tokens, 1) * sizeof **text);
            r = *text ? 0 : no_memory(err);
            if (x->text && *text)
                memcpy(*text, x->text, x->m.n_tokens * sizeof **text);
        }
    }
    pthread_mutex_unlock(&s->lock);
    return r;
}

// Returns 0, -EAGAIN (the record is not the one that was seen), -EIO, -ENOMEM.
static int read_record(struct sessions *s, const char *name, const struct session_meta *seen,
                       size_t bytes, int32_t **text)
{
    struct session_meta m;
    struct session_op op;
    const uint8_t *tokens;
    uint8_t *value = malloc(bytes);
    int32_t *t = malloc(MAX(seen->n_tokens, 1) * sizeof *t);
    int r = value && t ? 0 : -ENOMEM;
    if (r == 0) {
        session_op_init(&op, s);
        op.io = (struct kv_io){.kind = KV_IO_RECORD_GET, .name = name, .buf = value,
                               .bytes = (uint32_t)bytes, .priority = KV_RESTORE};
        session_op_post(s, &op);
        r = session_op_wait(&op);
        r = r == -ENOBUFS ? -EAGAIN : r < 0 ? -EIO : 0;
    }
    if (r == 0 && session_record_read(value, op.io.value_bytes, &m, &tokens, NULL) < 0)
        r = -EIO;
    if (r == 0 && (m.n_tokens != seen->n_tokens || m.used_s != seen->used_s))
        r = -EAGAIN;
    if (r == 0)
        session_tokens_read(tokens, m.n_tokens, t);
    free(value);
    if (r < 0)
        free(t);
    else
        *text = t;
    return r;
}

int session_read(struct sessions *s, const char *name, struct session_meta *m, int32_t **text,
                 struct err *err)
{
    struct snapshot at = {0};
    int r = -EAGAIN;
    for (unsigned i = 0; i < READS_MAX && r == -EAGAIN; i++) {
        int32_t *t = NULL;
        r = look(s, name, m, &t, &at, err);
        if (r == 0 && !t)
            r = read_record(s, name, m, at.bytes, &t);
        if (r == 0)
            *text = t;
    }
    if (r == -EAGAIN)
        r = -EIO;
    if (r == -EIO)
        return err_set(err, r, "the session cannot be read from the disk");
    return r == -ENOMEM ? no_memory(err) : r;
}

// ---- making ----

static int admit_locked(struct sessions *s, struct session *x, struct err *err)
{
    struct session *other = session_find_any_locked(s, x->name);
    if (other && session_is_expired(other) && !other->saving) {
        session_remove_locked(s, other);
        other = NULL;
    }
    if (other)
        return err_set(err, -EEXIST, "there is a session \"%s\" already", x->m.id);
    if (s->n >= SESSIONS_MAX)
        return err_set(err, -EBUSY, "there are %u sessions", s->n);
    return session_add_locked(s, x) < 0 ? no_memory(err) : 0;
}

static int save_error(int result, struct err *err)
{
    if (result == -ENOSPC)
        return err_set(err, result, "the block store has no room for another session");
    if (result == -ENOMEM)
        return no_memory(err);
    return err_set(err, -EIO, "the session could not be written");
}

int session_publish(struct sessions *s, struct session *x, struct session_info *ret,
                    struct err *err)
{
    x->hidden = true;
    pthread_mutex_lock(&s->lock);
    int r = admit_locked(s, x, err);
    if (r == 0) {
        session_set_dirty_locked(s, x, true);
        pthread_mutex_unlock(&s->lock);
        engine_wake(s->e);
        pthread_mutex_lock(&s->lock);
        while (x->dirty || x->saving)
            pthread_cond_wait(&s->changed, &s->lock);
        x->hidden = false;
        if (x->durable) {
            session_describe_locked(s, x, ret);
        } else {
            r = save_error(x->result, err);
            session_remove_locked(s, x);
        }
    } else {
        session_free(x);
    }
    pthread_mutex_unlock(&s->lock);
    return r;
}

// Takes what the fork has of its parent.
static int fork_text(struct sessions *s, struct session *x, const struct hash *owner,
                     const struct session_spec *spec, struct err *err)
{
    char name[KV_RECORD_NAME_MAX + 1];
    struct session_meta p;
    int32_t *text = NULL;
    int r = name_of(s, owner, spec->fork_from, name, err);
    if (r == 0)
        r = session_read(s, name, &p, &text, err);
    if (r < 0)
        return r;
    x->text = text;
    if (spec->at_token != UINT32_MAX && spec->at_token > p.n_tokens)
        return err_set(err, -ERANGE, "the session \"%s\" has %u tokens", p.id, p.n_tokens);
    memcpy(x->m.parent, p.id, sizeof p.id);
    x->m.n_tokens = x->m.parent_tokens = MIN(spec->at_token, p.n_tokens);
    x->m.has_attn = p.has_attn;
    x->m.attn = p.attn;
    x->m.imported = p.imported;
    x->m.nonce = p.nonce;
    x->key = session_keys(s->e, &x->m, owner, text, &x->n_keys);
    return x->n_keys && !x->key ? no_memory(err) : 0;
}

int engine_session_create(struct engine *e, const struct hash *owner,
                          const struct session_spec *spec, struct session_info *ret,
                          struct err *err)
{
    struct sessions *s = e->sessions;
    if (!s)
        return no_store(err);
    if (spec->id && !session_id_ok(spec->id))
        return err_set(err, -EINVAL, "an id has 1 to %d letters, digits, '_', '-' and '.'",
                       SESSION_ID_MAX);
    struct session *x = session_new(s, owner, spec->id);
    if (!x)
        return no_memory(err);
    x->m.ttl_s = spec->ttl_s;
    x->m.pin = spec->pin;
    snprintf(x->m.metadata, sizeof x->m.metadata, "%s", spec->metadata ? spec->metadata : "");
    int r = spec->fork_from ? fork_text(s, x, owner, spec, err) : 0;
    if (r < 0) {
        session_free(x);
        return r;
    }
    return session_publish(s, x, ret, err);
}

// ---- looking ----

int engine_session_get(struct engine *e, const struct hash *owner, const char *id,
                       struct session_info *ret)
{
    struct sessions *s = e->sessions;
    char name[KV_RECORD_NAME_MAX + 1];
    if (!s)
        return -ENOTSUP;
    if (!session_id_ok(id))
        return -ENOENT;
    session_name(owner, id, name);
    pthread_mutex_lock(&s->lock);
    const struct session *x = session_find_locked(s, name);
    if (x)
        session_describe_locked(s, x, ret);
    pthread_mutex_unlock(&s->lock);
    return x ? 0 : -ENOENT;
}

// The newest first; of one second by id.
static int by_age(int64_t a_s, const char *a, int64_t b_s, const char *b)
{
    return a_s != b_s ? (a_s < b_s) - (a_s > b_s) : strcmp(a, b);
}

static int compare(const void *a, const void *b)
{
    const struct session *x = *(struct session *const *)a, *y = *(struct session *const *)b;
    return by_age(x->m.created_s, x->m.id, y->m.created_s, y->m.id);
}

uint32_t engine_session_list(struct engine *e, const struct hash *owner,
                             const struct session_info *after, struct session_info *ret,
                             uint32_t cap)
{
    struct sessions *s = e->sessions;
    char name[KV_RECORD_NAME_MAX + 1];
    uint32_t n = 0;
    if (!s)
        return 0;
    session_name(owner, "", name);
    pthread_mutex_lock(&s->lock);
    if (s->n > 0)
        qsort(s->session, s->n, sizeof(struct session *), compare);
    for (uint32_t i = 0; i < s->n && n < cap; i++) {
        const struct session *x = s->session[i];
        bool is_seen = !x->hidden && !session_is_expired(x) &&
                       strncmp(x->name, name, strlen(name)) == 0;
        bool is_behind = !after ||
                         by_age(x->m.created_s, x->m.id, after->created_s, after->id) > 0;
        if (is_seen && is_behind)
            session_describe_locked(s, x, &ret[n++]);
    }
    pthread_mutex_unlock(&s->lock);
    return n;
}

// ---- deleting ----

static int delete_record(struct sessions *s, const char *name)
{
    struct session_op op;
    session_op_init(&op, s);
    op.io = (struct kv_io){.kind = KV_IO_RECORD_DELETE, .name = name};
    session_op_post(s, &op);
    int r = session_op_wait(&op);
    return r == -ENOENT ? 0 : r;
}

int engine_session_delete(struct engine *e, const struct hash *owner, const char *id,
                          struct err *err)
{
    struct sessions *s = e->sessions;
    char name[KV_RECORD_NAME_MAX + 1];
    int r = name_of(s, owner, id, name, err);
    if (r < 0)
        return r;
    pthread_mutex_lock(&s->lock);
    struct session *x = session_find_locked(s, name);
    r = !x ? unknown(err) : x->busy ? err_set(err, -EBUSY, "a request runs on the session") : 0;
    if (r < 0) {
        pthread_mutex_unlock(&s->lock);
        return r;
    }
    x->hidden = true;                   // from here on it is ours
    bool was_dirty = x->dirty;
    session_set_dirty_locked(s, x, false);
    while (x->saving)
        pthread_cond_wait(&s->changed, &s->lock);
    pthread_mutex_unlock(&s->lock);
    r = delete_record(s, name);
    pthread_mutex_lock(&s->lock);
    x->hidden = false;
    if (r == 0)
        session_remove_locked(s, x);
    else
        session_set_dirty_locked(s, x, was_dirty && !x->durable);
    pthread_mutex_unlock(&s->lock);
    return r < 0 ? err_set(err, -EIO, "the session could not be deleted on the disk") : 0;
}

// ---- requests ----

int engine_session_take(struct engine *e, const struct hash *owner, const char *id,
                        struct session **ret, struct session_info *info, struct err *err)
{
    struct sessions *s = e->sessions;
    char name[KV_RECORD_NAME_MAX + 1];
    int r = name_of(s, owner, id, name, err);
    if (r < 0)
        return r;
    pthread_mutex_lock(&s->lock);
    struct session *x = session_find_locked(s, name);
    if (!x) {
        r = unknown(err);
    } else if (x->foreign) {
        r = foreign(err);
    } else if (x->busy) {
        r = err_set(err, -EBUSY, "another request runs on the session");
    } else {
        x->busy = true;
        session_salt_of(&x->m, owner, &x->salt);
        session_describe_locked(s, x, info);
        *ret = x;
    }
    pthread_mutex_unlock(&s->lock);
    return r;
}

void engine_session_drop(struct engine *e, struct session *x)
{
    if (!x)
        return;
    pthread_mutex_lock(&e->sessions->lock);
    assert(x->busy);
    x->busy = false;
    pthread_mutex_unlock(&e->sessions->lock);
}

int engine_session_text(struct engine *e, struct session *x, struct tokens *out, struct err *err)
{
    struct session_meta m;
    int32_t *text = NULL;
    int r = session_read(e->sessions, x->name, &m, &text, err);
    for (uint32_t i = 0; r == 0 && i < m.n_tokens; i++)
        if (tokens_add(out, text[i]) < 0)
            r = no_memory(err);
    free(text);
    return r;
}
