// Model architectures: one row of arch.def and one file each.
//
// A row turns metadata into properties of model_cfg. Which tensors exist follows from the
// properties and from the file; nothing after configure() asks for the architecture again.
#pragma once
#include "base/err.h"
#include "engine/model/cfg.h"
#include "engine/model/gguf.h"

struct arch {
    const char *name;                   // general.architecture
    // cfg arrives with everything that the common keys say; configure() sets what this architecture
    // does differently. Returns 0 or -EINVAL with err set.
    int       (*configure)(const struct gguf *g, struct model_cfg *cfg, struct err *err);
};

#define ARCH(name) extern const struct arch arch_##name;
#include "engine/model/arch/arch.def"
#undef ARCH

const struct arch *arch_find(const char *name, size_t n);   // NULL: unknown
