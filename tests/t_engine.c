// The engine from its own header: requests through queue, scheduler, executor, sampler and text.
// Most cases run on the null executor, whose next token is a function of token and position; the
// ones that could be fooled by that run on the CPU too.
#include "tests/ask.h"
#include "tests/top.h"
#include <errno.h>
#include <pthread.h>
#include "engine/exec/null/null.h"
#include "engine/run/priv.h"
#include "base/clock.h"

static uint64_t rng_next(uint64_t *s)
{
    *s ^= *s << 13;
    *s ^= *s >> 7;
    *s ^= *s << 17;
    return *s >> 11;
}

enum { N_MANY = 64, PROMPT_MAX = 400 };

struct many {
    uint32_t       n;
    uint64_t       block_bytes;
    int32_t        prompt[N_MANY][PROMPT_MAX];
    struct request request[N_MANY];
    struct answer  alone[N_MANY];
};
static struct many many;
static struct answer answer, other;

// Requests of all kinds; every fourth shares its beginning with the one before.
static void make_many(uint32_t n_requests, uint32_t n_max, uint32_t max_tokens)
{
    uint64_t s = 12345;
    many.n = n_requests;
    for (uint32_t i = 0; i < many.n; i++) {
        uint32_t n = 1 + (uint32_t)(rng_next(&s) % n_max);
        for (uint32_t j = 0; j < n_max; j++)
            many.prompt[i][j] = (int32_t)(1000 + rng_next(&s) % 20000);
        if (i % 4 == 3)
            memcpy(many.prompt[i], many.prompt[i - 1], n_max / 2 * sizeof(int32_t));
        struct request r = request_of(many.prompt[i], n, 1 + (uint32_t)(rng_next(&s) % max_tokens));
        r.gen.seed = i;
        r.client = i % 5;
        switch (i % 4) {
        case 1: r.gen.temperature = 1; break;
        case 2: r.gen.temperature = 0.8f; r.gen.top_k = 40; r.gen.top_p = 0.95f; break;
        case 3: r.gen.repeat_penalty = 1.3f; r.gen.logprobs = 3; break;
        }
        many.request[i] = r;
    }
}

static void ask_each_alone(const char *device)
{
    struct engine *e = open_engine(device, (struct engine_params){.prefix_cache = 1, .threads = 1});
    for (uint32_t i = 0; i < many.n; i++)
        ask(e, &many.request[i], &many.alone[i]);
    many.block_bytes = engine_info(e)->kv_block_bytes;
    engine_close(e);
}

// All at once, each third also once as one that is cancelled on the way.
static void ask_all_together(struct engine *e, bool cancel_some)
{
    static struct stream *s[N_MANY], *doomed[N_MANY];
    for (uint32_t i = 0; i < many.n; i++) {
        doomed[i] = cancel_some && i % 3 == 0 ? submit(e, &many.request[i]) : NULL;
        s[i] = submit(e, &many.request[i]);
        if (doomed[i] && i % 2)
            stream_cancel(doomed[i]);
    }
    for (uint32_t i = 0; i < many.n; i++) {
        if (doomed[i])
            stream_close(doomed[i]);
        collect(s[i], &answer);
        if (!same(&answer, &many.alone[i]))
            TEST_FAIL("request %u: another text than alone", i);
    }
}

static void same_together(const char *device)
{
    struct engine *e = open_engine(device, (struct engine_params){0});
    ask_all_together(e, false);
    ask_all_together(e, true);          // and now from the cache
    require_idle(e);
    engine_close(e);
}

static void same_in_a_tight_pool(const char *device, uint64_t n_blocks)
{
    struct engine *e = open_engine(device, (struct engine_params){
        .kv_memory_bytes = n_blocks * many.block_bytes, .ctx_tokens = 2048, .max_step_ms = 20,
        .threads = 2});
    ask_all_together(e, true);
    struct engine_stats st;
    engine_stats(e, &st);
    REQUIRE(st.preemptions > 0);
    require_idle(e);
    engine_close(e);
}

