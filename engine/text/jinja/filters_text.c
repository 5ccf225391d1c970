// Filters from one value to a text.
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include "base/base.h"
#include "engine/text/jinja/builtin.h"
#include "engine/text/jinja/print.h"
#include "engine/text/jinja/unicode.h"

static struct jval f_case(struct jx *x, struct jval v, enum jcase how)
{
    return jstring(jstr_case(x, jto_str(x, v), how));
}

static struct jval f_upper(struct jx *x, struct jval v, const struct jval *arg)
{
    (void)arg;
    return f_case(x, v, JCASE_UPPER);
}

static struct jval f_lower(struct jx *x, struct jval v, const struct jval *arg)
{
    (void)arg;
    return f_case(x, v, JCASE_LOWER);
}

static struct jval f_capitalize(struct jx *x, struct jval v, const struct jval *arg)
{
    (void)arg;
    return f_case(x, v, JCASE_CAPITALIZE);
}

// Unlike str.title: words begin behind white space and opening brackets only.
static struct jval f_title(struct jx *x, struct jval v, const struct jval *arg)
{
    (void)arg;
    struct jstr *s = jto_str(x, v);
    struct jbuild b = jbuild_start(x);
    bool head = true;
    for (size_t at = 0, next; at < s->n; at = next) {
        uint32_t cp = jstr_char(s, at, &next);
        struct jstr *c = jstr_sub(x, s, at, next);
        jbuild_str(&b, jstr_case(x, c, head ? JCASE_UPPER : JCASE_LOWER));
        head = u_space(cp) || (cp < 0x80 && strchr("-({[<", (int)cp));
    }
    return jstring(jbuild_end(&b));
}

static struct jval f_trim(struct jx *x, struct jval v, const struct jval *arg)
{
    return jstring(jstr_strip(x, jto_str(x, v), jarg_str(x, arg[0], NULL), JSTR_LEFT | JSTR_RIGHT));
}

static struct jval f_string(struct jx *x, struct jval v, const struct jval *arg)
{
    (void)arg;
    return jstring(jto_str(x, v));
}

static struct jval f_safe(struct jx *x, struct jval v, const struct jval *arg)
{
    (void)arg;
    return jstring(jstr_markup(x, jto_str(x, v), true));
}

static struct jval f_escape(struct jx *x, struct jval v, const struct jval *arg)
{
    (void)arg;
    return jstring(jstr_escape(x, jto_str(x, v)));
}

static struct jval f_forceescape(struct jx *x, struct jval v, const struct jval *arg)
{
    (void)arg;
    return jstring(jstr_escape(x, jstr_markup(x, jto_str(x, v), false)));
}

static struct jval f_replace(struct jx *x, struct jval v, const struct jval *arg)
{
    struct jstr *s = jstr_markup(x, jto_str(x, v), false);
    return jstring(
        jstr_replace(x, s, jto_str(x, arg[0]), jto_str(x, arg[1]), jarg_int(x, arg[2], -1)));
}

static struct jstr *indentation(struct jx *x, struct jval width, int64_t fallback)
{
    if (width.kind == J_STR)
        return width.s;
    return jstr_repeat(x, jstr_lit(x, " "), jarg_int(x, width, fallback));
}

static struct jval f_indent(struct jx *x, struct jval v, const struct jval *arg)
{
    struct jstr *s = jneed_str(x, v, "indent's text"), *by = indentation(x, arg[0], 4);
    bool first = jarg_bool(arg[1], false), blank = jarg_bool(arg[2], false);
    struct jlist *lines = jstr_lines(x, jstr_concat(x, s, jstr_lit(x, "\n")), false);
    struct jbuild b = jbuild_start(x);
    for (size_t i = 0; i < lines->n; i++) {
        if (i)
            jbuild_text(&b, "\n");
        if (i ? blank || lines->v[i].s->n : first)
            jbuild_str(&b, by);
        jbuild_str(&b, lines->v[i].s);
    }
    struct jstr *r = jbuild_end(&b);
    r->markup = s->markup;
    return jstring(r);
}

static struct jval f_center(struct jx *x, struct jval v, const struct jval *arg)
{
    struct jstr *s = jto_str(x, v), *space = jstr_lit(x, " ");
    size_t n;
    jlength(x, jstring(s), &n);
    int64_t room = CLAMP(jarg_int(x, arg[0], 80), 0, (int64_t)JX_STR_MAX + 1) - (int64_t)n;
    struct jbuild b = jbuild_start(x);
    // Python's str.center puts an odd blank to the left where the width is odd
    int64_t left = room > 0 ? room / 2 + (room & (room + (int64_t)n) & 1) : 0;
    jbuild_fill(&b, space, (size_t)left);
    jbuild_str(&b, s);
    jbuild_fill(&b, space, (size_t)(room > 0 ? room - left : 0));
    return jstring(jbuild_end(&b));
}

