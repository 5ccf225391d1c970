// JSON from strangers, and JSON for them.
//
// json_open first walks the text once, without recursion and in linear time, and refuses what cJSON
// would take: invalid UTF-8, depth, too many values, duplicate keys, \u0000 and lone surrogates,
// numbers that no double holds, anything after the value. Only then does cJSON build its tree, so
// its memory is bounded too. Getters name the path of what is wrong.
//
// Thread-safety: none; a document belongs to one thread at a time.
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"
#include "base/str.h"

struct fault;

#define JSON_DEPTH_MAX 64
#define JSON_VALUES_MAX (1u << 18)      // of a text; cJSON takes about 80 bytes for each
#define JSON_MEMBERS_MAX 256            // of the top-level object
#define JSON_EXACT_MAX 9007199254740992.0   // 2^53: integers up to it are exact in a double

struct json_span { const char *p; size_t n; };

// ---- the check alone ----------------------------------------------------------------------------

struct json_member { uint32_t key_at, key_n, at, n; };  // offsets; the key as written, no quotes
struct json_shape {                     // what the check learned
    uint32_t n_values, depth;
    uint32_t n_members;                 // of the top-level object, 0 if it is none
    struct json_member member[JSON_MEMBERS_MAX];
};
// Returns 0, -EINVAL (err says what and at which byte) or -ENOMEM. shape may be NULL.
int json_check(const char *p, size_t n, struct json_shape *shape, struct err *err);

// ---- documents ----------------------------------------------------------------------------------

struct json;                            // a value; owned by its document
struct json_doc;

// p[0..n) must stay until json_close. Errors are those of json_check.
int  json_open(struct json_doc **ret, const char *p, size_t n, struct err *err);
void json_close(struct json_doc *d);    // NULL is fine
const struct json *json_root(const struct json_doc *d);
// The text of a top-level member's value as the client wrote it; {NULL, 0}: absent.
struct json_span json_raw(const struct json_doc *d, const char *key);

bool json_is_object(const struct json *v);
bool json_is_array(const struct json *v);
bool json_is_string(const struct json *v);
bool json_is_number(const struct json *v);
bool json_is_bool(const struct json *v);
bool json_is_null(const struct json *v);
bool json_is_true(const struct json *v);
double      json_double(const struct json *v);          // of a number
const char *json_text(const struct json *v);            // of a string; NUL-terminated UTF-8
// Members and elements. json_get is exact about case, and NULL for absent and for null.
const struct json *json_get(const struct json *object, const char *key);
const struct json *json_first(const struct json *v);
const struct json *json_next(const struct json *v);
const char        *json_key(const struct json *v);      // of a member
size_t             json_count(const struct json *v);
// Finds a member even when it is null.
const struct json *json_find(const struct json *object, const char *key);

// Typed members. Return 1 and *ret; 0 and *ret untouched: absent or null; -1: refused, f filled.
int json_get_number(const struct json *o, const char *key, double min, double max, double *ret,
                    struct fault *f);
int json_get_u32(const struct json *o, const char *key, uint32_t min, uint32_t max, uint32_t *ret,
                 struct fault *f);
int json_get_bool(const struct json *o, const char *key, bool *ret, struct fault *f);
int json_get_text(const struct json *o, const char *key, const char **ret, struct fault *f);
int json_get_object(const struct json *o, const char *key, const struct json **ret,
                    struct fault *f);
int json_get_array(const struct json *o, const char *key, const struct json **ret, struct fault *f);
// A whole number within [min, max], or false.
bool json_to_int(const struct json *v, int64_t min, int64_t max, int64_t *ret);

// ---- writing ------------------------------------------------------------------------------------

// A quoted string. Control bytes are escaped; what is not UTF-8 becomes U+FFFD.
void json_put_string(struct str *out, const char *p, size_t n);
void json_put_text(struct str *out, const char *s);
// A number that JSON can hold: infinities become the largest double of their sign.
void json_put_double(struct str *out, double x);
// Length of the UTF-8 character at p[0..n), 0 where it is none.
size_t json_utf8_len(const char *p, size_t n);
