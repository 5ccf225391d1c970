// POST /v1/sessions: an empty session, or a fork of one.
#include <errno.h>
#include <string.h>
#include "base/base.h"
#include "server/api/api.h"
#include "server/sessions.h"

#define TTL_MAX_S (10u * 365 * 86400)

// An object of strings, kept as the client wrote it.
static int read_metadata(struct api_request *r, struct call *c, struct session_spec *spec)
{
    const struct json *o = NULL;
    int got = json_get_object(r->root, "metadata", &o, &r->fault);
    if (got <= 0)
        return got;
    struct json_span text = json_raw(r->doc, "metadata");
    if (text.n > SESSION_METADATA_MAX)
        return fault_set(&r->fault, ERROR_invalid_value, "metadata",
                         "'metadata' is longer than %d bytes", SESSION_METADATA_MAX);
    for (const struct json *v = json_first(o); v; v = json_next(v))
        if (!json_is_string(v))
            return fault_set(&r->fault, ERROR_invalid_value, "metadata",
                             "'metadata' must hold strings");
    spec->metadata = arena_memdup(&c->arena, text.p, text.n);
    return spec->metadata ? 0 : fault_no_memory(&r->fault);
}

static int read_spec(struct api_request *r, struct call *c, struct session_spec *spec)
{
    struct fault *f = &r->fault;
    uint32_t ttl_s = 0, at_token = UINT32_MAX;
    if (json_get_text(r->root, "id", &spec->id, f) < 0 ||
        json_get_u32(r->root, "ttl_seconds", 1, TTL_MAX_S, &ttl_s, f) < 0 ||
        json_get_bool(r->root, "pin", &spec->pin, f) < 0 ||
        json_get_text(r->root, "fork_from", &spec->fork_from, f) < 0)
        return -1;
    int has_at = json_get_u32(r->root, "at_token", 0, SESSION_TOKENS_MAX, &at_token, f);
    if (has_at < 0 || read_metadata(r, c, spec) < 0)
        return -1;
    if (has_at && !spec->fork_from)
        return fault_set(f, ERROR_missing_field, "fork_from", "'at_token' needs 'fork_from'");
    spec->ttl_s = ttl_s;
    spec->at_token = at_token;
    return 0;
}

// A fork is of its parent's model. An id stands for one session, whatever its model.
static int check_models(struct api_request *r, struct call *c, const struct session_spec *spec)
{
    struct session_info info;
    struct fault none = {0};
    if (spec->id && session_find(c, spec->id, NULL, &info, &none))
        return fault_set(&r->fault, ERROR_session_exists, "id",
                         "There is a session '%s' already.", info.id);
    if (!spec->fork_from)
        return 0;
    struct model_entry *m = session_find(c, spec->fork_from, "fork_from", &info, &r->fault);
    if (!m)
        return -1;
    if (m != r->model && json_get(r->root, "model"))
        return fault_set(&r->fault, ERROR_session_mismatch, "fork_from",
                         "The session '%s' is of the model '%.60s'.", info.id, m->name);
    r->model = m;
    return 0;
}

static const char *param_of(int code)
{
    return code == -EINVAL || code == -EEXIST ? "id"
           : code == -ERANGE                  ? "at_token"
           : code == -ENOENT || code == -ESTALE ? "fork_from" : NULL;
}

static int run(struct api_request *r, struct call *c)
{
    struct session_spec spec = {.pin = true};
    struct session_info info;
    struct err err = {0};
    if (read_spec(r, c, &spec) < 0 || check_models(r, c, &spec) < 0)
        return -1;
    int code = engine_session_create(r->model->engine, &c->caller.salt, &spec, &info, &err);
    if (code == -EBUSY)
        return fault_set(&r->fault, ERROR_too_many_sessions, NULL, "%s.", err.msg);
    if (code < 0)
        return session_fault(code, &err, param_of(code), &r->fault);
    session_put(&c->out, r->model, &info);
    call_answer(c, 200, "application/json");
    return 0;
}

void api_session_create(struct call *c)
{
    struct api_request r;
    if (api_begin(&r, c) == 0)
        api_end(&r, c, run(&r, c));
}
