// Protects engine/text/utf8: exactly the well-formed sequences are characters, and a text cut
// anywhere gives the same characters as the whole.
#include "tests/test.h"
#include "base/base.h"
#include "base/str.h"
#include "engine/text/utf8.h"

TEST_MAIN

#define R "\xef\xbf\xbd"

// Unicode 15, table 3-7, row by row: ranges of the bytes.
static const struct row { uint8_t n, range[4][2]; } rows[] = {
    { 1, { { 0x00, 0x7f } } },
    { 2, { { 0xc2, 0xdf }, { 0x80, 0xbf } } },
    { 3, { { 0xe0, 0xe0 }, { 0xa0, 0xbf }, { 0x80, 0xbf } } },
    { 3, { { 0xe1, 0xec }, { 0x80, 0xbf }, { 0x80, 0xbf } } },
    { 3, { { 0xed, 0xed }, { 0x80, 0x9f }, { 0x80, 0xbf } } },
    { 3, { { 0xee, 0xef }, { 0x80, 0xbf }, { 0x80, 0xbf } } },
    { 4, { { 0xf0, 0xf0 }, { 0x90, 0xbf }, { 0x80, 0xbf }, { 0x80, 0xbf } } },
    { 4, { { 0xf1, 0xf3 }, { 0x80, 0xbf }, { 0x80, 0xbf }, { 0x80, 0xbf } } },
    { 4, { { 0xf4, 0xf4 }, { 0x80, 0x8f }, { 0x80, 0xbf }, { 0x80, 0xbf } } },
};

// The longest match of p with a row; *whole: the row is complete.
static size_t match(const uint8_t *p, size_t n, bool *whole)
{
    size_t best = 0;
    *whole = false;
    for (size_t r = 0; r < ARRAY_LEN(rows); r++) {
        size_t k = 0;
        const struct row *row = &rows[r];
        while (k < row->n && k < n && p[k] >= row->range[k][0] && p[k] <= row->range[k][1])
            k++;
        *whole |= k == row->n;
        best = MAX(best, k);
    }
    return best;
}

// What a whole text becomes, from the table alone. Returns bytes in dst (3 * n at most).
static size_t repaired(const uint8_t *p, size_t n, char *dst)
{
    size_t done = 0;
    for (size_t i = 0; i < n;) {
        bool whole;
        size_t k = match(p + i, n - i, &whole);
        memcpy(dst + done, whole ? (const char *)p + i : R, whole ? k : 3);
        done += whole ? k : 3;
        i += MAX(k, (size_t)1);
    }
    return done;
}

// Pushes p in pieces: bit i of cuts cuts before byte i + 1.
static void check_cuts(const uint8_t *p, size_t n, unsigned cuts, struct str *out, const char *want,
                       size_t n_want)
{
    struct utf8_stream s = {0};
    str_clear(out);
    for (size_t i = 0, from = 0; i < n; i++) {
        if (i + 1 < n && !(cuts >> i & 1))
            continue;
        utf8_push(&s, (const char *)p + from, i + 1 - from, out);
        from = i + 1;
        REQUIRE(utf8_valid(out->p, out->n));
    }
    utf8_flush(&s, out);
    if (out->n != n_want || memcmp(out->p, want, n_want) != 0)
        TEST_FAIL("%02x %02x %02x (%zu bytes) cut at %x differs", p[0], p[1], p[2], n, cuts);
}

TEST(every_scalar_value_round_trips)
{
    for (uint32_t cp = 0; cp <= 0x10ffff; cp++) {
        char b[4];
        uint32_t back = 0;
        bool whole;
        if (cp == 0xd800)
            cp = 0xe000;
        size_t n = utf8_encode(cp, b);
        REQUIRE_INT(match((const uint8_t *)b, n, &whole), n);
        REQUIRE(whole);
        REQUIRE_INT(utf8_decode(b, n, &back), n);
        REQUIRE_INT(back, cp);
        REQUIRE(n == 1 || utf8_decode(b, n - 1, &back) == 0);
    }
}

// All strings of one to four bytes from the edges of the table's ranges, at every cut.
TEST(all_edge_bytes_at_every_cut)
{
    static const uint8_t edge[] = {
        0x00, 0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf, 0xc1, 0xc2,
        0xdf, 0xe0, 0xe1, 0xed, 0xef, 0xf0, 0xf1, 0xf4, 0xf5, 0xff,
    };
    struct str out = {0};
    const size_t base = ARRAY_LEN(edge);
    for (size_t i = 0; i < base * base * base * base; i++) {
        uint8_t p[4] = { edge[i % base], edge[i / base % base], edge[i / base / base % base],
                         edge[i / base / base / base] };
        char want[12];
        bool whole;
        uint32_t cp;
        size_t n = i % 97 ? 4 : 1 + i / 97 % 4, n_want = repaired(p, n, want);
        for (unsigned cuts = 0; cuts < 1u << (n - 1); cuts++)
            check_cuts(p, n, cuts, &out, want, n_want);
        size_t k = match(p, n, &whole);
        REQUIRE_INT(utf8_decode((char *)p, n, &cp), whole ? k : 0);
        REQUIRE_INT(utf8_valid((char *)p, n), n_want == n && memcmp(p, want, n) == 0);
    }
    str_free(&out);
}

TEST(ill_formed_parts_of_the_standard)
{
    static const struct { const char *in, *out; } cases[] = {
        // Tables 3-8 to 3-11 of Unicode 15.
        { "\xc0\xaf\xe0\x80\xbf\xf0\x81\x82" "A", R R R R R R R R "A" },
        { "\xed\xa0\x80\xed\xbf\xbf\xed\xaf" "A", R R R R R R R R "A" },
        { "\xf4\x91\x92\x93\xff" "A\x80\xbf" "B", R R R R R "A" R R "B" },
        { "\xe1\x80\xe2\xf0\x91\x92\xf1\xbf" "A", R R R R "A" },
        { "a\xf1\x80\x80\xe1\x80\xc2" "b\x80" "c\x80\xbf" "d", "a" R R R "b" R "c" R R "d" },
        { "gr\xc3\xbc\xc3\x9f \xf0\x9f\x90\xa6", "gr\xc3\xbc\xc3\x9f \xf0\x9f\x90\xa6" },
        { "\xf0\x9f\x90", R },
    };
    struct str out = {0};
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        size_t n = strlen(cases[i].in);
        for (unsigned cuts = 0; cuts < 1u << (n - 1); cuts += i == 4 ? 7 : 1)
            check_cuts((const uint8_t *)cases[i].in, n, cuts, &out, cases[i].out,
                       strlen(cases[i].out));
    }
    str_free(&out);
}

TEST(an_empty_push_changes_nothing)
{
    struct utf8_stream s = {0};
    struct str out = {0};
    utf8_push(&s, "\xc3", 1, &out);
    utf8_push(&s, "", 0, &out);
    REQUIRE_INT(out.n, 0);
    utf8_push(&s, "\xa9", 1, &out);
    REQUIRE_STR(out.p, "\xc3\xa9");
    str_free(&out);
}
