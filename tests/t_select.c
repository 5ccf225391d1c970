// Protects the selectors: names, the block budget of a row, and the choice of the best blocks.
#include "tests/test.h"
#include <errno.h>
#include <math.h>
#include "engine/select/select.h"

TEST_MAIN

TEST(names_and_defaults)
{
    struct attn_policy p;
    REQUIRE_INT(selector_by_name("dense"), SELECT_dense);
    REQUIRE_INT(selector_by_name("topk"), SELECT_topk);
    REQUIRE_INT(selector_by_name("Dense"), -ENOENT);
    REQUIRE_STR(selectors[SELECT_window].name, "window");
    REQUIRE_INT(selectors[SELECT_topk].digests, 1);
    REQUIRE_INT(attn_policy_dense().selector, SELECT_dense);
    REQUIRE_INT(attn_policy_init(&p, "topk"), 0);
    REQUIRE_INT(p.budget_tokens, ATTN_BUDGET_DEFAULT);
    REQUIRE_INT(p.sink_tokens, ATTN_SINK_DEFAULT);
    REQUIRE_INT(attn_policy_init(&p, "window"), 0);
    REQUIRE_INT(p.window_tokens, ATTN_WINDOW_DEFAULT);
    REQUIRE_INT(attn_policy_init(&p, "none"), -ENOENT);
    REQUIRE_INT(p.selector, SELECT_window);
}

TEST(split_of_a_budget)
{
    static const struct {
        uint32_t budget, sink_tokens, pos, sink, local, chosen;
    } t[] = {
        // One block: the sink is all there is.
        { 1024, 64, 0, 1, 0, 0 },
        // Two blocks: sink and the row's own.
        { 0, 0, 64, 1, 1, 0 },
        // A tiny budget still reads sink and two local blocks.
        { 0, 0, 6400, 1, 2, 0 },
        { 64, 64, 6400, 1, 2, 0 },
        // 16 blocks: 1 sink, 4 local, 11 chosen.
        { 1024, 64, 8191, 1, 4, 11 },
        { 1024, 65, 8191, 2, 4, 10 },
        { 1024, 0, 8191, 1, 4, 11 },
        // Exactly the budget: everything.
        { 1024, 64, 1023, 1, 4, 11 },
        { 1024, 64, 1024, 1, 4, 11 },
        // A budget that is no multiple of a block.
        { 1000, 64, 999, 1, 3, 12 },
        { 1000, 64, 1000, 1, 3, 11 },
        { UINT32_MAX, UINT32_MAX, 1u << 23, 131073, 0, 0 },
        { 640, UINT32_MAX, 639, 10, 0, 0 },
    };
    for (size_t i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
        struct attn_policy p = {
            .selector = SELECT_topk, .budget_tokens = t[i].budget, .sink_tokens = t[i].sink_tokens,
        };
        struct topk_split s = topk_split_for(&p, t[i].pos);
        REQUIRE_INT(s.sink, t[i].sink);
        REQUIRE_INT(s.local, t[i].local);
        REQUIRE_INT(s.chosen, t[i].chosen);
    }
}

TEST(a_budget_of_the_whole_row_reads_everything)
{
    for (uint32_t pos = 0; pos < 3000; pos++) {
        struct attn_policy p = { SELECT_topk, pos + 1, 0, 64 };
        struct topk_split s = topk_split_for(&p, pos);
        REQUIRE_INT(s.sink + s.local + s.chosen, pos / KV_BLOCK_TOKENS + 1);
    }
}

// Selection by definition: i is chosen when fewer than k others beat it.
static bool beats(const float *s, uint32_t a, uint32_t b)
{
    return s[a] > s[b] || (s[a] == s[b] && a < b);
}

static void check_choice(const float *s, uint32_t n, uint32_t k)
{
    uint32_t list[300], scratch[300], m = 0;
    topk_choose(s, n, k, list, scratch);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t better = 0;
        for (uint32_t j = 0; j < n; j++)
            better += beats(s, j, i);
        if (better < k)
            REQUIRE(m < k && list[m++] == i);
    }
    REQUIRE_INT(m, k);
}

TEST(choice_of_the_highest)
{
    static const float special[] = { 0.0f, -0.0f, INFINITY, -INFINITY, 1e-45f, -1e-45f, 1.0f };
    float s[300];
    uint32_t seed = 1;
    for (uint32_t n = 1; n < 300; n += 1 + n / 3)
        for (int kind = 0; kind < 4; kind++) {
            for (uint32_t i = 0; i < n; i++) {
                seed = seed * 1664525 + 1013904223;
                uint32_t x = seed >> 8;
                s[i] = kind == 0 ? (float)x : kind == 1 ? (float)(x % 3) - 1.0f :
                       kind == 2 ? 0.5f : special[x % 7];
            }
            for (uint32_t k = 0; k <= n; k += 1 + k / 2)
                check_choice(s, n, k);
            check_choice(s, n, n);
        }
}
