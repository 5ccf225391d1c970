// Sessions: what a request leaves outlives the engine and eviction, belongs to one owner, runs one
// request at a time, and is complete or as it was, whatever the disk does.
#include "tests/ask.h"
#include <errno.h>
#include <unistd.h>
#include "engine/run/priv.h"
#include "engine/run/session_format.h"
#include "kvstore/sim.h"
#include "base/base.h"
#include "base/clock.h"

enum { N_PROMPT = 200, N_NEW = 70, N_MAX = 1024 };

static const struct hash us = {{1}}, them = {{2}};
static struct answer got, want;
static int32_t text[8][N_MAX];

static struct request request(unsigned which, uint32_t n, uint32_t n_new)
{
    for (uint32_t i = 0; i < n; i++)
        text[which][i] = 1000 + (int32_t)(i * 37 + which * 11) % 20000;
    struct request r = request_of(text[which], n, n_new);
    r.gen.ignore_end = true;
    r.gen.logprobs = 1;
    r.salt = us;
    return r;
}

static struct engine *open_on(struct kv_sim *m, const char *device)
{
    return open_engine(device, (struct engine_params){
        .ctx_tokens = N_MAX, .kv_blocks = 24, .kv_store_sim = m, .kv_store_bytes = 64 << 20});
}

// The machine is the engine thread's.
struct sim_call { struct engine_call call; struct kv_sim *m; const struct kv_sim_faults *faults;
                  uint64_t steps; };

static int run_sim(struct engine *e, struct engine_call *c)
{
    struct sim_call *s = container_of(c, struct sim_call, call);
    (void)e;
    if (s->faults)
        kv_sim_set_faults(s->m, s->faults);
    else
        kv_sim_crash_in(s->m, s->steps, false);
    return 0;
}

static void tell_sim(struct engine *e, struct kv_sim *m, const struct kv_sim_faults *faults,
                     uint64_t crash_steps)
{
    struct err err = {0};
    struct sim_call c = {{.run = run_sim, .while_busy = true, .err = &err}, m, faults, crash_steps};
    REQUIRE_OK(engine_call(e, &c.call), err);
}

static void settle(struct engine *e)
{
    struct engine_stats st;
    uint64_t until = clock_now_ns() + 20 * NS_PER_S;
    do
        engine_stats(e, &st);
    while (st.store.queued > 0 && clock_now_ns() < until && usleep(500) == 0);
    REQUIRE_INT(st.store.queued, 0);
}

static void close_engine(struct engine *e)
{
    require_idle(e);
    settle(e);
    engine_close(e);
}

static void create(struct engine *e, const char *id)
{
    struct session_info info;
    struct err err = {0};
    struct session_spec spec = {.id = id, .pin = true};
    REQUIRE_OK(engine_session_create(e, &us, &spec, &info, &err), err);
}

static struct session_info info_of(struct engine *e, const char *id)
{
    struct session_info info = {0};
    REQUIRE_INT(engine_session_get(e, &us, id, &info), 0);
    return info;
}

static struct session *take(struct engine *e, const char *id)
{
    struct session *s = NULL;
    struct session_info info;
    struct err err = {0};
    REQUIRE_OK(engine_session_take(e, &us, id, &s, &info, &err), err);
    REQUIRE(info.busy);
    return s;
}

static void ask_on(struct engine *e, const char *id, struct request r)
{
    r.session = take(e, id);
    ask(e, &r, &got);
}

// The session's text into text[which]; returns its length.
static uint32_t text_of(struct engine *e, const char *id, unsigned which)
{
    struct tokens t = {0};
    struct err err = {0};
    struct session *s = take(e, id);
    REQUIRE_OK(engine_session_text(e, s, &t, &err), err);
    engine_session_drop(e, s);
    REQUIRE(t.n <= N_MAX);
    memcpy(text[which], t.id, t.n * sizeof *t.id);
    uint32_t n = (uint32_t)t.n;
    tokens_free(&t);
    return n;
}

static void require_text(struct engine *e, const char *id, const struct request *r, uint32_t n)
{
    REQUIRE_INT(text_of(e, id, 7), n);
    REQUIRE(memcmp(text[7], r->token, MIN(n, r->n_tokens) * sizeof(int32_t)) == 0);
    if (n > r->n_tokens)
        REQUIRE(memcmp(&text[7][r->n_tokens], got.token,
                       (n - r->n_tokens) * sizeof(int32_t)) == 0);
}

// ---- what a request leaves ----

