// Documents on cJSON (the only file that includes it), typed getters, and the writer.
#include "server/json.h"
#include <cjson/cJSON.h>
#include <errno.h>
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "base/base.h"
#include "server/errors.h"

struct json_doc {
    cJSON            *root;             // owned
    const char       *p;                // borrowed
    struct json_shape shape;
};

static const cJSON *node(const struct json *v)
{
    return (const cJSON *)(const void *)v;
}

static const struct json *value(const cJSON *c)
{
    return (const struct json *)(const void *)c;
}

int json_open(struct json_doc **ret, const char *p, size_t n, struct err *err)
{
    struct json_doc *d = calloc(1, sizeof(*d));
    char *copy = malloc(n + 1);         // cJSON looks one byte ahead in places
    int r = d && copy ? json_check(p, n, &d->shape, err) : err_set(err, -ENOMEM, "out of memory");
    if (r)
        goto out;
    memcpy(copy, p, n);
    copy[n] = '\0';
    d->p = p;
    d->root = cJSON_ParseWithLengthOpts(copy, n + 1, NULL, true);
    if (!d->root) {
        r = err_set(err, -ENOMEM, "out of memory");
        goto out;
    }
    *ret = d;
    d = NULL;
out:
    free(copy);
    json_close(d);
    return r;
}

void json_close(struct json_doc *d)
{
    if (!d)
        return;
    cJSON_Delete(d->root);
    free(d);
}

const struct json *json_root(const struct json_doc *d)
{
    return value(d->root);
}

struct json_span json_raw(const struct json_doc *d, const char *key)
{
    size_t n = strlen(key);
    for (uint32_t i = 0; i < d->shape.n_members; i++) {
        const struct json_member *m = &d->shape.member[i];
        if (m->key_n == n && memcmp(d->p + m->key_at, key, n) == 0)
            return (struct json_span){ d->p + m->at, m->n };
    }
    return (struct json_span){0};
}

bool json_is_object(const struct json *v) { return cJSON_IsObject(node(v)); }
bool json_is_array(const struct json *v) { return cJSON_IsArray(node(v)); }
bool json_is_string(const struct json *v) { return cJSON_IsString(node(v)); }
bool json_is_number(const struct json *v) { return cJSON_IsNumber(node(v)); }
bool json_is_bool(const struct json *v) { return cJSON_IsBool(node(v)); }
bool json_is_null(const struct json *v) { return cJSON_IsNull(node(v)); }
bool json_is_true(const struct json *v) { return cJSON_IsTrue(node(v)); }
double json_double(const struct json *v) { return node(v)->valuedouble; }
const char *json_text(const struct json *v) { return node(v)->valuestring; }
const char *json_key(const struct json *v) { return node(v)->string; }
const struct json *json_first(const struct json *v) { return value(node(v)->child); }
const struct json *json_next(const struct json *v) { return value(node(v)->next); }

size_t json_count(const struct json *v)
{
    size_t n = 0;
    for (const struct json *e = json_first(v); e; e = json_next(e))
        n++;
    return n;
}

const struct json *json_find(const struct json *object, const char *key)
{
    return value(cJSON_GetObjectItemCaseSensitive(node(object), key));
}

const struct json *json_get(const struct json *object, const char *key)
{
    const struct json *v = json_find(object, key);
    return v && json_is_null(v) ? NULL : v;
}

bool json_to_int(const struct json *v, int64_t min, int64_t max, int64_t *ret)
{
    if (!json_is_number(v))
        return false;
    double x = json_double(v);
    if (x != trunc(x) || fabs(x) > JSON_EXACT_MAX || x < (double)min || x > (double)max)
        return false;
    *ret = (int64_t)x;
    return true;
}

int json_get_number(const struct json *o, const char *key, double min, double max, double *ret,
                    struct fault *f)
{
    const struct json *v = json_get(o, key);
    if (!v)
        return 0;
    if (!json_is_number(v))
        return fault_set(f, ERROR_invalid_value, key, "'%s' must be a number", key);
    double x = json_double(v);
    if (x < min || x > max)
        return fault_set(f, ERROR_invalid_value, key, "'%s' must be between %g and %g", key, min,
                         max);
    *ret = x;
    return 1;
}

int json_get_u32(const struct json *o, const char *key, uint32_t min, uint32_t max, uint32_t *ret,
                 struct fault *f)
{
    const struct json *v = json_get(o, key);
    int64_t x;
    if (!v)
        return 0;
    if (!json_to_int(v, min, max, &x))
        return fault_set(f, ERROR_invalid_value, key,
                         "'%s' must be a whole number between %u and %u",
                         key, min, max);
    *ret = (uint32_t)x;
    return 1;
}

int json_get_bool(const struct json *o, const char *key, bool *ret, struct fault *f)
{
    const struct json *v = json_get(o, key);
    if (!v)
        return 0;
    if (!json_is_bool(v))
        return fault_set(f, ERROR_invalid_value, key, "'%s' must be true or false", key);
    *ret = json_is_true(v);
    return 1;
}

int json_get_text(const struct json *o, const char *key, const char **ret, struct fault *f)
{
    const struct json *v = json_get(o, key);
    if (!v)
        return 0;
    if (!json_is_string(v))
        return fault_set(f, ERROR_invalid_value, key, "'%s' must be a string", key);
    *ret = json_text(v);
    return 1;
}

int json_get_object(const struct json *o, const char *key, const struct json **ret, struct fault *f)
{
    const struct json *v = json_get(o, key);
    if (!v)
        return 0;
    if (!json_is_object(v))
        return fault_set(f, ERROR_invalid_value, key, "'%s' must be an object", key);
    *ret = v;
    return 1;
}

int json_get_array(const struct json *o, const char *key, const struct json **ret, struct fault *f)
{
    const struct json *v = json_get(o, key);
    if (!v)
        return 0;
    if (!json_is_array(v))
        return fault_set(f, ERROR_invalid_value, key, "'%s' must be an array", key);
    *ret = v;
    return 1;
}

// ---- writing ------------------------------------------------------------------------------------

static void put_escaped(struct str *out, unsigned char c)
{
    switch (c) {
    case '"':  str_puts(out, "\\\""); break;
    case '\\': str_puts(out, "\\\\"); break;
    case '\n': str_puts(out, "\\n"); break;
    case '\r': str_puts(out, "\\r"); break;
    case '\t': str_puts(out, "\\t"); break;
    default:   str_printf(out, "\\u%04x", c);
    }
}

void json_put_string(struct str *out, const char *p, size_t n)
{
    str_putc(out, '"');
    size_t plain = 0;                   // start of what needs no escape
    for (size_t i = 0; i < n;) {
        unsigned char c = (unsigned char)p[i];
        size_t len = json_utf8_len(p + i, n - i);
        if (len && c >= 0x20 && c != '"' && c != '\\' && c != 0x7f) {
            i += len;
            continue;
        }
        str_add(out, p + plain, i - plain);
        if (len)
            put_escaped(out, c);
        else
            str_puts(out, "\xef\xbf\xbd");
        plain = ++i;
    }
    str_add(out, p + plain, n - plain);
    str_putc(out, '"');
}

void json_put_text(struct str *out, const char *s)
{
    json_put_string(out, s, strlen(s));
}

void json_put_double(struct str *out, double x)
{
    if (isnan(x))
        str_puts(out, "null");
    else
        str_printf(out, "%.9g", CLAMP(x, -DBL_MAX, DBL_MAX));
}
