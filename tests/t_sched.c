// The scheduler over seeds: random clients, prompts with common beginnings, cancellations and a
// pool that is too small, with a simulated executor.
//
// The simulated KV of a block is the tokens that were written into it. Before a row runs,
// everything that its table shows must be the sequence's own text: that catches a block shared or
// reused wrongly. The next token is a hash of all tokens before it, so a sequence's text is known
// in advance.
#include "tests/test.h"
#include <errno.h>
#include "engine/run/sched.h"
#include "base/base.h"

enum { CLIENTS = 4, LIVE_MAX = 40 };

static uint64_t rng_state;

static uint64_t rng(uint64_t n)
{
    rng_state ^= rng_state << 13;
    rng_state ^= rng_state >> 7;
    rng_state ^= rng_state << 17;
    return (rng_state >> 11) % n;
}

// ---- a simulated engine ----

struct sim_seq {
    struct sequence seq;
    int32_t         tail;           // hash of its text so far, at n_hashed tokens
    uint32_t        n_scored;
    uint32_t        n_begun, n_preempted;   // blocks that steps wrote into, since that preemption
    uint64_t        added_step, n_done_steps;
    bool            used;
};

struct sim {
    struct sched_params  p;
    struct sched        *sched;
    struct kv_pool      *pool;
    int32_t            (*kv)[KV_BLOCK_TOKENS];  // (n_blocks)
    struct sim_seq       seq[LIVE_MAX];
    uint32_t             n_live;
    uint64_t             n_steps, now_ns, served[CLIENTS], finished, cancelled;
    uint64_t             longest_wait;          // steps from submission to the end
    uint64_t             n_recomputed;          // generated rows that ran again
    uint64_t             n_loaded;              // blocks
    uint32_t             room;                  // blocks that the last step could begin
    uint64_t             n_missed, n_lost;      // items of steps
    double               row_ns, depth_ns, step_ns;
};

static int32_t next_token(const int32_t *token, uint32_t n)
{
    uint32_t h = 2166136261u;
    for (uint32_t i = 0; i < n; i++)
        h = (h ^ (uint32_t)token[i]) * 16777619u;
    return (int32_t)(h >> 8 & 0xffff);
}

static void sim_open(struct sim *m, const struct sched_params *p, uint32_t n_blocks)
{
    struct err e;
    *m = (struct sim){.p = *p, .row_ns = 1e5, .depth_ns = 20, .step_ns = 2e6};
    REQUIRE_OK(kv_pool_create(&m->pool, n_blocks, &e), e);
    REQUIRE_OK(sched_create(&m->sched, p, m->pool, &e), e);
    m->kv = calloc(n_blocks, sizeof *m->kv);
}

static void sim_close(struct sim *m)
{
    REQUIRE_INT(m->n_live, 0);
    REQUIRE_INT(kv_pool_n_used(m->pool), 0);
    REQUIRE_INT(kv_pool_n_available(m->pool), kv_pool_n_blocks(m->pool));
    REQUIRE_INT(sched_stats(m->sched).n_running + sched_stats(m->sched).n_waiting, 0);
    sched_destroy(m->sched);
    kv_pool_destroy(m->pool);
    free(m->kv);
}

// A prompt of n tokens from one of a few families that share beginnings.
static struct sim_seq *sim_add(struct sim *m, uint64_t client, uint32_t family, uint32_t n,
                               uint32_t n_new, bool reuse, bool score)
{
    REQUIRE(m->n_live < LIVE_MAX);
    struct sim_seq *q = m->seq;
    while (q->used)
        q++;
    int32_t *token = malloc(n * sizeof *token);
    for (uint32_t i = 0; i < n; i++)
        token[i] = (int32_t)((i < 300 ? family * 7919 : rng(50000)) + i * 31);
    struct seq_params p = {.token = token, .n_tokens = n, .n_max = n + n_new, .reuse = reuse,
                           .score = score, .client = client};
    *q = (struct sim_seq){.used = true, .added_step = m->n_steps};
    REQUIRE_INT(seq_init(&q->seq, &p), 0);
    free(token);
    sched_add(m->sched, &q->seq);
    m->n_live++;
    return q;
}