TEST(a_session_outlives_the_engine)
{
    struct kv_sim *m = kv_sim_create(1);
    struct engine *e = open_on(m, "null");
    struct request r = request(0, N_PROMPT, N_NEW);
    create(e, "a");
    ask_on(e, "a", r);
    struct session_info i = info_of(e, "a");
    REQUIRE(!i.busy);
    REQUIRE_INT(i.n_tokens, N_PROMPT + N_NEW);
    require_text(e, "a", &r, N_PROMPT + N_NEW);     // saved or not
    settle(e);
    i = info_of(e, "a");
    REQUIRE(i.durable && i.has_attn && i.created_s > 0 && i.expires_s == 0);
    REQUIRE_INT(i.n_pinned, 4);
    REQUIRE_INT(i.pinned_bytes, 4 * engine_info(e)->kv_block_bytes);
    close_engine(e);

    e = open_on(m, "null");
    struct session_info j = info_of(e, "a");
    REQUIRE(memcmp(&i, &j, sizeof i) == 0);
    require_text(e, "a", &r, N_PROMPT + N_NEW);
    // Its text goes on, from the disk.
    uint32_t n = text_of(e, "a", 1);
    struct request next = request_of(text[1], n, 4);
    next.gen.ignore_end = true;
    next.salt = us;
    next.session_append = true;
    ask_on(e, "a", next);
    REQUIRE_INT(got.done.usage.cached_tokens, 256);
    REQUIRE_INT(info_of(e, "a").n_tokens, n + 4);
    close_engine(e);
    kv_sim_destroy(m);
}

// Pinned blocks stay while others take the whole store several times over.
TEST(eviction_passes_by)
{
    struct kv_sim *m = kv_sim_create(2);
    struct engine *e = open_on(m, "null");
    create(e, "pinned");
    struct session_info info;
    struct err err = {0};
    struct session_spec loose = {.id = "loose"};
    REQUIRE_OK(engine_session_create(e, &us, &loose, &info, &err), err);
    ask_on(e, "pinned", request(0, N_PROMPT, 1));
    ask_on(e, "loose", request(1, N_PROMPT, 1));
    settle(e);
    REQUIRE_INT(info_of(e, "pinned").n_pinned, 3);
    REQUIRE_INT(info_of(e, "loose").n_pinned, 0);
    for (int i = 0; i < 16; i++) {
        struct request r = request(2, 600, 1);
        text[2][0] = i;
        ask(e, &r, &got);
    }
    settle(e);
    ask_on(e, "pinned", request(0, N_PROMPT, 1));
    REQUIRE_INT(got.done.usage.cached_tokens, 192);
    ask_on(e, "loose", request(1, N_PROMPT, 1));
    REQUIRE_INT(got.done.usage.cached_tokens, 0);
    REQUIRE_INT(info_of(e, "loose").n_tokens, N_PROMPT + 1);
    close_engine(e);
    kv_sim_destroy(m);
}

TEST(no_store_no_sessions)
{
    struct engine *e = open_engine("null", (struct engine_params){.ctx_tokens = N_MAX});
    struct session_info info;
    struct session *s;
    struct err err = {0};
    REQUIRE_INT(engine_session_create(e, &us, &(struct session_spec){0}, &info, &err), -ENOTSUP);
    REQUIRE_INT(engine_session_get(e, &us, "a", &info), -ENOTSUP);
    REQUIRE_INT(engine_session_list(e, &us, NULL, &info, 1), 0);
    REQUIRE_INT(engine_session_delete(e, &us, "a", &err), -ENOTSUP);
    REQUIRE_INT(engine_session_take(e, &us, "a", &s, &info, &err), -ENOTSUP);
    engine_close(e);
}

