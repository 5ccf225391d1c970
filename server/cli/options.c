// The table of options, and the ways into it: flags and --help.
#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/base.h"
#include "base/hash.h"
#include "server/cli/cli.h"

enum option_type { OPT_FLAG, OPT_TEXT, OPT_NUMBER, OPT_LIST, OPT_REAL, OPT_SEED, OPT_KV_LIMIT,
                   OPT_BYTES };

#define AT(field) offsetof(struct cli, field)
#define IN(command) (1u << COMMAND_##command)
#define EVERY (~0u)
#define ALL (EVERY & ~(IN(devices) | IN(store) | IN(fsck)))     // with a model
#define MODEL_RUNS (IN(run) | IN(logits) | IN(perplexity) | IN(bench))

struct option {
    const char      *name, *value;          // --name VALUE
    char             letter;                // -x, or 0
    enum option_type type;
    size_t           offset;                // in struct cli
    unsigned         commands;
    uint32_t         min, max;              // of numbers
    const char      *help;
};

static const struct option options[] = {
    {"prompt", "TEXT", 'p', OPT_TEXT, AT(prompt), IN(run), 0, 0, "what to answer"},
    {"raw", NULL, 0, OPT_FLAG, AT(raw), IN(run), 0, 0, "no chat template: go on from the text"},
    {"predict", "N", 'n', OPT_NUMBER, AT(n_predict), IN(run), 1, UINT32_MAX, "tokens at most"},
    {"temp", "T", 0, OPT_REAL, AT(temperature), IN(run), 0, 100, "0: always the likeliest token"},
    {"seed", "S", 0, OPT_SEED, AT(seed), IN(run) | IN(bench), 0, 0, "the same seed, the same text"},
    {"tokens", "FILE", 0, OPT_TEXT, AT(tokens), IN(logits), 0, 0, "ids separated by white space"},
    {"out", "FILE", 0, OPT_TEXT, AT(out_path), IN(logits), 0, 0, "where the .npy array goes"},
    {"no-bos", NULL, 0, OPT_FLAG, AT(no_bos), IN(tokenize), 0, 0, "no beginning-of-text token"},
    {"no-special", NULL, 0, OPT_FLAG, AT(no_special), IN(tokenize) | IN(detokenize), 0, 0,
     "control tokens are plain text; detokenize leaves them out"},
    {"prefill", "N,..", 0, OPT_LIST, AT(prefill), IN(bench), 0, CTX_MAX, "prompt lengths; 0: none"},
    {"decode", "N", 0, OPT_NUMBER, AT(decode_tokens), IN(bench), 0, 1u << 20, "tokens; 0: none"},
    {"depth", "N,..", 0, OPT_LIST, AT(depth), IN(bench), 0, CTX_MAX,
     "tokens before those, rounded up to blocks of 64"},
    {"streams", "N,..", 0, OPT_LIST, AT(streams), IN(bench), 1, 1024, "requests at once"},
    {"fill", "random", 0, OPT_TEXT, AT(fill), IN(bench), 0, 0,
     "what depth holds: random blocks, at once; else it is computed"},
    {"kv-store", "DIR", 0, OPT_TEXT, AT(kv_store), IN(bench), 0, 0,
     "page KV to disk there; what --fill makes stays, for the next time"},
    {"kv-store-bytes", "SIZE", 0, OPT_BYTES, AT(kv_store_bytes), IN(bench), 0, 0, "of it; 0: 16G"},
    {"kv-memory-bytes", "SIZE", 0, OPT_BYTES, AT(kv_memory_bytes), IN(bench), 0, 0,
     "with --kv-store: pages in memory; 0: by the model and this machine"},
    {"profile", NULL, 0, OPT_FLAG, AT(profile), IN(bench), 0, 0,
     "also the device's time of each operation"},
    {"repeat", "N", 0, OPT_NUMBER, AT(repeat), IN(bench), 1, 100, "the best of N; 1 if not given"},
    {"no-warmup", NULL, 0, OPT_FLAG, AT(no_warmup), IN(bench), 0, 0,
     "time the first prompt like that of a cold engine"},
    {"bytes", "SIZE", 0, OPT_BYTES, AT(bytes), IN(store), 0, 0, "evict: how much has to go"},
    {"repair", NULL, 0, OPT_FLAG, AT(repair), IN(fsck), 0, 0, "drop what is bad"},
    {"json", NULL, 0, OPT_FLAG, AT(json), EVERY, 0, 0, "for machines: one line of JSON"},
    {"ctx", "TOKENS", 0, OPT_NUMBER, AT(ctx_tokens), ALL, 0, CTX_MAX,
     "context; 0: what the model was trained with (perplexity: 512)"},
    {"device", "NAME", 0, OPT_TEXT, AT(device), ALL, 0, 0,
     "auto, cpu, vulkan, vulkan:NAME or null"},
    {"gpu-layers", "N", 0, OPT_NUMBER, AT(gpu_layers), MODEL_RUNS, 0, LAYERS_MAX,
     "on the GPU: the last N, with the output; the CPU runs the others"},
    {"threads", "N", 0, OPT_NUMBER, AT(threads), ALL, 0, 1024, "compute threads; 0: all cores"},
    {"kv", "TYPE", 0, OPT_TEXT, AT(kv), ALL, 0, 0, "f16 or q8_0; K and V apart as K,V"},
    {"kv-device-bytes", "SIZE", 0, OPT_KV_LIMIT, AT(kv_device_bytes), MODEL_RUNS, 0, 0,
     "KV in a GPU's memory; the rest is read in this machine's, with the same results"},
    {"exact", NULL, 0, OPT_FLAG, AT(exact), ALL, 0, 0,
     "exactly dequantised weights, float32 activations and KV; slow"},
    {"attention", "NAME", 0, OPT_TEXT, AT(attention), ALL, 0, 0, "native, dense, window or topk"},
    {"budget", "TOKENS", 0, OPT_NUMBER, AT(budget_tokens), ALL, 0, CTX_MAX, "of topk; 0: 4096"},
    {"window", "TOKENS", 0, OPT_NUMBER, AT(window_tokens), ALL, 0, CTX_MAX, "of window; 0: 4096"},
    {"help", NULL, 'h', OPT_FLAG, AT(help), EVERY, 0, 0, "print this"},
};

