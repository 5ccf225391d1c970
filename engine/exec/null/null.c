// See null.h. Logits live in mapped memory that stays the kernel's zero page but where one was set,
// so that a large vocabulary costs a step nothing.
#include "engine/exec/null/null.h"
#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "base/base.h"
#include "base/clock.h"
#include "engine/exec/mem.h"

#define LOGIT 40.0f                 // so far above the zeros that temperature 1 picks it too
#define NULL_LAYOUT_VERSION 0x6e756c6cu
#define TOKEN_TYPE_NORMAL 1         // of tokenizer.ggml.token_type

#define PERIOD_NS_MAX (100 * NS_PER_S)

struct null_executor {
    struct executor      x;
    struct null_settings settings;  // that programs begin with
};

struct null_program {
    struct program       p;
    const struct model  *model;
    struct load_params   params;
    struct null_settings settings;
    int32_t             *text;      // (n_text) tokens that are plain ASCII words, owned
    uint32_t             n_text;
    struct kv_layout     layout;
    struct mem           kv, logits;    // a page; (outputs_max, n_vocab) float
    size_t              *set;       // (n_set) indices of logits that are not zero, owned
    uint32_t             n_set;
    uint64_t             steps;
    uint64_t             due_ns;    // the end of the last step that had a period
    bool                 profiled;
    uint64_t             waits, wait_ns;    // while profiled
    struct null_record   record[NULL_RECORDS];
};

static struct null_program *of(const struct program *p)
{
    return (struct null_program *)(uintptr_t)p;
}

// ---- tokens -----------------------------------------------------------------------------------

// Letters, digits and punctuation, perhaps after the space mark of either kind of vocabulary.
static bool is_word(struct gguf_str s)
{
    static const char *const space[] = { "\xc4\xa0", "\xe2\x96\x81" };
    for (unsigned i = 0; i < ARRAY_LEN(space); i++) {
        size_t n = strlen(space[i]);
        if (s.n >= n && memcmp(s.p, space[i], n) == 0) {
            s.p += n;
            s.n -= n;
            break;
        }
    }
    for (size_t i = 0; i < s.n; i++)
        if (s.p[i] <= ' ' || s.p[i] > '~' || s.p[i] == '<' || s.p[i] == '>')
            return false;
    return s.n > 0;
}

static int find_words(struct null_program *g, struct err *err)
{
    struct gguf_array word = {0}, type = {0};
    uint32_t n_vocab = g->model->cfg.n_vocab;
    const struct gguf *file = g->model->file;
    g->text = calloc(MAX(n_vocab, 1u), sizeof(*g->text));
    if (!g->text)
        return err_set(err, -ENOMEM, "no memory for %u tokens", n_vocab);
    if (file && gguf_get_array(file, "tokenizer.ggml.tokens", &word, NULL) == 0 && word.str)
        gguf_get_array(file, "tokenizer.ggml.token_type", &type, NULL);
    for (uint32_t i = 0; i < MIN(n_vocab, word.str ? word.n : 0); i++)
        if (is_word(word.str[i]) &&
            (i >= type.n || gguf_array_int(&type, i) == TOKEN_TYPE_NORMAL))
            g->text[g->n_text++] = (int32_t)i;
    for (uint32_t i = 0; g->n_text == 0 && i < n_vocab; i++)
        g->text[i] = (int32_t)i;
    g->n_text = g->n_text ? g->n_text : n_vocab;
    return 0;
}

static uint64_t mix(uint64_t x)
{
    x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);   // splitmix64
    x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
    return x ^ x >> 31;
}

int32_t null_next_token(const struct program *p, int32_t token, uint32_t pos)
{
    const struct null_program *g = of(p);
    uint64_t x = mix(((uint64_t)pos << 32 | (uint32_t)token) + UINT64_C(0x9e3779b97f4a7c15));
    const struct null_settings *s = &g->settings;
    if (s->mean_length && s->end_token >= 0 && mix(x) % s->mean_length == 0)
        return s->end_token;
    return g->text[x % g->n_text];
}

// ---- the executor -----------------------------------------------------------------------------

// "50ms", which ends at a comma or the end of text. False: it is something else.
static bool parse_period(const char *text, size_t n_text, uint64_t *ret)
{
    static const struct { const char *name; uint64_t ns; } unit[] = {
        { "us", NS_PER_MS / 1000 }, { "ms", NS_PER_MS }, { "s", NS_PER_S },
    };
    char *end;
    if (!isdigit((unsigned char)text[0]))
        return false;
    unsigned long long n = strtoull(text, &end, 10);
    size_t n_unit = (size_t)(text + n_text - end);
    for (unsigned i = 0; i < ARRAY_LEN(unit); i++) {
        if (strlen(unit[i].name) != n_unit || memcmp(end, unit[i].name, n_unit) != 0 ||
            n > PERIOD_NS_MAX / unit[i].ns)
            continue;
        *ret = n * unit[i].ns;
        return true;
    }
    return false;
}

