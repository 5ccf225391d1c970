// Streams: deltas packed into chunks under a small lock.
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "engine/run/stream.h"
#include "base/base.h"
#include "base/clock.h"

#define CHUNK_BYTES 4000

struct chunk {
    struct chunk *next;
    size_t        used, size;               // bytes
    _Alignas(8) unsigned char data[];       // records
};

// Followed by n_tokens logprobs (if any), n_tokens tokens and n_text bytes.
struct record {
    size_t          bytes;                  // all of it, a multiple of 8
    size_t          n_text;
    uint64_t        time_ns;
    uint32_t        n_tokens;
    enum delta_kind kind;
    bool            has_logprob;
};
static_assert(sizeof(struct record) % 8 == 0, "what follows a record is aligned");
static_assert(sizeof(struct token_logprob) % 4 == 0, "tokens follow logprobs");

struct stream {
    atomic_bool     cancelled;
    pthread_mutex_t lock;                   // protects everything below
    pthread_cond_t  readable;
    struct chunk   *head, *tail;            // read from, written to; never NULL
    size_t          read_at;                // in head
    struct chunk   *spare;                  // one emptied chunk, or NULL
    struct delta    done;
    bool            finished, done_read;    // done is valid; and was handed out
    bool            parked, closed;
    unsigned        refs;
    void          (*wake)(void *ctx);
    void           *wake_ctx;
};

static struct chunk *chunk_create(size_t size)
{
    struct chunk *c = malloc(sizeof *c + size);
    if (!c)
        return NULL;
    c->next = NULL;
    c->used = 0;
    c->size = size;
    return c;
}

static void stream_destroy(struct stream *s)
{
    while (s->head) {
        struct chunk *next = s->head->next;
        free(s->head);
        s->head = next;
    }
    free(s->spare);
    pthread_cond_destroy(&s->readable);
    pthread_mutex_destroy(&s->lock);
    free(s);
}

int stream_create(struct stream **ret, void (*wake)(void *ctx), void *wake_ctx)
{
    struct stream *s = calloc(1, sizeof *s);
    if (!s)
        return -ENOMEM;
    s->head = s->tail = chunk_create(CHUNK_BYTES);
    if (!s->head) {
        free(s);
        return -ENOMEM;
    }
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&s->readable, &attr);
    pthread_condattr_destroy(&attr);
    pthread_mutex_init(&s->lock, NULL);
    s->refs = 2;
    s->wake = wake;
    s->wake_ctx = wake_ctx;
    *ret = s;
    return 0;
}

// Unlocks, and frees when this was the last reference.
static void put_locked(struct stream *s)
{
    assert(s->refs > 0);
    bool last = --s->refs == 0;
    pthread_mutex_unlock(&s->lock);
    if (last)
        stream_destroy(s);
}

static void wake_locked(struct stream *s)
{
    pthread_cond_signal(&s->readable);
    if (!s->parked || s->closed)
        return;
    s->parked = false;
    if (s->wake)
        s->wake(s->wake_ctx);
}

// ---- the engine ----

static size_t record_bytes(const struct delta *d)
{
    size_t n = sizeof(struct record) + d->n_text;
    n += d->n_tokens * (sizeof(int32_t) + (d->logprob ? sizeof(struct token_logprob) : 0));
    return ALIGN_UP(n, (size_t)8);
}

// Room for a record at the end of the list, or NULL.
static unsigned char *room_locked(struct stream *s, size_t bytes)
{
    struct chunk *c = s->tail;
    if (c->size - c->used < bytes) {
        if (s->spare && s->spare->size >= bytes) {
            c = s->spare;
            s->spare = NULL;
        } else {
            c = chunk_create(MAX(bytes, CHUNK_BYTES));
        }
        if (!c)
            return NULL;
        s->tail->next = c;
        s->tail = c;
    }
    c->used += bytes;
    return c->data + c->used - bytes;
}

static void pack(unsigned char *p, const struct delta *d, size_t bytes)
{
    struct record r = {
        .bytes = bytes, .n_text = d->n_text, .time_ns = d->time_ns, .n_tokens = d->n_tokens,
        .kind = d->kind, .has_logprob = d->logprob != NULL,
    };
    memcpy(p, &r, sizeof r);
    p += sizeof r;
    if (d->logprob) {
        memcpy(p, d->logprob, d->n_tokens * sizeof *d->logprob);
        p += d->n_tokens * sizeof *d->logprob;
    }
    if (d->n_tokens > 0)
        memcpy(p, d->token, d->n_tokens * sizeof *d->token);
    p += d->n_tokens * sizeof *d->token;
    if (d->n_text > 0)
        memcpy(p, d->text, d->n_text);
}

