// GET /v1/models: every name that a request may give, aliases included.
#include "server/api/api.h"

void api_openai_models(struct call *c)
{
    struct models *m = &app_of(c)->models;
    struct fault f = {0};
    if (app_check_open(app_of(c), &f) < 0) {
        call_fail(c, &f);
        return;
    }
    str_puts(&c->out, "{\"object\":\"list\",\"data\":[");
    for (uint32_t i = 0; i < m->n; i++) {
        str_puts(&c->out, i ? "," : "");
        api_put_model(&c->out, &m->entry[i], m->entry[i].name);
    }
    for (uint32_t i = 0; i < m->n_aliases; i++) {
        str_puts(&c->out, ",");
        api_put_model(&c->out, m->alias[i].entry, m->alias[i].alias);
    }
    str_puts(&c->out, "]}");
    call_answer(c, 200, "application/json");
}
