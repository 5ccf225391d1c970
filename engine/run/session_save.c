// What a request leaves of its session, and writing that behind what runs.
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "engine/run/sessions_priv.h"
#include "engine/run/stored.h"
#include "base/clock.h"

// How long a record waits for blocks that the store has not taken; then it pins the others.
#define BLOCKS_NS (5 * NS_PER_S)
#define FAILURES_MAX 3                  // in a row: the text then stays in memory
#define RETRY_NS (NS_PER_S / 5)

void session_set_dirty_locked(struct sessions *s, struct session *x, bool dirty)
{
    if (dirty == x->dirty)
        return;
    x->dirty = dirty;
    s->n_dirty = dirty ? s->n_dirty + 1 : s->n_dirty - 1;
}

// ---- what a request leaves ----

struct left { uint32_t n_tokens, n_keys; bool any; };

static bool is_whole(enum finish_reason r) { return r == FINISH_STOP || r == FINISH_LENGTH; }

// All that was read and written, but not the token that ended the answer: no client sends that.
static struct left whole_text(const struct engine *e, const struct job *j)
{
    const struct sequence *q = &j->seq;
    uint32_t n = q->n_tokens;
    if (!j->gen.ignore_end && n > q->n_prompt && tokenizer_is_end(e->tok, q->token[n - 1]))
        n--;
    return (struct left){n, MIN(n, q->n_computed) / KV_BLOCK_TOKENS, true};
}

// Of a request that was cut: the whole blocks that were computed, if they are more than the session
// had. An appended turn is taken as a whole or not at all; the session's text stays, and the blocks
// are pinned for who tries again.
static struct left cut_text(const struct job *j, uint32_t n_had)
{
    const struct sequence *q = &j->seq;
    uint32_t n = q->n_computed / KV_BLOCK_TOKENS;
    if (j->session_append)
        return (struct left){n_had, n, n > n_had / KV_BLOCK_TOKENS};
    return (struct left){n * KV_BLOCK_TOKENS, n, n * KV_BLOCK_TOKENS > n_had};
}

static int copy_text(struct session *x, const struct job *j, const struct left *l)
{
    int32_t *text = malloc(MAX(l->n_tokens, 1) * sizeof *text);
    struct hash *key = malloc(MAX(l->n_keys, 1) * sizeof *key);
    if (!text || !key) {
        free(text);
        free(key);
        return -ENOMEM;
    }
    memcpy(text, j->seq.token, l->n_tokens * sizeof *text);
    memcpy(key, j->seq.key, l->n_keys * sizeof *key);
    free(x->text);
    free(x->key);
    x->text = text;
    x->key = key;
    x->n_keys = l->n_keys;
    x->m.n_tokens = l->n_tokens;
    return 0;
}

static void change_locked(struct sessions *s, struct session *x, const struct job *j,
                          const struct left *l)
{
    x->m.has_attn = true;
    x->m.attn = j->attn;
    x->m.used_s = clock_unix_s();
    x->version++;
    x->durable = false;
    x->mark = stored_mark(s->e->stored);
    x->until_ns = clock_now_ns() + BLOCKS_NS;
    x->retry_ns = 0;
    x->n_seen = x->n_failed = 0;
    if (l->n_tokens < x->m.parent_tokens)
        x->m.parent_tokens = l->n_tokens;
    session_set_dirty_locked(s, x, true);
}

void sessions_job_ends(struct sessions *s, const struct job *j, enum finish_reason reason)
{
    struct session *x = j->session;
    if (!x)
        return;
    pthread_mutex_lock(&s->lock);
    struct left l = {0};
    if (is_whole(reason))
        l = whole_text(s->e, j);
    else if (reason == FINISH_CANCELLED || reason == FINISH_DEADLINE)
        l = cut_text(j, x->m.n_tokens);
    assert(l.n_keys <= j->seq.n_keys);
    if (l.any && l.n_tokens <= SESSION_TOKENS_MAX && copy_text(x, j, &l) == 0)
        change_locked(s, x, j, &l);
    assert(x->busy);
    x->busy = false;
    pthread_mutex_unlock(&s->lock);
}

// ---- saving ----

