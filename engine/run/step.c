// The engine thread: takes submissions, ends what was cancelled or is late, and runs step after
// step.
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <poll.h>
#include <unistd.h>
#include "engine/run/paged.h"
#include "engine/run/sessions.h"
#include "engine/run/stored.h"
#include "base/clock.h"

// A step that takes longer than this is a lost device. Even a software device is faster, since the
// scheduler sizes steps by time.
#define STEP_TIMEOUT_NS (120 * NS_PER_S)
// How often an idle engine says that it is alive.
#define IDLE_NS (NS_PER_S / 2)
// How often one looks whether requests are cancelled or late that all wait for the store.
#define STARVED_NS (10 * NS_PER_MS)

// ---- jobs ----

static struct job *job_of(struct sequence *q) { return container_of(q, struct job, seq); }

static void job_link(struct engine *e, struct job *j)
{
    j->prev = NULL;
    j->next = e->jobs;
    if (j->next)
        j->next->prev = j;
    e->jobs = j;
    sched_add(e->sched, &j->seq);
}

static void job_unlink(struct engine *e, struct job *j)
{
    if (j->next)
        j->next->prev = j->prev;
    if (j->prev)
        j->prev->next = j->next;
    else
        e->jobs = j->next;
    sched_remove(e->sched, &j->seq);
}

static void stats_refresh_locked(struct engine *e)
{
    struct sched_stats s = sched_stats(e->sched);
    e->stats.running = s.n_running;
    e->stats.preemptions = s.preemptions;
    e->stats.kv_blocks_used = kv_pool_n_used(e->pool);
    e->stats.kv_blocks_cached = kv_pool_n_cached(e->pool);
    e->stats.prompt_tokens = e->n_prompt;
    e->stats.cached_tokens = e->n_cached;
    e->stats.generated_tokens = e->n_generated;
    if (e->x->ops->kv_homes)
        e->x->ops->kv_homes(e->prog, &e->stats.kv);
    stored_stats(e->stored, &e->stats.store);
    paged_stats(e->paged, &e->stats.paging);
}

static void count_end(struct engine *e, const struct job *j, enum finish_reason reason)
{
    struct engine_stats *s = &e->stats;
    pthread_mutex_lock(&e->lock);
    s->requests_stop += reason == FINISH_STOP;
    s->requests_length += reason == FINISH_LENGTH;
    s->requests_cancelled += reason == FINISH_CANCELLED;
    s->requests_error += reason == FINISH_ERROR || reason == FINISH_DEADLINE;
    s->blocks_read += j->usage.blocks_read;
    s->blocks_held += j->usage.blocks_held;
    stats_refresh_locked(e);
    e->n_live--;
    pthread_mutex_unlock(&e->lock);
}

static void finish_usage(struct job *j)
{
    uint64_t now = clock_now_ns();
    uint64_t started = j->started_ns ? j->started_ns : now, first = j->first_ns ? j->first_ns : now;
    j->usage.queued_ns = started - j->submitted_ns;
    j->usage.prefill_ns = first - started;
    j->usage.decode_ns = now - first;
    j->usage.cached_tokens = j->seq.n_cached;
}

void job_end(struct engine *e, struct job *j, enum finish_reason reason, const struct err *err)
{
    job_flush_text(e, j);
    finish_usage(j);
    stored_leave(e->stored, j);
    sessions_job_ends(e->sessions, j, reason);
    job_unlink(e, j);
    count_end(e, j, reason);        // before the reader can know: then what it asks for next fits
    struct delta done = {
        .kind = DELTA_DONE, .reason = reason, .usage = j->usage, .time_ns = clock_now_ns(),
    };
    if (err)
        done.err = *err;
    stream_finish(j->stream, &done);
    job_destroy(j);
}

static void end_all(struct engine *e, enum finish_reason reason, const struct err *err)
{
    while (e->jobs)
        job_end(e, e->jobs, reason, err);
}

static void end_cancelled(struct engine *e)
{
    uint64_t now = clock_now_ns();
    for (struct job *j = e->jobs, *next; j; j = next) {
        next = j->next;
        if (stream_cancelled(j->stream))
            job_end(e, j, FINISH_CANCELLED, NULL);
        else if (j->deadline_ns && now >= j->deadline_ns)
            job_end(e, j, FINISH_DEADLINE, NULL);
    }
}

// ---- a step ----

// What is needed of the output at this position: of rows that say how likely the prompt was, all.
static struct out_want want_of(const struct job *j, uint32_t pos)
{
    const struct sequence *q = &j->seq;
    struct out_want want = {.draw = -1};
    if ((pos < q->out_from || pos >= q->out_to) && q->n_tokens < q->n_max)
        sampler_want(&j->sampler, &want);
    return want;
}