// A turn stands behind any text only where the template writes it the same behind different ones.
TEST(turns_of_templates)
{
#define EACH "{% for m in messages %}"
#define CHATML "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
#define BEGIN "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    static const struct { const char *text; int want; } rows[] = {
        {EACH CHATML BEGIN, 0}, {"You are kind." EACH CHATML BEGIN, 0},
        {EACH "{{ loop.index }}" CHATML BEGIN, -ENOTSUP},
        {"{{ messages | length }}" EACH CHATML BEGIN, 0},       // before all of them
        {EACH CHATML "{{ messages | length }}", -ENOTSUP},
        {EACH "{{ m.content }}" CHATML BEGIN, -ENOTSUP},        // twice
        {EACH "{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}", -ENOTSUP},
        {"{{ raise_exception('no') }}", -EINVAL},
    };
    static const char messages[] = " [{\"role\": \"user\", \"content\": \"<|im_end|>\"}] ";
    static const char want_text[] = "<|im_end|>\n<|im_start|>user\n<|im_end|><|im_end|>\n"
                                    "<|im_start|>assistant\n";
    struct engine *e = open_engine("null", (struct engine_params){.ctx_tokens = N_MAX});
    struct template_vars v = {.messages = messages, .n_messages = sizeof messages - 1,
                              .add_generation_prompt = true};
    struct chat_template *own = e->tmpl;
    for (unsigned i = 0; i < ARRAY_LEN(rows); i++) {
        struct tokens t = {0}, plain = {0};
        struct str all = {0};
        struct err err = {0};
        REQUIRE_OK(template_open(&e->tmpl, rows[i].text, strlen(rows[i].text), &err), err);
        int r = engine_chat_turn(e, &v, &t, &err);
        template_close(e->tmpl);
        e->tmpl = own;
        if (r != rows[i].want)
            TEST_FAIL("row %u: %d, %s", i, r, err.msg);
        for (size_t k = 0; k < t.n; k++) {
            size_t n;
            const char *p = tokenizer_piece(e->tok, t.id[k], true, &n);
            str_add(&all, p, n);
        }
        if (r == 0) {
            REQUIRE_STR(all.p, want_text);
            // What the client wrote is no control token.
            REQUIRE_OK(tokenizer_encode(e->tok, want_text, sizeof want_text - 1, NULL,
                                        TOKENIZE_SPECIAL, &plain, &err), err);
            REQUIRE(t.n > plain.n + 2);
        }
        str_free(&all);
        tokens_free(&t);
        tokens_free(&plain);
    }
    engine_close(e);
}

// ---- who may ----

TEST(one_request_at_a_time)
{
    struct kv_sim *m = kv_sim_create(3);
    struct engine *e = open_on(m, "null");
    struct session_info info;
    struct session *other;
    struct err err = {0};
    create(e, "a");
    struct session *s = take(e, "a");
    REQUIRE_INT(engine_session_take(e, &us, "a", &other, &info, &err), -EBUSY);
    REQUIRE_INT(engine_session_delete(e, &us, "a", &err), -EBUSY);
    REQUIRE(info_of(e, "a").busy);
    engine_session_drop(e, s);
    ask_on(e, "a", request(0, 10, 3));      // and it is free before the reader knows the end
    for (int i = 0; i < 20; i++)
        ask_on(e, "a", request(0, 10, 3));
    REQUIRE_INT(engine_session_delete(e, &us, "a", &err), 0);
    REQUIRE_INT(engine_session_get(e, &us, "a", &info), -ENOENT);
    REQUIRE_INT(engine_session_delete(e, &us, "a", &err), -ENOENT);
    // A request that is refused gives it back to its caller.
    create(e, "a");
    struct request r = request(0, N_MAX, 1);
    struct stream *stream;
    r.n_tokens = N_MAX;
    r.session = take(e, "a");
    r.token = (int32_t[N_MAX]){-1};
    REQUIRE_INT(engine_submit(e, &r, &stream, &err), -EINVAL);
    REQUIRE(info_of(e, "a").busy);
    engine_session_drop(e, r.session);
    close_engine(e);
    kv_sim_destroy(m);
}

TEST(owners_do_not_see_each_other)
{
    struct kv_sim *m = kv_sim_create(4);
    struct engine *e = open_on(m, "null");
    struct session_info info[3];
    struct session *s;
    struct err err = {0};
    create(e, "a");
    REQUIRE_INT(engine_session_get(e, &them, "a", info), -ENOENT);
    REQUIRE_INT(engine_session_delete(e, &them, "a", &err), -ENOENT);
    REQUIRE_INT(engine_session_take(e, &them, "a", &s, info, &err), -ENOENT);
    struct session_spec spec = {.id = "b", .fork_from = "a", .at_token = UINT32_MAX};
    REQUIRE_INT(engine_session_create(e, &them, &spec, info, &err), -ENOENT);
    REQUIRE_INT(engine_session_list(e, &them, NULL, info, 3), 0);
    spec = (struct session_spec){.id = "a", .metadata = "theirs"};
    REQUIRE_OK(engine_session_create(e, &them, &spec, info, &err), err);
    REQUIRE_STR(info->metadata, "theirs");
    REQUIRE_INT(engine_session_create(e, &them, &spec, info, &err), -EEXIST);
    REQUIRE_STR(info_of(e, "a").metadata, "");
    close_engine(e);
    kv_sim_destroy(m);
}

