// Generation behind an endpoint: several streams of the engine become one answer. Dialects only
// encode what comes out.
#pragma once
#include "server/app.h"
#include "server/request.h"
#include "server/tools.h"

struct choice {
    uint32_t       index, prompt;       // in the answer; which prompt it goes on from
    struct stream *stream;              // NULL once closed
    bool           done;
    enum finish_reason reason;
    struct usage   usage;
    uint64_t       last_ns;             // of the last token
    // For whole answers, and what a dialect has to carry from delta to delta.
    struct str     text, logprobs, top_logprobs, offsets, calls;
    uint32_t       n_logprobs, n_calls;
    size_t         n_chars;             // of the text so far, for text_offset
    struct tool_parser tools;
};

struct gen_prompt {
    struct tokens tokens;
    const char   *text; size_t n_text;  // for echo
    bool          bos_added;            // the first token stands for none of the text
};

struct gen;
struct gen_format {
    const char *prompt;                                 // the field that the prompt came in
    void (*begin)(struct gen *g);                       // streams: before any delta; may be NULL
    void (*delta)(struct gen *g, struct choice *c, const struct delta *d);  // TEXT and PROMPT
    void (*choice_end)(struct gen *g, struct choice *c);
    void (*end)(struct gen *g);                         // all choices ended
};

struct gen {
    struct call  *call;
    struct app   *app;
    struct params p;
    const struct gen_format *format;
    const struct gen_prompt *prompt; uint32_t n_prompts;
    struct choice *choice; uint32_t n_choices, n_done;
    char          id[40];
    int64_t       created_s;
    uint64_t      submit_ns;
    struct str    head;                 // of each event: what never changes; owned
    struct tool_names tools;            // n > 0: calls are looked for
};

// Submits every prompt p.n times and lets the call go on by itself. What `prompt` and `p` point to
// must live in the call's arena or longer; tokens are freed here, also on failure.
// Returns 0 or -1, f filled; then the session of `p` is still the caller's to give back.
int gen_start(struct call *c, const struct params *p, const struct gen_format *format,
              const char *id_prefix, struct gen_prompt *prompt, uint32_t n_prompts,
              struct tool_names tools, struct fault *f);

// "usage":{...} of all choices.
void gen_put_usage(const struct gen *g, struct str *out);
const char *gen_finish_name(const struct choice *c);
