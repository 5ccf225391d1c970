// POST /detokenize: {"tokens": [...]} -> {"content": "..."}. Bytes that are no UTF-8 become U+FFFD.
#include "base/base.h"
#include "server/api/api.h"

static int run(struct api_request *r, struct call *c)
{
    const struct tokenizer *t = engine_tokenizer(r->model->engine);
    const struct json *list = NULL;
    struct str text = {0};
    int got = json_get_array(r->root, "tokens", &list, &r->fault);
    if (got == 0)
        fault_set(&r->fault, ERROR_missing_field, "tokens", "'tokens' is missing");
    if (got <= 0)
        return -1;
    for (const struct json *v = json_first(list); v; v = json_next(v)) {
        int64_t id;
        size_t n;
        if (!json_to_int(v, 0, (int64_t)tokenizer_n_vocab(t) - 1, &id)) {
            str_free(&text);
            return fault_set(&r->fault, ERROR_invalid_value, "tokens",
                             "'tokens' must hold ids of the vocabulary");
        }
        const char *p = tokenizer_piece(t, (int32_t)id, true, &n);
        str_add(&text, p, n);
    }
    bool ok = str_ok(&text);
    str_puts(&c->out, "{\"content\":");
    json_put_string(&c->out, text.p ? text.p : "", text.n);
    str_puts(&c->out, "}");
    str_free(&text);
    if (!ok)
        return fault_no_memory(&r->fault);
    call_answer(c, 200, "application/json");
    return 0;
}

void api_detokenize(struct call *c)
{
    struct api_request r;
    if (api_begin(&r, c) == 0)
        api_end(&r, c, run(&r, c));
}
