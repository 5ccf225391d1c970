// godwitd: wiring, signals and the service manager.
//
// Listeners open before the models are loaded: /health and /ready say so with 503 meanwhile. The
// manager hears READY=1 only after each model was warmed up and generated a token. SIGTERM and
// SIGINT drain: new requests get 503, running ones have the drain timeout, then they end with an
// error event; what is queued for the block store is written within that time; exit status 0. A
// second signal ends at once. SIGHUP reads the keys again.
//
// An executor that is lost never comes back in this process. Its clients have heard so; the daemon
// says STOPPING=1, gives answers a moment to be read, and ends with a status that makes the manager
// start it again.
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>
#include "base/base.h"
#include "base/clock.h"
#include "base/log.h"
#include "server/app_http.h"
#include "server/notify.h"

#define EXIT_CONFIG 78                  // EX_CONFIG
#define EXIT_LOST 75                    // EX_TEMPFAIL: the executor is lost; start again
#define LOST_DRAIN_S 5                  // what still runs then is other models' or unread
#define LOAD_EXTEND_US 30000000ull      // asked of the manager while a load makes progress
#define TICK_MS 100

// ---- loading ------------------------------------------------------------------------------------

struct load {
    struct app *app;
    pthread_t   thread;
    atomic_bool done, stop;
    int         result;                 // once done
    struct err  err;
    uint64_t    told_ns;
};

static int progress(void *ctx, uint64_t done_bytes, uint64_t total_bytes)
{
    struct load *l = ctx;
    uint64_t now_ns = clock_now_ns();
    if (atomic_load(&l->stop))
        return -ECANCELED;
    if (now_ns - l->told_ns < NS_PER_S)
        return 0;
    l->told_ns = now_ns;
    notify_send(l->app->config.notify_socket, "STATUS=loading: %llu of %llu MiB\n"
                "EXTEND_TIMEOUT_USEC=%llu\n", (unsigned long long)(done_bytes >> 20),
                (unsigned long long)(total_bytes >> 20), LOAD_EXTEND_US);
    return 0;
}

// A model is ready when it has generated a token.
static int first_token(struct engine *e, struct err *err)
{
    const struct tokenizer *t = engine_tokenizer(e);
    int32_t token = MAX(tokenizer_bos(t), 0);
    struct request r = {
        .token = &token, .n_tokens = 1, .gen = gen_params_default(), .attn = attn_policy_dense(),
    };
    struct stream *s = NULL;
    struct delta d = {0};
    r.gen.max_tokens = 1;
    r.gen.temperature = 0;
    int code = engine_submit(e, &r, &s, err);
    if (code)
        return code;
    while (d.kind != DELTA_DONE) {
        if (!stream_read(s, &d))
            stream_wait(s, NS_PER_S);
    }
    if (d.reason == FINISH_ERROR)
        code = err_set(err, d.err.code, "the first token failed: %s", d.err.msg);
    stream_close(s);
    return code;
}

static int warm_up(const struct app *a, struct engine *e, struct err *err)
{
    uint64_t start_ns = clock_now_ns();
    if (a->config.no_warmup)
        return 0;
    int r = engine_warm(e, &a->models.attn, err);
    if (r == 0)
        log_info("warmed up in %llu ms",
                 (unsigned long long)((clock_now_ns() - start_ns) / NS_PER_MS));
    return r;
}

static int make_ready(const struct app *a, const struct model_entry *m, struct err *err)
{
    int r = warm_up(a, m->engine, err);
    if (r == 0)
        r = first_token(m->engine, err);
    if (r)
        err_prefix(err, "%s", m->name);
    return r;
}

static void *load_main(void *ctx)
{
    struct load *l = ctx;
    struct app *a = l->app;
    l->result = models_open(&a->models, &a->config, progress, l, &l->err);
    for (uint32_t i = 0; i < a->models.n && l->result == 0; i++)
        l->result = make_ready(a, &a->models.entry[i], &l->err);
    atomic_store(&l->done, true);
    return NULL;
}

// ---- signals ------------------------------------------------------------------------------------

static void block_signals(sigset_t *set)
{
    sigemptyset(set);
    sigaddset(set, SIGTERM);
    sigaddset(set, SIGINT);
    sigaddset(set, SIGHUP);
    pthread_sigmask(SIG_BLOCK, set, NULL);
    signal(SIGPIPE, SIG_IGN);
}

// Waits up to ms. Returns true for SIGTERM or SIGINT.
static bool wait_signal(struct app *a, const sigset_t *set, unsigned ms)
{
    struct timespec t = { .tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000 };
    int s = sigtimedwait(set, NULL, &t);
    if (s != SIGHUP)
        return s > 0;
    struct err err = {0};
    if (app_load_keys(a, &err) != 0)
        log_error("reload: %s", err.msg);
    else
        log_notice("reload: done");
    return false;
}

// ---- the watchdog -------------------------------------------------------------------------------

// Fed only while every engine thread makes steps or waits idle, as it says itself.
static void feed_watchdog(struct app *a, uint64_t *fed_ns)
{
    uint64_t now_ns = clock_now_ns(), period_ns = a->config.watchdog_us * 1000;
    if (!period_ns || now_ns - *fed_ns < period_ns / 4)
        return;
    for (uint32_t i = 0; i < a->models.n; i++) {
        struct engine_stats s = {0};
        engine_stats(a->models.entry[i].engine, &s);
        if (s.last_step_ns + period_ns / 2 < now_ns)
            return;
    }
    *fed_ns = now_ns;
    notify_send(a->config.notify_socket, "WATCHDOG=1\n");
}

// ---- serving ------------------------------------------------------------------------------------

