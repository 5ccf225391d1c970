// Merges as a table of pairs: (left, right) -> (rank, what they become).
#include "engine/text/bpe.h"
#include <errno.h>
#include <stdlib.h>
#include "base/base.h"
#include "engine/model/gguf.h"

#define KEY_MERGES "tokenizer.ggml.merges"
#define MERGES_MAX (1u << 24)

static uint32_t pair_slot(const struct bpe *b, uint32_t left, uint32_t right)
{
    uint64_t h = ((uint64_t)left << 32 | right) * UINT64_C(0x9e3779b97f4a7c15);
    uint32_t i = (uint32_t)(h >> 32) & (b->n_slots - 1);
    while (b->pair[i].id != TOKEN_NONE && (b->pair[i].left != left || b->pair[i].right != right))
        i = (i + 1) & (b->n_slots - 1);
    return i;
}

// Adds the merge "left right" of this rank. Merges that would make a control token are passed over:
// control tokens come from special_next alone.
static int add_merge(struct bpe *b, uint32_t rank, struct gguf_str text, struct err *err)
{
    char buf[2 * TOKEN_BYTES_MAX];
    const char *space = text.n > 2 ? memchr(text.p + 1, ' ', text.n - 2) : NULL;
    if (!space || text.n > sizeof(buf))
        return err_set(err, -EINVAL, KEY_MERGES ": merge %u: not two tokens", rank);
    size_t n_left = (size_t)(space - text.p), n_right = text.n - n_left - 1;
    long left = byte_level_decode(text.p, n_left, buf);
    long right = left < 0 ? -1 : byte_level_decode(space + 1, n_right, buf + left);
    if (right < 0)
        return err_set(err, -EINVAL, KEY_MERGES ": merge %u: not byte-level text", rank);
    uint32_t id[3] = {vocab_find(b->vocab, buf, (size_t)left, TYPES_ALL),
                      vocab_find(b->vocab, buf + left, (size_t)right, TYPES_ALL),
                      vocab_find(b->vocab, buf, (size_t)(left + right), TYPES_ALL)};
    for (int i = 0; i < 3; i++) {
        if (id[i] == TOKEN_NONE)
            return err_set(err, -EINVAL, KEY_MERGES ": merge %u: no such token", rank);
        if (!(TYPE(b->vocab->type[id[i]]) & TYPES_TEXT))
            return 0;
    }
    uint32_t slot = pair_slot(b, id[0], id[1]);
    if (b->pair[slot].id == TOKEN_NONE)
        b->pair[slot] = (struct bpe_pair){id[0], id[1], rank, id[2]};
    return 0;
}

int bpe_init(struct bpe *b, const struct vocab *v, bool ignore_merges, const struct gguf *g,
             struct err *err)
{
    struct gguf_array merges = {.type = GGUF_STRING};
    int r = gguf_get_array(g, KEY_MERGES, &merges, err);
    if (r == -ENOENT)
        return err_set(err, -EINVAL, KEY_MERGES ": missing");
    if (r)
        return r;
    if (merges.type != GGUF_STRING || merges.n > MERGES_MAX)
        return err_set(err, -EINVAL, KEY_MERGES ": not at most %u strings", MERGES_MAX);
    struct bpe new = {.vocab = v, .n_slots = 64, .ignore_merges = ignore_merges};
    while (new.n_slots < merges.n * 2)
        new.n_slots *= 2;
    new.pair = malloc(new.n_slots * sizeof(*new.pair));
    if (!new.pair)
        return err_set(err, -ENOMEM, "vocabulary: no memory for %zu merges", merges.n);
    for (uint32_t i = 0; i < new.n_slots; i++)
        new.pair[i].id = TOKEN_NONE;
    for (size_t i = 0; i < merges.n && r == 0; i++)
        r = add_merge(&new, (uint32_t)i, merges.str[i], err);
    if (r) {
        bpe_finish(&new);
        return r;
    }
    *b = new;
    return 0;
}

void bpe_finish(struct bpe *b)
{
    free(b->pair);
    *b = (struct bpe){0};
}

static bool find_pair(const void *ctx, const char *text, const struct merge_sym *l,
                      const struct merge_sym *r, struct merge_rule *ret)
{
    const struct bpe *b = ctx;
    (void)text;
    const struct bpe_pair *pair = &b->pair[pair_slot(b, l->id, r->id)];
    if (pair->id == TOKEN_NONE)
        return false;
    *ret = (struct merge_rule){pair->rank, pair->id};
    return true;
}

int bpe_encode(const struct bpe *b, struct merge_work *w, const char *p, size_t n,
               struct tokens *out)
{
    if (b->ignore_merges) {
        uint32_t whole = vocab_find(b->vocab, p, n, TYPES_TEXT);
        if (whole != TOKEN_NONE)
            return tokens_add(out, (int32_t)whole);
    }
    int r = merge_start(w, n);
    if (r)
        return r;
    for (size_t i = 0; i < n; i++) {
        uint32_t id = b->vocab->byte_id[(uint8_t)p[i]];
        if (id != TOKEN_NONE)
            merge_add(w, (struct merge_sym){.id = id, .at = (uint32_t)i, .n = 1});
    }
    r = merge_run(w, find_pair, b, p);
    for (uint32_t i = 0; i < w->n_syms && r == 0; i++)
        r = tokens_add(out, (int32_t)w->sym[i].id);
    return r;
}
