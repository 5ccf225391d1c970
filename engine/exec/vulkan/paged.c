// A step of which some pages may not be in memory: see paging.h.
#include <errno.h>
#include <string.h>
#include "base/base.h"
#include "base/clock.h"
#include "engine/exec/vulkan/attn.h"
#include "engine/exec/vulkan/paging.h"

#define TOKENS KV_BLOCK_TOKENS
#define WHOLE_RUNS_MAX 2                // then layer by layer
// A page that takes longer is as good as lost: its block is computed again.
#define LOST_NS (10 * NS_PER_S)

// ---- pages of a sequence ----------------------------------------------------------------------

static uint32_t page_of(const struct vk_program *g, uint32_t layer, uint32_t block)
{
    return layer * g->kv.n_blocks + block;
}

// The blocks that a sequence's rows read in a layer, by index in its table: what they read without
// a choice, and what they chose, if `chosen`. One after the other.
struct walk {
    const struct batch_seq *s;
    const uint16_t *chose;              // marks of the layer; NULL: none did
    struct kv_reach reach;
    uint32_t end;
};

static struct walk walk_layer(const struct vk_program *g, uint32_t i_seq, const struct vk_op *o,
                              bool chosen)
{
    const struct batch_seq *s = &g->batch->seq[i_seq];
    uint32_t window = g->attn->class[o->attn_class].window, last = s->pos0 + s->n_rows - 1;
    const uint16_t *used = g->kv.used_host.map;
    bool chooses = chosen && attn_view_selects(&s->attn, window, last);
    return (struct walk){
        .s = s, .chose = chooses ? used + page_of(g, o->op->layer, 0) : NULL,
        .reach = vk_kv_reach(s, window), .end = last / TOKENS + 1,
    };
}

// From index i on; w->end: there is none.
static uint32_t walk_next(const struct walk *w, uint32_t i)
{
    for (; i < w->end; i++) {
        bool reached = i < w->reach.n_sink || (i >= w->reach.first && i < w->reach.end);
        if (reached || (w->chose && w->chose[w->s->block[i]]))
            break;
        if (!w->chose && i >= w->reach.n_sink && i < w->reach.first)
            i = MIN(w->reach.first, w->end) - 1;
    }
    return i;
}

static bool is_attn(const struct vk_op *o)
{
    return o->op->kind == OP_ATTN;
}

// Adds what the sequence reads in a layer to what the step needs. Returns whether all is there.
static bool need_layer(struct vk_program *g, uint32_t i_seq, const struct vk_op *o, bool chosen)
{
    struct walk w = walk_layer(g, i_seq, o, chosen);
    struct seq_use *u = &g->paging->seq[i_seq];
    bool all = true;
    for (uint32_t i = walk_next(&w, 0); i < w.end; i = walk_next(&w, i + 1)) {
        bool is_there = vk_pages_need(g, page_of(g, o->op->layer, w.s->block[i]));
        u->faults += !is_there;
        all &= is_there;
    }
    u->waits |= !all;
    return all;
}

static bool need_all(struct vk_program *g, uint32_t i_seq, bool chosen)
{
    bool all = true;
    for (uint32_t i = 0; i < g->plan->n_ops; i++)
        if (is_attn(&g->op[i]))
            all &= need_layer(g, i_seq, &g->op[i], chosen);
    return all;
}

// Is still not there what the sequence reads in a layer? Says so, too, if it never will be.
static bool lacks_layer(struct vk_program *g, uint32_t i_seq, const struct vk_op *o, bool is_late)
{
    struct walk w = walk_layer(g, i_seq, o, true);
    struct seq_use *u = &g->paging->seq[i_seq];
    bool lacks = false;
    for (uint32_t i = walk_next(&w, 0); i < w.end; i = walk_next(&w, i + 1)) {
        uint32_t page = page_of(g, o->op->layer, w.s->block[i]);
        if (kv_place_in_memory(&g->kv.place, page))
            continue;
        lacks = true;
        if (u->lost == KV_BLOCK_LOST_NONE && (is_late || g->paging->state[page].lost))
            u->lost = i;
    }
    return lacks;
}

static bool lacks_any(struct vk_program *g, uint32_t i_seq, bool is_late)
{
    bool lacks = false;
    for (uint32_t i = 0; i < g->plan->n_ops; i++)
        if (is_attn(&g->op[i]))
            lacks |= lacks_layer(g, i_seq, &g->op[i], is_late);
    return lacks;
}

// ---- time -------------------------------------------------------------------------------------

// The step waits for as long as a page may take at all.
static bool is_patient(const struct vk_program *g)
{
    bool patient = g->batch->stall_ns >= LOST_NS;
    for (uint32_t i = 0; i < g->batch->n_seqs; i++)
        patient |= g->paging->seq[i].streams;
    return patient;
}

