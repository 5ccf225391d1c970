// POST /v1/chat/completions, whole and streamed.
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include "base/base.h"
#include "base/clock.h"
#include "server/api/api.h"
#include "server/sessions.h"

// ---- pieces -------------------------------------------------------------------------------------

static const struct tokenizer *tokenizer_of(const struct gen *g)
{
    return engine_tokenizer(g->p.model->engine);
}

static void put_id(const struct gen *g, struct str *out, const char *object)
{
    struct hash fp = engine_info(g->p.model->engine)->fingerprint;
    str_printf(out, "{\"id\":\"%s\",\"object\":\"%s\",\"created\":%lld,\"model\":", g->id, object,
               (long long)g->created_s);
    json_put_text(out, g->p.model->name);
    str_printf(out, ",\"system_fingerprint\":\"fp_%012llx\",\"choices\":[",
               (unsigned long long)(hash_short(&fp) & 0xffffffffffff));
}

static void put_logprobs(const struct gen *g, struct choice *c, const struct delta *d,
                         struct str *out)
{
    for (uint32_t i = 0; i < d->n_tokens && d->logprob; i++) {
        const struct token_logprob *l = &d->logprob[i];
        str_puts(out, c->n_logprobs++ ? "," : "");
        api_put_token(out, tokenizer_of(g), l->token, l->logprob);
        str_puts(out, ",\"top_logprobs\":[");
        for (uint32_t k = 0; k < l->n_top; k++) {
            str_puts(out, k ? "," : "");
            api_put_token(out, tokenizer_of(g), l->top[k].token, l->top[k].logprob);
            str_puts(out, "}");
        }
        str_puts(out, "]}");
    }
}

static void put_call(struct str *out, const struct gen *g, const struct choice *c, unsigned index,
                     const char *name, const char *args, size_t n, bool with_index)
{
    str_puts(out, "{");
    if (with_index)
        str_printf(out, "\"index\":%u,", index);
    // Unique within the answer and between answers.
    str_printf(out, "\"id\":\"call_%s_%u_%u\",\"type\":\"function\",\"function\":{\"name\":",
               g->id + strlen("chatcmpl-"), c->index, index);
    json_put_text(out, name);
    str_puts(out, ",\"arguments\":");
    json_put_string(out, args, n);
    str_puts(out, "}}");
}

// ---- streams ------------------------------------------------------------------------------------

static void event_begin(struct gen *g, const struct choice *c)
{
    struct str *out = &g->call->out;
    sse_begin(out);
    str_add(out, g->head.p, g->head.n);
    str_printf(out, "{\"index\":%u,\"delta\":", c->index);
}

// logprobs: NULL, or the elements of "content".
static void event_end(struct gen *g, const struct str *logprobs, const char *finish)
{
    struct str *out = &g->call->out;
    if (logprobs && logprobs->n) {
        str_puts(out, ",\"logprobs\":{\"content\":[");
        str_add(out, logprobs->p, logprobs->n);
        str_puts(out, "]}");
    } else {
        str_puts(out, ",\"logprobs\":null");
    }
    str_printf(out, finish ? ",\"finish_reason\":\"%s\"}]" : ",\"finish_reason\":null}]", finish);
    str_puts(out, g->p.include_usage ? ",\"usage\":null}" : "}");
    sse_end(out);
}

static void begin(struct gen *g)
{
    put_id(g, &g->head, "chat.completion.chunk");
    for (uint32_t i = 0; i < g->n_choices; i++) {
        event_begin(g, &g->choice[i]);
        str_puts(&g->call->out, "{\"role\":\"assistant\",\"content\":\"\"}");
        event_end(g, NULL, NULL);
    }
}

// Takes the log-probabilities that wait to go out with the next event.
static void send_content(struct gen *g, struct choice *c, const char *p, size_t n)
{
    event_begin(g, c);
    str_puts(&g->call->out, "{\"content\":");
    json_put_string(&g->call->out, p, n);
    str_puts(&g->call->out, "}");
    event_end(g, &c->logprobs, NULL);
    str_clear(&c->logprobs);
    c->n_logprobs = 0;
}

