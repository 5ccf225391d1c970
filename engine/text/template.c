// The door to the interpreter: parse jobs, render jobs, and the variables that a template sees.
#include "engine/text/template.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "base/base.h"
#include "engine/text/jinja/builtin.h"
#include "engine/text/jinja/exec.h"
#include "engine/text/jinja/json.h"
#include "engine/text/jinja/messages.h"
#include "engine/text/utf8.h"

#define TREE_MAX_BYTES ((size_t)128 << 20)

struct chat_template {
    struct arena  arena;        // owns the tree
    struct jtree *tree;
};

struct parse_job { struct chat_template *t; const char *src; size_t n; };

static void parse(struct jx *x, void *arg)
{
    struct parse_job *j = arg;
    j->t->tree = jparse(x, j->src, j->n);
}

int template_open(struct chat_template **ret, const char *src, size_t n, struct err *err)
{
    struct jx x;
    struct chat_template *t = calloc(1, sizeof(*t));
    if (!t)
        return err_set(err, -ENOMEM, "chat template: out of memory");
    t->arena.max_bytes = TREE_MAX_BYTES;
    struct parse_job j = { t, src, n };
    int r = jx_run(&x, &t->arena, parse, &j, err);
    if (r < 0) {
        template_close(t);
        return r;
    }
    *ret = t;
    return 0;
}

void template_close(struct chat_template *t)
{
    if (!t)
        return;
    arena_reset(&t->arena);
    free(t);
}

void rendered_free(struct rendered *r)
{
    str_free(&r->text);
    str_free(&r->plain);
}

static void define(struct jexec *e, const char *name, struct jval v)
{
    struct jstr s = { .p = name, .n = strlen(name) };
    long sym = jtree_symbol(&e->x, e->tree, &s);
    if (sym >= 0)
        e->root[sym] = v;
}

static void define_text(struct jexec *e, const char *name, const char *text)
{
    if (text && !utf8_valid(text, strlen(text)))
        jx_fail_plain(&e->x, -EINVAL, "%s: not UTF-8", name);
    if (text)
        define(e, name, jtext(&e->x, text));
}

static void define_globals(struct jexec *e)
{
    for (size_t i = 0; jglobal(i); i++)
        define(e, jglobal(i)->name, (struct jval){ .kind = J_FUNCTION, .func = jglobal(i) });
}

// What the server decides, no request may override.
static void define_kwargs(struct jexec *e, const struct template_vars *v)
{
    static const char *const ours[] = { "messages", "tools", "bos_token", "eos_token",
                                        "add_generation_prompt" };
    struct jx *x = &e->x;
    if (!v->kwargs)
        return;
    struct jval kwargs = json_parse(x, v->kwargs, v->n_kwargs, "template kwargs");
    if (kwargs.kind != J_DICT)
        jx_fail_plain(x, -EINVAL, "template kwargs: not an object");
    for (size_t i = 0; i < ARRAY_LEN(ours); i++) {
        if (jdict_find_text(x, kwargs.m, ours[i]))
            jx_fail_plain(x, -EINVAL, "template kwargs: must not set %s", ours[i]);
    }
    for (size_t i = 0; i < kwargs.m->n; i++) {
        long sym = jtree_symbol(x, e->tree, kwargs.m->pair[i].key.s);
        if (sym >= 0)
            e->root[sym] = kwargs.m->pair[i].val;
    }
}

static struct jval read_tools(struct jx *x, const struct template_vars *v)
{
    if (!v->tools)
        return jnone();
    struct jval tools = json_parse(x, v->tools, v->n_tools, "tools");
    if (tools.kind != J_LIST && tools.kind != J_NONE)
        jx_fail_plain(x, -EINVAL, "tools: not an array");
    return tools;
}

static void define_all(struct jexec *e, const struct template_vars *v)
{
    define_globals(e);
    define(e, "documents", jnone());
    define_kwargs(e, v);
    define(e, "messages", jmessages_read(&e->x, v));
    define(e, "tools", read_tools(&e->x, v));
    define_text(e, "bos_token", v->bos_token);
    define_text(e, "eos_token", v->eos_token);
    define(e, "add_generation_prompt", jbool(v->add_generation_prompt));
}

struct render_job {
    const struct chat_template *t;
    const struct template_vars *v;
    struct jstr *text;
};

static void render(struct jx *x, void *arg)
{
    struct render_job *j = arg;
    struct jexec *e = jexec_of(x);
    struct jbuild out = jbuild_start(x);
    x->seed = j->t->tree->seed;
    e->tree = j->t->tree;
    e->now = j->v->now;
    e->root = jx_calloc(x, e->tree->n_symbols, sizeof(*e->root));
    e->out = &out;
    define_all(e, j->v);
    x->steps = 0;               // the budget is the template's
    jexec_body(e, e->tree->body);
    j->text = jbuild_end(&out);
}

static int deliver(const struct jstr *s, struct rendered *out, struct err *err)
{
    str_add(&out->text, s->p, s->n);
    for (size_t at = 0, next; at < s->n; at = next) {
        char plain[256];
        next = MIN(at + sizeof(plain), s->n);
        for (size_t i = at; i < next; i++)
            plain[i - at] = jstr_source(s, i) == JS_DATA;
        str_add(&out->plain, plain, next - at);
    }
    if (str_ok(&out->text) && str_ok(&out->plain))
        return 0;
    str_clear(&out->text);
    str_clear(&out->plain);
    return err_set(err, -ENOMEM, "chat template: out of memory");
}

int template_render(const struct chat_template *t, const struct template_vars *v,
                    struct rendered *out, struct err *err)
{
    struct arena arena = { .max_bytes = JX_ARENA_MAX };
    struct jexec e = {0};
    struct render_job j = { t, v, NULL };
    str_clear(&out->text);
    str_clear(&out->plain);
    int r = jx_run(&e.x, &arena, render, &j, err);
    if (r == 0)
        r = deliver(j.text, out, err);
    arena_reset(&arena);
    return r;
}
