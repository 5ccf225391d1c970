// POST /v1/completions, whole and streamed: a raw prompt, or many.
#include <stdlib.h>
#include <string.h>
#include "base/base.h"
#include "server/api/api.h"
#include "server/sessions.h"

// ---- pieces -------------------------------------------------------------------------------------

static void put_id(const struct gen *g, struct str *out)
{
    str_printf(out, "{\"id\":\"%s\",\"object\":\"text_completion\",\"created\":%lld,\"model\":",
               g->id,
               (long long)g->created_s);
    json_put_text(out, g->p.model->name);
    str_puts(out, ",\"choices\":[");
}

// A token's text as a JSON string. Bytes that are no text by themselves are spelled "bytes:\xNN",
// as OpenAI does, so that different tokens stay different.
static void put_piece(struct str *out, const char *p, size_t n)
{
    bool whole = true;
    for (size_t i = 0; i < n && whole; ) {
        size_t len = json_utf8_len(p + i, n - i);
        whole = len > 0;
        i += len;
    }
    if (whole) {
        json_put_string(out, p, n);
        return;
    }
    str_puts(out, "\"bytes:");
    for (size_t i = 0; i < n; i++)
        str_printf(out, "\\\\x%02x", (unsigned char)p[i]);
    str_puts(out, "\"");
}

static size_t count_chars(const char *p, size_t n)
{
    size_t chars = 0;
    for (size_t i = 0; i < n; i++)
        chars += ((unsigned char)p[i] & 0xc0) != 0x80;
    return chars;
}

static void put_top(struct str *out, const struct tokenizer *t, const struct token_logprob *l)
{
    str_puts(out, "{");
    for (uint32_t k = 0; k < l->n_top; k++) {
        size_t n;
        const char *p = tokenizer_piece(t, l->top[k].token, true, &n);
        str_puts(out, k ? "," : "");
        put_piece(out, p, n);
        str_puts(out, ":");
        json_put_double(out, api_logprob(l->top[k].logprob));
    }
    str_puts(out, "}");
}

// Adds the tokens of a delta to the four lists of the legacy shape.
static void add_logprobs(struct gen *g, struct choice *c, const struct delta *d)
{
    const struct tokenizer *t = engine_tokenizer(g->p.model->engine);
    bool bos_added = g->prompt[c->prompt].bos_added;
    for (uint32_t i = 0; i < d->n_tokens && g->p.gen.logprobs >= 0; i++) {
        const struct token_logprob *l = d->logprob ? &d->logprob[i] : NULL;
        const char *comma = c->n_logprobs++ ? "," : "";
        size_t n;
        const char *p = tokenizer_piece(t, d->token[i], true, &n);
        str_puts(&c->text, comma);
        put_piece(&c->text, p, n);
        str_printf(&c->offsets, "%s%zu", comma, c->n_chars);
        if (l || !bos_added)            // only the first token of a prompt has no log-probability
            c->n_chars += count_chars(p, n);
        str_puts(&c->logprobs, comma);
        str_puts(&c->top_logprobs, comma);
        if (!l) {                       // nothing stands before the first token of a prompt
            str_puts(&c->logprobs, "null");
            str_puts(&c->top_logprobs, "null");
        } else {
            json_put_double(&c->logprobs, api_logprob(l->logprob));
            put_top(&c->top_logprobs, t, l);
        }
    }
}

static void put_list(struct str *out, const char *key, struct str *list)
{
    str_printf(out, "\"%s\":[", key);
    str_add(out, list->p ? list->p : "", list->n);
    str_puts(out, "]");
    str_clear(list);
}

// "logprobs": what was added since the last time.
static void put_logprobs(struct gen *g, struct choice *c, struct str *out)
{
    if (g->p.gen.logprobs < 0) {
        str_puts(out, "\"logprobs\":null");
        return;
    }
    str_puts(out, "\"logprobs\":{");
    put_list(out, "tokens", &c->text);
    str_puts(out, ",");
    put_list(out, "token_logprobs", &c->logprobs);
    str_puts(out, ",");
    put_list(out, "top_logprobs", &c->top_logprobs);
    str_puts(out, ",");
    put_list(out, "text_offset", &c->offsets);
    str_puts(out, "}");
    c->n_logprobs = 0;
}

