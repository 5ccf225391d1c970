// What goes wrong with a request, as a client reads it: one row of errors.def, the JSON path of the
// field at fault and one sentence.
#pragma once
#include <stddef.h>
#include "base/str.h"

enum api_error {
#define API_ERROR(name, status, type, code) ERROR_##name,
#include "server/errors.def"
#undef API_ERROR
    API_ERROR_COUNT
};

struct fault {
    enum api_error error;
    char           at[64];              // path of the object being read, "" at the top level
    char           param[128];          // "" for null
    char           msg[384];
    unsigned       retry_after_s;       // 0: no Retry-After
};

// Fills *f and returns -1, so that a refusal is one statement:
//     return fault_set(f, ERROR_invalid_value, "top_p", "must be a number");
// param is put behind f->at; NULL: no field is to blame.
int fault_set(struct fault *f, enum api_error error, const char *param, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

// Memory ran out; perhaps not for the next request.
int fault_no_memory(struct fault *f);

// Says which object is being read from now on: "messages[2]", "" for the top level.
void fault_at(struct fault *f, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

unsigned    api_error_status(enum api_error error);
const char *http_status_text(unsigned status);
// Appends {"error":{...}}.
void fault_json(struct str *out, const struct fault *f);
