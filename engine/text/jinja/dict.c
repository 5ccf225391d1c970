// Dicts of the template language: pairs in the order of insertion, and above a few of them an index
// by open addressing. The hash is seeded anew in every run, so that no input can make it slow.
#include "engine/text/jinja/value.h"
#include <errno.h>
#include <string.h>
#include "base/base.h"
#include "engine/text/jinja/jstr.h"

enum { SMALL_DICT = 8 };

static uint64_t mix(uint64_t h)
{
    h ^= h >> 32;
    h *= 0xd6e8feb86659fd93u;
    h ^= h >> 32;
    h *= 0xd6e8feb86659fd93u;
    return h ^ h >> 32;
}

static uint64_t hash_text(uint64_t h, const char *p, size_t n)
{
    uint64_t w;
    for (; n >= 8; p += 8, n -= 8) {
        memcpy(&w, p, 8);
        h = mix(h ^ w) + 0x9e3779b97f4a7c15u;
    }
    w = n;
    for (size_t i = 0; i < n; i++)
        w = w << 8 | (unsigned char)p[i];
    return mix(h ^ w);
}

// Equal values have equal hashes: 1, 1.0 and true are one key.
static bool hash_value(struct jx *x, struct jval v, uint64_t *ret)
{
    double d;
    uint64_t h = x->seed, w;
    switch (v.kind) {
    case J_STR:
        *ret = hash_text(h, v.s->p, v.s->n);
        return true;
    case J_BOOL: case J_INT: case J_BIG: case J_FLOAT:
        jas_float(v, &d);
        d += 0.0;               // -0.0 is 0.0
        memcpy(&w, &d, 8);
        *ret = mix(h ^ w);
        return true;
    case J_TUPLE:
        jx_enter_value(x);
        for (size_t i = 0; i < v.l->n; i++) {
            if (!hash_value(x, v.l->v[i], &w)) {
                jx_leave_value(x);
                return false;
            }
            h = mix(h ^ w) + 1;
        }
        jx_leave_value(x);
        *ret = h;
        return true;
    case J_LIST: case J_DICT: case J_KEYS: case J_ITEMS:
        return false;
    default:
        *ret = mix(h ^ (uint64_t)v.kind);
        return true;
    }
}

bool jhashable(struct jx *x, struct jval v)
{
    uint64_t h;
    return hash_value(x, v, &h);
}

struct jdict *jdict_new(struct jx *x)
{
    return jx_alloc(x, sizeof(struct jdict));
}

struct jpair *jdict_pair(struct jx *x, const struct jdict *m, struct jval key, uint64_t hash)
{
    if (!m->slot) {
        for (size_t i = 0; i < m->n; i++) {
            if (m->pair[i].hash == hash && jequal(x, m->pair[i].key, key))
                return &m->pair[i];
        }
        return NULL;
    }
    for (size_t i = hash & (m->n_slots - 1); m->slot[i]; i = (i + 1) & (m->n_slots - 1)) {
        struct jpair *p = &m->pair[m->slot[i] - 1];
        if (p->hash == hash && jequal(x, p->key, key))
            return p;
    }
    return NULL;
}

static void slot_add(struct jdict *m, size_t pair)
{
    size_t i = m->pair[pair].hash & (m->n_slots - 1);
    while (m->slot[i])
        i = (i + 1) & (m->n_slots - 1);
    m->slot[i] = (uint32_t)pair + 1;
}

static void index_pairs(struct jx *x, struct jdict *m)
{
    m->n_slots = m->n_slots ? m->n_slots * 2 : 4 * SMALL_DICT;
    m->slot = jx_calloc(x, m->n_slots, sizeof(*m->slot));
    for (size_t i = 0; i < m->n; i++)
        slot_add(m, i);
}

void jdict_set(struct jx *x, struct jdict *m, struct jval key, struct jval val)
{
    uint64_t hash;
    if (!hash_value(x, key, &hash))
        jx_fail(x, -EINVAL, "unhashable type: '%s'", jtype(key));
    struct jpair *p = jdict_pair(x, m, key, hash);
    if (p) {
        p->val = val;
        return;
    }
    if (m->n == m->cap)
        m->pair = jx_grow(x, m->pair, m->n, &m->cap, sizeof(*m->pair));
    m->pair[m->n++] = (struct jpair){ key, val, hash };
    if (m->n > SMALL_DICT && m->n * 2 > m->n_slots)
        index_pairs(x, m);
    else if (m->slot)
        slot_add(m, m->n - 1);
}

struct jval *jdict_find(struct jx *x, const struct jdict *m, struct jval key)
{
    uint64_t hash;
    struct jpair *p = hash_value(x, key, &hash) ? jdict_pair(x, m, key, hash) : NULL;
    return p ? &p->val : NULL;
}

struct jval *jdict_find_text(struct jx *x, const struct jdict *m, const char *key)
{
    struct jstr s = { .p = key, .n = strlen(key) };
    return jdict_find(x, m, jstring(&s));
}
