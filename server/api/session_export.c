// GET /v1/sessions/{id}/export: the session as one file.
#include <errno.h>
#include "base/base.h"
#include "server/api/api.h"
#include "server/sessions.h"

#define PIECE_BYTES ((size_t)16 << 10)
#define OUT_BYTES_GOAL ((size_t)256 << 10)

struct state { struct session_export *file; uint64_t left_bytes; };

static enum pump pump(struct call *c)
{
    struct state *s = c->state;
    char piece[PIECE_BYTES];
    while (s->left_bytes && c->out.n < OUT_BYTES_GOAL) {
        size_t n = engine_export_read(s->file, piece, sizeof(piece));
        if (n == 0)
            return PUMP_WAIT;
        str_add(&c->out, piece, n);
        s->left_bytes -= n;
    }
    return s->left_bytes ? PUMP_WAIT : PUMP_DONE;
}

static void finish(struct call *c)
{
    struct state *s = c->state;
    engine_export_close(s->file);
}

static int run(struct call *c, struct fault *f)
{
    struct session_info info;
    struct err err = {0};
    struct state *s = arena_calloc(&c->arena, 1, sizeof(*s));
    if (app_check_open(app_of(c), f) < 0)
        return -1;
    if (!s)
        return fault_no_memory(f);
    struct model_entry *m = session_find(c, c->tail, NULL, &info, f);
    if (!m)
        return -1;
    int r = engine_export_open(&s->file, m->engine, &c->caller.salt, info.id, call_wake, c, &err);
    if (r == -EBUSY)
        return fault_set(f, ERROR_queue_full, NULL, "%s.", err.msg);
    if (r < 0)
        return session_fault(r, &err, NULL, f);
    s->left_bytes = engine_export_bytes(s->file);
    c->state = s;
    c->finish = finish;
    call_start_file(c, "application/octet-stream", s->left_bytes, pump);
    return 0;
}

void api_session_export(struct call *c)
{
    struct fault f = {0};
    if (run(c, &f) < 0)
        call_fail(c, &f);
}