// ---- deltas -------------------------------------------------------------------------------------
// The text of a choice collects in `calls` (tools are chat's); `text` holds the list of tokens.

static void send(struct gen *g, struct choice *c, const char *p, size_t n, const char *finish)
{
    struct str *out = &g->call->out;
    sse_begin(out);
    str_add(out, g->head.p, g->head.n);
    str_puts(out, "{\"text\":");
    json_put_string(out, p, n);
    str_printf(out, ",\"index\":%u,", c->index);
    put_logprobs(g, c, out);
    str_printf(out, finish ? ",\"finish_reason\":\"%s\"}]" : ",\"finish_reason\":null}]", finish);
    str_puts(out, g->p.include_usage ? ",\"usage\":null}" : "}");
    sse_end(out);
}

static void begin(struct gen *g)
{
    put_id(g, &g->head);
    for (uint32_t i = 0; g->p.echo && i < g->n_choices; i++) {
        const struct gen_prompt *p = &g->prompt[g->choice[i].prompt];
        send(g, &g->choice[i], p->text, p->n_text, NULL);
    }
}

static void delta(struct gen *g, struct choice *c, const struct delta *d)
{
    bool prompt = d->kind == DELTA_PROMPT;
    add_logprobs(g, c, d);
    if (prompt)
        return;                         // its text was sent whole, or will be
    if (!g->p.stream)
        str_add(&c->calls, d->text, d->n_text);
    else if (d->n_text)
        send(g, c, d->text, d->n_text, NULL);
}

static void choice_end(struct gen *g, struct choice *c)
{
    if (g->p.stream)
        send(g, c, "", 0, gen_finish_name(c));
}

static void put_choice(struct gen *g, struct choice *c, struct str *out)
{
    const struct gen_prompt *p = &g->prompt[c->prompt];
    struct str text = {0};
    if (g->p.echo)
        str_add(&text, p->text, p->n_text);
    str_add(&text, c->calls.p ? c->calls.p : "", c->calls.n);
    str_puts(out, "{\"text\":");
    json_put_string(out, text.p, text.n);
    str_printf(out, ",\"index\":%u,", c->index);
    put_logprobs(g, c, out);
    str_printf(out, ",\"finish_reason\":\"%s\"}", gen_finish_name(c));
    str_free(&text);
}

static void end(struct gen *g)
{
    struct str *out = &g->call->out;
    if (g->p.stream) {
        if (g->p.include_usage) {
            sse_begin(out);
            str_add(out, g->head.p, g->head.n);
            str_puts(out, "],");
            gen_put_usage(g, out);
            str_puts(out, "}");
            sse_end(out);
        }
        sse_done(out);
        return;
    }
    put_id(g, out);
    for (uint32_t i = 0; i < g->n_choices; i++) {
        str_puts(out, i ? "," : "");
        put_choice(g, &g->choice[i], out);
    }
    str_puts(out, "],");
    gen_put_usage(g, out);
    str_puts(out, "}");
    call_answer(g->call, 200, "application/json");
}

static const struct gen_format format = {
    .prompt = "prompt", .begin = begin, .delta = delta, .choice_end = choice_end, .end = end,
};

// ---- prompts ------------------------------------------------------------------------------------

// Did the encoder put a BOS in front that the text does not spell?
static bool has_added_bos(const struct tokenizer *t, const struct gen_prompt *p)
{
    if (!p->tokens.n || p->tokens.id[0] != tokenizer_bos(t))
        return false;
    size_t n;
    const char *bos = tokenizer_piece(t, p->tokens.id[0], true, &n);
    return n > p->n_text || memcmp(p->text, bos, n) != 0;
}

static int text_prompt(const struct model_entry *m, const char *text, struct gen_prompt *p,
                       bool goes_on, struct arena *a, struct fault *f)
{
    const struct tokenizer *t = engine_tokenizer(m->engine);
    unsigned flags = TOKENIZE_SPECIAL | (goes_on ? TOKENIZE_GOES_ON : TOKENIZE_BOS);
    p->n_text = strlen(text);
    if (api_check_text(m, p->n_text, "prompt", f) < 0)
        return -1;
    p->text = arena_memdup(a, text, p->n_text);
    if (!p->text || tokenizer_encode(t, text, p->n_text, NULL, flags, &p->tokens, NULL) != 0)
        return fault_no_memory(f);
    p->bos_added = has_added_bos(t, p);
    return 0;
}

