// A session as a file, read piece by piece while its blocks come from the disk.
//
// What the file will hold is decided at the beginning: blocks that are stored then are held until
// the end, so that its length is known. The engine thread reads a few of them ahead into buffers of
// the export; the reader hashes and hands out. The export ends on the engine thread, when its last
// read has ended.
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "engine/run/sessions_priv.h"

#define SLOTS 2
#define EXPORTS_MAX 8                   // at once

struct export_slot {
    struct session_op      op;
    struct session_export *x;
    uint8_t               *buf;         // (io_bytes)
    bool                   ready;       // lock
};

struct session_export {
    struct sessions *s;
    struct session_op op;               // of opening and closing
    struct hash     *key;               // (n_keys) of the text's blocks
    uint32_t        *index;             // (n) of those that the file has
    uint32_t         n_keys, n;
    uint8_t         *head;              // (n_head) all before the first frame
    size_t           n_head;
    struct hash      head_sum;
    uint32_t         block_bytes, io_bytes;

    // The reader's.
    uint64_t         at;                // bytes handed out
    uint8_t          frame[SESSION_FRAME_BYTES];    // of the frame at hand

    // The engine thread's.
    uint32_t         n_reading;
    bool             closing;

    pthread_mutex_t  lock;              // a leaf, but that wake() is called under it
    bool             parked;
    void           (*wake)(void *ctx);
    void            *wake_ctx;
    struct export_slot slot[SLOTS];
};

static void destroy(struct session_export *x)
{
    pthread_mutex_lock(&x->s->lock);
    x->s->n_exports--;
    pthread_mutex_unlock(&x->s->lock);
    for (unsigned i = 0; i < SLOTS; i++)
        free(x->slot[i].buf);
    pthread_mutex_destroy(&x->lock);
    free(x->key);
    free(x->index);
    free(x->head);
    free(x);
}

// ---- the engine thread ----

static void end(struct session_export *x)
{
    for (uint32_t i = 0; i < x->n; i++)
        kv_store_release(x->s->store, &x->key[x->index[i]]);
    destroy(x);
}

static void run_read(struct session_op *op)
{
    struct export_slot *t = container_of(op, struct export_slot, op);
    t->x->n_reading++;
    session_op_io(op);
}

static void read_done(struct session_op *op)
{
    struct export_slot *t = container_of(op, struct export_slot, op);
    struct session_export *x = t->x;
    x->n_reading--;
    pthread_mutex_lock(&x->lock);
    t->ready = true;
    if (x->parked) {
        x->parked = false;
        x->wake(x->wake_ctx);
    }
    pthread_mutex_unlock(&x->lock);
    if (x->closing && x->n_reading == 0)
        end(x);
}

static void run_hold(struct session_op *op)
{
    struct session_export *x = container_of(op, struct session_export, op);
    for (uint32_t i = 0; i < x->n_keys; i++) {
        uint32_t bytes;
        if (kv_store_has(x->s->store, &x->key[i], &bytes) && bytes == x->io_bytes &&
            kv_store_hold(x->s->store, &x->key[i]))
            x->index[x->n++] = i;
    }
    session_op_end(op);
}

static void run_close(struct session_op *op)
{
    struct session_export *x = container_of(op, struct session_export, op);
    x->closing = true;
    if (x->n_reading == 0)
        end(x);
}

// ---- opening ----

static void read_frame(struct session_export *x, uint32_t i)
{
    struct export_slot *t = &x->slot[i % SLOTS];
    if (i >= x->n)
        return;
    t->op = (struct session_op){.run = run_read, .done = read_done, .sessions = x->s};
    t->op.io = (struct kv_io){
        .kind = KV_IO_GET, .priority = KV_PREFETCH, .key = x->key[x->index[i]], .buf = t->buf,
        .bytes = x->io_bytes,
    };
    session_op_post(x->s, &t->op);
}

static int make_head(struct session_export *x, const struct session_meta *m, const int32_t *text)
{
    struct session_file f = {.n_blocks = x->n, .record_bytes = (uint32_t)session_record_bytes(m)};
    size_t n = SESSION_FILE_BYTES + f.record_bytes;
    x->head = malloc(n + HASH_BYTES);
    if (!x->head)
        return -ENOMEM;
    session_identity(x->s->e, &f.identity);
    session_file_write(&f, x->head);
    session_record_write(m, text, x->head + SESSION_FILE_BYTES);
    hash_bytes(x->head, n, &x->head_sum);
    memcpy(x->head + n, x->head_sum.b, HASH_BYTES);
    x->n_head = n + HASH_BYTES;
    return 0;
}

static int make_buffers(struct session_export *x)
{
    x->index = malloc(MAX(x->n_keys, 1) * sizeof *x->index);
    for (unsigned i = 0; i < SLOTS; i++) {
        x->slot[i].x = x;
        x->slot[i].buf = aligned_alloc(KV_UNIT_BYTES, x->io_bytes);
        if (!x->slot[i].buf)
            return -ENOMEM;
    }
    return x->index && (x->key || !x->n_keys) ? 0 : -ENOMEM;
}

