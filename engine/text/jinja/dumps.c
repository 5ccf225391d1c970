// json.dumps: what the tojson filter writes.
#include "engine/text/jinja/print.h"
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

static void json_unicode(struct jbuild *b, uint32_t cp, enum jsource from)
{
    char buf[16];
    if (cp < 0x10000) {
        snprintf(buf, sizeof(buf), "\\u%04x", cp);
    } else {
        cp -= 0x10000;
        snprintf(buf, sizeof(buf), "\\u%04x\\u%04x", 0xd800 + (cp >> 10), 0xdc00 + (cp & 0x3ff));
    }
    jbuild_add(b, buf, strlen(buf), from);
}

// The escape of a byte below 0x80, or NULL when it stands for itself or needs \u.
static const char *json_named(unsigned char c)
{
    switch (c) {
    case '"': return "\\\"";
    case '\\': return "\\\\";
    case '\b': return "\\b";
    case '\f': return "\\f";
    case '\n': return "\\n";
    case '\r': return "\\r";
    case '\t': return "\\t";
    default: return NULL;
    }
}

static bool json_plain(unsigned char c, bool ascii)
{
    return c >= 0x20 && c != '"' && c != '\\' && !(ascii && c >= 0x7f);
}

static void json_string(struct jbuild *b, const struct jstr *s, bool ascii)
{
    jx_bytes(b->x, s->n);
    jbuild_text(b, "\"");
    for (size_t at = 0, next; at < s->n; at = next) {
        next = at;
        while (next < s->n && json_plain((unsigned char)s->p[next], ascii))
            next++;
        if (next > at) {
            jbuild_sub(b, s, at, next);
            continue;
        }
        const char *named = json_named((unsigned char)s->p[at]);
        uint32_t cp = jstr_char(s, at, &next);
        if (named)
            jbuild_add(b, named, 2, jstr_source(s, at));
        else
            json_unicode(b, cp, jstr_source(s, at));
    }
    jbuild_text(b, "\"");
}

static void json_number(struct jbuild *b, struct jval v)
{
    if (v.kind == J_BOOL)
        jbuild_text(b, v.b ? "true" : "false");
    else if (v.kind == J_FLOAT && (isnan(v.d) || isinf(v.d)))
        jbuild_text(b, isnan(v.d) ? "NaN" : v.d < 0 ? "-Infinity" : "Infinity");
    else
        jprint_number(b, v);
}

static void json_break(struct jbuild *b, const struct jdumps *how, unsigned level)
{
    if (!how->indent)
        return;
    jbuild_text(b, "\n");
    jbuild_fill(b, how->indent, level);
}

static void dumps(struct jbuild *b, struct jval v, const struct jdumps *how, unsigned level);

static void json_list(struct jbuild *b, const struct jlist *l, const struct jdumps *how,
                      unsigned level)
{
    if (l->n == 0) {
        jbuild_text(b, "[]");
        return;
    }
    jbuild_text(b, "[");
    for (size_t i = 0; i < l->n; i++) {
        if (i)
            jbuild_str(b, how->comma);
        json_break(b, how, level + 1);
        dumps(b, l->v[i], how, level + 1);
    }
    json_break(b, how, level);
    jbuild_text(b, "]");
}

static void json_key(struct jbuild *b, struct jval key, const struct jdumps *how)
{
    if (key.kind == J_STR) {
        json_string(b, key.s, how->ascii);
        return;
    }
    if (key.kind > J_STR || key.kind < J_NONE)
        jx_fail(b->x, -EINVAL, "keys must be str, int, float, bool or None, not %s", jtype(key));
    jbuild_text(b, "\"");
    dumps(b, key, how, 0);
    jbuild_text(b, "\"");
}

// The pairs in the order they are written.
static struct jkeyed *json_order(struct jx *x, const struct jdict *m, bool sorted)
{
    struct jkeyed *p = jx_calloc(x, m->n, sizeof(*p));
    for (size_t i = 0; i < m->n; i++)
        p[i] = (struct jkeyed){ m->pair[i].key, m->pair[i].val };
    if (sorted)
        jsort(x, p, m->n, false);
    return p;
}

static void json_dict(struct jbuild *b, const struct jdict *m, const struct jdumps *how,
                      unsigned level)
{
    if (m->n == 0) {
        jbuild_text(b, "{}");
        return;
    }
    const struct jkeyed *p = json_order(b->x, m, how->sort_keys);
    jbuild_text(b, "{");
    for (size_t i = 0; i < m->n; i++) {
        if (i)
            jbuild_str(b, how->comma);
        json_break(b, how, level + 1);
        json_key(b, p[i].key, how);
        jbuild_str(b, how->colon);
        dumps(b, p[i].val, how, level + 1);
    }
    json_break(b, how, level);
    jbuild_text(b, "}");
}

static void dumps(struct jbuild *b, struct jval v, const struct jdumps *how, unsigned level)
{
    jx_step(b->x, 1);
    jx_enter_value(b->x);
    switch (v.kind) {
    case J_NONE: jbuild_text(b, "null"); break;
    case J_BOOL: case J_INT: case J_BIG: case J_FLOAT: json_number(b, v); break;
    case J_STR: json_string(b, v.s, how->ascii); break;
    case J_LIST: case J_TUPLE: json_list(b, v.l, how, level); break;
    case J_DICT: json_dict(b, v.m, how, level); break;
    default: jx_fail(b->x, -EINVAL, "Object of type %s is not JSON serializable", jtype(v));
    }
    jx_leave_value(b->x);
}

void jprint_json(struct jbuild *b, struct jval v, const struct jdumps *how)
{
    dumps(b, v, how, 0);
}
