// Planning of steps. See sched.h for the rules; sched_queue.c has the clients and their queues.
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "engine/run/sched_priv.h"
#include "base/base.h"
#include "base/clock.h"

// Rows of the first prefill chunk ever, before anything is known of the machine.
#define CHUNK_FIRST 32
// Prefill rows of a step whose time the decodes alone already use up: prompts must go on.
#define CHUNK_MIN 16
// The first prompt of a step without decodes makes no stream falter: only who comes new waits for
// its end. The step may take this many times max_step_ns then, since small chunks cost a prompt up
// to half of its speed. Further prompts may not: the first one's answer would wait for them.
#define PREFILL_STEPS 16
#define PREFILL_NS_MAX (2 * NS_PER_S)   // but not so long that the engine seems to hang

int sched_create(struct sched **ret, const struct sched_params *p, struct kv_pool *pool,
                 struct err *err)
{
    assert(p->seqs_max > 0 && p->rows_max > p->seqs_max && p->outputs_max >= p->seqs_max);
    assert(p->live_max > 0);
    struct sched *s = calloc(1, sizeof *s);
    if (!s)
        goto no_memory;
    s->p = *p;
    s->pool = pool;
    s->n_clients = 2 * p->live_max;     // one is always free, and the idle are remembered a while
    s->client = calloc(s->n_clients, sizeof *s->client);
    s->running = calloc(p->seqs_max, sizeof(struct sequence *));
    s->step.item = calloc(p->seqs_max, sizeof *s->step.item);
    if (!s->client || !s->running || !s->step.item)
        goto no_memory;
    cost_init(&s->cost, p->max_step_ns, CHUNK_FIRST);
    *ret = s;
    return 0;

no_memory:
    sched_destroy(s);
    return err_set(err, -ENOMEM, "no memory for a scheduler of %u sequences", p->live_max);
}

void sched_destroy(struct sched *s)
{
    if (!s)
        return;
    assert(s->n_running == 0 && s->n_waiting == 0);
    free(s->client);
    free(s->running);
    free(s->step.item);
    free(s);
}

struct sched_stats sched_stats(const struct sched *s)
{
    return (struct sched_stats){s->n_running, s->n_waiting, s->preemptions};
}

// ---- running sequences: an array, the oldest first ----

static void running_insert(struct sched *s, struct sequence *q)
{
    assert(s->n_running < s->p.seqs_max);
    uint32_t i = s->n_running++;
    for (; i > 0 && s->running[i - 1]->arrival > q->arrival; i--)
        s->running[i] = s->running[i - 1];
    s->running[i] = q;
    s->client[q->client_slot].n_running++;
}

static void running_remove(struct sched *s, struct sequence *q)
{
    uint32_t i = 0;
    while (i < s->n_running && s->running[i] != q)
        i++;
    assert(i < s->n_running);
    s->n_running--;
    memmove(&s->running[i], &s->running[i + 1], (s->n_running - i) * sizeof(struct sequence *));
    s->client[q->client_slot].n_running--;
}

static void preempt(struct sched *s, struct sequence *q)
{
    running_remove(s, q);
    kv_table_clear(&q->table, s->pool);
    q->n_computed = 0;
    q->n_preempted++;
    q->held = false;
    q->n_begun = 0;
    s->preemptions++;
    seq_move(q, SEQ_WAITING);
    sched_enqueue(s, q);
}

void sched_restart(struct sched *s, struct sequence *q)
{
    preempt(s, q);
}

bool sched_yield_youngest(struct sched *s)
{
    if (s->n_running < 2)
        return false;
    preempt(s, s->running[s->n_running - 1]);
    return true;
}

void sched_remove(struct sched *s, struct sequence *q)
{
    if (q->state == SEQ_WAITING)
        sched_dequeue(s, q);
    else
        running_remove(s, q);
    kv_table_clear(&q->table, s->pool);
    seq_move(q, SEQ_DONE);
    sched_leave(s, q);
}

void sched_forget(struct sched *s, struct sequence *q)
{
    for (uint32_t i = 0; i < q->table.n_blocks; i++)
        kv_pool_forget(s->pool, q->table.block[i]);
}

// ---- admission ----

static uint32_t n_blocks_for(uint32_t n_tokens) { return DIV_UP(n_tokens, KV_BLOCK_TOKENS); }

