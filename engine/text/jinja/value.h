// Values of the template language: Python's, as far as templates see them. They are immutable but
// for namespaces, loops, generators, cyclers and joiners. Only its maker fills a container.
#pragma once
#include "engine/text/jinja/jx.h"

enum jkind {
    J_MISSING,                  // no value at all: an argument not given, a variable not set
    J_UNDEFINED, J_NONE, J_BOOL, J_INT, J_BIG, J_FLOAT, J_STR,
    J_LIST, J_TUPLE, J_DICT, J_RANGE,
    J_KEYS, J_VALUES, J_ITEMS,  // views of a dict
    J_ITER,                     // a generator: read once
    J_NAMESPACE, J_LOOP, J_CYCLER, J_JOINER,
    J_FUNCTION, J_METHOD, J_MACRO,
};

// Where the bytes of a string came from: the template, the data (messages, tools, kwargs), or both.
enum jsource { JS_TEMPLATE, JS_DATA, JS_MIXED };

struct jstr {
    const char    *p;           // (n) valid UTF-8
    size_t         n;
    const uint8_t *mask;        // (n) 1: from the data; only with JS_MIXED
    size_t         chars;       // characters; 0: not counted yet
    struct jbuild *tail;        // a builder that holds exactly this string, to append in place
    uint8_t        source;      // enum jsource
    bool           markup;      // escaped text, as markupsafe.Markup
    bool           ascii;       // known to have no byte above 0x7f
};

struct jval {
    enum jkind kind;
    union {
        bool                b;
        int64_t             i;
        double              d;
        struct jstr        *s;      // J_STR, and the digits of J_BIG
        struct jlist       *l;      // J_LIST, J_TUPLE
        struct jdict       *m;      // J_DICT, J_KEYS, J_VALUES, J_ITEMS, J_NAMESPACE
        struct jrange      *range;
        struct jgen        *gen;
        struct jloop       *loop;
        struct jcycler     *cycler;
        struct jundef      *undef;
        struct jmethod     *method;
        struct jmacro      *macro;
        const struct jfunc *func;
    };
};

struct jlist { struct jval *v; size_t n, cap; };
struct jrange { int64_t start, stop, step; size_t n; };
struct jgen { struct jlist *l; size_t at; };
struct jcycler { struct jval *v; size_t n, at; };     // a joiner: n = 1, at = 1 after its first use

// Why a value is undefined, for the message when it is used.
struct jundef { const struct jstr *name; const char *owner; bool unsafe; };

struct jpair { struct jval key, val; uint64_t hash; };
struct jdict {
    struct jpair *pair;         // (n) in order of insertion
    size_t        n, cap;
    uint32_t     *slot;         // (n_slots, a power of two) index of a pair + 1; NULL while small
    size_t        n_slots;
};

// The arguments of a call.
struct jkwarg { const struct jstr *name; struct jval val; };
struct jargs {
    const struct jval   *pos;  size_t n_pos;
    const struct jkwarg *kw;   size_t n_kw;
};

// A builtin: fn gets the values of `params` (names separated by spaces, J_MISSING where not given);
// without params raw gets the arguments as they stand. self is the filtered value or the object.
struct jfunc {
    const char *name;
    const char *params;
    struct jval (*fn)(struct jx *x, struct jval self, const struct jval *arg);
    struct jval (*raw)(struct jx *x, struct jval self, const struct jargs *args);
};
struct jmethod { struct jval self; const struct jfunc *func; };
enum { JFUNC_PARAMS_MAX = 6 };

static inline struct jval jnone(void) { return (struct jval){ .kind = J_NONE }; }
static inline struct jval jbool(bool b) { return (struct jval){ .kind = J_BOOL, .b = b }; }
static inline struct jval jint(int64_t i) { return (struct jval){ .kind = J_INT, .i = i }; }
static inline struct jval jfloat(double d) { return (struct jval){ .kind = J_FLOAT, .d = d }; }
static inline struct jval jstring(struct jstr *s) { return (struct jval){ .kind = J_STR, .s = s }; }
static inline struct jval jlistval(struct jlist *l)
{
    return (struct jval){ .kind = J_LIST, .l = l };
}
static inline struct jval jtupleval(struct jlist *l)
{
    return (struct jval){ .kind = J_TUPLE, .l = l };
}
static inline struct jval jdictval(struct jdict *m)
{
    return (struct jval){ .kind = J_DICT, .m = m };
}
// name of an object of type `owner`, or of nothing (NULL).
struct jval jundefined(struct jx *x, const struct jstr *name, const char *owner);
struct jval junsafe(struct jx *x, const struct jstr *name, const char *owner);
struct jval jabsent(struct jx *x, const char *what);    // undefined for another reason
struct jval jgenerator(struct jx *x, struct jlist *l);
static inline bool jgiven(struct jval v) { return v.kind != J_MISSING; }

// Ends the run because `v` was used while undefined.
_Noreturn void jfail_undefined(struct jx *x, struct jval v);
// Python's name of the type: "str", "dict", ...
const char *jtype(struct jval v);

struct jlist *jlist_new(struct jx *x);
void jlist_add(struct jx *x, struct jlist *l, struct jval v);
struct jval jpair_tuple(struct jx *x, struct jval a, struct jval b);

struct jdict *jdict_new(struct jx *x);
// Replaces the value of a key that is there, else adds the pair at the end. Fails for a key that
// cannot be hashed.
void jdict_set(struct jx *x, struct jdict *m, struct jval key, struct jval val);
// NULL when absent or when the key is not hashable.
struct jval *jdict_find(struct jx *x, const struct jdict *m, struct jval key);
struct jval *jdict_find_text(struct jx *x, const struct jdict *m, const char *key);
// The pair of a key whose hash is known.
struct jpair *jdict_pair(struct jx *x, const struct jdict *m, struct jval key, uint64_t hash);
bool jhashable(struct jx *x, struct jval v);

bool jtruth(struct jval v);
bool jequal(struct jx *x, struct jval a, struct jval b);
// -1, 0, 1, or 2 where a NaN is involved. Fails for what Python does not order.
int  jcompare(struct jx *x, struct jval a, struct jval b);
bool jcontains(struct jx *x, struct jval item, struct jval in);
// Sorts by key, stable also when reversed.
struct jkeyed { struct jval key, val; };
void jsort(struct jx *x, struct jkeyed *v, size_t n, bool reverse);
// len(); false where Python has none.
bool jlength(struct jx *x, struct jval v, size_t *ret);
bool jiterable(struct jval v);

// An integer (a bool is one) / a number as double. False for other kinds.
bool jas_int(struct jval v, int64_t *ret);
bool jas_float(struct jval v, double *ret);

// Iteration over anything jiterable.
struct jiter { struct jval over; size_t at, byte; };
struct jiter jiter_start(struct jx *x, struct jval over);      // fails when not iterable
bool jiter_next(struct jx *x, struct jiter *it, struct jval *ret);
struct jlist *jiter_list(struct jx *x, struct jval over);      // all items, a new list
