// Heads of q and k: normed, then pairs of their dimensions rotated by the row's angles. Sums run in
// the order of norm.glsl.
//
// Needs common.glsl, math.glsl and as constants HEAD_DIM, NORMED, ROPE and HALF_ROT, the pairs of a
// head.
const uint ROPE_NONE = 0, ROPE_ADJACENT = 1, ROPE_HALVES = 2;   // enum rope_kind
const uint QUADS = HEAD_DIM / 4, SUMS = 16;

struct Head {
    Floats x, weight;                   // (HEAD_DIM)
    Floats2 turn;                       // (HALF_ROT) cos and sin
    float factor;                       // of the norm
};

float head_squares(Floats x, uint quad)
{
    return add_squares(0.0, Floats4(uint64_t(x)).v[quad]);
}

float head_factor(float sum, float eps)
{
    precise float mean = sum / float(HEAD_DIM) + eps;
    return inverse_root(mean);
}

// By one invocation.
float head_factor_alone(Floats x, float eps)
{
    precise float sum = 0.0;
    for (uint i = 0; i < SUMS; i++) {
        precise float some = 0.0;
        for (uint quad = i; quad < QUADS; quad += SUMS)
            some += head_squares(x, quad);
        sum += some;
    }
    return head_factor(sum, eps);
}

float head_normed(Head h, uint d)
{
    precise float x = h.x.v[d];
    if (NORMED) {
        x *= h.factor;
        x *= h.weight.v[d];
    }
    return x;
}

float head_turned(Head h, uint d)
{
    bool adjacent = ROPE == ROPE_ADJACENT;
    if (ROPE == ROPE_NONE || d >= 2 * HALF_ROT)
        return head_normed(h, d);
    uint i = adjacent ? d / 2 : d % HALF_ROT;
    precise float a = head_normed(h, adjacent ? 2 * i : i);
    precise float b = head_normed(h, adjacent ? 2 * i + 1 : i + HALF_ROT);
    vec2 by = h.turn.v[i];
    precise float across = d == (adjacent ? 2 * i : i) ? -(b * by.y) : b * by.x;
    return fma(a, d == (adjacent ? 2 * i : i) ? by.x : by.y, across);
}

vec4 head_quad(Head h, uint quad)
{
    return vec4(head_turned(h, 4 * quad), head_turned(h, 4 * quad + 1),
                head_turned(h, 4 * quad + 2), head_turned(h, 4 * quad + 3));
}
