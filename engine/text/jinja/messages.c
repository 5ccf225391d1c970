// Roles, contents and tool calls, made uniform before a template sees them.
#include "engine/text/jinja/messages.h"
#include <errno.h>
#include "engine/text/jinja/json.h"
#include "engine/text/jinja/jstr.h"

// Parts that are all text become one string; anything else stays as it is.
static struct jval join_parts(struct jx *x, struct jval content)
{
    struct jbuild b = jbuild_start(x);
    for (size_t i = 0; i < content.l->n; i++) {
        struct jval part = content.l->v[i];
        struct jval *type = part.kind == J_DICT ? jdict_find_text(x, part.m, "type") : NULL;
        struct jval *text = part.kind == J_DICT ? jdict_find_text(x, part.m, "text") : NULL;
        if (!type || type->kind != J_STR || !jstr_is(type->s, "text") || !text ||
            text->kind != J_STR)
            return content;
        if (i)
            jbuild_add(&b, "\n", 1, JS_DATA);
        jbuild_str(&b, text->s);
    }
    return jstring(jbuild_end(&b));
}

static struct jdict *copy_dict(struct jx *x, const struct jdict *m)
{
    struct jdict *c = jdict_new(x);
    for (size_t i = 0; i < m->n; i++)
        jdict_set(x, c, m->pair[i].key, m->pair[i].val);
    return c;
}

static struct jval call_with_object(struct jx *x, struct jval call)
{
    struct jval *f = call.kind == J_DICT ? jdict_find_text(x, call.m, "function") : NULL, object;
    struct jval *arguments = f && f->kind == J_DICT ? jdict_find_text(x, f->m, "arguments") : NULL;
    if (!arguments || arguments->kind != J_STR ||
        !json_try(x, arguments->s->p, arguments->s->n, &object) || object.kind != J_DICT)
        return call;
    struct jdict *function = copy_dict(x, f->m), *c = copy_dict(x, call.m);
    jdict_set(x, function, jtext(x, "arguments"), object);
    jdict_set(x, c, jtext(x, "function"), jdictval(function));
    return jdictval(c);
}

static struct jval calls_with_objects(struct jx *x, const struct jlist *calls)
{
    struct jlist *l = jlist_new(x);
    for (size_t i = 0; i < calls->n; i++)
        jlist_add(x, l, call_with_object(x, calls->v[i]));
    return jlistval(l);
}

static struct jval normalise(struct jx *x, struct jval message, const struct template_vars *v)
{
    if (message.kind != J_DICT)
        jx_fail_plain(x, -EINVAL, "messages: an entry that is no object");
    struct jdict *m = copy_dict(x, message.m);
    struct jval *role = jdict_find_text(x, m, "role"), *content = jdict_find_text(x, m, "content");
    struct jval *calls = jdict_find_text(x, m, "tool_calls");
    if (role && role->kind == J_STR && jstr_is(role->s, "developer"))
        *role = jstring(jstr_copy(x, "system", 6, JS_DATA));
    if (v->arguments_as_objects && calls && calls->kind == J_LIST)
        *calls = calls_with_objects(x, calls->l);
    if (!content)               // last: it may move the pairs
        jdict_set(x, m, jtext(x, "content"), jnone());
    else if (content->kind == J_LIST)
        *content = join_parts(x, *content);
    return jdictval(m);
}

struct jval jmessages_read(struct jx *x, const struct template_vars *v)
{
    struct jval list = json_parse(x, v->messages, v->n_messages, "messages");
    if (list.kind != J_LIST)
        jx_fail_plain(x, -EINVAL, "messages: not an array");
    struct jlist *l = jlist_new(x);
    for (size_t i = 0; i < list.l->n; i++)
        jlist_add(x, l, normalise(x, list.l->v[i], v));
    return jlistval(l);
}