TEST(null_same_alone_and_together)
{
    make_many(N_MANY, 300, 24);
    ask_each_alone("null");
    same_together("null");
    same_in_a_tight_pool("null", 8);
}

// Here the KV counts: blocks that are shared, reused, computed again or in other chunks, by another
// number of threads, give the same text.
TEST(cpu_same_alone_and_together)
{
    make_many(8, 150, 1);
    for (uint32_t i = 0; i < many.n; i++) {     // all grow into another block
        many.request[i].n_tokens = i % 4 < 2 ? 60 : 122;
        many.request[i].gen.max_tokens = 24;
        many.request[i].gen.ignore_end = true;
    }
    ask_each_alone("cpu");
    same_in_a_tight_pool("cpu", 3);
}

// The same texts and logprobs from an executor that keeps its rows to itself.
static void same_from_picks(const char *device, uint32_t threads)
{
    struct engine *e = open_engine(device, (struct engine_params){.threads = threads});
    top_wrap(e->x, e->info.n_vocab, e->limits.outputs_max);
    ask_all_together(e, true);
    require_idle(e);
    struct top_counts n = top_unwrap(e->x);
    REQUIRE(n.picked > many.n && n.read_tokens > 0);
    engine_close(e);
}

TEST(null_same_from_picks)
{
    make_many(N_MANY, 100, 12);
    for (uint32_t i = 0; i < many.n; i++) {
        struct gen_params *g = &many.request[i].gen;
        g->top_p = i % 3 == 0 ? 0.9f : 1;
        g->presence_penalty = i % 7 == 0 ? 0.5f : 0;
        g->prompt_logprobs = i % 8 == 5;
        g->logprobs = i % 8 == 5 ? 2 : g->logprobs;
    }
    ask_each_alone("null");
    same_from_picks("null", 1);
}

// Real rows, whose best tokens are near one another.
TEST(cpu_same_from_picks)
{
    make_many(8, 30, 1);
    for (uint32_t i = 0; i < many.n; i++) {
        many.request[i].gen.max_tokens = 20;
        many.request[i].gen.ignore_end = true;
    }
    many.request[0].gen.temperature = 0.9f;
    many.request[0].gen.top_p = 0.95f;
    many.request[4].gen.temperature = 0.9f;
    many.request[4].gen.min_p = 0.05f;
    many.request[5].gen.logprobs = 20;
    ask_each_alone("cpu");
    same_from_picks("cpu", 2);
}

