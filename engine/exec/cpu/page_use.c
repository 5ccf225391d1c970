// Pages that the sequences of a step need, with paging: who waits for them, how long, and what is
// told of it.
#include <errno.h>
#include <stdlib.h>
#include "engine/exec/cpu/cpu.h"
#include "base/base.h"
#include "base/clock.h"

#define TOKENS KV_BLOCK_TOKENS
#define AHEAD_MAX 32
// A page that takes longer is as good as lost: its block is computed again.
#define LOST_NS (10 * NS_PER_S)

struct page_use {                       // of a sequence
    _Atomic bool     missed;
    _Atomic uint32_t lost, faults;
    _Atomic uint64_t wait_ns;           // of all threads
    bool             streams;           // its rows read more than memory holds
};

int page_use_init(struct cpu_program *g, struct err *err)
{
    g->page_use = calloc(g->params.seqs_max, sizeof(*g->page_use));
    return g->page_use ? 0 : err_set(err, -ENOMEM, "no memory for %u sequences",
                                     g->params.seqs_max);
}

// Some class of layers takes all that a row sees, and that is about all there is room for.
static bool reads_too_much(const struct cpu_program *g, const struct batch_seq *s)
{
    uint32_t pos = s->pos0 + s->n_rows - 1, room = g->kv.n_slots / g->kv.layout.n_layers / 2;
    for (uint32_t i = 0; i < g->n_attn_classes; i++)
        if (!attn_view_selects(&s->attn, g->attn_class[i].window, pos) &&
            attn_view(&s->attn, g->attn_class[i].window, pos).n > room)
            return true;
    return false;
}

static int claim(struct cpu_program *g, const struct batch_seq *s, struct err *err)
{
    int r = 0;
    for (uint32_t i = s->pos0 / TOKENS; r == 0 && i < DIV_UP(s->pos0 + s->n_rows, TOKENS); i++)
        r = pages_claim(&g->kv, s->block[i]);
    return r ? err_set(err, r, "no page that could leave memory for %u rows", s->n_rows) : 0;
}

int page_use_begin(struct cpu_program *g, struct err *err)
{
    int r = 0;
    if (!g->kv.disk)
        return 0;
    pages_tick(&g->kv);
    g->pages_ahead = CLAMP(g->kv.n_slots / (4 * pool_threads(g->cpu->pool)), 1u,
                           (uint32_t)AHEAD_MAX);
    atomic_store_explicit(&g->stall_until_ns, 0, memory_order_relaxed);
    for (uint32_t i = 0; r == 0 && i < g->batch->n_seqs; i++) {
        const struct batch_seq *s = &g->batch->seq[i];
        g->page_use[i] = (struct page_use){ .lost = KV_BLOCK_LOST_NONE,
                                            .streams = reads_too_much(g, s) };
        r = claim(g, s, err);
    }
    return r;
}

// The first who waits says until when all may; with all the time there is, each page has its own.
static uint64_t stall_until(struct cpu_program *g)
{
    uint64_t until = clock_now_ns(), none = 0;
    if (g->batch->stall_ns >= LOST_NS)
        return until + LOST_NS;
    until += g->batch->stall_ns;
    if (!atomic_compare_exchange_strong(&g->stall_until_ns, &none, until))
        until = none;
    return until;
}

static uint8_t *wait_for(struct cpu_program *g, struct page_use *u, uint32_t index, uint32_t page)
{
    bool lost = false;
    atomic_fetch_add_explicit(&u->faults, 1, memory_order_relaxed);
    if (atomic_load_explicit(&u->missed, memory_order_relaxed)) {
        pages_ask(&g->kv, page);        // it will be there when the sequence runs again
        return NULL;
    }
    uint64_t until = u->streams ? clock_now_ns() + LOST_NS : stall_until(g);
    uint64_t start_ns = clock_now_ns();
    uint8_t *at = pages_wait(&g->kv, page, until, &lost);
    atomic_fetch_add_explicit(&u->wait_ns, clock_now_ns() - start_ns, memory_order_relaxed);
    lost |= !at && (u->streams || g->batch->stall_ns >= LOST_NS);
    if (lost)
        atomic_store_explicit(&u->lost, index, memory_order_relaxed);
    if (!at)
        atomic_store_explicit(&u->missed, true, memory_order_relaxed);
    return at;
}

uint8_t *page_use_hold(struct cpu_program *g, uint32_t i_seq, uint32_t index, uint32_t layer)
{
    uint32_t page = page_number(&g->kv, g->batch->seq[i_seq].block[index], layer);
    uint8_t *at = pages_hold(&g->kv, page);
    return at ? at : wait_for(g, &g->page_use[i_seq], index, page);
}

void page_use_end(struct cpu_program *g)
{
    for (uint32_t i = 0; i < g->batch->n_seqs; i++) {
        struct batch_seq *s = &g->batch->seq[i];
        const struct page_use *u = &g->page_use[i];
        s->faults = atomic_load_explicit(&u->faults, memory_order_relaxed);
        s->wait_ns = atomic_load_explicit(&u->wait_ns, memory_order_relaxed) /
                     pool_threads(g->cpu->pool);
        s->missed = atomic_load_explicit(&u->missed, memory_order_relaxed);
        s->lost = g->kv.disk ? atomic_load_explicit(&u->lost, memory_order_relaxed)
                             : KV_BLOCK_LOST_NONE;
        g->kv.missed += s->missed;
    }
}