// Puts the cached beginning of a waiting sequence into its table.
static void take_cached(struct sched *s, struct sequence *q)
{
    assert(q->table.n_blocks == 0);
    uint32_t n = seq_n_reusable(q);
    if (n > 0)
        seq_make_keys(q, n);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t b = kv_pool_find(s->pool, &q->key[i], &q->token[i * KV_BLOCK_TOKENS]);
        if (b == KV_BLOCK_NONE)
            return;
        kv_table_append(&q->table, s->pool, b);
    }
}

// True when a prompt that is being computed or loaded will give the block that q misses: waiting
// for it is cheaper than computing it twice.
static bool is_being_made(const struct sched *s, const struct sequence *q)
{
    uint32_t next = q->table.n_blocks;
    if (next >= seq_n_reusable(q))
        return false;
    for (uint32_t i = 0; i < s->n_running; i++) {
        const struct sequence *r = s->running[i];
        bool is_made = r->state == SEQ_PREFILL || r->state == SEQ_LOADING;
        if (is_made && r->reuse && next < r->n_keys &&
            r->n_computed < (next + 1) * KV_BLOCK_TOKENS &&
            hash_equal(&r->key[next], &q->key[next]))
            return true;
    }
    return false;
}

// Every running sequence keeps one block in sight, so that an admission is not followed at once by
// a preemption.
static bool has_room(const struct sched *s, const struct sequence *q)
{
    uint32_t need = n_blocks_for(q->n_tokens) - q->table.n_blocks;
    return kv_pool_n_available(s->pool) >= need + s->n_running || s->n_running == 0;
}

// Leading blocks that the pool gave or the store has.
static uint32_t count_stored(const struct sched *s, const struct sequence *q)
{
    uint32_t n = q->table.n_blocks, end = seq_n_reusable(q);
    while (s->p.is_stored && n < end && s->p.is_stored(s->p.is_stored_ctx, &q->key[n]))
        n++;
    return n;
}

// Returns 0, -EAGAIN (another sequence is computing its beginning) or -ENOSPC.
static int admit(struct sched *s, struct sequence *q)
{
    take_cached(s, q);
    int r = is_being_made(s, q) ? -EAGAIN : has_room(s, q) ? 0 : -ENOSPC;
    if (r < 0) {
        kv_table_clear(&q->table, s->pool);
        return r;
    }
    q->n_stored = count_stored(s, q);
    bool loads = q->n_stored > q->table.n_blocks;
    q->n_computed = q->table.n_blocks * KV_BLOCK_TOKENS;
    if (q->n_preempted == 0)
        q->n_cached = q->n_computed;
    bool grown = kv_table_grow(&q->table, s->pool, q->n_tokens);
    assert(grown);
    sched_dequeue(s, q);
    running_insert(s, q);
    seq_move(q, loads ? SEQ_LOADING : SEQ_PREFILL);
    return 0;
}

// The youngest sequence of the client that runs the most, if that is more than one and the client
// was served at least as much as c.
static struct sequence *crowding(struct sched *s, const struct sched_client *c)
{
    struct sequence *victim = NULL;
    uint32_t most = 1;
    for (uint32_t i = s->n_running; i-- > 0;) {
        const struct sched_client *o = &s->client[s->running[i]->client_slot];
        if (o->n_running > most && o->served >= c->served) {
            most = o->n_running;
            victim = s->running[i];
        }
    }
    return victim;
}

// False when only a preemption would let q start.
static bool could_start(struct sched *s, struct sequence *q)
{
    take_cached(s, q);
    bool ok = is_being_made(s, q) || (s->n_running < s->p.seqs_max && has_room(s, q));
    kv_table_clear(&q->table, s->pool);
    return ok;
}

// A client of whom nothing runs gets the place of another's sequence, if that client has several.
static void make_room(struct sched *s)
{
    struct sched_client *c = sched_next_client(s, SCHED_IDLE_ONLY);
    struct sequence *victim;
    while (c && !could_start(s, c->first) && (victim = crowding(s, c)) != NULL)
        preempt(s, victim);
}

// ---- the step ----

// Leading blocks that need no room any more: what a void step wrote has its place already.
static uint32_t placed_blocks(const struct sequence *q)
{
    return MAX(n_blocks_for(q->n_computed), q->n_begun);
}

// Blocks that the next n rows of q begin.
static uint32_t begun_blocks(const struct sequence *q, uint32_t n)
{
    uint32_t end = n_blocks_for(q->n_computed + n), placed = placed_blocks(q);
    return end > placed ? end - placed : 0;
}