TEST(answer_adds_up)
{
    struct engine *e = open_engine("null", (struct engine_params){0});
    int32_t prompt[200];
    for (int i = 0; i < 200; i++)
        prompt[i] = 1000 + i;
    struct request r = request_of(prompt, 200, 50);
    r.gen.logprobs = 2;
    r.gen.ignore_end = true;
    ask(e, &r, &answer);
    REQUIRE_INT(answer.done.reason, FINISH_LENGTH);
    REQUIRE_INT(answer.n_tokens, 50);
    REQUIRE_INT(answer.done.usage.prompt_tokens, 200);
    REQUIRE_INT(answer.done.usage.generated_tokens, 50);
    REQUIRE_INT(answer.done.usage.cached_tokens, 0);
    REQUIRE(answer.logprob_sum < 0);
    struct str text = {0};
    struct utf8_stream u = {0};
    for (uint32_t i = 0; i < answer.n_tokens; i++) {
        size_t n;
        const char *p = tokenizer_piece(engine_tokenizer(e), answer.token[i], false, &n);
        utf8_push(&u, p, n, &text);
    }
    utf8_flush(&u, &text);
    REQUIRE_STR(answer.text.p, text.p);
    str_free(&text);
    // again: the prompt's three whole blocks come from the cache
    ask(e, &r, &other);
    REQUIRE_INT(other.done.usage.cached_tokens, 192);
    REQUIRE(same(&answer, &other));
    struct engine_stats stats;
    engine_stats(e, &stats);
    REQUIRE_INT(stats.prompt_tokens, 400);
    REQUIRE_INT(stats.cached_tokens, 192);
    REQUIRE_INT(stats.generated_tokens, 100);
    // prompt and answer as the next prompt: also the answer's blocks are there
    memcpy(many.prompt[0], prompt, sizeof prompt);
    memcpy(many.prompt[0] + 200, answer.token, 50 * sizeof(int32_t));
    many.prompt[0][250] = 1;
    r = request_of(many.prompt[0], 251, 5);
    ask(e, &r, &other);
    REQUIRE_INT(other.done.usage.cached_tokens, 192);
    r.token = prompt;
    r.n_tokens = 200;
    r.gen.max_tokens = 100;
    r.gen.ignore_end = true;
    ask(e, &r, &answer);
    memcpy(many.prompt[0] + 200, answer.token, 100 * sizeof(int32_t));
    r.token = many.prompt[0];
    r.n_tokens = 300;
    ask(e, &r, &other);
    REQUIRE_INT(other.done.usage.cached_tokens, 256);
    // another tenant, another attention: nothing is shared
    r.salt.b[5] = 1;
    ask(e, &r, &other);
    REQUIRE_INT(other.done.usage.cached_tokens, 0);
    r.salt.b[5] = 0;
    r.attn.sink_tokens++;
    ask(e, &r, &other);
    REQUIRE_INT(other.done.usage.cached_tokens, 0);
    require_idle(e);
    engine_close(e);
}

TEST(stop_strings_and_ends)
{
    struct engine *e = open_engine("null", (struct engine_params){0});
    int32_t prompt[3] = {1000, 1001, 1002};
    struct request r = request_of(prompt, 3, 60);
    r.gen.ignore_end = true;
    ask(e, &r, &answer);
    REQUIRE_INT(answer.done.reason, FINISH_LENGTH);
    // a stop string that spans tokens
    size_t at = answer.text.n / 2;
    struct stop_string stop = {answer.text.p + at, 12};
    size_t first = (size_t)((char *)memmem(answer.text.p, answer.text.n, stop.p, stop.n) -
                            answer.text.p);
    r.gen.stop = &stop;
    r.gen.n_stop = 1;
    ask(e, &r, &other);
    REQUIRE_INT(other.done.reason, FINISH_STOP);
    REQUIRE_INT(other.text.n, first);
    REQUIRE(memcmp(other.text.p, answer.text.p, first) == 0);
    REQUIRE(other.n_tokens < answer.n_tokens);
    // a stop string that only begins at the end: the held text is shown
    char tail[64];
    memcpy(tail, answer.text.p + answer.text.n - 4, 4);
    memcpy(tail + 4, "\x01never", 6);
    stop = (struct stop_string){tail, 10};
    ask(e, &r, &other);
    REQUIRE_INT(other.done.reason, FINISH_LENGTH);
    REQUIRE_INT(other.text.n, answer.text.n);
    // end tokens end, unless told otherwise
    struct null_settings ns = null_settings(e->prog);
    ns.end_token = tokenizer_eos(engine_tokenizer(e));
    ns.mean_length = 8;
    null_set(e->prog, &ns);
    r = request_of(prompt, 3, 60);
    ask(e, &r, &other);
    REQUIRE_INT(other.done.reason, FINISH_STOP);
    REQUIRE_INT(other.token[other.n_tokens - 1], ns.end_token);
    REQUIRE(other.n_tokens < 60);
    engine_close(e);
}

