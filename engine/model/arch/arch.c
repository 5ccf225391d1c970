// The table of architectures, expanded from arch.def.
#include "engine/model/arch/arch.h"
#include <string.h>
#include "base/base.h"

static const struct arch *const archs[] = {
#define ARCH(name) &arch_##name,
#include "engine/model/arch/arch.def"
#undef ARCH
};

const struct arch *arch_find(const char *name, size_t n)
{
    for (size_t i = 0; i < ARRAY_LEN(archs); i++) {
        if (strlen(archs[i]->name) == n && memcmp(archs[i]->name, name, n) == 0)
            return archs[i];
    }
    return NULL;
}
