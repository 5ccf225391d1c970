// Protects the tokenizers: equal to the reference library on the texts of golden/tokenizer.txt,
// exact round trips, control tokens that stay plain text, damaged vocabularies refused.
#include "tests/test.h"
#include <errno.h>
#include "base/base.h"
#include "base/str.h"
#include "engine/model/gguf.h"
#include "engine/text/nfc.h"
#include "engine/text/pretok.h"
#include "engine/text/tokenizer.h"
#include "engine/text/utf8.h"

TEST_MAIN

static const struct { const char *name, *file; } models[] = {
    {"smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"},
    {"gemma3", "gemma-3-270m-q4_k_m.gguf"},
    {"qwen2", "qwen2.5-coder-0.5b-instruct.gguf"},
};
enum { SMOLLM2, GEMMA3, QWEN2 };

// The tokenizer of a model, opened once for the whole program.
static struct tokenizer *open_model(size_t i)
{
    static struct tokenizer *opened[ARRAY_LEN(models)];
    char path[4096];
    struct err err = {0};
    struct gguf *g;
    if (opened[i])
        return opened[i];
    if (!test_model(models[i].file, path, sizeof(path)))
        SKIP("no %s", models[i].file);
    REQUIRE_OK(gguf_open(&g, path, &err), err);
    REQUIRE_OK(tokenizer_open(&opened[i], g, &err), err);
    gguf_close(g);                      // nothing may be borrowed from the file
    return opened[i];
}

static struct tokens encode(const struct tokenizer *t, const char *p, size_t n,
                            const uint8_t *plain, unsigned flags)
{
    struct tokens ids = {0};
    struct err err = {0};
    REQUIRE_OK(tokenizer_encode(t, p, n, plain, flags, &ids, &err), err);
    return ids;
}

static struct str decode(const struct tokenizer *t, const struct tokens *ids)
{
    struct str out = {0};
    for (size_t i = 0; i < ids->n; i++) {
        size_t n;
        const char *p = tokenizer_piece(t, ids->id[i], true, &n);
        str_add(&out, p, n);
    }
    return out;
}

static bool same_bytes(const struct str *a, const struct str *b)
{
    return a->n == b->n && (a->n == 0 || memcmp(a->p, b->p, a->n) == 0);
}

// ---- what a text must come back as ----------------------------------------------------------

static size_t valid_prefix(const char *p, size_t n)
{
    size_t i = 0, k;
    uint32_t c;
    while (i < n && (k = utf8_decode(p + i, n - i, &c)))
        i += k;
    return i;
}

static void expect_qwen2(const char *p, size_t n, struct str *out)
{
    for (size_t i = 0; i < n;) {
        size_t k = valid_prefix(p + i, n - i);
        if (k)
            nfc_add(p + i, k, out);
        else
            str_add(out, p + i, k = 1);
        i += k;
    }
}

static void expect_gemma3(const char *p, size_t n, struct str *out)
{
    for (size_t i = 0; i < n;) {
        bool space = n - i >= 3 && memcmp(p + i, "\xe2\x96\x81", 3) == 0;
        str_putc(out, space ? ' ' : p[i]);
        i += space ? 3 : 1;
    }
}

// SmolLM2 has no tokens for 21 bytes.
static void expect_smollm2(const struct tokenizer *t, const char *p, size_t n, struct str *out)
{
    struct str valid = {0};
    struct utf8_stream s = {0};
    utf8_push(&s, p, n, &valid);
    utf8_flush(&s, &valid);
    for (size_t i = 0; i < valid.n; i++)
        if (tokenizer_find(t, valid.p + i, 1) >= 0)
            str_putc(out, valid.p[i]);
    str_free(&valid);
}

static struct str expected(size_t model, const char *p, size_t n)
{
    struct str out = {0};
    if (model == SMOLLM2)
        expect_smollm2(open_model(model), p, n, &out);
    else if (model == GEMMA3)
        expect_gemma3(p, n, &out);
    else
        expect_qwen2(p, n, &out);
    return out;
}

