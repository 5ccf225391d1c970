// Tool calls in generated text: found wherever a piece ends, and text otherwise.
#include "server/tools.h"
#include "tests/test.h"

struct got { struct str text, calls; };

static void text(void *ctx, const char *p, size_t n)
{
    str_add(&((struct got *)ctx)->text, p, n);
}

static void call(void *ctx, unsigned index, const char *name, const char *args, size_t n)
{
    str_printf(&((struct got *)ctx)->calls, "%u:%s(%.*s);", index, name, (int)n, args);
}

static bool offered(void *ctx, const char *name)
{
    (void)ctx;
    return strcmp(name, "f") == 0;
}

static const char *or_empty(const struct str *s)
{
    return s->p ? s->p : "";
}

// Feeds `in` in pieces of every length and compares.
static void expect(const char *in, const char *want_text, const char *want_calls)
{
    size_t n = strlen(in);
    for (size_t piece = 1; piece <= n; piece++) {
        struct got g = {0};
        struct tool_parser t = {0};
        struct tool_sink sink = { text, call, offered, &g };
        for (size_t i = 0; i < n; i += piece)
            tool_parser_push(&t, in + i, piece < n - i ? piece : n - i, &sink);
        tool_parser_end(&t, &sink);
        if (strcmp(or_empty(&g.text), want_text) != 0 || strcmp(or_empty(&g.calls),
                                                                want_calls) != 0)
            TEST_FAIL("pieces of %zu: text \"%s\" calls \"%s\"", piece, or_empty(&g.text),
                      or_empty(&g.calls));
        str_free(&g.text);
        str_free(&g.calls);
        tool_parser_free(&t);
    }
}

TEST(plain_text)
{
    expect("Hello <b>world</b> \n", "Hello <b>world</b> \n", "");
    expect("a <tool_cal", "a <tool_cal", "");
    expect("<tool_callx>", "<tool_callx>", "");
}

TEST(calls)
{
    expect("<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": [1, \"}\"]}}\n</tool_call>", "",
           "0:f({\"a\": [1, \"}\"]});");
    expect("Sure.\n\n<tool_call>{\"name\":\"f\",\"arguments\":{}}</tool_call>\n"
           "<tool_call>{\"arguments\":{\"x\":1},\"name\":\"g\"}</tool_call>\n",
           "Sure.", "0:f({});1:g({\"x\":1});");
    expect("<tool_call>{\"name\":\"f\"}</tool_call>", "", "0:f({});");
    expect("<tool_call>{\"name\":\"f\",\"arguments\":\"{\\\"a\\\":1}\"}</tool_call>", "",
           "0:f({\"a\":1});");
}

TEST(bare_objects)
{
    expect(" {\"name\": \"f\", \"arguments\": {\"a\":1}}\n", "", "0:f({\"a\":1});");
    expect("{\"name\":\"unknown\",\"arguments\":{}}", "{\"name\":\"unknown\",\"arguments\":{}}",
           "");
    expect("{\"name\":\"f\",\"arguments\":{}} and", "{\"name\":\"f\",\"arguments\":{}} and", "");
    expect("{\"nam", "{\"nam", "");
    expect("{ }", "{ }", "");
    expect("  ", "  ", "");
    expect("say {\"name\":\"f\"}", "say {\"name\":\"f\"}", "");
}

TEST(unclosed)
{
    expect("<tool_call>{\"name\":\"f\",\"arguments\":{\"a\":1}}", "", "0:f({\"a\":1});");
    expect("<tool_call>{\"name\":\"f\",\"argu", "<tool_call>{\"name\":\"f\",\"argu", "");
    expect("x<tool_call>", "x<tool_call>", "");
}

TEST(malformed)
{
    expect("a <tool_call>{nope}</tool_call> b", "a<tool_call>{nope}</tool_call> b", "");
    expect("<tool_call>[1]</tool_call>", "<tool_call>[1]</tool_call>", "");
    expect("<tool_call>{\"name\":1}</tool_call>", "<tool_call>{\"name\":1}</tool_call>", "");
    expect("<tool_call>{\"name\":\"f\",\"arguments\":3}</tool_call>",
           "<tool_call>{\"name\":\"f\",\"arguments\":3}</tool_call>", "");
}

TEST_MAIN
