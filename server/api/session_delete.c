// DELETE /v1/sessions/{id}.
#include "server/api/api.h"
#include "server/sessions.h"

static int run(struct call *c, struct fault *f)
{
    struct session_info info;
    struct err err = {0};
    if (app_check_open(app_of(c), f) < 0)
        return -1;
    struct model_entry *m = session_find(c, c->tail, NULL, &info, f);
    if (!m)
        return -1;
    int r = engine_session_delete(m->engine, &c->caller.salt, info.id, &err);
    if (r < 0)
        return session_fault(r, &err, NULL, f);
    str_printf(&c->out, "{\"id\":\"%s\",\"object\":\"session.deleted\",\"deleted\":true}", info.id);
    call_answer(c, 200, "application/json");
    return 0;
}

void api_session_delete(struct call *c)
{
    struct fault f = {0};
    if (run(c, &f) < 0)
        call_fail(c, &f);
}