TEST(ids_and_lists)
{
    struct kv_sim *m = kv_sim_create(5);
    struct engine *e = open_on(m, "null");
    struct session_info info[16], more[16];
    struct err err = {0};
    char longest[SESSION_ID_MAX + 2];
    memset(longest, 'x', sizeof longest);
    longest[SESSION_ID_MAX + 1] = '\0';
    for (const char *const *id = (const char *[]){"", "a/b", "a b", "\xc3\xa4", longest, NULL}; *id;
         id++) {
        struct session_spec spec = {.id = *id};
        REQUIRE_INT(engine_session_create(e, &us, &spec, info, &err), -EINVAL);
        REQUIRE_INT(engine_session_get(e, &us, *id, info), -ENOENT);
    }
    create(e, longest + 1);
    for (int i = 0; i < 9; i++)
        create(e, NULL);
    REQUIRE_INT(engine_session_list(e, &us, NULL, info, 16), 10);
    for (int i = 0; i < 9; i++)         // pages of 3 give all of them, once
        REQUIRE(info[i].created_s >= info[i + 1].created_s && strcmp(info[i].id, info[i + 1].id));
    uint32_t n = 0, page;
    while ((page = engine_session_list(e, &us, n ? &more[n - 1] : NULL, &more[n], 3)) > 0)
        n += page;
    REQUIRE_INT(n, 10);
    REQUIRE(memcmp(info, more, 10 * sizeof *info) == 0);
    close_engine(e);
    e = open_on(m, "null");
    REQUIRE_INT(engine_session_list(e, &us, NULL, more, 16), 10);
    REQUIRE(memcmp(info, more, 10 * sizeof *info) == 0);
    struct engine_stats st;
    engine_stats(e, &st);
    REQUIRE_INT(st.sessions.n, 10);
    close_engine(e);
    kv_sim_destroy(m);
}

// ---- forks ----

TEST(forks_share_blocks)
{
    struct kv_sim *m = kv_sim_create(6);
    struct engine *e = open_on(m, "cpu");
    struct session_info info;
    struct err err = {0};
    struct request r = request(0, N_PROMPT, N_NEW);
    ask(e, &(struct request){.token = text[0], .n_tokens = 150, .gen = r.gen, .attn = r.attn},
        &want);                         // of another owner: nothing is shared with the sessions
    REQUIRE_INT(want.done.usage.cached_tokens, 0);
    create(e, "a");
    ask_on(e, "a", r);
    settle(e);
    struct session_spec spec = {.id = "b", .pin = true, .fork_from = "a", .at_token = 271};
    REQUIRE_INT(engine_session_create(e, &us, &spec, &info, &err), -ERANGE);
    REQUIRE(strstr(err.msg, "270"));
    spec.at_token = 150;
    REQUIRE_OK(engine_session_create(e, &us, &spec, &info, &err), err);
    REQUIRE_INT(info.n_tokens, 150);
    REQUIRE_INT(info.n_pinned, 2);
    REQUIRE_STR(info.parent, "a");
    REQUIRE_INT(info.parent_tokens, 150);
    REQUIRE_OK(engine_session_delete(e, &us, "a", &err), err);
    close_engine(e);

    e = open_on(m, "cpu");
    uint32_t n = text_of(e, "b", 1);
    REQUIRE_INT(n, 150);
    struct request go = request_of(text[1], n, N_NEW);
    go.gen = r.gen;
    go.salt = us;
    ask_on(e, "b", go);
    REQUIRE_INT(got.done.usage.cached_tokens, 128);
    REQUIRE(same(&got, &want));         // what the text gives that was never shared
    REQUIRE_INT(info_of(e, "b").n_tokens, 150 + N_NEW);
    close_engine(e);
    kv_sim_destroy(m);
}

// ---- requests that are cut ----

static void cut_after(struct engine *e, const char *id, struct request r, uint32_t n_tokens)
{
    struct delta d;
    r.session = take(e, id);
    struct stream *s = submit(e, &r);
    for (uint32_t n = 0; n < n_tokens;) {
        REQUIRE(stream_wait(s, 20 * NS_PER_S) && stream_read(s, &d));
        REQUIRE(d.kind == DELTA_TEXT);
        n += d.n_tokens;
    }
    stream_close(s);
    while (info_of(e, id).busy)
        usleep(500);
}