static void require_round_trip(size_t model, const char *p, size_t n, unsigned flags)
{
    const struct tokenizer *t = open_model(model);
    struct tokens ids = encode(t, p, n, NULL, flags);
    struct str got = decode(t, &ids), want = expected(model, p, n);
    if (!same_bytes(&got, &want))
        TEST_FAIL("%s: \"%.*s\" came back as \"%.*s\"", models[model].name, (int)n, p, (int)got.n,
                  got.n ? got.p : "");
    str_free(&got);
    str_free(&want);
    tokens_free(&ids);
}

// ---- the golden file ------------------------------------------------------------------------

struct golden {                         // the text that lines speak about
    struct str text;
    unsigned   line, times;
    unsigned   compared;
};

static unsigned hex(char c)
{
    return (unsigned)(c <= '9' ? c - '0' : c - 'a' + 10);
}

static void unescape(const char *p, unsigned times, struct str *out)
{
    struct str one = {0};
    for (; *p; p++) {
        if (p[0] == '\\' && p[1] == 'x') {
            str_putc(&one, (char)(hex(p[2]) << 4 | hex(p[3])));
            p += 3;
        } else {
            str_putc(&one, *p == '\\' ? *++p : *p);
        }
    }
    str_clear(out);
    for (unsigned i = 0; i < times; i++)
        str_add(out, one.p, one.n);
    str_free(&one);
}

static void check_ids(struct golden *g, const char *mode, const char *name, char *numbers)
{
    size_t model = 0, i = 0;
    while (strcmp(models[model].name, name) != 0)
        REQUIRE(++model < ARRAY_LEN(models));
    const struct tokenizer *t = open_model(model);
    unsigned first = strcmp(mode, "special") == 0, last = strcmp(mode, "plain") != 0;
    for (unsigned flags = first; flags <= last; flags++) {
        struct tokens ids = encode(t, g->text.p, g->text.n, NULL, flags);
        char *p = numbers, *end;
        for (i = 0;; i++, p = end) {
            long id = strtol(p, &end, 10);
            if (end == p)
                break;
            if (i >= ids.n || ids.id[i] != id)
                TEST_FAIL("golden line %u, %s %s: token %zu is %d, not %ld", g->line, mode, name, i,
                          i < ids.n ? (int)ids.id[i] : -1, id);
        }
        REQUIRE_INT(ids.n, i);
        tokens_free(&ids);
        require_round_trip(model, g->text.n ? g->text.p : "", g->text.n, flags);
    }
}

struct sizes { char *next; unsigned line; };

static int check_piece(void *ctx, const char *p, size_t n)
{
    struct sizes *s = ctx;
    (void)p;
    REQUIRE_INT(n, strtol(s->next, &s->next, 10));
    return 0;
}

static void check_pieces(struct golden *g, const char *name, char *numbers)
{
    struct pretok *p;
    struct err err = {0};
    struct sizes sizes = {numbers, g->line};
    const struct pretok_row *row = pretok_row(name, strlen(name));
    REQUIRE(row);
    REQUIRE_OK(pretok_open(&p, row, &err), err);
    struct pretok_scan *scan = pretok_scan_create(p);
    REQUIRE(scan);
    REQUIRE_INT(pretok_split(p, scan, g->text.p, g->text.n, check_piece, &sizes), 0);
    REQUIRE_INT(*sizes.next, '\0');
    pretok_scan_destroy(scan);
    pretok_close(p);
}

static void check_nfc(struct golden *g, const char *escaped)
{
    struct str want = {0}, got = {0};
    unescape(escaped, g->times, &want);
    nfc_add(g->text.p, g->text.n, &got);
    REQUIRE(same_bytes(&got, &want));
    REQUIRE(nfc_may_change(g->text.p, g->text.n));
    str_free(&want);
    str_free(&got);
}

