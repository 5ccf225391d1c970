// Submitting, pumping and ending generation; see gen.h.
#include "server/gen.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include "base/base.h"
#include "base/clock.h"
#include "base/log.h"
#include "server/sse.h"

// A pump stops here until the bytes are sent, so that a slow reader does not make us encode ahead.
#define OUT_BYTES_GOAL ((size_t)16 << 10)

// ---- ending -------------------------------------------------------------------------------------

static void count_finished(struct gen *g, const struct choice *c)
{
    static const enum finished by_reason[] = {
        [FINISH_NONE] = FINISHED_ABORT, [FINISH_STOP] = FINISHED_STOP,
        [FINISH_LENGTH] = FINISHED_LENGTH, [FINISH_CANCELLED] = FINISHED_ABORT,
        [FINISH_DEADLINE] = FINISHED_TIMEOUT, [FINISH_ERROR] = FINISHED_ERROR,
    };
    enum finished f = by_reason[c->reason];
    if (f == FINISHED_STOP && c->n_calls)
        f = FINISHED_TOOL_CALLS;
    atomic_fetch_add(&g->p.model->metrics.finished[f], 1);
}

static void close_stream(struct choice *c)
{
    if (c->stream)
        stream_close(c->stream);
    c->stream = NULL;
}

static void finish(struct call *call)
{
    struct gen *g = call->state;
    for (uint32_t i = 0; i < g->n_choices; i++) {
        struct choice *c = &g->choice[i];
        if (c->stream || c->done)
            count_finished(g, c);
        close_stream(c);
        str_free(&c->text);
        str_free(&c->logprobs);
        str_free(&c->top_logprobs);
        str_free(&c->offsets);
        str_free(&c->calls);
        tool_parser_free(&c->tools);
    }
    str_free(&g->head);
}

const char *gen_finish_name(const struct choice *c)
{
    if (c->n_calls && c->reason == FINISH_STOP)
        return "tool_calls";
    return c->reason == FINISH_LENGTH ? "length" : "stop";
}

static int fault_of_error(const struct err *err, struct fault *f)
{
    switch (err->code) {
    case -EDOM:
        return fault_set(f, ERROR_engine_failed, NULL,
                         "The model's result for this request is not a finite number.");
    case -EIO:
    case -ETIMEDOUT:
        f->retry_after_s = 10;
        return fault_set(f, ERROR_engine_lost, NULL, "The model cannot run any more.");
    case -ENOMEM:
        return fault_no_memory(f);
    }
    return fault_set(f, ERROR_engine_failed, NULL, "The model failed on this request.");
}

static int fault_of(const struct delta *done, struct fault *f)
{
    switch (done->reason) {
    case FINISH_DEADLINE:
        return fault_set(f, ERROR_timed_out, NULL, "The request took longer than it may.");
    case FINISH_CANCELLED:
        return fault_set(f, ERROR_draining, NULL, "The server is shutting down.");
    case FINISH_ERROR:
        return fault_of_error(&done->err, f);
    default:
        return 0;
    }
}

// The answer ends with an error: as a status if none was sent, else as an event.
static enum pump fail(struct gen *g, const struct fault *f)
{
    struct call *c = g->call;
    if (!c->streaming) {
        call_fail(c, f);
        return PUMP_DONE;
    }
    sse_begin(&c->out);
    fault_json(&c->out, f);
    sse_end(&c->out);
    sse_done(&c->out);
    return PUMP_DONE;
}

// ---- pumping ------------------------------------------------------------------------------------

static void measure(struct gen *g, struct choice *c, const struct delta *d)
{
    struct model_metrics *m = &g->p.model->metrics;
    if (d->kind != DELTA_TEXT || !d->n_tokens)
        return;
    atomic_fetch_add_explicit(&m->generated_tokens, d->n_tokens, memory_order_relaxed);
    if (!c->last_ns)
        histogram_add(&m->first_token, d->time_ns - MIN(d->time_ns, g->submit_ns));
    else
        histogram_add(&m->inter_token, d->time_ns - MIN(d->time_ns, c->last_ns));
    c->last_ns = d->time_ns;
}

static void take_done(struct gen *g, struct choice *c, const struct delta *d)
{
    struct model_metrics *m = &g->p.model->metrics;
    c->done = true;
    c->reason = d->reason;
    c->usage = d->usage;
    g->n_done++;
    atomic_fetch_add(&m->prompt_tokens, d->usage.prompt_tokens);
    atomic_fetch_add(&m->cached_tokens, d->usage.cached_tokens);
    histogram_add(&m->e2e, d->time_ns - MIN(d->time_ns, g->submit_ns));
    histogram_add(&m->queue, d->usage.queued_ns);
    histogram_add(&m->prefill, d->usage.prefill_ns);
    histogram_add(&m->decode, d->usage.decode_ns);
}