static struct jval f_truncate(struct jx *x, struct jval v, const struct jval *arg)
{
    if (v.kind == J_UNDEFINED)
        return v;
    struct jstr *s = jneed_str(x, v, "truncate's text"),
                *end = jarg_str(x, arg[2], jstr_lit(x, "..."));
    int64_t length = jarg_int(x, arg[0], 255), leeway = jarg_int(x, arg[3], 5);
    size_t n, n_end;
    jlength(x, v, &n);
    jlength(x, jstring(end), &n_end);
    if (length < (int64_t)n_end || leeway < 0)
        jx_fail(x, -EINVAL, "truncate: expected length >= %zu and leeway >= 0", n_end);
    if ((int64_t)n <= length || (int64_t)n - length <= leeway)
        return v;
    struct jstr *cut = jstr_sub(x, s, 0, jstr_offset(x, s, (size_t)length - n_end));
    if (!jarg_bool(arg[1], false))
        cut = jstr_rsplit(x, cut, jstr_lit(x, " "), 1)->v[0].s;
    return jstring(jstr_concat(x, cut, end));
}

static struct jval f_wordcount(struct jx *x, struct jval v, const struct jval *arg)
{
    (void)arg;
    struct jstr *s = jto_str(x, v);
    int64_t words = 0;
    bool inside = false;
    for (size_t at = 0, next; at < s->n; at = next) {
        uint32_t cp = jstr_char(s, at, &next);
        bool word = u_alpha(cp) || u_numeric(cp) || cp == '_';
        words += word && !inside;
        inside = word;
    }
    jx_chars(x, s->n);
    return jint(words);
}

static struct jval f_urlencode(struct jx *x, struct jval v, const struct jval *arg)
{
    (void)arg;
    if (v.kind != J_STR && jiterable(v))
        jx_fail(x, -EINVAL, "urlencode of a container is not supported");
    struct jstr *s = jto_str(x, v);
    struct jbuild b = jbuild_start(x);
    for (size_t i = 0; i < s->n; i++) {
        char c = s->p[i], buf[4];
        bool plain = ((c | 32) >= 'a' && (c | 32) <= 'z') || (c >= '0' && c <= '9') ||
                     (c && strchr("_.-~/", c));
        int n = snprintf(buf, sizeof(buf), plain ? "%c" : "%%%02X", (unsigned char)c);
        jbuild_add(&b, buf, (size_t)n, jstr_source(s, i));
    }
    return jstring(jbuild_end(&b));
}

static struct jval f_format(struct jx *x, struct jval v, const struct jargs *args)
{
    struct jdict *m = jdict_new(x);
    struct jlist *l = jlist_new(x);
    if (args->n_pos && args->n_kw)
        jx_fail(x, -EINVAL, "format takes positional or keyword arguments, not both");
    for (size_t i = 0; i < args->n_kw; i++)
        jdict_set(x, m, jstring((struct jstr *)args->kw[i].name), args->kw[i].val);
    for (size_t i = 0; i < args->n_pos; i++)
        jlist_add(x, l, args->pos[i]);
    return jformat_percent(x, jto_str(x, v), args->n_kw ? jdictval(m) : jtupleval(l));
}

static struct jval f_default(struct jx *x, struct jval v, const struct jval *arg)
{
    bool use = v.kind == J_UNDEFINED || (jarg_bool(arg[1], false) && !jtruth(v));
    if (!use)
        return v;
    return jgiven(arg[0]) ? arg[0] : jstring(jstr_lit(x, ""));
}

static const struct jstr *json_indent(struct jx *x, struct jval v)
{
    if (!jgiven(v) || v.kind == J_NONE)
        return NULL;
    return indentation(x, v, 0);
}

static struct jval f_tojson(struct jx *x, struct jval v, const struct jval *arg)
{
    struct jdumps how = { .ascii = jarg_bool(arg[0], false), .indent = json_indent(x, arg[1]),
                          .sort_keys = jarg_bool(arg[3], false) };
    how.comma = jstr_lit(x, how.indent ? "," : ", ");
    how.colon = jstr_lit(x, ": ");
    if (jgiven(arg[2]) && arg[2].kind != J_NONE) {
        struct jlist *l = jiter_list(x, arg[2]);
        if (l->n != 2)
            jx_fail(x, -EINVAL, "tojson: separators are a pair of texts");
        how.comma = jneed_str(x, l->v[0], "separator");
        how.colon = jneed_str(x, l->v[1], "separator");
    }
    struct jbuild b = jbuild_start(x);
    if (v.kind == J_UNDEFINED)
        jfail_undefined(x, v);
    jprint_json(&b, v, &how);
    return jstring(jbuild_end(&b));
}

const struct jfunc jfilters_text[] = {
    { "upper", "", f_upper, NULL },
    { "lower", "", f_lower, NULL },
    { "capitalize", "", f_capitalize, NULL },
    { "title", "", f_title, NULL },
    { "trim", "chars", f_trim, NULL },
    { "string", "", f_string, NULL },
    { "safe", "", f_safe, NULL },
    { "e", "", f_escape, NULL },
    { "escape", "", f_escape, NULL },
    { "forceescape", "", f_forceescape, NULL },
    { "replace", "old! new! count", f_replace, NULL },
    { "indent", "width first blank", f_indent, NULL },
    { "center", "width", f_center, NULL },
    { "truncate", "length killwords end leeway", f_truncate, NULL },
    { "wordcount", "", f_wordcount, NULL },
    { "urlencode", "", f_urlencode, NULL },
    { "format", NULL, NULL, f_format },
    { "default", "default_value boolean", f_default, NULL },
    { "d", "default_value boolean", f_default, NULL },
    { "tojson", "ensure_ascii indent separators sort_keys", f_tojson, NULL },
    { NULL },
};