static void check_line(struct golden *g, char *line)
{
    char *rest = line + strcspn(line, " ");
    *rest++ = '\0';
    if (strcmp(line, "text") == 0) {
        g->times = (unsigned)strtoul(rest, &rest, 10);
        unescape(rest + 1, g->times, &g->text);
        return;
    }
    if (strcmp(line, "nfc") == 0) {
        check_nfc(g, rest);
        return;
    }
    char *numbers = rest + strcspn(rest, " ");
    *numbers++ = '\0';
    if (strcmp(line, "pieces") == 0)
        check_pieces(g, rest, numbers);
    else
        check_ids(g, line, rest, numbers);
    g->compared++;
}

TEST(golden)
{
    struct golden g = {0};
    char path[4096], *line = NULL;
    size_t cap = 0;
    snprintf(path, sizeof(path), "%s/tests/golden/tokenizer.txt", getenv("GODWIT_SOURCE"));
    FILE *f = fopen(path, "r");
    REQUIRE(f);
    for (size_t i = 0; i < ARRAY_LEN(models); i++)
        open_model(i);
    for (ssize_t n; (n = getline(&line, &cap, f)) > 0;) {
        g.line++;
        if (line[n - 1] == '\n')
            line[n - 1] = '\0';
        if (line[0] != '#')
            check_line(&g, line);
    }
    REQUIRE(g.compared > 600);
    free(line);
    str_free(&g.text);
    fclose(f);
}

// ---- round trips ----------------------------------------------------------------------------

static uint64_t next_random(uint64_t *seed)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    return *seed;
}

static const char *const fragments[] = {
    "a", "the ", " of", "  ", "\n", "\r\n", "\t", "'s", "12", "x = y;", "\xc3\xa9", "\xe6\xbc\xa2",
    "e\xcc\x81", "\xf0\x9f\x91\xa9\xe2\x80\x8d\xf0\x9f\x91\xa7", "\xd7\xa9", "\xff", "\x80", "\xc3",
    "\xf0\x9f", "\xf4\x90\x80\x80", "\xed\xa0\x80", "\xc0\xaf", "\xe2\x96\x81", "<|im_start|>",
    "<|im_end|>", "<bos>", "<end_of_turn>", "</s>", "<b>", "<tool_call>", "<|", "|>", "<unused",
    "\xcc\xa7\xcc\xa3",
};

static void random_round_trips(size_t model)
{
    uint64_t seed = 42 + model;
    open_model(model);
    for (int round = 0; round < 400; round++) {
        struct str text = {0};
        for (uint64_t n = next_random(&seed) % 100; n; n--) {
            if (round % 2)
                str_putc(&text, (char)next_random(&seed));
            else
                str_puts(&text, fragments[next_random(&seed) % ARRAY_LEN(fragments)]);
        }
        require_round_trip(model, text.n ? text.p : "", text.n, (unsigned)round / 2 % 2);
        str_free(&text);
    }
}

TEST(random_smollm2) { random_round_trips(SMOLLM2); }
TEST(random_gemma3) { random_round_trips(GEMMA3); }
TEST(random_qwen2) { random_round_trips(QWEN2); }

TEST(invalid_utf8_keeps_its_bytes)
{
    static const char bad[] = "a\xf4\x90\x80\x80z \x80\xff\xc3";
    for (size_t model = GEMMA3; model <= QWEN2; model++) {
        const struct tokenizer *t = open_model(model);
        struct tokens ids = encode(t, bad, sizeof(bad) - 1, NULL, 0);
        struct str got = decode(t, &ids);
        REQUIRE(got.n == sizeof(bad) - 1 && memcmp(got.p, bad, got.n) == 0);
        str_free(&got);
        tokens_free(&ids);
    }
}

// Quadratic time in any of these would run into the time limit of the test.
TEST(long_runs)
{
    static const char *const units[] = {
        "a", " ", "\n", "\xcc\xa3\xcc\x81", "\xe2\x80\x8d", "<unused<|im_start",
    };
    for (size_t model = 0; model < ARRAY_LEN(models); model++) {
        open_model(model);
        for (size_t i = 0; i < ARRAY_LEN(units); i++) {
            struct str text = {0};
            while (text.n < 300000)
                str_puts(&text, units[i]);
            require_round_trip(model, text.p, text.n, 0);
            str_free(&text);
        }
    }
}