static void add_item(struct sched *s, struct sequence *q, uint32_t n_rows)
{
    struct sched_step *t = &s->step;
    assert(begun_blocks(q, n_rows) <= s->room);
    s->room -= begun_blocks(q, n_rows);
    q->n_begun = MAX(q->n_begun, n_blocks_for(q->n_computed + n_rows));
    uint32_t n_out = seq_n_outputs(q, q->n_computed, q->n_computed + n_rows);
    assert(n_rows > 0 && n_rows <= seq_pending(q));
    assert(t->n_items < s->p.seqs_max);
    struct sched_item it = {
        .seq = q, .n_rows = n_rows, .n_out = n_out, .decode = q->n_computed >= q->n_prompt,
    };
    assert(it.decode || q->n_computed + n_rows <= q->n_prompt);
    uint32_t at = t->n_items++;
    for (; it.decode && at > 0 && !t->item[at - 1].decode; at--)
        t->item[at] = t->item[at - 1];
    t->item[at] = it;
    t->n_rows += n_rows;
    t->n_out += n_out;
    assert(t->n_rows <= s->p.rows_max && t->n_out <= s->p.outputs_max);
    t->work = cost_add(t->work, q->n_computed, n_rows);
    q->planned = s->step_no;
    s->client[q->client_slot].served += n_rows;
}

// Each decoding sequence needs a block for its next row.
static void grow_decodes(struct sched *s)
{
    for (uint32_t i = 0; i < s->n_running; i++) {
        struct sequence *q = s->running[i];
        while (q->state == SEQ_DECODE && !kv_table_grow(&q->table, s->pool, q->n_tokens)) {
            assert(s->n_running > 1);       // alone it always fits
            preempt(s, s->running[s->n_running - 1]);   // perhaps q itself
        }
    }
}

static void add_decodes(struct sched *s)
{
    for (uint32_t i = 0; i < s->n_running; i++) {
        struct sequence *q = s->running[i];
        if (q->state != SEQ_DECODE)
            continue;
        assert(seq_pending(q) == 1);
        if (q->held || begun_blocks(q, 1) > s->room)
            s->withheld = true;
        else
            add_item(s, q, 1);
    }
    s->n_decodes = s->step.n_items;
}

static uint64_t limit_ns(const struct sched *s)
{
    uint64_t goal = s->p.max_step_ns;
    return s->step.n_items == 0 ? MAX(goal, MIN(goal * PREFILL_STEPS, PREFILL_NS_MAX)) : goal;
}

// Rows of prompts that the step still takes, for a sequence that is at pos0.
static uint32_t rows_left(const struct sched *s, uint32_t pos0)
{
    const struct sched_step *t = &s->step;
    uint32_t n = s->p.rows_max - t->n_rows;
    // Beyond twice of what was measured the cost is a guess.
    uint32_t known = MAX(2 * s->cost.rows_seen, CHUNK_MIN) + s->n_decodes;
    n = MIN(n, known > t->n_rows ? known - t->n_rows : 0);
    uint32_t fit = cost_rows_within(&s->cost, t->work, pos0, n, limit_ns(s));
    if (t->n_items == s->n_decodes)
        fit = MAX(fit, MIN(n, CHUNK_MIN));
    return t->n_out < s->p.outputs_max && t->n_items < s->p.seqs_max ? fit : 0;
}

// Rows up to the end of the prompt, or of what was generated.
static uint32_t alike_rows(const struct sequence *q)
{
    return q->n_computed < q->n_prompt ? q->n_prompt - q->n_computed : seq_pending(q);
}

static uint32_t chunk_rows(const struct sched *s, const struct sequence *q)
{
    uint32_t alike = alike_rows(q), n = MIN(rows_left(s, q->n_computed), alike);
    if (q->out_from < q->out_to)
        n = MIN(n, s->p.outputs_max - s->step.n_out);
    uint64_t room = ((uint64_t)s->room + placed_blocks(q)) * KV_BLOCK_TOKENS - q->n_computed;
    n = (uint32_t)MIN(n, room);
    if (n < alike && n >= 2 * KV_BLOCK_TOKENS)
        n -= (q->n_computed + n) % KV_BLOCK_TOKENS;
    return n;
}

static struct sequence *oldest_prefill(const struct sched *s, const struct sched_client *c)
{
    for (uint32_t i = 0; i < s->n_running; i++) {
        struct sequence *q = s->running[i];
        if (&s->client[q->client_slot] == c && q->state == SEQ_PREFILL &&
            q->planned != s->step_no && !q->held)
            return q;
    }
    return NULL;
}

