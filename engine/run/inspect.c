// What a model file holds, as JSON, without loading weights.
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include "engine/engine.h"
#include "engine/kv/layout.h"
#include "engine/model/model.h"
#include "engine/model/plan.h"
#include "engine/text/utf8.h"
#include "base/base.h"

// Elements of an array or bytes of a string beyond these are only counted.
#define METADATA_ITEMS_MAX 8

static void json_string(struct str *out, const char *p, size_t n)
{
    str_putc(out, '"');
    for (size_t i = 0; i < n;) {
        uint32_t cp;
        size_t len = utf8_decode(p + i, n - i, &cp);
        if (len == 0)
            str_puts(out, "\\ufffd");       // JSON is UTF-8 whatever the file holds
        else if (cp == '"' || cp == '\\')
            str_printf(out, "\\%c", (char)cp);
        else if (cp < 0x20)
            str_printf(out, "\\u%04x", cp);
        else
            str_add(out, p + i, len);
        i += MAX(len, 1);
    }
    str_putc(out, '"');
}

static void json_text(struct str *out, const char *name, const char *value)
{
    str_printf(out, "\"%s\":", name);
    json_string(out, value, strlen(value));
}

static void add_metadata(struct str *out, const struct gguf *g)
{
    const char *name;
    enum gguf_type type;
    str_puts(out, "\"metadata\":{");
    for (size_t i = 0; gguf_key_at(g, i, &name, &type); i++) {
        if (i > 0)
            str_putc(out, ',');
        json_string(out, name, strlen(name));
        str_putc(out, ':');
        gguf_key_json(g, i, METADATA_ITEMS_MAX, out);
    }
    str_putc(out, '}');
}

static void add_tensors(struct str *out, const struct gguf *g)
{
    str_puts(out, "\"tensors\":[");
    for (size_t i = 0; i < gguf_n_tensors(g); i++) {
        const struct tensor *t = gguf_tensor_at(g, i);
        str_puts(out, i ? ",{" : "{");
        json_text(out, "name", t->name);
        str_putc(out, ',');
        json_text(out, "type", t->quant->name);
        str_puts(out, ",\"dims\":[");
        for (uint32_t d = 0; d < t->n_dims; d++)
            str_printf(out, "%s%" PRIu64, d ? "," : "", t->dim[d]);
        str_printf(out, "],\"bytes\":%" PRIu64 "}", t->bytes);
    }
    str_putc(out, ']');
}

// The lines of plan_print.
static void add_plan(struct str *out, const struct plan *p)
{
    struct str text = {0};
    plan_print(p, &text);
    str_puts(out, "\"plan\":[");
    for (size_t at = 0; at < text.n;) {
        const char *line = text.p + at, *end = memchr(line, '\n', text.n - at);
        size_t n = end ? (size_t)(end - line) : text.n - at;
        if (at > 0)
            str_putc(out, ',');
        json_string(out, line, n);
        at += n + 1;
    }
    str_putc(out, ']');
    out->failed |= text.failed;
    str_free(&text);
}

static void add_memory(struct str *out, const struct model *m, uint32_t ctx_tokens)
{
    static const enum kv_type types[] = {KV_F16, KV_Q8_0};
    uint64_t weights = 0;
    for (size_t i = 0; i < gguf_n_tensors(m->file); i++)
        weights += gguf_tensor_at(m->file, i)->bytes;
    str_printf(out, "\"memory\":{\"ctx_tokens\":%u,\"weight_bytes\":%" PRIu64 ",\"kv\":[",
               ctx_tokens, weights);
    const char *separator = "";
    for (size_t i = 0; i < ARRAY_LEN(types); i++) {
        struct kv_layout l;
        if (kv_layout_init(&l, &m->cfg, types[i], types[i], 0, NULL) < 0)
            continue;       // this model's heads have no such type
        uint64_t blocks = DIV_UP((uint64_t)ctx_tokens, KV_BLOCK_TOKENS);
        str_printf(out, "%s{\"type\":\"%s\",\"bytes_per_token\":%" PRIu64 ",\"bytes\":%" PRIu64 "}",
                   separator, kv_type_name(types[i]), (uint64_t)l.block_bytes / KV_BLOCK_TOKENS,
                   blocks * l.block_bytes);
        separator = ",";
    }
    str_puts(out, "]}");
}

int engine_inspect(const char *model_path, uint32_t ctx_tokens, struct str *out, struct err *err)
{
    struct model *m;
    int r = model_open(&m, model_path, err);
    if (r < 0)
        return r;
    const struct model_cfg *cfg = &m->cfg;
    size_t before = out->n;
    str_putc(out, '{');
    json_text(out, "arch", cfg->arch);
    str_putc(out, ',');
    json_text(out, "name", cfg->name);
    str_printf(out, ",\"file_bytes\":%" PRIu64 ",\"n_layers\":%u,\"n_vocab\":%u,"
               "\"ctx_train_tokens\":%u,", gguf_file_bytes(m->file), cfg->n_layers, cfg->n_vocab,
               cfg->n_ctx_train);
    add_memory(out, m, ctx_tokens ? ctx_tokens : cfg->n_ctx_train);
    str_putc(out, ',');
    add_metadata(out, m->file);
    str_putc(out, ',');
    add_tensors(out, m->file);
    str_putc(out, ',');
    add_plan(out, m->plan);
    str_putc(out, '}');
    model_close(m);
    if (str_ok(out))
        return 0;
    out->n = before;
    return err_set(err, -ENOMEM, "no memory for the description of a model");
}
