// A row as a product takes it: normed or as it is; as floats, as bytes (act.glsl) or as halves. One
// workgroup makes a row; all its invocations call norm_row() together.
//
// Sums run in one order, whatever THREADS is: of NORM_LANES lanes each takes every NORM_LANES-th
// vec4; then 16 sums of every 16th lane; then these.
//
// Needs common.glsl, math.glsl, act.glsl and as constants THREADS, a power of two up to NORM_LANES,
// NORM_WIDTH, the elements of a row, and NORM_STEPS, what is done in this order:
const uint NORM_ADDED = 1;              // src += added_scale * RMSNorm(added; added_weight)
const uint NORM_NORMED = 2;             // x = RMSNorm(src; weight) * scale, else x = src
const uint NORM_FLOATS = 4;             // dst = x
const uint NORM_BYTES = 8;              // act = x as act.glsl has it
const uint NORM_HALVES = 16;            // act = x as halves: zeros to a multiple of 64, then in 16
                                        // bytes more the scale, which is a power of two
const uint NORM_UNIT = 32;              // and that is 1, for rows that halves can hold

// Addresses of a row's elements, and of weights. src and added may be what this dispatch wrote.
struct Norm {
    Floats src, added, added_weight, weight, dst;
    uint64_t act;
    float added_eps, added_scale, eps, scale;
};

// Where the bytes go: four elements of a row, as act_store() has them.
void norm_bytes(Norm n, uint quad, vec4 x);

const uint NORM_LANES = 256, NORM_FEW = 16;
// Lanes of an invocation.
const uint NORM_TURNS = THREADS < NORM_LANES ? NORM_LANES / THREADS : 1;
const uint NORM_QUADS = (NORM_WIDTH + 3) / 4;
const uint NORM_PADDED = (NORM_WIDTH + 63) / 64 * 16;
const uint NORM_ALL = (NORM_STEPS & NORM_HALVES) != 0 ? NORM_PADDED : NORM_QUADS;
const uint NORM_EACH = (NORM_ALL + THREADS - 1) / THREADS;
const int HALVES_LOG2 = 10;             // halves of a row are below 2^HALVES_LOG2

// Asked for both bytes and halves, a row gets one of them, and this says which.
bool norm_as_halves = (NORM_STEPS & NORM_HALVES) != 0;

shared vec2 norm_part[NORM_LANES], norm_few[NORM_FEW];

bool norm_does(uint step)
{
    return (NORM_STEPS & step) != 0;
}

uint norm_quad(uint k)
{
    return k * THREADS + act_me;
}

// Four elements, zeros past the end.
vec4 norm_load(Floats row, uint quad)
{
    vec4 x = vec4(0.0);
    if (NORM_WIDTH % 4 == 0) {
        if (quad < NORM_QUADS)
            x = SharedFloats4(uint64_t(row)).v[quad];
    } else {
        for (uint i = 0; i < 4; i++)
            if (quad * 4 + i < NORM_WIDTH)
                x[i] = SharedFloats(uint64_t(row)).v[quad * 4 + i];
    }
    return x;
}

vec4 norm_weight(Floats row, uint quad)
{
    vec4 x = vec4(0.0);
    if (NORM_WIDTH % 4 == 0) {
        if (quad < NORM_QUADS)
            x = Floats4(uint64_t(row)).v[quad];
    } else {
        for (uint i = 0; i < 4; i++)
            if (quad * 4 + i < NORM_WIDTH)
                x[i] = row.v[quad * 4 + i];
    }
    return x;
}

void norm_store(Floats row, uint quad, vec4 x)
{
    if (NORM_WIDTH % 4 == 0) {
        if (quad < NORM_QUADS)
            Floats4(uint64_t(row)).v[quad] = x;
    } else {
        for (uint i = 0; i < 4; i++)
            if (quad * 4 + i < NORM_WIDTH)
                row.v[quad * 4 + i] = x[i];
    }
}

// Sums and maxima over the lanes of a row, for all invocations.
vec2 norm_reduce(vec2 lane[NORM_TURNS])
{
    uint me = act_me;
    [[unroll]] for (uint j = 0; j < NORM_TURNS; j++)
        norm_part[j * THREADS + me] = lane[j];
    barrier();
    if (me < NORM_FEW) {
        precise float sum = 0.0;
        float most = 0.0;
        [[unroll]] for (uint i = me; i < NORM_LANES; i += NORM_FEW) {
            sum += norm_part[i].x;
            most = max(most, norm_part[i].y);
        }
        norm_few[me] = vec2(sum, most);
    }
    barrier();
    precise float sum = 0.0;
    float most = 0.0;
    [[unroll]] for (uint i = 0; i < NORM_FEW; i++) {
        sum += norm_few[i].x;
        most = max(most, norm_few[i].y);
    }
    return vec2(sum, most);
}

