// Opens a vocabulary with its algorithm, and answers questions about its tokens.
#include "engine/text/tokenizer.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "base/base.h"
#include "engine/model/gguf.h"
#include "engine/text/tokenizer_impl.h"

#define KEY "tokenizer.ggml."
// An optional token id; -1 where the file has none.
static int read_id(const struct tokenizer *t, const struct gguf *g, const char *key, int32_t *ret,
                   struct err *err)
{
    uint32_t id;
    *ret = -1;
    int r = gguf_u32(g, key, 0, t->vocab.n - 1, &id, err);
    if (r == 0)
        *ret = (int32_t)id;
    return r == -ENOENT ? 0 : r;
}

static int read_flag(const struct gguf *g, const char *key, bool otherwise, bool *ret,
                     struct err *err)
{
    *ret = otherwise;
    int r = gguf_bool(g, key, ret, err);
    return r == -ENOENT ? 0 : r;
}

static int open_bpe(struct tokenizer *t, const struct gguf *g, struct err *err)
{
    struct gguf_str name = {"default", 7};
    int r = gguf_string(g, KEY "pre", &name, err);
    if (r && r != -ENOENT)
        return r;
    const struct pretok_row *row = pretok_row(name.p, name.n);
    if (!row)
        return err_set(err, -ENOTSUP, KEY "pre: unknown pre-tokenizer \"%.*s\"",
                       (int)MIN(name.n, (size_t)64), name.p);
    t->nfc = row->nfc;
    r = pretok_open(&t->pretok, row, err);
    if (r == 0)
        r = read_flag(g, KEY "add_bos_token", row->add_bos, &t->add_bos, err);
    if (r == 0)
        r = bpe_init(&t->bpe, &t->vocab, row->ignore_merges, g, err);
    return r;
}

static int open_spm(struct tokenizer *t, const struct gguf *g, struct err *err)
{
    int32_t unknown;
    int r = read_id(t, g, KEY "unknown_token_id", &unknown, err);
    if (r == 0)
        r = read_flag(g, KEY "add_bos_token", true, &t->add_bos, err);
    if (r == 0)
        r = read_flag(g, KEY "add_space_prefix", true, &t->add_space, err);
    if (r == 0)
        r = spm_init(&t->spm, &t->vocab, unknown < 0 ? TOKEN_NONE : (uint32_t)unknown, g, err);
    return r;
}

static int read_kind(const struct gguf *g, enum vocab_kind *ret, struct err *err)
{
    struct gguf_str model;
    int r = gguf_string(g, KEY "model", &model, err);
    if (r == -ENOENT)
        return err_set(err, -EINVAL, KEY "model: missing");
    if (r)
        return r;
    if (model.n == 4 && memcmp(model.p, "gpt2", 4) == 0)
        *ret = VOCAB_BPE;
    else if (model.n == 5 && memcmp(model.p, "llama", 5) == 0)
        *ret = VOCAB_SPM;
    else
        return err_set(err, -ENOTSUP, KEY "model: unknown tokenizer \"%.*s\"",
                       (int)MIN(model.n, (size_t)64), model.p);
    return 0;
}

int tokenizer_open(struct tokenizer **ret, const struct gguf *g, struct err *err)
{
    enum vocab_kind kind = VOCAB_BPE;
    int r = read_kind(g, &kind, err);
    if (r)
        return r;
    struct tokenizer *t = calloc(1, sizeof(*t));
    if (!t)
        return err_set(err, -ENOMEM, "tokenizer: no memory");
    r = vocab_init(&t->vocab, kind, g, err);
    if (r == 0)
        r = special_init(&t->special, &t->vocab, err);
    if (r == 0)
        r = kind == VOCAB_BPE ? open_bpe(t, g, err) : open_spm(t, g, err);
    if (r == 0)
        r = read_id(t, g, KEY "bos_token_id", &t->bos, err);
    if (r == 0)
        r = read_id(t, g, KEY "eos_token_id", &t->eos, err);
    if (r == 0)
        r = read_id(t, g, KEY "eot_token_id", &t->eot, err);
    if (r == 0)
        r = read_id(t, g, KEY "eom_token_id", &t->eom, err);
    if (r) {
        tokenizer_close(t);
        return r;
    }
    t->add_bos &= t->bos >= 0;
    *ret = t;
    return 0;
}

void tokenizer_close(struct tokenizer *t)
{
    if (!t)
        return;
    spm_finish(&t->spm);
    bpe_finish(&t->bpe);
    pretok_close(t->pretok);
    special_finish(&t->special);
    vocab_finish(&t->vocab);
    free(t);
}

static bool in_vocab(const struct tokenizer *t, int32_t id)
{
    return id >= 0 && (uint32_t)id < t->vocab.n;
}

const char *tokenizer_piece(const struct tokenizer *t, int32_t id, bool special, size_t *n)
{
    *n = 0;
    if (!in_vocab(t, id))
        return "";
    enum token_type type = t->vocab.type[id];
    if (!special && (type == TOKEN_CONTROL || type == TOKEN_UNKNOWN || type == TOKEN_UNUSED))
        return "";
    return vocab_piece(&t->vocab, (uint32_t)id, n);
}

uint32_t tokenizer_n_vocab(const struct tokenizer *t)
{
    return t->vocab.n;
}

enum token_type tokenizer_type(const struct tokenizer *t, int32_t id)
{
    return in_vocab(t, id) ? (enum token_type)t->vocab.type[id] : TOKEN_UNUSED;
}

int32_t tokenizer_bos(const struct tokenizer *t)
{
    return t->bos;
}

int32_t tokenizer_eos(const struct tokenizer *t)
{
    return t->eos;
}

bool tokenizer_adds_bos(const struct tokenizer *t)
{
    return t->add_bos;
}

bool tokenizer_adds_space(const struct tokenizer *t)
{
    return t->add_space;
}

bool tokenizer_is_end(const struct tokenizer *t, int32_t id)
{
    static const char *const texts[] = {
        "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<|endoftext|>", "<|end_of_text|>",
        "<|end_of_turn|>", "<end_of_turn>", "<end_of_utterance>", "<|return|>", "<|call|>", "<EOT>",
    };
    if (!in_vocab(t, id))
        return false;
    if (id == t->eos || id == t->eot || id == t->eom)
        return true;
    size_t n;
    const char *p = vocab_piece(&t->vocab, (uint32_t)id, &n);
    for (size_t i = 0; i < ARRAY_LEN(texts) && t->vocab.type[id] == TOKEN_CONTROL; i++)
        if (strlen(texts[i]) == n && memcmp(texts[i], p, n) == 0)
            return true;
    return false;
}

int32_t tokenizer_find(const struct tokenizer *t, const char *text, size_t n)
{
    uint32_t id = vocab_find(&t->vocab, text, n, TYPES_ALL);
    return id == TOKEN_NONE ? -1 : (int32_t)id;
}
