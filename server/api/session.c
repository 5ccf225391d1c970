// GET /v1/sessions/{id}.
#include "server/api/api.h"
#include "server/sessions.h"

void api_session(struct call *c)
{
    struct session_info info;
    struct fault f = {0};
    struct model_entry *m = NULL;
    if (app_check_open(app_of(c), &f) == 0)
        m = session_find(c, c->tail, NULL, &info, &f);
    if (!m) {
        call_fail(c, &f);
        return;
    }
    session_put(&c->out, m, &info);
    call_answer(c, 200, "application/json");
}
