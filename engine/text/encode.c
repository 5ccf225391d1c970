// Encoding: a text is cut at special tokens, the rest goes to bpe.c or spm.c piece by piece.
#include "engine/text/tokenizer_impl.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "base/base.h"
#include "base/str.h"
#include "engine/text/nfc.h"
#include "engine/text/utf8.h"

#define UNDERLINE "\xe2\x96\x81"        // U+2581, the SentencePiece space
#define SEEN_SLOTS 4096                 // of the piece cache, a power of two
#define SEEN_TEXT_MIN 1024              // bytes of text from which the cache pays
#define SEEN_PIECE_MAX 64               // bytes of a piece that is worth remembering

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

struct encoding {                       // one call of tokenizer_encode
    const struct tokenizer *t;
    struct tokens      *out;
    size_t              start;          // out->n at the beginning
    bool                goes_on;        // the next run is no beginning
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
    for (size_t valid; n && r == 0; p += valid, n -= valid) {
        valid = valid_prefix(p, n);
        if (valid) {
            r = encode_valid(e, p, valid);
        } else {
            r = tokens_add(e->out, (int32_t)e->t->vocab.byte_id[(uint8_t)p[0]]);
            valid = 1;
        }
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
    bool space = t->add_space && !e->goes_on;
    e->goes_on = false;
    if (n && (space || replace)) {
        str_clear(&e->clean);
        if (space)
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

// In SentencePiece vocabularies U+2581 is the space. Copies the text with spaces in its place to
// `spaced`, and the marks of plain to `marks`.
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
    struct encoding e = {.t = t, .out = out, .start = out->n,
                         .goes_on = flags & TOKENIZE_GOES_ON};
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
