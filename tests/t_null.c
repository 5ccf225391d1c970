// Protects the null executor: tokens that repeat, failures and delays on request.
#include "tests/test.h"
#include <errno.h>
#include <math.h>
#include <time.h>
#include "base/clock.h"
#include "engine/exec/executor.h"
#include "engine/exec/null/null.h"

TEST_MAIN

static void null_step(struct program *g, const int32_t *token, uint32_t n, const uint32_t *out,
                      uint32_t n_out, struct batch *b)
{
    static struct batch_seq seq[2];
    struct err err;
    seq[0] = (struct batch_seq){ .n_rows = n - 1, .pos0 = 5 };
    seq[1] = (struct batch_seq){ .row0 = n - 1, .n_rows = 1, .pos0 = 9 };
    *b = (struct batch){ n, 2, n_out, token, seq, out, NULL };
    REQUIRE_OK(g->x->ops->submit(g, b, &err), err);
}

TEST(null_makes_repeatable_tokens)
{
    struct err err;
    struct batch b;
    struct executor *x;
    struct program *g = NULL;
    struct kv_layout layout;
    const struct plan plan = { 0 };
    const struct model m = { .cfg = { .n_layers = 1, .n_vocab = 50, .width = 64, .n_heads = 1,
                                      .n_kv_heads = 1, .head_dim = 64 } };
    const int32_t token[] = { 3, 4, 5, 6 };
    const uint32_t out[] = { 0, 2, 3 }, pos[] = { 5, 7, 9 };
    struct load_params lp = { .rows_max = 4, .seqs_max = 2, .outputs_max = 3 };
    const struct executor_params xp = { 0 };
    REQUIRE_OK(executor_null.open(&x, &xp, &err), err);
    REQUIRE_OK(x->ops->load(x, &m, &plan, &lp, &g, &err), err);
    REQUIRE_OK(x->ops->kv_alloc(g, 1u << 24, &layout, &err), err);
    REQUIRE_INT(layout.head_bytes, 2 * 64 * 64 * 4);
    for (int pass = 0; pass < 3; pass++) {
        null_step(g, token, 4, out, 3, &b);
        REQUIRE_OK(x->ops->wait(g, 0, &err), err);
        for (uint32_t i = 0; i < 3; i++)
            for (int32_t t = 0; t < 50; t++) {
                bool next = t == null_next_token(g, token[out[i]], pos[i]);
                REQUIRE(b.logits[i * 50 + (uint32_t)t] == (next ? 40.0f : 0.0f));
            }
    }
    REQUIRE_INT(null_steps(g), 3);
    REQUIRE_INT(null_record(g, 2).n_rows, 4);
    struct null_settings s = null_settings(g);
    REQUIRE_INT(s.end_token, -1);
    s = (struct null_settings){ .end_token = 7, .mean_length = 1, .fail_step = 5,
                                .fail_code = -EIO };
    null_set(g, &s);
    REQUIRE_INT(null_next_token(g, 1, 1), 7);
    null_step(g, token, 4, out, 3, &b);
    REQUIRE_INT(x->ops->wait(g, 0, &err), 0);
    null_step(g, token, 4, out, 3, &b);
    REQUIRE_INT(x->ops->wait(g, 0, &err), -EIO);
    s.fail_step = 0;
    s.step_ns = 1000000000000;
    null_set(g, &s);
    REQUIRE_INT(x->ops->wait(g, 1000, &err), -ETIMEDOUT);
    x->ops->unload(g);
    x->ops->close(x);
}

static int open_null(const char *arg, struct executor **x)
{
    struct err err;
    return executor_null.open(x, &(struct executor_params){ .device_arg = arg }, &err);
}