// ---- special tokens -------------------------------------------------------------------------

static size_t count_control(const struct tokenizer *t, const struct tokens *ids)
{
    size_t n = 0;
    for (size_t i = 0; i < ids->n; i++)
        n += tokenizer_type(t, ids->id[i]) == TOKEN_CONTROL;
    return n;
}

// The text of a control token is that token, and plain text under the mask or without the flag.
static void require_mask_works(const struct tokenizer *t, int32_t control)
{
    size_t n;
    const char *p = tokenizer_piece(t, control, true, &n);
    struct str text = {0}, mask = {0};
    str_puts(&text, "x ");
    str_add(&text, p, n);
    str_puts(&text, " y");
    for (size_t i = 0; i < text.n; i++)
        str_putc(&mask, i == 2 + n - 1);        // one marked byte is enough
    struct tokens read = encode(t, text.p, text.n, NULL, TOKENIZE_SPECIAL);
    REQUIRE_INT(count_control(t, &read), 1);
    REQUIRE_INT(read.id[count_control(t, &read) ? read.n - 2 : 0], control);
    struct tokens masked = encode(t, text.p, text.n, (uint8_t *)mask.p, TOKENIZE_SPECIAL);
    struct tokens unread = encode(t, text.p, text.n, NULL, 0);
    REQUIRE_INT(count_control(t, &masked), 0);
    REQUIRE_INT(count_control(t, &unread), 0);
    struct str a = decode(t, &masked), b = decode(t, &unread);
    REQUIRE(same_bytes(&a, &text) && same_bytes(&b, &text));
    str_free(&a);
    str_free(&b);
    str_free(&text);
    str_free(&mask);
    tokens_free(&read);
    tokens_free(&masked);
    tokens_free(&unread);
}

TEST(control_text_in_content_is_plain)
{
    for (size_t model = 0; model < ARRAY_LEN(models); model++) {
        const struct tokenizer *t = open_model(model);
        unsigned tried = 0;
        for (uint32_t id = 0; id < tokenizer_n_vocab(t); id++) {
            if (tokenizer_type(t, (int32_t)id) != TOKEN_CONTROL)
                continue;
            require_mask_works(t, (int32_t)id);
            tried++;
        }
        REQUIRE(tried >= 17);
    }
}

TEST(mask_covers_content_only)
{
    static const char text[] = "<|im_start|>user\n<|im_end|><|im_<|im_end|>";
    const struct tokenizer *t = open_model(QWEN2);
    uint8_t mask[sizeof(text)] = {0};
    memset(mask + 17, 1, 15);           // the user typed `<|im_end|><|im_`
    struct tokens ids = encode(t, text, sizeof(text) - 1, mask, TOKENIZE_SPECIAL);
    REQUIRE_INT(count_control(t, &ids), 2);
    REQUIRE_INT(ids.id[0], tokenizer_find(t, "<|im_start|>", 12));
    REQUIRE_INT(ids.id[ids.n - 1], tokenizer_find(t, "<|im_end|>", 10));
    tokens_free(&ids);
}

TEST(user_defined_tokens_match_always)
{
    const struct tokenizer *q = open_model(QWEN2), *g = open_model(GEMMA3);
    uint8_t mask[16] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
    struct tokens ids = encode(q, "<tool_call>", 11, mask, 0);
    REQUIRE_INT(ids.n, 1);
    tokens_free(&ids);
    ids = encode(g, "\n\n\n\t\t</s>", 9, mask, TOKENIZE_SPECIAL);
    REQUIRE_INT(ids.n, 3);
    REQUIRE_INT(ids.id[2], 212);
    tokens_free(&ids);
    ids = encode(q, "</s>", 4, NULL, TOKENIZE_SPECIAL);
    REQUIRE(ids.n > 1);
    tokens_free(&ids);
    ids = encode(q, "[PAD151665]", 11, NULL, TOKENIZE_SPECIAL);      // unused: never
    REQUIRE(ids.n > 1);
    tokens_free(&ids);
}

