// The endpoints: one function each, api_NAME in api/NAME.c, and what they share.
#pragma once
#include "server/app.h"
#include "server/gen.h"
#include "server/json.h"
#include "server/sse.h"

#define ROUTE(name, method, path, auth, work, body, listeners) void api_##name(struct call *c);
#include "server/routes.def"
#undef ROUTE

// A request whose body was parsed and whose model was found; init and finish bracket an endpoint.
struct api_request {
    struct json_doc    *doc;
    const struct json  *root;
    struct model_entry *model;
    struct fault        fault;
};
// Returns 0, or -1: the call was answered with the reason.
int  api_begin(struct api_request *r, struct call *c);
// Answers with r->fault if `result` is negative, and gives the document back.
void api_end(struct api_request *r, struct call *c, int result);

// Refuses a text that cannot fit the context, before the work of finding its tokens. param: the
// field that it came in. Returns 0 or -1.
int  api_check_text(const struct model_entry *m, size_t n_bytes, const char *param,
                    struct fault *f);

// One model as /v1/models tells it.
void api_put_model(struct str *out, const struct model_entry *m, const char *id);

// {"token":...,"logprob":...,"bytes":[...]} without the closing brace.
void api_put_token(struct str *out, const struct tokenizer *t, int32_t id, float logprob);
double api_logprob(float x);            // what JSON can hold
