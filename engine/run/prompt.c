// Chats to prompts, and the text side of a model file alone.
#include <errno.h>
#include <stdio.h>
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

// ---- a turn ----

// Stands for an answer whose text is not known here. No message has it: it is looked for.
struct mark { char text[32]; };

static void choose_mark(const struct template_vars *v, struct mark *m)
{
    for (unsigned i = 0; i == 0 || memmem(v->messages, v->n_messages, m->text, strlen(m->text));
         i++)
        snprintf(m->text, sizeof m->text, "XgodwitX%uX", i);
}

// The client's array with messages before it.
static int put_before(const struct template_vars *v, const char *before, const struct mark *m,
                      struct str *out, struct err *err)
{
    const char *open = memchr(v->messages, '[', v->n_messages);
    if (!open)
        return err_set(err, -EINVAL, "messages are no array");
    str_printf(out, "[%s{\"role\":\"user\",\"content\":\"Go on.\"},"
               "{\"role\":\"assistant\",\"content\":\"%s\"},", before, m->text);
    str_add(out, open + 1, v->n_messages - (size_t)(open + 1 - v->messages));
    return str_ok(out) ? 0 : err_set(err, -ENOMEM, "no memory for a chat");
}

// Renders them; *at is where the text behind the mark begins.
static int render_behind(const struct engine *e, const struct template_vars *v, const char *before,
                         const struct mark *m, struct rendered *out, size_t *at, struct err *err)
{
    struct template_vars vars = *v;
    struct str messages = {0};
    size_t n = strlen(m->text);
    int r = put_before(v, before, m, &messages, err);
    vars.messages = messages.p;
    vars.n_messages = messages.n;
    if (r == 0)
        r = template_render(e->tmpl, &vars, out, err);
    str_free(&messages);
    if (r < 0)
        return r;
    const char *p = memmem(out->text.p, out->text.n, m->text, n);
    *at = p ? (size_t)(p - out->text.p) + n : 0;
    if (!p || memmem(out->text.p + *at, out->text.n - *at, m->text, n))
        return err_set(err, -ENOTSUP, "the chat template does not write an answer once");
    return 0;
}

static bool same_behind(const struct rendered *a, size_t a_at, const struct rendered *b,
                        size_t b_at)
{
    size_t n = a->text.n - a_at;
    return n == b->text.n - b_at && memcmp(a->text.p + a_at, b->text.p + b_at, n) == 0 &&
           memcmp(a->plain.p + a_at, b->plain.p + b_at, n) == 0;
}

// Rendered behind a short conversation and behind a longer one: where both give the same, it does
// not depend on what stands before, and may be put behind any.
int engine_chat_turn(const struct engine *e, const struct template_vars *v, struct tokens *out,
                     struct err *err)
{
    static const char longer[] = "{\"role\":\"user\",\"content\":\"One?\"},"
                                 "{\"role\":\"assistant\",\"content\":\"Two.\"},";
    struct template_vars vars = *v;
    struct rendered a = {0}, b = {0};
    struct mark m;
    size_t a_at, b_at;
    if (!e->tmpl)
        return err_set(err, -ENOTSUP, "%s", e->tmpl_err.msg);
    vars.bos_token = vars.bos_token ? vars.bos_token : e->bos;
    vars.eos_token = vars.eos_token ? vars.eos_token : e->eos;
    vars.tools = NULL;
    vars.n_tools = 0;
    choose_mark(v, &m);
    int r = render_behind(e, &vars, "", &m, &a, &a_at, err);
    if (r == 0)
        r = render_behind(e, &vars, longer, &m, &b, &b_at, err);
    if (r == 0 && !same_behind(&a, a_at, &b, b_at))
        r = err_set(err, -ENOTSUP, "the chat template writes messages differently, depending on "
                    "what stands before them");
    if (r == 0)
        r = tokenizer_encode(e->tok, a.text.p + a_at, a.text.n - a_at,
                             (const uint8_t *)a.plain.p + a_at, TOKENIZE_SPECIAL | TOKENIZE_GOES_ON,
                             out, err);
    rendered_free(&a);
    rendered_free(&b);
    return r;
}

// ---- the text side alone ----

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
