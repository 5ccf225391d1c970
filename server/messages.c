// The conversation of a chat request: checked here, handed on as the text that the client wrote.
#include <stdio.h>
#include <string.h>
#include "base/base.h"
#include "server/request.h"

// ---- messages -----------------------------------------------------------------------------------

enum role { ROLE_SYSTEM, ROLE_DEVELOPER, ROLE_USER, ROLE_ASSISTANT, ROLE_TOOL, ROLE_COUNT };
static const char *const roles[ROLE_COUNT] = { "system", "developer", "user", "assistant", "tool" };

static int read_role(const struct json *m, enum role *ret, struct fault *f)
{
    const char *name = NULL;
    int r = json_get_text(m, "role", &name, f);
    if (r < 0)
        return -1;
    if (r == 0)
        return fault_set(f, ERROR_missing_field, "role", "a message needs a 'role'");
    for (int i = 0; i < ROLE_COUNT; i++) {
        if (strcmp(name, roles[i]) == 0) {
            *ret = (enum role)i;
            return 0;
        }
    }
    return fault_set(f, ERROR_invalid_value, "role", "the role '%.40s' is unknown", name);
}

static int check_part(const struct json *part, unsigned i, struct fault *f)
{
    const char *type = NULL, *text = NULL;
    char path[32];
    snprintf(path, sizeof(path), "content[%u]", i);
    if (!json_is_object(part))
        return fault_set(f, ERROR_invalid_value, path, "a part of 'content' must be an object");
    const struct json *t = json_get(part, "type"), *v = json_get(part, "text");
    type = t && json_is_string(t) ? json_text(t) : NULL;
    text = v && json_is_string(v) ? json_text(v) : NULL;
    if (!type)
        return fault_set(f, ERROR_missing_field, path, "a part of 'content' needs a 'type'");
    if (strcmp(type, "text") != 0)
        return fault_set(f, ERROR_unsupported, path, "parts of the type '%.40s' are not supported",
                         type);
    if (!text)
        return fault_set(f, ERROR_missing_field, path, "a text part needs a 'text'");
    return 0;
}

static int check_content(const struct json *m, enum role role, struct fault *f)
{
    const struct json *v = json_get(m, "content");
    unsigned i = 0;
    if (!v && role == ROLE_ASSISTANT &&
        (json_get(m, "tool_calls") || json_get(m, "refusal")))
        return 0;
    if (!v)
        return fault_set(f, ERROR_missing_field, "content",
                         "a message of the role '%s' needs 'content'",
                         roles[role]);
    if (json_is_string(v))
        return 0;
    if (!json_is_array(v) || !json_first(v))
        return fault_set(f, ERROR_invalid_value, "content",
                         "'content' must be a string or a list of text parts");
    for (const struct json *part = json_first(v); part; part = json_next(part), i++) {
        if (check_part(part, i, f) < 0)
            return -1;
    }
    return 0;
}

static int check_call(const struct json *call, unsigned i, struct fault *f)
{
    char path[48];
    const struct json *fn = json_is_object(call) ? json_get(call, "function") : NULL;
    snprintf(path, sizeof(path), "tool_calls[%u].function", i);
    if (!fn || !json_is_object(fn))
        return fault_set(f, ERROR_invalid_value, path, "a tool call needs a 'function' object");
    const struct json *name = json_get(fn, "name"), *args = json_get(fn, "arguments");
    if (!name || !json_is_string(name) || !*json_text(name))
        return fault_set(f, ERROR_invalid_value, path, "a function needs a 'name'");
    if (args && !json_is_string(args) && !json_is_object(args))
        return fault_set(f, ERROR_invalid_value, path, "'arguments' must be a string");
    return 0;
}

