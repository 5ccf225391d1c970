// Calls: running endpoints, parking, and the answers that libmicrohttpd sends.
//
// A call waits with its connection suspended. Lost wakeups cannot happen: wake sets `ready` under
// the call's lock, and a reader parks only under that lock and only while `ready` is not set.
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/base.h"
#include "base/clock.h"
#include "server/http_int.h"
#include "server/json.h"

#define SSE_PING ": keep-alive\n\n"

// ---- life ---------------------------------------------------------------------------------------

static void put_id(char *buf, size_t size)
{
    static _Atomic uint64_t counter;
    uint64_t x = atomic_fetch_add(&counter, 1);
    if (x == 0) {                       // start anywhere, so that ids differ between runs
        random_bytes(&x, sizeof(x));
        atomic_fetch_add(&counter, x);
    }
    x = (x ^ x >> 31) * UINT64_C(0x9e3779b97f4a7c15);
    snprintf(buf, size, "req-%016llx", (unsigned long long)(x ^ x >> 29));
}

struct call_link *call_create(struct http *h, struct conn *conn, struct MHD_Connection *mhd)
{
    struct call_link *l = calloc(1, sizeof(*l));
    if (!l)
        return NULL;
    l->http = h;
    l->conn = conn;
    l->mhd = mhd;
    l->c.app = h->p.app;
    l->c.tail = "";
    l->c.link = l;
    l->c.start_ns = clock_now_ns();
    put_id(l->c.id, sizeof(l->c.id));
    pthread_mutex_init(&l->lock, NULL);
    return l;
}

// From here on the door sees the call: pings, stalls, and a client that leaves.
static void attach(struct call_link *l)
{
    struct http *h = l->http;
    if (l->attached)
        return;
    l->attached = true;
    atomic_store(&l->progress_ns, clock_now_ns());
    atomic_fetch_add(&h->n_calls, 1);
    pthread_mutex_lock(&h->lock);
    l->conn->call = l;
    pthread_mutex_unlock(&h->lock);
    if (atomic_load(&l->conn->hup) || atomic_load(&h->stopping))
        call_set_gone(l);
}

static void drop_body(struct call_link *l)
{
    atomic_fetch_sub(&l->http->bodies_bytes, l->body_charged);
    l->body_charged = 0;
    str_free(&l->c.body);
}

void call_destroy(struct call_link *l)
{
    struct http *h = l->http;
    if (l->attached) {
        pthread_mutex_lock(&h->lock);
        l->conn->call = NULL;
        pthread_mutex_unlock(&h->lock);
    }
    if (l->c.finish)
        l->c.finish(&l->c);
    h->p.events->ended(h->p.app, &l->c, l->sent_bytes);
    drop_body(l);
    if (l->attached)
        atomic_fetch_sub(&h->n_calls, 1);
    // The worker that resumed this call may still be on its way out of the lock.
    pthread_mutex_lock(&l->lock);
    pthread_mutex_unlock(&l->lock);
    pthread_mutex_destroy(&l->lock);
    str_free(&l->c.out);
    arena_reset(&l->c.arena);
    free(l);
}

// ---- parking ------------------------------------------------------------------------------------

// Suspends the connection unless something became ready. Returns true if the call is parked.
static bool park(struct call_link *l)
{
    pthread_mutex_lock(&l->lock);
    bool parks = !l->ready && !atomic_load(&l->gone);
    if (parks) {
        l->parked = true;
        MHD_suspend_connection(l->mhd);
    }
    pthread_mutex_unlock(&l->lock);
    return parks;
}

// A stream that was silent for long is not stalled: its reader gets its time from now on.
static void unpark_locked(struct call_link *l)
{
    if (l->parked && !l->working) {
        atomic_store(&l->progress_ns, clock_now_ns());
        l->parked = false;
        MHD_resume_connection(l->mhd);
    }
}

void call_wake(void *call)
{
    struct call_link *l = ((struct call *)call)->link;
    pthread_mutex_lock(&l->lock);
    l->ready = true;
    unpark_locked(l);
    pthread_mutex_unlock(&l->lock);
}

void call_set_gone(struct call_link *l)
{
    atomic_store(&l->gone, true);
    call_wake(&l->c);
}

bool call_is_gone(const struct call *c)
{
    return atomic_load(&c->link->gone);
}

static enum pump run_pump(struct call_link *l)
{
    pthread_mutex_lock(&l->lock);
    l->ready = false;
    pthread_mutex_unlock(&l->lock);
    return l->c.pump(&l->c);
}

// ---- answers ------------------------------------------------------------------------------------

void call_answer(struct call *c, unsigned status, const char *type)
{
    c->status = status;
    c->type = type;
    if (str_ok(&c->out))
        return;
    struct fault f = {0};
    fault_no_memory(&f);
    str_free(&c->out);
    call_fail(c, &f);
}

