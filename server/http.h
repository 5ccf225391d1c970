// HTTP listeners on libmicrohttpd, and the calls that they carry.
//
// A listener is a door (one thread: it accepts, checks the first head of each connection as bytes
// and watches deadlines and disconnects), a few epoll threads of libmicrohttpd, and a few workers
// that run endpoints whose work may take milliseconds. Nothing here waits for a client.
//
// A call is one request with its answer. Its endpoint fills `out` at once, or leaves a pump behind:
// the pump is called whenever it may have something to add, and a call whose pump has nothing is
// parked (its connection suspended) until call_wake.
//
// A client that closes its sending side gives up the requests that still wait for the engine: after
// a half-close they are dropped, whole answers that need no waiting are still sent.
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/arena.h"
#include "base/err.h"
#include "base/hash.h"
#include "base/str.h"
#include "server/errors.h"

struct call;
struct http;

enum listener { LISTEN_MAIN = 1, LISTEN_ADMIN = 2 };
enum route_auth { AUTH_NONE, AUTH_KEY };
enum route_work { WORK_INLINE, WORK_POOL };     // on the HTTP thread, or on a worker

#define BODY_JSON SIZE_MAX              // as long as http_params say
#define BODY_FILE (SIZE_MAX - 1)

struct route {                          // one row of routes.def
    const char *name, *method, *path;   // "*" stands for anything; the last
    enum route_auth auth;
    enum route_work work;
    size_t      body_bytes_max;         // 0: a body is ignored; BODY_JSON, BODY_FILE
    unsigned    listeners;              // enum listener, or'ed
    void      (*run)(struct call *c);
};

struct caller {                         // who asks, as the key tells
    uint64_t    client;                 // fairness is between these
    struct hash salt;                   // prefixes are shared only between equal salts
};

enum pump { PUMP_WAIT, PUMP_DONE };

struct call {
    const struct route *route;
    void          *app;                 // of http_params
    const char    *tail;                // what stood for the '*' of the route's path, else ""
    struct str     body;                // NUL-terminated; gone when run() returned
    struct caller  caller;
    char           id[24];              // x-request-id
    uint64_t       start_ns;
    struct arena   arena;               // ends with the call

    // The answer.
    unsigned       status;              // 0 while there is none
    const char    *type;                // Content-Type; static
    struct str     out;                 // body, or what is still to be sent of a stream
    unsigned       retry_after_s;
    const char    *allow;               // for 405 and OPTIONS
    bool           streaming;           // `out` flows while the pump runs
    uint64_t       file_bytes;          // of a stream whose length is known; else 0

    enum pump    (*pump)(struct call *c);
    void         (*finish)(struct call *c);     // when the call ends, however it ends; may be NULL
    void          *state;               // the endpoint's
    struct call_link *link;             // http's
};

// What an endpoint calls, from run() or its pump.
void call_answer(struct call *c, unsigned status, const char *type);    // `out` is the whole body
void call_fail(struct call *c, const struct fault *f);
// An argument of the URL's query, or NULL.
const char *call_query(const struct call *c, const char *name);
// Leaves a pump behind. A streaming call's status is 200 from here on.
void call_start(struct call *c, bool streaming, enum pump (*pump)(struct call *c));
// A body of so many bytes, which the pump adds to `out` piece by piece.
void call_start_file(struct call *c, const char *type, uint64_t n_bytes,
                     enum pump (*pump)(struct call *c));
// Any thread, while the call lives: the pump may have something. Usable as a wake() of the engine.
void call_wake(void *call);
// The client is gone, or the server is about to end: stop soon. Also seen by pumps of living calls.
bool call_is_gone(const struct call *c);

struct http_events {                    // the application's; any thread
    // Fills *ret from a key (NULL: none was sent). Returns 0, or -1 with f filled.
    int  (*authorize)(void *app, const char *key, struct caller *ret, struct fault *f);
    // The call ended. bytes are of the answer's body.
    void (*ended)(void *app, const struct call *c, uint64_t bytes);
    // A connection was refused at the door, or ended there.
    void (*refused)(void *app, enum api_error why);
};

struct http_params {
    enum listener listener;
    int          *listen_fd; unsigned n_listen;     // bound and listening; become http's
    const struct route *route; unsigned n_routes;
    const struct http_events *events;
    void         *app;
    unsigned      threads, workers;
    uint32_t      connections_max, per_address_max;
    size_t        body_bytes_max, file_bytes_max;
    uint64_t      header_ns, body_ns, idle_ns, write_ns, ping_ns;   // timeouts; ping: SSE comments
    const char   *cors_origins;         // separated by blanks or commas; "*": all; NULL: none
    bool          loopback_only;        // Host must name this machine's loopback, or be one of
    const char   *allow_hosts;          // these; separated by blanks or commas; NULL: none
};

struct http_counts { uint32_t connections, calls; uint64_t accepted; };

// Returns 0 or negative errno. On failure *ret is untouched and the sockets stay the caller's.
int  http_open(struct http **ret, const struct http_params *p, struct err *err);
// Ends all calls and connections. NULL is fine.
void http_close(struct http *h);
// Wakes every waiting call, so that pumps see a changed state of the application.
void http_wake_all(struct http *h);
void http_counts(struct http *h, struct http_counts *ret);
