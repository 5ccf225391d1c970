// godwit bench: tokens per second of prefill, and of decode at a depth with some streams at once.
//
// Prompts are random tokens. Before a decode is timed, each stream's prompt is run once and stays
// in the prefix cache, all but its last token; or the cache is filled with what may stand for it
// (--fill random). So all streams decode together from the start; only the time in which every
// stream was producing counts. A profile is taken in a round of its own, since it costs time.
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "base/base.h"
#include "base/clock.h"
#include "server/cli/bench.h"

#define WAIT_NS NS_PER_S

struct bench {
    struct cli         *cli;
    struct engine      *engine;
    struct attn_policy  attn;
    uint64_t            random, load_ns;
    struct hash         salt;               // of all texts: what fills a store is nobody else's
    bool                fill;
    struct profile      profile;            // of the last round that had one
    struct str          json_prefill, json_decode, table;
};

struct lane {                               // one request and when its tokens came
    struct tokens   prompt;
    struct stream  *stream;
    uint64_t       *time_ns;                // (max_tokens)
    uint32_t        n, max_tokens;
    bool            done;
    struct delta    end;                    // once done: reason, usage, err
    uint64_t        first_round_ns;         // until its first token, the first time
};

static int random_prompt(struct bench *b, uint32_t n, struct tokens *ret)
{
    uint32_t n_vocab = engine_info(b->engine)->n_vocab;
    for (uint32_t i = 0; i < n; i++) {
        b->random = b->random * UINT64_C(6364136223846793005) + 1442695040888963407;
        if (tokens_add(ret, (int32_t)((b->random >> 33) % n_vocab)))
            return -ENOMEM;
    }
    return 0;
}

static int lane_init(struct bench *b, struct lane *l, uint32_t n_prompt, uint32_t max_tokens,
                     struct err *err)
{
    *l = (struct lane){.max_tokens = max_tokens};
    l->time_ns = calloc(max_tokens, sizeof(*l->time_ns));
    if (!l->time_ns || random_prompt(b, n_prompt, &l->prompt))
        return err_set(err, -ENOMEM, "out of memory");
    return 0;
}

static void lane_finish(struct lane *l)
{
    if (l->stream)
        stream_close(l->stream);
    tokens_free(&l->prompt);
    free(l->time_ns);
    *l = (struct lane){0};
}

static int lane_submit(struct bench *b, struct lane *l, uint32_t max_tokens, struct err *err)
{
    struct request q = {
        .token = l->prompt.id, .n_tokens = (uint32_t)l->prompt.n, .gen = gen_params_default(),
        .attn = b->attn, .salt = b->salt,
    };
    assert(max_tokens <= l->max_tokens);
    q.gen.max_tokens = max_tokens;
    q.gen.temperature = 0;
    q.gen.ignore_end = true;
    l->n = 0;
    l->done = false;
    return engine_submit(b->engine, &q, &l->stream, err);
}

// Reads the lane's stream until it has n tokens or ends.
static void lane_read(struct lane *l, uint32_t n)
{
    struct delta d;
    while (!l->done && l->n < n) {
        stream_wait(l->stream, WAIT_NS);
        while (!l->done && stream_read(l->stream, &d)) {
            for (uint32_t i = 0; i < d.n_tokens && l->n < l->max_tokens; i++)
                l->time_ns[l->n++] = d.time_ns;
            l->done = d.kind == DELTA_DONE;
        }
    }
    if (l->done)
        l->end = d;
}

// Reads the lane's stream to its end and closes it.
static int lane_collect(struct lane *l, struct err *err)
{
    lane_read(l, UINT32_MAX);
    const struct delta *d = &l->end;
    int r = 0;
    if (d->reason != FINISH_LENGTH)
        r = err_set(err, d->err.code ? d->err.code : -EIO, "a request ended with \"%s\"%s%s",
                    finish_name(d->reason), d->err.msg[0] ? ": " : "", d->err.msg);
    if (l->first_round_ns == 0)
        l->first_round_ns = d->usage.queued_ns + d->usage.prefill_ns;
    stream_close(l->stream);
    l->stream = NULL;
    return r;
}

