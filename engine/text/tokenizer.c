// The tokenizer's doors: opens a vocabulary with its algorithm, cuts texts at special tokens, hands
// the rest to bpe.c or spm.c piece by piece, and answers questions about tokens.
#include "engine/text/tokenizer.h"
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include "base/base.h"
#include "base/str.h"
#include "engine/model/gguf.h"
#include "engine/text/bpe.h"
#include "engine/text/nfc.h"
#include "engine/text/pretok.h"
#include "engine/text/special.h"
#include "engine/text/spm.h"
#include "engine/text/utf8.h"
#include "engine/text/vocab.h"

#define KEY "tokenizer.ggml."
#define UNDERLINE "\xe2\x96\x81"        // U+2581, the SentencePiece space

struct tokenizer {
    struct vocab   vocab;
    struct special special;
    struct bpe     bpe;                 // VOCAB_BPE, with pretok
    struct pretok *pretok;              // owned
    bool           nfc;
    struct spm     spm;                 // VOCAB_SPM
    bool           add_space;           // before every run of text
    bool           add_bos;
    int32_t        bos, eos, eot, eom;  // -1: none
};

// ---- lists of tokens -----------------------------------------------------------------------------

static int tokens_reserve(struct tokens *t, size_t more)
{
    size_t need, bytes;
    if (!add_size(t->n, more, &need))
        return -ENOMEM;
    if (need <= t->cap)
        return 0;
    size_t cap = MAX(MAX(need, t->cap + t->cap / 2), (size_t)64);
    if (!mul_size(cap, sizeof(*t->id), &bytes))
        return -ENOMEM;
    int32_t *id = realloc(t->id, bytes);
    if (!id)
        return -ENOMEM;
    t->id = id;
    t->cap = cap;
    return 0;
}

int tokens_add(struct tokens *t, int32_t id)
{
    int r = t->n < t->cap ? 0 : tokens_reserve(t, 1);
    if (r == 0)
        t->id[t->n++] = id;
    return r;
}

void tokens_free(struct tokens *t)
{
    free(t->id);
    *t = (struct tokens){0};
}

// ---- opening -------------------------------------------------------------------------------------

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

static int read_flag(const struct gguf *g, const char *key, bool otherwise, bool *ret, struct err *err)
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

// ---- encoding ------------------------------------------------------------------------------------

#define SEEN_SLOTS 4096                 // of the piece cache, a power of two
#define SEEN_TEXT_MIN 1024              // bytes of text from which the cache pays
#define SEEN_PIECE_MAX 64               // bytes of a piece that is worth remembering

struct encoding {                       // one call of tokenizer_encode
    const struct tokenizer *t;
    struct tokens      *out;
    size_t              start;          // out->n at the beginning
    struct merge_work   work;
    struct pretok_scan *scan;           // VOCAB_BPE
    struct str          clean, nfc;     // the text with replacements, where there are any
    // Pieces seen before, by hash: where their tokens stand in out. The text of the tokens proves
    // that it is the same piece.
    struct seen { uint32_t hash, n_tokens; size_t at; } *seen;     // (SEEN_SLOTS) or NULL
};

// Repeats the tokens of a piece that was encoded before. Returns 1, 0 (not seen) or -ENOMEM.
static int repeat_seen(struct encoding *e, const struct seen *seen, const char *p, size_t n)
{
    for (uint32_t i = 0; i < seen->n_tokens; i++) {
        size_t k;
        const char *piece = vocab_piece(&e->t->vocab, (uint32_t)e->out->id[seen->at + i], &k);
        if (k > n || memcmp(piece, p, k) != 0)
            return 0;
        p += k;
        n -= k;
    }
    if (n)
        return 0;
    if (tokens_reserve(e->out, seen->n_tokens))
        return -ENOMEM;
    for (uint32_t i = 0; i < seen->n_tokens; i++)
        e->out->id[e->out->n++] = e->out->id[seen->at + i];
    return 1;
}

static int encode_piece(void *ctx, const char *p, size_t n)
{
    struct encoding *e = ctx;
    const struct tokenizer *t = e->t;
    struct seen *seen = NULL;
    uint32_t hash = 0;
    if (e->seen && n <= SEEN_PIECE_MAX) {
        hash = (uint32_t)text_hash(p, n, t->vocab.seed);
        seen = &e->seen[hash & (SEEN_SLOTS - 1)];
        int r = seen->hash == hash && seen->n_tokens ? repeat_seen(e, seen, p, n) : 0;
        if (r)
            return MIN(r, 0);
    }
    size_t at = e->out->n;
    int r = t->vocab.kind == VOCAB_BPE ? bpe_encode(&t->bpe, &e->work, p, n, e->out)
                                       : spm_encode(&t->spm, &e->work, p, n, e->out);
    if (seen)
        *seen = (struct seen){hash, (uint32_t)(e->out->n - at), at};
    return r;
}

// The length of the valid UTF-8 that p[0..n) begins with.
static size_t valid_prefix(const char *p, size_t n)
{
    size_t i = 0;
    while (i < n) {
        uint32_t c;
        size_t k = (uint8_t)p[i] < 0x80 ? 1 : utf8_decode(p + i, n - i, &c);
        if (k == 0)
            break;
        i += k;
    }
    return i;
}

