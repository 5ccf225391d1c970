// Requests as libmicrohttpd hands them over: fields, route, key, caps; then the body as raw bytes.
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include "base/base.h"
#include "base/clock.h"
#include "base/log.h"
#include "server/http_head.h"
#include "server/http_int.h"

// ---- fields -------------------------------------------------------------------------------------

struct fields {
    struct http_head head;
    const char *host, *origin, *authorization, *api_key;
    struct fault *fault;
    bool bad;
};

static void note(struct fields *fs, const char *name, const char *value)
{
    if (strcasecmp(name, "host") == 0)
        fs->host = value;
    else if (strcasecmp(name, "origin") == 0)
        fs->origin = value;
    else if (strcasecmp(name, "authorization") == 0)
        fs->authorization = value;
    else if (strcasecmp(name, "x-api-key") == 0)
        fs->api_key = value;
}

static enum MHD_Result take_field(void *ctx, enum MHD_ValueKind kind, const char *name,
                                  size_t n_name, const char *value, size_t n_value)
{
    (void)kind;
    struct fields *fs = ctx;
    fs->bad = http_head_field(&fs->head, name, n_name, value ? value : "", n_value, fs->fault) < 0;
    if (fs->bad)
        return MHD_NO;
    note(fs, name, value ? value : "");
    return MHD_YES;
}

static int read_fields(struct call_link *l, const char *version, struct fields *fs,
                       struct fault *f)
{
    fs->fault = f;
    fs->head.minor = strcmp(version, "HTTP/1.0") == 0 ? 0 : 1;
    MHD_get_connection_values_n(l->mhd, MHD_HEADER_KIND, take_field, fs);
    const union MHD_ConnectionInfo *size =
        MHD_get_connection_info(l->mhd, MHD_CONNECTION_INFO_REQUEST_HEADER_SIZE);
    if (fs->bad)
        return -1;
    if (size && size->header_size > HEAD_BYTES_MAX)
        return fault_set(f, ERROR_headers_too_large, NULL, "The header is longer than %zu bytes.",
                         HEAD_BYTES_MAX);
    return http_head_end(&fs->head, f);
}

// Of origins or hosts, which know no case.
static bool list_has(const char *list, const char *item)
{
    size_t n = strlen(item);
    while (*list) {
        size_t len = strcspn(list, " ,");
        if (len == n && strncasecmp(list, item, n) == 0)
            return true;
        list += len + (list[len] != '\0');
    }
    return false;
}

// A page of another site reaches a loopback server by a name that resolves to 127.0.0.1; such a
// name is refused. No page reaches a unix socket.
static int check_host(struct call_link *l, const struct fields *fs, struct fault *f)
{
    char name[256];
    const char *allowed = l->http->p.allow_hosts;
    if (!l->http->p.loopback_only || !fs->host || l->conn->peer.ss_family == AF_UNIX)
        return 0;
    if (http_host_name(fs->host, name, sizeof(name)) &&
        (http_host_is_loopback(name) || (allowed && list_has(allowed, name))))
        return 0;
    return fault_set(f, ERROR_forbidden_host, NULL,
                     "This server answers only to the names of its own machine.");
}

static bool is_same_origin(const char *origin, const char *host)
{
    const char *sep = strstr(origin, "://");
    return sep && host && strcasecmp(sep + 3, host) == 0;
}

static int check_origin(struct call_link *l, const struct fields *fs, struct fault *f)
{
    const char *allowed = l->http->p.cors_origins;
    if (!fs->origin)
        return 0;
    if (allowed && list_has(allowed, "*"))
        l->cors = "*";
    else if (allowed && list_has(allowed, fs->origin))
        l->cors = arena_strdup(&l->c.arena, fs->origin);
    if (l->cors || is_same_origin(fs->origin, fs->host))
        return 0;
    return fault_set(f, ERROR_forbidden_origin, NULL,
                     "Requests of pages from that origin are not allowed.");
}

// ---- routes -------------------------------------------------------------------------------------

// What stands for the pattern's '*', or "" for one that has none. NULL: another path.
static const char *path_match(const char *pattern, const char *url, struct arena *a)
{
    const char *star = strchr(pattern, '*');
    size_t n_head = star ? (size_t)(star - pattern) : strlen(pattern);
    size_t n_end = star ? strlen(star + 1) : 0, n = strlen(url);
    if (strncmp(pattern, url, n_head) != 0 || (!star && n != n_head))
        return NULL;
    if (!star)
        return arena_strdup(a, "");
    bool fits = n > n_head + n_end && strcmp(url + n - n_end, star + 1) == 0;
    return fits ? arena_memdup(a, url + n_head, n - n_head - n_end) : NULL;
}