// One sequence's rows and outputs go into the batch behind what is there.
static void batch_add(struct engine *e, const struct sched_item *it, uint32_t *n_rows,
                      uint32_t *n_out)
{
    const struct sequence *q = it->seq;
    uint32_t pos0 = q->n_computed, row0 = *n_rows;
    e->batch_seq[e->batch.n_seqs++] = (struct batch_seq){
        .block = q->table.block, .n_blocks = DIV_UP(pos0 + it->n_rows, KV_BLOCK_TOKENS),
        .row0 = row0, .n_rows = it->n_rows, .pos0 = pos0, .decode = it->decode,
        .attn = job_of(it->seq)->attn,
    };
    memcpy(&e->batch_token[row0], &q->token[pos0], it->n_rows * sizeof *q->token);
    for (uint32_t i = 0; i < it->n_rows && it->n_out > 0; i++) {
        if (!seq_is_output(q, pos0 + i))
            continue;
        if (e->batch.want)
            e->batch_want[*n_out] = want_of(job_of(it->seq), pos0 + i);
        e->batch_out[(*n_out)++] = row0 + i;
    }
    *n_rows += it->n_rows;
}

// What the device computed last is not known, so nothing of it is believed again.
static void mark_failed(struct engine *e, const struct err *err)
{
    pthread_mutex_lock(&e->lock);
    e->stats.failed = true;
    if (err)
        e->stats.failure = *err;
    pthread_mutex_unlock(&e->lock);
}

static void mark_written(struct engine *e)
{
    for (uint32_t i = 0; e->paged && i < e->batch.n_seqs; i++) {
        const struct batch_seq *s = &e->batch_seq[i];
        for (uint32_t b = s->pos0 / KV_BLOCK_TOKENS; b < s->n_blocks; b++)
            paged_write(e->paged, s->block[b]);
    }
}

int engine_run_batch(struct engine *e, uint32_t n_rows, uint32_t n_seqs, uint32_t n_out,
                     struct err *err)
{
    const struct executor_ops *ops = e->x->ops;
    e->batch.n_rows = n_rows;
    e->batch.n_seqs = n_seqs;
    e->batch.n_out = n_out;
    e->batch.logits = NULL;
    e->batch.top = NULL;
    mark_written(e);
    int r = ops->submit(e->prog, &e->batch, err);
    if (r == 0)
        r = ops->wait(e->prog, STEP_TIMEOUT_NS, err);
    if (r < 0 && r != -ENOMEM)
        mark_failed(e, err);
    assert(r < 0 || n_out == 0 || e->batch.logits || (e->batch.want && e->batch.top));
    return r;
}

int engine_read_logits(struct engine *e, uint32_t out, uint32_t first, uint32_t n, float *dst,
                       struct err *err)
{
    int r = e->x->ops->logits_read(e->prog, out, first, n, dst, err);
    if (r < 0)
        mark_failed(e, err);
    return r;
}

static void start(struct engine *e, struct job *j)
{
    j->started_ns = clock_now_ns();
    e->n_prompt += j->seq.n_prompt;
    e->n_cached += j->seq.n_cached;
    stored_note(e->stored, &j->seq, 0, j->seq.n_computed / KV_BLOCK_TOKENS);
}

static int run_planned(struct engine *e, const struct sched_step *t, struct err *err)
{
    uint32_t n_rows = 0, n_out = 0;
    e->batch.n_seqs = 0;
    e->batch.want = e->x->ops->logits_read ? e->batch_want : NULL;
    for (uint32_t i = 0; i < t->n_items; i++) {
        struct job *j = job_of(t->item[i].seq);
        if (!j->started_ns)
            start(e, j);
        batch_add(e, &t->item[i], &n_rows, &n_out);
    }
    assert(n_rows == t->n_rows && n_out == t->n_out);
    e->batch.stall_ns = paged_stall_ns(e->paged, t);
    int r = engine_run_batch(e, n_rows, t->n_items, n_out, err);
    e->batch.want = NULL;               // whoever else runs a batch takes whole rows
    return r;
}

static void take_outputs(struct engine *e, const struct sched_step *t)
{
    uint32_t out0 = 0;
    for (uint32_t i = 0; i < t->n_items; i++) {
        const struct sched_item *it = &t->item[i];
        uint32_t out = out0;
        out0 += it->n_out;
        if (it->missed)
            continue;
        struct job *j = job_of(it->seq);
        j->usage.blocks_read += e->batch_seq[i].blocks_read;
        j->usage.blocks_held += e->batch_seq[i].blocks_held;
        if (it->n_out > 0)
            job_outputs(e, j, it, e->batch_seq[i].pos0, out);
    }
}

static void end_hopeless(struct engine *e, const struct sched_step *t)
{
    struct err err;
    err_set(&err, -EIO, "the KV store loses what it was given");
    for (uint32_t i = 0; i < t->n_items; i++)
        if (t->item[i].missed && paged_is_hopeless(t->item[i].seq))
            job_end(e, job_of(t->item[i].seq), FINISH_ERROR, &err);
}

static void count_step(struct engine *e, const struct sched_step *t)
{
    pthread_mutex_lock(&e->lock);
    e->stats.steps++;
    e->stats.step_rows += t->n_rows;
    stats_refresh_locked(e);
    pthread_mutex_unlock(&e->lock);
}