// A prompt of n tokens and max_tokens more, alone.
static int run_once(struct bench *b, uint32_t n, uint32_t max_tokens, struct usage *ret,
                    struct err *err)
{
    struct lane l;
    int r = lane_init(b, &l, n, max_tokens, err);
    if (r == 0)
        r = lane_submit(b, &l, max_tokens, err);
    if (r == 0)
        r = lane_collect(&l, err);
    *ret = l.end.usage;
    lane_finish(&l);
    return r;
}

static int profile_prefill(struct bench *b, uint32_t n, struct err *err)
{
    struct usage u;
    int r = profile_start(&b->profile, b->engine, err);
    if (r == 0)
        r = run_once(b, n, 1, &u, err);
    return r ? r : profile_stop(&b->profile, b->engine, err);
}

// Behind a figure in both forms.
static void add_profile(struct bench *b, struct str *json)
{
    if (b->cli->profile) {
        profile_table(&b->profile, &b->table);
        profile_json(&b->profile, json);
    }
    str_putc(json, '}');
}

static int bench_prefill(struct bench *b, uint32_t n, struct err *err)
{
    double best = 0;
    struct usage u = {0};
    for (uint32_t i = 0; i < b->cli->repeat; i++) {
        int r = run_once(b, n, 1, &u, err);
        if (r)
            return r;
        best = MAX(best, rate_per_s(n, u.prefill_ns));
    }
    int r = b->cli->profile ? profile_prefill(b, n, err) : 0;
    if (r)
        return r;
    str_printf(&b->json_prefill, "%s{\"tokens\":%u,\"tokens_per_s\":%.3f",
               b->json_prefill.n ? "," : "", n, best);
    str_printf(&b->table, "prefill %6u             %10.2f tokens/s\n", n, best);
    add_profile(b, &b->json_prefill);
    return 0;
}

// Tokens per second from the last token up to from_ns to the first one at or after to_ns.
static double lane_rate(const struct lane *l, uint64_t from_ns, uint64_t to_ns)
{
    uint32_t a = 0, b = 0;
    while (a + 1 < l->n && l->time_ns[a + 1] <= from_ns)
        a++;
    while (b + 1 < l->n && l->time_ns[b] < to_ns)
        b++;
    return b > a ? rate_per_s(b - a, l->time_ns[b] - l->time_ns[a]) : 0;
}

// Tokens per second of all lanes while every lane was producing; 0 if there was no such time.
static double common_rate(const struct lane *lane, uint32_t n)
{
    uint64_t from_ns = 0, to_ns = UINT64_MAX;
    double rate = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (lane[i].n == 0)
            return 0;
        from_ns = MAX(from_ns, lane[i].time_ns[0]);
        to_ns = MIN(to_ns, lane[i].time_ns[lane[i].n - 1]);
    }
    for (uint32_t i = 0; i < n && from_ns < to_ns; i++)
        rate += lane_rate(&lane[i], from_ns, to_ns);
    return rate;
}

struct round { struct bench *b; struct lane *lane; uint32_t n; struct err *err; };

static int submit_round(void *ctx, uint32_t i, const float *logits, uint32_t n_vocab)
{
    (void)i, (void)logits, (void)n_vocab;
    struct round *t = ctx;
    int r = 0;
    for (uint32_t k = 0; k < t->n && r == 0; k++)
        r = lane_submit(t->b, &t->lane[k], t->lane[k].max_tokens, t->err);
    return r;
}

// The engine starts nothing while it evaluates a text: requests that come meanwhile start in the
// same step, however fast steps are.
static int start_lanes(struct bench *b, struct lane *lane, uint32_t n, struct err *err)
{
    struct round t = {b, lane, n, err};
    return engine_eval(b->engine, lane[0].prompt.id, 1, &b->attn, submit_round, &t, err);
}

static int collect_lanes(struct lane *lane, uint32_t n, struct err *err)
{
    int r = 0;
    for (uint32_t i = 0; i < n && r == 0; i++) {
        r = lane_collect(&lane[i], err);
        if (r == 0 && lane[i].end.usage.cached_tokens + 1 < lane[i].prompt.n)
            r = err_set(err, -ENOSPC, "the pool did not keep what was put into it");
    }
    return r;
}

