// Server-sent events.
#pragma once
#include "base/str.h"

// One event is sse_begin, one line of JSON, sse_end.
static inline void sse_begin(struct str *out)
{
    str_puts(out, "data: ");
}

static inline void sse_end(struct str *out)
{
    str_puts(out, "\n\n");
}

static inline void sse_done(struct str *out)
{
    str_puts(out, "data: [DONE]\n\n");
}