static int encode_valid(struct encoding *e, const char *p, size_t n)
{
    if (e->t->nfc && nfc_may_change(p, n)) {
        str_clear(&e->nfc);
        nfc_add(p, n, &e->nfc);
        if (!str_ok(&e->nfc))
            return -ENOMEM;
        p = e->nfc.p;
        n = e->nfc.n;
    }
    return pretok_split(e->t->pretok, e->scan, p, n, encode_piece, e);
}

// Byte-level text: bytes that are no UTF-8 belong to no piece of the pre-tokenizer.
static int encode_bytes(struct encoding *e, const char *p, size_t n)
{
    int r = 0;
    while (n && r == 0) {
        size_t valid = valid_prefix(p, n), bad = 0;
        r = valid ? encode_valid(e, p, valid) : 0;
        while (r == 0 && valid + bad < n && valid_prefix(p + valid + bad, MIN(n - valid - bad, (size_t)4)) == 0)
            r = tokens_add(e->out, (int32_t)e->t->vocab.byte_id[(uint8_t)p[valid + bad++]]);
        p += valid + bad;
        n -= valid + bad;
    }
    return r;
}

static int encode_spaced(struct encoding *e, const char *p, size_t n)
{
    int r = 0;
    while (n && r == 0) {
        size_t k = spm_piece(&e->t->spm, p, n);
        r = encode_piece(e, p, k);
        p += k;
        n -= k;
    }
    return r;
}

// A run of text between special tokens.
static int encode_run(struct encoding *e, const char *p, size_t n)
{
    const struct tokenizer *t = e->t;
    // Without a token for every byte, what is no UTF-8 can only become U+FFFD.
    bool replace = !t->vocab.has_all_bytes && valid_prefix(p, n) < n;
    if (n && (t->add_space || replace)) {
        str_clear(&e->clean);
        if (t->add_space)
            str_putc(&e->clean, ' ');
        if (replace) {
            struct utf8_stream s = {0};
            utf8_push(&s, p, n, &e->clean);
            utf8_flush(&s, &e->clean);
        } else {
            str_add(&e->clean, p, n);
        }
        if (!str_ok(&e->clean))
            return -ENOMEM;
        p = e->clean.p;
        n = e->clean.n;
    }
    return t->vocab.kind == VOCAB_BPE ? encode_bytes(e, p, n) : encode_spaced(e, p, n);
}

static int encode_text(struct encoding *e, const struct special_text *text)
{
    struct special_match m;
    size_t from = 0;
    int r = 0;
    while (r == 0 && special_next(&e->t->special, text, from, &m)) {
        r = encode_run(e, text->p + from, m.at - from);
        if (r == 0)
            r = tokens_add(e->out, (int32_t)m.id);
        from = m.at + m.n;
    }
    return r ? r : encode_run(e, text->p + from, text->n - from);
}

// In SentencePiece vocabularies U+2581 is the space. Copies text with spaces in its place to `spaced`,
// and plain's marks to `marks`.
static int replace_underlines(struct special_text *text, struct str *spaced, struct str *marks)
{
    for (size_t i = 0; i < text->n;) {
        bool underline = text->n - i >= 3 && memcmp(text->p + i, UNDERLINE, 3) == 0;
        str_putc(spaced, underline ? ' ' : text->p[i]);
        if (text->plain)
            str_putc(marks, (char)text->plain[i]);
        i += underline ? 3 : 1;
    }
    if (!str_ok(spaced) || !str_ok(marks))
        return -ENOMEM;
    text->p = spaced->p;
    text->n = spaced->n;
    text->plain = text->plain ? (const uint8_t *)marks->p : NULL;
    return 0;
}

static int encode_all(struct encoding *e, struct special_text text, bool bos)
{
    struct str spaced = {0}, marks = {0};
    const struct tokenizer *t = e->t;
    int r = 0;
    if (t->vocab.kind == VOCAB_BPE && !(e->scan = pretok_scan_create(t->pretok)))
        r = -ENOMEM;
    if (text.n >= SEEN_TEXT_MIN && !(e->seen = calloc(SEEN_SLOTS, sizeof(*e->seen))))
        r = -ENOMEM;
    if (r == 0 && bos)
        r = tokens_add(e->out, t->bos);
    if (r == 0 && t->vocab.kind == VOCAB_SPM && memmem(text.p, text.n, UNDERLINE, 3))
        r = replace_underlines(&text, &spaced, &marks);
    if (r == 0)
        r = encode_text(e, &text);
    str_free(&spaced);
    str_free(&marks);
    return r;
}

int tokenizer_encode(const struct tokenizer *t, const char *text, size_t n, const uint8_t *plain,
                     unsigned flags, struct tokens *out, struct err *err)
{
    struct encoding e = {.t = t, .out = out, .start = out->n};
    bool bos = flags & TOKENIZE_BOS && t->add_bos;
    struct special_text in = {n ? text : "", n, plain, flags & TOKENIZE_SPECIAL};
    int r = encode_all(&e, in, bos);
    if (r == 0 && bos && out->n - e.start >= 2 && out->id[e.start + 1] == t->bos) {
        out->n--;                       // the text brought its own
        memmove(&out->id[e.start], &out->id[e.start + 1], (out->n - e.start) * sizeof(*out->id));
    }
    free(e.seen);
    pretok_scan_destroy(e.scan);
    merge_free(&e.work);
    str_free(&e.clean);
    str_free(&e.nfc);
    if (r == 0)
        return 0;
    out->n = e.start;
    return err_set(err, r, "tokenizer: no memory for a text of %zu bytes", n);
}

// ---- questions -----------------------------------------------------------------------------------

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