static void count_time(struct engine *e, uint64_t start_ns, uint64_t end_ns)
{
    pthread_mutex_lock(&e->lock);
    e->stats.step_ns += end_ns - start_ns;
    e->stats.last_step_ns = end_ns;
    pthread_mutex_unlock(&e->lock);
}

// A batch for which there was no memory never began: whoever was in it ends, the others go on.
static void end_step(struct engine *e, const struct sched_step *t, const struct err *err)
{
    for (uint32_t i = 0; i < t->n_items; i++)
        job_end(e, job_of(t->item[i].seq), FINISH_ERROR, err);
}

// The blocks that a step completed are to be stored.
static void note_blocks(struct engine *e, const struct sched_step *t)
{
    for (uint32_t i = 0; i < t->n_items; i++) {
        const struct sequence *q = t->item[i].seq;
        if (t->item[i].missed)
            continue;
        uint32_t from = q->n_computed - t->item[i].n_rows;
        stored_note(e->stored, q, from / KV_BLOCK_TOKENS, q->n_computed / KV_BLOCK_TOKENS);
    }
}

static void run_step(struct engine *e)
{
    const struct sched_step *t = sched_plan(e->sched);
    struct err err = {0};
    e->starved = t->n_items == 0;
    if (e->starved)
        return;
    uint64_t start_ns = clock_now_ns();
    int r = run_planned(e, t, &err);
    if (r == -ENOMEM) {
        end_step(e, t, &err);
        return;
    }
    if (r < 0) {
        end_all(e, FINISH_ERROR, &err);
        return;
    }
    uint64_t wait_ns;
    bool whole = paged_step_end(e->paged, t, &wait_ns);
    sched_commit(e->sched);
    note_blocks(e, t);
    count_step(e, t);               // before the readers of its tokens can ask
    take_outputs(e, t);
    end_hopeless(e, t);
    uint64_t end_ns = clock_now_ns();       // sampling is part of what a step costs
    if (whole)
        sched_learn(e->sched, end_ns - start_ns - MIN(wait_ns, end_ns - start_ns));
    count_time(e, start_ns, end_ns);
}

// ---- the loop ----

void engine_wake(struct engine *e)
{
    uint64_t one = 1;
    ssize_t n = write(e->wake_fd, &one, sizeof one);
    assert(n == sizeof one);
    (void)n;
}

static bool has_work_locked(const struct engine *e)
{
    return e->queue || e->closing || e->call || (e->jobs && !e->starved);
}

// Until there is something new, the store has something, or the time is over.
static void idle_wait(struct engine *e)
{
    struct pollfd fd[2] = {{.fd = e->wake_fd, .events = POLLIN},
                           {.fd = stored_fd(e->stored), .events = POLLIN}};
    uint64_t ns = sessions_wait_ns(e->sessions, e->jobs ? STARVED_NS : IDLE_NS), seen;
    ns = stored_wait_ns(e->stored, ns);
    struct timespec ts = {(time_t)(ns / NS_PER_S), (long)(ns % NS_PER_S)};
    ppoll(fd, 2, &ts, NULL);
    if (fd[0].revents & POLLIN) {
        ssize_t n = read(e->wake_fd, &seen, sizeof seen);
        assert(n == sizeof seen);
        (void)n;
    }
}

// Moves submitted requests to the scheduler; waits a while when there is nothing to do. False:
// close.
static bool take_work(struct engine *e, struct engine_call **call)
{
    pthread_mutex_lock(&e->lock);
    if (!has_work_locked(e)) {
        e->stats.last_step_ns = clock_now_ns();
        stored_stats(e->stored, &e->stats.store);
        pthread_mutex_unlock(&e->lock);
        idle_wait(e);
        pthread_mutex_lock(&e->lock);
    }
    struct job *queue = e->queue;
    e->queue = NULL;
    e->queue_end = &e->queue;
    bool open = !e->closing;
    *call = e->call;
    pthread_mutex_unlock(&e->lock);
    while (queue) {
        struct job *next = queue->next;
        job_link(e, queue);
        queue = next;
    }
    return open;
}

// Ends what was submitted before its caller could know that the device is lost. True: it is.
static bool end_lost(struct engine *e)
{
    pthread_mutex_lock(&e->lock);
    bool failed = e->stats.failed;
    struct err why = e->stats.failure;
    pthread_mutex_unlock(&e->lock);
    if (failed)
        end_all(e, FINISH_ERROR, &why);
    return failed;
}

void *engine_main(void *engine)
{
    struct engine *e = engine;
    struct engine_call *call;
    pthread_setname_np(pthread_self(), "engine");
    while (take_work(e, &call)) {
        end_cancelled(e);
        if (call)
            engine_serve_call(e, call);
        sessions_turn(e->sessions);     // first: what it asks of the store starts in this turn
        stored_turn(e->stored, end_lost(e));
        if (e->jobs)
            run_step(e);
    }
    end_all(e, FINISH_CANCELLED, NULL);
    if (call)
        engine_serve_call(e, call);
    return NULL;
}
