// What commands share: reading, progress bars, and opening the engine by the options.
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "base/base.h"
#include "base/clock.h"
#include "server/cli/cli.h"

#define BAR_COLUMNS 40
#define BAR_INTERVAL_NS (50 * NS_PER_MS)

// ---- reading and writing -----------------------------------------------------------------------

static int read_all(FILE *f, const char *name, struct str *out, struct err *err)
{
    char buf[65536];
    for (size_t n; (n = fread(buf, 1, sizeof(buf), f));)
        str_add(out, buf, n);
    if (ferror(f))
        return err_set(err, -EIO, "%.200s: cannot be read: %s", name, strerror(errno));
    return str_ok(out) ? 0 : err_set(err, -ENOMEM, "%.200s: out of memory", name);
}

int read_stdin(struct str *out, struct err *err)
{
    return read_all(stdin, "standard input", out, err);
}

int read_path(const char *path, struct str *out, struct err *err)
{
    FILE *f = fopen(path, "rb");
    if (!f)
        return err_set(err, -errno, "%.400s: %s", path, strerror(errno));
    int r = read_all(f, path, out, err);
    fclose(f);
    return r;
}

int parse_ids(const struct str *text, struct tokens *ret, struct err *err)
{
    const char *p = text->n ? text->p : "", *end = p + text->n;
    while (p < end) {
        char *after;
        if (isspace((unsigned char)*p)) {
            p++;
            continue;
        }
        errno = 0;
        long id = isdigit((unsigned char)*p) ? strtol(p, &after, 10) : -1;
        bool whole = id >= 0 && (after == end || isspace((unsigned char)*after));
        if (!whole || errno || id > INT32_MAX)
            return err_set(err, -EINVAL, "token %zu is no id: \"%.*s\"", ret->n,
                           (int)MIN((size_t)20, strcspn(p, " \t\r\n")), p);
        if (tokens_add(ret, (int32_t)id))
            return err_set(err, -ENOMEM, "out of memory");
        p = after;
    }
    return 0;
}

int write_out(const void *p, size_t n, struct err *err)
{
    if (fwrite(p, 1, n, stdout) == n && fflush(stdout) == 0)
        return 0;
    return err_set(err, -errno, "standard output cannot be written: %s", strerror(errno));
}

// ---- progress ----------------------------------------------------------------------------------

void progress_show(const char *what, uint64_t done, uint64_t total)
{
    static uint64_t shown_ns;
    static bool visible;
    uint64_t now_ns = clock_now_ns();
    if (!isatty(STDERR_FILENO))
        return;
    if (done >= total) {
        fputs(visible ? "\r\033[K" : "", stderr);
        visible = false;
        return;
    }
    if (now_ns - shown_ns < BAR_INTERVAL_NS)
        return;
    shown_ns = now_ns;
    visible = true;
    int full = (int)(done * BAR_COLUMNS / total);
    fprintf(stderr, "\r%s [%.*s%*s] %3d%%", what, full, "########################################",
            BAR_COLUMNS - full, "", (int)(done * 100 / total));
}

static int load_progress(void *ctx, uint64_t done_bytes, uint64_t total_bytes)
{
    (void)ctx;
    progress_show("loading", done_bytes, total_bytes);
    return 0;
}

// ---- the engine --------------------------------------------------------------------------------

int attention_policy(const struct cli *c, struct attn_policy *ret, struct err *err)
{
    struct attn_policy p = attn_policy_dense();
    if (strcmp(c->attention, "native") != 0 && attn_policy_init(&p, c->attention) < 0)
        return err_set(err, CLI_USAGE, "--attention cannot be \"%.80s\"", c->attention);
    if (c->budget_tokens && p.selector == SELECT_topk)
        p.budget_tokens = c->budget_tokens;
    if (c->window_tokens && p.selector == SELECT_window)
        p.window_tokens = c->window_tokens;
    *ret = p;
    return 0;
}

// "K" or "K,V" to two names; buf holds the first.
static int kv_types(const char *kv, char *buf, size_t size, const char **k, const char **v,
                    struct err *err)
{
    size_t n = kv ? strcspn(kv, ",") : 0;
    if (!kv)
        return 0;
    if (n >= size)
        return err_set(err, CLI_USAGE, "--kv cannot be \"%.80s\"", kv);
    memcpy(buf, kv, n);
    buf[n] = '\0';
    *k = buf;
    *v = kv[n] ? kv + n + 1 : buf;
    return 0;
}

int load_engine(struct cli *c, struct engine_params *p, struct engine **ret, struct err *err)
{
    char k[16];
    int r = kv_types(c->kv, k, sizeof(k), &p->kv_k, &p->kv_v, err);
    if (r == 0)
        r = attention_policy(c, &p->attn, err);
    if (r)
        return r;
    p->model_path = c->model;
    p->device = c->device;
    p->gpu_limited = c->gpu_layers < LAYERS_MAX;
    p->gpu_layers = c->gpu_layers;
    p->threads = c->threads;
    p->exact = c->exact;
    p->kv_limited = c->kv_limited;
    p->kv_device_bytes = c->kv_device_bytes;
    p->progress = load_progress;
    if (p->ctx_tokens == 0)
        p->ctx_tokens = c->ctx_tokens;
    r = engine_open(ret, p, err);
    progress_show("loading", 1, 1);
    return r;
}

const char *finish_name(enum finish_reason r)
{
    static const char *const names[] = {
        [FINISH_NONE] = "none", [FINISH_STOP] = "stop", [FINISH_LENGTH] = "length",
        [FINISH_CANCELLED] = "cancelled", [FINISH_DEADLINE] = "deadline", [FINISH_ERROR] = "error",
    };
    return names[r];
}

double rate_per_s(uint64_t n, uint64_t ns)
{
    return ns ? (double)n * (double)NS_PER_S / (double)ns : 0;
}
