// See rows.h.
#include "tests/rows.h"
#include <assert.h>
#include <stdlib.h>

float random_float(void)
{
    static uint32_t seed = 1;
    float sum = 0;
    for (int i = 0; i < 4; i++) {
        seed = seed * 1664525 + 1013904223;
        sum += (float)(seed >> 8) / 8388608.0f - 1.0f;
    }
    return sum * 0.87f;
}

static float *random_floats(size_t n, float scale)
{
    float *x = malloc(n * sizeof(float));
    assert(x);
    for (size_t i = 0; i < n; i++)
        x[i] = random_float() * scale;
    return x;
}

void rows_init(struct rows *x, const struct plan *plan, uint32_t n)
{
    *x = (struct rows){
        .n = n, .width = plan->slot_width[SLOT_Q], .kv_width = plan->slot_width[SLOT_K] };
    x->q = random_floats((size_t)n * x->width, 2.0f);
    x->k = random_floats((size_t)n * x->kv_width, 1.0f);
    x->v = random_floats((size_t)n * x->kv_width, 1.0f);
    x->a = random_floats((size_t)n * x->width, 1.0f);
}

void rows_finish(struct rows *x)
{
    free(x->q);
    free(x->k);
    free(x->v);
    free(x->a);
}

size_t rows_bytes(const struct rows *x)
{
    return (size_t)x->n * x->width * sizeof(float);
}

void rows_to_ref(const struct rows *x, struct ref *ref)
{
    assert(ref->n == x->n);
    for (size_t i = 0; i < (size_t)x->n * x->width; i++)
        ref->slot[SLOT_Q][i] = x->q[i];
    for (size_t i = 0; i < (size_t)x->n * x->kv_width; i++) {
        ref->slot[SLOT_K][i] = x->k[i];
        ref->slot[SLOT_V][i] = x->v[i];
    }
}

void table_fill(uint32_t *table, uint32_t first, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        table[i] = first + (n % 7 ? i * 7 % n : i);
}
