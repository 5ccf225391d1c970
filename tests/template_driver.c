// Renders templates for tests/golden/template_wild.py. Requests come on stdin, each a line of eight
// numbers (the bytes of template, messages, tools, kwargs, bos and eos, -1 where not given; then
// add_generation_prompt and the time) and those bytes; each answer is a line "<code> <bytes>" and
// the text or the message.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "engine/text/template.h"

enum { PARTS = 6 };

struct request { long n[PARTS]; char *p[PARTS]; long add_generation_prompt, now; };

static char *read_part(long n)
{
    if (n < 0)
        return NULL;
    char *p = calloc(1, (size_t)n + 1);
    if (!p || fread(p, 1, (size_t)n, stdin) != (size_t)n)
        exit(1);
    return p;
}

static int read_request(struct request *r)
{
    if (scanf("%ld %ld %ld %ld %ld %ld %ld %ld", &r->n[0], &r->n[1], &r->n[2], &r->n[3], &r->n[4],
              &r->n[5], &r->add_generation_prompt, &r->now) != 8)
        return 0;
    getchar();
    for (int i = 0; i < PARTS; i++)
        r->p[i] = read_part(r->n[i]);
    return 1;
}

static void answer(int code, const char *p, size_t n)
{
    printf("%d %zu\n", code, n);
    fwrite(p, 1, n, stdout);
    fflush(stdout);
}

int main(void)
{
    struct request r;
    struct rendered out = {0};
    struct err e = {0};
    while (read_request(&r)) {
        struct chat_template *t = NULL;
        struct template_vars v = {
            .messages = r.p[1], .n_messages = (size_t)r.n[1], .tools = r.p[2],
            .n_tools = r.p[2] ? (size_t)r.n[2] : 0, .kwargs = r.p[3],
            .n_kwargs = r.p[3] ? (size_t)r.n[3] : 0, .bos_token = r.p[4], .eos_token = r.p[5],
            .add_generation_prompt = r.add_generation_prompt, .now = r.now,
        };
        int code = template_open(&t, r.p[0], (size_t)r.n[0], &e);
        if (code == 0)
            code = template_render(t, &v, &out, &e);
        if (code == 0)
            answer(0, out.text.p ? out.text.p : "", out.text.n);
        else
            answer(code, e.msg, strlen(e.msg));
        template_close(t);
        for (int i = 0; i < PARTS; i++)
            free(r.p[i]);
    }
    rendered_free(&out);
    return 0;
}
