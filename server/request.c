// Parameters of generation; see request.h.
#include "server/request.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "base/base.h"

int request_json(struct json_doc **ret, const struct str *body, struct fault *f)
{
    struct err err = {0};
    struct json_doc *d;
    if (body->n == 0)
        return fault_set(f, ERROR_invalid_json, NULL,
                         "The body is empty; a JSON object is needed.");
    int r = json_open(&d, body->p, body->n, &err);
    if (r == -ENOMEM)
        return fault_no_memory(f);
    if (r)
        return fault_set(f, ERROR_invalid_json, NULL, "The body is %s.", err.msg);
    if (!json_is_object(json_root(d))) {
        json_close(d);
        return fault_set(f, ERROR_invalid_json, NULL, "The body must be a JSON object.");
    }
    *ret = d;
    return 0;
}

struct model_entry *request_model(struct models *m, const struct json *root, struct fault *f)
{
    const char *name = NULL;
    if (json_get_text(root, "model", &name, f) < 0)
        return NULL;
    struct model_entry *e = models_find(m, name);
    if (!e)
        fault_set(f, ERROR_model_not_found, "model", "The model '%.100s' does not exist.", name);
    return e;
}

// ---- known, but not done ------------------------------------------------------------------------

static int refuse_unsupported(const struct json *root, struct fault *f)
{
    static const char *const fields[] = {
        "functions", "function_call", "audio", "prediction", "web_search_options", "suffix",
        "guided_json", "guided_regex", "guided_grammar", "guided_choice", "grammar", "json_schema",
        "structured_outputs", "regex", "chat_template", "prompt_embeds", "typical_p", "mirostat",
        "logits_processors", "allowed_token_ids", "bad_words", "truncate_prompt_tokens",
        "continue_final_message", "prompt_logprobs", "length_penalty", "use_beam_search",
        "store",
    };
    for (size_t i = 0; i < ARRAY_LEN(fields); i++) {
        const struct json *v = json_get(root, fields[i]);
        if (!v || (json_is_bool(v) && !json_is_true(v)))
            continue;
        if (json_is_string(v) && !*json_text(v))
            continue;
        return fault_set(f, ERROR_unsupported, fields[i], "'%s' is not supported.", fields[i]);
    }
    return 0;
}

// Fields that may only say what happens anyway.
static int refuse_other_values(const struct json *root, uint32_t n, struct fault *f)
{
    uint32_t best_of = n, min_tokens = 0;
    const struct json *stop_ids = NULL, *format = NULL, *modalities = NULL;
    const char *type = "text";
    if (json_get_u32(root, "best_of", 1, 1024, &best_of, f) < 0 ||
        json_get_u32(root, "min_tokens", 0, UINT32_MAX, &min_tokens, f) < 0 ||
        json_get_array(root, "stop_token_ids", &stop_ids, f) < 0 ||
        json_get_array(root, "modalities", &modalities, f) < 0 ||
        json_get_object(root, "response_format", &format, f) < 0)
        return -1;
    if (best_of != n)
        return fault_set(f, ERROR_unsupported, "best_of",
                         "'best_of' other than n is not supported.");
    if (min_tokens)
        return fault_set(f, ERROR_unsupported, "min_tokens", "'min_tokens' is not supported.");
    if (stop_ids && json_first(stop_ids))
        return fault_set(f, ERROR_unsupported, "stop_token_ids",
                         "'stop_token_ids' is not supported.");
    for (const struct json *v = modalities ? json_first(modalities) : NULL; v; v = json_next(v)) {
        if (!json_is_string(v) || strcmp(json_text(v), "text") != 0)
            return fault_set(f, ERROR_unsupported, "modalities", "Only text can be generated.");
    }
    if (!format)
        return 0;
    if (json_get_text(format, "type", &type, f) < 0)
        return -1;
    if (strcmp(type, "text") == 0)
        return 0;
    return fault_set(f, ERROR_unsupported, "response_format",
                     "'response_format' of the type '%.40s' is not supported.", type);
}

// ---- sampling -----------------------------------------------------------------------------------