static void sim_end(struct sim *m, struct sim_seq *q)
{
    sched_remove(m->sched, &q->seq);
    REQUIRE_INT(q->seq.state, SEQ_DONE);
    m->longest_wait = MAX(m->longest_wait, m->n_steps - q->added_step);
    seq_finish(&q->seq);
    q->used = false;
    m->n_live--;
}

static void run_item(struct sim *m, const struct sched_item *it)
{
    struct sequence *q = it->seq;
    uint32_t n = q->n_computed + it->n_rows;
    REQUIRE(q->state == SEQ_PREFILL || q->state == SEQ_DECODE);
    REQUIRE(n <= q->n_tokens && n <= q->table.n_blocks * KV_BLOCK_TOKENS);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t b = q->table.block[i / KV_BLOCK_TOKENS];
        int32_t *at = &m->kv[b][i % KV_BLOCK_TOKENS];
        if (i < q->n_computed) {
            REQUIRE_INT(*at, q->token[i]);
            continue;
        }
        REQUIRE_INT(kv_pool_state(m->pool, b), KV_FILLING);
        REQUIRE_INT(kv_pool_refs(m->pool, b), 1);
        *at = q->token[i];
    }
    m->served[q->client % CLIENTS] += it->n_rows;
    m->n_recomputed += it->decode ? it->n_rows - (n == q->n_tokens) : 0;
}

// Two of three keys are stored.
static bool is_stored(void *ctx, const struct hash *key)
{
    (void)ctx;
    return hash_short(key) % 3 != 0;
}

static uint32_t n_loading(const struct sim *m)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < LIVE_MAX; i++)
        n += m->seq[i].used && m->seq[i].seq.state == SEQ_LOADING;
    return n;
}

// The store gives some of what is waited for, or fails.
static void load_some(struct sim *m)
{
    for (uint32_t i = 0; i < LIVE_MAX; i++) {
        struct sequence *q = &m->seq[i].seq;
        if (!m->seq[i].used || q->state != SEQ_LOADING)
            continue;
        for (uint64_t n = rng(4); n > 0 && q->n_computed < q->n_stored * KV_BLOCK_TOKENS; n--) {
            uint32_t b = q->table.block[q->n_computed / KV_BLOCK_TOKENS];
            REQUIRE_INT(kv_pool_state(m->pool, b), KV_FILLING);
            memcpy(m->kv[b], &q->token[q->n_computed], sizeof m->kv[b]);
            sched_loaded(m->sched, q);
            m->n_loaded++;
        }
        if (q->n_computed == q->n_stored * KV_BLOCK_TOKENS || rng(10) == 0)
            sched_load_end(q);
    }
}

// ---- paging: few blocks may be begun, steps are void for some, blocks are lost ----

static uint32_t some_room(void *sim)
{
    struct sim *m = sim;
    return m->room = (uint32_t)rng(4);
}

// What a void step began needs no room again, until a preemption.
static uint32_t begun_blocks(const struct sched_step *t)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < t->n_items; i++) {
        struct sim_seq *q = container_of(t->item[i].seq, struct sim_seq, seq);
        uint32_t from = DIV_UP(q->seq.n_computed, KV_BLOCK_TOKENS);
        uint32_t to = DIV_UP(q->seq.n_computed + t->item[i].n_rows, KV_BLOCK_TOKENS);
        if (q->n_preempted != q->seq.n_preempted)
            q->n_begun = 0;
        q->n_preempted = q->seq.n_preempted;
        from = MAX(from, q->n_begun);
        n += to > from ? to - from : 0;
        q->n_begun = MAX(q->n_begun, to);
    }
    return n;
}

static void miss_some(struct sim *m, const struct sched_step *t)
{
    for (uint32_t i = 0; m->p.room && i < t->n_items; i++) {
        struct sched_item *it = &t->item[i];
        if (rng(6) > 0)
            continue;
        it->missed = true;
        m->n_missed++;
        it->seq->held = rng(2) == 0;
        if (rng(8) == 0) {
            m->n_lost++;
            sched_restart(m->sched, it->seq);
            REQUIRE(!it->seq->held);
        }
    }
}

