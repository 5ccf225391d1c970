// Chat templates: the Jinja that GGUF files carry, interpreted with bounds.
//
// Rendering follows transformers (jinja2 with trim_blocks, lstrip_blocks, loop controls, generation
// blocks, tojson without escaping non-ASCII). A template comes from a file that strangers made, so
// steps, output bytes, nesting and memory are limited.
// Thread-safety: immutable after template_open; rendered from any thread.
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>
#include "base/err.h"
#include "base/str.h"

struct chat_template;

// Parses src[0..n). Returns 0, -EINVAL (syntax; err has the line), -ENOMEM.
int  template_open(struct chat_template **ret, const char *src, size_t n, struct err *err);
void template_close(struct chat_template *t);           // NULL is fine

struct template_vars {
    // JSON text as the client sent it; key order and number spelling are kept.
    const char *messages;  size_t n_messages;   // an array; required
    const char *tools;     size_t n_tools;      // an array; NULL: no tools
    const char *kwargs;    size_t n_kwargs;     // an object of further variables; NULL: none
    const char *bos_token, *eos_token;          // "" when the vocabulary has none
    bool        add_generation_prompt;
    time_t      now;                            // for strftime_now
    // Tool call arguments reach the template as the client sent them: OpenAI's clients send a
    // string of JSON. With this set a string that is a JSON object becomes that object, which
    // templates made for transformers' own shape need.
    bool        arguments_as_objects;
};

struct rendered {
    struct str text;
    struct str plain;       // (text.n) 1 where the byte came from the messages or tools, else 0
};
void rendered_free(struct rendered *r);

// Messages are put into the shape templates expect first: `developer` becomes `system`, text parts
// are joined with a newline, absent content becomes null.
// Returns 0, -EINVAL (bad JSON, or the template raised an exception: err is its message),
// -E2BIG (a limit of the interpreter), -ENOMEM. out is emptied first.
int template_render(const struct chat_template *t, const struct template_vars *v,
                    struct rendered *out, struct err *err);
