// The global functions of templates: jinja2's, and transformers' raise_exception and strftime_now.
#include <errno.h>
#include <string.h>
#include <time.h>
#include "engine/text/jinja/builtin.h"
#include "engine/text/jinja/exec.h"
#include "engine/text/jinja/print.h"
#include "engine/text/utf8.h"

static struct jval range(struct jx *x, int64_t start, int64_t stop, int64_t step)
{
    int64_t span;
    if (step == 0)
        jx_fail(x, -EINVAL, "range() arg 3 must not be zero");
    if (__builtin_sub_overflow(step > 0 ? stop : start, step > 0 ? start : stop, &span))
        span = INT64_MAX;
    uint64_t by = step > 0 ? (uint64_t)step : -(uint64_t)step;
    uint64_t n = span <= 0 ? 0 : ((uint64_t)span - 1) / by + 1;
    if (n > JX_RANGE_MAX)
        jx_fail(x, -E2BIG, "range() of more than %d items", JX_RANGE_MAX);
    struct jrange *r = jx_alloc(x, sizeof(*r));
    *r = (struct jrange){ start, stop, step, (size_t)n };
    return (struct jval){ .kind = J_RANGE, .range = r };
}

static struct jval g_range(struct jx *x, struct jval self, const struct jval *arg)
{
    (void)self;
    int64_t first = jarg_int(x, arg[0], 0);
    if (!jgiven(arg[1]))
        return range(x, 0, first, 1);
    return range(x, first, jarg_int(x, arg[1], 0), jgiven(arg[2]) ? jarg_int(x, arg[2], 0) : 1);
}

static void add_pair(struct jx *x, struct jdict *m, struct jval pair)
{
    struct jlist *l = jiter_list(x, pair);
    if (l->n != 2)
        jx_fail(x, -EINVAL, "a dict is made of pairs, not of %zu items", l->n);
    jdict_set(x, m, l->v[0], l->v[1]);
}

// dict(mapping or pairs, key=value, ...)
static struct jdict *make_dict(struct jx *x, const struct jargs *args)
{
    struct jdict *m = jdict_new(x);
    struct jval item;
    if (args->n_pos > 1)
        jx_fail(x, -EINVAL, "dict expected at most 1 argument, got %zu", args->n_pos);
    if (args->n_pos && args->pos[0].kind == J_DICT) {
        for (size_t i = 0; i < args->pos[0].m->n; i++)
            jdict_set(x, m, args->pos[0].m->pair[i].key, args->pos[0].m->pair[i].val);
    } else if (args->n_pos) {
        for (struct jiter it = jiter_start(x, args->pos[0]); jiter_next(x, &it, &item);)
            add_pair(x, m, item);
    }
    for (size_t i = 0; i < args->n_kw; i++)
        jdict_set(x, m, jstring((struct jstr *)args->kw[i].name), args->kw[i].val);
    return m;
}

static struct jval g_dict(struct jx *x, struct jval self, const struct jargs *args)
{
    (void)self;
    return jdictval(make_dict(x, args));
}

static struct jval g_namespace(struct jx *x, struct jval self, const struct jargs *args)
{
    struct jdict *m = make_dict(x, args);
    (void)self;
    for (size_t i = 0; i < m->n; i++) {
        if (m->pair[i].key.kind == J_STR && m->pair[i].key.s->n && m->pair[i].key.s->p[0] == '_')
            jx_fail(x, -EINVAL, "a namespace takes no attributes that begin with an underscore");
    }
    return (struct jval){ .kind = J_NAMESPACE, .m = m };
}

static struct jval g_joiner(struct jx *x, struct jval self, const struct jval *arg)
{
    (void)self;
    struct jcycler *c = jx_alloc(x, sizeof(*c));
    *c = (struct jcycler){ .v = jx_alloc(x, sizeof(struct jval)), .n = 1 };
    c->v[0] = jstring(jarg_str(x, arg[0], jstr_lit(x, ", ")));
    return (struct jval){ .kind = J_JOINER, .cycler = c };
}

