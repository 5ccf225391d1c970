// Merging by score. The `tokenizers` library runs such vocabularies as byte-pair encoding whose
// merges are all ways to cut a token in two, ordered by score, then by the longer left part;
// looking up the joined text gives the same order without that table.
#include "engine/text/spm.h"
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include "base/base.h"
#include "engine/model/gguf.h"
#include "engine/text/utf8.h"

#define KEY_SCORES "tokenizer.ggml.scores"

struct ranked { float score; uint32_t id; };

static int compare_ranked(const void *pa, const void *pb)
{
    const struct ranked *a = pa, *b = pb;
    if (a->score != b->score)
        return a->score > b->score ? -1 : 1;
    return (a->id > b->id) - (a->id < b->id);
}

// Gives token after token, by falling score, as many numbers as it has bytes: its first number plus
// the length of the right part orders all ways to make all tokens.
static void number_tokens(struct spm *s, const struct ranked *ranked)
{
    uint32_t next = 0;                  // < VOCAB_BYTES_MAX
    for (uint32_t i = 0; i < s->vocab->n; i++) {
        size_t n;
        vocab_piece(s->vocab, ranked[i].id, &n);
        s->order[ranked[i].id] = next;
        next += (uint32_t)n;
    }
}

static int order_by_score(struct spm *s, const struct gguf_array *scores, struct err *err)
{
    bool sorted = true;
    uint32_t n = s->vocab->n;
    struct ranked *ranked = calloc(n, sizeof(*ranked));
    if (!ranked)
        return err_set(err, -ENOMEM, "vocabulary: no memory for %u scores", n);
    for (uint32_t i = 0; i < n; i++) {
        float score = gguf_array_f32(scores, i);
        if (isnan(score)) {
            free(ranked);
            return err_set(err, -EINVAL, KEY_SCORES ": token %u: not a number", i);
        }
        ranked[i] = (struct ranked){score, i};
        sorted &= i == 0 || ranked[i - 1].score >= score;
    }
    if (!sorted)
        qsort(ranked, n, sizeof(*ranked), compare_ranked);
    number_tokens(s, ranked);
    free(ranked);
    return 0;
}

static int read_scores(struct spm *s, const struct gguf *g, struct err *err)
{
    struct gguf_array scores;
    int r = gguf_get_array(g, KEY_SCORES, &scores, err);
    if (r == -ENOENT)
        return err_set(err, -EINVAL, KEY_SCORES ": missing");
    if (r)
        return r;
    if (scores.n != s->vocab->n || scores.type != GGUF_F32)
        return err_set(err, -EINVAL, KEY_SCORES ": not a float for each token");
    return order_by_score(s, &scores, err);
}

static void find_glue(struct spm *s)
{
    for (uint32_t id = 0; id < s->vocab->n; id++) {
        size_t n;
        const char *p = vocab_piece(s->vocab, id, &n);
        for (size_t i = 1; i < n && s->vocab->type[id] == TOKEN_NORMAL; i++)
            if (p[i] == ' ' && p[i - 1] != ' ')
                s->glue[(uint8_t)p[i - 1]] = true;
    }
}

int spm_init(struct spm *s, const struct vocab *v, uint32_t unknown, const struct gguf *g,
             struct err *err)
{
    struct spm new = {.vocab = v, .unknown = unknown};
    new.order = calloc(v->n, sizeof(*new.order));
    if (!new.order)
        return err_set(err, -ENOMEM, "vocabulary: no memory for scores");
    int r = read_scores(&new, g, err);
    if (r) {
        spm_finish(&new);
        return r;
    }
    find_glue(&new);
    *s = new;
    return 0;
}

void spm_finish(struct spm *s)
{
    free(s->order);
    *s = (struct spm){0};
}

size_t spm_piece(const struct spm *s, const char *p, size_t n)
{
    size_t i = 1;
    while (i < n && (p[i] != ' ' || p[i - 1] == ' ' || s->glue[(uint8_t)p[i - 1]]))
        i++;
    return i;
}

static bool find_joined(const void *ctx, const char *text, const struct merge_sym *l,
                        const struct merge_sym *r, struct merge_rule *ret)
{
    const struct spm *s = ctx;
    if (l->n + r->n > TOKEN_BYTES_MAX)
        return false;
    uint32_t id = vocab_find(s->vocab, text + l->at, l->n + r->n, TYPE(TOKEN_NORMAL));
    if (id == TOKEN_NONE)
        return false;
    *ret = (struct merge_rule){s->order[id] + r->n, id};
    return true;
}

// Adds the character p[at..at + n), or its bytes.
static void add_character(const struct spm *s, struct merge_work *w, const char *p, size_t at,
                          size_t n)
{
    uint32_t id = vocab_find(s->vocab, p + at, n, TYPE(TOKEN_NORMAL));
    if (id != TOKEN_NONE) {
        merge_add(w, (struct merge_sym){.id = id, .at = (uint32_t)at, .n = (uint32_t)n});
        return;
    }
    bool has_bytes = true;
    for (size_t i = 0; i < n; i++)
        has_bytes &= s->vocab->byte_id[(uint8_t)p[at + i]] != TOKEN_NONE;
    struct merge_sym sym = {.id = s->unknown, .at = (uint32_t)at, .n = (uint32_t)n, .fixed = true};
    if (!has_bytes) {
        bool again = w->n_syms && w->sym[w->n_syms - 1].id == s->unknown;
        if (s->unknown != TOKEN_NONE && !again)
            merge_add(w, sym);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        sym.id = s->vocab->byte_id[(uint8_t)p[at + i]];
        sym.at = (uint32_t)(at + i);
        sym.n = 1;
        merge_add(w, sym);
    }
}

int spm_encode(const struct spm *s, struct merge_work *w, const char *p, size_t n,
               struct tokens *out)
{
    int r = merge_start(w, n);
    if (r)
        return r;
    for (size_t at = 0; at < n;) {
        uint32_t c;
        size_t k = utf8_decode(p + at, n - at, &c);
        add_character(s, w, p, at, k ? k : 1);
        at += k ? k : 1;
    }
    r = merge_run(w, find_joined, s, p);
    for (uint32_t i = 0; i < w->n_syms && r == 0; i++)
        r = tokens_add(out, (int32_t)w->sym[i].id);
    return r;
}
