// Tool calls in generated text; see tools.h.
#include "server/tools.h"
#include <string.h>
#include "base/base.h"
#include "server/json.h"

static const char open_tag[] = "<tool_call>", close_tag[] = "</tool_call>";
#define OPEN_BYTES (sizeof(open_tag) - 1)
#define CLOSE_BYTES (sizeof(close_tag) - 1)

void tool_parser_free(struct tool_parser *t)
{
    str_free(&t->held);
}

static bool is_blank(char c)
{
    return c == ' ' || c == '\n' || c == '\r' || c == '\t';
}

static void drop_front(struct str *s, size_t n)
{
    memmove(s->p, s->p + n, s->n - n);
    s->n -= n;
    s->p[s->n] = '\0';
}

static const char *find(const char *p, size_t n, const char *tag, size_t n_tag)
{
    return n ? memmem(p, n, tag, n_tag) : NULL;
}

// Takes {"name": ..., "arguments": ...} apart. False: it is no call.
static bool read_call(struct tool_parser *t, const char *p, size_t n, bool tagged,
                      const struct tool_sink *sink)
{
    struct json_doc *d;
    bool ok = false;
    if (json_open(&d, p, n, NULL) != 0)
        return false;
    const struct json *root = json_root(d);
    const struct json *name = json_is_object(root) ? json_get(root, "name") : NULL;
    struct json_span args = json_raw(d, "arguments");
    if (name && json_is_string(name) && *json_text(name) &&
        (tagged || sink->offered(sink->ctx, json_text(name)))) {
        const struct json *v = json_get(root, "arguments");
        bool text = v && json_is_string(v);     // some models quote the object once more
        if (!v)
            args = (struct json_span){ "{}", 2 };
        ok = !v || text || json_is_object(v);
        if (ok)
            sink->call(sink->ctx, t->n_calls++, json_text(name), text ? json_text(v) : args.p,
                       text ? strlen(json_text(v)) : args.n);
    }
    json_close(d);
    return ok;
}

// The body of a call is held[0..n); behind it stands n_tag bytes of closing tag.
static void finish_call(struct tool_parser *t, size_t n, size_t n_tag, const struct tool_sink *sink)
{
    struct str *h = &t->held;
    t->inside = false;
    if (!read_call(t, h->p, n, true, sink)) {
        sink->text(sink->ctx, open_tag, OPEN_BYTES);
        sink->text(sink->ctx, h->p, n + n_tag);
    }
    drop_front(h, n + n_tag);
}

// Length of the longest end of p[0..n) that could begin `white space, opening tag`.
static size_t undecided(const char *p, size_t n)
{
    size_t tag = MIN(n, OPEN_BYTES - 1);
    while (tag && memcmp(p + n - tag, open_tag, tag) != 0)
        tag--;
    size_t blanks = 0;
    while (blanks < n - tag && is_blank(p[n - tag - blanks - 1]))
        blanks++;
    return tag + blanks;
}

// Emits what is decided. Returns true if an opening or closing tag was passed.
static bool outside_step(struct tool_parser *t, const struct tool_sink *sink)
{
    struct str *h = &t->held;
    const char *tag = find(h->p, h->n, open_tag, OPEN_BYTES);
    size_t n = tag ? (size_t)(tag - h->p) : h->n - undecided(h->p, h->n);
    size_t n_text = n;
    while (tag && n_text && is_blank(h->p[n_text - 1]))
        n_text--;
    if (n_text)
        sink->text(sink->ctx, h->p, n_text);
    t->inside = tag != NULL;
    drop_front(h, tag ? n + OPEN_BYTES : n);
    return tag != NULL;
}

static bool inside_step(struct tool_parser *t, const struct tool_sink *sink)
{
    struct str *h = &t->held;
    const char *tag = find(h->p, h->n, close_tag, CLOSE_BYTES);
    if (tag)
        finish_call(t, (size_t)(tag - h->p), CLOSE_BYTES, sink);
    else if (h->n > TOOL_CALL_BYTES_MAX)
        finish_call(t, h->n, 0, sink);
    return tag != NULL;
}

// Could p[0..n) begin an answer that is only {"name": ...}?
static bool may_be_bare(const char *p, size_t n)
{
    static const char *const parts[] = { "{", "\"name\"" };
    for (size_t k = 0; k < ARRAY_LEN(parts); k++) {
        while (n && is_blank(*p)) {
            p++;
            n--;
        }
        size_t len = strlen(parts[k]), some = MIN(len, n);
        if (some && memcmp(p, parts[k], some) != 0)
            return false;
        p += some;
        n -= some;
    }
    return true;
}

static void decide(struct tool_parser *t, const struct tool_sink *sink)
{
    while (t->held.n && (t->inside ? inside_step(t, sink) : outside_step(t, sink)))
        ;
}

void tool_parser_push(struct tool_parser *t, const char *p, size_t n, const struct tool_sink *sink)
{
    str_add(&t->held, p, n);
    if (!t->begun)
        t->begun = !may_be_bare(t->held.p, t->held.n) || t->held.n > TOOL_CALL_BYTES_MAX;
    if (t->begun)
        decide(t, sink);
}

void tool_parser_end(struct tool_parser *t, const struct tool_sink *sink)
{
    struct str *h = &t->held;
    if (!t->begun && h->n && read_call(t, h->p, h->n, false, sink))
        str_clear(h);
    else if (!t->begun)
        decide(t, sink);
    if (t->inside && h->n)
        finish_call(t, h->n, 0, sink);
    else if (t->inside)
        sink->text(sink->ctx, open_tag, OPEN_BYTES);
    size_t n = h->n;
    while (t->n_calls && n && is_blank(h->p[n - 1]))
        n--;
    if (n)
        sink->text(sink->ctx, h->p, n);
    str_clear(h);
    t->inside = false;
}
