// The catalogue of errors.def and its JSON form.
#include "server/errors.h"
#include <stdarg.h>
#include <stdio.h>
#include "base/base.h"
#include "server/json.h"

static const struct api_error_row {
    unsigned    status;
    const char *type, *code;
} rows[API_ERROR_COUNT] = {
#define API_ERROR(name, status, type, code) [ERROR_##name] = { status, type, code },
#include "server/errors.def"
#undef API_ERROR
};

int fault_set(struct fault *f, enum api_error error, const char *param, const char *fmt, ...)
{
    f->error = error;
    f->param[0] = '\0';
    if (param) {
        const char *dot = f->at[0] && param[0] && param[0] != '[' ? "." : "";
        snprintf(f->param, sizeof(f->param), "%s%s%s", f->at, dot, param);
    }
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(f->msg, sizeof(f->msg), fmt, ap);
    va_end(ap);
    return -1;
}

int fault_no_memory(struct fault *f)
{
    return fault_set(f, ERROR_overloaded, NULL, "Out of memory.");
}

void fault_at(struct fault *f, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(f->at, sizeof(f->at), fmt, ap);
    va_end(ap);
}

unsigned api_error_status(enum api_error error)
{
    assert(error < API_ERROR_COUNT);
    return rows[error].status;
}

const char *http_status_text(unsigned status)
{
    switch (status) {
    case 400: return "Bad Request";
    case 403: return "Forbidden";
    case 413: return "Content Too Large";
    case 414: return "URI Too Long";
    case 429: return "Too Many Requests";
    case 431: return "Request Header Fields Too Large";
    case 503: return "Service Unavailable";
    case 505: return "HTTP Version Not Supported";
    }
    return "Error";
}

static void put_string_or_null(struct str *out, const char *s)
{
    if (s && *s)
        json_put_text(out, s);
    else
        str_puts(out, "null");
}

void fault_json(struct str *out, const struct fault *f)
{
    const struct api_error_row *row = &rows[f->error];
    str_puts(out, "{\"error\":{\"message\":");
    json_put_text(out, f->msg);
    str_puts(out, ",\"type\":");
    json_put_text(out, row->type);
    str_puts(out, ",\"param\":");
    put_string_or_null(out, f->param);
    str_puts(out, ",\"code\":");
    put_string_or_null(out, row->code);
    str_puts(out, "}}");
}
