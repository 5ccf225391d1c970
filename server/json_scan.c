// The check of JSON text before anything is built from it: one pass, a stack of bits for nesting,
// and a hash table of the keys of open objects.
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "base/base.h"
#include "base/hash.h"
#include "server/json.h"

struct key_set {                        // 64-bit keyed hashes, open addressing, 0: free
    uint64_t *slot;                     // owned; (cap)
    uint32_t  n, cap;                   // cap is 0 or a power of two
    uint64_t  seed;                     // secret, so that nobody can prepare collisions
};

struct scan {
    const char *p;
    size_t      n, i;
    uint32_t    depth;
    bool        in_object[JSON_DEPTH_MAX + 1];
    uint32_t    object[JSON_DEPTH_MAX + 1];     // number of the open object, for key_set
    uint32_t    n_objects, n_values;
    struct key_set keys;
    struct json_shape *shape;           // may be NULL
    struct err *err;
};

static int refuse(struct scan *s, const char *what)
{
    return err_set(s->err, -EINVAL, "invalid JSON at byte %zu: %s", s->i, what);
}

size_t json_utf8_len(const char *text, size_t n)
{
    const unsigned char *p = (const unsigned char *)text;
    if (n == 0)
        return 0;
    if (p[0] < 0x80)
        return 1;
    size_t len = p[0] >= 0xf0 ? 4 : p[0] >= 0xe0 ? 3 : 2;
    if (p[0] < 0xc2 || p[0] > 0xf4 || n < len)
        return 0;
    for (size_t k = 1; k < len; k++) {
        if ((p[k] & 0xc0) != 0x80)
            return 0;
    }
    // Overlong forms, surrogates, and code points above U+10FFFF show in the second byte.
    if ((p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] > 0x9f) ||
        (p[0] == 0xf0 && p[1] < 0x90) || (p[0] == 0xf4 && p[1] > 0x8f))
        return 0;
    return len;
}

static void skip_blanks(struct scan *s)
{
    while (s->i < s->n && (s->p[s->i] == ' ' || s->p[s->i] == '\t' || s->p[s->i] == '\n' ||
                           s->p[s->i] == '\r'))
        s->i++;
}

// ---- keys ---------------------------------------------------------------------------------------

static bool keys_grow(struct key_set *k)
{
    uint32_t cap = k->cap ? k->cap * 2 : 64;
    uint64_t *slot = calloc(cap, sizeof(*slot));
    if (!slot)
        return false;
    for (uint32_t i = 0; i < k->cap; i++) {
        if (!k->slot[i])
            continue;
        uint32_t at = (uint32_t)k->slot[i] & (cap - 1);
        while (slot[at])
            at = (at + 1) & (cap - 1);
        slot[at] = k->slot[i];
    }
    free(k->slot);
    k->slot = slot;
    k->cap = cap;
    return true;
}

// Returns 1 if the hash was new, 0 if it was there, -ENOMEM.
static int keys_add(struct key_set *k, uint64_t hash)
{
    hash |= hash == 0;
    if (k->n * 2 >= k->cap && !keys_grow(k))
        return -ENOMEM;
    uint32_t at = (uint32_t)hash & (k->cap - 1);
    for (; k->slot[at]; at = (at + 1) & (k->cap - 1)) {
        if (k->slot[at] == hash)
            return 0;
    }
    k->slot[at] = hash;
    k->n++;
    return 1;
}

static uint64_t mix(uint64_t h, uint64_t x)
{
    h = (h ^ x) * UINT64_C(0x9e3779b97f4a7c15);
    return h ^ h >> 29;
}

// ---- strings ------------------------------------------------------------------------------------

static int hex4(struct scan *s, uint32_t *ret)
{
    uint32_t v = 0;
    if (s->n - s->i < 4)
        return refuse(s, "an escape ends early");
    for (int k = 0; k < 4; k++) {
        char c = s->p[s->i + (size_t)k], low = (char)(c | 0x20);
        if (c >= '0' && c <= '9')
            v = v << 4 | (uint32_t)(c - '0');
        else if (low >= 'a' && low <= 'f')
            v = v << 4 | (uint32_t)(low - 'a' + 10);
        else
            return refuse(s, "an escape needs four hexadecimal digits");
    }
    s->i += 4;
    *ret = v;
    return 0;
}