static void send_call(struct gen *g, struct choice *c, unsigned index, const char *name,
                      const char *args, size_t n)
{
    struct str *out = &g->call->out;
    event_begin(g, c);
    str_puts(out, "{\"tool_calls\":[");
    put_call(out, g, c, index, name, "", 0, true);
    str_puts(out, "]}");
    event_end(g, &c->logprobs, NULL);
    str_clear(&c->logprobs);
    c->n_logprobs = 0;
    event_begin(g, c);
    str_printf(out, "{\"tool_calls\":[{\"index\":%u,\"function\":{\"arguments\":", index);
    json_put_string(out, args, n);
    str_puts(out, "}}]}");
    event_end(g, NULL, NULL);
}

// ---- deltas -------------------------------------------------------------------------------------

struct sink_ctx { struct gen *g; struct choice *c; };

static void take_text(void *ctx, const char *p, size_t n)
{
    struct sink_ctx *s = ctx;
    if (s->g->p.stream)
        send_content(s->g, s->c, p, n);
    else
        str_add(&s->c->text, p, n);
}

static void take_call(void *ctx, unsigned index, const char *name, const char *args, size_t n)
{
    struct sink_ctx *s = ctx;
    s->c->n_calls++;
    if (s->g->p.stream) {
        send_call(s->g, s->c, index, name, args, n);
        return;
    }
    str_puts(&s->c->calls, index ? "," : "");
    put_call(&s->c->calls, s->g, s->c, index, name, args, n, false);
}

static bool is_offered(void *ctx, const char *name)
{
    const struct tool_names *tools = &((struct sink_ctx *)ctx)->g->tools;
    for (uint32_t i = 0; i < tools->n; i++) {
        if (strcmp(tools->name[i], name) == 0)
            return true;
    }
    return false;
}

static void delta(struct gen *g, struct choice *c, const struct delta *d)
{
    struct sink_ctx ctx = { g, c };
    struct tool_sink sink = { take_text, take_call, is_offered, &ctx };
    put_logprobs(g, c, d, &c->logprobs);
    if (d->n_text == 0)
        return;
    if (g->tools.n)
        tool_parser_push(&c->tools, d->text, d->n_text, &sink);
    else
        take_text(&ctx, d->text, d->n_text);
}

static void choice_end(struct gen *g, struct choice *c)
{
    struct sink_ctx ctx = { g, c };
    struct tool_sink sink = { take_text, take_call, is_offered, &ctx };
    tool_parser_end(&c->tools, &sink);
    if (!g->p.stream)
        return;
    event_begin(g, c);
    str_puts(&g->call->out, "{}");
    event_end(g, &c->logprobs, gen_finish_name(c));
}

static void put_choice(const struct gen *g, const struct choice *c, struct str *out)
{
    str_printf(out, "{\"index\":%u,\"message\":{\"role\":\"assistant\",\"content\":", c->index);
    if (c->n_calls && !c->text.n)
        str_puts(out, "null");
    else
        json_put_string(out, c->text.p ? c->text.p : "", c->text.n);
    str_puts(out, ",\"refusal\":null");
    if (c->n_calls) {
        str_puts(out, ",\"tool_calls\":[");
        str_add(out, c->calls.p, c->calls.n);
        str_puts(out, "]");
    }
    str_puts(out, "},\"logprobs\":");
    if (g->p.gen.logprobs >= 0) {
        str_puts(out, "{\"content\":[");
        str_add(out, c->logprobs.p ? c->logprobs.p : "", c->logprobs.n);
        str_puts(out, "]}");
    } else {
        str_puts(out, "null");
    }
    str_printf(out, ",\"finish_reason\":\"%s\"}", gen_finish_name(c));
}

