// GET /ready: should new requests be sent here? Only when models are loaded, work, and no drain
// began.
#include "server/api/api.h"

void api_ready(struct call *c)
{
    struct app *a = app_of(c);
    bool ready = app_state(a) == APP_READY && !app_failed(a);
    str_printf(&c->out, "{\"ready\":%s}", ready ? "true" : "false");
    if (!ready)
        c->retry_after_s = 1;
    call_answer(c, ready ? 200 : 503, "application/json");
}