static int run_lanes(struct bench *b, struct lane *lane, uint32_t n, double *rate, struct err *err)
{
    int r = start_lanes(b, lane, n, err);
    if (r == 0)
        r = collect_lanes(lane, n, err);
    if (r)
        return r;
    *rate = common_rate(lane, n);
    return *rate > 0 ? 0 : err_set(err, -ETIME, "%u streams never decoded together: --decode must "
                                   "be more than %u", n, b->cli->decode_tokens);
}

// Leaves out the step that computes the prompts' last tokens.
static int profile_lanes(struct bench *b, struct lane *lane, uint32_t n, struct err *err)
{
    int r = start_lanes(b, lane, n, err);
    for (uint32_t i = 0; i < n && r == 0; i++)
        lane_read(&lane[i], 1);
    if (r == 0)
        r = profile_start(&b->profile, b->engine, err);
    if (r == 0)
        r = collect_lanes(lane, n, err);
    return r ? r : profile_stop(&b->profile, b->engine, err);
}

// Fills the prefix cache with the lane's prompt.
static int warm_lane(struct bench *b, struct lane *l, struct err *err)
{
    int r = l->prompt.n <= KV_BLOCK_TOKENS ? 0 : lane_submit(b, l, 1, err);
    return r == 0 && l->stream ? lane_collect(l, err) : r;
}

// Whole blocks, which the prefix cache can hold, and one token that is left to compute: a longer
// rest would let the first streams finish while the last ones still wait for their turn.
static uint32_t prompt_tokens(uint32_t depth)
{
    return ALIGN_UP(depth, KV_BLOCK_TOKENS) + 1;
}

static int fill_lanes(struct bench *b, const struct lane *lane, uint32_t n, struct err *err)
{
    const int32_t **text = calloc(n, sizeof(*text));
    if (!text)
        return err_set(err, -ENOMEM, "out of memory");
    for (uint32_t i = 0; i < n; i++)
        text[i] = lane[i].prompt.id;
    int r = engine_bench_fill(b->engine, text, n, (uint32_t)lane[0].prompt.n - 1, &b->attn,
                              &b->salt, err);
    free(text);
    return r;
}

static int make_lanes(struct bench *b, struct lane *lane, uint32_t n, uint32_t depth,
                      struct err *err)
{
    int r = 0;
    for (uint32_t i = 0; i < n && r == 0; i++)
        r = lane_init(b, &lane[i], prompt_tokens(depth), b->cli->decode_tokens + 1, err);
    if (b->fill)
        return r ? r : fill_lanes(b, lane, n, err);
    for (uint32_t i = 0; i < n && r == 0; i++)
        r = warm_lane(b, &lane[i], err);
    return r;
}

// What came from where while pages lay in two homes.
static void print_homes(struct bench *b, const struct kv_homes *from)
{
    struct engine_stats s;
    engine_stats(b->engine, &s);
    uint64_t device = s.kv.device_reads - from->device_reads;
    uint64_t host = s.kv.host_reads - from->host_reads;
    uint64_t in = (s.kv.moved_in - from->moved_in) * s.kv.page_bytes;
    uint64_t out = (s.kv.moved_out - from->moved_out) * s.kv.page_bytes;
    if (s.kv.host_pages == 0)
        return;
    str_printf(&b->json_decode, ",\"kv_device_page_reads\":%llu,\"kv_host_page_reads\":%llu,"
               "\"kv_moved_in_bytes\":%llu,\"kv_moved_out_bytes\":%llu",
               (unsigned long long)device, (unsigned long long)host, (unsigned long long)in,
               (unsigned long long)out);
    str_printf(&b->table, "%30.1f %% of KV pages read on the device, %.1f MB moved in, %.1f out\n",
               100.0 * (double)device / (double)MAX(device + host, UINT64_C(1)), (double)in / 1e6,
               (double)out / 1e6);
}