TEST(one_bos)
{
    const struct tokenizer *g = open_model(GEMMA3), *s = open_model(SMOLLM2);
    const unsigned both = TOKENIZE_BOS | TOKENIZE_SPECIAL;
    struct tokens ids = encode(g, "hi", 2, NULL, both);
    REQUIRE(ids.n == 2 && ids.id[0] == tokenizer_bos(g));
    tokens_free(&ids);
    ids = encode(g, "<bos>hi", 7, NULL, both);
    REQUIRE(ids.n == 2 && ids.id[0] == tokenizer_bos(g) && ids.id[1] != tokenizer_bos(g));
    tokens_free(&ids);
    ids = encode(g, "", 0, NULL, both);
    REQUIRE(ids.n == 1 && ids.id[0] == 2);
    tokens_free(&ids);
    ids = encode(s, "hi", 2, NULL, both);       // has one, adds none
    REQUIRE(ids.n == 1 && tokenizer_bos(s) == 1 && !tokenizer_adds_bos(s));
    tokens_free(&ids);
}

TEST(ends_and_pieces)
{
    size_t n;
    const struct tokenizer *q = open_model(QWEN2), *g = open_model(GEMMA3);
    REQUIRE(tokenizer_is_end(q, tokenizer_find(q, "<|im_end|>", 10)));
    REQUIRE(tokenizer_is_end(q, tokenizer_find(q, "<|endoftext|>", 13)));
    REQUIRE(!tokenizer_is_end(q, tokenizer_find(q, "<|im_start|>", 12)));
    REQUIRE(tokenizer_is_end(g, 1) && tokenizer_is_end(g, 106) && !tokenizer_is_end(g, 212));
    REQUIRE(!tokenizer_is_end(g, -1) && !tokenizer_is_end(g, INT32_MAX));
    tokenizer_piece(g, 106, false, &n);
    REQUIRE_INT(n, 0);
    tokenizer_piece(g, 106, true, &n);
    REQUIRE_INT(n, strlen("<end_of_turn>"));
    tokenizer_piece(g, -5, true, &n);
    REQUIRE_INT(n, 0);
    REQUIRE_INT(tokenizer_find(q, "<|no such|>", 11), -1);
}

// ---- small vocabularies made here -----------------------------------------------------------

struct kv { struct str bytes; uint64_t n; };

static void add_u32(struct str *s, uint32_t x) { str_add(s, &x, 4); }
static void add_u64(struct str *s, uint64_t x) { str_add(s, &x, 8); }

static void add_text(struct str *s, const char *p)
{
    add_u64(s, strlen(p));
    str_puts(s, p);
}

static void kv_key(struct kv *kv, const char *key, uint32_t type)
{
    char full[128];
    snprintf(full, sizeof(full), "tokenizer.ggml.%s", key);
    add_text(&kv->bytes, full);
    add_u32(&kv->bytes, type);
    kv->n++;
}

static void kv_text(struct kv *kv, const char *key, const char *value)
{
    kv_key(kv, key, 8);
    add_text(&kv->bytes, value);
}

static void kv_u32(struct kv *kv, const char *key, uint32_t value)
{
    kv_key(kv, key, 4);
    add_u32(&kv->bytes, value);
}

static void kv_texts(struct kv *kv, const char *key, const char *const *p, size_t n)
{
    kv_key(kv, key, 9);
    add_u32(&kv->bytes, 8);
    add_u64(&kv->bytes, n);
    for (size_t i = 0; i < n; i++)
        add_text(&kv->bytes, p[i]);
}

static void kv_words(struct kv *kv, const char *key, uint32_t type, const void *p, size_t n)
{
    kv_key(kv, key, 9);
    add_u32(&kv->bytes, type);
    add_u64(&kv->bytes, n);
    str_add(&kv->bytes, p, n * 4);
}