TEST(prompt_logprobs)
{
    struct engine *e = open_engine("null", (struct engine_params){0});
    int32_t prompt[300];
    for (int i = 0; i < 300; i++)
        prompt[i] = 1000 + i * 7 % 900;
    struct request r = request_of(prompt, 300, 0);
    r.gen.prompt_logprobs = true;
    for (int round = 0; round < 2; round++) {   // the second time a cache could help, and must not
        ask(e, &r, &answer);
        REQUIRE_INT(answer.n_prompt, 300);
        REQUIRE_INT(answer.n_tokens, 0);
        REQUIRE(memcmp(answer.token, prompt, sizeof prompt) == 0);
        REQUIRE(answer.logprob_sum < 0);
        REQUIRE_INT(answer.done.reason, FINISH_LENGTH);
        REQUIRE_INT(answer.done.usage.cached_tokens, 0);
    }
    r.n_tokens = 1;
    ask(e, &r, &answer);
    REQUIRE_INT(answer.n_prompt, 1);
    REQUIRE(answer.logprob_sum == 0);
    engine_close(e);
}

// ---- refusals and limits ----

TEST(refusals)
{
    struct engine *e = open_engine("null", (struct engine_params){.ctx_tokens = 256});
    uint64_t block = engine_info(e)->kv_block_bytes;
    engine_close(e);
    e = open_engine("null", (struct engine_params){
        .ctx_tokens = 256, .kv_memory_bytes = 3 * block, .seqs_max = 1, .queue_max = 2});
    REQUIRE_INT(engine_info(e)->kv_blocks, 3);
    int32_t prompt[300];
    for (int i = 0; i < 300; i++)
        prompt[i] = 1000;
    struct stream *s = NULL;
    struct err err = {0};
    struct request r = request_of(prompt, 257, 1);
    REQUIRE_INT(engine_submit(e, &r, &s, &err), -E2BIG);
    REQUIRE(strstr(err.msg, "257") && strstr(err.msg, "256"));
    r = request_of(prompt, 100, 100);       // 200 tokens: 4 blocks of 3
    REQUIRE_INT(engine_submit(e, &r, &s, &err), -ENOSPC);
    REQUIRE(strstr(err.msg, "4") && strstr(err.msg, "3"));
    r.gen.max_tokens = UINT32_MAX;          // as much as there is
    r.gen.ignore_end = true;
    ask(e, &r, &answer);
    REQUIRE_INT(answer.done.reason, FINISH_LENGTH);
    REQUIRE_INT(answer.n_tokens, 192 - 100);
    prompt[0] = -1;
    REQUIRE_INT(engine_submit(e, &r, &s, &err), -EINVAL);
    prompt[0] = (int32_t)engine_info(e)->n_vocab;
    REQUIRE_INT(engine_submit(e, &r, &s, &err), -EINVAL);
    r.n_tokens = 0;
    REQUIRE_INT(engine_submit(e, &r, &s, &err), -EINVAL);
    REQUIRE(s == NULL);
    engine_close(e);
}

TEST(context_is_a_limit)
{
    struct engine *e = open_engine("null", (struct engine_params){.ctx_tokens = 100});
    int32_t prompt[100];
    for (int i = 0; i < 100; i++)
        prompt[i] = 1000;
    for (uint32_t n = 98; n <= 100; n++) {
        struct request r = request_of(prompt, n, 50);
        r.gen.ignore_end = true;
        ask(e, &r, &answer);
        REQUIRE_INT(answer.n_tokens, 100 - n);
        REQUIRE_INT(answer.done.reason, FINISH_LENGTH);
    }
    engine_close(e);
}

// Steps slow enough that something can happen in the middle.
static struct engine *slow_engine(struct engine_params p)
{
    struct engine *e = open_engine("null", p);
    struct null_settings ns = null_settings(e->prog);
    ns.step_ns = 2 * NS_PER_MS;
    null_set(e->prog, &ns);
    return e;
}

