// Reads tokens, their types and their pieces, and finds tokens by piece.
#include "engine/text/vocab.h"
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include "base/base.h"
#include "base/hash.h"
#include "engine/limits.h"
#include "engine/model/gguf.h"
#include "engine/text/utf8.h"

#define KEY_TOKENS "tokenizer.ggml.tokens"
#define KEY_TYPES "tokenizer.ggml.token_type"

// The bytes that byte-level vocabularies write as the character of the same number; the others are
// numbered from U+0100 upwards, in order.
static bool byte_is_itself(uint32_t b)
{
    return (b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b <= 0xac) || (b >= 0xae && b <= 0xff);
}

static int byte_of_character(uint32_t c)
{
    if (c < 256)
        return byte_is_itself(c) ? (int)c : -1;
    // The k-th byte that is not itself: 0..0x20, 0x7f..0xa0, 0xad.
    uint32_t k = c - 256;
    return k <= 0x20 ? (int)k : k <= 0x42 ? (int)(k - 0x21 + 0x7f) : k == 0x43 ? 0xad : -1;
}

long byte_level_decode(const char *p, size_t n, char *dst)
{
    long len = 0;
    for (size_t i = 0; i < n;) {
        uint32_t c;
        size_t k = utf8_decode(p + i, n - i, &c);
        int byte = k ? byte_of_character(c) : -1;
        if (byte < 0)
            return -1;
        dst[len++] = (char)byte;
        i += k;
    }
    return len;
}

// "<0x0A>" to 10, or -1.
static int byte_token(const char *p, size_t n)
{
    int value = 0;
    if (n != 6 || memcmp(p, "<0x", 3) != 0 || p[5] != '>')
        return -1;
    for (size_t i = 3; i < 5; i++) {
        char c = p[i];
        int digit = c >= '0' && c <= '9'   ? c - '0'
                    : c >= 'A' && c <= 'F' ? c - 'A' + 10
                    : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                           : -1;
        if (digit < 0)
            return -1;
        value = value * 16 + digit;
    }
    return value;
}

static size_t spaces_decode(const char *p, size_t n, char *dst)
{
    size_t len = 0;
    for (size_t i = 0; i < n;) {
        bool space = n - i >= 3 && memcmp(p + i, "\xe2\x96\x81", 3) == 0;
        dst[len++] = space ? ' ' : p[i];
        i += space ? 3 : 1;
    }
    return len;
}

// Writes the piece of a token with text s to dst (s.n bytes). Returns its length, -1 if damaged.
static long decode_piece(enum vocab_kind kind, enum token_type type, struct gguf_str s, char *dst)
{
    if (type == TOKEN_BYTE) {
        int b = byte_token(s.p, s.n);
        if (b < 0)
            return -1;
        dst[0] = (char)b;
        return 1;
    }
    if (kind == VOCAB_SPM && (type == TOKEN_NORMAL || type == TOKEN_USER_DEFINED))
        return (long)spaces_decode(s.p, s.n, dst);
    long n = kind == VOCAB_BPE && type == TOKEN_NORMAL ? byte_level_decode(s.p, s.n, dst) : -1;
    if (n >= 0)
        return n;
    if (s.n)                            // added tokens are written as they are
        memcpy(dst, s.p, s.n);
    return (long)s.n;
}

static int read_types(struct vocab *v, const struct gguf *g, struct err *err)
{
    struct gguf_array types;
    int r = gguf_get_array(g, KEY_TYPES, &types, err);
    if (r == -ENOENT) {
        memset(v->type, TOKEN_NORMAL, v->n);
        return 0;
    }
    if (r)
        return r;
    if (types.n != v->n)
        return err_set(err, -EINVAL, KEY_TYPES ": %zu types for %" PRIu32 " tokens", types.n, v->n);
    if (types.type == GGUF_STRING || types.type == GGUF_F32 || types.type == GGUF_F64)
        return err_set(err, -EINVAL, KEY_TYPES ": not integers");
    for (uint32_t i = 0; i < v->n; i++) {
        int64_t type = gguf_array_int(&types, i);
        if (type < TOKEN_NORMAL || type > TOKEN_BYTE)
            return err_set(err, -EINVAL, KEY_TYPES ": token %" PRIu32 ": type %" PRId64, i, type);
        v->type[i] = (uint8_t)type;
    }
    return 0;
}

