// What the files of http share. Included by server/http*.c only.
//
// Locks: http.lock guards the table and lists of connections and conn.call; call_link.lock guards
// the parking of one call. http.lock may be held while call_link.lock is taken, never the other
// way.
#pragma once
#include <microhttpd.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include "server/http.h"

// libmicrohttpd's pool of a connection: holds the head, the read buffer and the answer's head. Kept
// small because it stays resident while a connection idles.
#define POOL_BYTES ((size_t)40 << 10)
// A refused request with at most this much body is read to its end, so that the connection lives
// on.
#define DISCARD_BYTES_MAX ((uint64_t)64 << 10)
// Bodies in memory at once, of all calls of a listener.
#define BODIES_BYTES_MAX ((uint64_t)256 << 20)
#define TICK_MS 50

enum conn_phase {
    CONN_HEAD,                          // at the door, the first head is not complete
    CONN_LINGER,                        // refused at the door; closed when the client is, or soon
    CONN_IDLE,                          // in libmicrohttpd, between requests
    CONN_BUSY,                          // in libmicrohttpd, within a request
    CONN_DEAD,                          // closed; freed by the door's thread
};

struct conn {
    struct conn  *next, *prev;          // http.conns, or http.dead
    int           fd;                   // closed by libmicrohttpd once it is there
    struct http_loop *loop;             // NULL at the door
    struct call_link *call;             // what may wait; http.lock
    struct call_link *request;          // of libmicrohttpd's request at hand; its HTTP thread's
    struct addr_count *addr;            // http.lock
    struct sockaddr_storage peer;
    socklen_t     peer_len;
    atomic_int    phase;                // enum conn_phase
    atomic_bool   hup;                  // the client closed its sending side
    _Atomic uint64_t deadline_ns;       // 0: none
    _Atomic uint64_t seen_bytes;        // received when the connection became idle; 0: not looked
};

struct http_loop {                      // one epoll thread of libmicrohttpd
    struct http       *http;
    struct MHD_Daemon *mhd;
    atomic_uint        n_conns;
};

struct addr_count {                     // connections of one client address
    struct addr_count *next;
    unsigned char      addr[16];
    uint32_t           n;
};
#define ADDR_BUCKETS 1024

struct http {
    struct http_params p;
    struct http_loop  *loop;            // (p.threads)
    int                epoll_fd, stop_fd, spare_fd;
    pthread_t          door;
    bool               door_runs;
    uint64_t           accept_again_ns; // 0, or when to try after EMFILE

    pthread_mutex_t    lock;
    struct conn       *conns, *dead;
    struct conn      **by_fd;           // (by_fd_max)
    unsigned           by_fd_max;
    uint32_t           n_conns, n_linger;
    struct addr_count *addr[ADDR_BUCKETS];
    uint64_t           addr_seed;

    pthread_mutex_t    work_lock;
    pthread_cond_t     work_cond;
    struct call_link  *work_head, *work_tail;
    pthread_t         *worker;          // (n_workers)
    unsigned           n_workers;
    bool               work_stop;       // work_lock

    atomic_uint        n_calls;         // attached
    atomic_bool        stopping;
    _Atomic uint64_t   bodies_bytes, n_accepted;
};

enum call_stage { CALL_READING, CALL_REFUSED, CALL_RUNNING, CALL_SENDING };

struct call_link {                      // http's side of a call
    struct call        c;
    struct http       *http;
    struct conn       *conn;
    struct MHD_Connection *mhd;
    struct call_link  *work_next;
    enum call_stage    stage;
    struct fault       fault;           // of CALL_REFUSED
    bool               close_after, attached, told;   // told: the refusal was sent already
    const char        *cors;            // origin to name, in the call's arena
    uint64_t           body_charged, sent_bytes;
    size_t             out_sent;        // of c.out

    pthread_mutex_t    lock;
    bool               parked, working, ready;      // lock
    atomic_bool        gone, ping, flowing;    // flowing: a stream's answer began
    bool               done;            // the pump said so
    _Atomic uint64_t   progress_ns;     // of a stream: when libmicrohttpd last asked for bytes
};

// http_door.c
int  door_start(struct http *h, struct err *err);
void door_stop(struct http *h);
void conn_closed(struct http *h, struct conn *c);
void door_write_refusal(int fd, const struct fault *f);
// http_conn.c: libmicrohttpd's callbacks
enum MHD_Result conn_request(void *loop, struct MHD_Connection *mhd, const char *url,
                             const char *method, const char *version, const char *upload,
                             size_t *n_upload, void **ctx);
void conn_completed(void *loop, struct MHD_Connection *mhd, void **ctx,
                    enum MHD_RequestTerminationCode why);
void conn_notify(void *loop, struct MHD_Connection *mhd, void **ctx,
                 enum MHD_ConnectionNotificationCode code);
// http_call.c
struct call_link *call_create(struct http *h, struct conn *conn, struct MHD_Connection *mhd);
void call_destroy(struct call_link *l);
void call_refuse(struct call_link *l, const struct fault *f);
enum MHD_Result call_advance(struct call_link *l);      // HTTP thread; the request is complete
enum MHD_Result call_respond(struct call_link *l);      // with what c holds
void call_set_gone(struct call_link *l);
int  workers_start(struct http *h, struct err *err);
void workers_stop(struct http *h);
