// GET /v1/models/{id}.
#include "server/api/api.h"

void api_openai_model(struct call *c)
{
    struct app *a = app_of(c);
    struct fault f = {0};
    if (app_check_open(a, &f) < 0) {
        call_fail(c, &f);
        return;
    }
    struct model_entry *m = models_find(&a->models, c->tail);
    if (!m) {
        fault_set(&f, ERROR_model_not_found, "model", "The model '%.100s' does not exist.",
                  c->tail);
        call_fail(c, &f);
        return;
    }
    api_put_model(&c->out, m, c->tail);
    call_answer(c, 200, "application/json");
}
