// Qwen 2 and 2.5: Llama with biases on q, k and v and RoPE over halves.
#include "engine/model/arch/arch.h"

static int configure(const struct gguf *g, struct model_cfg *cfg, struct err *err)
{
    (void)g;
    (void)err;
    cfg->rope.kind = ROPE_HALVES;
    return 0;
}

const struct arch arch_qwen2 = { .name = "qwen2", .configure = configure };
