// Protects what the models say: logits and greedy text of every model against Hugging Face
// transformers, as tests/golden/model.py wrote them down.
//
// --exact must agree to NMSE 1e-8 (float32 itself is good to 1e-12; a norm epsilon, a window off by
// one or weights rounded to f16 all lie between) and give the same text. The fast path's mean error
// may be PEER_RATIO_MAX times llama.cpp's on the same prompts (tests/golden/peer.py), and it may
// choose another token only where the reference's two best are within 0.3. Run it from a release
// build: it is slow under sanitizers. TEST_DEVICE names the device, else it is the CPU;
// TEST_GPU_LAYERS how many layers it gets, else all; TEST_PROMPT the only prompt, for a slow
// device.
#include "tests/test.h"
#include <errno.h>
#include <math.h>
#include "base/base.h"
#include "engine/engine.h"

#define EXACT_NMSE_MAX 1e-8
#define PEER_RATIO_MAX 1.2  // of the mean error to llama.cpp's; instruction sets differ by as much
#define GAP_MAX 0.3         // logits between two tokens that the fast path may mistake
#define SUBSET_MAX 512
#define TOKENS_MAX 2048
#define ROWS_MAX 64
#define PROMPTS_MAX 8
#define NAME_MAX_BYTES 64

struct golden_row {
    uint32_t pos, best;
    double   log_sum_exp;
    float    value[SUBSET_MAX];         // of the subset's tokens
};

struct golden_prompt {
    char     name[NAME_MAX_BYTES];
    uint32_t n_prompt, n_greedy, n_rows;
    int32_t  token[TOKENS_MAX];         // (n_prompt + n_greedy) the prompt and its greedy text
    float    gap[TOKENS_MAX];           // (n_greedy) best minus second best logit
    struct golden_row row[ROWS_MAX];
    double   peer_nmse;                 // what llama.cpp reaches
};

struct golden {
    char     file[NAME_MAX_BYTES];
    uint32_t n_vocab, n_subset, n_prompts;
    uint32_t subset[SUBSET_MAX];
    struct golden_prompt prompt[PROMPTS_MAX];
};

// ---- reading golden files -----------------------------------------------------------------------

static FILE *open_golden(const char *name)
{
    const char *root = getenv("GODWIT_SOURCE");
    char path[1024];
    snprintf(path, sizeof(path), "%s/tests/golden/logits/%s.txt", root ? root : ".", name);
    FILE *f = fopen(path, "r");
    if (!f)
        TEST_FAIL("cannot open %s", path);
    return f;
}

static void read_word(FILE *f, const char *expected)
{
    char word[NAME_MAX_BYTES];
    REQUIRE(fscanf(f, "%63s", word) == 1);
    REQUIRE_STR(word, expected);
}

static uint32_t read_count(FILE *f, const char *word, uint32_t max)
{
    uint32_t n;
    read_word(f, word);
    REQUIRE(fscanf(f, "%u", &n) == 1);
    REQUIRE(n <= max);
    return n;
}

static void read_floats(FILE *f, float *v, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        REQUIRE(fscanf(f, "%f", &v[i]) == 1);
}

static void read_tokens(FILE *f, int32_t *v, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        REQUIRE(fscanf(f, "%d", &v[i]) == 1);
}

static void read_prompt(FILE *f, struct golden_prompt *p, uint32_t n_subset)
{
    read_word(f, "prompt");
    REQUIRE(fscanf(f, "%63s", p->name) == 1);
    p->n_prompt = read_count(f, "tokens", TOKENS_MAX);
    read_tokens(f, p->token, p->n_prompt);
    p->n_greedy = read_count(f, "greedy", TOKENS_MAX - p->n_prompt);
    read_tokens(f, p->token + p->n_prompt, p->n_greedy);
    REQUIRE_INT(read_count(f, "gaps", TOKENS_MAX), p->n_greedy);
    read_floats(f, p->gap, p->n_greedy);
    p->n_rows = read_count(f, "rows", ROWS_MAX);
    for (uint32_t i = 0; i < p->n_rows; i++) {
        struct golden_row *row = &p->row[i];
        read_word(f, "row");
        REQUIRE(fscanf(f, "%u %u %lf", &row->pos, &row->best, &row->log_sum_exp) == 3);
        read_floats(f, row->value, n_subset);
    }
}

