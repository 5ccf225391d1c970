// The daemon as its endpoints see it.
#pragma once
#include <pthread.h>
#include <stdatomic.h>
#include "server/auth.h"
#include "server/config.h"
#include "server/http.h"
#include "server/metrics.h"
#include "server/models.h"

enum app_state { APP_LOADING, APP_READY, APP_DRAINING, APP_ABORTING };

struct app {
    struct config config;
    struct models models;               // engines are there from APP_READY on
    atomic_int    state;                // enum app_state
    struct http  *main, *admin;         // admin may be NULL
    struct http_metrics http_metrics;

    pthread_rwlock_t keys_lock;
    struct keys     *keys;              // keys_lock; NULL: none are asked for
    _Atomic uint64_t n_open_calls;      // calls that needed no key
};

static inline struct app *app_of(const struct call *c)
{
    return c->app;
}

static inline enum app_state app_state(const struct app *a)
{
    return (enum app_state)atomic_load(&((struct app *)a)->state);
}

// Refuses while there is no model yet, and when the daemon is about to end. Returns 0 or -1.
int app_check_open(const struct app *a, struct fault *f);
// A model's executor is lost: nothing will run on it any more.
bool app_failed(struct app *a);
