// The two listeners: the API, and a small one for health and metrics that answers whatever happens
// to the first.
#include "server/app_http.h"
#include <errno.h>
#include <string.h>
#include <unistd.h>
#include "base/base.h"
#include "base/clock.h"
#include "base/log.h"
#include "server/api/api.h"

#define ADMIN_CONNECTIONS_MAX 256

static const struct route routes[] = {
#define GET "GET"
#define POST "POST"
#define DELETE "DELETE"
#define ROUTE(name, method, path, auth, work, body, listeners) \
    { #name, method, path, auth, work, body, listeners, api_##name },
#include "server/routes.def"
#undef ROUTE
#undef GET
#undef POST
#undef DELETE
};

static int bind_one(struct app *a, const char *name, const char *address, struct listeners *ret,
                    struct err *err)
{
    struct listeners l;
    listen_adopt(&l, &a->config, name);
    int r = l.n ? 0 : listen_on(&l, address, err);
    if (r)
        return r;
    if (!l.loopback && !a->keys && !a->config.allow_public) {
        listen_close(&l);
        return err_set(err, -EACCES, "%s: a public address needs --api-key-file or --allow-public",
                       address);
    }
    *ret = l;
    return 0;
}

static unsigned cores(void)
{
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    return (unsigned)CLAMP(n, 1, 64);
}

static struct http_params params(struct app *a, enum listener which, struct listeners *l)
{
    const struct config *c = &a->config;
    bool main = which == LISTEN_MAIN;
    return (struct http_params){
        .listener = which, .listen_fd = l->fd, .n_listen = l->n, .route = routes,
        .n_routes = ARRAY_LEN(routes), .events = &app_http_events, .app = a,
        .threads = !main ? 1 : c->http_threads ? (unsigned)c->http_threads : MIN(cores(), 4u),
        .workers = main ? MIN(cores(), 4u) : 0,
        .connections_max = main ? (uint32_t)c->connections_max : ADMIN_CONNECTIONS_MAX,
        .per_address_max = main ? (uint32_t)c->connections_per_address_max : ADMIN_CONNECTIONS_MAX,
        .body_bytes_max = (size_t)c->body_max_bytes, .file_bytes_max = (size_t)c->import_max_bytes,
        .header_ns = c->header_timeout_s * NS_PER_S, .body_ns = c->body_timeout_s * NS_PER_S,
        .idle_ns = c->idle_timeout_s * NS_PER_S, .write_ns = c->write_timeout_s * NS_PER_S,
        .ping_ns = c->ping_s * NS_PER_S, .cors_origins = main ? c->cors_origin : NULL,
        .loopback_only = l->loopback, .allow_hosts = c->allow_host,
    };
}

static int open_one(struct app *a, enum listener which, const char *name, const char *address,
                    struct http **ret, struct err *err)
{
    struct listeners l;
    int r = bind_one(a, name, address, &l, err);
    if (r)
        return r;
    struct http_params p = params(a, which, &l);
    char where[160];
    listen_name(l.fd[0], where, sizeof(where));
    r = http_open(ret, &p, err);
    if (r)
        listen_close(&l);
    else
        log_notice("%s listens on %s", name, where);
    return r;
}

int app_open_listeners(struct app *a, struct err *err)
{
    int r = open_one(a, LISTEN_MAIN, "main", a->config.listen, &a->main, err);
    if (r == 0 && strcmp(a->config.admin, "off") != 0)
        r = open_one(a, LISTEN_ADMIN, "admin", a->config.admin, &a->admin, err);
    return r;
}