// Opens the vocabulary in kv and frees kv.
static int open_kv(struct kv *kv, struct tokenizer **t, struct err *err)
{
    struct gguf *g = NULL;
    struct str file = {0};
    str_puts(&file, "GGUF");
    add_u32(&file, 3);
    add_u64(&file, 0);
    add_u64(&file, kv->n);
    str_add(&file, kv->bytes.p, kv->bytes.n);
    int r = gguf_open_mem(&g, file.p, file.n, err);
    if (r == 0)
        r = tokenizer_open(t, g, err);
    gguf_close(g);
    str_free(&file);
    str_free(&kv->bytes);
    kv->n = 0;
    return r;
}

static const char *const abc[] = {"a", "b", "c", "ab", "abc", "bc", "<x>"};
static const char *const abc_merges[] = {"a b", "ab c"};
static const int32_t abc_types[] = {1, 1, 1, 1, 1, 1, 3};

static struct kv abc_vocabulary(const char *pre)
{
    struct kv kv = {0};
    kv_text(&kv, "model", "gpt2");
    kv_text(&kv, "pre", pre);
    kv_texts(&kv, "tokens", abc, 7);
    return kv;
}

// Status of opening what kv has, with the error's text holding `word`.
static void require_refused(struct kv kv, int status, const char *word)
{
    struct tokenizer *t = NULL;
    struct err err = {0};
    REQUIRE_INT(open_kv(&kv, &t, &err), status);
    REQUIRE(!t);
    if (!strstr(err.msg, word))
        TEST_FAIL("\"%s\" does not name %s", err.msg, word);
}

TEST(damaged_vocabularies_are_refused)
{
    static const char *const alien[] = {"a b", "a z"}, *const one[] = {"ab"};
    static const char *const no_byte[] = {"a \xe6\xbc\xa2"};
    static const int32_t few[] = {1, 1}, wild[] = {1, 1, 1, 1, 1, 1, 77};
    static const int32_t bytes[] = {1, 1, 1, 1, 1, 1, 6};
    struct kv kv = {0};
    require_refused(kv, -EINVAL, "model");
    kv_text(&kv, "model", "weird");
    require_refused(kv, -ENOTSUP, "weird");
    kv = abc_vocabulary("martian");
    kv_texts(&kv, "merges", abc_merges, 2);
    require_refused(kv, -ENOTSUP, "martian");
    require_refused(abc_vocabulary("gpt-2"), -EINVAL, "merges");
    kv = abc_vocabulary("gpt-2");
    kv_texts(&kv, "merges", alien, 2);
    require_refused(kv, -EINVAL, "merge 1");
    kv = abc_vocabulary("gpt-2");
    kv_texts(&kv, "merges", one, 1);
    require_refused(kv, -EINVAL, "merge 0");
    kv = abc_vocabulary("gpt-2");
    kv_texts(&kv, "merges", no_byte, 1);
    require_refused(kv, -EINVAL, "merge 0");
    kv = abc_vocabulary("gpt-2");
    kv_words(&kv, "token_type", 5, few, 2);
    require_refused(kv, -EINVAL, "token_type");
    kv = abc_vocabulary("gpt-2");
    kv_words(&kv, "token_type", 5, wild, 7);
    require_refused(kv, -EINVAL, "77");
    kv = abc_vocabulary("gpt-2");
    kv_words(&kv, "token_type", 5, bytes, 7);
    require_refused(kv, -EINVAL, "token 6");
    kv = abc_vocabulary("gpt-2");
    kv_texts(&kv, "merges", abc_merges, 2);
    kv_u32(&kv, "eos_token_id", 7);
    require_refused(kv, -EINVAL, "eos_token_id");
    kv = (struct kv){0};
    kv_text(&kv, "model", "gpt2");
    require_refused(kv, -EINVAL, "tokens");
    kv = (struct kv){0};
    kv_text(&kv, "model", "gpt2");
    kv_words(&kv, "tokens", 5, few, 2);
    require_refused(kv, -EINVAL, "tokens");
}

TEST(long_token_is_refused)
{
    char *text = malloc(5001);
    REQUIRE(text);
    memset(text, 'a', 5000);
    text[5000] = '\0';
    struct kv kv = {0};
    kv_text(&kv, "model", "gpt2");
    kv_texts(&kv, "tokens", (const char *const *)&text, 1);
    require_refused(kv, -EINVAL, "5000");
    free(text);
}

