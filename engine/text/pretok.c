// The table of pre-tokenizers, run by PCRE2 (JIT where the system allows it).
#include "engine/text/pretok.h"
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include "base/base.h"

// White space as Unicode has it: PCRE2's \s also takes U+180E, which has not been one since 6.3.
#define WS "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}" \
           "\\x{202f}\\x{205f}\\x{3000}"
#define SPACES "[" WS "]+(?![^" WS "])|[" WS "]+"

#define GPT2 "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^" WS "\\p{L}\\p{N}]+|" SPACES
#define DIGIT "\\p{N}"
// digits is how many may stand together.
#define GPT4(digits) \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" digits \
    "| ?[^" WS "\\p{L}\\p{N}]+[\\r\\n]*|[" WS "]*[\\r\\n]+|" SPACES

static const struct pretok_row rows[] = {
    {.name = "gpt-2", .stage = {GPT2}},
    {.name = "default", .stage = {GPT2}},
    {.name = "smollm", .stage = {DIGIT, GPT2}},
    {.name = "qwen2", .stage = {GPT4("\\p{N}")}, .nfc = true},
    {.name = "llama-bpe", .stage = {GPT4("\\p{N}{1,3}")}, .ignore_merges = true, .add_bos = true},
    {.name = "llama3", .stage = {GPT4("\\p{N}{1,3}")}, .ignore_merges = true, .add_bos = true},
};

struct pretok {
    pcre2_code *stage[PRETOK_STAGES_MAX];
    bool        jit[PRETOK_STAGES_MAX];
    int         n_stages;
};

struct pretok_scan {
    pcre2_match_data    *match;
    pcre2_match_context *limits;
};

const struct pretok_row *pretok_row(const char *name, size_t n)
{
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        if (strlen(rows[i].name) == n && memcmp(rows[i].name, name, n) == 0)
            return &rows[i];
    return NULL;
}

int pretok_open(struct pretok **ret, const struct pretok_row *row, struct err *err)
{
    int r = 0;
    struct pretok *p = calloc(1, sizeof(*p));
    if (!p)
        return err_set(err, -ENOMEM, "pre-tokenizer: no memory");
    for (int i = 0; i < PRETOK_STAGES_MAX && row->stage[i]; i++, p->n_stages++) {
        int code;
        size_t at;
        p->stage[i] = pcre2_compile((PCRE2_SPTR)row->stage[i], PCRE2_ZERO_TERMINATED,
                                    PCRE2_UTF | PCRE2_UCP, &code, &at, NULL);
        if (!p->stage[i]) {
            r = err_set(err, -ENOTSUP, "pre-tokenizer %s: PCRE2 error %d at %zu", row->name, code,
                        at);
            goto fail;
        }
        // Where executable memory is forbidden, it is interpreted: slower, the same pieces.
        p->jit[i] = pcre2_jit_compile(p->stage[i], PCRE2_JIT_COMPLETE) == 0;
    }
    *ret = p;
    return 0;
fail:
    pretok_close(p);
    return r;
}

void pretok_close(struct pretok *p)
{
    if (!p)
        return;
    for (int i = 0; i < PRETOK_STAGES_MAX; i++)
        pcre2_code_free(p->stage[i]);
    free(p);
}

struct pretok_scan *pretok_scan_create(const struct pretok *p)
{
    struct pretok_scan *s = calloc(1, sizeof(*s));
    if (!s)
        return NULL;
    s->match = pcre2_match_data_create_from_pattern(p->stage[0], NULL);
    s->limits = pcre2_match_context_create(NULL);
    if (!s->match || !s->limits) {
        pretok_scan_destroy(s);
        return NULL;
    }
    // Work is bounded by the length of the text, which callers limit.
    pcre2_set_match_limit(s->limits, UINT32_MAX);
    return s;
}

void pretok_scan_destroy(struct pretok_scan *s)
{
    if (!s)
        return;
    pcre2_match_data_free(s->match);
    pcre2_match_context_free(s->limits);
    free(s);
}

// Finds the next match at or after *at in text[0..n) as [*at, *end); nothing found is [n, n).
static int next_match(const struct pretok *p, struct pretok_scan *s, int stage, const char *text,
                      size_t n, size_t *at, size_t *end)
{
    assert(stage < PRETOK_STAGES_MAX);
    int r = PCRE2_ERROR_JIT_STACKLIMIT;
    PCRE2_SPTR subject = (PCRE2_SPTR)text;
    if (p->jit[stage])
        r = pcre2_jit_match(p->stage[stage], subject, n, *at, 0, s->match, s->limits);
    if (r == PCRE2_ERROR_JIT_STACKLIMIT)
        r = pcre2_match(p->stage[stage], subject, n, *at, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT,
                        s->match, s->limits);
    if (r < 0 && r != PCRE2_ERROR_NOMATCH)
        return -ENOMEM;
    const size_t *bounds = pcre2_get_ovector_pointer(s->match);
    *at = r < 0 ? n : bounds[0];
    *end = r < 0 ? n : bounds[1];
    assert(r < 0 || *end > *at);
    return 0;
}

struct piece_fn { int (*fn)(void *ctx, const char *p, size_t n); void *ctx; };

static int split_stage(const struct pretok *p, struct pretok_scan *s, int stage, const char *text,
                       size_t n, const struct piece_fn *out)
{
    if (n == 0)
        return 0;
    if (stage == p->n_stages)
        return out->fn(out->ctx, text, n);
    for (size_t done = 0; done < n;) {
        size_t at = done, end;
        int r = next_match(p, s, stage, text, n, &at, &end);
        if (r == 0)
            r = split_stage(p, s, stage + 1, text + done, at - done, out);
        if (r == 0)
            r = split_stage(p, s, stage + 1, text + at, end - at, out);
        if (r)
            return r;
        done = end;
    }
    return 0;
}

int pretok_split(const struct pretok *p, struct pretok_scan *s, const char *text, size_t n,
                 int (*piece)(void *ctx, const char *p, size_t n), void *ctx)
{
    struct piece_fn out = {piece, ctx};
    return split_stage(p, s, 0, text, n, &out);
}