static int read_float(const struct json *root, const char *key, double min, double max, float *ret,
                      struct fault *f)
{
    double x;
    int r = json_get_number(root, key, min, max, &x, f);
    if (r > 0)
        *ret = (float)x;
    return r;
}

static int read_seed(const struct json_doc *doc, struct gen_params *g, struct fault *f)
{
    const struct json *v = json_get(json_root(doc), "seed");
    if (!v)
        return 0;
    // All 64 bits count, more than a double holds: the text is read.
    struct json_span s = json_raw(doc, "seed");
    char text[32], *end;
    if (json_is_number(v) && s.p && s.n < sizeof(text)) {
        memcpy(text, s.p, s.n);
        text[s.n] = '\0';
        errno = 0;
        long long seed = strtoll(text, &end, 10);
        if (!*end && !errno) {
            g->seed = (uint64_t)seed;
            return 0;
        }
    }
    return fault_set(f, ERROR_invalid_value, "seed", "'seed' must be a whole number of 64 bits");
}

static int read_top_k(const struct json *root, struct gen_params *g, struct fault *f)
{
    const struct json *v = json_get(root, "top_k");
    int64_t x = 0;
    if (v && !json_to_int(v, -1, INT32_MAX, &x))
        return fault_set(f, ERROR_invalid_value, "top_k",
                         "'top_k' must be a whole number, at least -1");
    if (v)
        g->top_k = (int32_t)MAX(x, 0);
    return 0;
}

static int read_sampling(const struct json_doc *doc, struct gen_params *g, struct fault *f)
{
    const struct json *o = json_root(doc);
    if (read_float(o, "temperature", 0, 2, &g->temperature, f) < 0 ||
        read_float(o, "top_p", 0, 1, &g->top_p, f) < 0 ||
        read_float(o, "min_p", 0, 1, &g->min_p, f) < 0 ||
        read_float(o, "presence_penalty", -2, 2, &g->presence_penalty, f) < 0 ||
        read_float(o, "frequency_penalty", -2, 2, &g->frequency_penalty, f) < 0 ||
        read_float(o, "repetition_penalty", 0.01, 10, &g->repeat_penalty, f) < 0 ||
        read_float(o, "repeat_penalty", 0.01, 10, &g->repeat_penalty, f) < 0 ||
        json_get_bool(o, "ignore_eos", &g->ignore_end, f) < 0 || read_top_k(o, g, f) < 0)
        return -1;
    return read_seed(doc, g, f);
}

// A key of logit_bias: a token id in decimal.
static bool parse_token(const char *text, uint32_t n_vocab, int32_t *ret)
{
    char *end;
    errno = 0;
    long long v = text[0] >= '0' && text[0] <= '9' ? strtoll(text, &end, 10) : -1;
    if (v < 0 || errno || *end || v >= (long long)n_vocab)
        return false;
    *ret = (int32_t)v;
    return true;
}

static int read_bias(const struct json *root, uint32_t n_vocab, struct gen_params *g,
                     struct arena *a, struct fault *f)
{
    const struct json *o = NULL;
    int r = json_get_object(root, "logit_bias", &o, f);
    if (r <= 0)
        return r;
    size_t n = json_count(o);
    if (n > LOGIT_BIAS_MAX)
        return fault_set(f, ERROR_invalid_value, "logit_bias",
                         "'logit_bias' holds more than %d tokens",
                         LOGIT_BIAS_MAX);
    struct logit_bias *b = arena_calloc(a, n, sizeof(*b));
    if (!b)
        return fault_no_memory(f);
    for (const struct json *v = json_first(o); v; v = json_next(v)) {
        struct logit_bias *to = &b[g->n_bias];
        if (!parse_token(json_key(v), n_vocab, &to->token))
            return fault_set(f, ERROR_invalid_value, "logit_bias",
                             "'logit_bias' names a token that is not in the vocabulary");
        double x = json_is_number(v) ? json_double(v) : 1e9;
        if (x < -100 || x > 100)
            return fault_set(f, ERROR_invalid_value, "logit_bias",
                             "'logit_bias' must hold numbers between -100 and 100");
        to->bias = (float)x;
        g->n_bias++;
    }
    g->bias = b;
    return 0;
}

