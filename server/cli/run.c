// godwit run: answers one prompt, or chats.
#include <string.h>
#include "base/clock.h"
#include "server/cli/cli.h"
#include "server/json.h"

static int make_prompt(const struct cli *c, struct engine *e, struct tokens *ret, struct err *err)
{
    if (c->raw)
        return tokenizer_encode(engine_tokenizer(e), c->prompt, strlen(c->prompt), NULL,
                                TOKENIZE_BOS | TOKENIZE_SPECIAL, ret, err);
    struct str messages = {0};
    str_puts(&messages, "[{\"role\":\"user\",\"content\":");
    json_put_text(&messages, c->prompt);
    str_puts(&messages, "}]");
    int r = chat_prompt(e, &messages, ret, err);
    str_free(&messages);
    return r;
}

static double ms(uint64_t ns)
{
    return (double)ns / (double)NS_PER_MS;
}

static void print_json(const struct answer *a, uint64_t load_ns, struct str *out)
{
    const struct usage *u = &a->usage;
    uint32_t decoded = u->generated_tokens ? u->generated_tokens - 1 : 0;
    str_puts(out, "{\"text\":");
    json_put_string(out, a->text.n ? a->text.p : "", a->text.n);
    str_puts(out, ",\"tokens\":[");
    for (size_t i = 0; i < a->tokens.n; i++)
        str_printf(out, "%s%d", i ? "," : "", a->tokens.id[i]);
    str_printf(out, "],\"finish_reason\":\"%s\",\"prompt_tokens\":%u,\"timings\":{",
               finish_name(a->reason), u->prompt_tokens);
    str_printf(out, "\"load_ms\":%.3f,\"queued_ms\":%.3f,\"prefill_ms\":%.3f,\"decode_ms\":%.3f,",
               ms(load_ns), ms(u->queued_ns), ms(u->prefill_ns), ms(u->decode_ns));
    str_printf(out, "\"prefill_tokens_per_s\":%.3f,\"decode_tokens_per_s\":%.3f,",
               rate_per_s(u->prompt_tokens - u->cached_tokens, u->prefill_ns),
               rate_per_s(decoded, u->decode_ns));
    str_printf(out, "\"blocks_read\":%llu,\"blocks_held\":%llu}}\n",
               (unsigned long long)u->blocks_read, (unsigned long long)u->blocks_held);
}

static int answer_once(struct cli *c, struct engine *e, uint64_t load_ns, struct err *err)
{
    struct tokens prompt = {0};
    struct answer a = {0};
    int r = make_prompt(c, e, &prompt, err);
    if (r == 0)
        r = generate(c, e, &prompt, !c->json, NULL, &a, err);
    if (r == 0 && c->json)
        print_json(&a, load_ns, &c->out);
    else if (r == 0)
        str_putc(&c->out, '\n');
    answer_free(&a);
    tokens_free(&prompt);
    return r;
}

int cmd_run(struct cli *c, struct err *err)
{
    struct engine *e = NULL;
    struct engine_params p = {0};
    uint64_t start_ns = clock_now_ns();
    if (!c->prompt && (c->json || c->raw))
        return err_set(err, CLI_USAGE, "--%s needs -p TEXT", c->json ? "json" : "raw");
    int r = load_engine(c, &p, &e, err);
    if (r)
        return r;
    uint64_t load_ns = clock_now_ns() - start_ns;
    r = c->prompt ? answer_once(c, e, load_ns, err) : chat(c, e, err);
    engine_close(e);
    return r;
}
