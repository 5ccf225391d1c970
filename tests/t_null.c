// Protects the null executor: tokens that repeat, failures and delays on request.
#include "tests/test.h"
#include <errno.h>
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
    REQUIRE_OK(executor_null.open(&x, NULL, &err), err);
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

TEST(executors_by_name)
{
    REQUIRE(executor_find("cpu") == &executor_cpu);
    REQUIRE(executor_find("auto") == &executor_cpu);
    REQUIRE(executor_find("null") == &executor_null);
    REQUIRE(!executor_find("vulkan"));
}