// Behind "\u": one character, perhaps as a surrogate pair.
static int scan_unicode(struct scan *s, uint32_t *cp)
{
    uint32_t hi, lo;
    int r = hex4(s, &hi);
    if (r)
        return r;
    if (hi == 0)
        return refuse(s, "\\u0000 is not allowed");
    *cp = hi;
    if (hi < 0xd800 || hi > 0xdfff)
        return 0;
    if (hi > 0xdbff || s->n - s->i < 6 || s->p[s->i] != '\\' || s->p[s->i + 1] != 'u')
        return refuse(s, "a lone surrogate");
    s->i += 2;
    r = hex4(s, &lo);
    if (r)
        return r;
    if (lo < 0xdc00 || lo > 0xdfff)
        return refuse(s, "a lone surrogate");
    *cp = 0x10000 + ((hi - 0xd800) << 10) + (lo - 0xdc00);
    return 0;
}

static int scan_escape(struct scan *s, uint32_t *cp)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    if (s->i == s->n)
        return refuse(s, "an escape ends early");
    char c = s->p[s->i++];
    if (c == 'u')
        return scan_unicode(s, cp);
    const char *at = c ? strchr(from, c) : NULL;
    if (!at)
        return refuse(s, "an unknown escape");
    *cp = (unsigned char)to[at - from];
    return 0;
}

static uint32_t decode(const char *text, size_t len)
{
    const unsigned char *p = (const unsigned char *)text;
    uint32_t cp = len == 1 ? p[0] : p[0] & (0xffu >> (len + 1));
    for (size_t k = 1; k < len; k++)
        cp = cp << 6 | (p[k] & 0x3f);
    return cp;
}

// At the opening quote. *hash, if not NULL, is of the decoded characters.
static int scan_string(struct scan *s, uint64_t *hash)
{
    for (s->i++; s->i < s->n;) {
        unsigned char c = (unsigned char)s->p[s->i];
        uint32_t cp = c;
        if (c == '"') {
            s->i++;
            return 0;
        }
        if (c < 0x20)
            return refuse(s, "a control character in a string");
        if (c == '\\') {
            s->i++;
            int r = scan_escape(s, &cp);
            if (r)
                return r;
        } else {
            size_t len = json_utf8_len(s->p + s->i, s->n - s->i);
            if (!len)
                return refuse(s, "not UTF-8");
            if (hash && len > 1)
                cp = decode(s->p + s->i, len);
            s->i += len;
        }
        if (hash)
            *hash = mix(*hash, cp);
    }
    return refuse(s, "a string without end");
}

// ---- numbers and words --------------------------------------------------------------------------

static size_t digits(struct scan *s)
{
    size_t from = s->i;
    while (s->i < s->n && s->p[s->i] >= '0' && s->p[s->i] <= '9')
        s->i++;
    return s->i - from;
}

static int scan_number(struct scan *s)
{
    size_t from = s->i;
    if (s->p[s->i] == '-')
        s->i++;
    size_t first = s->i, n_int = digits(s);
    if (n_int == 0 || (n_int > 1 && s->p[first] == '0'))
        return refuse(s, "not a number");
    if (s->i < s->n && s->p[s->i] == '.') {
        s->i++;
        if (!digits(s))
            return refuse(s, "digits must follow the point");
    }
    if (s->i < s->n && (s->p[s->i] | 0x20) == 'e') {
        s->i++;
        if (s->i < s->n && (s->p[s->i] == '+' || s->p[s->i] == '-'))
            s->i++;
        if (!digits(s))
            return refuse(s, "digits must follow the exponent");
    }
    size_t n = s->i - from;
    char text[64];
    if (n >= sizeof(text))
        return refuse(s, "a number of more than 63 characters");
    memcpy(text, s->p + from, n);
    text[n] = '\0';
    return isfinite(strtod(text, NULL)) ? 0 : refuse(s, "a number out of range");
}

static int scan_word(struct scan *s)
{
    static const char *const words[] = { "true", "false", "null" };
    for (size_t k = 0; k < ARRAY_LEN(words); k++) {
        size_t n = strlen(words[k]);
        if (s->n - s->i >= n && memcmp(s->p + s->i, words[k], n) == 0) {
            s->i += n;
            return 0;
        }
    }
    return refuse(s, "a value was expected");
}

// ---- structure ----------------------------------------------------------------------------------