static void release_some(struct sim *m)
{
    for (uint32_t i = 0; i < LIVE_MAX; i++)
        m->seq[i].seq.held &= m->seq[i].used && rng(3) > 0;
}

// ---- a step ----

static void check_step(const struct sim *m, const struct sched_step *t)
{
    uint32_t rows = 0, out = 0, decoding = 0, in_step = 0;
    for (uint32_t i = 0; i < t->n_items; i++) {
        const struct sched_item *it = &t->item[i];
        const struct sequence *q = it->seq;
        rows += it->n_rows;
        out += it->n_out;
        in_step += q->state == SEQ_DECODE;
        // an item is all prompt or all generated, and those come first
        REQUIRE_INT(it->decode, q->n_computed >= q->n_prompt);
        REQUIRE(it->decode || q->n_computed + it->n_rows <= q->n_prompt);
        REQUIRE(i == 0 || it->decode <= it[-1].decode);
        for (uint32_t j = 0; j < i; j++)
            REQUIRE(t->item[i].seq != t->item[j].seq);
    }
    for (uint32_t i = 0; i < LIVE_MAX; i++)
        decoding += m->seq[i].used && m->seq[i].seq.state == SEQ_DECODE;
    REQUIRE_INT(rows, t->n_rows);
    REQUIRE_INT(out, t->n_out);
    REQUIRE(rows <= m->p.rows_max && out <= m->p.outputs_max && t->n_items <= m->p.seqs_max);
    REQUIRE(m->p.room || decoding == in_step);      // no decode is skipped for a prompt
    REQUIRE(rows > 0 || m->n_live == 0 || n_loading(m) > 0 || m->p.room);
    REQUIRE(!m->p.room || begun_blocks(t) <= m->room);
    for (uint32_t i = 0; i < t->n_items; i++)
        REQUIRE(!t->item[i].seq->held);
}

static void after_item(struct sim *m, const struct sched_item *it, uint32_t from)
{
    struct sim_seq *q = container_of(it->seq, struct sim_seq, seq);
    struct sequence *s = &q->seq;
    uint32_t to = from + it->n_rows;
    for (uint32_t i = MAX(from, s->out_from); i < MIN(to, s->out_to); i++, q->n_scored++)
        REQUIRE_INT(i, q->n_scored);        // every scored row once and in order
    s->out_from = MAX(s->out_from, to);
    if (seq_pending(s) > 0)
        return;
    // the text must be what it is without any batch, preemption or cache
    if (s->n_tokens > s->n_prompt)
        REQUIRE_INT(s->token[s->n_tokens - 1], next_token(s->token, s->n_tokens - 1));
    if (s->n_tokens < s->n_max) {
        seq_push(s, next_token(s->token, s->n_tokens));
        return;
    }
    if (s->out_to > 0)
        REQUIRE_INT(q->n_scored, s->n_prompt - 1);
    m->finished++;
    sim_end(m, q);
}

static void sim_step(struct sim *m)
{
    static uint32_t from[BATCH_SEQS_MAX];
    const struct sched_step *t = sched_plan(m->sched);
    check_step(m, t);
    for (uint32_t i = 0; i < t->n_items; i++) {
        from[i] = t->item[i].seq->n_computed;
        run_item(m, &t->item[i]);
    }
    double ns = m->step_ns + m->row_ns * t->work.rows + m->depth_ns * t->work.depth;
    m->now_ns += (uint64_t)ns;
    m->n_steps++;
    miss_some(m, t);
    sched_commit(m->sched);
    for (uint32_t i = 0; i < t->n_items; i++)
        if (!t->item[i].missed)
            after_item(m, &t->item[i], from[i]);
    sched_learn(m->sched, (uint64_t)ns);
}

static const struct sched_params small = {
    .rows_max = 128, .seqs_max = 8, .outputs_max = 16, .live_max = LIVE_MAX,
    .max_step_ns = 10000000,
};