static int check_calls(const struct json *m, enum role role, struct fault *f)
{
    const struct json *calls = NULL;
    unsigned i = 0;
    int r = json_get_array(m, "tool_calls", &calls, f);
    if (r <= 0)
        return r;
    if (role != ROLE_ASSISTANT)
        return fault_set(f, ERROR_invalid_value, "tool_calls", "only the assistant calls tools");
    if (json_count(calls) > TOOLS_MAX)
        return fault_set(f, ERROR_invalid_value, "tool_calls", "more than %d tool calls",
                         TOOLS_MAX);
    for (const struct json *c = json_first(calls); c; c = json_next(c), i++) {
        if (check_call(c, i, f) < 0)
            return -1;
    }
    return 0;
}

static int check_message(const struct json *m, struct fault *f)
{
    enum role role = ROLE_USER;
    const char *text;
    if (!json_is_object(m))
        return fault_set(f, ERROR_invalid_value, "", "a message must be an object");
    if (read_role(m, &role, f) < 0 || check_content(m, role, f) < 0 || check_calls(m, role,
                                                                                   f) < 0 ||
        json_get_text(m, "name", &text, f) < 0)
        return -1;
    int r = json_get_text(m, "tool_call_id", &text, f);
    if (r == 0 && role == ROLE_TOOL && !json_get(m, "name"))
        return fault_set(f, ERROR_missing_field, "tool_call_id",
                         "a message of the role 'tool' needs a 'tool_call_id'");
    return MIN(r, 0);
}

static int check_messages(const struct json *list, struct fault *f)
{
    unsigned i = 0;
    if (!json_first(list))
        return fault_set(f, ERROR_invalid_value, "messages", "'messages' must not be empty");
    if (json_count(list) > MESSAGES_MAX)
        return fault_set(f, ERROR_invalid_value, "messages", "more than %d messages", MESSAGES_MAX);
    for (const struct json *m = json_first(list); m; m = json_next(m), i++) {
        fault_at(f, "messages[%u]", i);
        if (check_message(m, f) < 0)
            return -1;
    }
    fault_at(f, "%s", "");
    return 0;
}

// ---- tools --------------------------------------------------------------------------------------

static int check_tool(const struct json *tool, struct fault *f)
{
    const char *type = NULL, *name = NULL;
    const struct json *fn = NULL, *schema = NULL;
    if (!json_is_object(tool))
        return fault_set(f, ERROR_invalid_value, "", "a tool must be an object");
    if (json_get_text(tool, "type", &type, f) < 0 || json_get_object(tool, "function", &fn, f) < 0)
        return -1;
    if (!type || strcmp(type, "function") != 0)
        return fault_set(f, ERROR_unsupported, "type",
                         "only tools of the type 'function' are known");
    if (!fn)
        return fault_set(f, ERROR_missing_field, "function", "a tool needs a 'function'");
    if (json_get_text(fn, "name", &name, f) < 0 ||
        json_get_object(fn, "parameters", &schema, f) < 0)
        return -1;
    if (!name || !*name || strlen(name) > 128)
        return fault_set(f, ERROR_invalid_value, "function.name",
                         "a function needs a 'name' of 1 to 128 bytes");
    return 0;
}

static int check_tools(const struct json *list, struct fault *f)
{
    unsigned i = 0;
    if (json_count(list) > TOOLS_MAX)
        return fault_set(f, ERROR_invalid_value, "tools", "more than %d tools", TOOLS_MAX);
    for (const struct json *t = json_first(list); t; t = json_next(t), i++) {
        fault_at(f, "tools[%u]", i);
        if (check_tool(t, f) < 0)
            return -1;
    }
    fault_at(f, "%s", "");
    return 0;
}

