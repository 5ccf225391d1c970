// Methods of dict, list, tuple, range and of the loop variable.
#include <errno.h>
#include "engine/text/jinja/builtin.h"
#include "engine/text/jinja/jstr.h"

static struct jval d_get(struct jx *x, struct jval v, const struct jval *arg)
{
    if (!jhashable(x, arg[0]))
        jx_fail(x, -EINVAL, "unhashable type: '%s'", jtype(arg[0]));
    const struct jval *hit = jdict_find(x, v.m, arg[0]);
    return hit ? *hit : jgiven(arg[1]) ? arg[1] : jnone();
}

static struct jval d_items(struct jx *x, struct jval v, const struct jval *arg)
{
    (void)x;
    (void)arg;
    return (struct jval){ .kind = J_ITEMS, .m = v.m };
}

static struct jval d_keys(struct jx *x, struct jval v, const struct jval *arg)
{
    (void)x;
    (void)arg;
    return (struct jval){ .kind = J_KEYS, .m = v.m };
}

static struct jval d_values(struct jx *x, struct jval v, const struct jval *arg)
{
    (void)x;
    (void)arg;
    return (struct jval){ .kind = J_VALUES, .m = v.m };
}

// Nothing changes a list or a dict: the copy is the thing itself.
static struct jval copy(struct jx *x, struct jval v, const struct jval *arg)
{
    (void)x;
    (void)arg;
    return v;
}

const struct jfunc jmethods_dict[] = {
    { "get", "key! default", d_get, NULL },
    { "items", "", d_items, NULL },
    { "keys", "", d_keys, NULL },
    { "values", "", d_values, NULL },
    { "copy", "", copy, NULL },
    { NULL },
};

static struct jval l_index(struct jx *x, struct jval v, const struct jval *arg)
{
    struct jval item;
    int64_t i = 0;
    for (struct jiter it = jiter_start(x, v); jiter_next(x, &it, &item); i++) {
        if (jequal(x, item, arg[0]))
            return jint(i);
    }
    jx_fail(x, -EINVAL, "the value is not in the %s", jtype(v));
}

static struct jval l_count(struct jx *x, struct jval v, const struct jval *arg)
{
    struct jval item;
    int64_t n = 0;
    for (struct jiter it = jiter_start(x, v); jiter_next(x, &it, &item);)
        n += jequal(x, item, arg[0]);
    return jint(n);
}

const struct jfunc jmethods_list[] = {
    { "index", "value!", l_index, NULL },
    { "count", "value!", l_count, NULL },
    { "copy", "", copy, NULL },
    { NULL },
};

const struct jfunc jmethods_loop[] = {
    { "changed", NULL, NULL, jloop_changed },
    { "cycle", NULL, NULL, jloop_cycle },
    { NULL },
};