TEST(queue_is_bounded_and_drains)
{
    struct engine *e = slow_engine((struct engine_params){.seqs_max = 2, .queue_max = 3});
    int32_t prompt[2] = {1000, 1001};
    struct request r = request_of(prompt, 2, 1000);
    r.gen.ignore_end = true;
    struct stream *s[5], *more = NULL;
    struct err err = {0};
    for (int i = 0; i < 5; i++)
        s[i] = submit(e, &r);
    REQUIRE_INT(engine_submit(e, &r, &more, &err), -EBUSY);
    REQUIRE_INT(engine_eval(e, prompt, 2, &r.attn, NULL, NULL, &err), -EBUSY);
    stream_cancel(s[4]);                    // one that waits
    collect(s[4], &answer);
    REQUIRE_INT(answer.done.reason, FINISH_CANCELLED);
    s[4] = submit(e, &r);
    stream_cancel(s[0]);                    // one that runs
    collect(s[0], &answer);
    REQUIRE_INT(answer.done.reason, FINISH_CANCELLED);
    engine_drain(e);
    REQUIRE_INT(engine_submit(e, &r, &more, &err), -ESHUTDOWN);
    for (int i = 1; i < 4; i++)
        stream_cancel(s[i]);
    for (int i = 1; i < 4; i++)
        collect(s[i], &answer);
    struct engine_stats st;
    engine_stats(e, &st);
    REQUIRE_INT(st.requests_cancelled, 5);
    REQUIRE_INT(st.requests_rejected, 2);
    stream_close(s[4]);
    engine_close(e);
}

TEST(close_cancels_what_runs)
{
    struct engine *e = slow_engine((struct engine_params){.seqs_max = 1});
    int32_t prompt[2] = {1000, 1001};
    struct request r = request_of(prompt, 2, 1000);
    r.gen.ignore_end = true;
    struct stream *a = submit(e, &r), *b = submit(e, &r);
    engine_close(e);
    collect(a, &answer);
    REQUIRE_INT(answer.done.reason, FINISH_CANCELLED);
    collect(b, &answer);
    REQUIRE_INT(answer.done.reason, FINISH_CANCELLED);
}

TEST(deadlines)
{
    struct engine *e = slow_engine((struct engine_params){.seqs_max = 1});
    int32_t prompt[2] = {1000, 1001};
    struct request r = request_of(prompt, 2, 4000);
    r.gen.ignore_end = true;
    r.deadline_ns = clock_now_ns() + 60 * NS_PER_MS;
    struct stream *running = submit(e, &r), *waiting = submit(e, &r);
    collect(running, &answer);
    REQUIRE_INT(answer.done.reason, FINISH_DEADLINE);
    REQUIRE(answer.n_tokens > 0 && answer.n_tokens < 4000);
    collect(waiting, &answer);
    REQUIRE_INT(answer.done.reason, FINISH_DEADLINE);
    REQUIRE_INT(answer.n_tokens, 0);
    require_idle(e);
    engine_close(e);
}

// ---- many threads ----

struct client { struct engine *e; uint64_t seed; unsigned n_done, n_busy; };

static void *client_main(void *ctx)
{
    struct client *c = ctx;
    uint64_t s = c->seed;
    for (int i = 0; i < 40; i++) {
        int32_t prompt[100];
        for (int j = 0; j < 100; j++)
            prompt[j] = (int32_t)(1000 + j + rng_next(&s) % 2);
        struct request r = request_of(prompt, 1 + (uint32_t)(rng_next(&s) % 100), 40);
        r.client = c->seed;
        struct stream *st;
        struct delta d;
        int rc = engine_submit(c->e, &r, &st, NULL);
        if (rc == -EBUSY) {
            c->n_busy++;
            continue;
        }
        if (rc < 0)
            abort();
        uint64_t leave = rng_next(&s) % 60;     // deltas until this client loses interest
        for (uint64_t n = 0; n < leave; n++) {
            if (!stream_wait(st, 30 * NS_PER_S) || !stream_read(st, &d))
                abort();
            if (d.kind == DELTA_DONE) {
                c->n_done++;
                break;
            }
        }
        if (rng_next(&s) % 2)
            stream_cancel(st);
        stream_close(st);
        struct engine_stats stats;
        engine_stats(c->e, &stats);
    }
    return NULL;
}