static struct sim sim;

// ---- properties ----

static void random_load(const struct sched_params *p, uint64_t seed, uint32_t n_blocks, bool reuse)
{
    rng_state = seed * 0x9e3779b97f4a7c15u + 1;
    sim_open(&sim, p, n_blocks);
    uint32_t tokens_max = n_blocks * KV_BLOCK_TOKENS, added = 0;
    for (uint32_t step = 0; step < 500; step++) {
        if (sim.n_live < LIVE_MAX && rng(4) == 0) {
            uint32_t n = 1 + (uint32_t)rng(MIN(700, tokens_max - 1));
            uint32_t n_new = 1 + (uint32_t)rng(MIN(200, tokens_max - n));
            sim_add(&sim, rng(CLIENTS), (uint32_t)rng(3), n, n_new, reuse, rng(8) == 0);
            added++;
        }
        if (rng(12) == 0) {     // a cancellation, in whatever state
            struct sim_seq *q = &sim.seq[rng(LIVE_MAX)];
            if (q->used) {
                sim.cancelled++;
                sim_end(&sim, q);
            }
        }
        load_some(&sim);
        release_some(&sim);
        sim_step(&sim);
    }
    for (uint32_t step = 0; sim.n_live > 0; step++) {
        REQUIRE(step < 20000);
        load_some(&sim);
        release_some(&sim);
        sim_step(&sim);
    }
    REQUIRE_INT(sim.finished + sim.cancelled, added);
    REQUIRE((sim.n_loaded > 0) == (p->is_stored && reuse));
    REQUIRE((sim.n_missed > 0 && sim.n_lost > 0) == (p->room != NULL));
    sim_close(&sim);
}

TEST(random_loads)
{
    for (uint64_t seed = 1; seed <= 40; seed++) {
        random_load(&small, seed, 64, true);
        random_load(&small, seed, 16, true);
        random_load(&small, seed, 12, false);
    }
}

TEST(random_loads_with_a_store)
{
    struct sched_params p = small;
    p.is_stored = is_stored;
    for (uint64_t seed = 1; seed <= 40; seed++) {
        random_load(&p, seed, 64, true);
        random_load(&p, seed, 14, true);
        random_load(&p, seed, 16, false);
    }
}

TEST(random_loads_with_paging)
{
    struct sched_params p = small;
    p.is_stored = is_stored;
    p.room = some_room;
    p.room_ctx = &sim;
    for (uint64_t seed = 1; seed <= 40; seed++) {
        random_load(&p, seed, 64, true);
        random_load(&p, seed, 14, true);
    }
}

// More work than the pool holds: preemption happens, everything finishes, and the texts (checked in
// after_item) are those of an undisturbed run.
TEST(preemption_keeps_texts)
{
    rng_state = 7;
    sim_open(&sim, &small, 16);
    for (uint32_t i = 0; i < 8; i++)
        sim_add(&sim, i % CLIENTS, i, 100, 300, i % 2, false);
    for (uint32_t step = 0; sim.n_live > 0; step++) {
        REQUIRE(step < 20000);
        sim_step(&sim);
    }
    REQUIRE_INT(sim.finished, 8);
    REQUIRE(sched_stats(sim.sched).preemptions > 0);
    REQUIRE(sim.n_recomputed > 0);
    sim_close(&sim);
}

// One client keeps coming with long prompts; another one's short request must not wait for them
// all.
TEST(no_starvation_under_adversarial_arrivals)
{
    rng_state = 99;
    sim_open(&sim, &small, 48);
    uint64_t longest = 0;
    for (uint32_t round = 0; round < 60; round++) {
        while (sim.n_live < LIVE_MAX - 1)
            sim_add(&sim, 0, 100 + (uint32_t)rng(1000), 500, 100, true, false);
        struct sim_seq *q = sim_add(&sim, 1, 5 + round, 40, 4, true, false);
        uint64_t start = sim.n_steps;
        while (q->used && q->added_step == start && sim.n_steps < start + 1000)
            sim_step(&sim);
        REQUIRE(sim.n_steps < start + 1000);
        longest = MAX(longest, sim.n_steps - start);
    }
    // 40 rows and 4 tokens need about 6 steps alone
    if (longest > 30)
        TEST_FAIL("a short request took %llu steps", (unsigned long long)longest);
    // and the flooding client's own oldest finish too
    uint64_t before = sim.finished;
    for (uint32_t step = 0; step < 3000; step++)
        sim_step(&sim);
    REQUIRE(sim.finished > before || sim.n_live == 0);
    while (sim.n_live > 0)
        sim_step(&sim);
    sim_close(&sim);
}