static int open_container(struct scan *s)
{
    if (s->depth == JSON_DEPTH_MAX)
        return refuse(s, "nested more than " STRINGIFY(JSON_DEPTH_MAX) " deep");
    s->depth++;
    s->in_object[s->depth] = s->p[s->i++] == '{';
    s->object[s->depth] = ++s->n_objects;
    if (s->shape)
        s->shape->depth = MAX(s->shape->depth, s->depth);
    return 0;
}

// A key with its colon. At the top level its place is noted.
static int scan_key(struct scan *s)
{
    if (s->i == s->n || s->p[s->i] != '"')
        return refuse(s, "a key was expected");
    size_t at = s->i + 1;
    uint64_t hash = mix(s->keys.seed, s->object[s->depth]);
    int r = scan_string(s, &hash);
    if (r)
        return r;
    size_t end = s->i - 1;
    r = keys_add(&s->keys, hash);
    if (r < 0)
        return err_set(s->err, r, "out of memory");
    if (r == 0)
        return refuse(s, "a key stands twice in one object");
    if (s->depth == 1 && s->shape) {
        if (s->shape->n_members == JSON_MEMBERS_MAX)
            return refuse(s, "more than " STRINGIFY(JSON_MEMBERS_MAX) " members");
        struct json_member *m = &s->shape->member[s->shape->n_members++];
        *m = (struct json_member){ (uint32_t)at, (uint32_t)(end - at), 0, 0 };
    }
    skip_blanks(s);
    if (s->i == s->n || s->p[s->i] != ':')
        return refuse(s, "':' was expected");
    s->i++;
    skip_blanks(s);
    if (s->depth == 1 && s->shape)
        s->shape->member[s->shape->n_members - 1].at = (uint32_t)s->i;
    return 0;
}

// One value; of an array or object only its opening bracket.
static int scan_value(struct scan *s)
{
    if (s->i == s->n)
        return refuse(s, "the text ends early");
    if (++s->n_values > JSON_VALUES_MAX)
        return refuse(s, "more than " STRINGIFY(JSON_VALUES_MAX) " values");
    char c = s->p[s->i];
    if (c == '{' || c == '[')
        return open_container(s);
    if (c == '"')
        return scan_string(s, NULL);
    if (c == '-' || (c >= '0' && c <= '9'))
        return scan_number(s);
    return scan_word(s);
}

// A value of the top-level object ended: its extent is known.
static void note_member(struct scan *s)
{
    if (s->depth != 1 || !s->in_object[1] || !s->shape)
        return;
    struct json_member *m = &s->shape->member[s->shape->n_members - 1];
    m->n = (uint32_t)(s->i - m->at);
}

// Behind a value: closes what ends here and moves to the next value, or to the end of the text.
static int scan_after(struct scan *s)
{
    while (s->depth) {
        note_member(s);
        skip_blanks(s);
        if (s->i == s->n)
            return refuse(s, "the text ends early");
        char c = s->p[s->i], close = s->in_object[s->depth] ? '}' : ']';
        if (c == ',') {
            s->i++;
            skip_blanks(s);
            return s->in_object[s->depth] ? scan_key(s) : 0;
        }
        if (c != close)
            return refuse(s, "',' or a closing bracket was expected");
        s->i++;
        s->depth--;
    }
    return 0;
}

static int scan_text(struct scan *s)
{
    skip_blanks(s);
    do {
        uint32_t before = s->depth;
        int r = scan_value(s);
        if (r)
            return r;
        if (s->depth > before) {        // just opened: empty, or its first value
            skip_blanks(s);
            bool object = s->in_object[s->depth];
            if (s->i < s->n && s->p[s->i] == (object ? '}' : ']')) {
                s->i++;
                s->depth--;
            } else {
                r = object ? scan_key(s) : 0;
                if (r)
                    return r;
                continue;
            }
        }
        r = scan_after(s);
        if (r)
            return r;
    } while (s->depth);
    skip_blanks(s);
    return s->i == s->n ? 0 : refuse(s, "something follows the value");
}

int json_check(const char *p, size_t n, struct json_shape *shape, struct err *err)
{
    if (n > UINT32_MAX)
        return err_set(err, -EINVAL, "invalid JSON: too long");
    struct scan s = { .p = p, .n = n, .shape = shape, .err = err };
    if (shape)
        *shape = (struct json_shape){0};
    random_bytes(&s.keys.seed, sizeof(s.keys.seed));
    int r = scan_text(&s);
    if (shape)
        shape->n_values = s.n_values;
    free(s.keys.slot);
    return r;
}
