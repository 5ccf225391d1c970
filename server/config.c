// The table of options, and the three ways into it.
#include "server/config.h"
#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "base/base.h"
#include "engine/limits.h"

#define FILE_LINE_MAX 4096
#define VERSION "0.1.0"

enum option_type { OPT_TEXT, OPT_LIST, OPT_NUMBER, OPT_BYTES, OPT_LIMIT, OPT_FLAG };

struct option {
    const char      *name, *value;      // --name VALUE
    enum option_type type;
    size_t           offset;            // in struct config
    const char      *start;             // default, NULL: none
    uint64_t         min, max;          // of numbers
    const char      *help;
};

#define AT(field) offsetof(struct config, field)
static const struct option options[] = {
    { "model", "[NAME=]FILE", OPT_LIST, AT(model), NULL, 0, 0,
      "serve this GGUF file; may be repeated; the first is the default model" },
    { "model-alias", "ALIAS[=NAME]", OPT_LIST, AT(model_alias), NULL, 0, 0,
      "another name of a model; '*' accepts any name for the default model" },
    { "listen", "ADDRESS:PORT", OPT_TEXT, AT(listen), "127.0.0.1:8080", 0, 0,
      "where the API answers" },
    { "admin", "ADDRESS:PORT", OPT_TEXT, AT(admin), "127.0.0.1:8081", 0, 0,
      "where /health, /ready and /metrics answer, whatever the API does; 'off' for none" },
    { "api-key-file", "FILE", OPT_TEXT, AT(api_key_file), NULL, 0, 0,
      "keys that clients must send, one a line, each perhaps as NAME:KEY" },
    { "device", "NAME", OPT_TEXT, AT(device), "auto", 0, 0,
      "auto, cpu, vulkan, vulkan:NAME or null" },
    { "gpu-layers", "N", OPT_NUMBER, AT(gpu_layers), "1024", 0, LAYERS_MAX,
      "layers on the GPU: the last N of the model, with its output; the CPU runs the others; "
      "from the number of layers on: all" },
    { "threads", "N", OPT_NUMBER, AT(threads), "0", 0, 1024, "compute threads; 0: all cores" },
    { "ctx", "TOKENS", OPT_NUMBER, AT(ctx_tokens), "0", 0, 1u << 24,
      "context of one sequence; 0: what the model was trained with" },
    { "kv", "TYPE", OPT_TEXT, AT(kv), NULL, 0, 0, "f16 or q8_0; K and V apart as K,V" },
    { "exact", NULL, OPT_FLAG, AT(exact), NULL, 0, 0,
      "exactly dequantised weights, float32 activations and KV; slow" },
    { "kv-memory-bytes", "SIZE", OPT_BYTES, AT(kv_memory_bytes), "0", 0, UINT64_C(1) << 50,
      "memory for the KV of all sequences; 0: by the model and this machine. With a store that is "
      "what lies in memory: sequences may be larger, what attention chooses is read from disk" },
    { "kv-device-bytes", "SIZE", OPT_LIMIT, AT(kv_device_bytes), "auto", 0, UINT64_C(1) << 50,
      "how much of that may lie in a GPU's memory; the rest is pinned in this machine's and read "
      "from there, with the same answers; auto: what the GPU has room for" },
    { "kv-store", "DIR", OPT_TEXT, AT(kv_store), NULL, 0, 0,
      "keep the KV of texts on disk, in a folder of DIR for each model, so that prompts that begin "
      "like earlier ones are not computed again, after a new start either" },
    { "kv-store-bytes", "SIZE", OPT_BYTES, AT(kv_store_bytes), "16G", 4u << 20, UINT64_C(1) << 50,
      "all that may take, shared out evenly between models" },
    { "kv-store-write-bytes-per-day", "SIZE", OPT_BYTES, AT(kv_store_bytes_per_day), "0", 0,
      UINT64_C(1) << 50, "what may be written to it in a day, for the disk's sake; 0: any number" },
    { "no-prefix-cache", NULL, OPT_FLAG, AT(no_prefix_cache), NULL, 0, 0,
      "compute every prompt anew" },
    { "seqs-max", "N", OPT_NUMBER, AT(seqs_max), "64", 1, 1024, "sequences running at once" },
    { "queue-max", "N", OPT_NUMBER, AT(queue_max), "256", 1, 1u << 20,
      "requests that may wait; more get 429" },
    { "max-step-ms", "MS", OPT_NUMBER, AT(max_step_ms), "100", 1, 60000,
      "goal for one step: how long a prefill may hold other streams up" },
    { "no-warmup", NULL, OPT_FLAG, AT(no_warmup), NULL, 0, 0,
      "do not run steps before the first request, which is slower then" },
    { "attention", "NAME", OPT_TEXT, AT(attention), "native", 0, 0,
      "native, dense, window or topk, for requests that do not say" },
    { "budget", "TOKENS", OPT_NUMBER, AT(budget_tokens), "0", 0, 1u << 24,
      "tokens that topk attention reads; 0: 4096" },
    { "window", "TOKENS", OPT_NUMBER, AT(window_tokens), "0", 0, 1u << 24,
      "tokens that window attention reads; 0: 4096" },
    { "sinks", "TOKENS", OPT_NUMBER, AT(sink_tokens), "64", 0, 1u << 24,
      "tokens at the start that window and topk always read" },
    { "request-timeout-s", "S", OPT_NUMBER, AT(request_timeout_s), "0", 0, 1u << 24,
      "longest life of a request; 0: none" },
    { "header-timeout-s", "S", OPT_NUMBER, AT(header_timeout_s), "10", 1, 10,
      "for the whole head of a request" },
    { "body-timeout-s", "S", OPT_NUMBER, AT(body_timeout_s), "30", 1, 3600,
      "for the whole body of a request" },
    { "write-timeout-s", "S", OPT_NUMBER, AT(write_timeout_s), "30", 1, 3600,
      "for a client that reads nothing; then its request is cancelled" },
    { "idle-timeout-s", "S", OPT_NUMBER, AT(idle_timeout_s), "75", 1, 86400,
      "of a connection between requests" },
    { "drain-timeout-s", "S", OPT_NUMBER, AT(drain_timeout_s), "30", 0, 86400,
      "for running requests after SIGTERM" },
    { "ping-s", "S", OPT_NUMBER, AT(ping_s), "5", 1, 3600,
      "a comment keeps a stream alive that is silent for so long" },
    { "connections-max", "N", OPT_NUMBER, AT(connections_max), "4096", 1, 1u << 19,
      "open connections of the API" },
    { "connections-per-address-max", "N", OPT_NUMBER, AT(connections_per_address_max), "2048", 1,
      1u << 19, "open connections of one client address" },
    { "body-max-bytes", "SIZE", OPT_BYTES, AT(body_max_bytes), "16M", 1024, UINT64_C(1) << 30,
      "largest body of a request" },
    { "import-max-bytes", "SIZE", OPT_BYTES, AT(import_max_bytes), "256M", 1024,
      UINT64_C(1) << 38, "largest file of a session to be imported, which is held in memory" },
    { "http-threads", "N", OPT_NUMBER, AT(http_threads), "0", 0, 64,
      "threads that serve connections; 0: by the cores" },
    { "cors-origin", "ORIGINS", OPT_TEXT, AT(cors_origin), NULL, 0, 0,
      "origins whose pages may use the API, separated by commas; '*': all" },
    { "allow-host", "NAMES", OPT_TEXT, AT(allow_host), NULL, 0, 0,
      "Host names, separated by commas, that a loopback address answers to besides its own; for "
      "proxies" },
    { "allow-public", NULL, OPT_FLAG, AT(allow_public), NULL, 0, 0,
      "listen on a public address although no API key is asked for" },
    { "log-level", "LEVEL", OPT_TEXT, AT(log_level), "info", 0, 0,
      "error, warning, notice, info or debug" },
};

