// Tool calls in generated text, as Qwen-style templates ask for them:
//     <tool_call>
//     {"name": "f", "arguments": {...}}
//     </tool_call>
// Small models forget the tags: an answer that is nothing but such an object, and names a tool that
// was offered, is a call too.
// The parser takes text in any pieces. What could still become a call is held back; what turns out
// to be none comes out as text again. White space around calls belongs to no answer.
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include "base/str.h"

#define TOOL_CALL_BYTES_MAX ((size_t)1 << 20)

struct tool_sink {
    void (*text)(void *ctx, const char *p, size_t n);
    // arguments: the JSON text of an object, as the model wrote it
    void (*call)(void *ctx, unsigned index, const char *name, const char *arguments, size_t n);
    bool (*offered)(void *ctx, const char *name);   // is there such a tool?
    void *ctx;
};

struct tool_parser {
    struct str held;                    // owned; undecided text, or the call's body
    bool       inside;                  // behind an opening tag
    bool       begun;                   // the answer is not a bare object
    unsigned   n_calls;
};

void tool_parser_free(struct tool_parser *t);
void tool_parser_push(struct tool_parser *t, const char *p, size_t n, const struct tool_sink *sink);
// The text ended: a call whose closing tag never came still counts if it is whole.
void tool_parser_end(struct tool_parser *t, const struct tool_sink *sink);
