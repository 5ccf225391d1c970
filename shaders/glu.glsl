// Activations of gated linear units, on math.glsl.
const uint ACT_SILU = 0, ACT_GELU_TANH = 1;         // enum act_kind

// x / (1 + exp(-u)), without an overflow for any u.
float gated(float x, float u)
{
    precise float t = exp_of(-abs(u));
    precise float s = u >= 0.0 ? x : x * t;
    return quotient(s, 1.0 + t);
}

float glu_act(uint kind, float x)
{
    if (kind == ACT_SILU)
        return gated(x, x);
    // x / 2 * (1 + tanh(u)) = x / (1 + exp(-2 u))
    precise float u = 1.5957691216057307 * fma(0.044715 * x * x, x, x);
    return gated(x, u);
}
