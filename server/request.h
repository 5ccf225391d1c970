// The neutral part of generation requests: sampling, limits, attention, and the checks that every
// dialect shares. Ranges are refused, not clamped; what is known but not supported is refused by
// name.
#pragma once
#include "base/arena.h"
#include "engine/engine.h"
#include "server/errors.h"
#include "server/json.h"
#include "server/models.h"

#define CHOICES_MAX 8                   // n
#define PROMPTS_MAX 128                 // of one completions request
#define MESSAGES_MAX 4096
#define TOOLS_MAX 128
#define COMPLETION_TOKENS_DEFAULT 16

enum dialect { DIALECT_CHAT, DIALECT_COMPLETION };

struct params {
    struct model_entry *model;
    struct gen_params   gen;            // arrays are in the arena
    struct attn_policy  attn;
    bool                has_attn;       // else the model's default
    uint32_t            n;              // choices of a prompt
    bool                stream, include_usage;
    bool                echo;           // completions
    const char         *cache_salt;     // NULL: none; in the arena
    const char         *session_id;     // NULL: none; in the arena
    bool                append;         // the prompt stands behind the session's text
    struct session     *session;        // see server/sessions.h
    uint32_t            session_tokens; // of its text
};

// Reads everything but the prompt. model was looked up by the caller. Returns 0 or -1, f filled.
int params_read(struct params *ret, enum dialect dialect, const struct json_doc *doc,
                struct model_entry *model, struct arena *a, struct fault *f);
// The model that a request names. Returns NULL with f filled.
struct model_entry *request_model(struct models *m, const struct json *root, struct fault *f);
// Parses a body into a document whose root is an object. Returns 0 or -1, f filled.
int request_json(struct json_doc **ret, const struct str *body, struct fault *f);

// ---- chat ---------------------------------------------------------------------------------------

struct tool_names { const char **name; uint32_t n; };

struct chat {
    struct json_span messages, tools, kwargs;   // texts as the client wrote them; tools may be none
    bool             uses_tools;        // the answer may hold tool calls
    struct tool_names names;            // of those that it may call; in the arena
};
int chat_read(struct chat *ret, const struct json_doc *doc, struct arena *a, struct fault *f);
