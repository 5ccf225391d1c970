// POST /tokenize: {"content", "add_special", "parse_special"} -> {"tokens": [...]}.
#include <string.h>
#include "base/base.h"
#include "server/api/api.h"

static int run(struct api_request *r, struct call *c)
{
    const char *text = NULL;
    bool add_special = false, parse_special = false;
    struct tokens out = {0};
    int got = json_get_text(r->root, "content", &text, &r->fault);
    if (got == 0)
        got = json_get_text(r->root, "prompt", &text, &r->fault);
    if (got == 0)
        fault_set(&r->fault, ERROR_missing_field, "content", "'content' is missing");
    if (got <= 0 || json_get_bool(r->root, "add_special", &add_special, &r->fault) < 0 ||
        json_get_bool(r->root, "parse_special", &parse_special, &r->fault) < 0)
        return -1;
    unsigned flags = (add_special ? TOKENIZE_BOS : 0u) | (parse_special ? TOKENIZE_SPECIAL : 0u);
    if (tokenizer_encode(engine_tokenizer(r->model->engine), text, strlen(text), NULL, flags, &out,
                         NULL) != 0)
        return fault_no_memory(&r->fault);
    str_puts(&c->out, "{\"tokens\":[");
    for (size_t i = 0; i < out.n; i++)
        str_printf(&c->out, "%s%d", i ? "," : "", out.id[i]);
    str_printf(&c->out, "],\"count\":%zu,\"max_model_len\":%u}", out.n,
               engine_info(r->model->engine)->ctx_tokens);
    tokens_free(&out);
    call_answer(c, 200, "application/json");
    return 0;
}

void api_tokenize(struct call *c)
{
    struct api_request r;
    if (api_begin(&r, c) == 0)
        api_end(&r, c, run(&r, c));
}
