// The choice between the compiled sets of vector kernels.
#include "engine/exec/cpu/vec.h"
#include <errno.h>
#include <stdatomic.h>
#include <string.h>
#include "base/base.h"

static const struct vec *avx2(void)
{
#ifdef VEC_HAVE_AVX2
    // What has AVX2 has F16C, which not every compiler can ask for.
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return &vec_avx2;
#endif
    return NULL;
}

static _Atomic(const struct vec *) forced;

const struct vec *vec_best(void)
{
    const struct vec *v = atomic_load(&forced);
    v = v ? v : avx2();
    return v ? v : &vec_portable;
}

int vec_force(const char *name)
{
    const struct vec *set[] = { &vec_portable, avx2() };
    for (unsigned i = 0; i < ARRAY_LEN(set); i++)
        if (name && set[i] && strcmp(set[i]->name, name) == 0) {
            atomic_store(&forced, set[i]);
            return 0;
        }
    if (name)
        return -ENOTSUP;
    atomic_store(&forced, NULL);
    return 0;
}