// Two clients with endless work get equal shares, however many requests each keeps in the queue.
TEST(clients_get_equal_shares)
{
    rng_state = 3;
    sim_open(&sim, &small, 200);
    for (uint32_t step = 0; step < 2000; step++) {
        uint32_t n[2] = {0, 0};
        for (uint32_t i = 0; i < LIVE_MAX; i++)
            if (sim.seq[i].used)
                n[sim.seq[i].seq.client]++;
        while (n[0] < 30) {
            sim_add(&sim, 0, (uint32_t)rng(100000), 400, 10, true, false);
            n[0]++;
        }
        while (n[1] < 2) {
            sim_add(&sim, 1, (uint32_t)rng(100000), 400, 10, true, false);
            n[1]++;
        }
        if (step == 200)        // once both have settled
            sim.served[0] = sim.served[1] = 0;
        sim_step(&sim);
    }
    double share = (double)sim.served[0] / (double)(sim.served[0] + sim.served[1]);
    if (share < 0.45 || share > 0.55)
        TEST_FAIL("client 0 got %.3f of the rows", share);
    for (uint32_t i = 0; i < LIVE_MAX; i++)
        if (sim.seq[i].used)
            sim_end(&sim, &sim.seq[i]);
    sim_close(&sim);
}

// Steps that hold prompts stay near the goal once the cost is learned, whatever it is.
TEST(steps_keep_to_their_time)
{
    static const double row_ns[] = {2e4, 2e5, 8e5};
    for (unsigned c = 0; c < ARRAY_LEN(row_ns); c++) {
        rng_state = 11 + c;
        struct sched_params p = small;
        p.rows_max = 512;
        p.outputs_max = 512;
        p.max_step_ns = 20000000;
        sim_open(&sim, &p, 400);
        sim.row_ns = row_ns[c];
        sim_add(&sim, 0, 1, 30, 2000, true, false);
        uint64_t worst = 0;
        for (uint32_t step = 0; step < 600; step++) {
            if (sim.n_live < 3)
                sim_add(&sim, 1, (uint32_t)rng(100000), 1000 + (uint32_t)rng(3000), 5, true, false);
            uint64_t t = sim.now_ns;
            sim_step(&sim);
            if (step > 100)
                worst = MAX(worst, sim.now_ns - t);
        }
        // CHUNK_MIN rows always run, and on the slowest machine those alone take 15 ms
        if (worst > 30000000)
            TEST_FAIL("row %.0f ns: a step took %.1f ms", row_ns[c], worst / 1e6);
        for (uint32_t i = 0; i < LIVE_MAX; i++)
            if (sim.seq[i].used)
                sim_end(&sim, &sim.seq[i]);
        sim_close(&sim);
    }
}

// A prompt with the machine to itself runs in the largest steps, though each takes longer than the
// goal: what a step costs beside its rows hardly counts.
TEST(a_lone_prompt_is_hardly_slowed_by_chunks)
{
    struct sched_params p = small;
    p.rows_max = 512;
    p.max_step_ns = 100000000;
    sim_open(&sim, &p, 400);
    sim.row_ns = 1e6;
    sim.step_ns = 5e7;
    sim.depth_ns = 0;
    sim_add(&sim, 0, 1, 2048, 1, false, false);     // by then the cost is known
    while (sim.n_live > 0)
        sim_step(&sim);
    uint64_t start = sim.now_ns, first = sim.n_steps;
    sim_add(&sim, 0, 2, 4096, 1, false, false);
    while (sim.n_live > 0)
        sim_step(&sim);
    double whole_steps = 4096 * sim.row_ns + 4096 / 512 * sim.step_ns;
    if ((double)(sim.now_ns - start) > 1.03 * whole_steps)
        TEST_FAIL("%.0f ms in %llu steps, not %.0f ms", (double)(sim.now_ns - start) / 1e6,
                  (unsigned long long)(sim.n_steps - first), whole_steps / 1e6);
    sim_close(&sim);
}