static void end(struct gen *g)
{
    struct str *out = &g->call->out;
    if (!g->p.stream) {
        put_id(g, out, "chat.completion");
        for (uint32_t i = 0; i < g->n_choices; i++) {
            str_puts(out, i ? "," : "");
            put_choice(g, &g->choice[i], out);
        }
        str_puts(out, "],");
        gen_put_usage(g, out);
        str_puts(out, "}");
        call_answer(g->call, 200, "application/json");
        return;
    }
    if (g->p.include_usage) {
        sse_begin(out);
        str_add(out, g->head.p, g->head.n);
        str_puts(out, "],");
        gen_put_usage(g, out);
        str_puts(out, "}");
        sse_end(out);
    }
    sse_done(out);
}

static const struct gen_format format = {
    .prompt = "messages", .begin = begin, .delta = delta, .choice_end = choice_end, .end = end,
};

// ---- requests -----------------------------------------------------------------------------------

static int render(const struct params *p, const struct template_vars *v, struct tokens *out,
                  struct err *err)
{
    const struct engine *e = p->model->engine;
    return p->append && p->session_tokens ? engine_chat_turn(e, v, out, err)
                                          : engine_chat_prompt(e, v, out, NULL, err);
}

static int make_prompt(const struct chat *chat, const struct params *p, struct tokens *out,
                       struct fault *f)
{
    const struct model_entry *m = p->model;
    struct err err = {0};
    struct template_vars v = {
        .messages = chat->messages.p, .n_messages = chat->messages.n,
        .tools = chat->tools.p, .n_tools = chat->tools.n,
        .kwargs = chat->kwargs.p, .n_kwargs = chat->kwargs.n,
        .add_generation_prompt = true, .now = (time_t)clock_unix_s(),
    };
    if (api_check_text(m, v.n_messages + v.n_tools + v.n_kwargs, "messages", f) < 0)
        return -1;
    switch (render(p, &v, out, &err)) {
    case 0:
        break;
    case -ENOTSUP:
        if (engine_info(m->engine)->has_template)
            return fault_set(f, ERROR_unsupported, "godwit.append", "No turn can be appended: %s.",
                             err.msg);
        return fault_set(f, ERROR_unsupported, "model",
                         "The model '%.60s' has no chat template; use /v1/completions.", m->name);
    case -ENOMEM:
        return fault_no_memory(f);
    case -E2BIG:
        return fault_set(f, ERROR_invalid_value, "messages",
                         "The model's chat template cannot render this conversation: %.200s",
                         err.msg);
    default:
        return fault_set(f, ERROR_invalid_value, "messages",
                         "The model's chat template refuses this conversation: %.200s", err.msg);
    }
    if (out->n == 0)
        return fault_set(f, ERROR_invalid_value, "messages",
                         "The conversation renders to no token.");
    return p->append && p->session_tokens ? session_prepend(p, out, f) : 0;
}

static int run(struct api_request *r, struct call *c)
{
    struct params p;
    struct chat chat;
    struct gen_prompt *prompt = arena_alloc(&c->arena, sizeof(*prompt));
    if (!prompt)
        return fault_no_memory(&r->fault);
    if (chat_read(&chat, r->doc, &c->arena, &r->fault) < 0 ||
        params_read(&p, DIALECT_CHAT, r->doc, r->model, &c->arena, &r->fault) < 0 ||
        session_take(&p, c, &r->fault) < 0)
        return -1;
    int result = make_prompt(&chat, &p, &prompt->tokens, &r->fault);
    if (result < 0)
        tokens_free(&prompt->tokens);
    else
        result = gen_start(c, &p, &format, "chatcmpl", prompt, 1, chat.names, &r->fault);
    if (result < 0)
        session_drop(&p);
    return result;
}

void api_openai_chat(struct call *c)
{
    struct api_request r;
    if (api_begin(&r, c) == 0)
        api_end(&r, c, run(&r, c));
}