// Fills in peer_nmse from rows "MODEL PROMPT NMSE ...".
static void read_peer(struct golden *g, const char *model)
{
    FILE *f = open_golden("peer");
    char line[256], name[NAME_MAX_BYTES], prompt[NAME_MAX_BYTES];
    double nmse;
    while (fgets(line, sizeof(line), f)) {
        if (sscanf(line, "%63s %63s %lf", name, prompt, &nmse) != 3 || strcmp(name, model) != 0)
            continue;
        for (struct golden_prompt *p = g->prompt; p < g->prompt + PROMPTS_MAX; p++) {
            if (strcmp(p->name, prompt) == 0)
                p->peer_nmse = nmse;
        }
    }
    fclose(f);
}

// Leaves the prompt of that name.
static void keep_prompt(struct golden *g, const char *name)
{
    uint32_t i = 0;
    while (i < g->n_prompts && strcmp(g->prompt[i].name, name) != 0)
        i++;
    REQUIRE(i < g->n_prompts);
    g->prompt[0] = g->prompt[i];
    g->n_prompts = 1;
}

static struct golden *read_golden(const char *model)
{
    static struct golden g;
    memset(&g, 0, sizeof(g));
    FILE *f = open_golden(model);
    read_word(f, "file");
    REQUIRE(fscanf(f, "%63s", g.file) == 1);
    g.n_vocab = read_count(f, "vocab", UINT32_MAX);
    g.n_subset = read_count(f, "subset", SUBSET_MAX);
    for (uint32_t i = 0; i < g.n_subset; i++)
        REQUIRE(fscanf(f, "%u", &g.subset[i]) == 1);
    g.n_prompts = read_count(f, "prompts", PROMPTS_MAX);
    for (uint32_t i = 0; i < g.n_prompts; i++)
        read_prompt(f, &g.prompt[i], g.n_subset);
    fclose(f);
    read_peer(&g, model);
    if (getenv("TEST_PROMPT"))
        keep_prompt(&g, getenv("TEST_PROMPT"));
    return &g;
}

// ---- comparing ----------------------------------------------------------------------------------

struct comparison {
    const struct golden        *g;
    const struct golden_prompt *p;
    double   error2, reference2;        // sums over rows and subset
    double   log_sum_exp_error;         // largest
    uint32_t n_rows;                    // compared
    uint32_t n_differing;               // greedy tokens that are not the best here
    double   gap_max;                   // of those, in the reference
};

static uint32_t argmax(const float *v, uint32_t n)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < n; i++)
        best = v[i] > v[best] ? i : best;
    return best;
}

static double log_sum_exp(const float *v, uint32_t n)
{
    double max = v[argmax(v, n)], sum = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += exp(v[i] - max);
    return max + log(sum);
}

static void compare_row(struct comparison *c, const struct golden_row *row, const float *logits)
{
    for (uint32_t i = 0; i < c->g->n_subset; i++) {
        double expected = row->value[i], error = logits[c->g->subset[i]] - expected;
        c->error2 += error * error;
        c->reference2 += expected * expected;
    }
    double error = fabs(log_sum_exp(logits, c->g->n_vocab) - row->log_sum_exp);
    c->log_sum_exp_error = MAX(c->log_sum_exp_error, error);
    c->n_rows++;
}

// Position `pos` predicts the token after it: inside the greedy text that token is known.
static void compare_choice(struct comparison *c, uint32_t pos, const float *logits)
{
    uint32_t first = c->p->n_prompt - 1;
    if (pos < first || pos >= first + c->p->n_greedy)
        return;
    if ((int32_t)argmax(logits, c->g->n_vocab) != c->p->token[pos + 1]) {
        c->n_differing++;
        c->gap_max = MAX(c->gap_max, (double)c->p->gap[pos - first]);
    }
}

static int on_row(void *ctx, uint32_t pos, const float *logits, uint32_t n_vocab)
{
    struct comparison *c = ctx;
    if (n_vocab != c->g->n_vocab)
        return 1;
    compare_choice(c, pos, logits);
    for (uint32_t i = 0; i < c->p->n_rows; i++) {
        if (c->p->row[i].pos == pos)
            compare_row(c, &c->p->row[i], logits);
    }
    return 0;
}

// Runs prompt and greedy text in one piece.
static struct comparison evaluate(struct engine *e, const struct golden *g,
                                  const struct golden_prompt *p)
{
    struct comparison c = { .g = g, .p = p };
    struct attn_policy dense = attn_policy_dense();
    struct err err = { 0 };
    REQUIRE_OK(engine_eval(e, p->token, p->n_prompt + p->n_greedy, &dense, on_row, &c, &err), err);
    REQUIRE_INT(c.n_rows, p->n_rows);
    return c;
}

