// Protects engine/model: configuration, binding and the plan of every architecture that a test
// model exists for. The plans are compared with tests/plans/ARCH.txt.
#include "tests/test.h"
#include <errno.h>
#include "base/str.h"
#include "engine/model/arch/arch.h"
#include "engine/model/model.h"
#include "engine/model/plan.h"

TEST_MAIN

static struct model *open_model(const char *file)
{
    char path[4096];
    struct err e = { 0 };
    struct model *m;
    if (!test_model(file, path, sizeof(path)))
        SKIP("no %s: run tools/model", file);
    REQUIRE_OK(model_open(&m, path, &e), e);
    return m;
}

// The lines of the plan that stand for a kind of layer each, and the tail.
static void pick_lines(const char *plan, const char *const *layers, struct str *out)
{
    for (const char *line = plan; *line;) {
        const char *end = strchr(line, '\n') + 1;
        for (const char *const *l = layers; *l; l++) {
            if (strncmp(line + 5, *l, strlen(*l)) == 0)
                str_add(out, line, (size_t)(end - line));
        }
        line = end;
    }
}

static void read_file(const char *path, struct str *out)
{
    FILE *f = fopen(path, "rb");
    REQUIRE(f);
    char buf[4096];
    for (size_t n; (n = fread(buf, 1, sizeof(buf), f)) > 0;)
        str_add(out, buf, n);
    fclose(f);
}

static void check_plan(const char *file, const char *golden, const char *const *layers)
{
    struct model *m = open_model(file);
    struct str plan = { 0 }, picked = { 0 }, want = { 0 };
    plan_print(m->plan, &plan);
    pick_lines(plan.p, layers, &picked);
    char path[4096];
    const char *root = getenv("GODWIT_SOURCE");
    snprintf(path, sizeof(path), "%s/tests/plans/%s", root ? root : ".", golden);
    if (getenv("GODWIT_REWRITE")) {
        FILE *f = fopen(path, "wb");
        REQUIRE(f);
        fwrite(picked.p, 1, picked.n, f);
        fclose(f);
    }
    read_file(path, &want);
    REQUIRE_STR(picked.p, want.p);
    str_free(&plan);
    str_free(&picked);
    str_free(&want);
    model_close(m);
}

TEST(plan_llama)
{
    check_plan("SmolLM2-135M-Instruct.Q4_1.gguf", "llama.txt",
               (const char *const[]){ "layer   0", "layer  29", NULL });
}

TEST(plan_qwen2)
{
    check_plan("qwen2.5-coder-0.5b-instruct.gguf", "qwen2.txt",
               (const char *const[]){ "layer   0", "layer  23", NULL });
}

TEST(plan_gemma3)
{
    check_plan("gemma-3-270m-q4_k_m.gguf", "gemma3.txt",
               (const char *const[]){ "layer   0", "layer   5", "layer  17", NULL });
}

TEST(cfg_smollm2)
{
    struct model *m = open_model("SmolLM2-135M-Instruct.Q4_1.gguf");
    const struct model_cfg *c = &m->cfg;
    REQUIRE_INT(c->n_layers, 30);
    REQUIRE_INT(c->n_vocab, 49152);
    REQUIRE_INT(c->head_dim, 64);
    REQUIRE_INT(c->n_kv_heads, 3);
    REQUIRE_INT(c->rope.kind, ROPE_ADJACENT);
    REQUIRE(c->rope.base == 100000.0f && c->norm_eps == 1e-5f && c->window == 0);
    REQUIRE(m->weights.out == m->weights.embed);
    model_close(m);
}

TEST(cfg_gemma3)
{
    struct model *m = open_model("gemma-3-270m-q4_k_m.gguf");
    const struct model_cfg *c = &m->cfg;
    REQUIRE_INT(c->window, 512);
    for (uint32_t i = 0; i < c->n_layers; i++)
        REQUIRE(cfg_is_local(c, i) == (i % 6 != 5));
    REQUIRE(c->rope_local.base == 10000.0f && c->rope.base == 1e6f);
    REQUIRE(c->attn_scale == 0.0625f && c->qk_norm && c->post_norms);
    model_close(m);
}

TEST(fingerprints_differ)
{
    struct model *a = open_model("SmolLM2-135M-Instruct.Q4_1.gguf");
    struct model *b = open_model("SmolLM2-135M-Instruct.Q4_1.gguf");
    struct model *c = open_model("gemma-3-270m-q4_k_m.gguf");
    REQUIRE(hash_equal(&a->fingerprint, &b->fingerprint));
    REQUIRE(!hash_equal(&a->fingerprint, &c->fingerprint));
    model_close(a);
    model_close(b);
    model_close(c);
}

TEST(missing_file)
{
    struct err e = { 0 };
    struct model *m = NULL;
    REQUIRE_INT(model_open(&m, "/nonexistent/model.gguf", &e), -ENOENT);
    REQUIRE(m == NULL && strstr(e.msg, "/nonexistent/model.gguf"));
}

TEST(arch_table)
{
    REQUIRE(arch_find("llama", 5) == &arch_llama);
    REQUIRE(arch_find("llama4", 6) == NULL && arch_find("llam", 4) == NULL);
}
