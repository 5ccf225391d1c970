// Streams: what is pushed is read, in order, by readers that wait, park or leave.
#include "tests/test.h"
#include <pthread.h>
#include "engine/run/stream.h"
#include "base/clock.h"

static uint64_t rng_next(uint64_t *s)
{
    *s ^= *s << 13;
    *s ^= *s >> 7;
    *s ^= *s << 17;
    return *s >> 11;
}

static struct delta text_delta(const char *text, const int32_t *token, uint32_t n)
{
    return (struct delta){.kind = DELTA_TEXT, .text = text, .n_text = strlen(text), .token = token,
                          .n_tokens = n};
}

TEST(stream_keeps_order_and_content)
{
    struct stream *s;
    REQUIRE_INT(stream_create(&s, NULL, NULL), 0);
    struct delta got, done = {.kind = DELTA_DONE, .reason = FINISH_LENGTH};
    struct token_logprob lp[2] = {{.token = 7, .logprob = -1.5f, .n_top = 1}, {.token = 8}};
    lp[0].top[0].token = 9;
    REQUIRE(!stream_read(s, &got));
    for (int32_t i = 0; i < 3000; i++) {
        char text[64];
        snprintf(text, sizeof text, "piece %d", i);
        int32_t token[2] = {i, -i};
        struct delta d = text_delta(text, token, 2);
        if (i % 3 == 0)
            d.logprob = lp;
        REQUIRE_INT(stream_push(s, &d), 0);
    }
    char *big = calloc(1, 100001);          // more than a chunk
    memset(big, 'x', 100000);
    struct delta d = text_delta(big, NULL, 0);
    REQUIRE_INT(stream_push(s, &d), 0);
    stream_finish(s, &done);
    for (int32_t i = 0; i < 3000; i++) {
        char text[64];
        snprintf(text, sizeof text, "piece %d", i);
        REQUIRE(stream_wait(s, 0));
        REQUIRE(stream_read(s, &got));
        REQUIRE_INT(got.n_text, strlen(text));
        REQUIRE(memcmp(got.text, text, got.n_text) == 0);
        REQUIRE_INT(got.n_tokens, 2);
        REQUIRE_INT(got.token[1], -i);
        REQUIRE_INT(got.logprob != NULL, i % 3 == 0);
        if (got.logprob)
            REQUIRE(got.logprob[0].top[0].token == 9 && got.logprob[1].token == 8);
    }
    REQUIRE(stream_read(s, &got));
    REQUIRE(got.n_text == 100000 && memcmp(got.text, big, 100000) == 0);
    REQUIRE(stream_read(s, &got));
    REQUIRE_INT(got.kind, DELTA_DONE);
    REQUIRE_INT(got.reason, FINISH_LENGTH);
    REQUIRE(!stream_read(s, &got));
    REQUIRE(!stream_wait(s, NS_PER_S * 1000));      // nothing will come: does not wait
    stream_close(s);
    free(big);
}

TEST(stream_wait_times_out)
{
    struct stream *s;
    struct delta done = {.kind = DELTA_DONE};
    REQUIRE_INT(stream_create(&s, NULL, NULL), 0);
    uint64_t t = clock_now_ns();
    REQUIRE(!stream_wait(s, 20 * NS_PER_MS));
    REQUIRE(clock_now_ns() - t >= 20 * NS_PER_MS);
    stream_close(s);
    REQUIRE(stream_cancelled(s));
    stream_finish(s, &done);
}

// A reader as the HTTP side has it: it sleeps until wake() and reads until it is parked.
struct parked_reader {
    struct stream  *stream;
    pthread_mutex_t lock;
    pthread_cond_t  cond;
    unsigned        wakes;              // under lock
    int32_t         close_after;        // deltas; -1: reads all
    int32_t         n_read, n_parked;
};

static void reader_wake(void *ctx)
{
    struct parked_reader *r = ctx;
    pthread_mutex_lock(&r->lock);
    r->wakes++;
    pthread_cond_signal(&r->cond);
    pthread_mutex_unlock(&r->lock);
}

static void reader_park(struct parked_reader *r)
{
    pthread_mutex_lock(&r->lock);
    r->n_parked++;
    while (r->wakes == 0)
        pthread_cond_wait(&r->cond, &r->lock);
    REQUIRE_INT(r->wakes, 1);           // once for each time it was parked
    r->wakes = 0;
    pthread_mutex_unlock(&r->lock);
}

static void *reader_main(void *ctx)
{
    struct parked_reader *r = ctx;
    struct delta d;
    for (;;) {
        if (r->n_read == r->close_after)
            break;
        if (!stream_read(r->stream, &d)) {
            reader_park(r);
            continue;
        }
        if (d.kind == DELTA_DONE)
            break;
        if (d.token[0] != r->n_read || d.n_text != 3)
            abort();
        r->n_read++;
    }
    stream_close(r->stream);
    // wake() may not come any more: this thread's memory for it ends here
    pthread_mutex_destroy(&r->lock);
    pthread_cond_destroy(&r->cond);
    return NULL;
}

TEST(stream_parks_and_wakes)
{
    uint64_t s = 42;
    for (int round = 0; round < 60; round++) {
        struct parked_reader *r = calloc(1, sizeof *r);
        int32_t n = round == 0 ? 100000 : (int32_t)(rng_next(&s) % 2000);
        r->close_after = round % 2 ? (int32_t)(rng_next(&s) % 2000) : -1;
        pthread_mutex_init(&r->lock, NULL);
        pthread_cond_init(&r->cond, NULL);
        REQUIRE_INT(stream_create(&r->stream, reader_wake, r), 0);
        struct stream *st = r->stream;
        pthread_t t;
        REQUIRE_INT(pthread_create(&t, NULL, reader_main, r), 0);
        for (int32_t i = 0; i < n && !stream_cancelled(st); i++) {
            struct delta d = text_delta("abc", &i, 1);
            REQUIRE_INT(stream_push(st, &d), 0);
        }
        struct delta done = {.kind = DELTA_DONE};
        stream_finish(st, &done);
        pthread_join(t, NULL);
        if (r->close_after < 0)
            REQUIRE_INT(r->n_read, n);
        free(r);
    }
}

TEST_MAIN
