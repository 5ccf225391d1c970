// Merging neighbours in order of a rule's rank, the core of both tokenizer algorithms.
//
// The first rule in order is applied at its leftmost place until no rule fits. Short runs are
// scanned, long ones use a heap: n log n, so that a megabyte of one letter
// is no attack.
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MERGE_SYMS_MAX (1u << 30)

struct merge_sym {                      // a token so far
    uint32_t id;
    uint32_t at, n;                     // its bytes in the run
    uint32_t prev, next;                // neighbours, used by the heap
    bool     fixed;                     // takes part in no rule
};

struct merge_rule {
    uint32_t order;                     // lower first, then leftmost; UINT32_MAX: no rule
    uint32_t id;                        // what the two become
};

// Whether l and r, neighbours in this order, may become one; both belong to the run at `text`.
typedef bool merge_find_fn(const void *ctx, const char *text, const struct merge_sym *l,
                           const struct merge_sym *r, struct merge_rule *ret);

struct merge_cand;
struct merge_work {                     // scratch memory, one per call; zeroed is empty
    struct merge_sym  *sym;             // (n_syms)
    uint32_t           n_syms, cap_syms;
    struct merge_cand *heap;
    uint32_t           n_heap, cap_heap;
};

// Empties the run and makes room for n symbols. Returns 0 or -ENOMEM (also for n > MERGE_SYMS_MAX).
int  merge_start(struct merge_work *w, size_t n);
static inline void merge_add(struct merge_work *w, struct merge_sym s)
{
    w->sym[w->n_syms++] = s;
}
// Merges; sym[0..n_syms) is the result. Returns 0 or -ENOMEM.
int  merge_run(struct merge_work *w, merge_find_fn *find, const void *ctx, const char *text);
void merge_free(struct merge_work *w);