// Text that memory ran out for must not go out cut.
static bool is_whole(const struct choice *c)
{
    return str_ok(&c->text) && str_ok(&c->logprobs) && str_ok(&c->top_logprobs) &&
           str_ok(&c->offsets) && str_ok(&c->calls) && str_ok(&c->tools.held);
}

// Reads one choice as far as it goes. Returns -1 with f filled when it failed.
static int pump_choice(struct gen *g, struct choice *c, struct fault *f)
{
    struct delta d;
    while (!c->done && !(g->call->streaming && g->call->out.n > OUT_BYTES_GOAL) &&
           stream_read(c->stream, &d)) {
        measure(g, c, &d);
        if (d.kind == DELTA_DONE) {
            take_done(g, c, &d);
            if (d.reason == FINISH_ERROR)
                log_warning("%s failed: %s", g->call->id, d.err.msg);
            if (fault_of(&d, f) < 0)
                return -1;
            g->format->choice_end(g, c);
        } else {
            g->format->delta(g, c, &d);
        }
        if (!is_whole(c))
            return fault_no_memory(f);
    }
    return 0;
}

static enum pump pump(struct call *call)
{
    struct gen *g = call->state;
    struct fault f = {0};
    if (app_state(g->app) == APP_ABORTING) {
        fault_set(&f, ERROR_draining, NULL, "The server is shutting down.");
        return fail(g, &f);
    }
    for (uint32_t i = 0; i < g->n_choices; i++) {
        if (pump_choice(g, &g->choice[i], &f) < 0)
            return fail(g, &f);
    }
    if (g->n_done < g->n_choices)
        return PUMP_WAIT;
    g->format->end(g);
    return PUMP_DONE;
}

// ---- starting -----------------------------------------------------------------------------------

static int refuse_submit(const struct gen *g, const struct gen_prompt *p, int r,
                         const struct err *err, struct fault *f)
{
    switch (r) {
    case -E2BIG:
        return fault_set(f, ERROR_context_length, g->format->prompt,
                         "This model's maximum context length is %u tokens, "
                         "but the prompt has %zu.",
                         engine_info(g->p.model->engine)->ctx_tokens, p->tokens.n);
    case -ENOSPC:
        return fault_set(f, ERROR_no_memory_for_it, NULL, "%s.", err->msg);
    case -EBUSY:
        f->retry_after_s = 1;
        return fault_set(f, ERROR_queue_full, NULL, "Too many requests wait already.");
    case -ESHUTDOWN:
        f->retry_after_s = 5;
        return fault_set(f, ERROR_draining, NULL, "The server is shutting down.");
    case -EIO:
        return fault_set(f, ERROR_engine_lost, NULL, "The model cannot run any more.");
    case -ENOMEM:
        return fault_no_memory(f);
    }
    return fault_set(f, ERROR_internal, NULL, "The request could not be started.");
}

// Choice i of a prompt draws from (seed, i); choice 0 as if it were asked for alone.
static uint64_t choice_seed(uint64_t seed, uint32_t i)
{
    uint64_t x = seed + i * UINT64_C(0x9e3779b97f4a7c15);
    if (i == 0)
        return seed;
    x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
    return x ^ x >> 31;
}

static void make_salt(const struct gen *g, struct hash *ret)
{
    struct hash_state s;
    *ret = g->call->caller.salt;
    if (!g->p.cache_salt)
        return;
    hash_start(&s);
    hash_add(&s, ret->b, sizeof(ret->b));
    hash_add(&s, g->p.cache_salt, strlen(g->p.cache_salt));
    hash_end(&s, ret);
}

static int submit(struct gen *g, struct choice *c, uint32_t i, struct fault *f)
{
    const struct gen_prompt *p = &g->prompt[c->prompt];
    uint64_t timeout_s = g->app->config.request_timeout_s;
    struct err err = {0};
    struct request r = {
        .token = p->tokens.id, .n_tokens = (uint32_t)MIN(p->tokens.n, (size_t)UINT32_MAX),
        .gen = g->p.gen, .attn = g->p.attn, .client = g->call->caller.client,
        .deadline_ns = timeout_s ? g->call->start_ns + timeout_s * NS_PER_S : 0,
        .session = g->p.session, .session_append = g->p.append,
        .wake = call_wake, .wake_ctx = g->call,
    };
    r.gen.seed = choice_seed(r.gen.seed, i);
    make_salt(g, &r.salt);
    int code = engine_submit(g->p.model->engine, &r, &c->stream, &err);
    return code ? refuse_submit(g, p, code, &err, f) : 0;
}

