// Touches everything that an open GGUF file offers, as the engine would: for the fuzz target and
// for tests with damaged files. What must hold is asserted; the sanitizers judge the rest.
#pragma once
#include <assert.h>
#include <string.h>
#include "base/str.h"
#include "engine/model/gguf.h"

#define WALK_BLOCK_ELEMS_MAX 256

static inline void walk_key(const struct gguf *g, const char *name, enum gguf_type type)
{
    struct gguf_array a = {0};
    struct gguf_str s = {0};
    uint64_t u64 = 1, sum = 0;
    uint32_t u32 = 1;
    float f32 = 1;
    bool b = true;
    gguf_u64(g, name, 0, UINT64_MAX, &u64, NULL);
    gguf_u32(g, name, 1, 1000, &u32, NULL);
    gguf_f32(g, name, &f32, NULL);
    gguf_bool(g, name, &b, NULL);
    assert((gguf_string(g, name, &s, NULL) == 0) == (type == GGUF_STRING));
    assert((gguf_get_array(g, name, &a, NULL) == 0) == (type == GGUF_ARRAY));
    assert(u32 >= 1 && u32 <= 1000);
    for (size_t i = 0; i < s.n; i++)
        sum += (unsigned char)s.p[i];
    for (size_t i = 0; i < a.n; i++) {
        if (a.type == GGUF_STRING)
            sum += a.str[i].n ? (unsigned char)a.str[i].p[a.str[i].n - 1] : 0;
        else if (a.type == GGUF_F32 || a.type == GGUF_F64)
            sum += gguf_array_f32(&a, i) > 0;
        else
            sum += (uint64_t)gguf_array_int(&a, i);
    }
    volatile uint64_t sink = sum;       // so that the reads are not optimised away
    (void)sink;
}

// The first and the last block of a tensor.
static inline void walk_tensor(const struct tensor *t)
{
    const struct quant *q = t->quant;
    float f[WALK_BLOCK_ELEMS_MAX], scale[WALK_BLOCK_ELEMS_MAX], min[WALK_BLOCK_ELEMS_MAX];
    int8_t i8[WALK_BLOCK_ELEMS_MAX];
    const uint8_t *first = t->data, *last = first + t->bytes - q->block_bytes;
    assert(q->block_elems <= WALK_BLOCK_ELEMS_MAX && t->bytes >= q->block_bytes);
    assert(t->bytes % q->block_bytes == 0);
    q->decode(first, q->block_elems, f);
    q->decode(last, q->block_elems, f);
    if (q->ints->group)
        q->ints->decode(last, q->block_elems, i8, scale, min);
}

static inline void walk_gguf(const struct gguf *g)
{
    const char *name;
    enum gguf_type type;
    struct str json = {0};
    struct hash h;
    for (size_t i = 0; gguf_key_at(g, i, &name, &type); i++) {
        walk_key(g, name, type);
        gguf_key_json(g, i, 4, &json);
        str_clear(&json);
    }
    for (size_t i = 0; i < gguf_n_tensors(g); i++) {
        const struct tensor *t = gguf_tensor_at(g, i);
        assert(gguf_tensor(g, t->name) == t);
        walk_tensor(t);
    }
    assert(!gguf_tensor(g, ""));
    gguf_header_hash(g, &h);
    str_free(&json);
}
