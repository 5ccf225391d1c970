// godwit inspect: what a model file holds and what it would need, without loading its weights.
#include "server/cli/cli.h"

#define INDENT 2
#define DEPTH_SHOWN 2                       // deeper values stay on one line

// JSON for people: the outer levels one member a line.
static void print_indented(const struct str *json, struct str *out)
{
    int depth = 0;
    bool quoted = false;
    for (size_t i = 0; i < json->n; i++) {
        char ch = json->p[i];
        bool escaped = quoted && ch == '\\' && i + 1 < json->n;
        quoted ^= ch == '"';
        bool open = !quoted && (ch == '{' || ch == '[');
        bool close = !quoted && (ch == '}' || ch == ']');
        if (close && depth-- <= DEPTH_SHOWN)
            str_printf(out, "\n%*s", depth * INDENT, "");
        str_putc(out, ch);
        if (escaped)
            str_putc(out, json->p[++i]);
        depth += open;
        if ((open || (!quoted && ch == ',')) && depth <= DEPTH_SHOWN)
            str_printf(out, "\n%*s", depth * INDENT, "");
        if (!quoted && (ch == ':' || (ch == ',' && depth > DEPTH_SHOWN)))
            str_putc(out, ' ');
    }
    str_putc(out, '\n');
}

int cmd_inspect(struct cli *c, struct err *err)
{
    struct str json = {0};
    int r = engine_inspect(c->model, c->ctx_tokens, &json, err);
    if (r == 0 && c->json) {
        str_add(&c->out, json.p, json.n);
        str_putc(&c->out, '\n');
    } else if (r == 0) {
        print_indented(&json, &c->out);
    }
    str_free(&json);
    return r;
}