TEST(what_a_cut_request_leaves)
{
    struct kv_sim *m = kv_sim_create(7);
    struct engine *e = open_on(m, "null:2ms");
    create(e, "a");
    struct request r = request(0, N_PROMPT, 800);
    cut_after(e, "a", r, 10);
    REQUIRE_INT(info_of(e, "a").n_tokens, 192);
    settle(e);
    REQUIRE_INT(info_of(e, "a").n_pinned, 3);
    // A shorter one takes nothing away.
    cut_after(e, "a", request(0, 100, 800), 3);
    REQUIRE_INT(info_of(e, "a").n_tokens, 192);
    // An appended turn that was cut is not in the text; its blocks are pinned for the next try.
    r = request(0, 500, 400);
    r.session_append = true;
    cut_after(e, "a", r, 3);
    settle(e);
    REQUIRE_INT(info_of(e, "a").n_tokens, 192);
    REQUIRE_INT(info_of(e, "a").n_pinned, 7);
    require_text(e, "a", &r, 192);
    // Late ones are cut too.
    r.deadline_ns = clock_now_ns() + NS_PER_S / 10;
    ask_on(e, "a", r);
    REQUIRE_INT(got.done.reason, FINISH_DEADLINE);
    REQUIRE_INT(info_of(e, "a").n_tokens, 192);
    close_engine(e);
    kv_sim_destroy(m);
}

// The engine is closed in the middle: what it had goes to the disk.
TEST(an_end_is_a_cut)
{
    struct kv_sim *m = kv_sim_create(10);
    struct engine *e = open_on(m, "null:2ms");
    struct engine_stats st;
    create(e, "a");
    struct request r = request(0, N_PROMPT, 800);
    r.session = take(e, "a");
    struct stream *s = submit(e, &r);
    do
        engine_stats(e, &st);
    while (st.store.written_blocks < 2 && usleep(500) == 0);
    stream_close(s);
    engine_close(e);
    e = open_on(m, "null");
    struct session_info i = info_of(e, "a");
    REQUIRE(i.n_tokens >= 128 && i.n_tokens % 64 == 0 && i.n_pinned >= 2);
    require_text(e, "a", &r, MIN(i.n_tokens, 192));
    close_engine(e);
    kv_sim_destroy(m);
}

TEST(a_bad_logit_leaves_the_session)
{
    struct kv_sim *m = kv_sim_create(8);
    struct engine *e = open_on(m, "null:bad=4321");
    create(e, "a");
    struct request r = request(0, N_PROMPT, 2);
    ask_on(e, "a", r);
    r = request(0, N_PROMPT + 50, 2);
    text[0][N_PROMPT + 49] = 4321;
    ask_on(e, "a", r);
    REQUIRE_INT(got.done.reason, FINISH_ERROR);
    REQUIRE_INT(info_of(e, "a").n_tokens, N_PROMPT + 2);
    REQUIRE(!info_of(e, "a").busy);
    close_engine(e);
    kv_sim_destroy(m);
}

// ---- time ----

TEST(sessions_expire)
{
    struct kv_sim *m = kv_sim_create(9);
    struct engine *e = open_on(m, "null");
    struct session_info info;
    struct err err = {0};
    struct session_spec spec = {.id = "short", .ttl_s = 2, .pin = true};
    REQUIRE_OK(engine_session_create(e, &us, &spec, &info, &err), err);
    REQUIRE_INT(info.expires_s, info.used_s + 2);
    create(e, "a");
    sleep(1);
    ask_on(e, "short", request(0, N_PROMPT, 2));    // which counts as a use
    REQUIRE(info_of(e, "short").expires_s > info.expires_s);
    settle(e);
    sleep(3);
    REQUIRE_INT(engine_session_get(e, &us, "short", &info), -ENOENT);
    REQUIRE_INT(engine_session_list(e, &us, NULL, &info, 1), 1);
    spec.ttl_s = 0;
    REQUIRE_OK(engine_session_create(e, &us, &spec, &info, &err), err);
    REQUIRE_INT(info.n_tokens, 0);
    close_engine(e);
    e = open_on(m, "null");
    REQUIRE_INT(info_of(e, "short").n_tokens, 0);
    close_engine(e);
    kv_sim_destroy(m);
}

// ---- a disk that fails ----