// "lost=20".
static bool parse_number(const char *text, size_t n_text, const char *key, uint32_t *ret)
{
    size_t n_key = strlen(key);
    char *end;
    if (n_text <= n_key || memcmp(text, key, n_key) != 0 || !isdigit((unsigned char)text[n_key]))
        return false;
    unsigned long n = strtoul(text + n_key, &end, 10);
    *ret = (uint32_t)n;
    return end == text + n_text && n <= INT32_MAX;
}

static int parse_settings(const char *text, struct null_settings *s, struct err *err)
{
    uint32_t n;
    for (size_t len;; text += len + 1) {
        len = strcspn(text, ",");
        if (parse_number(text, len, "lost=", &n)) {
            s->fail_step = n;
            s->fail_code = -EIO;
        } else if (parse_number(text, len, "bad=", &n)) {
            s->bad_token = (int32_t)n;
            s->bad_logit = NAN;
        } else if (!parse_period(text, len, &s->period_ns)) {
            return err_set(err, -EINVAL, "the null device takes the time between its steps, such "
                           "as 50ms, lost=STEP and bad=TOKEN, not \"%.80s\"", text);
        }
        if (!text[len])
            return 0;
    }
}

static struct null_executor *executor_of(const struct executor *x)
{
    return (struct null_executor *)(uintptr_t)x;
}

static int null_open(struct executor **ret, const struct executor_params *p, struct err *err)
{
    struct null_settings s = { .end_token = -1 };
    int r = p->device_arg ? parse_settings(p->device_arg, &s, err) : 0;
    if (r)
        return r;
    struct null_executor *n = calloc(1, sizeof(*n));
    if (!n)
        return err_set(err, -ENOMEM, "no memory for an executor");
    *n = (struct null_executor){ .x.ops = &executor_null, .settings = s };
    *ret = &n->x;
    return 0;
}

static void null_close(struct executor *x)
{
    free(x);
}

static void null_describe(const struct executor *x, char *buf, size_t size)
{
    uint64_t us = executor_of(x)->settings.period_ns / 1000;
    int n = snprintf(buf, size, "null: no arithmetic");
    if (us && n > 0 && (size_t)n < size)
        snprintf(buf + n, size - (size_t)n, ", a step every %.6g ms", (double)us / 1000);
}

static void null_unload(struct program *p)
{
    if (!p)
        return;
    struct null_program *g = of(p);
    mem_unmap(&g->kv);
    mem_unmap(&g->logits);
    free(g->set);
    free(g->text);
    free(g);
}

static int null_load(struct executor *x, const struct model *m, const struct plan *plan,
                     const struct load_params *lp, struct program **ret, struct err *err)
{
    (void)plan;
    size_t bytes, outputs = lp->outputs_max;
    uint32_t end;
    struct null_program *g = calloc(1, sizeof(*g));
    if (!g)
        return err_set(err, -ENOMEM, "no memory for a program");
    g->p.x = x;
    g->model = m;
    g->params = *lp;
    g->settings = executor_of(x)->settings;
    if (m->file && gguf_u32(m->file, "tokenizer.ggml.eos_token_id", 0, INT32_MAX, &end, NULL) == 0)
        g->settings.end_token = end < m->cfg.n_vocab ? (int32_t)end : -1;
    int r = find_words(g, err);
    g->set = calloc(2 * outputs + 1, sizeof(*g->set));
    if (!r && (!g->set || !mul_size(outputs * sizeof(float), m->cfg.n_vocab, &bytes) ||
               mem_map(&g->logits, bytes)))
        r = err_set(err, -ENOMEM, "no memory for %zu outputs", outputs);
    if (!r && lp->progress && lp->progress(lp->progress_ctx, 1, 1))
        r = err_set(err, -ECANCELED, "the load was stopped");
    if (r) {
        null_unload(&g->p);
        return r;
    }
    *ret = &g->p;
    return 0;
}

static int null_kv_alloc(struct program *p, uint32_t n_blocks, struct kv_layout *ret,
                         struct err *err)
{
    struct null_program *g = of(p);
    assert(n_blocks > 0);
    int r = kv_layout_init(&g->layout, &g->model->cfg, g->params.k_type, g->params.v_type,
                           NULL_LAYOUT_VERSION, err);
    if (!r && mem_map(&g->kv, 1))
        r = err_set(err, -ENOMEM, "no memory for a page");
    if (!r)
        *ret = g->layout;
    return r;
}

static void null_kv_copy(struct program *p, uint32_t dst_block, uint32_t src_block)
{
    (void)p, (void)dst_block, (void)src_block;
}

static void null_kv_read(struct program *p, uint32_t block, void *dst)
{
    (void)block;
    memset(dst, 0, of(p)->layout.block_bytes);
}

static void null_kv_write(struct program *p, uint32_t block, const void *src)
{
    (void)p, (void)block, (void)src;
}

static void set_logit(struct null_program *g, size_t at, float logit)
{
    ((float *)g->logits.p)[at] = logit;
    g->set[g->n_set++] = at;
}