// Returns an exit status; -1: a signal asks for the end.
static int wait_for_models(struct app *a, const sigset_t *set)
{
    struct load l = { .app = a };
    int r = pthread_create(&l.thread, NULL, load_main, &l);
    if (r) {
        log_error("cannot start a thread: %s", strerror(r));
        return EXIT_FAILURE;
    }
    bool stop = false;
    while (!atomic_load(&l.done) && !stop)
        stop = wait_signal(a, set, 20);
    atomic_store(&l.stop, stop);
    pthread_join(l.thread, NULL);
    if (stop)
        return -1;
    if (l.result)
        log_error("%s", l.err.msg);
    if (l.result == -EIO || l.result == -ETIMEDOUT)
        return EXIT_LOST;
    return l.result ? EXIT_CONFIG : 0;
}

// Logs the first model whose executor is lost. False: there is none.
static bool report_loss(struct app *a)
{
    for (uint32_t i = 0; i < a->models.n; i++) {
        struct engine_stats s = {0};
        engine_stats(a->models.entry[i].engine, &s);
        if (!s.failed)
            continue;
        log_error("the executor of model %s is lost, ending for a new start: %s",
                  a->models.entry[i].name, s.failure.msg);
        return true;
    }
    return false;
}

// Says once of each model that its store has trouble: answers are right without it, and slower.
static void report_store(struct app *a)
{
    for (uint32_t i = 0; i < a->models.n; i++) {
        struct model_entry *m = &a->models.entry[i];
        struct engine_stats s = {0};
        engine_stats(m->engine, &s);
        if (s.store.disk_errors > 0 && !m->store_failed)
            log_warning("the block store of model %s has failures: see /metrics, and check the "
                        "disk; what it does not give is computed", m->name);
        if (s.store.degraded && !m->store_degraded)
            log_error("the block store of model %s takes no more blocks, until a new start",
                      m->name);
        m->store_failed = s.store.disk_errors > 0;
        m->store_degraded = s.store.degraded;
    }
}

static int serve(struct app *a, const sigset_t *set)
{
    uint64_t fed_ns = 0;
    notify_send(a->config.notify_socket, "READY=1\nSTATUS=serving\n");
    log_notice("ready");
    while (!wait_signal(a, set, TICK_MS)) {
        feed_watchdog(a, &fed_ns);
        report_store(a);
        if (report_loss(a))
            return EXIT_LOST;
    }
    return EXIT_SUCCESS;
}

static bool is_idle(struct app *a)
{
    struct http_counts n;
    http_counts(a->main, &n);
    return n.calls == 0;
}

static bool is_stored(struct app *a)
{
    for (uint32_t i = 0; i < a->models.n; i++) {
        struct engine_stats s = {0};
        engine_stats(a->models.entry[i].engine, &s);
        if (s.store.queued > 0)
            return false;
    }
    return true;
}

// Running requests have the drain timeout; then they hear that it is over, and have a moment to say
// so to their clients.
static void drain(struct app *a, const sigset_t *set, uint64_t timeout_s)
{
    uint64_t until_ns = clock_now_ns() + timeout_s * NS_PER_S, fed_ns = 0;
    bool now = false;
    atomic_store(&a->state, APP_DRAINING);
    notify_send(a->config.notify_socket, "STOPPING=1\nSTATUS=draining\n");
    log_notice("draining");
    for (uint32_t i = 0; i < a->models.n; i++)
        engine_drain(a->models.entry[i].engine);
    while (!(is_idle(a) && is_stored(a)) && !now && clock_now_ns() < until_ns) {
        feed_watchdog(a, &fed_ns);      // a drain may be longer than its period
        now = wait_signal(a, set, 20);
    }
    atomic_store(&a->state, APP_ABORTING);
    http_wake_all(a->main);
    until_ns = clock_now_ns() + NS_PER_S / 2;
    while (!is_idle(a) && !now && clock_now_ns() < until_ns)
        now = wait_signal(a, set, 20);
}

static int run(struct app *a, const sigset_t *set)
{
    struct err err = {0};
    if (models_init(&a->models, &a->config, &err) != 0 || app_load_keys(a, &err) != 0) {
        log_error("%s", err.msg);
        return EXIT_CONFIG;
    }
    int r = app_open_listeners(a, &err);
    if (r) {
        log_error("%s", err.msg);
        return EXIT_CONFIG;
    }
    int status = wait_for_models(a, set);
    if (status == 0) {
        atomic_store(&a->state, APP_READY);
        status = serve(a, set);
        uint64_t timeout_s = a->config.drain_timeout_s;
        drain(a, set, status == EXIT_LOST ? MIN(timeout_s, LOST_DRAIN_S) : timeout_s);
    }
    return MAX(status, 0);
}

static void raise_limits(void)
{
    struct rlimit lim;
    if (getrlimit(RLIMIT_NOFILE, &lim) == 0 && lim.rlim_cur < lim.rlim_max) {
        lim.rlim_cur = lim.rlim_max;
        setrlimit(RLIMIT_NOFILE, &lim);
    }
}

int main(int argc, char **argv)
{
    static struct app app;
    struct err err = {0};
    sigset_t set;
    block_signals(&set);
    int r = config_read(&app.config, argc, argv, &err);
    if (r < 0)
        log_error("%s", err.msg);
    if (r)
        return r < 0 ? EXIT_CONFIG : EXIT_SUCCESS;
    log_init(app.config.log_max, app.config.journal);
    raise_limits();
    pthread_rwlock_init(&app.keys_lock, NULL);
    int status = run(&app, &set);
    http_close(app.main);
    http_close(app.admin);
    if (status == EXIT_LOST)
        _exit(status);                  // a device that hangs might never let go of its memory
    models_close(&app.models);
    keys_free(app.keys);
    config_free(&app.config);
    return status;
}