// The session after a turn of which only this much is known: it was acknowledged, or not.
static void require_turns(struct engine *e, uint32_t n_turns, uint32_t n_most)
{
    struct session_info i;
    if (engine_session_get(e, &us, "a", &i) < 0) {
        REQUIRE_INT(n_turns, 0);        // nothing of it was durable
        return;
    }
    bool ok = false;
    for (uint32_t n = n_turns; n <= n_most; n++)
        ok |= i.n_tokens == (n ? 100 * n + 2 : 0);
    if (!ok)
        TEST_FAIL("%u tokens after %u to %u turns", i.n_tokens, n_turns, n_most);
    uint32_t n = text_of(e, "a", 6);
    request(0, N_MAX, 0);
    REQUIRE(memcmp(text[6], text[0], (n - MIN(n, 2)) * sizeof(int32_t)) == 0);
}

TEST(a_crash_leaves_a_whole_state)
{
    for (uint64_t seed = 1; seed <= 12; seed++) {
        struct kv_sim *m = kv_sim_create(seed);
        struct engine *e = open_on(m, "null");
        uint32_t n_durable = 0, n_done = 0;
        create(e, "a");
        for (uint32_t turn = 1; turn <= 6; turn++) {
            if (turn == 3) {
                settle(e);
                n_durable = 2;
                tell_sim(e, m, NULL, seed * 2);
            }
            ask_on(e, "a", request(0, 100 * turn, 2));
            n_done = turn;
        }
        require_idle(e);
        engine_close(e);
        kv_sim_restart(m);
        e = open_on(m, "null");
        require_turns(e, n_durable, n_done);
        ask_on(e, "a", request(0, 700, 2));     // and it goes on
        REQUIRE_INT(info_of(e, "a").n_tokens, 702);
        close_engine(e);
        kv_sim_destroy(m);
    }
}

TEST(a_failing_disk)
{
    static const struct kv_sim_faults faults[] = {
        {.read_eio = 300000}, {.write_eio = 300000}, {.flip = 300000}, {.delay = 900000},
        {.sync_eio = 200000, .commit_eio = 100000}, {.write_enospc = 300000},
        {.commit_eio = 1000000},
    };
    uint32_t n_refused = 0;
    for (unsigned i = 0; i < ARRAY_LEN(faults); i++) {
        struct kv_sim *m = kv_sim_create(i + 20);
        struct engine *e = open_on(m, "null");
        create(e, "a");
        tell_sim(e, m, &faults[i], 0);
        for (uint32_t turn = 1; turn <= 3; turn++) {
            struct request r = request(0, 100 * turn, 2);
            ask_on(e, "a", r);
            require_text(e, "a", &r, 100 * turn + 2);   // in memory, if not on the disk
        }
        struct session_info info;
        struct err err = {0};
        struct session_spec spec = {.id = "b", .pin = true};
        int r = engine_session_create(e, &us, &spec, &info, &err);
        REQUIRE(r == 0 || r == -EIO || r == -ENOSPC);
        n_refused += r < 0;
        REQUIRE_INT(engine_session_get(e, &us, "b", &info), r == 0 ? 0 : -ENOENT);
        r = engine_session_delete(e, &us, "a", &err);
        REQUIRE(r == 0 || r == -EIO);
        REQUIRE_INT(engine_session_get(e, &us, "a", &info), r == 0 ? -ENOENT : 0);
        settle(e);
        engine_close(e);
        kv_sim_destroy(m);
    }
    REQUIRE(n_refused > 0);
}

// ---- files ----

enum { FILE_MAX = 16 << 20 };

static int import(struct engine *e, const struct hash *owner, const char *id, const uint8_t *p,
                  size_t n, size_t piece, struct err *err)
{
    struct session_import *i;
    struct session_info info;
    int r = engine_import_open(&i, e, owner, id, err);
    for (size_t at = 0; at < n && r == 0; at += piece)
        r = engine_import_feed(i, p + at, MIN(piece, n - at), err);
    if (r == 0)
        r = engine_import_end(i, &info, err);
    engine_import_close(i);
    return r;
}

static void woken(void *count) { __atomic_add_fetch((int *)count, 1, __ATOMIC_SEQ_CST); }

