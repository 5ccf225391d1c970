// RoPE's frequencies: plain, interpolated, and YaRN's ramp between the two.
#include "engine/exec/rope_freq.h"
#include <math.h>
#include "base/base.h"

#define PI 3.14159265358979323846

// The dimension pair whose wavelength makes `turns` turns in the original context.
static double yarn_pair(const struct rope_cfg *c, double turns)
{
    return c->n_rot * log(c->orig_ctx_tokens / (turns * 2.0 * PI)) / (2.0 * log(c->base));
}

static double frequency(const struct rope_cfg *c, const float *divisor, uint32_t i)
{
    double plain = pow(c->base, -2.0 * i / c->n_rot) / (divisor ? divisor[i] : 1.0);
    if (c->scaling == ROPE_SCALING_NONE)
        return plain;
    double scaled = plain / c->factor;
    if (c->scaling == ROPE_SCALING_LINEAR)
        return scaled;
    // YaRN: fast pairs keep their frequency, slow ones are interpolated, a ramp between.
    double low = fmax(0.0, floor(yarn_pair(c, c->beta_fast)));
    double high = fmin(c->n_rot - 1.0, ceil(yarn_pair(c, c->beta_slow)));
    double ramp = (i - low) / fmax(0.001, high - low);
    double keep = 1.0 - CLAMP(ramp, 0.0, 1.0);
    return scaled * (1.0 - keep) + plain * keep;
}

void rope_frequencies(const struct rope_cfg *c, const struct tensor *divisors, double *freq)
{
    float divisor[HEAD_DIM_MAX / 2];
    uint32_t half = c->n_rot / 2;
    assert(half <= ARRAY_LEN(divisor));
    if (divisors) {
        assert(divisors->dim[0] == half);
        divisors->quant->decode(divisors->data, half, divisor);
    }
    for (uint32_t i = 0; i < half; i++)
        freq[i] = frequency(c, divisors ? divisor : NULL, i);
}

float rope_magnitude(const struct rope_cfg *c)
{
    if (c->scaling != ROPE_SCALING_YARN)
        return 1.0f;
    return c->attn_factor * (1.0f + 0.1f * logf(c->factor));
}
