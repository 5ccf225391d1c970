// From a row of logits to deltas: sampling, text, stop strings, the end of a request.
#include <errno.h>
#include "engine/run/stored.h"
#include "base/clock.h"

// ---- text ----

// Moves what e->text has, less what may begin a stop string, to e->shown. True: a stop string is
// there; e->shown ends before it.
static bool show(struct engine *e, struct job *j)
{
    bool found = stop_push(&j->stop, e->text.p, e->text.n, &e->shown);
    str_clear(&e->text);
    return found;
}

// Nothing comes after: half characters and held-back text are shown as they are. True as above.
static bool show_rest(struct engine *e, struct job *j)
{
    utf8_flush(&j->utf8, &e->text);
    return show(e, j) || stop_flush(&j->stop, &e->shown);
}

static bool show_token(struct engine *e, struct job *j, int32_t token)
{
    size_t n;
    const char *p = tokenizer_piece(e->tok, token, false, &n);
    utf8_push(&j->utf8, p, n, &e->text);
    return show(e, j);
}

// ---- deltas ----

// Hands out e->shown as the text of n_tokens tokens.
static int push(struct engine *e, struct job *j, enum delta_kind kind, const int32_t *token,
                uint32_t n_tokens, const struct token_logprob *lp)
{
    struct delta d = {
        .kind = kind, .text = e->shown.p, .n_text = e->shown.n, .token = token,
        .n_tokens = n_tokens, .logprob = lp, .time_ns = clock_now_ns(),
    };
    int r = str_ok(&e->shown) && str_ok(&e->text) ? stream_push(j->stream, &d) : -ENOMEM;
    str_clear(&e->shown);
    return r;
}

void job_flush_text(struct engine *e, struct job *j)
{
    show_rest(e, j);
    if (e->shown.n > 0)
        push(e, j, DELTA_TEXT, NULL, 0, NULL);  // without memory the rest is lost, DONE is not
    str_clear(&e->shown);
}

// Where the bad number came from is not known: no block that the sequence computed or read is found
// in the cache again.
static void distrust(struct engine *e, struct job *j, struct err *err)
{
    sched_forget(e->sched, &j->seq);
    stored_forget(e->stored, &j->seq);
    err_prefix(err, "after %u tokens", j->seq.n_computed);
    pthread_mutex_lock(&e->lock);
    e->stats.nonfinite++;
    pthread_mutex_unlock(&e->lock);
}

static void end_with_error(struct engine *e, struct job *j, int code, struct err *err)
{
    if (code == -ENOMEM && !err->code)
        err_set(err, code, "no memory for the answer");
    if (code == -EDOM)
        distrust(e, j, err);
    job_end(e, j, FINISH_ERROR, err);
}

// ---- rows of logits ----

static int whole_row(struct engine *e, uint32_t out, const float **ret, struct err *err)
{
    *ret = e->row;
    if (!e->batch.logits)
        return engine_read_logits(e, out, 0, e->info.n_vocab, e->row, err);
    *ret = &e->batch.logits[(size_t)out * e->info.n_vocab];
    return 0;
}

struct output { struct engine *e; uint32_t out; };

static int read_part(void *ctx, uint32_t first, uint32_t n, float *dst, struct err *err)
{
    const struct output *o = ctx;
    return engine_read_logits(o->e, o->out, first, n, dst, err);
}

int engine_pick(struct engine *e, struct sampler *s, uint32_t out, int32_t *token,
                struct token_logprob *lp, struct err *err)
{
    struct output o = {e, out};
    struct row_reader reader = {read_part, &o};
    const float *row;
    int r = -EAGAIN;
    if (!e->batch.logits)
        r = sampler_pick_top(s, &e->scratch, &e->batch.top[out], &reader, token, lp, err);
    if (r != -EAGAIN)
        return r;
    r = whole_row(e, out, &row, err);
    return r < 0 ? r : sampler_pick(s, &e->scratch, row, token, lp, err);
}

// ---- the prompt's own logprobs ----

static int push_prompt_token(struct engine *e, struct job *j, uint32_t i,
                             const struct token_logprob *lp)
{
    size_t n;
    const int32_t *token = &j->seq.token[i];
    const char *p = tokenizer_piece(e->tok, *token, true, &n);
    utf8_push(&j->utf8, p, n, &e->shown);
    if (i + 1 == j->seq.n_prompt)
        utf8_flush(&j->utf8, &e->shown);
    return push(e, j, DELTA_PROMPT, token, 1, lp);
}

// Row i says how likely token i + 1 was.
static int score_row(struct engine *e, struct job *j, uint32_t i, uint32_t out, struct err *err)
{
    struct token_logprob lp;
    uint32_t n_top = (uint32_t)MAX(j->gen.logprobs, 0);
    const float *row;
    int r = whole_row(e, out, &row, err);
    if (r == 0)
        r = sampler_logprob(&e->scratch, row, j->seq.token[i + 1], n_top, &lp, err);
    return r < 0 ? r : push_prompt_token(e, j, i + 1, &lp);
}

static int begin_prompt(struct engine *e, struct job *j)
{
    if (!j->gen.prompt_logprobs || j->prompt_begun)
        return 0;
    j->prompt_begun = true;
    return push_prompt_token(e, j, 0, NULL);
}

// ---- the answer ----

static enum finish_reason reason_after(const struct engine *e, const struct job *j, int32_t token)
{
    if (!j->gen.ignore_end && tokenizer_is_end(e->tok, token))
        return FINISH_STOP;
    return j->seq.n_tokens == j->seq.n_max ? FINISH_LENGTH : FINISH_NONE;
}

static int take_token(struct engine *e, struct job *j, uint32_t out, enum finish_reason *reason,
                      struct err *err)
{
    struct token_logprob lp;
    int32_t token;
    bool wants_lp = j->gen.logprobs >= 0;
    int r = engine_pick(e, &j->sampler, out, &token, wants_lp ? &lp : NULL, err);
    if (r < 0)
        return r;
    if (!j->first_ns)
        j->first_ns = clock_now_ns();
    j->usage.generated_tokens++;
    e->n_generated++;
    seq_push(&j->seq, token);
    *reason = reason_after(e, j, token);
    bool stopped = *reason != FINISH_STOP && show_token(e, j, token);
    if (!stopped && *reason != FINISH_NONE)
        stopped = show_rest(e, j);
    if (stopped)
        *reason = FINISH_STOP;
    return push(e, j, DELTA_TEXT, &token, 1, wants_lp ? &lp : NULL);
}

void job_outputs(struct engine *e, struct job *j, const struct sched_item *it, uint32_t from,
                 uint32_t out)
{
    struct sequence *q = &j->seq;
    uint32_t to = from + it->n_rows;
    enum finish_reason reason = FINISH_NONE;
    struct err err = {0};
    int r = begin_prompt(e, j);
    for (uint32_t i = from; i < to && r == 0; i++) {
        if (!seq_is_output(q, i))
            continue;
        if (i >= q->out_from && i < q->out_to)
            r = score_row(e, j, i, out, &err);
        else if (q->n_tokens == q->n_max)
            reason = FINISH_LENGTH;     // nothing was to be generated
        else
            r = take_token(e, j, out, &reason, &err);
        out++;
    }
    q->out_from = MAX(q->out_from, to);
    if (r < 0)
        end_with_error(e, j, r, &err);
    else if (reason != FINISH_NONE)
        job_end(e, j, reason, NULL);
}