static bool parse_u64(const char *text, uint64_t max, uint64_t *ret)
{
    char *end;
    errno = 0;
    if (!isdigit((unsigned char)text[0]))
        return false;
    unsigned long long v = strtoull(text, &end, 10);
    if (*end || errno || v > max)
        return false;
    *ret = v;
    return true;
}

// With a suffix K, M, G or T.
static bool parse_size(const char *text, uint64_t *ret)
{
    static const char suffixes[] = "KMGT";
    char digits[24];
    size_t n = strlen(text);
    const char *at = n > 0 ? strchr(suffixes, toupper((unsigned char)text[n - 1])) : NULL;
    unsigned shift = at ? 10 * (unsigned)(at - suffixes + 1) : 0;
    uint64_t v;
    n -= at != NULL;
    if (n >= sizeof(digits))
        return false;
    memcpy(digits, text, n);
    digits[n] = '\0';
    if (!parse_u64(digits, UINT64_MAX >> shift, &v))
        return false;
    *ret = v << shift;
    return true;
}

static bool parse_list(const struct option *o, const char *text, struct number_list *ret)
{
    char word[32];
    struct number_list list = {0};
    for (const char *p = text;; p++) {
        uint64_t v;
        size_t n = strcspn(p, ",");
        if (n >= sizeof(word) || list.n == CLI_LIST_MAX)
            return false;
        memcpy(word, p, n);
        word[n] = '\0';
        if (!parse_u64(word, o->max, &v) || v < o->min)
            return false;
        list.item[list.n++] = (uint32_t)v;
        p += n;
        if (!*p)
            break;
    }
    *ret = list;
    return true;
}

static bool parse_real(const struct option *o, const char *text, double *ret)
{
    char *end;
    double v = strtod(text, &end);
    if (end == text || *end || !isfinite(v) || v < o->min || v > o->max)
        return false;
    *ret = v;
    return true;
}

static bool set_value(struct cli *c, const struct option *o, const char *value)
{
    void *at = (char *)c + o->offset;
    uint64_t v;
    switch (o->type) {
    case OPT_FLAG:
        *(bool *)at = true;
        return true;
    case OPT_TEXT:
        *(const char **)at = value;
        return true;
    case OPT_LIST:
        return parse_list(o, value, at);
    case OPT_REAL:
        return parse_real(o, value, at);
    case OPT_KV_LIMIT:
        c->kv_limited = true;
        return parse_size(value, at);
    case OPT_SEED:
        c->has_seed = true;
        return parse_u64(value, UINT64_MAX, at);
    case OPT_BYTES:
        return parse_size(value, at);
    case OPT_NUMBER:
        if (!parse_u64(value, o->max, &v) || v < o->min)
            return false;
        *(uint32_t *)at = (uint32_t)v;
        return true;
    }
    return false;
}