// ---- values -------------------------------------------------------------------------------------

static const struct option *find_option(const char *name, size_t n)
{
    for (size_t i = 0; i < ARRAY_LEN(options); i++) {
        if (strlen(options[i].name) == n && memcmp(options[i].name, name, n) == 0)
            return &options[i];
    }
    return NULL;
}

static bool parse_number(const char *text, bool bytes, uint64_t *ret)
{
    char *end;
    errno = 0;
    if (!isdigit((unsigned char)text[0]))
        return false;
    unsigned long long v = strtoull(text, &end, 10);
    const char *suffix = "KMGT", *at = bytes && *end ? strchr(suffix, toupper((unsigned char)*end))
                                                     : NULL;
    unsigned shift = at ? 10 * (unsigned)(at - suffix + 1) : 0;
    end += at != NULL;
    if (*end || errno || (shift && v >> (64 - shift)))
        return false;
    *ret = (uint64_t)v << shift;
    return true;
}

static int set_number(struct config *c, const struct option *o, const char *text, struct err *err)
{
    uint64_t v;
    if (!parse_number(text, o->type != OPT_NUMBER, &v))
        return err_set(err, -EINVAL, "%s: \"%s\" is no number", o->name, text);
    if (v < o->min || v > o->max)
        return err_set(err, -EINVAL, "%s: must be between %llu and %llu", o->name,
                       (unsigned long long)o->min, (unsigned long long)o->max);
    memcpy((char *)c + o->offset, &v, sizeof(v));
    return 0;
}