static void require_ids(const struct tokenizer *t, const char *text, unsigned flags, size_t n,
                        const int32_t *want)
{
    struct tokens ids = encode(t, text, strlen(text), NULL, flags);
    REQUIRE_INT(ids.n, n);
    for (size_t i = 0; i < n; i++)
        REQUIRE_INT(ids.id[i], want[i]);
    tokens_free(&ids);
}

TEST(ignore_merges)
{
    struct tokenizer *t;
    struct err err = {0};
    struct kv kv = abc_vocabulary("llama-bpe");
    kv_texts(&kv, "merges", abc_merges, 2);
    kv_words(&kv, "token_type", 5, abc_types, 7);
    kv_u32(&kv, "bos_token_id", 6);
    REQUIRE_OK(open_kv(&kv, &t, &err), err);
    require_ids(t, "bc", 0, 1, (int32_t[]){5});                 // a token, though no merge makes it
    require_ids(t, "abc", TOKENIZE_BOS, 2, (int32_t[]){6, 4});  // llama-bpe adds BOS unless told
    tokenizer_close(t);
    kv = abc_vocabulary("gpt-2");
    kv_texts(&kv, "merges", abc_merges, 2);
    REQUIRE_OK(open_kv(&kv, &t, &err), err);
    require_ids(t, "bc", TOKENIZE_BOS, 2, (int32_t[]){1, 2});
    REQUIRE_INT(tokenizer_type(t, 6), TOKEN_NORMAL);            // no types: all are normal
    tokenizer_close(t);
}

TEST(space_prefix)
{
    static const char *const tokens[] = {
        "<unk>", "<s>", "</s>", "<0x41>", "\xe2\x96\x81", "h", "i", "hi", "\xe2\x96\x81hi",
    };
    static const float scores[] = {0, 0, 0, 0, -4, -3, -2, -1, 0};
    static const int32_t types[] = {2, 3, 3, 6, 1, 1, 1, 1, 1};
    struct tokenizer *t;
    struct err err = {0};
    struct kv kv = {0};
    kv_text(&kv, "model", "llama");
    kv_texts(&kv, "tokens", tokens, 9);
    kv_words(&kv, "scores", 6, scores, 9);
    kv_words(&kv, "token_type", 5, types, 9);
    kv_u32(&kv, "bos_token_id", 1);
    kv_u32(&kv, "unknown_token_id", 0);
    REQUIRE_OK(open_kv(&kv, &t, &err), err);
    REQUIRE(tokenizer_adds_space(t) && tokenizer_adds_bos(t));
    require_ids(t, "hi", TOKENIZE_BOS, 2, (int32_t[]){1, 8});
    require_ids(t, " hi", 0, 2, (int32_t[]){4, 8});
    require_ids(t, "hi</s>hi", TOKENIZE_SPECIAL, 3, (int32_t[]){8, 2, 8});
    require_ids(t, "hi", TOKENIZE_GOES_ON, 1, (int32_t[]){7});
    require_ids(t, "hi</s>hi", TOKENIZE_GOES_ON | TOKENIZE_SPECIAL, 3, (int32_t[]){7, 2, 8});
    require_ids(t, "A", 0, 2, (int32_t[]){4, 3});
    require_ids(t, "iZZi", 0, 4, (int32_t[]){4, 6, 0, 6});      // unknown characters fuse
    require_ids(t, "", 0, 0, NULL);
    tokenizer_close(t);
}

TEST(failure_leaves_the_list_alone)
{
    const struct tokenizer *t = open_model(GEMMA3);
    struct tokens ids = {0};
    struct err err = {0};
    REQUIRE_INT(tokens_add(&ids, 7), 0);
    REQUIRE_OK(tokenizer_encode(t, "hi", 2, NULL, TOKENIZE_BOS, &ids, &err), err);
    REQUIRE(ids.n == 3 && ids.id[0] == 7 && ids.id[1] == 2);    // BOS after what was there
    tokens_free(&ids);
}
