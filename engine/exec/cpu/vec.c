// The choice between the compiled sets of vector kernels.
#include "engine/exec/cpu/vec.h"
#include <string.h>
#include "base/base.h"

static const struct vec *avx2(void)
{
#ifdef VEC_HAVE_AVX2
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
        __builtin_cpu_supports("f16c"))
        return &vec_avx2;
#endif
    return NULL;
}

const struct vec *vec_best(void)
{
    const struct vec *v = avx2();
    return v ? v : &vec_portable;
}

const struct vec *vec_by_name(const char *name)
{
    const struct vec *set[] = { &vec_portable, avx2() };
    for (unsigned i = 0; i < ARRAY_LEN(set); i++)
        if (set[i] && strcmp(set[i]->name, name) == 0)
            return set[i];
    return NULL;
}
