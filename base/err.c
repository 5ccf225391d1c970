// Error codes with a message for people.
#include "base/err.h"
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include "base/base.h"

int err_set(struct err *err, int code, const char *fmt, ...)
{
    assert(code < 0);
    if (!err)
        return code;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(err->msg, sizeof(err->msg), fmt, ap);
    va_end(ap);
    err->code = code;
    return code;
}

int err_prefix(struct err *err, const char *fmt, ...)
{
    if (!err)
        return 0;
    char old[ERR_MSG_MAX];
    memcpy(old, err->msg, sizeof(old));
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(err->msg, sizeof(err->msg), fmt, ap);
    va_end(ap);
    if (n >= 0 && (size_t)n < sizeof(err->msg)) {
        size_t room = sizeof(err->msg) - (size_t)n;
        int m = snprintf(err->msg + n, room, ": %s", old);
        (void)m;                // a truncated message is still a message
    }
    return err->code;
}