const char *call_query(const struct call *c, const char *name)
{
    return MHD_lookup_connection_value(c->link->mhd, MHD_GET_ARGUMENT_KIND, name);
}

void call_fail(struct call *c, const struct fault *f)
{
    str_clear(&c->out);
    fault_json(&c->out, f);
    c->status = api_error_status(f->error);
    c->type = "application/json";
    c->retry_after_s = f->retry_after_s;
    if (!c->retry_after_s && (c->status == 503 || c->status == 429))
        c->retry_after_s = 1;
    c->streaming = false;
}

void call_start(struct call *c, bool streaming, enum pump (*pump)(struct call *c))
{
    c->pump = pump;
    c->streaming = streaming;
    if (streaming) {
        c->status = 200;
        c->type = "text/event-stream";
    }
}

void call_start_file(struct call *c, const char *type, uint64_t n_bytes,
                     enum pump (*pump)(struct call *c))
{
    call_start(c, true, pump);
    c->type = type;
    c->file_bytes = n_bytes;
}

static void add_header(struct MHD_Response *r, const char *name, const char *value)
{
    // Only a name or value with control characters can fail, and none of ours has any.
    enum MHD_Result ok = MHD_add_response_header(r, name, value);
    (void)ok;
}

static void add_headers(const struct call_link *l, struct MHD_Response *r)
{
    const struct call *c = &l->c;
    if (c->type)
        add_header(r, "Content-Type", c->type);
    add_header(r, "x-request-id", c->id);
    if (c->streaming) {
        add_header(r, "Cache-Control", "no-cache");
        add_header(r, "X-Accel-Buffering", "no");
    }
    if (c->status == 401)
        add_header(r, "WWW-Authenticate", "Bearer");
    if (c->allow)
        add_header(r, "Allow", c->allow);
    if (c->retry_after_s) {
        char text[16];
        snprintf(text, sizeof(text), "%u", c->retry_after_s);
        add_header(r, "Retry-After", text);
    }
    if (l->http->p.cors_origins)
        add_header(r, "Vary", "Origin");
    if (l->cors) {
        add_header(r, "Access-Control-Allow-Origin", l->cors);
        add_header(r, "Access-Control-Expose-Headers", "x-request-id, Retry-After");
        if (c->status == 204) {
            add_header(r, "Access-Control-Allow-Methods", c->allow ? c->allow : "GET, POST");
            // '*' is all but Authorization: SDKs send more fields than anybody lists.
            add_header(r, "Access-Control-Allow-Headers", "Authorization, *");
            add_header(r, "Access-Control-Max-Age", "600");
        }
    }
    if (l->close_after)
        add_header(r, "Connection", "close");
}

static enum MHD_Result queue(struct call_link *l, struct MHD_Response *r)
{
    if (!r)
        return MHD_NO;
    add_headers(l, r);
    enum MHD_Result ok = MHD_queue_response(l->mhd, l->c.status, r);
    MHD_destroy_response(r);
    return ok;
}

// A whole answer: it must leave within the write timeout.
enum MHD_Result call_respond(struct call_link *l)
{
    struct call *c = &l->c;
    assert(c->status);
    l->stage = CALL_SENDING;
    atomic_store(&l->conn->deadline_ns, clock_now_ns() + l->http->p.write_ns);
    l->sent_bytes = c->out.n;
    return queue(l, MHD_create_response_from_buffer(c->out.n, c->out.p ? c->out.p : "",
                                                    MHD_RESPMEM_PERSISTENT));
}

void call_refuse(struct call_link *l, const struct fault *f)
{
    l->stage = CALL_REFUSED;
    l->fault = *f;
}

// ---- streams ------------------------------------------------------------------------------------

static ssize_t take_out(struct call_link *l, char *buf, size_t max)
{
    struct str *out = &l->c.out;
    size_t n = MIN(out->n - l->out_sent, max);
    memcpy(buf, out->p + l->out_sent, n);
    l->out_sent += n;
    l->sent_bytes += n;
    if (l->out_sent == out->n) {
        str_clear(out);
        l->out_sent = 0;
    }
    return (ssize_t)n;
}

// libmicrohttpd asks for the next bytes of a stream.
static ssize_t stream_read_out(void *ctx, uint64_t pos, char *buf, size_t max)
{
    (void)pos;
    struct call_link *l = ctx;
    atomic_store(&l->progress_ns, clock_now_ns());
    for (;;) {
        if (atomic_load(&l->gone) || !str_ok(&l->c.out))
            return MHD_CONTENT_READER_END_WITH_ERROR;
        if (l->c.out.n > l->out_sent)
            return take_out(l, buf, max);
        if (l->done)
            return MHD_CONTENT_READER_END_OF_STREAM;
        l->done = run_pump(l) == PUMP_DONE;
        if (l->done || l->c.out.n)
            continue;
        if (atomic_exchange(&l->ping, false) && !l->c.file_bytes)
            str_puts(&l->c.out, SSE_PING);
        else if (park(l))
            return 0;
    }
}