static int add_stop(const struct json *v, struct stop_string *to, struct arena *a, struct fault *f)
{
    size_t n = json_is_string(v) ? strlen(json_text(v)) : 0;
    if (n == 0 || n > STOP_BYTES_MAX)
        return fault_set(f, ERROR_invalid_value, "stop",
                         "'stop' must hold strings of 1 to %d bytes", STOP_BYTES_MAX);
    to->p = arena_memdup(a, json_text(v), n);
    to->n = n;
    return to->p ? 0 : fault_no_memory(f);
}

static int read_stop(const struct json *root, struct gen_params *g, struct arena *a,
                     struct fault *f)
{
    const struct json *v = json_get(root, "stop");
    if (!v)
        return 0;
    bool list = json_is_array(v);
    size_t n = list ? json_count(v) : 1;
    if (n > STOP_STRINGS_MAX)
        return fault_set(f, ERROR_invalid_value, "stop", "'stop' holds more than %d strings",
                         STOP_STRINGS_MAX);
    struct stop_string *stop = arena_calloc(a, n, sizeof(*stop));
    if (!stop)
        return fault_no_memory(f);
    const struct json *item = list ? json_first(v) : v;
    for (size_t i = 0; i < n; i++, item = list ? json_next(item) : NULL) {
        if (add_stop(item, &stop[i], a, f) < 0)
            return -1;
    }
    g->stop = stop;
    g->n_stop = (uint32_t)n;
    return 0;
}

// ---- limits, logprobs, streams ------------------------------------------------------------------

static int read_limit(const struct json *root, enum dialect dialect, bool echo,
                      struct gen_params *g,
                      struct fault *f)
{
    bool chat = dialect == DIALECT_CHAT;
    uint32_t old = chat ? UINT32_MAX : COMPLETION_TOKENS_DEFAULT, newer;
    uint32_t min = chat || !echo ? 1 : 0;
    if (json_get_u32(root, "max_tokens", min, UINT32_MAX - 1, &old, f) < 0)
        return -1;
    int r = json_get_u32(root, "max_completion_tokens", min, UINT32_MAX - 1, &newer, f);
    g->max_tokens = r > 0 ? newer : old;
    return MIN(r, 0);
}

static int read_chat_logprobs(const struct json *root, struct gen_params *g, struct fault *f)
{
    bool on = false;
    uint32_t top = 0;
    if (json_get_bool(root, "logprobs", &on, f) < 0)
        return -1;
    int r = json_get_u32(root, "top_logprobs", 0, LOGPROBS_MAX, &top, f);
    if (r < 0)
        return -1;
    if (r > 0 && top && !on)
        return fault_set(f, ERROR_invalid_value, "top_logprobs", "'top_logprobs' needs 'logprobs'");
    g->logprobs = on ? (int)top : -1;
    return 0;
}

static int read_old_logprobs(const struct json *root, bool echo, struct gen_params *g,
                             struct fault *f)
{
    uint32_t top;
    int r = json_get_u32(root, "logprobs", 0, LOGPROBS_MAX, &top, f);
    g->logprobs = r > 0 ? (int)top : -1;
    g->prompt_logprobs = echo && r > 0;
    return MIN(r, 0);
}

static int read_stream(const struct json *root, struct params *p, struct fault *f)
{
    const struct json *options = NULL;
    if (json_get_bool(root, "stream", &p->stream, f) < 0 ||
        json_get_object(root, "stream_options", &options, f) < 0)
        return -1;
    if (!options)
        return 0;
    if (!p->stream)
        return fault_set(f, ERROR_invalid_value, "stream_options",
                         "'stream_options' needs 'stream': true");
    fault_at(f, "stream_options");
    int r = json_get_bool(options, "include_usage", &p->include_usage, f);
    fault_at(f, "%s", "");
    return MIN(r, 0);
}

// ---- godwit's own -------------------------------------------------------------------------------

