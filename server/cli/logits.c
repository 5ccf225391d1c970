// godwit logits: the logits of every position, streamed to a NumPy file. Gemma's vocabulary makes
// 1.6 GB of 1,500 tokens, so nothing is held.
// Source: the .npy format, version 1.0 (numpy.lib.format).
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "server/cli/cli.h"

#define NPY_ALIGN 64

struct sink { FILE *f; uint32_t rows; struct err *err; };

static int write_header(FILE *f, uint32_t rows, uint32_t columns)
{
    static const char fmt[] = "{'descr': '<f4', 'fortran_order': False, 'shape': (%u, %u), }";
    char text[256];
    unsigned char head[10] = {0x93, 'N', 'U', 'M', 'P', 'Y', 1, 0};
    int n = snprintf(text, sizeof(text), fmt, rows, columns);
    while ((sizeof(head) + (size_t)n + 1) % NPY_ALIGN)
        text[n++] = ' ';
    text[n++] = '\n';
    head[8] = (unsigned char)(n & 255);
    head[9] = (unsigned char)(n >> 8);
    bool written = fwrite(head, sizeof(head), 1, f) == 1 && fwrite(text, (size_t)n, 1, f) == 1;
    return written ? 0 : -errno;
}

static int write_row(void *ctx, uint32_t i, const float *logits, uint32_t n_vocab)
{
    struct sink *s = ctx;
    progress_show("logits", i, s->rows);
    return fwrite(logits, sizeof(*logits), n_vocab, s->f) == n_vocab ? 0 : -errno;
}

static int stream_logits(struct cli *c, struct engine *e, const struct tokens *ids, FILE *f,
                         struct err *err)
{
    struct attn_policy attn;
    struct sink s = {f, (uint32_t)ids->n, err};
    int r = attention_policy(c, &attn, err);
    if (r)
        return r;
    r = write_header(f, s.rows, engine_info(e)->n_vocab);
    if (r == 0)
        r = engine_eval(e, ids->id, s.rows, &attn, write_row, &s, err);
    progress_show("logits", 1, 1);
    if (r == 0 && fflush(f) != 0)
        r = -errno;
    if (r && !err->msg[0])
        err_set(err, r, "%.400s: %s", c->out_path, strerror(-r));
    return r;
}

static int write_file(struct cli *c, struct engine *e, const struct tokens *ids, struct err *err)
{
    struct stat st;
    FILE *f = fopen(c->out_path, "wb");
    if (!f)
        return err_set(err, -errno, "%.400s: %s", c->out_path, strerror(errno));
    bool regular = fstat(fileno(f), &st) == 0 && S_ISREG(st.st_mode);
    int r = stream_logits(c, e, ids, f, err);
    if (fclose(f) != 0 && r == 0)
        r = err_set(err, -errno, "%.400s: %s", c->out_path, strerror(errno));
    if (r && regular)
        unlink(c->out_path);                // half an array is worse than none
    return r;
}

int cmd_logits(struct cli *c, struct err *err)
{
    struct str text = {0};
    struct tokens ids = {0};
    struct engine *e = NULL;
    struct engine_params p = {0};
    if (!c->tokens || !c->out_path)
        return err_set(err, CLI_USAGE, "--%s FILE is missing", c->tokens ? "out" : "tokens");
    int r = read_path(c->tokens, &text, err);
    if (r == 0)
        r = parse_ids(&text, &ids, err);
    if (r == 0 && (ids.n == 0 || ids.n > CTX_MAX))
        r = err_set(err, -EINVAL, "%.400s: %zu tokens, 1 to %u are possible", c->tokens, ids.n,
                    CTX_MAX);
    if (r == 0)
        r = load_engine(c, &p, &e, err);
    if (r == 0)
        r = write_file(c, e, &ids, err);
    engine_close(e);
    tokens_free(&ids);
    str_free(&text);
    return r;
}
