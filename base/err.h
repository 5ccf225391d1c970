// The one error form: a function that can fail returns 0 or a negative errno; where a human must
// read the reason it takes a last parameter `struct err *`, which may be NULL.
#pragma once

#define ERR_MSG_MAX 512

struct err {
    int  code;                  // negative errno, 0 while nothing failed
    char msg[ERR_MSG_MAX];      // one line, no trailing full stop
};

// Fills *err (when not NULL) and returns `code`, so that a failure is one statement:
//     return err_set(err, -EINVAL, "tensor %s: %u dimensions", name, n);
int err_set(struct err *err, int code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

// Puts "<text>: " before the message that is there, keeping the code. Returns err's code.
int err_prefix(struct err *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
