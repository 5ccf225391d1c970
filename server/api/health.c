// GET /health: is this process able to serve at all? 503 while a model loads and after its executor
// was lost; 200 also while draining, since what runs is still served.
#include "server/api/api.h"

void api_health(struct call *c)
{
    struct app *a = app_of(c);
    bool failed = app_failed(a);
    static const char *const names[] = {
        [APP_LOADING] = "loading", [APP_READY] = "ok", [APP_DRAINING] = "draining",
        [APP_ABORTING] = "draining",
    };
    enum app_state state = app_state(a);
    str_printf(&c->out, "{\"status\":\"%s\"}", failed ? "failed" : names[state]);
    bool ok = !failed && state != APP_LOADING;
    if (!ok)
        c->retry_after_s = failed ? 10 : 1;
    call_answer(c, ok ? 200 : 503, "application/json");
}