TEST(clients_that_come_and_go)
{
    struct engine *e = open_engine("null", (struct engine_params){.seqs_max = 6, .queue_max = 8});
    struct client c[8];
    pthread_t t[8];
    for (unsigned i = 0; i < 8; i++) {
        c[i] = (struct client){.e = e, .seed = 77 + i};
        REQUIRE_INT(pthread_create(&t[i], NULL, client_main, &c[i]), 0);
    }
    unsigned done = 0;
    for (unsigned i = 0; i < 8; i++) {
        pthread_join(t[i], NULL);
        done += c[i].n_done;
    }
    REQUIRE(done > 0);
    require_idle(e);
    engine_close(e);
}

// ---- tools ----

struct rows { uint32_t n; float sum; };

static int count_row(void *ctx, uint32_t i, const float *logits, uint32_t n_vocab)
{
    struct rows *r = ctx;
    if (i != r->n++)
        return -EINVAL;
    r->sum += logits[n_vocab - 1];
    return i == 150 ? 77 : 0;
}

TEST(eval_hands_out_rows_in_order)
{
    struct engine *e = open_engine("null", (struct engine_params){.ctx_tokens = 512});
    int32_t token[300];
    for (int i = 0; i < 300; i++)
        token[i] = 1000 + i;
    struct attn_policy attn = attn_policy_dense();
    struct err err = {0};
    struct rows rows = {0};
    REQUIRE_OK(engine_eval(e, token, 150, &attn, count_row, &rows, &err), err);
    REQUIRE_INT(rows.n, 150);
    rows.n = 0;
    REQUIRE_INT(engine_eval(e, token, 300, &attn, count_row, &rows, &err), 77);
    REQUIRE_INT(rows.n, 151);
    REQUIRE_INT(engine_eval(e, token, 513, &attn, count_row, &rows, &err), -E2BIG);
    require_idle(e);
    engine_close(e);
}

TEST(a_filled_cache_is_found)
{
    struct engine *e = open_engine("cpu", (struct engine_params){.ctx_tokens = 512,
                                                                 .kv_blocks = 32, .threads = 1});
    static int32_t text[2][4 * KV_BLOCK_TOKENS + 1];
    const int32_t *const texts[2] = {text[0], text[1]};
    uint32_t n = ARRAY_LEN(text[0]);
    for (uint32_t i = 0; i < n; i++)
        text[0][i] = text[1][n - 1 - i] = 1000 + (int32_t)i;
    struct attn_policy attn = attn_policy_dense();
    struct request computed = request_of(text[0], n, 8), filled = computed;
    const struct hash *salt = &filled.salt;
    computed.salt.b[0] = 1;             // finds nothing of the others'
    ask(e, &computed, &other);
    struct err err = {0};
    REQUIRE_OK(engine_bench_fill(e, texts, 2, n - 1, &attn, salt, &err), err);
    ask(e, &filled, &answer);           // the first text's first blocks are its own
    REQUIRE_INT(answer.done.usage.cached_tokens, n - 1);
    REQUIRE(same(&answer, &other));
    filled.token = text[1];
    ask(e, &filled, &answer);           // the second's are copies
    REQUIRE_INT(answer.done.usage.cached_tokens, n - 1);
    REQUIRE_INT(answer.done.reason, FINISH_LENGTH);
    REQUIRE_OK(engine_bench_fill(e, texts, 2, n - 1, &attn, salt, &err), err);    // a second time
    REQUIRE_INT(engine_bench_fill(e, texts, 2, 576, &attn, salt, &err), -E2BIG);
    text[1][5] = -1;
    REQUIRE_INT(engine_bench_fill(e, texts, 2, n - 1, &attn, salt, &err), -EINVAL);
    require_idle(e);
    engine_close(e);
}

