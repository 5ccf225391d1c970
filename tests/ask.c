// See ask.h.
#include "tests/ask.h"
#include "base/base.h"
#include "base/clock.h"

struct engine *open_engine(const char *device, struct engine_params p)
{
    char path[4096];
    struct engine *e = NULL;
    struct err err = {0};
    p.model_path = test_model(ASK_MODEL, path, sizeof path);
    if (!p.model_path)
        SKIP("no %s", ASK_MODEL);
    p.device = device;
    p.attn = attn_policy_dense();
    REQUIRE_OK(engine_open(&e, &p, &err), err);
    return e;
}

void collect(struct stream *s, struct answer *a)
{
    struct delta d;
    a->n_tokens = a->n_prompt = 0;
    a->logprob_sum = 0;
    str_clear(&a->text);
    for (;;) {
        REQUIRE(stream_wait(s, 60 * NS_PER_S));
        REQUIRE(stream_read(s, &d));
        if (d.kind == DELTA_DONE)
            break;
        uint32_t *n = d.kind == DELTA_PROMPT ? &a->n_prompt : &a->n_tokens;
        for (uint32_t i = 0; i < d.n_tokens; i++) {
            REQUIRE(*n < ARRAY_LEN(a->token));
            if (d.logprob) {
                REQUIRE_INT(d.logprob[i].token, d.token[i]);
                a->logprob_sum += d.logprob[i].logprob;
            }
            a->token[(*n)++] = d.token[i];
        }
        if (d.kind == DELTA_TEXT)
            str_add(&a->text, d.text, d.n_text);
    }
    a->done = d;
    stream_close(s);
}

struct request request_of(const int32_t *token, uint32_t n, uint32_t max_tokens)
{
    struct request r = {.token = token, .n_tokens = n, .gen = gen_params_default(),
                        .attn = attn_policy_dense()};
    r.gen.max_tokens = max_tokens;
    r.gen.temperature = 0;
    r.gen.seed = 1;
    return r;
}

struct stream *submit(struct engine *e, const struct request *r)
{
    struct stream *s = NULL;
    struct err err = {0};
    REQUIRE_OK(engine_submit(e, r, &s, &err), err);
    return s;
}

void ask(struct engine *e, const struct request *r, struct answer *a)
{
    collect(submit(e, r), a);
}

bool same(const struct answer *a, const struct answer *b)
{
    return a->n_tokens == b->n_tokens && a->text.n == b->text.n &&
           memcmp(a->token, b->token, a->n_tokens * sizeof *a->token) == 0 &&
           (a->text.n == 0 || memcmp(a->text.p, b->text.p, a->text.n) == 0) &&
           a->done.reason == b->done.reason && a->logprob_sum == b->logprob_sum;
}

void require_idle(struct engine *e)
{
    struct engine_stats st;
    uint64_t until = clock_now_ns() + 20 * NS_PER_S;
    do {        // requests whose reader left end within a step
        engine_stats(e, &st);
    } while ((st.running || st.waiting || st.kv_blocks_used) && clock_now_ns() < until);
    REQUIRE_INT(st.running, 0);
    REQUIRE_INT(st.waiting, 0);
    REQUIRE_INT(st.kv_blocks_used, 0);
}