// "auto" is UINT64_MAX, a limit that is none.
static int set_limit(struct config *c, const struct option *o, const char *text, struct err *err)
{
    uint64_t v = UINT64_MAX;
    if (strcmp(text, "auto") != 0)
        return set_number(c, o, text, err);
    memcpy((char *)c + o->offset, &v, sizeof(v));
    return 0;
}

static int set_flag(struct config *c, const struct option *o, const char *text, struct err *err)
{
    bool v = strcmp(text, "true") == 0 || strcmp(text, "yes") == 0 || strcmp(text, "1") == 0;
    if (!v && strcmp(text, "false") != 0 && strcmp(text, "no") != 0 && strcmp(text, "0") != 0)
        return err_set(err, -EINVAL, "%s: must be true or false", o->name);
    memcpy((char *)c + o->offset, &v, sizeof(v));
    return 0;
}

static int set_option(struct config *c, const struct option *o, const char *text, struct err *err)
{
    char *copy = arena_strdup(&c->arena, text);
    struct config_list *list = (struct config_list *)(void *)((char *)c + o->offset);
    if (!copy)
        return err_set(err, -ENOMEM, "out of memory");
    switch (o->type) {
    case OPT_TEXT:
        memcpy((char *)c + o->offset, &copy, sizeof(copy));
        return 0;
    case OPT_LIST:
        if (list->n == CONFIG_LIST_MAX)
            return err_set(err, -EINVAL, "%s: more than %d", o->name, CONFIG_LIST_MAX);
        list->item[list->n++] = copy;
        return 0;
    case OPT_NUMBER:
    case OPT_BYTES:
        return set_number(c, o, text, err);
    case OPT_LIMIT:
        return set_limit(c, o, text, err);
    case OPT_FLAG:
        return set_flag(c, o, text, err);
    }
    return 0;
}

static int set_defaults(struct config *c, struct err *err)
{
    for (size_t i = 0; i < ARRAY_LEN(options); i++) {
        int r = options[i].start ? set_option(c, &options[i], options[i].start, err) : 0;
        if (r)
            return r;
    }
    return 0;
}

// ---- the file -----------------------------------------------------------------------------------

static char *trim(char *s)
{
    while (isspace((unsigned char)*s))
        s++;
    for (size_t n = strlen(s); n && isspace((unsigned char)s[n - 1]); n--)
        s[n - 1] = '\0';
    return s;
}

static int read_line(struct config *c, char *line, struct err *err)
{
    line = trim(line);
    if (!*line || *line == '#')
        return 0;
    char *eq = strchr(line, '=');
    if (!eq)
        return err_set(err, -EINVAL, "not KEY = VALUE: %s", line);
    *eq = '\0';
    const char *key = trim(line), *value = trim(eq + 1);
    const struct option *o = find_option(key, strlen(key));
    if (!o)
        return err_set(err, -EINVAL, "unknown key \"%s\"", key);
    return set_option(c, o, value, err);
}

static int read_file(struct config *c, const char *path, struct err *err)
{
    char line[FILE_LINE_MAX];
    FILE *f = fopen(path, "re");
    if (!f)
        return err_set(err, -errno, "%s: %s", path, strerror(errno));
    int r = 0;
    for (unsigned n = 1; r == 0 && fgets(line, sizeof(line), f); n++) {
        if (!strchr(line, '\n') && !feof(f))
            r = err_set(err, -EINVAL, "%s:%u: line too long", path, n);
        else if ((r = read_line(c, line, err)) != 0)
            err_prefix(err, "%s:%u", path, n);
    }
    fclose(f);
    return r;
}

// ---- flags --------------------------------------------------------------------------------------

static void print_help(void)
{
    printf("usage: godwitd --model [NAME=]FILE [OPTION...]\n\n"
           "Serves language models over the OpenAI API. Options may also stand in a file as\n"
           "'name = value' lines; flags win over the file.\n\n"
           "  --config FILE\n        read this file first\n");
    for (size_t i = 0; i < ARRAY_LEN(options); i++) {
        const struct option *o = &options[i];
        printf("  --%s%s%s\n        %s", o->name, o->value ? " " : "", o->value ? o->value : "",
               o->help);
        if (o->start && strcmp(o->start, "0") != 0)
            printf(" (%s)", o->start);
        printf("\n");
    }
    printf("  --help, --version\n\nSizes take the suffixes K, M, G and T. "
           "Exit status 78: the configuration is wrong.\n");
}