static int submit_all(struct gen *g, struct fault *f)
{
    g->submit_ns = clock_now_ns();
    for (uint32_t p = 0; p < g->n_prompts; p++) {
        for (uint32_t i = 0; i < g->p.n; i++) {
            struct choice *c = &g->choice[g->n_choices++];
            c->index = g->n_choices - 1;
            c->prompt = p;
            if (submit(g, c, i, f) < 0)
                return -1;
        }
    }
    return 0;
}

int gen_start(struct call *call, const struct params *p, const struct gen_format *format,
              const char *id_prefix, struct gen_prompt *prompt, uint32_t n_prompts,
              struct tool_names tools, struct fault *f)
{
    struct gen *g = arena_alloc(&call->arena, sizeof(*g));
    int r = -1;
    if (!g || !(g->choice = arena_calloc(&call->arena, (size_t)n_prompts * p->n,
                                         sizeof(*g->choice)))) {
        fault_no_memory(f);
        goto out;
    }
    g->call = call;
    g->app = app_of(call);
    g->p = *p;
    if (!p->has_attn)
        g->p.attn = g->app->models.attn;
    g->format = format;
    g->prompt = prompt;
    g->n_prompts = n_prompts;
    g->tools = tools;
    g->created_s = clock_unix_s();
    snprintf(g->id, sizeof(g->id), "%s-%s", id_prefix, call->id + 4);
    call->state = g;
    call->finish = finish;
    if (submit_all(g, f) < 0)
        goto out;
    call_start(call, p->stream, pump);
    if (p->stream && format->begin)
        format->begin(g);
    r = 0;
out:
    for (uint32_t i = 0; r && g && i < g->n_choices; i++)
        close_stream(&g->choice[i]);
    for (uint32_t i = 0; i < n_prompts; i++)
        tokens_free(&prompt[i].tokens);
    return r;
}

// ---- usage --------------------------------------------------------------------------------------

static double ms(uint64_t ns)
{
    return (double)ns / (double)NS_PER_MS;
}

void gen_put_usage(const struct gen *g, struct str *out)
{
    uint64_t prompt = 0, cached = 0, generated = 0;
    struct usage sum = {0};
    for (uint32_t i = 0; i < g->n_choices; i++) {
        const struct usage *u = &g->choice[i].usage;
        if (i % g->p.n == 0) {          // a prompt counts once, however many choices go on from it
            prompt += u->prompt_tokens;
            cached += u->cached_tokens;
        }
        generated += u->generated_tokens;
        sum.blocks_read += u->blocks_read;
        sum.blocks_held += u->blocks_held;
        sum.page_faults += u->page_faults;
        sum.page_bytes += u->page_bytes;
        sum.page_wait_ns = MAX(sum.page_wait_ns, u->page_wait_ns);
        sum.queued_ns = MAX(sum.queued_ns, u->queued_ns);
        sum.prefill_ns = MAX(sum.prefill_ns, u->prefill_ns);
        sum.decode_ns = MAX(sum.decode_ns, u->decode_ns);
    }
    str_printf(out, "\"usage\":{\"prompt_tokens\":%llu,\"completion_tokens\":%llu,"
               "\"total_tokens\":%llu,\"prompt_tokens_details\":{\"cached_tokens\":%llu},",
               (unsigned long long)prompt, (unsigned long long)generated,
               (unsigned long long)(prompt + generated), (unsigned long long)cached);
    str_printf(out, "\"godwit\":{\"attention\":\"%s\",\"budget\":%u,\"blocks_read\":%llu,"
               "\"blocks_held\":%llu,\"page_faults\":%llu,\"page_bytes\":%llu,"
               "\"page_wait_ms\":%.3f,\"queued_ms\":%.3f,\"prefill_ms\":%.3f,"
               "\"decode_ms\":%.3f}}",
               selectors[g->p.attn.selector].name, g->p.attn.budget_tokens,
               (unsigned long long)sum.blocks_read, (unsigned long long)sum.blocks_held,
               (unsigned long long)sum.page_faults, (unsigned long long)sum.page_bytes,
               ms(sum.page_wait_ns), ms(sum.queued_ns), ms(sum.prefill_ns), ms(sum.decode_ns));
}
