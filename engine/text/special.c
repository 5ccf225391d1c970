// A sorted table narrowed byte by byte: linear in the text for tokens of bounded length.
#include "engine/text/special.h"
#include <errno.h>
#include <stdlib.h>
#include "base/base.h"

#define TYPES_MATCHED (TYPE(TOKEN_CONTROL) | TYPE(TOKEN_UNKNOWN) | TYPE(TOKEN_USER_DEFINED))

struct key { const char *p; uint32_t n, id; };

static int compare_keys(const void *pa, const void *pb)
{
    const struct key *a = pa, *b = pb;
    int r = memcmp(a->p, b->p, MIN(a->n, b->n));
    if (r == 0)
        r = (a->n > b->n) - (a->n < b->n);
    return r ? r : (a->id > b->id) - (a->id < b->id);
}

static struct key key_of(const struct vocab *v, uint32_t id)
{
    size_t n;
    const char *p = vocab_piece(v, id, &n);
    return (struct key){p, (uint32_t)n, id};
}

static bool is_matched(const struct vocab *v, uint32_t id)
{
    return TYPE(v->type[id]) & TYPES_MATCHED && v->at[id + 1] > v->at[id];
}

int special_init(struct special *s, const struct vocab *v, struct err *err)
{
    uint32_t n = 0, kept = 0;
    for (uint32_t id = 0; id < v->n; id++)
        n += is_matched(v, id);
    struct key *key = calloc((size_t)n + 1, sizeof(*key));
    uint32_t *ids = calloc((size_t)n + 1, sizeof(*ids));
    if (!key || !ids) {
        free(key);
        free(ids);
        return err_set(err, -ENOMEM, "vocabulary: no memory for %u special tokens", n);
    }
    n = 0;
    for (uint32_t id = 0; id < v->n; id++)
        if (is_matched(v, id))
            key[n++] = key_of(v, id);
    qsort(key, n, sizeof(*key), compare_keys);
    *s = (struct special){.vocab = v, .id = ids};
    for (uint32_t i = 0; i < n; i++) {
        if (i && key[i].n == key[i - 1].n && memcmp(key[i].p, key[i - 1].p, key[i].n) == 0)
            continue;
        s->first[(uint8_t)key[i].p[0] + 1]++;
        ids[kept++] = key[i].id;
    }
    for (int b = 0; b < 256; b++)
        s->first[b + 1] += s->first[b];
    s->n = kept;
    free(key);
    return 0;
}

void special_finish(struct special *s)
{
    free(s->id);
    *s = (struct special){0};
}

// The first of id[lo..hi), which agree in their first `depth` bytes, whose next byte is >= c; the
// ones that end at depth sort before all.
static uint32_t lower_bound(const struct special *s, uint32_t lo, uint32_t hi, size_t depth,
                            unsigned c)
{
    while (lo < hi) {
        uint32_t mid = lo + (hi - lo) / 2;
        size_t n;
        const char *p = vocab_piece(s->vocab, s->id[mid], &n);
        if (n <= depth || (uint8_t)p[depth] < c)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

// The longest token that starts at `at` and may be read there, or TOKEN_NONE.
static uint32_t longest_at(const struct special *s, const struct special_text *text, size_t at)
{
    uint8_t c = (uint8_t)text->p[at];
    uint32_t lo = s->first[c], hi = s->first[c + 1], best = TOKEN_NONE;
    bool plain = !text->control;
    for (size_t depth = 1; lo < hi; depth++) {
        plain |= text->plain && text->plain[at + depth - 1];
        uint32_t id = s->id[lo];
        if (s->vocab->at[id + 1] - s->vocab->at[id] == depth) {
            if (!plain || s->vocab->type[id] == TOKEN_USER_DEFINED)
                best = id;
            lo++;
        }
        if (at + depth == text->n)
            break;
        c = (uint8_t)text->p[at + depth];
        lo = lower_bound(s, lo, hi, depth, c);
        hi = lower_bound(s, lo, hi, depth, c + 1u);
    }
    return best;
}

bool special_next(const struct special *s, const struct special_text *text, size_t from,
                  struct special_match *ret)
{
    for (size_t at = from; at < text->n; at++) {
        uint8_t c = (uint8_t)text->p[at];
        if (s->first[c] == s->first[c + 1])
            continue;
        uint32_t id = longest_at(s, text, at);
        if (id == TOKEN_NONE)
            continue;
        *ret = (struct special_match){at, s->vocab->at[id + 1] - s->vocab->at[id], id};
        return true;
    }
    return false;
}