static bool method_fits(const struct route *r, const char *method)
{
    return strcmp(r->method, method) == 0 ||
           (strcmp(method, "HEAD") == 0 && strcmp(r->method, "GET") == 0);
}

static void add_allow(struct str *s, const char *method)
{
    if (s->n)
        str_puts(s, ", ");
    str_puts(s, method);
    if (strcmp(method, "GET") == 0)
        str_puts(s, ", HEAD");
}

static int find_route(struct call_link *l, const char *method, const char *url, struct fault *f)
{
    const struct http_params *p = &l->http->p;
    const struct route *other = NULL;
    struct str allow = {0};
    for (unsigned i = 0; i < p->n_routes; i++) {
        const struct route *r = &p->route[i];
        bool here = r->listeners & p->listener;
        const char *tail = here ? path_match(r->path, url, &l->c.arena) : NULL;
        if (!tail)
            continue;
        other = r;
        add_allow(&allow, r->method);
        if (method_fits(r, method)) {
            l->c.route = r;
            l->c.tail = tail;
        }
    }
    if (other && !l->c.route) {
        str_puts(&allow, ", OPTIONS");
        l->c.allow = arena_strdup(&l->c.arena, allow.p);
    }
    str_free(&allow);
    if (l->c.route)
        return 0;
    if (!other)
        return fault_set(f, ERROR_not_found, NULL, "There is nothing at this URL.");
    l->c.route = other;                 // for the key, and the names in logs
    if (strcmp(method, "OPTIONS") == 0) {
        l->c.status = 204;
        return 0;
    }
    return fault_set(f, ERROR_method_not_allowed, NULL, "This URL does not know that method.");
}

static const char *bearer(const char *authorization)
{
    if (!authorization || strncasecmp(authorization, "Bearer ", 7) != 0)
        return NULL;
    authorization += 7;
    while (*authorization == ' ')
        authorization++;
    return authorization;
}

static int check_key(struct call_link *l, const struct fields *fs, struct fault *f)
{
    const struct http_params *p = &l->http->p;
    const char *key = bearer(fs->authorization);
    if (l->c.route->auth == AUTH_NONE || l->c.status == 204)
        return 0;
    return p->events->authorize(p->app, key ? key : fs->api_key, &l->c.caller, f);
}

// ---- the body -----------------------------------------------------------------------------------

static size_t body_max(const struct call_link *l)
{
    const struct http_params *p = &l->http->p;
    size_t most = l->c.route->body_bytes_max;
    return most == BODY_FILE ? p->file_bytes_max : MIN(most, p->body_bytes_max);
}

static int body_too_large(const struct call_link *l, struct fault *f)
{
    return fault_set(f, ERROR_body_too_large, NULL, "The body is larger than %zu bytes.",
                     body_max(l));
}

static int take_body(struct call_link *l, const char *p, size_t n, struct fault *f)
{
    struct http *h = l->http;
    if (l->c.route->body_bytes_max == 0)
        return 0;
    if (n > body_max(l) - l->c.body.n)
        return body_too_large(l, f);
    l->body_charged += n;
    if (atomic_fetch_add(&h->bodies_bytes, n) + n > MAX(BODIES_BYTES_MAX, h->p.file_bytes_max))
        return fault_set(f, ERROR_overloaded, NULL, "Too many large requests at once.");
    str_add(&l->c.body, p, n);
    return str_ok(&l->c.body) ? 0 : fault_no_memory(f);
}

// ---- requests -----------------------------------------------------------------------------------

static int check_request(struct call_link *l, const struct fields *fs, const char *method,
                         const char *url, struct fault *f)
{
    if (check_host(l, fs, f) < 0 || check_origin(l, fs, f) < 0)
        return -1;
    if (find_route(l, method, url, f) < 0) {
        struct fault unseen = {0};      // what is missing is not told to strangers
        if (l->c.route && check_key(l, fs, &unseen) < 0)
            *f = unseen;
        return -1;
    }
    if (check_key(l, fs, f) < 0)
        return -1;
    if (fs->head.has_length && l->c.route->body_bytes_max && fs->head.length_bytes > body_max(l))
        return body_too_large(l, f);
    return 0;
}

