// Functions of floats to the last unit or two, the same on every device: GLSL promises less of its
// own. NaN goes through.

// x / y for y whose reciprocal is a normal number.
float quotient(float x, float y)
{
    precise float r = 1.0 / y;
    precise float e = fma(-y, r, 1.0);
    r = fma(e, r, r);
    precise float q = x * r;
    e = fma(-y, q, x);
    return fma(e, r, q);
}

// 1 / sqrt(x).
float inverse_root(float x)
{
    precise float r = inversesqrt(x);
    precise float e = fma(-x * r, r, 1.0);
    return fma(0.5 * r, e, r);
}

// sum and the squares of four numbers, in order.
float add_squares(float sum, vec4 x)
{
    return fma(x.w, x.w, fma(x.z, x.z, fma(x.y, x.y, fma(x.x, x.x, sum))));
}

// 0 below the smallest normal number.
float exp_of(float x)
{
    const float LEAST = -87.33654, MOST = 88.37;
    // In integers, since a compiler may make a minimum of the next line, which drops a NaN.
    bool is_nan = (floatBitsToUint(x) & 0x7fffffffu) > 0x7f800000u;
    precise float a = x > MOST ? MOST : x;
    precise float n = roundEven(a * 1.44269504088896);
    a = fma(n, -0.693359375, a);
    a = fma(n, 2.12194440e-4, a);
    // Taylor: |a| <= ln 2 / 2, so the first term left out is below 6e-9.
    precise float y = 1.0 / 5040.0;
    y = fma(y, a, 1.0 / 720.0);
    y = fma(y, a, 1.0 / 120.0);
    y = fma(y, a, 1.0 / 24.0);
    y = fma(y, a, 1.0 / 6.0);
    y = fma(y, a, 0.5);
    y = fma(y, a, 1.0);
    y = fma(y, a, 1.0);
    y *= intBitsToFloat(int(n) + 127 << 23);
    return is_nan ? x : x < LEAST ? 0.0 : y;
}

// Near zero, where the formula cancels, Cephes' odd polynomial.
float tanh_of(float x)
{
    precise float a = abs(x), z = x * x;
    if (a >= 0.625) {
        precise float far = 1.0 - quotient(2.0, exp_of(min(a + a, 80.0)) + 1.0);
        return x < 0.0 ? -far : far;
    }
    precise float near = -5.70498872745e-3;
    near = fma(near, z, 2.06390887954e-2);
    near = fma(near, z, -5.37397155531e-2);
    near = fma(near, z, 1.33314422036e-1);
    near = fma(near, z, -3.33332819422e-1);
    return fma(near * z, x, x);
}