// The sum of squares, and the largest |x * weight|.
vec2 norm_measure(vec4 x[NORM_EACH], vec4 weight[NORM_EACH])
{
    vec2 lane[NORM_TURNS];
    [[unroll]] for (uint j = 0; j < NORM_TURNS; j++) {
        precise float sum = 0.0;
        float most = 0.0;
        [[unroll]] for (uint k = j; k < NORM_EACH; k += NORM_TURNS) {
            sum = add_squares(sum, x[k]);
            vec4 a = abs(x[k] * weight[k]);
            most = max(max(most, max(a.x, a.y)), max(a.z, a.w));
        }
        lane[j] = vec2(sum, most);
    }
    return norm_reduce(lane);
}

float norm_factor(float sum, float eps)
{
    precise float mean = sum / float(NORM_WIDTH) + eps;
    return inverse_root(mean);
}

// What halves hold of an element: only beyond their largest number something else.
vec4 norm_clamp(vec4 x)
{
    const float LARGEST = 65504.0;
    for (uint i = 0; i < 4; i++)
        if (abs(x[i]) > LARGEST && !isinf(x[i]))
            x[i] = x[i] > 0.0 ? LARGEST : -LARGEST;
    return x;
}

void norm_store_halves(uint64_t act, vec4 x[NORM_EACH], float largest)
{
    int e = HALVES_LOG2;
    if (!norm_does(NORM_UNIT) && largest > 0.0 && !isinf(largest))
        frexp(largest, e);
    e = clamp(e, HALVES_LOG2 - 126, HALVES_LOG2 + 126);
    float up = ldexp(1.0, HALVES_LOG2 - e);
    Words2 dst = Words2(act);
    [[unroll]] for (uint k = 0; k < NORM_EACH; k++) {
        vec4 y = norm_does(NORM_UNIT) ? norm_clamp(x[k]) : x[k] * up;
        if (norm_quad(k) < NORM_PADDED)
            dst.v[norm_quad(k)] = uvec2(packHalf2x16(y.xy), packHalf2x16(y.zw));
    }
    if (act_me == 0)
        dst.v[NORM_PADDED].x = floatBitsToUint(ldexp(1.0, e - HALVES_LOG2));
}

void norm_row(Norm n)
{
    vec4 x[NORM_EACH], w[NORM_EACH];
    float largest = 0.0;
    [[unroll]] for (uint k = 0; k < NORM_EACH; k++) {
        x[k] = norm_load(n.src, norm_quad(k));
        w[k] = norm_does(NORM_NORMED) ? norm_weight(n.weight, norm_quad(k)) : vec4(1.0);
    }
    if (norm_does(NORM_ADDED)) {
        vec4 y[NORM_EACH], v[NORM_EACH];
        [[unroll]] for (uint k = 0; k < NORM_EACH; k++) {
            y[k] = norm_load(n.added, norm_quad(k));
            v[k] = norm_weight(n.added_weight, norm_quad(k));
        }
        float r = norm_factor(norm_measure(y, v).x, n.added_eps);
        [[unroll]] for (uint k = 0; k < NORM_EACH; k++) {
            precise vec4 z = y[k] * r * v[k];
            x[k] = fma(z, vec4(n.added_scale), x[k]);
            norm_store(n.src, norm_quad(k), x[k]);
        }
    }
    if (norm_does(NORM_NORMED | NORM_HALVES)) {
        vec2 m = norm_measure(x, w);
        largest = m.y;
        if (norm_does(NORM_NORMED)) {
            float r = norm_factor(m.x, n.eps);
            largest *= r * n.scale;
            [[unroll]] for (uint k = 0; k < NORM_EACH; k++) {
                precise vec4 z = x[k] * r * w[k];
                x[k] = z * n.scale;
            }
        }
    }
    [[unroll]] for (uint k = 0; k < NORM_EACH; k++) {
        if (norm_does(NORM_FLOATS))
            norm_store(n.dst, norm_quad(k), x[k]);
        if (norm_does(NORM_BYTES) && !norm_as_halves)
            norm_bytes(n, norm_quad(k), x[k]);
    }
    if (norm_does(NORM_HALVES) && norm_as_halves)
        norm_store_halves(n.act, x, largest);
}