// A refusal waits for the end of a small body, so that the connection stays usable; before a large
// one, or after a head that cannot be trusted, it is sent at once and the connection ends.
static enum MHD_Result refuse_early(struct call_link *l, const struct fields *fs,
                                    const struct fault *f)
{
    uint64_t body = fs->head.chunked ? UINT64_MAX : fs->head.length_bytes;
    bool trusted = f->error != ERROR_bad_http && f->error != ERROR_headers_too_large;
    call_refuse(l, f);
    if (trusted && body <= DISCARD_BYTES_MAX)
        return MHD_YES;
    l->close_after = true;
    return call_advance(l);
}

static enum MHD_Result first_call(struct call_link *l, const char *url, const char *method,
                                  const char *version)
{
    struct fields fs = {0};
    struct fault f = {0};
    atomic_store(&l->conn->phase, CONN_BUSY);
    atomic_store(&l->conn->deadline_ns, l->c.start_ns + l->http->p.body_ns);
    if (read_fields(l, version, &fs, &f) < 0 || check_request(l, &fs, method, url, &f) < 0)
        return refuse_early(l, &fs, &f);
    return MHD_YES;
}

static enum MHD_Result body_part(struct call_link *l, const char *p, size_t *n)
{
    struct fault f = {0};
    size_t n_part = *n;
    *n = 0;
    if (l->stage == CALL_READING && take_body(l, p, n_part, &f) < 0) {
        // libmicrohttpd takes no answer within a body, so it is written past it. What still comes
        // is dropped for a moment, so that the client can read why.
        call_refuse(l, &f);
        l->told = true;
        l->c.status = api_error_status(f.error);     // for the log and the counts
        str_free(&l->c.body);
        door_write_refusal(l->conn->fd, &f);
        shutdown(l->conn->fd, SHUT_WR);
        atomic_store(&l->conn->deadline_ns, clock_now_ns() + NS_PER_S);
    }
    return MHD_YES;
}

static struct conn *conn_of(struct MHD_Connection *mhd)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    return info ? info->socket_context : NULL;
}

// libmicrohttpd 1.0 can drop a request whose body breaks the rules without a word of completion.
static void end_request(struct conn *c)
{
    if (c->request)
        call_destroy(c->request);
    c->request = NULL;
}

enum MHD_Result conn_request(void *loop, struct MHD_Connection *mhd, const char *url,
                             const char *method, const char *version, const char *upload,
                             size_t *n_upload, void **ctx)
{
    struct call_link *l = *ctx;
    if (l)
        return *n_upload ? body_part(l, upload, n_upload) : call_advance(l);
    struct conn *conn = conn_of(mhd);
    if (!conn || !url || !method || !version)
        return MHD_NO;
    end_request(conn);
    l = call_create(((struct http_loop *)loop)->http, conn, mhd);
    if (!l)
        return MHD_NO;
    *ctx = conn->request = l;
    return first_call(l, url, method, version);
}

void conn_completed(void *loop, struct MHD_Connection *mhd, void **ctx,
                    enum MHD_RequestTerminationCode why)
{
    (void)mhd;
    (void)why;
    struct call_link *l = *ctx;
    struct http *h = ((struct http_loop *)loop)->http;
    if (!l)
        return;
    *ctx = NULL;
    struct conn *conn = l->conn;
    assert(conn->request == l);
    end_request(conn);
    atomic_store(&conn->seen_bytes, 0);
    atomic_store(&conn->deadline_ns, clock_now_ns() + h->p.idle_ns);
    atomic_store(&conn->phase, CONN_IDLE);
}

void conn_notify(void *loop, struct MHD_Connection *mhd, void **ctx,
                 enum MHD_ConnectionNotificationCode code)
{
    struct http *h = ((struct http_loop *)loop)->http;
    if (code == MHD_CONNECTION_NOTIFY_CLOSED) {
        if (*ctx) {
            end_request(*ctx);
            conn_closed(h, *ctx);
        }
        return;
    }
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_CONNECTION_FD);
    pthread_mutex_lock(&h->lock);
    if (info && info->connect_fd >= 0 && (unsigned)info->connect_fd < h->by_fd_max)
        *ctx = h->by_fd[info->connect_fd];
    pthread_mutex_unlock(&h->lock);
}
