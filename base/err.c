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
    char head[ERR_MSG_MAX];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(head, sizeof(head) - sizeof(": "), fmt, ap);
    va_end(ap);
    size_t n_head = MIN((size_t)MAX(n, 0), sizeof(head) - sizeof(": ") - 1);
    memcpy(head + n_head, ": ", 2);
    n_head += 2;
    // The message moves up; what no longer fits is cut.
    memmove(err->msg + n_head, err->msg, sizeof(err->msg) - n_head);
    memcpy(err->msg, head, n_head);
    err->msg[sizeof(err->msg) - 1] = '\0';
    return err->code;
}