// Returns 1: calls are allowed; 0: not; -1: refused.
static int read_tool_choice(const struct json *root, bool has_tools, struct fault *f)
{
    const struct json *v = json_get(root, "tool_choice");
    const char *name = v && json_is_string(v) ? json_text(v) : NULL;
    if (!v || (name && strcmp(name, "auto") == 0))
        return has_tools;
    if (name && strcmp(name, "none") == 0)
        return 0;
    if (name && strcmp(name, "required") != 0)
        return fault_set(f, ERROR_invalid_value, "tool_choice", "'%.40s' is no tool_choice", name);
    if (!name && !json_is_object(v))
        return fault_set(f, ERROR_invalid_value, "tool_choice",
                         "'tool_choice' must be a string or an object");
    return fault_set(f, ERROR_unsupported, "tool_choice",
                     "'tool_choice' can be 'none' or 'auto'; calls are not enforced");
}

// How many calls an answer holds is the model's choice.
static int refuse_single_calls(const struct json *root, struct fault *f)
{
    bool parallel = true;
    if (json_get_bool(root, "parallel_tool_calls", &parallel, f) < 0)
        return -1;
    return parallel ? 0 : fault_set(f, ERROR_unsupported, "parallel_tool_calls",
                                    "'parallel_tool_calls': false is not supported");
}

// Variables of a template may be scalars only: they choose, they do not bring content.
static int check_kwargs(const struct json *o, struct fault *f)
{
    static const char *const taken[] = { "messages", "tools", "add_generation_prompt", "bos_token",
                                         "eos_token" };
    for (const struct json *v = json_first(o); v; v = json_next(v)) {
        if (json_is_object(v) || json_is_array(v))
            return fault_set(f, ERROR_invalid_value, "chat_template_kwargs",
                             "'chat_template_kwargs' may hold only scalars");
        for (size_t i = 0; i < ARRAY_LEN(taken); i++) {
            if (strcmp(json_key(v), taken[i]) == 0)
                return fault_set(f, ERROR_invalid_value, "chat_template_kwargs",
                                 "'%s' cannot be set this way", taken[i]);
        }
    }
    return 0;
}

static int copy_names(const struct json *tools, struct tool_names *ret, struct arena *a,
                      struct fault *f)
{
    ret->name = arena_calloc(a, json_count(tools), sizeof(*ret->name));
    for (const struct json *t = json_first(tools); t && ret->name; t = json_next(t)) {
        const char *name = json_text(json_get(json_get(t, "function"), "name"));
        ret->name[ret->n] = arena_strdup(a, name);
        if (!ret->name[ret->n++])
            ret->name = NULL;
    }
    return ret->name ? 0 : fault_no_memory(f);
}

int chat_read(struct chat *ret, const struct json_doc *doc, struct arena *a, struct fault *f)
{
    const struct json *root = json_root(doc), *messages = NULL, *tools = NULL, *kwargs = NULL;
    struct chat c = {0};
    int r = json_get_array(root, "messages", &messages, f);
    if (r == 0)
        fault_set(f, ERROR_missing_field, "messages", "'messages' is missing");
    if (r <= 0 || check_messages(messages, f) < 0)
        return -1;
    if (json_get_array(root, "tools", &tools, f) < 0 || (tools && check_tools(tools, f) < 0) ||
        json_get_object(root, "chat_template_kwargs", &kwargs, f) < 0 ||
        (kwargs && check_kwargs(kwargs, f) < 0))
        return -1;
    bool has_tools = tools && json_first(tools);
    r = read_tool_choice(root, has_tools, f);
    if (r < 0 || (r > 0 && refuse_single_calls(root, f) < 0))
        return -1;
    c.uses_tools = r > 0;
    c.messages = json_raw(doc, "messages");
    if (c.uses_tools)
        c.tools = json_raw(doc, "tools");
    if (c.uses_tools && copy_names(tools, &c.names, a, f) < 0)
        return -1;
    if (kwargs)
        c.kwargs = json_raw(doc, "chat_template_kwargs");
    if (!c.messages.p || (c.uses_tools && !c.tools.p))
        return fault_set(f, ERROR_invalid_json, "messages", "keys must be written without escapes");
    *ret = c;
    return 0;
}
