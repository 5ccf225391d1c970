// Merging by scan for short runs, by heap for long ones.
#include "engine/text/merge.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "base/base.h"

#define SHORT_MAX 32                    // symbols that are scanned
#define NO_SYM UINT32_MAX

#define NO_RULE UINT32_MAX

struct merge_cand {
    uint64_t key;                       // order, then index of the left symbol
    uint32_t id;
    uint32_t bytes;                     // of both: symbols only grow, so this tells a stale entry
};

struct finder {
    merge_find_fn *find;
    const void    *ctx;
    const char    *text;
};

static struct merge_rule lookup(const struct finder *f, const struct merge_sym *l,
                                const struct merge_sym *r)
{
    struct merge_rule rule = {NO_RULE, 0};
    if (!l->fixed && !r->fixed && !f->find(f->ctx, f->text, l, r, &rule))
        rule.order = NO_RULE;
    return rule;
}

int merge_start(struct merge_work *w, size_t n)
{
    if (n > MERGE_SYMS_MAX)
        return -ENOMEM;
    w->n_syms = 0;
    if (n <= w->cap_syms)
        return 0;
    struct merge_sym *sym = realloc(w->sym, n * sizeof(*sym));
    if (!sym)
        return -ENOMEM;
    w->sym = sym;
    w->cap_syms = (uint32_t)n;
    return 0;
}

static void merge_short(struct merge_work *w, const struct finder *f)
{
    struct merge_sym *s = w->sym;
    struct merge_rule rule[SHORT_MAX];  // (n - 1) of symbols i and i + 1
    uint32_t n = w->n_syms;
    for (uint32_t i = 0; i + 1 < n; i++)
        rule[i] = lookup(f, &s[i], &s[i + 1]);
    while (n > 1) {
        uint32_t best = 0;
        for (uint32_t i = 1; i + 1 < n; i++)
            if (rule[i].order < rule[best].order)
                best = i;
        if (rule[best].order == NO_RULE)
            break;
        s[best].id = rule[best].id;
        s[best].n += s[best + 1].n;
        n--;
        memmove(&s[best + 1], &s[best + 2], (n - best - 1) * sizeof(*s));
        memmove(&rule[best], &rule[best + 1], (n - best - 1) * sizeof(*rule));
        if (best + 1 < n)
            rule[best] = lookup(f, &s[best], &s[best + 1]);
        if (best > 0)
            rule[best - 1] = lookup(f, &s[best - 1], &s[best]);
    }
    w->n_syms = n;
}

static void sift_down(struct merge_cand *h, uint32_t n, uint32_t i)
{
    struct merge_cand moving = h[i];
    for (uint32_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && h[child + 1].key < h[child].key)
            child++;
        if (h[child].key >= moving.key)
            break;
        h[i] = h[child];
    }
    h[i] = moving;
}

static struct merge_cand heap_pop(struct merge_work *w)
{
    struct merge_cand top = w->heap[0];
    w->heap[0] = w->heap[--w->n_heap];
    if (w->n_heap)
        sift_down(w->heap, w->n_heap, 0);
    return top;
}

// Adds the pair that starts at symbol `left` if a rule joins it; ordered only when `sift`.
static void heap_add(struct merge_work *w, const struct finder *f, uint32_t left, bool sift)
{
    const struct merge_sym *l = &w->sym[left], *r = &w->sym[l->next];
    struct merge_rule rule = lookup(f, l, r);
    if (rule.order == NO_RULE)
        return;
    assert(w->n_heap < w->cap_heap);
    struct merge_cand c = {(uint64_t)rule.order << 32 | left, rule.id, l->n + r->n};
    uint32_t i = w->n_heap++;
    for (uint32_t up; sift && i && c.key < w->heap[up = (i - 1) / 2].key; i = up)
        w->heap[i] = w->heap[up];
    w->heap[i] = c;
}

static int heap_build(struct merge_work *w, const struct finder *f)
{
    // n - 1 pairs at first, and each of at most n - 1 merges takes one and adds at most two.
    uint32_t need = 2 * w->n_syms;
    if (need > w->cap_heap) {
        struct merge_cand *heap = realloc(w->heap, need * sizeof(*heap));
        if (!heap)
            return -ENOMEM;
        w->heap = heap;
        w->cap_heap = need;
    }
    w->n_heap = 0;
    for (uint32_t i = 0; i < w->n_syms; i++) {
        w->sym[i].prev = i ? i - 1 : NO_SYM;
        w->sym[i].next = i + 1 < w->n_syms ? i + 1 : NO_SYM;
    }
    for (uint32_t i = 0; i + 1 < w->n_syms; i++)
        heap_add(w, f, i, false);
    for (uint32_t i = w->n_heap / 2; i-- > 0;)
        sift_down(w->heap, w->n_heap, i);
    return 0;
}

static int merge_long(struct merge_work *w, const struct finder *f)
{
    struct merge_sym *s = w->sym;
    int r = heap_build(w, f);
    if (r)
        return r;
    while (w->n_heap) {
        struct merge_cand c = heap_pop(w);
        uint32_t left = (uint32_t)c.key;
        struct merge_sym *l = &s[left];
        if (l->n == 0 || l->next == NO_SYM || l->n + s[l->next].n != c.bytes)
            continue;
        struct merge_sym *right = &s[l->next];
        l->id = c.id;
        l->n = c.bytes;
        l->next = right->next;
        right->n = 0;
        if (l->next != NO_SYM) {
            s[l->next].prev = left;
            heap_add(w, f, left, true);
        }
        if (l->prev != NO_SYM)
            heap_add(w, f, l->prev, true);
    }
    uint32_t n = 0;
    for (uint32_t i = 0; i < w->n_syms; i++)
        if (s[i].n)
            s[n++] = s[i];
    w->n_syms = n;
    return 0;
}

int merge_run(struct merge_work *w, merge_find_fn *find, const void *ctx, const char *text)
{
    struct finder f = {find, ctx, text};
    if (w->n_syms <= SHORT_MAX) {
        merge_short(w, &f);
        return 0;
    }
    return merge_long(w, &f);
}

void merge_free(struct merge_work *w)
{
    free(w->sym);
    free(w->heap);
    *w = (struct merge_work){0};
}