// Until when pages are waited for; 0: not at all.
static uint64_t wait_until(const struct vk_program *g)
{
    uint64_t now = clock_now_ns();
    if (is_patient(g))
        return now + LOST_NS;
    uint64_t until = g->paging->start_ns + g->batch->stall_ns;
    return until > now ? until : 0;
}

static void fetch(struct vk_program *g)
{
    uint64_t ns = vk_pages_fetch(g, wait_until(g));
    for (uint32_t i = 0; i < g->batch->n_seqs; i++) {
        struct seq_use *u = &g->paging->seq[i];
        u->wait_ns += u->waits ? ns : 0;
        u->waits = false;
    }
}

// ---- the start --------------------------------------------------------------------------------

// Blocks that the sequence reads without a choice, of all layers.
static uint64_t reach_pages(const struct vk_program *g, uint32_t i_seq)
{
    uint64_t n = 0;
    for (uint32_t c = 0; c < g->attn->n_classes; c++) {
        struct kv_reach r = vk_kv_reach(&g->batch->seq[i_seq], g->attn->class[c].window);
        uint32_t blocks = r.first < r.end ? r.end - r.first + MIN(r.n_sink, r.first) : r.n_sink;
        n += (uint64_t)g->attn->class[c].n_ops * blocks;
    }
    return n;
}

static uint64_t begin_seqs(struct vk_program *g)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < g->batch->n_seqs; i++) {
        uint64_t n = reach_pages(g, i);
        g->paging->seq[i] = (struct seq_use){
            .lost = KV_BLOCK_LOST_NONE, .streams = n > g->kv.place.n_memory / 2 };
        sum += n;
    }
    return sum;
}

// What the host knows of is there before the step, if there is room for it.
int vk_paged_submit(struct vk_program *g, const struct shape *s, struct vk_cmd *whole,
                    struct err *err)
{
    struct vk_paging *p = g->paging;
    p->start_ns = clock_now_ns();
    p->shape = *s;
    p->whole = whole;
    p->lacks_reach = false;
    vk_pages_clear(g);
    p->by_layers = begin_seqs(g) > g->kv.place.n_memory;
    for (uint32_t i = 0; !p->by_layers && i < g->batch->n_seqs; i++)
        p->lacks_reach |= !need_all(g, i, false);
    if (p->lacks_reach) {
        fetch(g);
        p->by_layers = p->no_room;
        p->lacks_reach = !vk_pages_there(g);
    }
    return p->by_layers ? 0 : vk_submit(g->vk, whole, &g->ticket, err);
}

// ---- whole runs -------------------------------------------------------------------------------

// Did rows choose pages that are not there? If not, those that are have served.
static bool chose_missing(struct vk_program *g)
{
    const struct kv_place *place = &g->kv.place;
    uint32_t missing = 0, hits = 0, n = g->attn->n_selects ? place->n_pages : 0;
    for (uint32_t i = vk_kv_next_used(g, 0); i < n; i = vk_kv_next_used(g, i + 1)) {
        missing += !kv_place_in_memory(place, i);
        hits += !g->paging->state[i].needed;
    }
    g->paging->count.hits += missing ? 0 : hits;
    return missing > 0;
}

// All sequences that missed something in the last run. Returns whether any has it all now.
static bool look_again(struct vk_program *g, bool is_late)
{
    struct vk_paging *p = g->paging;
    bool any = false;
    for (uint32_t i = 0; i < g->batch->n_seqs; i++)
        if (p->seq[i].missed)
            any |= !lacks_any(g, i, is_late);
    return any;
}

// After a run: who missed something, and does it run again? Not if there was no time to fetch, or
// it would help nobody.
static int after_run(struct vk_program *g, uint32_t run, bool *again, struct err *err)
{
    struct vk_paging *p = g->paging;
    *again = false;
    for (uint32_t i = 0; i < g->batch->n_seqs; i++)
        p->seq[i].missed = false;
    if (!p->lacks_reach && !chose_missing(g))
        return 0;
    for (uint32_t i = 0; i < g->batch->n_seqs; i++)
        p->seq[i].missed = !need_all(g, i, true);
    uint64_t until = wait_until(g);
    fetch(g);
    p->by_layers = p->no_room && (until > 0 || g->batch->n_seqs == 1);
    if (until == 0 || p->by_layers || !look_again(g, is_patient(g)))
        return 0;
    p->by_layers = run == WHOLE_RUNS_MAX;
    *again = !p->by_layers;
    p->lacks_reach = !vk_pages_there(g);
    return p->by_layers ? 0 : vk_submit(g->vk, p->whole, &g->ticket, err);
}

// ---- layer by layer ---------------------------------------------------------------------------

