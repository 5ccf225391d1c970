// godwit detokenize: token ids on standard input to the exact bytes they stand for.
#include <errno.h>
#include "server/cli/cli.h"
#include "server/json.h"

static int add_pieces(const struct tokenizer *t, const struct tokens *ids, bool special,
                      struct str *out, struct err *err)
{
    for (size_t i = 0; i < ids->n; i++) {
        size_t n;
        if ((uint32_t)ids->id[i] >= tokenizer_n_vocab(t))
            return err_set(err, -EINVAL, "token %zu is %d, the vocabulary has %u", i, ids->id[i],
                           tokenizer_n_vocab(t));
        const char *p = tokenizer_piece(t, ids->id[i], special, &n);
        bool prefix = i == 0 && tokenizer_adds_space(t) && n && p[0] == ' ';
        str_add(out, p + prefix, n - prefix);
    }
    return 0;
}

int cmd_detokenize(struct cli *c, struct err *err)
{
    struct tokenizer *t = NULL;
    struct str input = {0}, text = {0};
    struct tokens ids = {0};
    int r = engine_open_text(c->model, &t, NULL, err);
    if (r == 0)
        r = read_stdin(&input, err);
    if (r == 0)
        r = parse_ids(&input, &ids, err);
    if (r == 0)
        r = add_pieces(t, &ids, !c->no_special, c->json ? &text : &c->out, err);
    if (r == 0 && c->json) {
        str_puts(&c->out, "{\"text\":");
        json_put_string(&c->out, text.n ? text.p : "", text.n);
        str_puts(&c->out, "}\n");
    }
    str_free(&text);
    str_free(&input);
    tokens_free(&ids);
    tokenizer_close(t);
    return r;
}
