// Chats to prompts, and the text side of a model file alone.
#include <errno.h>
#include <string.h>
#include "engine/run/priv.h"

int engine_chat_prompt(const struct engine *e, const struct template_vars *v, struct tokens *out,
                       struct rendered *text, struct err *err)
{
    if (!e->tmpl)
        return err_set(err, -ENOTSUP, "%s", e->tmpl_err.msg);
    struct template_vars vars = *v;
    if (!vars.bos_token)
        vars.bos_token = e->bos;
    if (!vars.eos_token)
        vars.eos_token = e->eos;
    struct rendered own = {0};
    struct rendered *r = text ? text : &own;
    int rc = template_render(e->tmpl, &vars, r, err);
    if (rc == 0)
        rc = tokenizer_encode(e->tok, r->text.p, r->text.n, (const uint8_t *)r->plain.p,
                              TOKENIZE_SPECIAL | TOKENIZE_BOS, out, err);
    rendered_free(&own);
    return rc;
}

static int open_template_of(const struct gguf *g, struct chat_template **ret, struct err *err)
{
    struct gguf_str src;
    int r = gguf_string(g, "tokenizer.chat_template", &src, err);
    if (r == -ENOENT)
        return err_set(err, -ENOTSUP, "the model file has no chat template");
    return r < 0 ? r : template_open(ret, src.p, src.n, err);
}

int engine_open_text(const char *model_path, struct tokenizer **tok, struct chat_template **tmpl,
                     struct err *err)
{
    struct gguf *g;
    struct tokenizer *t = NULL;
    int r = gguf_open(&g, model_path, err);
    if (r < 0)
        return r;
    if (tok)
        r = tokenizer_open(&t, g, err);
    if (r == 0 && tmpl)
        r = open_template_of(g, tmpl, err);
    gguf_close(g);
    if (r < 0) {
        tokenizer_close(t);
        return r;
    }
    if (tok)
        *tok = t;
    return 0;
}
