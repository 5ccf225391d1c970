// map, select, reject and their attr forms: filters that apply another filter or test to each item.
#include <errno.h>
#include "base/base.h"
#include "engine/text/jinja/builtin.h"
#include "engine/text/jinja/jstr.h"

static const struct jval *kwarg(const struct jargs *args, const char *name)
{
    for (size_t i = 0; i < args->n_kw; i++) {
        if (jstr_is(args->kw[i].name, name))
            return &args->kw[i].val;
    }
    return NULL;
}

static struct jargs rest(const struct jargs *args, size_t from)
{
    struct jargs r = *args;
    r.pos += from;
    r.n_pos -= from;
    return r;
}

static const struct jfunc *named(struct jx *x, struct jval name, const char *what,
                                 const struct jfunc *(*find)(const struct jstr *))
{
    const struct jfunc *f = find(jneed_str(x, name, what));
    if (!f)
        jx_fail(x, -EINVAL, "no %s named '%s'", what, jstr_brief(x, name.s));
    return f;
}

static void map_attribute(struct jx *x, struct jval v, const struct jargs *args, struct jlist *out)
{
    const struct jval *path = kwarg(args, "attribute"), *fallback = kwarg(args, "default");
    struct jval item;
    if (args->n_kw != 1u + (fallback != NULL))
        jx_fail(x, -EINVAL, "map got an argument it does not know");
    for (struct jiter it = jiter_start(x, v); jiter_next(x, &it, &item);)
        jlist_add(x, out, jpath(x, item, *path, fallback ? *fallback : jnone()));
}

static struct jval f_map(struct jx *x, struct jval v, const struct jargs *args)
{
    struct jlist *out = jlist_new(x);
    struct jval item;
    if (!jtruth(v))
        return jgenerator(x, out);
    if (args->n_pos == 0 && kwarg(args, "attribute")) {
        map_attribute(x, v, args, out);
        return jgenerator(x, out);
    }
    if (args->n_pos == 0)
        jx_fail(x, -EINVAL, "map requires a filter argument");
    const struct jfunc *f = named(x, args->pos[0], "filter", jfilter_find);
    struct jargs more = rest(args, 1);
    for (struct jiter it = jiter_start(x, v); jiter_next(x, &it, &item);)
        jlist_add(x, out, jinvoke(x, f, item, &more));
    return jgenerator(x, out);
}

static struct jval pick(struct jx *x, struct jval v, const struct jargs *args, bool want,
                        bool by_attr)
{
    struct jlist *out = jlist_new(x);
    struct jval item;
    if (!jtruth(v))
        return jgenerator(x, out);
    if (args->n_pos < by_attr)
        jx_fail(x, -EINVAL, "missing parameter for attribute name");
    const struct jfunc *test = NULL;
    struct jargs more = rest(args, by_attr);
    if (more.n_pos) {
        test = named(x, more.pos[0], "test", jtest_find);
        more = rest(&more, 1);
    }
    for (struct jiter it = jiter_start(x, v); jiter_next(x, &it, &item);) {
        struct jval of = by_attr ? jpath(x, item, args->pos[0], jnone()) : item;
        if (jtruth(test ? jinvoke(x, test, of, &more) : of) == want)
            jlist_add(x, out, item);
    }
    return jgenerator(x, out);
}

static struct jval f_select(struct jx *x, struct jval v, const struct jargs *args)
{
    return pick(x, v, args, true, false);
}

static struct jval f_reject(struct jx *x, struct jval v, const struct jargs *args)
{
    return pick(x, v, args, false, false);
}

static struct jval f_selectattr(struct jx *x, struct jval v, const struct jargs *args)
{
    return pick(x, v, args, true, true);
}

static struct jval f_rejectattr(struct jx *x, struct jval v, const struct jargs *args)
{
    return pick(x, v, args, false, true);
}

const struct jfunc jfilters_pick[] = {
    { "map", NULL, NULL, f_map },
    { "select", NULL, NULL, f_select },
    { "reject", NULL, NULL, f_reject },
    { "selectattr", NULL, NULL, f_selectattr },
    { "rejectattr", NULL, NULL, f_rejectattr },
    { NULL },
};