// What came from disk while few pages were in memory. Filling fetches nothing.
static void print_paging(struct bench *b, const struct lane *lane, uint32_t n,
                         const struct engine_paging *from)
{
    struct engine_stats s;
    engine_stats(b->engine, &s);
    uint64_t hits = s.paging.pages.hits - from->pages.hits, first_ns = 0;
    uint64_t fetched = s.paging.fetched_pages - from->fetched_pages;
    uint64_t bytes = s.paging.fetched_bytes - from->fetched_bytes;
    if (!s.paging.on)
        return;
    for (uint32_t i = 0; i < n; i++)
        first_ns = MAX(first_ns, lane[i].first_round_ns);
    str_printf(&b->json_decode, ",\"kv_page_hits\":%llu,\"kv_pages_fetched\":%llu,"
               "\"kv_bytes_fetched\":%llu,\"first_token_ms\":%.3f",
               (unsigned long long)hits, (unsigned long long)fetched, (unsigned long long)bytes,
               (double)first_ns / 1e6);
    str_printf(&b->table, "%30.1f %% of KV pages read in memory, %.1f MB from disk, first token "
               "after %.0f ms\n", 100.0 * (double)hits / (double)MAX(hits + fetched, UINT64_C(1)),
               (double)bytes / 1e6, (double)first_ns / 1e6);
}

static void print_decode(struct bench *b, const struct lane *lane, uint32_t n, uint32_t depth,
                         double rate, const struct engine_stats *before)
{
    uint64_t read = 0, held = 0;
    for (uint32_t i = 0; i < n; i++) {
        read += lane[i].end.usage.blocks_read;
        held += lane[i].end.usage.blocks_held;
    }
    str_printf(&b->json_decode, "%s{\"depth\":%u,\"streams\":%u,\"tokens\":%u,"
               "\"tokens_per_s\":%.3f,\"blocks_read\":%llu,\"blocks_held\":%llu",
               b->json_decode.n ? "," : "", depth, n, b->cli->decode_tokens, rate,
               (unsigned long long)read, (unsigned long long)held);
    str_printf(&b->table, "decode  %6u  %4u streams %10.2f tokens/s\n", depth, n, rate);
    print_homes(b, &before->kv);
    print_paging(b, lane, n, &before->paging);
    add_profile(b, &b->json_decode);
}

static int bench_decode(struct bench *b, uint32_t depth, uint32_t streams, struct err *err)
{
    double best = 0, rate = 0;
    struct lane *lane = calloc(streams, sizeof(*lane));
    if (!lane)
        return err_set(err, -ENOMEM, "out of memory");
    int r = make_lanes(b, lane, streams, depth, err);
    struct engine_stats before;
    engine_stats(b->engine, &before);
    for (uint32_t i = 0; i < b->cli->repeat && r == 0; i++) {
        r = run_lanes(b, lane, streams, &rate, err);
        best = MAX(best, rate);
    }
    if (r == 0 && b->cli->profile)
        r = profile_lanes(b, lane, streams, err);
    if (r == 0)
        print_decode(b, lane, streams, depth, best, &before);
    for (uint32_t i = 0; i < streams; i++)
        lane_finish(&lane[i]);
    free(lane);
    return r;
}

static int run_all(struct bench *b, struct err *err)
{
    struct cli *c = b->cli;
    uint64_t total = c->prefill.n + (uint64_t)c->depth.n * c->streams.n, done = 0;
    int r = c->no_warmup ? 0 : engine_warm(b->engine, &b->attn, err);
    for (uint32_t i = 0; i < c->prefill.n && r == 0; i++) {
        progress_show("bench", done++, total);
        r = c->prefill.item[i] ? bench_prefill(b, c->prefill.item[i], err) : 0;
    }
    for (uint32_t i = 0; i < c->depth.n && c->decode_tokens; i++) {
        for (uint32_t k = 0; k < c->streams.n && r == 0; k++) {
            progress_show("bench", done++, total);
            r = bench_decode(b, c->depth.item[i], c->streams.item[k], err);
        }
    }
    progress_show("bench", 1, 1);
    return r;
}

static uint32_t largest(const struct number_list *l)
{
    uint32_t r = 0;
    for (uint32_t i = 0; i < l->n; i++)
        r = MAX(r, l->item[i]);
    return r;
}

static uint64_t longest_prefill(const struct cli *c)
{
    return largest(&c->prefill) + 8ull;
}

