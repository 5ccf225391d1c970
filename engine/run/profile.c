// The executor's times of single operations, for benchmarks.
#include <errno.h>
#include "engine/run/priv.h"

struct profile_call {
    struct engine_call call;
    bool               on;
    profile_fn        *f;
    void              *ctx;
    uint64_t           steps;
};

static int run_profile(struct engine *e, struct engine_call *c)
{
    struct profile_call *p = container_of(c, struct profile_call, call);
    e->x->ops->profile(e->prog, p->on, p->f, p->ctx);
    p->steps = e->stats.steps;          // only this thread writes it
    return 0;
}

int engine_profile(struct engine *e, bool on, profile_fn *f, void *ctx, uint64_t *steps,
                   struct err *err)
{
    struct profile_call p = {
        .call = {.run = run_profile, .while_busy = true, .err = err}, .on = on, .f = f, .ctx = ctx,
    };
    if (!e->x->ops->profile)
        return err_set(err, -ENOTSUP, "%s: does not time single operations", e->device);
    int r = engine_call(e, &p.call);
    if (r == 0)
        *steps = p.steps;
    return r;
}
