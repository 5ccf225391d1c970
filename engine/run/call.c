// Calls into the engine thread, for tools: evaluation, filling the cache, the profile. They run
// between two steps, and their caller waits.
#include <errno.h>
#include "engine/run/priv.h"

static int refusal_locked(const struct engine *e, const struct engine_call *c)
{
    if (e->draining || e->stats.failed)
        return err_set(c->err, e->draining ? -ESHUTDOWN : -EIO, "the engine takes no more work");
    if (e->call || (e->n_live > 0 && !c->while_busy))
        return err_set(c->err, -EBUSY, "requests are running");
    return 0;
}

int engine_call(struct engine *e, struct engine_call *c)
{
    pthread_mutex_lock(&e->lock);
    int r = refusal_locked(e, c);
    if (r == 0) {
        e->call = c;
        engine_wake(e);
        while (!c->finished)
            pthread_cond_wait(&e->call_done, &e->lock);
        r = c->result;
    }
    pthread_mutex_unlock(&e->lock);
    return r;
}

void engine_serve_call(struct engine *e, struct engine_call *c)
{
    c->result = c->run(e, c);
    pthread_mutex_lock(&e->lock);
    c->finished = true;
    e->call = NULL;
    pthread_cond_broadcast(&e->call_done);
    pthread_mutex_unlock(&e->lock);
}