// Runs the prompt as a request, token by token. Returns the number of tokens that agree with the
// greedy text from its start.
static uint32_t generate(struct engine *e, const struct golden_prompt *p)
{
    struct request r = { .token = p->token, .n_tokens = p->n_prompt, .gen = gen_params_default(),
                         .attn = attn_policy_dense() };
    r.gen.max_tokens = p->n_greedy;
    r.gen.temperature = 0;
    r.gen.ignore_end = true;
    struct stream *s;
    struct err err = { 0 };
    REQUIRE_OK(engine_submit(e, &r, &s, &err), err);
    uint32_t n = 0, agree = 0;
    for (struct delta d = { 0 }; d.kind != DELTA_DONE;) {
        if (!stream_read(s, &d)) {
            stream_wait(s, UINT64_C(60000000000));
            continue;
        }
        for (uint32_t i = 0; d.kind == DELTA_TEXT && i < d.n_tokens; i++, n++)
            agree += agree == n && n < p->n_greedy && d.token[i] == p->token[p->n_prompt + n];
    }
    stream_close(s);
    REQUIRE_INT(n, p->n_greedy);
    return agree;
}

static void print_result(const char *mode, const struct comparison *c, uint32_t agree)
{
    printf("%s %s %s: NMSE %.2e (llama.cpp %.2e), log-sum-exp off by %.1e, "
           "%u of %u choices differ (gap up to %.3f), generated %u alike\n", c->g->file, c->p->name,
           mode, c->error2 / c->reference2, c->p->peer_nmse, c->log_sum_exp_error, c->n_differing,
           c->p->n_greedy, c->gap_max, agree);
    fflush(stdout);
}

// ---- the tests ----------------------------------------------------------------------------------

static struct engine *open_model(const struct golden *g, bool exact)
{
    char path[1024];
    if (!test_model(g->file, path, sizeof(path)))
        SKIP("no %s: run tools/model --all", g->file);
    const char *device = getenv("TEST_DEVICE"), *layers = getenv("TEST_GPU_LAYERS");
    struct engine_params p = { .model_path = path, .device = device ? device : "cpu",
                               .exact = exact, .ctx_tokens = TOKENS_MAX,
                               .gpu_limited = layers != NULL,
                               .gpu_layers = layers ? (uint32_t)strtoul(layers, NULL, 10) : 0,
                               .attn = attn_policy_dense() };
    struct engine *e;
    struct err err = { 0 };
    int r = engine_open(&e, &p, &err);
    if (r == -ENODEV)
        SKIP("%s", err.msg);
    REQUIRE_OK(r, err);
    REQUIRE_INT(engine_info(e)->n_vocab, g->n_vocab);
    return e;
}

static void check_exact(const char *model)
{
    const struct golden *g = read_golden(model);
    struct engine *e = open_model(g, true);
    bool good = true;
    for (uint32_t i = 0; i < g->n_prompts; i++) {
        struct comparison c = evaluate(e, g, &g->prompt[i]);
        uint32_t agree = generate(e, &g->prompt[i]);
        print_result("exact", &c, agree);
        good &= c.error2 <= EXACT_NMSE_MAX * c.reference2 && c.log_sum_exp_error < 1e-3;
        good &= c.n_differing == 0 && agree == g->prompt[i].n_greedy;
    }
    engine_close(e);
    REQUIRE(good);
}

// Against llama.cpp's int8 path by the geometric mean over the prompts: one prompt's error is the
// luck of a few rows, and moves by a factor of two when any rounding does.
static void check_fast(const char *model)
{
    const struct golden *g = read_golden(model);
    struct engine *e = open_model(g, false);
    bool good = true;
    double log_ratio = 0;
    for (uint32_t i = 0; i < g->n_prompts; i++) {
        const struct golden_prompt *p = &g->prompt[i];
        struct comparison c = evaluate(e, g, p);
        uint32_t agree = generate(e, p);
        print_result("fast", &c, agree);
        double ratio = c.error2 / (p->peer_nmse * c.reference2);
        good &= p->peer_nmse > 0 && ratio <= 2;
        log_ratio += log(ratio);
        good &= c.gap_max <= GAP_MAX;
        good &= agree == p->n_greedy || (double)p->gap[agree] <= GAP_MAX;
    }
    engine_close(e);
    double mean = exp(log_ratio / g->n_prompts);
    printf("%s fast: NMSE %.2f times llama.cpp's\n", g->file, mean);
    REQUIRE(good && mean <= PEER_RATIO_MAX);
}

TEST(smollm2_exact)      { check_exact("smollm2"); }
TEST(smollm2_fast)       { check_fast("smollm2"); }
TEST(gemma3_exact)       { check_exact("gemma3"); }
TEST(gemma3_fast)        { check_fast("gemma3"); }
TEST(qwen2_coder_exact)  { check_exact("qwen2.5-coder"); }
TEST(qwen2_coder_fast)   { check_fast("qwen2.5-coder"); }

TEST_MAIN