static int read_godwit(const struct json *root, struct params *p, struct fault *f)
{
    const struct json *o = NULL;
    const char *name = "native";
    uint32_t budget = 0, window = 0, sinks = UINT32_MAX;
    int r = json_get_object(root, "godwit", &o, f);
    if (r <= 0)
        return r;
    fault_at(f, "godwit");
    int named = json_get_text(o, "attention", &name, f);
    if (named < 0 || json_get_u32(o, "budget", 1, CTX_MAX, &budget, f) < 0 ||
        json_get_u32(o, "window", 1, CTX_MAX, &window, f) < 0 ||
        json_get_u32(o, "sinks", 0, CTX_MAX, &sinks, f) < 0)
        return -1;
    if (json_get_bool(o, "append", &p->append, f) < 0)
        return -1;
    if (p->append && !p->session_id)
        return fault_set(f, ERROR_missing_field, "append", "'append' needs 'session'");
    if (!named && (budget || window || sinks != UINT32_MAX))
        return fault_set(f, ERROR_missing_field, "attention",
                         "'budget', 'window' and 'sinks' need 'attention'");
    if (named && attention_from(&p->attn, name, budget, window, sinks) < 0)
        return fault_set(f, ERROR_invalid_value, "attention",
                         "'%.40s' is no kind of attention; native, dense, window and topk are",
                         name);
    p->has_attn = named > 0;
    fault_at(f, "%s", "");
    return 0;
}

static int read_salt(const struct json *root, struct params *p, struct arena *a, struct fault *f)
{
    const char *salt;
    int r = json_get_text(root, "cache_salt", &salt, f);
    if (r <= 0)
        return r;
    p->cache_salt = arena_strdup(a, salt);
    return p->cache_salt ? 0 : fault_no_memory(f);
}

// What a session's text goes on from is one text.
static int read_session(const struct json *root, struct params *p, struct arena *a,
                        struct fault *f)
{
    const char *id;
    int r = json_get_text(root, "session", &id, f);
    if (r <= 0)
        return r;
    p->session_id = arena_strdup(a, id);
    if (!p->session_id)
        return fault_no_memory(f);
    if (p->n > 1)
        return fault_set(f, ERROR_invalid_value, "n", "a session takes one answer at a time");
    if (p->cache_salt)
        return fault_set(f, ERROR_invalid_value, "cache_salt", "a session has its own");
    return 0;
}

int params_read(struct params *ret, enum dialect dialect, const struct json_doc *doc,
                struct model_entry *model, struct arena *a, struct fault *f)
{
    const struct json *root = json_root(doc);
    struct params p = { .model = model, .gen = gen_params_default(), .n = 1 };
    uint32_t n_vocab = engine_info(model->engine)->n_vocab;
    const char *user;                   // checked, and of no use here
    bool chat = dialect == DIALECT_CHAT;
    if (refuse_unsupported(root, f) < 0 || json_get_u32(root, "n", 1, CHOICES_MAX, &p.n, f) < 0 ||
        refuse_other_values(root, p.n, f) < 0 || read_sampling(doc, &p.gen, f) < 0 ||
        read_bias(root, n_vocab, &p.gen, a, f) < 0 || read_stop(root, &p.gen, a, f) < 0)
        return -1;
    if (!chat && json_get_bool(root, "echo", &p.echo, f) < 0)
        return -1;
    if (read_limit(root, dialect, p.echo, &p.gen, f) < 0 || read_stream(root, &p, f) < 0 ||
        read_salt(root, &p, a, f) < 0 || read_session(root, &p, a, f) < 0 ||
        read_godwit(root, &p, f) < 0 ||
        json_get_text(root, "user", &user, f) < 0)
        return -1;
    if (p.append && p.echo)
        return fault_set(f, ERROR_unsupported, "echo", "'echo' of a session is not supported.");
    if ((chat ? read_chat_logprobs(root, &p.gen, f)
              : read_old_logprobs(root, p.echo, &p.gen, f)) < 0)
        return -1;
    *ret = p;
    return 0;
}