TEST(null_has_a_period)
{
    static const char *const bad[] = { "", "50", "ms", "-1ms", "+1ms", " 1ms", "1.5ms", "1ms ",
                                       "1m", "101s", "100001ms", "18446744073709551617us",
                                       "1ms,", ",1ms", "1ms;lost=2", "lost=", "lost=x", "lost",
                                       "bad=-1", "bad=2147483648", "lost=2 ", "LOST=2" };
    struct executor *x = NULL;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        REQUIRE_INT(open_null(bad[i], &x), -EINVAL);
    REQUIRE(!x);
    char text[80];
    REQUIRE_INT(open_null("1500us", &x), 0);
    x->ops->describe(x, text, sizeof(text));
    REQUIRE(strcmp(text, "null: no arithmetic, a step every 1.5 ms") == 0);
    x->ops->close(x);
    REQUIRE_INT(open_null("100s", &x), 0);
    x->ops->close(x);
}

TEST(null_has_faults)
{
    struct err err;
    struct executor *x;
    struct program *g = NULL;
    const struct plan plan = { 0 };
    const struct model m = { .cfg = { .n_vocab = 50 } };
    struct load_params lp = { .rows_max = 2, .seqs_max = 2, .outputs_max = 1 };
    REQUIRE_INT(open_null("bad=7,1ms,lost=20", &x), 0);
    REQUIRE_OK(x->ops->load(x, &m, &plan, &lp, &g, &err), err);
    struct null_settings s = null_settings(g);
    REQUIRE(s.bad_token == 7 && isnan(s.bad_logit));
    REQUIRE(s.fail_step == 20 && s.fail_code == -EIO && s.period_ns == NS_PER_MS);
    x->ops->unload(g);
    x->ops->close(x);
}

// A step that the engine was slow to ask for is not waited for; the next has its time again.
TEST(null_keeps_its_period)
{
    struct err err;
    struct batch b;
    struct executor *x;
    struct program *g = NULL;
    const struct plan plan = { 0 };
    const struct model m = { .cfg = { .n_vocab = 50 } };
    const int32_t token[] = { 3, 4 };
    struct load_params lp = { .rows_max = 2, .seqs_max = 2, .outputs_max = 1 };
    REQUIRE_INT(open_null("20ms", &x), 0);
    REQUIRE_OK(x->ops->load(x, &m, &plan, &lp, &g, &err), err);
    REQUIRE_INT(null_settings(g).period_ns, 20 * NS_PER_MS);
    uint64_t start_ns = clock_now_ns();
    for (int i = 0; i < 5; i++) {
        if (i == 3) {
            REQUIRE(clock_now_ns() - start_ns >= 40 * NS_PER_MS);
            nanosleep(&(struct timespec){ .tv_nsec = 30 * NS_PER_MS }, NULL);
            start_ns = clock_now_ns();
        }
        null_step(g, token, 2, (const uint32_t[]){ 1 }, 1, &b);
        REQUIRE_OK(x->ops->wait(g, NS_PER_S, &err), err);
    }
    REQUIRE(clock_now_ns() - start_ns >= 20 * NS_PER_MS);
    null_step(g, token, 2, (const uint32_t[]){ 1 }, 1, &b);
    REQUIRE_INT(x->ops->wait(g, 1000, &err), -ETIMEDOUT);
    x->ops->unload(g);
    x->ops->close(x);
}

TEST(executors_by_name)
{
    REQUIRE(executor_find("cpu") == &executor_cpu);
    REQUIRE(executor_find("auto") ==
            (executor_vulkan_wanted() ? &executor_vulkan : &executor_cpu));
    REQUIRE(executor_find("null") == &executor_null);
    REQUIRE(executor_find("null:") == &executor_null);
    REQUIRE(executor_find("null:a:b") == &executor_null);
    REQUIRE(strcmp(executor_arg("null:a:b"), "a:b") == 0 && !executor_arg("null"));
    REQUIRE(!executor_find("") && !executor_find(":") && !executor_find("nul") &&
            !executor_find("nulls"));
    REQUIRE(executor_find("vulkan:llvmpipe") == &executor_vulkan && !executor_find("auto:1"));
}