// The last chunk of a short prompt is not followed by another prompt's rows beyond the goal.
TEST(a_short_prompt_does_not_wait_for_a_long_one_beside_it)
{
    struct sched_params p = small;
    p.rows_max = 512;
    p.max_step_ns = 100000000;
    sim_open(&sim, &p, 400);
    sim.row_ns = 1e6;
    sim.step_ns = 2e7;
    sim_add(&sim, 0, 1, 8000, 1, false, false);
    for (int i = 0; i < 10; i++)
        sim_step(&sim);
    sim_add(&sim, 1, 2, 30, 0, false, false);     // ends with its prompt
    uint64_t start = 0;
    for (uint32_t steps = 0; sim.n_live > 1; steps++) {
        REQUIRE(steps < 4);
        start = sim.now_ns;
        sim_step(&sim);
    }
    REQUIRE(sim.now_ns - start < 150000000);
    while (sim.n_live > 0)
        sim_step(&sim);
    sim_close(&sim);
}

// What a step costs beyond twice the largest one measured is a guess that nobody shall wait for.
TEST(steps_grow_by_doubling)
{
    struct sched_params p = small;
    p.rows_max = 1024;
    sim_open(&sim, &p, 200);
    sim.row_ns = 10;
    sim.step_ns = sim.depth_ns = 0;
    sim_add(&sim, 0, 1, 4000, 1, true, false);
    uint32_t largest = 16;
    while (sim.n_live > 0) {
        uint64_t before = sim.served[0];
        sim_step(&sim);
        uint32_t rows = (uint32_t)(sim.served[0] - before);
        REQUIRE(rows <= 2 * largest);
        largest = MAX(largest, rows);
    }
    REQUIRE(largest > 500);
    sim_close(&sim);
}

// n choices of one prompt: it is computed once, though a step would have room for several.
TEST(equal_prompts_are_computed_once)
{
    rng_state = 5;
    sim_open(&sim, &small, 200);
    sim.row_ns = 1000;
    sim_add(&sim, 1, 2, 2000, 1, true, false);      // makes it learn
    while (sim.n_live > 0)
        sim_step(&sim);
    for (uint32_t i = 0; i < 6; i++)
        sim_add(&sim, 0, 1, 100, 4, true, false);
    while (sim.n_live > 0)
        sim_step(&sim);
    // 100 rows once; then 100 - 64 and the generated ones for each of the others
    REQUIRE_INT(sim.served[0], 100 + 5 * (100 - 64) + 6 * 4);
    sim_close(&sim);
}

TEST(cached_prefix_is_reported_and_never_whole)
{
    rng_state = 5;
    sim_open(&sim, &small, 64);
    sim_add(&sim, 0, 1, 256, 1, true, false);
    while (sim.n_live > 0)
        sim_step(&sim);
    struct sim_seq *q = sim_add(&sim, 0, 1, 256, 1, true, false);
    sched_plan(sim.sched);
    REQUIRE_INT(q->seq.n_cached, 192);      // the block of the last token is computed again
    sim_end(&sim, q);
    q = sim_add(&sim, 0, 1, 257, 1, true, false);
    sched_plan(sim.sched);
    REQUIRE_INT(q->seq.n_cached, 256);
    sim_end(&sim, q);
    q = sim_add(&sim, 0, 1, 257, 1, true, true);
    sched_plan(sim.sched);
    REQUIRE_INT(q->seq.n_cached, 0);        // scoring needs the logits of every row
    sched_forget(sim.sched, &q->seq);
    sim_end(&sim, q);
    sim_close(&sim);
}

TEST_MAIN
