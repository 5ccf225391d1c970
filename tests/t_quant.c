// Protects engine/quant: every format decodes bit for bit as the `gguf` package does (see
// golden/quant.py), its integer form says the same, and half precision is exact.
#include "tests/test.h"
#include <math.h>
#include "base/base.h"
#include "engine/quant/quant.h"

TEST_MAIN

struct golden { char name[8]; uint32_t n, bytes; };

static uint8_t *read_file(const char *name, size_t *size)
{
    char path[4096];
    const char *dir = getenv("GODWIT_SOURCE");
    snprintf(path, sizeof(path), "%s/tests/golden/%s", dir ? dir : ".", name);
    FILE *f = fopen(path, "rb");
    if (!f)
        TEST_FAIL("%s: cannot open", path);
    uint8_t *p = malloc(1 << 20);
    REQUIRE(p);
    *size = fread(p, 1, 1 << 20, f);
    fclose(f);
    return p;
}

static void check_values(const struct quant *q, const float *got, const float *want, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        if (memcmp(&got[i], &want[i], sizeof(*got)) != 0)
            TEST_FAIL("%s: element %u is %a, not %a", q->name, i, (double)got[i], (double)want[i]);
}

static void check_ints(const struct quant *quant, const uint8_t *src, const float *want, uint32_t n)
{
    const struct quant_ints *ints = quant->ints;
    uint32_t group = ints->group, lo = 0, hi = 0;
    REQUIRE(group == 16 || group == 32);
    int8_t *q = malloc(n);
    float *scale = malloc(n / group * sizeof(*scale)), *min = malloc(n / group * sizeof(*min));
    REQUIRE(q && scale && min);
    ints->decode(src, n, q, scale, min);
    for (uint32_t i = 0; i < n; i++) {
        // Products of these few bits are exact, so both forms round the same way.
        float v = scale[i / group] * (float)q[i] + min[i / group];
        if (v != want[i])
            TEST_FAIL("%s: element %u: q = %d gives %a, not %a", quant->name, i, q[i], (double)v,
                      (double)want[i]);
        REQUIRE(q[i] >= ints->q_min && q[i] <= ints->q_max);
        lo += q[i] == ints->q_min;
        hi += q[i] == ints->q_max;
    }
    REQUIRE(lo > 0 && hi > 0);      // the range is what occurs, not more
    free(q);
    free(scale);
    free(min);
}

// src lies at an odd address: blocks have no alignment in a file.
static void check_format(const struct golden *g, const uint8_t *src, const float *want)
{
    const struct quant *q = quant_by_name(g->name);
    if (!q)
        TEST_FAIL("no format %s", g->name);
    REQUIRE_INT(g->n / q->block_elems * q->block_bytes, g->bytes);
    uint8_t *odd = malloc(g->bytes + 1);
    float *got = malloc(g->n * sizeof(*got));
    REQUIRE(odd && got);
    memcpy(odd + 1, src, g->bytes);
    q->decode(odd + 1, g->n, got);
    check_values(q, got, want, g->n);
    if (q->ints->group)
        check_ints(q, odd + 1, want, g->n);
    else
        REQUIRE(!q->ints->decode);
    free(odd);
    free(got);
}

TEST(formats_decode_like_the_gguf_package)
{
    size_t size, at = 0;
    unsigned seen = 0;
    uint8_t *p = read_file("quant.bin", &size);
    while (at < size) {
        struct golden g;
        REQUIRE(size - at >= sizeof(g));
        memcpy(&g, p + at, sizeof(g));
        at += sizeof(g);
        REQUIRE(size - at >= g.bytes + 4 * (size_t)g.n);
        float *want = malloc(4 * (size_t)g.n);
        REQUIRE(want);
        memcpy(want, p + at + g.bytes, 4 * (size_t)g.n);
        check_format(&g, p + at, want);
        free(want);
        at += g.bytes + 4 * (size_t)g.n;
        seen++;
    }
    REQUIRE_INT(seen, QUANT_COUNT);
    free(p);
}

TEST(table_finds_by_name_and_id)
{
    for (size_t i = 0; i < QUANT_COUNT; i++) {
        REQUIRE(quant_by_name(quants[i].name) == &quants[i]);
        REQUIRE(quant_by_gguf_id(quants[i].gguf_id) == &quants[i]);
        REQUIRE(quants[i].ints->group == 0 || quants[i].block_elems % quants[i].ints->group == 0);
    }
    REQUIRE(!quant_by_name("q9_9") && !quant_by_gguf_id(4) && !quant_by_gguf_id(UINT32_MAX));
}

// A half by its definition.
static double half_value(unsigned h)
{
    int e = (int)(h >> 10 & 31), m = (int)(h & 1023);
    double v = e == 31 ? (m ? NAN : INFINITY) : e ? ldexp(1024 + m, e - 25) : ldexp(m, -24);
    return h & 0x8000 ? -v : v;
}

TEST(f16_to_f32_is_exact_for_all_halves)
{
    for (unsigned h = 0; h < 65536; h++) {
        float got = f16_to_f32((uint16_t)h);
        double want = half_value(h);
        if (isnan(want))
            REQUIRE(isnan(got));
        else
            REQUIRE((double)got == want && !signbit(got) == !(h & 0x8000));
    }
}

// Each half, and the floats around the middle between it and the next one.
TEST(f32_to_f16_rounds_to_nearest_even)
{
    for (unsigned h = 0; h < 0x7c00; h++) {
        float v = f16_to_f32((uint16_t)h);
        double next = h == 0x7bff ? 65536 : half_value(h + 1);  // where the next one would be
        float mid = (float)((v + next) / 2);                    // exact
        unsigned even = h & 1 ? h + 1 : h;
        REQUIRE_INT(f32_to_f16(v), h);
        REQUIRE_INT(f32_to_f16(-v), h | 0x8000);
        REQUIRE_INT(f32_to_f16(nextafterf(mid, 0)), h);
        REQUIRE_INT(f32_to_f16(nextafterf(mid, INFINITY)), h + 1);
        REQUIRE_INT(f32_to_f16(mid), even);
        REQUIRE_INT(f32_to_f16(-mid), even | 0x8000);
    }
    REQUIRE_INT(f32_to_f16(INFINITY), 0x7c00);
    REQUIRE_INT(f32_to_f16(-1e30f), 0xfc00);
    REQUIRE_INT(f32_to_f16(1e-40f), 0);
    REQUIRE(isnan(f16_to_f32(f32_to_f16(NAN))));
}