// The option that `arg` names for this command, or NULL; *value: what stands behind its '='.
static const struct option *find_option(const struct cli *c, const char *arg, const char **value)
{
    unsigned here = 1u << (c->command - commands);
    bool is_long = arg[1] == '-';
    size_t n = is_long ? strcspn(arg + 2, "=") : 1;
    *value = is_long && arg[2 + n] == '=' ? arg + 3 + n : NULL;
    if (!is_long && arg[2])
        return NULL;
    for (size_t i = 0; i < ARRAY_LEN(options); i++) {
        const struct option *o = &options[i];
        bool same = is_long ? strlen(o->name) == n && memcmp(o->name, arg + 2, n) == 0
                            : o->letter == arg[1];
        if (same && o->commands & here)
            return o;
    }
    return NULL;
}

static int add_positional(struct cli *c, unsigned *n, const char *arg, struct err *err)
{
    if (*n == c->command->positional)
        return err_set(err, CLI_USAGE, "what is \"%.200s\"? Too many arguments", arg);
    *((*n)++ ? &c->file : &c->model) = arg;
    return 0;
}

// The n-th word of the command's arguments was not given.
static int missing(const struct cli *c, unsigned n, struct err *err)
{
    const char *word = c->command->arguments;
    while (n-- > 0)
        word += strcspn(word, " ") + 1;
    return err_set(err, CLI_USAGE, "%.*s is missing", (int)strcspn(word, " "), word);
}

// Reads the option argv[0]. Returns how many words it took, or 0 and err.
static int read_option(struct cli *c, int argc, char **argv, struct err *err)
{
    const char *value;
    const struct option *o = find_option(c, argv[0], &value);
    int words = 1;
    if (!o) {
        err_set(err, CLI_USAGE, "unknown option \"%.200s\"", argv[0]);
        return 0;
    }
    if (o->type == OPT_FLAG && value) {
        err_set(err, CLI_USAGE, "--%s takes no value", o->name);
        return 0;
    }
    if (o->type != OPT_FLAG && !value && argc < 2) {
        err_set(err, CLI_USAGE, "--%s needs %s", o->name, o->value);
        return 0;
    }
    if (o->type != OPT_FLAG && !value)
        value = argv[words++];
    if (set_value(c, o, value))
        return words;
    err_set(err, CLI_USAGE, "--%s cannot be \"%.200s\"", o->name, value);
    return 0;
}

static void set_defaults(struct cli *c)
{
    c->n_predict = UINT32_MAX;
    c->temperature = 0.8;
    c->device = "auto";
    c->gpu_layers = LAYERS_MAX;
    c->attention = "native";
    c->prefill = (struct number_list){{512, 2048}, 2};
    c->depth = (struct number_list){{0, 4096}, 2};
    c->streams = (struct number_list){{1, 4}, 2};
    c->decode_tokens = 64;
    c->repeat = 1;
    random_bytes(&c->seed, sizeof(c->seed));
}

int options_read(struct cli *c, int argc, char **argv, struct err *err)
{
    unsigned n_positional = 0;
    bool only_positional = false;
    set_defaults(c);
    for (int i = 0; i < argc;) {
        const char *arg = argv[i];
        if (only_positional || arg[0] != '-' || !arg[1]) {
            if (add_positional(c, &n_positional, arg, err))
                return CLI_USAGE;
            i++;
        } else if (strcmp(arg, "--") == 0) {
            only_positional = true;
            i++;
        } else {
            int words = read_option(c, argc - i, argv + i, err);
            if (words == 0)
                return CLI_USAGE;
            i += words;
        }
    }
    if (n_positional < c->command->positional && !c->help)
        return missing(c, n_positional, err);
    return 0;
}

static void option_help(const struct option *o, struct str *out)
{
    char left[64], letter[8] = "";
    if (o->letter)
        snprintf(letter, sizeof(letter), "-%c, ", o->letter);
    snprintf(left, sizeof(left), "%s--%s%s%s", letter, o->name, o->value ? " " : "",
             o->value ? o->value : "");
    str_printf(out, "  %-22s %s\n", left, o->help);
}

void options_help(const struct command *command, struct str *out)
{
    if (!command) {
        str_puts(out, "Usage: godwit COMMAND [MODEL] [OPTIONS]\n\n");
        for (unsigned i = 0; i < n_commands; i++)
            str_printf(out, "  %-11s %s\n", commands[i].name, commands[i].help);
        str_puts(out, "\ngodwit COMMAND --help tells more. MODEL is a GGUF file.\n");
        return;
    }
    str_printf(out, "Usage: godwit %s %s\n\n%s\n\n", command->name, command->arguments,
               command->help);
    for (size_t i = 0; i < ARRAY_LEN(options); i++)
        if (options[i].commands & 1u << (command - commands))
            option_help(&options[i], out);
}
