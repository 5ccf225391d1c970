// One prompt through the engine: submit, collect the deltas, show them as they come.
#include <errno.h>
#include <string.h>
#include "base/clock.h"
#include "server/cli/cli.h"

#define WAIT_NS (50 * NS_PER_MS)            // between looks at *stop

void answer_free(struct answer *a)
{
    str_free(&a->text);
    tokens_free(&a->tokens);
}

static int add_delta(struct answer *a, const struct delta *d, bool show, struct err *err)
{
    for (uint32_t i = 0; i < d->n_tokens; i++)
        if (tokens_add(&a->tokens, d->token[i]))
            return err_set(err, -ENOMEM, "out of memory");
    str_add(&a->text, d->text, d->n_text);
    if (d->kind == DELTA_DONE) {
        a->reason = d->reason;
        a->usage = d->usage;
        if (d->reason == FINISH_ERROR)
            return err_set(err, d->err.code ? d->err.code : -EIO, "%s", d->err.msg);
    }
    return show && d->n_text ? write_out(d->text, d->n_text, err) : 0;
}

static int collect(struct stream *s, bool show, const volatile sig_atomic_t *stop, struct answer *a,
                   struct err *err)
{
    struct delta d = {0};
    while (d.kind != DELTA_DONE) {
        int r = 0;
        if (stop && *stop)
            stream_cancel(s);
        stream_wait(s, WAIT_NS);
        while (r == 0 && d.kind != DELTA_DONE && stream_read(s, &d))
            r = add_delta(a, &d, show, err);
        if (r)
            return r;
    }
    return 0;
}

int generate(struct cli *c, struct engine *e, const struct tokens *prompt, bool show,
             const volatile sig_atomic_t *stop, struct answer *ret, struct err *err)
{
    struct stream *s = NULL;
    struct answer a = {0};
    struct request q = {
        .token = prompt->id, .n_tokens = (uint32_t)prompt->n, .gen = gen_params_default(),
    };
    if (prompt->n == 0)
        return err_set(err, -EINVAL, "the prompt is empty");
    if (prompt->n > CTX_MAX)
        return err_set(err, -E2BIG, "the prompt has %zu tokens", prompt->n);
    q.gen.max_tokens = c->n_predict;
    q.gen.temperature = (float)c->temperature;
    q.gen.seed = c->seed;
    int r = attention_policy(c, &q.attn, err);
    if (r == 0)
        r = engine_submit(e, &q, &s, err);
    if (r)
        return r;
    r = collect(s, show, stop, &a, err);
    stream_close(s);
    if (r) {
        answer_free(&a);
        return r;
    }
    *ret = a;
    return 0;
}

int chat_prompt(struct engine *e, const struct str *messages, struct tokens *ret, struct err *err)
{
    struct template_vars v = {
        .messages = messages->p, .n_messages = messages->n, .add_generation_prompt = true,
        .now = clock_unix_s(),
    };
    if (!str_ok(messages))
        return err_set(err, -ENOMEM, "out of memory");
    int r = engine_chat_prompt(e, &v, ret, NULL, err);
    return r == -ENOTSUP ? err_prefix(err, "no chat (try --raw)") : r;
}
