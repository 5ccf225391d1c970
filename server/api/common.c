// What endpoints share.
#include "base/base.h"
#include "server/api/api.h"

// Tokens are 3 to 5 bytes long on average; only texts far from ordinary have more than this.
#define TOKEN_BYTES_MAX 32
#define TEXT_BYTES_FREE 4096            // so that a small context still tells its prompts' tokens

int api_begin(struct api_request *r, struct call *c)
{
    *r = (struct api_request){0};
    if (app_check_open(app_of(c), &r->fault) < 0 ||
        request_json(&r->doc, &c->body, &r->fault) < 0)
        goto fail;
    r->root = json_root(r->doc);
    r->model = request_model(&app_of(c)->models, r->root, &r->fault);
    if (r->model)
        return 0;
fail:
    api_end(r, c, -1);
    return -1;
}

void api_end(struct api_request *r, struct call *c, int result)
{
    json_close(r->doc);
    r->doc = NULL;
    if (result < 0)
        call_fail(c, &r->fault);
}

int api_check_text(const struct model_entry *m, size_t n_bytes, const char *param,
                   struct fault *f)
{
    uint32_t ctx_tokens = engine_info(m->engine)->ctx_tokens;
    if (n_bytes <= (size_t)ctx_tokens * TOKEN_BYTES_MAX + TEXT_BYTES_FREE)
        return 0;
    return fault_set(f, ERROR_context_length, param,
                     "This model's maximum context length is %u tokens, "
                     "but the prompt has %zu bytes.", ctx_tokens, n_bytes);
}

void api_put_model(struct str *out, const struct model_entry *m, const char *id)
{
    const struct engine_info *info = engine_info(m->engine);
    str_puts(out, "{\"id\":");
    json_put_text(out, id);
    str_printf(out, ",\"object\":\"model\",\"created\":%lld,\"owned_by\":\"godwit\",\"root\":",
               (long long)m->created_s);
    json_put_text(out, m->name);
    str_printf(out, ",\"max_model_len\":%u,\"context_length\":%u}", info->ctx_tokens,
               info->ctx_tokens);
}

double api_logprob(float x)
{
    return x == x ? CLAMP((double)x, -9999.0, 0.0) : -9999.0;
}

void api_put_token(struct str *out, const struct tokenizer *t, int32_t id, float logprob)
{
    size_t n;
    const char *p = tokenizer_piece(t, id, true, &n);
    str_puts(out, "{\"token\":");
    json_put_string(out, p, n);
    str_puts(out, ",\"logprob\":");
    json_put_double(out, api_logprob(logprob));
    str_puts(out, ",\"bytes\":[");
    for (size_t i = 0; i < n; i++)
        str_printf(out, "%s%u", i ? "," : "", (unsigned char)p[i]);
    str_puts(out, "]");
}
