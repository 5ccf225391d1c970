// Gemma 3: five layers with a sliding window to one global layer, norms around each block, normed
// query and key heads. Norm weights in the file already include the +1 of the reference.
#include "engine/model/arch/arch.h"
#include <errno.h>
#include <math.h>

#define WINDOW_PERIOD 6
#define LOCAL_ROPE_BASE 10000.0f    // not in the file

static int configure(const struct gguf *g, struct model_cfg *cfg, struct err *err)
{
    cfg->act = ACT_GELU_TANH;
    cfg->qk_norm = true;
    cfg->post_norms = true;
    cfg->embed_scale = sqrtf((float)cfg->width);
    cfg->rope.kind = ROPE_HALVES;
    if (cfg->window && !cfg->window_period)
        cfg->window_period = WINDOW_PERIOD;
    // Scaling applies to global layers only.
    cfg->rope_local = cfg->rope;
    cfg->rope_local.base = LOCAL_ROPE_BASE;
    cfg->rope_local.scaling = ROPE_SCALING_NONE;
    cfg->rope_local.factor = 1.0f;
    int r = gguf_f32(g, "gemma3.rope.freq_base_swa", &cfg->rope_local.base, err);
    return r == -ENOENT ? 0 : r;
}

const struct arch arch_gemma3 = { .name = "gemma3", .configure = configure };
