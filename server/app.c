// What the application tells its listeners: keys, logs, counts; and the state of the whole.
#include "server/app.h"
#include <errno.h>
#include "base/base.h"
#include "base/clock.h"
#include "base/log.h"
#include "server/app_http.h"

int app_check_open(const struct app *a, struct fault *f)
{
    switch (app_state(a)) {
    case APP_LOADING:
        f->retry_after_s = 2;
        return fault_set(f, ERROR_loading, NULL, "The model is still loading.");
    case APP_DRAINING:
    case APP_ABORTING:
        f->retry_after_s = 5;
        return fault_set(f, ERROR_draining, NULL, "The server is shutting down.");
    case APP_READY:
        break;
    }
    return 0;
}

bool app_failed(struct app *a)
{
    bool failed = false;
    if (app_state(a) == APP_LOADING)
        return false;
    for (uint32_t i = 0; i < a->models.n; i++) {
        struct engine_stats s = {0};
        engine_stats(a->models.entry[i].engine, &s);
        failed |= s.failed;
    }
    return failed;
}

int app_load_keys(struct app *a, struct err *err)
{
    struct keys *fresh = NULL, *old;
    const char *path = a->config.api_key_file;
    if (!path)
        return 0;
    int r = keys_load(&fresh, path, err);
    if (r) {
        err_prefix(err, "api-key-file %s", path);
        return r;
    }
    pthread_rwlock_wrlock(&a->keys_lock);
    old = a->keys;
    a->keys = fresh;
    pthread_rwlock_unlock(&a->keys_lock);
    keys_free(old);
    return 0;
}

static int authorize(void *app, const char *key, struct caller *ret, struct fault *f)
{
    struct app *a = app;
    pthread_rwlock_rdlock(&a->keys_lock);
    bool open = !a->keys, ok = open || keys_match(a->keys, key, ret);
    pthread_rwlock_unlock(&a->keys_lock);
    if (open)           // nobody has a name: fairness is between requests
        ret->client = atomic_fetch_add(&a->n_open_calls, 1);
    if (ok)
        return 0;
    return fault_set(f, ERROR_unauthorized, NULL,
                     key ? "The API key is not valid." : "No API key was sent.");
}

static void ended(void *app, const struct call *c, uint64_t bytes)
{
    struct app *a = app;
    const char *route = c->route ? c->route->path : "-";
    double ms = (double)(clock_now_ns() - c->start_ns) / (double)NS_PER_MS;
    http_metrics_count(&a->http_metrics, c->status ? c->status : 499);
    // Neither prompts nor keys nor URLs of strangers go into the log.
    bool work = c->route && c->route->work == WORK_POOL;
    enum log_level level = work && c->status < 400 ? LOG_INFO : LOG_DEBUG;
    log_print(work && c->status >= 500 ? LOG_WARNING : level,
              "%s %s status=%u bytes=%llu ms=%.1f%s", c->id, route, c->status,
              (unsigned long long)bytes, ms, call_is_gone(c) ? " gone" : "");
}

static void refused(void *app, enum api_error why)
{
    struct app *a = app;
    (void)why;
    atomic_fetch_add(&a->http_metrics.refused_at_door, 1);
}

const struct http_events app_http_events = {
    .authorize = authorize, .ended = ended, .refused = refused,
};