static enum MHD_Result respond_stream(struct call_link *l)
{
    l->stage = CALL_SENDING;
    atomic_store(&l->conn->deadline_ns, 0);
    atomic_store(&l->flowing, true);
    uint64_t n_bytes = l->c.file_bytes ? l->c.file_bytes : MHD_SIZE_UNKNOWN;
    return queue(l, MHD_create_response_from_callback(n_bytes, POOL_BYTES / 2, stream_read_out, l,
                                                      NULL));
}

// ---- running ------------------------------------------------------------------------------------

static void work_push(struct call_link *l)
{
    struct http *h = l->http;
    pthread_mutex_lock(&h->work_lock);
    l->work_next = NULL;
    if (h->work_tail)
        h->work_tail->work_next = l;
    else
        h->work_head = l;
    h->work_tail = l;
    pthread_cond_signal(&h->work_cond);
    pthread_mutex_unlock(&h->work_lock);
}

// Suspends the connection until a worker has run the endpoint.
static enum MHD_Result send_to_worker(struct call_link *l)
{
    attach(l);
    pthread_mutex_lock(&l->lock);
    l->working = l->parked = true;
    MHD_suspend_connection(l->mhd);
    pthread_mutex_unlock(&l->lock);
    work_push(l);
    return MHD_YES;
}

static enum MHD_Result after_run(struct call_link *l)
{
    struct call *c = &l->c;
    assert(c->status || c->pump);
    drop_body(l);                       // an answer may take minutes
    if (c->pump)
        attach(l);
    if (c->streaming)
        return respond_stream(l);
    while (!c->status) {
        if (atomic_load(&l->gone))
            return MHD_NO;
        if (run_pump(l) == PUMP_DONE)
            assert(c->status);
        else if (park(l))
            return MHD_YES;
    }
    return call_respond(l);
}

enum MHD_Result call_advance(struct call_link *l)
{
    switch (l->stage) {
    case CALL_REFUSED:
        if (l->told)
            return MHD_NO;
        call_fail(&l->c, &l->fault);
        return call_respond(l);
    case CALL_READING:
        l->stage = CALL_RUNNING;
        atomic_store(&l->conn->deadline_ns, 0);
        if (l->c.status)                // answered before any endpoint: OPTIONS
            return call_respond(l);
        if (l->c.route->work == WORK_POOL)
            return send_to_worker(l);
        l->c.route->run(&l->c);
        return after_run(l);
    case CALL_RUNNING:
        return atomic_load(&l->gone) ? MHD_NO : after_run(l);
    case CALL_SENDING:
        break;
    }
    return MHD_NO;
}

// ---- workers ------------------------------------------------------------------------------------

static struct call_link *work_pop(struct http *h)
{
    pthread_mutex_lock(&h->work_lock);
    while (!h->work_head && !h->work_stop)
        pthread_cond_wait(&h->work_cond, &h->work_lock);
    struct call_link *l = h->work_head;
    if (l) {
        h->work_head = l->work_next;
        if (!h->work_head)
            h->work_tail = NULL;
    }
    pthread_mutex_unlock(&h->work_lock);
    return l;
}

static void *worker_main(void *ctx)
{
    struct http *h = ctx;
    for (struct call_link *l; (l = work_pop(h)); ) {
        if (!atomic_load(&l->gone))
            l->c.route->run(&l->c);
        pthread_mutex_lock(&l->lock);
        l->working = false;
        unpark_locked(l);
        pthread_mutex_unlock(&l->lock);
    }
    return NULL;
}

int workers_start(struct http *h, struct err *err)
{
    h->worker = calloc(h->p.workers + 1, sizeof(*h->worker));
    if (!h->worker)
        return err_set(err, -ENOMEM, "out of memory");
    for (; h->n_workers < h->p.workers; h->n_workers++) {
        int r = pthread_create(&h->worker[h->n_workers], NULL, worker_main, h);
        if (r)
            return err_set(err, -r, "cannot start a thread: %s", strerror(r));
    }
    return 0;
}

void workers_stop(struct http *h)
{
    pthread_mutex_lock(&h->work_lock);
    h->work_stop = true;
    pthread_cond_broadcast(&h->work_cond);
    pthread_mutex_unlock(&h->work_lock);
    for (unsigned i = 0; i < h->n_workers; i++)
        pthread_join(h->worker[i], NULL);
    h->n_workers = 0;
    free(h->worker);
    h->worker = NULL;
}