int stream_push(struct stream *s, const struct delta *d)
{
    assert(d->kind != DELTA_DONE);
    int r = 0;
    pthread_mutex_lock(&s->lock);
    assert(!s->finished);
    if (!s->closed) {
        size_t bytes = record_bytes(d);
        unsigned char *p = room_locked(s, bytes);
        if (p) {
            pack(p, d, bytes);
            wake_locked(s);
        } else {
            r = -ENOMEM;
        }
    }
    pthread_mutex_unlock(&s->lock);
    return r;
}

void stream_finish(struct stream *s, const struct delta *done)
{
    assert(done->kind == DELTA_DONE);
    pthread_mutex_lock(&s->lock);
    assert(!s->finished);
    s->done = *done;
    s->finished = true;
    wake_locked(s);
    put_locked(s);
}

bool stream_cancelled(const struct stream *s)
{
    return atomic_load_explicit(&s->cancelled, memory_order_relaxed);
}

// ---- the reader ----

// The record to read next, or NULL. Gives back the chunks that were read, so the borrowed pointers
// of the last delta end here.
static unsigned char *next_locked(struct stream *s)
{
    if (s->read_at == s->head->used && s->head->next) {
        struct chunk *c = s->head;
        s->head = c->next;
        s->read_at = 0;
        if (s->spare || c->size != CHUNK_BYTES) {
            free(c);
        } else {
            c->next = NULL;
            c->used = 0;
            s->spare = c;
        }
    }
    if (s->read_at < s->head->used)
        return s->head->data + s->read_at;
    s->head->used = s->read_at = 0;         // everything was read: start over in the same memory
    return NULL;
}

static size_t unpack(const unsigned char *p, struct delta *ret)
{
    const struct record *r = (const struct record *)p;
    p += sizeof *r;
    *ret = (struct delta){
        .kind = r->kind, .n_text = r->n_text, .n_tokens = r->n_tokens, .time_ns = r->time_ns,
    };
    if (r->has_logprob) {
        ret->logprob = (const struct token_logprob *)p;
        p += r->n_tokens * sizeof *ret->logprob;
    }
    ret->token = (const int32_t *)p;
    ret->text = (const char *)(p + r->n_tokens * sizeof *ret->token);
    return r->bytes;
}

bool stream_read(struct stream *s, struct delta *ret)
{
    pthread_mutex_lock(&s->lock);
    assert(!s->closed);
    bool got = true;
    const unsigned char *p = next_locked(s);
    if (p) {
        s->read_at += unpack(p, ret);
    } else if (s->finished && !s->done_read) {
        *ret = s->done;
        s->done_read = true;
    } else {
        got = false;
        s->parked = !s->finished;
    }
    pthread_mutex_unlock(&s->lock);
    return got;
}

static bool readable_locked(const struct stream *s)
{
    return s->read_at < s->head->used || s->head->next || (s->finished && !s->done_read);
}

bool stream_wait(struct stream *s, uint64_t timeout_ns)
{
    uint64_t now = clock_now_ns();
    uint64_t until = timeout_ns > UINT64_MAX - now ? UINT64_MAX : now + timeout_ns;
    // No further than time_t surely goes.
    until = MIN(until, now + UINT64_C(1000000) * NS_PER_S);
    struct timespec ts = {(time_t)(until / NS_PER_S), (long)(until % NS_PER_S)};
    int r = 0;
    pthread_mutex_lock(&s->lock);
    while (!readable_locked(s) && !s->done_read && r != ETIMEDOUT)
        r = pthread_cond_timedwait(&s->readable, &s->lock, &ts);
    bool got = readable_locked(s);
    pthread_mutex_unlock(&s->lock);
    return got;
}

void stream_cancel(struct stream *s)
{
    atomic_store_explicit(&s->cancelled, true, memory_order_relaxed);
}

void stream_close(struct stream *s)
{
    if (!s)
        return;
    stream_cancel(s);
    pthread_mutex_lock(&s->lock);
    assert(!s->closed);
    s->closed = true;
    put_locked(s);
}
