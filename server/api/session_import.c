// POST /v1/sessions/import?id=&model=: a session out of a file of session_export.c. Without `model`
// the file finds the one that it is of.
#include <errno.h>
#include "base/base.h"
#include "server/api/api.h"
#include "server/sessions.h"

static int import(struct call *c, struct model_entry *m, const char *id, struct session_info *ret,
                  struct err *err)
{
    struct session_import *i = NULL;
    int r = engine_import_open(&i, m->engine, &c->caller.salt, id, err);
    if (r == 0)
        r = engine_import_feed(i, c->body.p, c->body.n, err);
    if (r == 0)
        r = engine_import_end(i, ret, err);
    engine_import_close(i);
    return r;
}

// An id stands for one session, whatever its model.
static int check_id(struct call *c, const char *id, struct fault *f)
{
    struct session_info info;
    struct fault none = {0};
    if (!id || !session_find(c, id, NULL, &info, &none))
        return 0;
    return fault_set(f, ERROR_session_exists, "id", "There is a session '%s' already.", info.id);
}

static int refuse(int code, const struct err *err, struct fault *f)
{
    if (code == -EBUSY)
        return fault_set(f, ERROR_too_many_sessions, NULL, "%s.", err->msg);
    if (code == -ENOTSUP)               // a newer format: that there is a store is known
        return fault_set(f, ERROR_invalid_value, NULL, "%s.", err->msg);
    return session_fault(code, err, code == -EEXIST ? "id" : NULL, f);
}

static int run(struct call *c, struct fault *f)
{
    struct models *all = &app_of(c)->models;
    const char *id = call_query(c, "id"), *name = call_query(c, "model");
    struct session_info info;
    struct err err = {0};
    int r = -ESTALE;
    if (app_check_open(app_of(c), f) < 0 || check_id(c, id, f) < 0)
        return -1;
    if (engine_session_get(all->entry[0].engine, &c->caller.salt, "", &info) == -ENOTSUP)
        return session_fault(-ENOTSUP, NULL, NULL, f);
    struct model_entry *m = name ? models_find(all, name) : NULL;
    if (name && !m)
        return fault_set(f, ERROR_model_not_found, "model", "The model '%.100s' does not exist.",
                         name);
    for (uint32_t i = 0; i < (name ? 1 : all->n) && r == -ESTALE; i++) {
        if (!name)
            m = &all->entry[i];
        r = import(c, m, id, &info, &err);
    }
    if (r < 0)
        return refuse(r, &err, f);
    session_put(&c->out, m, &info);
    call_answer(c, 200, "application/json");
    return 0;
}

void api_session_import(struct call *c)
{
    struct fault f = {0};
    if (run(c, &f) < 0)
        call_fail(c, &f);
}