// Records from operation *i on up to where rows of the next layer have chosen their blocks, which
// becomes *reads: what attention is to do next, as it was before. At the end it is NULL.
static void record_layer(struct vk_program *g, uint32_t *i, const struct vk_op **reads)
{
    struct vk_cmd *c = g->paging->part;
    const struct shape *s = &g->paging->shape;
    if (*i == 0)
        vk_kv_used_clear(g, c);
    if (*reads)
        vk_attn_read(g, c, *reads, s);
    for (; *i < g->plan->n_ops && !is_attn(&g->op[*i]); (*i)++)
        vk_op_record(g, c, &g->op[*i], s);
    *reads = *i < g->plan->n_ops ? &g->op[(*i)++] : NULL;
    if (!*reads) {
        vk_top_record(g, c, s);
        return;
    }
    vk_attn_select(g, c, *reads, s);
    vk_kv_used_fetch_layer(g, c, (*reads)->op->layer);
}

static int run_part(struct vk_program *g, uint64_t timeout_ns, struct err *err)
{
    int r = vk_cmd_end(g->paging->part, err);
    if (r == 0)
        r = vk_submit(g->vk, g->paging->part, &g->ticket, err);
    return r ? r : vk_wait(g->vk, g->ticket, timeout_ns, err);
}

// Where there is no room for all at once, the first ones go first.
static void fetch_in_turn(struct vk_program *g, const struct vk_op *o)
{
    struct vk_paging *p = g->paging;
    kv_place_tick(&g->kv.place);
    vk_pages_clear(g);
    for (uint32_t i = 0; i < g->batch->n_seqs; i++) {
        if (p->seq[i].missed)
            continue;
        need_layer(g, i, o, true);
        fetch(g);
        p->no_room = false;
    }
}

// What a layer's attention reads comes to memory. Who does not get it has missed, for good.
static int bring_layer(struct vk_program *g, const struct vk_op *o, struct err *err)
{
    struct vk_paging *p = g->paging;
    kv_place_tick(&g->kv.place);
    vk_pages_clear(g);
    for (uint32_t i = 0; i < g->batch->n_seqs; i++)
        if (!p->seq[i].missed)
            need_layer(g, i, o, true);
    fetch(g);
    bool no_room = p->no_room;
    if (no_room && g->batch->n_seqs == 1)
        return err_set(err, -ENOMEM, "%u KV pages of one layer do not fit into memory for %u of "
                       "all layers", p->n_need, g->kv.place.n_memory);
    if (no_room)
        fetch_in_turn(g, o);
    for (uint32_t i = 0; i < g->batch->n_seqs; i++)
        if (!p->seq[i].missed)
            p->seq[i].missed = lacks_layer(g, i, o, is_patient(g) && !no_room);
    return 0;
}

static bool all_missed(const struct vk_program *g)
{
    bool all = true;
    for (uint32_t i = 0; i < g->batch->n_seqs; i++)
        all &= g->paging->seq[i].missed;
    return all;
}

static int run_layers(struct vk_program *g, uint64_t timeout_ns, struct err *err)
{
    const struct vk_op *reads = NULL;
    uint32_t i = 0;
    int r = 0;
    memset(g->kv.used_host.map, 0, g->kv.used_host.bytes);
    for (uint32_t k = 0; k < g->batch->n_seqs; k++)
        g->paging->seq[k].missed = false;
    g->ready.op = NULL;
    do {
        vk_cmd_begin(g->paging->part);
        record_layer(g, &i, &reads);
        r = run_part(g, timeout_ns, err);
        if (r == 0 && reads)
            r = bring_layer(g, reads, err);
    } while (r == 0 && reads && !all_missed(g));
    return r;
}

// ---- the end ----------------------------------------------------------------------------------

static void tell(struct vk_program *g)
{
    struct vk_paging *p = g->paging;
    for (uint32_t i = 0; i < g->batch->n_seqs; i++) {
        struct batch_seq *s = &g->batch->seq[i];
        s->faults = p->seq[i].faults;
        s->wait_ns = p->seq[i].wait_ns;
        s->missed = p->seq[i].missed;
        s->lost = p->seq[i].missed ? p->seq[i].lost : KV_BLOCK_LOST_NONE;
        p->count.missed += s->missed;
    }
}

int vk_paged_wait(struct vk_program *g, uint64_t timeout_ns, struct err *err)
{
    struct vk_paging *p = g->paging;
    bool again = !p->by_layers;
    int r = 0;
    for (uint32_t run = 1; r == 0 && again; run++) {
        r = vk_wait(g->vk, g->ticket, timeout_ns, err);
        if (r == 0)
            r = after_run(g, run, &again, err);
    }
    if (r == 0 && p->by_layers)
        r = run_layers(g, timeout_ns, err);
    if (r == 0)
        tell(g);
    return r;
}
