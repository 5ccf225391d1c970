// Llama 2 and 3, Mistral v0.1, SmolLM: the plain pre-norm decoder.
#include "engine/model/arch/arch.h"

static int configure(const struct gguf *g, struct model_cfg *cfg, struct err *err)
{
    (void)g;
    (void)err;
    // The converter permuted the rows of q and k so that RoPE pairs are neighbours.
    cfg->rope.kind = ROPE_ADJACENT;
    return 0;
}

const struct arch arch_llama = { .name = "llama", .configure = configure };
