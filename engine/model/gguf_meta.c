// Typed access to the metadata of a GGUF file, and its printing.
#include <errno.h>
#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <string.h>
#include "base/base.h"
#include "base/str.h"
#include "engine/model/gguf_file.h"

static const char *const type_name[] = {
    [GGUF_U8] = "u8", [GGUF_I8] = "i8", [GGUF_U16] = "u16", [GGUF_I16] = "i16", [GGUF_U32] = "u32",
    [GGUF_I32] = "i32", [GGUF_F32] = "f32", [GGUF_BOOL] = "bool", [GGUF_STRING] = "string",
    [GGUF_ARRAY] = "array", [GGUF_U64] = "u64", [GGUF_I64] = "i64", [GGUF_F64] = "f64",
};

static const struct key *find(const struct part *f, const char *name)
{
    size_t i;
    return names_find(&f->keys, name, &i) ? &f->key[i] : NULL;
}

static int wrong_type(const struct key *k, const char *want, struct err *err)
{
    return err_set(err, -EINVAL, "key %.80s: is %s%s, not %s", k->name,
                   k->is_array ? "an array of " : "", type_name[k->v.type], want);
}

// ---- elements --------------------------------------------------------------------------------

// load_u8(a, i) and so on: element i at any alignment.
#define LOAD(name, type) \
    static type load_##name(const struct gguf_array *a, size_t i) \
    { \
        type v; \
        memcpy(&v, (const char *)a->data + i * sizeof(v), sizeof(v)); \
        return v; \
    }
LOAD(u8, uint8_t)
LOAD(i8, int8_t)
LOAD(u16, uint16_t)
LOAD(i16, int16_t)
LOAD(u32, uint32_t)
LOAD(i32, int32_t)
LOAD(u64, uint64_t)
LOAD(i64, int64_t)
LOAD(f32, float)
LOAD(f64, double)
#undef LOAD

static bool is_int(enum gguf_type type)
{
    return type != GGUF_F32 && type != GGUF_F64 && type != GGUF_STRING && type != GGUF_ARRAY;
}

int64_t gguf_array_int(const struct gguf_array *a, size_t i)
{
    assert(i < a->n && is_int(a->type));
    switch (a->type) {
    case GGUF_BOOL:
    case GGUF_U8:  return load_u8(a, i);
    case GGUF_I8:  return load_i8(a, i);
    case GGUF_U16: return load_u16(a, i);
    case GGUF_I16: return load_i16(a, i);
    case GGUF_U32: return load_u32(a, i);
    case GGUF_I32: return load_i32(a, i);
    case GGUF_U64: return (int64_t)MIN(load_u64(a, i), (uint64_t)INT64_MAX);     // saturates
    default:       return load_i64(a, i);
    }
}

static double number(const struct gguf_array *a, size_t i)
{
    if (a->type == GGUF_F32)
        return load_f32(a, i);
    if (a->type == GGUF_F64)
        return load_f64(a, i);
    if (a->type == GGUF_U64)
        return (double)load_u64(a, i);
    return (double)gguf_array_int(a, i);
}

float gguf_array_f32(const struct gguf_array *a, size_t i)
{
    assert(i < a->n);
    return (float)number(a, i);
}

// ---- typed keys --------------------------------------------------------------------------------

static bool as_u64(const struct key *k, uint64_t *ret)
{
    if (k->v.type == GGUF_U64) {
        *ret = load_u64(&k->v, 0);
        return true;
    }
    int64_t v = gguf_array_int(&k->v, 0);
    *ret = (uint64_t)v;
    return v >= 0;
}

int part_u64(const struct part *f, const char *key, uint64_t lo, uint64_t hi, uint64_t *ret,
             struct err *err)
{
    const struct key *k = find(f, key);
    uint64_t v;
    if (!k)
        return -ENOENT;
    if (k->is_array || !is_int(k->v.type) || k->v.type == GGUF_BOOL)
        return wrong_type(k, "an integer", err);
    if (!as_u64(k, &v))
        return err_set(err, -EINVAL, "key %.80s: %" PRIi64 " is negative", k->name, (int64_t)v);
    if (v < lo || v > hi)
        return err_set(err, -EINVAL, "key %.80s: %" PRIu64 " is not within %" PRIu64 " to %" PRIu64,
                       k->name, v, lo, hi);
    *ret = v;
    return 0;
}

int gguf_u64(const struct gguf *g, const char *key, uint64_t lo, uint64_t hi, uint64_t *ret,
             struct err *err)
{
    return part_u64(&g->part[0], key, lo, hi, ret, err);
}

int gguf_u32(const struct gguf *g, const char *key, uint32_t lo, uint32_t hi, uint32_t *ret,
             struct err *err)
{
    uint64_t v = 0;
    int rc = gguf_u64(g, key, lo, hi, &v, err);
    if (rc == 0)
        *ret = (uint32_t)v;
    return rc;
}

int gguf_f32(const struct gguf *g, const char *key, float *ret, struct err *err)
{
    const struct key *k = find(&g->part[0], key);
    if (!k)
        return -ENOENT;
    if (k->is_array || k->v.type == GGUF_STRING || k->v.type == GGUF_BOOL)
        return wrong_type(k, "a number", err);
    double v = number(&k->v, 0);
    if (!(fabs(v) <= FLT_MAX))
        return err_set(err, -EINVAL, "key %.80s: %g is no finite float", k->name, v);
    *ret = (float)v;
    return 0;
}