struct profiled { char label[16]; uint64_t ns, n; };

static void note(void *ctx, const char *label, uint64_t ns, uint64_t n)
{
    struct profiled *p = ctx;
    snprintf(p->label, sizeof p->label, "%s", label);
    p->ns = ns;
    p->n = n;
}

TEST(profile_counts_steps)
{
    struct engine *e = open_engine("null:1ms", (struct engine_params){0});
    int32_t prompt[2] = {1000, 1001};
    struct request r = request_of(prompt, 2, 10);
    r.gen.ignore_end = true;
    struct profiled p = {0};
    struct err err = {0};
    uint64_t before, after;
    ask(e, &r, &answer);
    REQUIRE_OK(engine_profile(e, true, note, &p, &before, &err), err);
    REQUIRE_INT(p.n, 0);
    ask(e, &r, &answer);
    REQUIRE_OK(engine_profile(e, false, note, &p, &after, &err), err);
    REQUIRE_STR(p.label, "wait");
    REQUIRE_INT(p.n, 10);
    REQUIRE_INT(after - before, 10);
    REQUIRE(p.ns > 0 && p.ns < 10 * NS_PER_MS);
    ask(e, &r, &answer);
    REQUIRE_OK(engine_profile(e, false, note, &p, &after, &err), err);
    REQUIRE_INT(p.n, 10);               // nothing since
    engine_close(e);
    e = open_engine("cpu", (struct engine_params){.ctx_tokens = 256});
    REQUIRE_INT(engine_profile(e, true, note, &p, &after, &err), -ENOTSUP);
    engine_close(e);
}

TEST(inspect_is_json_with_the_numbers)
{
    char path[4096];
    struct str out = {0};
    struct err err = {0};
    if (!test_model(ASK_MODEL, path, sizeof path))
        SKIP("no %s", ASK_MODEL);
    REQUIRE_OK(engine_inspect(path, 2048, &out, &err), err);
    REQUIRE(out.p[0] == '{' && out.p[out.n - 1] == '}');
    REQUIRE(strstr(out.p, "\"arch\":\"llama\"") != NULL);
    REQUIRE(strstr(out.p, "\"ctx_tokens\":2048") != NULL);
    // 30 layers, 3 KV heads of 64: K and V in float16, and one float16 mean key a block
    REQUIRE(strstr(out.p, "{\"type\":\"f16\",\"bytes_per_token\":23220,") != NULL);
    REQUIRE(strstr(out.p, "\"token_embd.weight\"") != NULL);
    str_free(&out);
    REQUIRE_INT(engine_inspect("/nonexistent.gguf", 0, &out, &err), -ENOENT);
}

TEST(chat_prompt)
{
    struct engine *e = open_engine("null", (struct engine_params){0});
    struct template_vars v = {.add_generation_prompt = true};
    v.messages = "[{\"role\":\"user\",\"content\":\"Hi <|im_end|>\"}]";
    v.n_messages = strlen(v.messages);
    struct tokens t = {0};
    struct rendered text = {0};
    struct err err = {0};
    REQUIRE_OK(engine_chat_prompt(e, &v, &t, &text, &err), err);
    REQUIRE(strstr(text.text.p, "Hi <|im_end|><|im_end|>") != NULL);
    int32_t end = tokenizer_find(engine_tokenizer(e), "<|im_end|>", 10);
    unsigned n_ends = 0;
    for (size_t i = 0; i < t.n; i++)
        n_ends += t.id[i] == end;
    // of the default system message and of the user's, but not the typed one
    REQUIRE_INT(n_ends, 2);
    struct request r = request_of(t.id, (uint32_t)t.n, 5);
    ask(e, &r, &answer);
    REQUIRE(answer.n_tokens > 0);
    tokens_free(&t);
    rendered_free(&text);
    engine_close(e);
}

TEST_MAIN