// One flag of argv[*i], which moves past its value. o is NULL for --config.
static int take_flag(int argc, char **argv, int *i, const struct option **o, const char **value,
                     struct err *err)
{
    const char *arg = argv[*i];
    if (strncmp(arg, "--", 2) != 0)
        return err_set(err, -EINVAL, "unexpected argument \"%s\"; see --help", arg);
    const char *name = arg + 2, *eq = strchr(name, '=');
    size_t n = eq ? (size_t)(eq - name) : strlen(name);
    *o = find_option(name, n);
    if (!*o && !(n == 6 && memcmp(name, "config", n) == 0))
        return err_set(err, -EINVAL, "unknown option \"%s\"; see --help", arg);
    if (eq)
        *value = eq + 1;
    else if (*o && (*o)->type == OPT_FLAG)
        *value = "true";
    else if (*i + 1 < argc)
        *value = argv[++*i];
    else
        return err_set(err, -EINVAL, "%s needs a value", arg);
    return 0;
}

static int read_flags(struct config *c, int argc, char **argv, bool config_only, struct err *err)
{
    bool fresh[ARRAY_LEN(options)] = {0};   // this list was emptied: flags replace the file's
    for (int i = 1; i < argc; i++) {
        const struct option *o = NULL;
        const char *value = "";
        int r = take_flag(argc, argv, &i, &o, &value, err);
        if (r == 0 && !o && config_only)
            r = read_file(c, value, err);
        if (r == 0 && o && !config_only) {
            bool *seen = &fresh[o - options];
            if (o->type == OPT_LIST && !*seen)
                *(struct config_list *)(void *)((char *)c + o->offset) = (struct config_list){0};
            *seen = true;
            r = set_option(c, o, value, err);
        }
        if (r)
            return r;
    }
    return 0;
}

// ---- the environment ----------------------------------------------------------------------------

static bool env_number(const char *name, uint64_t *ret)
{
    const char *text = getenv(name);
    return text && parse_number(text, false, ret);
}

static int read_environment(struct config *c, struct err *err)
{
    uint64_t pid, n;
    c->notify_socket = getenv("NOTIFY_SOCKET");
    c->cache_dir = getenv("CACHE_DIRECTORY");
    c->journal = getenv("JOURNAL_STREAM") != NULL;
    if (env_number("LISTEN_PID", &pid) && pid == (uint64_t)getpid() && env_number("LISTEN_FDS",
                                                                                  &n)) {
        c->listen_fds = (uint32_t)MIN(n, (uint64_t)CONFIG_LIST_MAX);
        c->listen_fd_names = getenv("LISTEN_FDNAMES");
    }
    if (env_number("WATCHDOG_USEC", &n) &&
        (!env_number("WATCHDOG_PID", &pid) || pid == (uint64_t)getpid()))
        c->watchdog_us = n;
    const char *dir = getenv("CREDENTIALS_DIRECTORY");
    if (c->api_key_file || !dir)
        return 0;
    char path[PATH_MAX];
    snprintf(path, sizeof(path), "%s/api-keys", dir);
    if (access(path, R_OK) != 0)
        return 0;
    c->api_key_file = arena_strdup(&c->arena, path);
    return c->api_key_file ? 0 : err_set(err, -ENOMEM, "out of memory");
}

static int check(struct config *c, struct err *err)
{
    static const char *const levels[] = { "error", "warning", "notice", "info", "debug" };
    c->log_max = 0;
    for (size_t i = 0; i < ARRAY_LEN(levels); i++) {
        if (strcmp(c->log_level, levels[i]) == 0)
            c->log_max = (enum log_level)(LOG_ERROR + (int)i);
    }
    if (!c->log_max)
        return err_set(err, -EINVAL, "log-level: \"%s\" is no level", c->log_level);
    if (!c->model.n)
        return err_set(err, -EINVAL, "no --model was given; see --help");
    return 0;
}

int config_read(struct config *ret, int argc, char **argv, struct err *err)
{
    struct config c = {0};
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            print_help();
            return 1;
        }
        if (strcmp(argv[i], "--version") == 0) {
            printf("godwitd " VERSION "\n");
            return 1;
        }
    }
    int r = set_defaults(&c, err);
    if (r == 0)
        r = read_flags(&c, argc, argv, true, err);
    if (r == 0)
        r = read_flags(&c, argc, argv, false, err);
    if (r == 0)
        r = read_environment(&c, err);
    if (r == 0)
        r = check(&c, err);
    if (r) {
        config_free(&c);
        return r;
    }
    *ret = c;
    return 0;
}

void config_free(struct config *c)
{
    arena_reset(&c->arena);
}