static int create(struct session_export **ret, struct sessions *s, struct err *err)
{
    struct session_export *x = calloc(1, sizeof *x);
    if (!x)
        return err_set(err, -ENOMEM, "no memory for a file of a session");
    pthread_mutex_lock(&s->lock);
    bool room = s->n_exports < EXPORTS_MAX;
    s->n_exports += room;
    pthread_mutex_unlock(&s->lock);
    if (!room) {
        free(x);
        return err_set(err, -EBUSY, "%d sessions are being exported", EXPORTS_MAX);
    }
    x->s = s;
    x->block_bytes = (uint32_t)s->e->layout.block_bytes;
    x->io_bytes = ALIGN_UP(x->block_bytes, KV_UNIT_BYTES);
    pthread_mutex_init(&x->lock, NULL);
    *ret = x;
    return 0;
}

static int fill(struct session_export *x, const struct hash *owner, const char *id,
                struct err *err)
{
    char name[KV_RECORD_NAME_MAX + 1];
    struct session_meta m;
    int32_t *text = NULL;
    session_name(owner, id, name);
    int r = session_read(x->s, name, &m, &text, err);
    if (r < 0)
        return r;
    x->key = session_keys(x->s->e, &m, owner, text, &x->n_keys);
    r = make_buffers(x);
    if (r == 0) {
        x->op = (struct session_op){.run = run_hold};
        session_op_post(x->s, &x->op);
        session_op_wait(&x->op);
        r = make_head(x, &m, text);
    }
    free(text);
    return r < 0 ? err_set(err, r, "no memory for a file of a session") : 0;
}

int engine_export_open(struct session_export **ret, struct engine *e, const struct hash *owner,
                       const char *id, void (*wake)(void *ctx), void *wake_ctx, struct err *err)
{
    struct session_export *x = NULL;
    if (!e->sessions)
        return err_set(err, -ENOTSUP, "there is no block store");
    if (!session_id_ok(id))
        return err_set(err, -ENOENT, "there is no such session");
    int r = create(&x, e->sessions, err);
    if (r < 0)
        return r;
    x->wake = wake;
    x->wake_ctx = wake_ctx;
    r = fill(x, owner, id, err);
    if (r < 0) {
        engine_export_close(x);
        return r;
    }
    for (uint32_t i = 0; i < SLOTS; i++)
        read_frame(x, i);
    *ret = x;
    return 0;
}

void engine_export_close(struct session_export *x)
{
    if (!x)
        return;
    pthread_mutex_lock(&x->lock);
    x->parked = false;
    pthread_mutex_unlock(&x->lock);
    x->op = (struct session_op){.run = run_close};
    session_op_post(x->s, &x->op);
}

// ---- reading ----

static uint64_t frame_bytes(const struct session_export *x)
{
    return SESSION_FRAME_BYTES + (uint64_t)x->block_bytes;
}

uint64_t engine_export_bytes(const struct session_export *x)
{
    return x->n_head + x->n * frame_bytes(x);
}

// Whether the frame's block is there; else the reader is parked.
static bool is_ready(struct session_export *x, uint32_t i)
{
    pthread_mutex_lock(&x->lock);
    bool ready = x->slot[i % SLOTS].ready;
    x->parked = !ready;
    pthread_mutex_unlock(&x->lock);
    return ready;
}

static void begin_frame(struct session_export *x, uint32_t i)
{
    struct export_slot *t = &x->slot[i % SLOTS];
    struct session_frame f = {.index = x->index[i], .whole = t->op.io.result == 0};
    if (!f.whole)
        memset(t->buf, 0, x->block_bytes);
    session_frame_sum(&x->head_sum, &f, t->buf, x->block_bytes, &f.sum);
    session_frame_write(&f, x->frame);
}

static void end_frame(struct session_export *x, uint32_t i)
{
    pthread_mutex_lock(&x->lock);
    x->slot[i % SLOTS].ready = false;
    pthread_mutex_unlock(&x->lock);
    read_frame(x, i + SLOTS);
}

static size_t take(void *to, size_t n, const uint8_t *from, uint64_t at, uint64_t end)
{
    size_t got = (size_t)MIN(n, end - at);
    memcpy(to, from + at, got);
    return got;
}

// From byte `at` of frame i on; 0: its block is not there yet.
static size_t read_in_frame(struct session_export *x, uint32_t i, uint64_t at, void *to, size_t n)
{
    if (!is_ready(x, i))
        return 0;
    if (at == 0)
        begin_frame(x, i);
    if (at < SESSION_FRAME_BYTES)
        return take(to, n, x->frame, at, SESSION_FRAME_BYTES);
    size_t got = take(to, n, x->slot[i % SLOTS].buf, at - SESSION_FRAME_BYTES, x->block_bytes);
    if (at + got == frame_bytes(x))
        end_frame(x, i);
    return got;
}

size_t engine_export_read(struct session_export *x, void *buf, size_t n)
{
    uint8_t *to = buf;
    size_t got = 0, part = 1;
    while (got < n && part > 0 && x->at < engine_export_bytes(x)) {
        uint64_t behind = x->at - MIN(x->at, x->n_head);
        if (x->at < x->n_head)
            part = take(to + got, n - got, x->head, x->at, x->n_head);
        else
            part = read_in_frame(x, (uint32_t)(behind / frame_bytes(x)), behind % frame_bytes(x),
                                 to + got, n - got);
        got += part;
        x->at += part;
    }
    return got;
}
