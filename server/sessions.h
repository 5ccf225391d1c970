// Sessions as endpoints deal with them: those of whoever calls, over all models.
#pragma once
#include "server/app.h"
#include "server/request.h"

// What went wrong in the engine, as a client reads it. Returns -1.
int session_fault(int code, const struct err *err, const char *param, struct fault *f);
// The model that has the session, and how it is. Returns NULL with f filled.
struct model_entry *session_find(struct call *c, const char *id, const char *param,
                                 struct session_info *ret, struct fault *f);
// As JSON.
void session_put(struct str *out, const struct model_entry *m, const struct session_info *i);

// Takes the session that the parameters name, if they do. It is the request's until it is
// submitted; who does not come so far gives it back. Its attention is that of its text, unless the
// request names one. Returns 0 or -1, f filled.
int  session_take(struct params *p, struct call *c, struct fault *f);
void session_drop(struct params *p);
// Puts the session's text before the tokens. Returns 0 or -1, f filled.
int  session_prepend(const struct params *p, struct tokens *tokens, struct fault *f);