static struct jval g_cycler(struct jx *x, struct jval self, const struct jargs *args)
{
    (void)self;
    if (args->n_pos == 0)
        jx_fail(x, -EINVAL, "at least one item has to be provided");
    struct jcycler *c = jx_alloc(x, sizeof(*c));
    *c = (struct jcycler){ .v = jx_calloc(x, args->n_pos, sizeof(struct jval)), .n = args->n_pos };
    memcpy(c->v, args->pos, args->n_pos * sizeof(struct jval));
    return (struct jval){ .kind = J_CYCLER, .cycler = c };
}

static struct jval c_next(struct jx *x, struct jval v, const struct jval *arg)
{
    (void)x;
    (void)arg;
    struct jval r = v.cycler->v[v.cycler->at];
    v.cycler->at = (v.cycler->at + 1) % v.cycler->n;
    return r;
}

static struct jval c_reset(struct jx *x, struct jval v, const struct jval *arg)
{
    (void)x;
    (void)arg;
    v.cycler->at = 0;
    return jnone();
}

const struct jfunc jmethods_cycler[] = {
    { "next", "", c_next, NULL },
    { "reset", "", c_reset, NULL },
    { NULL },
};

static struct jval g_raise(struct jx *x, struct jval self, const struct jval *arg)
{
    const struct jstr *s = jto_str(x, arg[0]);
    (void)self;
    jx_fail_plain(x, -EINVAL, "%.*s", (int)(s->n < ERR_MSG_MAX ? s->n : ERR_MSG_MAX), s->p);
}

// Python expands %f itself; a time without a zone has empty %z and %Z.
static char *python_format(struct jx *x, const struct jstr *s)
{
    struct jbuild b = jbuild_start(x);
    for (size_t i = 0; i < s->n; i++) {
        char next = i + 1 < s->n ? s->p[i + 1] : '\0';
        if (s->p[i] != '%') {
            jbuild_add(&b, s->p + i, 1, JS_TEMPLATE);
            continue;
        }
        if (next == 'f')
            jbuild_text(&b, "000000");
        else if (next && next != 'z' && next != 'Z')
            jbuild_add(&b, s->p + i, 2, JS_TEMPLATE);
        i++;
    }
    jbuild_add(&b, "!", 2, JS_TEMPLATE);        // never empty: 0 from strftime means too long
    return (char *)jbuild_end(&b)->p;
}

static struct jval g_strftime_now(struct jx *x, struct jval self, const struct jval *arg)
{
    char buf[4096];
    struct tm tm;
    (void)self;
    const char *format = python_format(x, jneed_str(x, arg[0], "format"));
    if (!localtime_r(&jexec_of(x)->now, &tm))
        jx_fail(x, -EINVAL, "the time has no calendar date");
    size_t n = strftime(buf, sizeof(buf), format, &tm);
    if (n == 0)
        jx_fail(x, -E2BIG, "a date longer than %zu bytes", sizeof(buf));
    if (!utf8_valid(buf, n - 1))
        jx_fail(x, -EINVAL, "a date that is not UTF-8");
    enum jsource source = arg[0].s->source == JS_TEMPLATE ? JS_TEMPLATE : JS_DATA;
    return jstring(jstr_copy(x, buf, n - 1, source));
}

static const struct jfunc rows[] = {
    { "range", "start! stop step", g_range, NULL },
    { "dict", NULL, NULL, g_dict },
    { "namespace", NULL, NULL, g_namespace },
    { "joiner", "sep", g_joiner, NULL },
    { "cycler", NULL, NULL, g_cycler },
    { "raise_exception", "message!", g_raise, NULL },
    { "strftime_now", "format!", g_strftime_now, NULL },
};

const struct jfunc *jglobal(size_t i)
{
    return i < ARRAY_LEN(rows) ? &rows[i] : NULL;
}
