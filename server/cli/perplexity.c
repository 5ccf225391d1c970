// godwit perplexity: how well a model predicts a text, counted as llama.cpp's tool does: chunks
// that do not overlap, each begun with BOS if the model adds one, scored in their second half.
#include <errno.h>
#include <math.h>
#include "base/base.h"
#include "server/cli/cli.h"

#define CHUNK_DEFAULT 512
#define CHUNK_MIN 8

struct score {
    const int32_t *token;                   // (chunk)
    uint32_t chunk;                         // tokens of a chunk
    double   nll;                           // sum over scored tokens
    uint64_t n;                             // scored tokens
};

// -log softmax(logits)[token]
static double negative_log(const float *logits, uint32_t n, int32_t token)
{
    double sum = 0;
    float top = logits[0];
    for (uint32_t i = 1; i < n; i++)
        top = MAX(top, logits[i]);
    for (uint32_t i = 0; i < n; i++)
        sum += exp((double)logits[i] - top);
    return log(sum) - ((double)logits[token] - top);
}

static int score_row(void *ctx, uint32_t i, const float *logits, uint32_t n_vocab)
{
    struct score *s = ctx;
    if (i < s->chunk / 2 || i + 1 >= s->chunk)
        return 0;
    s->nll += negative_log(logits, n_vocab, s->token[i + 1]);
    s->n++;
    return 0;
}

static int score_chunks(struct cli *c, struct engine *e, struct tokens *ids, uint32_t chunk,
                        struct score *s, struct err *err)
{
    struct attn_policy attn;
    const struct tokenizer *t = engine_tokenizer(e);
    size_t n_chunks = ids->n / chunk;
    int r = attention_policy(c, &attn, err);
    if (r == 0 && n_chunks == 0)
        r = err_set(err, -EINVAL, "%.400s: %zu tokens are no chunk of %u", c->file, ids->n, chunk);
    for (size_t i = 0; i < n_chunks && r == 0; i++) {
        int32_t *first = ids->id + i * chunk;
        if (tokenizer_adds_bos(t))
            first[0] = tokenizer_bos(t);
        *s = (struct score){first, chunk, s->nll, s->n};
        r = engine_eval(e, first, chunk, &attn, score_row, s, err);
        progress_show("perplexity", i + 1, n_chunks);
    }
    return r;
}

int cmd_perplexity(struct cli *c, struct err *err)
{
    struct str text = {0};
    struct tokens ids = {0};
    struct engine *e = NULL;
    struct score s = {0};
    uint32_t chunk = c->ctx_tokens ? c->ctx_tokens : CHUNK_DEFAULT;
    struct engine_params p = {.ctx_tokens = chunk, .prefix_cache = 1};
    if (chunk < CHUNK_MIN)
        return err_set(err, CLI_USAGE, "--ctx must be at least %d", CHUNK_MIN);
    int r = read_path(c->file, &text, err);
    if (r == 0)
        r = load_engine(c, &p, &e, err);
    if (r == 0)
        r = tokenizer_encode(engine_tokenizer(e), text.n ? text.p : "", text.n, NULL, TOKENIZE_BOS,
                             &ids, err);
    if (r == 0)
        r = score_chunks(c, e, &ids, chunk, &s, err);
    if (r == 0)
        str_printf(&c->out, c->json ? "{\"ppl\":%.9g,\"tokens\":%llu}\n"
                                    : "perplexity %.4f over %llu tokens\n",
                   exp(s.nll / (double)s.n), (unsigned long long)s.n);
    engine_close(e);
    tokens_free(&ids);
    str_free(&text);
    return r;
}
