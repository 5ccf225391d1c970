// Sessions for endpoints; see sessions.h.
#include "server/sessions.h"
#include <errno.h>
#include <string.h>
#include "base/base.h"

int session_fault(int code, const struct err *err, const char *param, struct fault *f)
{
    static const struct { int code; enum api_error error; } rows[] = {
        {-ENOENT, ERROR_session_not_found}, {-EEXIST, ERROR_session_exists},
        {-EBUSY, ERROR_session_busy}, {-ESTALE, ERROR_session_mismatch},
        {-EINVAL, ERROR_invalid_value}, {-ERANGE, ERROR_invalid_value},
        {-E2BIG, ERROR_body_too_large}, {-ENOSPC, ERROR_store_full}, {-EIO, ERROR_store_failed},
        {-EAGAIN, ERROR_too_many_sessions},
    };
    if (code == -ENOTSUP)
        return fault_set(f, ERROR_no_sessions, NULL,
                         "Sessions need a block store: godwitd --kv-store.");
    if (code == -ENOMEM)
        return fault_no_memory(f);
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        if (rows[i].code == code)
            return fault_set(f, rows[i].error, param, "%s.", err->msg);
    return fault_set(f, ERROR_internal, NULL, "The session could not be used.");
}

static int unknown(const char *id, const char *param, struct fault *f)
{
    return fault_set(f, ERROR_session_not_found, param, "The session '%.100s' does not exist.", id);
}

struct model_entry *session_find(struct call *c, const char *id, const char *param,
                                 struct session_info *ret, struct fault *f)
{
    struct models *m = &app_of(c)->models;
    int r = -ENOENT;
    for (uint32_t i = 0; i < m->n; i++) {
        r = engine_session_get(m->entry[i].engine, &c->caller.salt, id, ret);
        if (r == 0)
            return &m->entry[i];
    }
    if (r == -ENOENT)
        unknown(id, param, f);
    else
        session_fault(r, NULL, param, f);
    return NULL;
}

// ---- JSON ---------------------------------------------------------------------------------------

static void put_time(struct str *out, const char *key, int64_t s)
{
    str_printf(out, s ? ",\"%s\":%lld" : ",\"%s\":null", key, (long long)s);
}

static void put_bool(struct str *out, const char *key, bool x)
{
    str_printf(out, ",\"%s\":%s", key, x ? "true" : "false");
}

// It may have come in a file that strangers made.
static bool is_object(const char *metadata)
{
    return metadata[0] == '{' && json_check(metadata, strlen(metadata), NULL, NULL) == 0;
}

void session_put(struct str *out, const struct model_entry *m, const struct session_info *i)
{
    str_printf(out, "{\"id\":\"%s\",\"object\":\"session\",\"model\":", i->id);
    json_put_text(out, m->name);
    put_time(out, "created", i->created_s);
    put_time(out, "last_used", i->used_s);
    put_time(out, "expires_at", i->expires_s);
    put_time(out, "ttl_seconds", i->ttl_s);
    str_printf(out, ",\"tokens\":%u,\"pinned_blocks\":%u,\"pinned_bytes\":%llu", i->n_tokens,
               i->n_pinned, (unsigned long long)i->pinned_bytes);
    put_bool(out, "pin", i->pin);
    put_bool(out, "running", i->busy);
    put_bool(out, "durable", i->durable);
    put_bool(out, "usable", !i->foreign);
    put_bool(out, "imported", i->imported);
    str_puts(out, ",\"parent\":");
    str_printf(out, i->parent[0] ? "{\"id\":\"%s\",\"tokens\":%u}" : "null", i->parent,
               i->parent_tokens);
    str_puts(out, ",\"attention\":");
    if (i->has_attn)
        json_put_text(out, selectors[i->attn.selector].name);
    else
        str_puts(out, "null");
    str_printf(out, ",\"metadata\":%s}", is_object(i->metadata) ? i->metadata : "{}");
}

// ---- requests -----------------------------------------------------------------------------------

static int refuse_take(int code, const struct err *err, const struct params *p, struct call *c,
                       struct fault *f)
{
    struct session_info info;
    if (code == -EBUSY)
        f->retry_after_s = 1;
    if (code != -ENOENT)
        return session_fault(code, err, "session", f);
    const struct model_entry *m = session_find(c, p->session_id, "session", &info, f);
    if (!m)
        return -1;
    return fault_set(f, ERROR_session_mismatch, "session",
                     "The session '%s' is of the model '%.60s'.", info.id, m->name);
}

int session_take(struct params *p, struct call *c, struct fault *f)
{
    struct session_info info;
    struct err err = {0};
    if (!p->session_id)
        return 0;
    int r = engine_session_take(p->model->engine, &c->caller.salt, p->session_id, &p->session,
                                &info, &err);
    if (r < 0)
        return refuse_take(r, &err, p, c, f);
    p->session_tokens = info.n_tokens;
    if (info.has_attn && !p->has_attn) {
        p->attn = info.attn;
        p->has_attn = true;
    }
    return 0;
}

void session_drop(struct params *p)
{
    engine_session_drop(p->model->engine, p->session);
    p->session = NULL;
}

int session_prepend(const struct params *p, struct tokens *tokens, struct fault *f)
{
    struct tokens all = {0};
    struct err err = {0};
    int r = engine_session_text(p->model->engine, p->session, &all, &err);
    for (size_t i = 0; r == 0 && i < tokens->n; i++)
        r = tokens_add(&all, tokens->id[i]);
    if (r < 0) {
        tokens_free(&all);
        return session_fault(r, &err, "session", f);
    }
    tokens_free(tokens);
    *tokens = all;
    return 0;
}
