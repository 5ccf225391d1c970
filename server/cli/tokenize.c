// godwit tokenize: standard input to token ids.
#include "server/cli/cli.h"

static void print_ids(const struct tokens *ids, bool json, struct str *out)
{
    str_puts(out, json ? "{\"tokens\":[" : "");
    for (size_t i = 0; i < ids->n; i++)
        str_printf(out, "%s%d", i == 0 ? "" : json ? "," : " ", ids->id[i]);
    str_puts(out, json ? "]}\n" : "\n");
}

int cmd_tokenize(struct cli *c, struct err *err)
{
    struct tokenizer *t = NULL;
    struct str text = {0};
    struct tokens ids = {0};
    unsigned flags = (c->no_bos ? 0u : TOKENIZE_BOS) | (c->no_special ? 0u : TOKENIZE_SPECIAL);
    int r = engine_open_text(c->model, &t, NULL, err);
    if (r == 0)
        r = read_stdin(&text, err);
    if (r == 0)
        r = tokenizer_encode(t, text.n ? text.p : "", text.n, NULL, flags, &ids, err);
    if (r == 0)
        print_ids(&ids, c->json, &c->out);
    tokens_free(&ids);
    str_free(&text);
    tokenizer_close(t);
    return r;
}
