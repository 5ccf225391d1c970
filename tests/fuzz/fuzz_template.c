// Fuzzes the chat template interpreter: template, messages and kwargs, separated by NULs. Whatever
// the bytes are, rendering ends with a text and a mask of the same length, or with a code and a
// message.
#include <errno.h>
#include <string.h>
#include "base/base.h"
#include "engine/text/template.h"

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);

static const char usual[] = "[{\"role\":\"system\",\"content\":\"S\"},{\"role\":\"user\","
                            "\"content\":\" \xc3\xa4 <|x|>\\n\"},"
                            "{\"role\":\"assistant\",\"tool_calls\":[{\"function\":{\"name\":\"f\","
                            "\"arguments\":\"{\\\"a\\\":1.5}\"}}]}]";

// The bytes up to the next NUL; NULL where there are none left.
static const char *part(const char **p, const char *end, size_t *n)
{
    const char *from = *p;
    if (from >= end)
        return NULL;
    const char *stop = memchr(from, '\0', (size_t)(end - from));
    *n = (size_t)((stop ? stop : end) - from);
    *p = stop ? stop + 1 : end;
    return from;
}

static void render(const struct chat_template *t, const struct template_vars *v)
{
    struct rendered out = {0};
    struct err err = {0};
    int r = template_render(t, v, &out, &err);
    assert(r == 0 || r == -EINVAL || r == -E2BIG);
    assert(r == 0 || (err.msg[0] && out.text.n == 0));
    assert(out.text.n == out.plain.n);
    for (size_t i = 0; i < out.plain.n; i++)
        assert(out.plain.p[i] == 0 || out.plain.p[i] == 1);
    rendered_free(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    const char *p = (const char *)bytes, *end = p + size;
    size_t n = 0;
    const char *src = part(&p, end, &n);
    struct chat_template *t = NULL;
    struct err err = {0};
    struct template_vars v = {
        .bos_token = "<s>", .eos_token = "</s>", .arguments_as_objects = true};
    int r = template_open(&t, src ? src : "", n, &err);
    assert(r == 0 || ((r == -EINVAL || r == -E2BIG) && err.msg[0]));
    if (r < 0)
        return 0;
    v.messages = part(&p, end, &v.n_messages);
    v.kwargs = part(&p, end, &v.n_kwargs);
    if (v.messages)
        render(t, &v);
    v = (struct template_vars){ .messages = usual, .n_messages = sizeof(usual) - 1, .tools = usual,
                                .n_tools = sizeof(usual) - 1, .add_generation_prompt = true };
    render(t, &v);
    template_close(t);
    return 0;
}