static size_t export(struct engine *e, const char *id, uint8_t *p)
{
    struct session_export *x;
    struct err err = {0};
    int wakes = 0;
    REQUIRE_OK(engine_export_open(&x, e, &us, id, woken, &wakes, &err), err);
    size_t all = engine_export_bytes(x), n = 0;
    REQUIRE(all <= FILE_MAX);
    for (int seen = 0; n < all;) {
        size_t got_bytes = engine_export_read(x, p + n, MIN(all - n, 100000));
        n += got_bytes;
        while (got_bytes == 0 && __atomic_load_n(&wakes, __ATOMIC_SEQ_CST) == seen)
            usleep(100);
        seen = __atomic_load_n(&wakes, __ATOMIC_SEQ_CST);
    }
    REQUIRE_INT(engine_export_read(x, p, 1), 0);
    engine_export_close(x);
    return n;
}

// Between two stores; the text goes on from the blocks that came with it.
TEST(a_session_moves)
{
    static uint8_t file[FILE_MAX];
    struct kv_sim *m = kv_sim_create(30), *other = kv_sim_create(31);
    struct engine *e = open_on(m, "cpu");
    struct request r = request(0, N_PROMPT, 20);
    struct err err = {0};
    create(e, "a");
    ask_on(e, "a", r);
    settle(e);
    size_t n = export(e, "a", file);
    REQUIRE(n > 3 * engine_info(e)->kv_block_bytes);
    REQUIRE_INT(import(e, &us, NULL, file, n, n, &err), -EEXIST);
    uint32_t n_text = text_of(e, "a", 1);
    struct request go = request_of(text[1], n_text, 20);
    go.gen = r.gen;
    go.gen.max_tokens = 20;
    go.salt = us;
    ask(e, &go, &want);
    close_engine(e);

    e = open_on(other, "cpu");
    REQUIRE_OK(import(e, &us, NULL, file, n, 12345, &err), err);
    REQUIRE_OK(import(e, &us, "b", file, n, n, &err), err);
    REQUIRE_OK(import(e, &them, NULL, file, n, 1 << 20, &err), err);    // another key's
    struct session_info i = info_of(e, "a");
    REQUIRE(i.imported && i.durable && i.n_tokens == n_text && i.n_pinned == 3);
    // Nobody else finds what came in a file.
    ask(e, &go, &got);
    REQUIRE_INT(got.done.usage.cached_tokens, 0);
    close_engine(e);
    e = open_on(other, "cpu");
    ask_on(e, "b", go);
    REQUIRE_INT(got.done.usage.cached_tokens, 192);
    REQUIRE(same(&got, &want));
    // A fork has the same blocks.
    struct session_spec spec = {.id = "c", .pin = true, .fork_from = "a", .at_token = 130};
    REQUIRE_OK(engine_session_create(e, &us, &spec, &i, &err), err);
    REQUIRE(i.imported && i.n_pinned == 2);
    // And what was imported can be exported.
    REQUIRE_INT(export(e, "c", file), n - 90 * 4 - engine_info(e)->kv_block_bytes - 40 +
                strlen("a"));           // it names its parent
    close_engine(e);
    kv_sim_destroy(m);
    kv_sim_destroy(other);
}

TEST(files_are_checked)
{
    static uint8_t file[FILE_MAX], copy[FILE_MAX];
    struct kv_sim *m = kv_sim_create(32), *other = kv_sim_create(33);
    struct engine *e = open_on(m, "null");
    struct session_info info;
    struct err err = {0};
    create(e, "a");
    ask_on(e, "a", request(0, 100, 2));
    settle(e);
    size_t n = export(e, "a", file), n_head = n - engine_info(e)->kv_block_bytes - 40;
    REQUIRE(n_head < 2000);
    close_engine(e);
    e = open_on(other, "null");
    memcpy(copy, file, n);
    for (size_t at = 0; at < n; at += at < n_head + 48 ? 3 : 50021) {
        copy[at] ^= (uint8_t)(1 << at % 8);
        int r = import(e, &us, NULL, copy, n, n, &err);
        copy[at] = file[at];
        if (r >= 0)
            TEST_FAIL("a bit of byte %zu changed, and nobody saw", at);
        REQUIRE(r == -EINVAL || r == -ESTALE || r == -ENOTSUP);
    }
    for (size_t k = 0; k < n; k += k < n_head + 48 ? 7 : 50021)
        REQUIRE_INT(import(e, &us, NULL, file, k, 1000, &err), -EINVAL);
    REQUIRE_INT(import(e, &us, NULL, copy, n + 1, n + 1, &err), -EINVAL);
    REQUIRE_INT(engine_session_list(e, &us, NULL, &info, 1), 0);
    REQUIRE_OK(import(e, &us, NULL, file, n, n, &err), err);
    close_engine(e);
    // Of another executor, another layout.
    kv_sim_destroy(other);
    other = kv_sim_create(34);
    e = open_on(other, "cpu");
    REQUIRE_INT(import(e, &us, NULL, file, n, n, &err), -ESTALE);
    REQUIRE(strstr(err.msg, "executor") || strstr(err.msg, "layout"));
    close_engine(e);
    e = open_engine("null", (struct engine_params){
        .ctx_tokens = N_MAX, .kv_blocks = 24, .kv_v = "q8_0", .kv_store_sim = other,
        .kv_store_bytes = 64 << 20});
    REQUIRE_INT(import(e, &us, NULL, file, n, n, &err), -ESTALE);
    REQUIRE(strstr(err.msg, "layout"));
    close_engine(e);
    kv_sim_destroy(m);
    kv_sim_destroy(other);
}