int gguf_bool(const struct gguf *g, const char *key, bool *ret, struct err *err)
{
    const struct key *k = find(&g->part[0], key);
    if (!k)
        return -ENOENT;
    if (k->is_array || k->v.type != GGUF_BOOL)
        return wrong_type(k, "a bool", err);
    *ret = gguf_array_int(&k->v, 0) != 0;
    return 0;
}

int gguf_string(const struct gguf *g, const char *key, struct gguf_str *ret, struct err *err)
{
    const struct key *k = find(&g->part[0], key);
    if (!k)
        return -ENOENT;
    if (k->is_array || k->v.type != GGUF_STRING)
        return wrong_type(k, "a string", err);
    *ret = k->v.str[0];
    return 0;
}

int gguf_get_array(const struct gguf *g, const char *key, struct gguf_array *ret, struct err *err)
{
    const struct key *k = find(&g->part[0], key);
    if (!k)
        return -ENOENT;
    if (!k->is_array)
        return wrong_type(k, "an array", err);
    *ret = k->v;
    return 0;
}

// ---- printing --------------------------------------------------------------------------------

bool gguf_key_at(const struct gguf *g, size_t i, const char **name, enum gguf_type *type)
{
    const struct part *f = &g->part[0];
    if (i >= f->keys.n)
        return false;
    *name = f->key[i].name;
    *type = f->key[i].is_array ? GGUF_ARRAY : f->key[i].v.type;
    return true;
}

// Bytes of the UTF-8 character at p, or 0: not one. (text/ has the full decoder, one tier up.)
static size_t utf8_bytes(const unsigned char *p, size_t n)
{
    size_t len = p[0] < 0x80 ? 1 : p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : 4;
    if (len > n || (p[0] >= 0x80 && p[0] < 0xc2) || p[0] > 0xf4)
        return 0;
    for (size_t i = 1; i < len; i++)
        if ((p[i] & 0xc0) != 0x80)
            return 0;
    // Overlong forms, surrogates, and beyond U+10FFFF.
    if ((p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] >= 0xa0) ||
        (p[0] == 0xf0 && p[1] < 0x90) || (p[0] == 0xf4 && p[1] >= 0x90))
        return 0;
    return len;
}

static void put_json_text(struct str *out, struct gguf_str s)
{
    const unsigned char *p = (const unsigned char *)s.p;
    str_putc(out, '"');
    for (size_t i = 0, len; i < s.n; i += MAX(len, (size_t)1)) {
        len = utf8_bytes(p + i, s.n - i);
        if (len == 0)
            str_puts(out, "\\ufffd");
        else if (p[i] == '"' || p[i] == '\\')
            str_printf(out, "\\%c", p[i]);
        else if (p[i] < ' ' || p[i] == 0x7f)
            str_printf(out, "\\u%04x", p[i]);
        else
            str_add(out, p + i, len);
    }
    str_putc(out, '"');
}

// A long string shows its beginning, cut between characters.
static void put_json_string(struct str *out, struct gguf_str s, size_t max_bytes)
{
    if (s.n <= max_bytes) {
        put_json_text(out, s);
        return;
    }
    size_t cut = max_bytes;
    while (cut > 0 && ((unsigned char)s.p[cut] & 0xc0) == 0x80 && max_bytes - cut < 3)
        cut--;
    str_printf(out, "{\"bytes\":%zu,\"first\":", s.n);
    put_json_text(out, (struct gguf_str){ s.p, cut });
    str_putc(out, '}');
}

static void put_json_item(struct str *out, const struct gguf_array *a, size_t i, size_t max_bytes)
{
    if (a->type == GGUF_STRING) {
        put_json_string(out, a->str[i], max_bytes);
    } else if (a->type == GGUF_BOOL) {
        str_puts(out, gguf_array_int(a, i) ? "true" : "false");
    } else if (a->type == GGUF_U64) {
        str_printf(out, "%" PRIu64, load_u64(a, i));
    } else if (is_int(a->type)) {
        str_printf(out, "%" PRIi64, gguf_array_int(a, i));
    } else {
        double v = number(a, i);
        if (isfinite(v))
            str_printf(out, "%.*g", a->type == GGUF_F32 ? FLT_DECIMAL_DIG : DBL_DECIMAL_DIG, v);
        else
            str_puts(out, "null");      // JSON has no other word for it
    }
}

void gguf_key_json(const struct gguf *g, size_t i, size_t max_items, struct str *out)
{
    assert(i < g->part[0].keys.n);
    const struct key *k = &g->part[0].key[i];
    size_t shown = MIN(k->v.n, max_items), max_bytes = MIN(max_items, SIZE_MAX / 32) * 32;
    if (!k->is_array) {
        put_json_item(out, &k->v, 0, max_bytes);
        return;
    }
    if (shown < k->v.n)
        str_printf(out, "{\"type\":\"%s\",\"count\":%zu,\"first\":", type_name[k->v.type], k->v.n);
    str_putc(out, '[');
    for (size_t j = 0; j < shown; j++) {
        if (j)
            str_putc(out, ',');
        put_json_item(out, &k->v, j, max_bytes);
    }
    str_puts(out, shown < k->v.n ? "]}" : "]");
}