// The next prompt to work on, admitted if it was waiting; NULL when there is none.
static struct sequence *next_prefill(struct sched *s)
{
    struct sched_client *c;
    while ((c = sched_next_client(s, 0)) != NULL) {
        struct sequence *q = oldest_prefill(s, c);
        if (q)
            return q;
        q = sched_first_waiting(s, c);
        assert(q);
        int r = admit(s, q);
        if (r == 0 && q->state == SEQ_PREFILL)
            return q;
        if (r == 0)
            continue;
        if (r == -EAGAIN)
            q->deferred = s->step_no;
        else
            s->closed = true;       // its turn is next; nobody may take the blocks it waits for
    }
    return NULL;
}

static void add_prefills(struct sched *s)
{
    s->closed = false;
    while (rows_left(s, 0) > 0) {
        struct sequence *q = next_prefill(s);
        uint32_t n = q ? chunk_rows(s, q) : 0;
        s->withheld |= q && n == 0;
        if (n == 0)
            return;
        add_item(s, q, n);
    }
}

// Somebody runs who cannot be in a step now.
static bool is_anyone_late(const struct sched *s)
{
    for (uint32_t i = 0; i < s->n_running; i++)
        if (s->running[i]->state == SEQ_LOADING || s->running[i]->held)
            return true;
    return s->withheld;
}

const struct sched_step *sched_plan(struct sched *s)
{
    struct sched_item *item = s->step.item;
    s->step = (struct sched_step){.item = item};
    s->step_no++;
    s->room = s->p.room ? s->p.room(s->p.room_ctx) : UINT32_MAX;
    s->withheld = false;
    make_room(s);
    grow_decodes(s);
    add_decodes(s);
    add_prefills(s);
    assert(s->step.n_items > 0 || s->n_running + s->n_waiting == 0 || is_anyone_late(s));
    return &s->step;
}

// The block can be shared from now on; or, where another one has its content already, is given back
// for that.
static void share(struct sched *s, struct sequence *q, uint32_t i)
{
    uint32_t *block = &q->table.block[i];
    const int32_t *token = &q->token[i * KV_BLOCK_TOKENS];
    if (kv_pool_publish(s->pool, *block, &q->key[i], token))
        return;
    uint32_t same = kv_pool_find(s->pool, &q->key[i], token);
    if (same == KV_BLOCK_NONE)
        return;
    kv_pool_unref(s->pool, *block);
    *block = same;
}

// The blocks that rows [from, n_computed) completed can be shared from now on.
static void publish(struct sched *s, struct sequence *q, uint32_t from)
{
    for (uint32_t i = from / KV_BLOCK_TOKENS; i < q->n_computed / KV_BLOCK_TOKENS; i++) {
        if (!q->reuse) {
            kv_pool_seal(s->pool, q->table.block[i]);
            continue;
        }
        seq_make_keys(q, i + 1);
        share(s, q, i);
    }
}

void sched_commit(struct sched *s)
{
    for (uint32_t i = 0; i < s->step.n_items; i++) {
        struct sequence *q = s->step.item[i].seq;
        uint32_t from = q->n_computed;
        if (s->step.item[i].missed)
            continue;
        q->n_computed += s->step.item[i].n_rows;
        publish(s, q, from);
        if (q->state == SEQ_PREFILL && seq_pending(q) == 0)
            seq_move(q, SEQ_DECODE);
    }
}

void sched_loaded(struct sched *s, struct sequence *q)
{
    assert(q->state == SEQ_LOADING && q->n_computed < q->n_stored * KV_BLOCK_TOKENS);
    q->n_computed += KV_BLOCK_TOKENS;
    publish(s, q, q->n_computed - KV_BLOCK_TOKENS);
    if (q->n_preempted == 0)
        q->n_cached = q->n_computed;
}

void sched_load_end(struct sequence *q)
{
    seq_move(q, SEQ_PREFILL);
}

uint64_t sched_expect_ns(const struct sched *s, uint32_t pos0, uint32_t n_rows)
{
    double ns = cost_predict(&s->cost, cost_add((struct step_work){0}, pos0, n_rows));
    return ns <= 0 ? 0 : (uint64_t)MIN(ns, 1e18);
}

void sched_learn(struct sched *s, uint64_t step_ns)
{
    sched_learn_work(s, s->step.work, step_ns);
}

void sched_learn_work(struct sched *s, struct step_work w, uint64_t step_ns)
{
    cost_learn(&s->cost, w, step_ns);
}