// Output i is of row b->out_row[i], which lies in sequence *seq or a later one.
static void set_output(struct null_program *g, const struct batch *b, uint32_t i, uint32_t *seq)
{
    uint32_t row = b->out_row[i];
    while (row >= b->seq[*seq].row0 + b->seq[*seq].n_rows)
        ++*seq;
    const struct batch_seq *s = &b->seq[*seq];
    int32_t next = null_next_token(&g->p, b->token[row], s->pos0 + row - s->row0);
    size_t n_vocab = g->model->cfg.n_vocab, first = i * n_vocab;
    set_logit(g, first + (size_t)next, LOGIT);
    if (g->settings.bad_logit != 0 && b->token[row] == g->settings.bad_token)
        set_logit(g, first + n_vocab / 2, g->settings.bad_logit);
}

static int null_submit(struct program *p, struct batch *b, struct err *err)
{
    (void)err;
    struct null_program *g = of(p);
    uint32_t seq = 0;
    assert(b->n_rows <= g->params.rows_max && b->n_out <= g->params.outputs_max);
    while (g->n_set > 0)
        ((float *)g->logits.p)[g->set[--g->n_set]] = 0.0f;
    for (uint32_t i = 0; i < b->n_out; i++)
        set_output(g, b, i, &seq);
    for (uint32_t i = 0; i < b->n_seqs; i++) {
        assert(i == 0 || b->seq[i].decode <= b->seq[i - 1].decode);
        b->seq[i].blocks_read = b->seq[i].blocks_held = 0;
    }
    b->logits = g->logits.p;
    g->record[g->steps++ % NULL_RECORDS] =
        (struct null_record){ b->n_rows, b->n_seqs, b->n_out };
    return 0;
}

// How long this step still takes. A step that comes late begins a new rhythm.
static uint64_t step_left_ns(struct null_program *g)
{
    if (!g->settings.period_ns)
        return g->settings.step_ns;
    uint64_t now_ns = clock_now_ns(), due_ns = g->due_ns + g->settings.period_ns;
    g->due_ns = MAX(due_ns, now_ns);
    return g->due_ns - now_ns;
}

static int null_wait(struct program *p, uint64_t timeout_ns, struct err *err)
{
    struct null_program *g = of(p);
    const struct null_settings *s = &g->settings;
    uint64_t left_ns = step_left_ns(g), ns = MIN(left_ns, timeout_ns);
    if (ns)
        nanosleep(&(struct timespec){ .tv_sec = (time_t)(ns / NS_PER_S),
                                      .tv_nsec = (long)(ns % NS_PER_S) }, NULL);
    g->waits += g->profiled;
    g->wait_ns += g->profiled ? ns : 0;
    if (s->fail_step && g->steps == s->fail_step)
        return err_set(err, s->fail_code, "the null executor was told to fail");
    return ns < left_ns ? err_set(err, -ETIMEDOUT, "the step is not done") : 0;
}

static void null_profile(struct program *p, bool on,
                         void (*f)(void *ctx, const char *label, uint64_t ns, uint64_t n),
                         void *ctx)
{
    struct null_program *g = of(p);
    if (f && g->waits > 0)
        f(ctx, "wait", g->wait_ns, g->waits);
    g->waits = g->wait_ns = 0;
    g->profiled = on;
}

static int null_slot_read(struct program *p, enum slot s, uint32_t row0, uint32_t n_rows,
                          float *dst)
{
    (void)row0;
    const struct plan *plan = of(p)->model->plan;
    memset(dst, 0, (size_t)n_rows * (plan ? plan->slot_width[s] : 0) * sizeof(float));
    return 0;
}

static int null_slot_write(struct program *p, enum slot s, uint32_t row0, uint32_t n_rows,
                           const float *src)
{
    (void)p, (void)s, (void)row0, (void)n_rows, (void)src;
    return 0;
}

const struct executor_ops executor_null = {
    .name = "null",
    .open = null_open,
    .close = null_close,
    .describe = null_describe,
    .load = null_load,
    .unload = null_unload,
    .kv_alloc = null_kv_alloc,
    .kv_copy = null_kv_copy,
    .kv_read = null_kv_read,
    .kv_write = null_kv_write,
    .submit = null_submit,
    .wait = null_wait,
    .profile = null_profile,
    .slot_read = null_slot_read,
    .slot_write = null_slot_write,
};

// ---- for tests --------------------------------------------------------------------------------

struct null_settings null_settings(const struct program *p)
{
    return of(p)->settings;
}

void null_set(struct program *p, const struct null_settings *s)
{
    assert(s->end_token < (int64_t)of(p)->model->cfg.n_vocab);
    of(p)->settings = *s;
}

uint64_t null_steps(const struct program *p)
{
    return of(p)->steps;
}

struct null_record null_record(const struct program *p, uint64_t i)
{
    const struct null_program *g = of(p);
    assert(i < g->steps && i + NULL_RECORDS >= g->steps);
    return g->record[i % NULL_RECORDS];
}