// Blocks for the longest prompt, or for all streams at the greatest depth. What they generate is
// there twice when a round is repeated: the last round's is still cached.
static uint64_t blocks_needed(const struct cli *c)
{
    uint64_t prompt = prompt_tokens(largest(&c->depth));
    uint64_t all = DIV_UP(prompt + c->decode_tokens + 1, KV_BLOCK_TOKENS);
    uint64_t lane = all + (all - prompt / KV_BLOCK_TOKENS);
    uint64_t deep = largest(&c->streams) * lane + 1;    // one for the text that run_lanes evaluates
    return MAX(deep, DIV_UP(longest_prefill(c), KV_BLOCK_TOKENS));
}

// Opens the engine with room for the longest prompt, and for all streams at the greatest depth.
static int open_engine(struct bench *b, struct err *err)
{
    const struct cli *c = b->cli;
    uint64_t longest = longest_prefill(c), blocks = blocks_needed(c);
    uint64_t deep = prompt_tokens(largest(&c->depth)) + (uint64_t)c->decode_tokens + 8;
    if (MAX(longest, deep) > CTX_MAX || blocks > UINT32_MAX)
        return err_set(err, CLI_USAGE, "more than %u tokens in a context", CTX_MAX);
    struct engine_params p = {
        .ctx_tokens = MAX(c->ctx_tokens, (uint32_t)MAX(longest, deep)),
        .kv_blocks = c->kv_store ? 0 : (uint32_t)blocks,
        .kv_memory_bytes = c->kv_memory_bytes,
        .kv_store = c->kv_store, .kv_store_bytes = c->kv_store_bytes,
        .seqs_max = largest(&c->streams), .queue_max = largest(&c->streams),
    };
    uint64_t start_ns = clock_now_ns();
    int r = load_engine(b->cli, &p, &b->engine, err);
    b->load_ns = clock_now_ns() - start_ns;
    return r;
}

static void print_result(const struct bench *b, struct str *out)
{
    const struct engine_info *info = engine_info(b->engine);
    if (!b->cli->json) {
        str_printf(out, "%s on %s, KV %s/%s, attention %s\n", info->file, info->device, info->kv_k,
                   info->kv_v, selectors[b->attn.selector].name);
        str_add(out, b->table.p, b->table.n);
        return;
    }
    str_printf(out, "{\"arch\":\"%s\",\"device\":\"%s\",\"threads\":%u,\"kv_k\":\"%s\","
               "\"kv_v\":\"%s\",\"attention\":\"%s\",\"budget\":%u,\"fill\":\"%s\","
               "\"weight_bytes\":%llu,\"kv_block_bytes\":%llu,\"load_ms\":%.3f,",
               info->arch, info->device, b->cli->threads, info->kv_k, info->kv_v,
               selectors[b->attn.selector].name, b->attn.budget_tokens,
               b->fill ? b->cli->fill : "computed", (unsigned long long)info->weight_bytes,
               (unsigned long long)info->kv_block_bytes, (double)b->load_ns / (double)NS_PER_MS);
    str_puts(out, "\"prefill\":[");
    str_add(out, b->json_prefill.p, b->json_prefill.n);
    str_puts(out, "],\"decode\":[");
    str_add(out, b->json_decode.p, b->json_decode.n);
    str_puts(out, "]}\n");
}

static int read_fill(struct bench *b, struct err *err)
{
    b->fill = b->cli->fill != NULL;
    if (!b->fill || strcmp(b->cli->fill, "random") == 0)
        return 0;
    return err_set(err, CLI_USAGE, "--fill cannot be \"%.80s\"", b->cli->fill);
}

int cmd_bench(struct cli *c, struct err *err)
{
    static const char salt[] = "godwit bench";
    struct bench b = {.cli = c, .random = c->has_seed ? c->seed : 1};
    hash_bytes(salt, sizeof(salt), &b.salt);
    int r = read_fill(&b, err);
    if (r == 0)
        r = open_engine(&b, err);
    if (r == 0)
        r = attention_policy(c, &b.attn, err);
    if (r == 0 && c->profile)
        r = profile_check(b.engine, err);
    if (r == 0)
        r = run_all(&b, err);
    if (r == 0)
        print_result(&b, &c->out);
    c->out.failed |= b.table.failed | b.json_prefill.failed | b.json_decode.failed;
    engine_close(b.engine);
    str_free(&b.table);
    str_free(&b.json_prefill);
    str_free(&b.json_decode);
    return r;
}