// Whether its blocks are where they will ever be.
static bool is_ready(struct sessions *s, struct session *x, uint64_t now)
{
    if (s->stopping)
        return true;
    if (now < x->retry_ns || !stored_passed(s->e->stored, x->mark))
        return false;
    while (x->n_seen < x->n_keys && kv_store_has(s->store, &x->key[x->n_seen], NULL))
        x->n_seen++;
    return x->n_seen == x->n_keys || now >= x->until_ns;
}

// Blocks that may still be pinned: a quarter of the store is everybody's.
static uint64_t pins_left(struct sessions *s, const struct session *x)
{
    struct kv_stats st;
    kv_store_stats(s->store, &st);
    uint64_t block = s->e->layout.block_bytes, most = st.capacity_bytes / 4 * 3;
    uint64_t others = st.pinned_bytes - MIN(st.pinned_bytes, x->n_pinned * block);
    return (most - MIN(most, others)) / block;
}

static void choose_pins(struct sessions *s, const struct session *x, struct session_save *v)
{
    uint64_t most = x->m.pin ? pins_left(s, x) : 0;
    v->n_pins = 0;
    for (uint32_t i = 0; i < x->n_keys && v->n_pins < most; i++)
        if (kv_store_has(s->store, &x->key[i], NULL))
            v->pin[v->n_pins++] = x->key[i];
}

static void count_failure_locked(struct sessions *s, struct session *x, int result)
{
    x->result = result;
    x->n_seen = 0;
    if (++x->n_failed >= FAILURES_MAX || x->hidden) {
        s->save_failures++;
        session_set_dirty_locked(s, x, false);
    }
    // A block that was named went away meanwhile: the next try names those that are left.
    x->retry_ns = result == -ENOENT ? 0 : clock_now_ns() + RETRY_NS * x->n_failed;
}

static void free_save(struct session_save *v)
{
    free(v->value);
    free(v->pin);
    v->value = NULL;
    v->pin = NULL;
}

static void save_done(struct session_op *op)
{
    struct sessions *s = op->sessions;
    struct session *x = container_of(op, struct session, save.op);
    struct session_save *v = &x->save;
    pthread_mutex_lock(&s->lock);
    x->saving = false;
    x->result = op->io.result;
    if (op->io.result == 0)
        x->n_pinned = v->n_pins;
    if (op->io.result == 0 && v->version == x->version) {
        free(x->text);
        free(x->key);
        x->text = NULL;
        x->key = NULL;
        x->n_keys = 0;
        x->durable = true;
        session_set_dirty_locked(s, x, false);
    } else if (op->io.result < 0 && v->version == x->version) {
        count_failure_locked(s, x, op->io.result);
    }
    free_save(v);
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
}

static void save_locked(struct sessions *s, struct session *x)
{
    struct session_save *v = &x->save;
    size_t bytes = session_record_bytes(&x->m);
    v->value = malloc(bytes);
    v->pin = malloc(MAX(x->n_keys, 1) * sizeof *v->pin);
    if (!v->value || !v->pin) {
        free_save(v);
        count_failure_locked(s, x, -ENOMEM);
        pthread_cond_broadcast(&s->changed);
        return;
    }
    session_record_write(&x->m, x->text, v->value);
    choose_pins(s, x, v);
    v->version = x->version;
    x->saving = true;
    session_op_init(&v->op, s);
    v->op.done = save_done;
    v->op.io = (struct kv_io){
        .kind = KV_IO_RECORD_PUT, .priority = KV_WRITE_BEHIND, .name = x->name, .buf = v->value,
        .bytes = (uint32_t)bytes, .pin = v->pin, .n_pins = v->n_pins, .ttl_s = x->m.ttl_s,
    };
}

// The store may end an operation within its submission, which takes the lock: so not under it.
void sessions_save_turn(struct sessions *s)
{
    uint64_t now = clock_now_ns();
    pthread_mutex_lock(&s->lock);
    for (uint32_t i = 0, left = s->n_dirty; i < s->n && left > 0; i++) {
        struct session *x = s->session[i];
        left -= x->dirty;
        if (!x->dirty || x->saving || !is_ready(s, x, now))
            continue;
        save_locked(s, x);
        if (x->saving)
            session_op_post_locked(s, &x->save.op);
    }
    pthread_mutex_unlock(&s->lock);
}
