// godwit template: a chat request on standard input to the prompt that the model would see.
#include <errno.h>
#include <time.h>
#include "server/cli/cli.h"
#include "server/json.h"

static const char *text_of(const struct tokenizer *t, int32_t id, struct str *keep)
{
    size_t n;
    const char *p = tokenizer_piece(t, id, true, &n);
    str_add(keep, p, n);
    return keep->p ? keep->p : "";
}

static int render(const struct chat_template *tmpl, const struct tokenizer *t,
                  const struct json_doc *doc, struct rendered *ret, struct err *err)
{
    struct str bos = {0}, eos = {0};
    struct json_span messages = json_raw(doc, "messages"), tools = json_raw(doc, "tools");
    struct json_span kwargs = json_raw(doc, "chat_template_kwargs");
    const struct json *prompt = json_get(json_root(doc), "add_generation_prompt");
    const struct json *has_tools = json_get(json_root(doc), "tools");
    if (!messages.p)
        return err_set(err, -EINVAL, "the request has no \"messages\"");
    struct template_vars v = {
        .messages = messages.p, .n_messages = messages.n,
        .tools = has_tools ? tools.p : NULL, .n_tools = tools.n,
        .kwargs = kwargs.p, .n_kwargs = kwargs.n,
        .bos_token = text_of(t, tokenizer_bos(t), &bos),
        .eos_token = text_of(t, tokenizer_eos(t), &eos),
        .add_generation_prompt = !prompt || json_is_true(prompt),
        .now = time(NULL),
    };
    int r = template_render(tmpl, &v, ret, err);
    str_free(&bos);
    str_free(&eos);
    return r;
}

int cmd_template(struct cli *c, struct err *err)
{
    struct tokenizer *t = NULL;
    struct chat_template *tmpl = NULL;
    struct json_doc *doc = NULL;
    struct str request = {0};
    struct rendered text = {0};
    int r = engine_open_text(c->model, &t, &tmpl, err);
    if (r == 0)
        r = read_stdin(&request, err);
    if (r == 0) {
        r = json_open(&doc, request.n ? request.p : "", request.n, err);
        if (r)
            err_prefix(err, "the request is no JSON");
    }
    if (r == 0)
        r = render(tmpl, t, doc, &text, err);
    if (r == 0 && c->json) {
        str_puts(&c->out, "{\"text\":");
        json_put_string(&c->out, text.text.n ? text.text.p : "", text.text.n);
        str_puts(&c->out, "}\n");
    } else if (r == 0) {
        str_add(&c->out, text.text.p, text.text.n);
    }
    rendered_free(&text);
    json_close(doc);
    str_free(&request);
    template_close(tmpl);
    tokenizer_close(t);
    return r;
}