// A file is whole in its length whatever the disk does meanwhile, and says which blocks it lost.
TEST(files_of_a_failing_disk)
{
    static uint8_t file[FILE_MAX];
    struct kv_sim *m = kv_sim_create(35), *other = kv_sim_create(36);
    struct engine *e = open_on(m, "null");
    struct session_export *x;
    struct session_info i;
    struct err err = {0};
    int wakes = 0;
    create(e, "a");
    ask_on(e, "a", request(0, 300, 2));
    settle(e);
    // Who leaves in the middle, or at once.
    for (size_t part = 0; part < 3000000; part += 700000) {
        REQUIRE_OK(engine_export_open(&x, e, &us, "a", woken, &wakes, &err), err);
        engine_export_read(x, file, part);
        engine_export_close(x);
    }
    tell_sim(e, m, &(struct kv_sim_faults){.read_eio = 500000}, 0);
    size_t n = 0;
    for (int k = 0; k < 8 && n == 0; k++) {
        // The record may be what fails.
        if (engine_export_open(&x, e, &us, "a", woken, &wakes, &err) < 0)
            continue;
        engine_export_close(x);
        n = export(e, "a", file);
    }
    REQUIRE(n > 0);
    close_engine(e);
    e = open_on(other, "null");
    REQUIRE_OK(import(e, &us, NULL, file, n, n, &err), err);
    i = info_of(e, "a");
    REQUIRE(i.n_tokens == 302 && i.n_pinned < 4);
    close_engine(e);
    kv_sim_destroy(m);
    kv_sim_destroy(other);
}

// ---- the record ----

TEST(records_are_checked)
{
    enum { N = 5 };
    static uint8_t b[512], copy[512];
    struct session_meta m = {.id = "a.b", .parent = "p", .metadata = "{}", .n_tokens = N,
                             .ttl_s = 7, .created_s = 1 << 30, .used_s = INT64_MAX, .pin = true,
                             .has_attn = true, .attn = attn_policy_dense()}, back;
    const int32_t token[N] = {0, 1, -1, INT32_MAX, 77};
    const uint8_t *tokens;
    int32_t t[N];
    struct err err = {0};
    size_t n = session_record_bytes(&m);
    session_record_write(&m, token, b);
    REQUIRE_OK(session_record_read(b, n, &back, &tokens, &err), err);
    REQUIRE_STR(back.id, m.id);
    REQUIRE_STR(back.metadata, m.metadata);
    REQUIRE(back.ttl_s == 7 && back.used_s == INT64_MAX && back.pin && !back.imported);
    session_tokens_read(tokens, N, t);
    REQUIRE(memcmp(t, token, sizeof t) == 0);
    // Shorter and longer ones in memory of just that size, so that a sanitizer sees every step.
    for (size_t k = 0; k <= n + 9; k++) {
        uint8_t *p = malloc(MAX(k, 1));
        memcpy(p, b, MIN(k, n));
        memset(p + MIN(k, n), 0, k - MIN(k, n));
        REQUIRE(k == n || session_record_read(p, k, &back, &tokens, &err) < 0);
        free(p);
    }
    for (size_t bit = 0; bit < n * 8; bit++) {
        memcpy(copy, b, n);
        copy[bit / 8] ^= (uint8_t)(1 << bit % 8);
        if (session_record_read(copy, n, &back, &tokens, &err) == 0)
            REQUIRE(back.n_tokens == N && session_id_ok(back.id) && tokens == copy + n - 4 * N);
    }
    b[8] = 2;                           // of a newer program
    REQUIRE_INT(session_record_read(b, n, &back, &tokens, &err), -ENOTSUP);
}

TEST_MAIN