static int read_pieces(struct vocab *v, const struct gguf_array *tokens, struct err *err)
{
    size_t total = 0;
    for (uint32_t i = 0; i < v->n; i++) {
        if (tokens->str[i].n > TOKEN_BYTES_MAX)
            return err_set(err, -EINVAL, KEY_TOKENS ": token %" PRIu32 ": %zu bytes, at most %d", i,
                           tokens->str[i].n, TOKEN_BYTES_MAX);
        total += tokens->str[i].n;      // < VOCAB_MAX * TOKEN_BYTES_MAX
    }
    if (total > VOCAB_BYTES_MAX)
        return err_set(err, -EINVAL, KEY_TOKENS ": %zu bytes of text, at most %u", total,
                       VOCAB_BYTES_MAX);
    v->bytes = malloc(total + 1);
    if (!v->bytes)
        return err_set(err, -ENOMEM, "vocabulary: no memory for %zu bytes", total);
    uint32_t at = 0;
    for (uint32_t i = 0; i < v->n; i++) {
        v->at[i] = at;
        long n = decode_piece(v->kind, v->type[i], tokens->str[i], v->bytes + at);
        if (n < 0)
            return err_set(err, -EINVAL, KEY_TOKENS ": token %" PRIu32 ": not a byte as <0x00>", i);
        at += (uint32_t)n;
    }
    v->at[v->n] = at;
    return 0;
}

static void index_pieces(struct vocab *v)
{
    for (uint32_t id = 0; id < v->n; id++) {
        size_t n;
        const char *p = vocab_piece(v, id, &n);
        if (n == 0 || v->type[id] == TOKEN_BYTE)
            continue;
        uint32_t hash = (uint32_t)text_hash(p, n, v->seed), i = hash & (v->n_slots - 1);
        while (v->slot[i].id1)
            i = (i + 1) & (v->n_slots - 1);
        v->slot[i] = (struct vocab_slot){hash, id + 1};
    }
}

static void index_bytes(struct vocab *v)
{
    for (unsigned b = 0; b < 256; b++) {
        char c = (char)b;
        bool in_text = v->kind == VOCAB_BPE;
        v->byte_id[b] = in_text ? vocab_find(v, &c, 1, TYPE(TOKEN_NORMAL)) : TOKEN_NONE;
    }
    for (uint32_t id = 0; id < v->n; id++) {
        uint8_t b = (uint8_t)v->bytes[v->at[id]];
        if (v->type[id] == TOKEN_BYTE && v->byte_id[b] == TOKEN_NONE)
            v->byte_id[b] = id;
    }
    v->has_all_bytes = true;
    for (unsigned b = 0; b < 256; b++)
        v->has_all_bytes &= v->byte_id[b] != TOKEN_NONE;
}

uint32_t vocab_find(const struct vocab *v, const char *p, size_t n, unsigned types)
{
    if (n == 0)
        return TOKEN_NONE;
    uint32_t hash = (uint32_t)text_hash(p, n, v->seed), i = hash & (v->n_slots - 1);
    for (; v->slot[i].id1; i = (i + 1) & (v->n_slots - 1)) {
        uint32_t id = v->slot[i].id1 - 1;
        if (v->slot[i].hash == hash && v->at[id + 1] - v->at[id] == n &&
            types & TYPE(v->type[id]) && memcmp(v->bytes + v->at[id], p, n) == 0)
            return id;
    }
    return TOKEN_NONE;
}

int vocab_init(struct vocab *v, enum vocab_kind kind, const struct gguf *g, struct err *err)
{
    struct gguf_array tokens;
    int r = gguf_get_array(g, KEY_TOKENS, &tokens, err);
    if (r == -ENOENT)
        return err_set(err, -EINVAL, KEY_TOKENS ": missing");
    if (r)
        return r;
    if (tokens.type != GGUF_STRING)
        return err_set(err, -EINVAL, KEY_TOKENS ": not strings");
    if (tokens.n == 0 || tokens.n > VOCAB_MAX)
        return err_set(err, -EINVAL, KEY_TOKENS ": %zu tokens, 1 to %u are possible", tokens.n,
                       VOCAB_MAX);
    struct vocab new = {.kind = kind, .n = (uint32_t)tokens.n, .n_slots = 64};
    while (new.n_slots < new.n * 2)
        new.n_slots *= 2;
    random_bytes(&new.seed, sizeof(new.seed));
    new.at = calloc((size_t)new.n + 1, sizeof(*new.at));
    new.type = calloc(new.n, sizeof(*new.type));
    new.slot = calloc(new.n_slots, sizeof(*new.slot));
    r = new.at && new.type && new.slot ? 0 : err_set(err, -ENOMEM, "vocabulary: no memory");
    if (r == 0)
        r = read_types(&new, g, err);
    if (r == 0)
        r = read_pieces(&new, &tokens, err);
    if (r) {
        vocab_finish(&new);
        return r;
    }
    index_pieces(&new);
    index_bytes(&new);
    *v = new;
    return 0;
}

void vocab_finish(struct vocab *v)
{
    free(v->at);
    free(v->bytes);
    free(v->type);
    free(v->slot);
    *v = (struct vocab){0};
}
