// GET /v1/sessions?limit=&after=: the caller's sessions of all models, the newest first.
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "base/base.h"
#include "server/api/api.h"
#include "server/sessions.h"

#define LIMIT_DEFAULT 20
#define LIMIT_MAX 100

struct page {
    struct session_info        after, *info;    // info: (limit + 1) of one model
    bool                       has_after;
    uint32_t                   limit, n;
    struct { const struct model_entry *m; struct session_info info; } *row;    // (n)
};

static int read_limit(struct call *c, struct page *p, struct fault *f)
{
    const char *text = call_query(c, "limit");
    char *end = NULL;
    p->limit = LIMIT_DEFAULT;
    if (!text)
        return 0;
    unsigned long n = text[0] >= '0' && text[0] <= '9' ? strtoul(text, &end, 10) : 0;
    if (n < 1 || n > LIMIT_MAX || *end)
        return fault_set(f, ERROR_invalid_value, "limit", "'limit' must be 1 to %d", LIMIT_MAX);
    p->limit = (uint32_t)n;
    return 0;
}

static int read_after(struct call *c, struct page *p, struct fault *f)
{
    const char *id = call_query(c, "after");
    p->has_after = id && *id;
    return !p->has_after || session_find(c, id, "after", &p->after, f) ? 0 : -1;
}

static bool is_newer(const struct session_info *a, const struct session_info *b)
{
    return a->created_s != b->created_s ? a->created_s > b->created_s : strcmp(a->id, b->id) < 0;
}

// Into its place among those that are there; one more than the page holds tells that there is one.
static void insert(struct page *p, const struct model_entry *m, const struct session_info *info)
{
    uint32_t at = p->n;
    while (at > 0 && is_newer(info, &p->row[at - 1].info))
        at--;
    if (at > p->limit)
        return;
    p->n = MIN(p->n + 1, p->limit + 1);
    memmove(&p->row[at + 1], &p->row[at], (p->n - 1 - at) * sizeof(*p->row));
    p->row[at].m = m;
    p->row[at].info = *info;
}

static void put_id(struct str *out, const char *key, const struct session_info *i)
{
    str_printf(out, i ? ",\"%s\":\"%s\"" : ",\"%s\":null", key, i ? i->id : "");
}

static void put_page(struct str *out, const struct page *p)
{
    uint32_t n = MIN(p->n, p->limit);
    str_puts(out, "{\"object\":\"list\",\"data\":[");
    for (uint32_t i = 0; i < n; i++) {
        str_puts(out, i ? "," : "");
        session_put(out, p->row[i].m, &p->row[i].info);
    }
    str_puts(out, "]");
    put_id(out, "first_id", n ? &p->row[0].info : NULL);
    put_id(out, "last_id", n ? &p->row[n - 1].info : NULL);
    str_printf(out, ",\"has_more\":%s}", p->n > p->limit ? "true" : "false");
}

static int run(struct call *c, struct fault *f)
{
    struct models *m = &app_of(c)->models;
    struct page p = {0};
    struct session_info probe;
    if (app_check_open(app_of(c), f) < 0)
        return -1;
    int r = engine_session_get(m->entry[0].engine, &c->caller.salt, "", &probe);
    if (r != -ENOENT)
        return session_fault(r, NULL, NULL, f);
    if (read_limit(c, &p, f) < 0 || read_after(c, &p, f) < 0)
        return -1;
    p.info = arena_calloc(&c->arena, p.limit + 1, sizeof(*p.info));
    p.row = arena_calloc(&c->arena, p.limit + 2, sizeof(*p.row));
    if (!p.info || !p.row)
        return fault_no_memory(f);
    for (uint32_t i = 0; i < m->n; i++) {
        uint32_t n = engine_session_list(m->entry[i].engine, &c->caller.salt,
                                         p.has_after ? &p.after : NULL, p.info, p.limit + 1);
        for (uint32_t k = 0; k < n; k++)
            insert(&p, &m->entry[i], &p.info[k]);
    }
    put_page(&c->out, &p);
    call_answer(c, 200, "application/json");
    return 0;
}

void api_sessions(struct call *c)
{
    struct fault f = {0};
    if (run(c, &f) < 0)
        call_fail(c, &f);
}