static int id_prompt(const struct tokenizer *t, const struct json *list, struct gen_prompt *p,
                     struct arena *a, struct fault *f)
{
    struct str text = {0};
    int r = 0;
    for (const struct json *v = json_first(list); v && r == 0; v = json_next(v)) {
        int64_t id;
        size_t n;
        if (!json_to_int(v, 0, (int64_t)tokenizer_n_vocab(t) - 1, &id)) {
            r = fault_set(f, ERROR_invalid_value, "prompt",
                          "'prompt' must hold ids of the vocabulary, 0 to %u",
                          tokenizer_n_vocab(t) - 1);
            break;
        }
        const char *piece = tokenizer_piece(t, (int32_t)id, true, &n);
        str_add(&text, piece, n);
        if (tokens_add(&p->tokens, (int32_t)id) != 0)
            r = fault_no_memory(f);
    }
    p->n_text = text.n;
    p->text = arena_memdup(a, text.p, text.n);
    if (r == 0 && (!p->text || !str_ok(&text)))
        r = fault_no_memory(f);
    str_free(&text);
    return r;
}

static int one_prompt(const struct model_entry *m, const struct json *v, struct gen_prompt *p,
                      bool goes_on, struct arena *a, struct fault *f)
{
    if (json_is_string(v))
        return text_prompt(m, json_text(v), p, goes_on, a, f);
    if (json_is_array(v) && json_first(v) && json_is_number(json_first(v)))
        return id_prompt(engine_tokenizer(m->engine), v, p, a, f);
    return fault_set(f, ERROR_invalid_value, "prompt",
                     "'prompt' must be a string, a list of strings, a list of tokens, "
                     "or a list of lists of tokens");
}

static int read_prompts(const struct json *root, const struct params *params,
                        struct gen_prompt **ret, uint32_t *n, struct arena *a, struct fault *f)
{
    const struct json *v = json_get(root, "prompt");
    const struct model_entry *m = params->model;
    bool goes_on = params->append && params->session_tokens;
    if (!v)
        return fault_set(f, ERROR_missing_field, "prompt", "'prompt' is missing");
    bool many = json_is_array(v) && json_first(v) && !json_is_number(json_first(v));
    size_t count = many ? json_count(v) : 1;
    if (count > PROMPTS_MAX)
        return fault_set(f, ERROR_invalid_value, "prompt", "more than %d prompts", PROMPTS_MAX);
    struct gen_prompt *p = arena_calloc(a, count, sizeof(*p));
    if (!p)
        return fault_no_memory(f);
    *ret = p;
    *n = (uint32_t)count;
    const struct json *item = many ? json_first(v) : v;
    for (size_t i = 0; i < count; i++, item = many ? json_next(item) : NULL) {
        if (one_prompt(m, item, &p[i], goes_on, a, f) < 0)
            return -1;
        if (p[i].tokens.n == 0 && !goes_on)
            return fault_set(f, ERROR_invalid_value, "prompt", "The prompt has no token.");
    }
    if (params->session && count > 1)
        return fault_set(f, ERROR_invalid_value, "prompt", "a session takes one prompt at a time");
    return goes_on ? session_prepend(params, &p->tokens, f) : 0;
}

static int start(struct api_request *r, struct call *c, const struct params *p)
{
    struct gen_prompt *prompt = NULL;
    uint32_t n = 0;
    if (read_prompts(r->root, p, &prompt, &n, &c->arena, &r->fault) < 0) {
        for (uint32_t i = 0; i < n; i++)
            tokens_free(&prompt[i].tokens);
        return -1;
    }
    return gen_start(c, p, &format, "cmpl", prompt, n, (struct tool_names){0}, &r->fault);
}

static int run(struct api_request *r, struct call *c)
{
    struct params p;
    if (params_read(&p, DIALECT_COMPLETION, r->doc, r->model, &c->arena, &r->fault) < 0 ||
        session_take(&p, c, &r->fault) < 0)
        return -1;
    int result = start(r, c, &p);
    if (result < 0)
        session_drop(&p);
    return result;
}

void api_openai_completions(struct call *c)
{
    struct api_request r;
    if (api_begin(&r, c) == 0)
        api_end(&r, c, run(&r, c));
}
