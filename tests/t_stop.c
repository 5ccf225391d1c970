// Protects engine/run/stop: text cut anywhere ends where a search in the whole finds the earliest
// stop string, and nothing that belongs to one was shown before.
#include "tests/test.h"
#include "base/base.h"
#include "engine/run/stop.h"

TEST_MAIN

static uint64_t seed = 20;

static unsigned below(unsigned n)
{
    seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (unsigned)(seed >> 33) % n;
}

// Where the earliest of the strings begins in the text; n_text if nowhere.
static size_t search(const char *text, size_t n_text, const struct stop_string *string, uint32_t n)
{
    for (size_t at = 0; at < n_text; at++)
        for (uint32_t i = 0; i < n; i++)
            if (string[i].n <= n_text - at && memcmp(text + at, string[i].p, string[i].n) == 0)
                return at;
    return n_text;
}

// The longest end of text[0..n) that may still become part of a match.
static size_t must_hold(const char *text, size_t n, const struct stop_string *string,
                        uint32_t n_strings)
{
    size_t hold = 0;
    for (uint32_t i = 0; i < n_strings; i++)
        for (size_t k = 1; k <= MIN(n, string[i].n - 1); k++)
            if (memcmp(text + n - k, string[i].p, k) == 0)
                hold = MAX(hold, k);
    return hold;
}

static void check_pieces(const char *text, size_t n, const struct stop_string *string,
                         uint32_t n_strings, unsigned piece_max)
{
    struct stop s;
    struct str out = {0};
    size_t want = search(text, n, string, n_strings), at = 0;
    bool done = false;
    REQUIRE(stop_init(&s, string, n_strings) == 0);
    while (at < n && !done) {
        size_t piece = 1 + below(piece_max);
        piece = MIN(piece, n - at);
        done = stop_push(&s, text + at, piece, &out);
        at += piece;
        REQUIRE(out.n <= want && (out.n == 0 || memcmp(out.p, text, out.n) == 0));
        // As soon as possible: all but what a string could begin with.
        if (search(text, at, string, n_strings) == at)
            REQUIRE_INT(out.n, at - must_hold(text, at, string, n_strings));
    }
    if (!done)
        REQUIRE_INT(stop_flush(&s, &out), want < n);
    if (out.n != want)
        TEST_FAIL("\"%.*s\" cut at %zu, not %zu", (int)n, text, out.n, want);
    REQUIRE(!done || stop_push(&s, "more", 4, &out));
    REQUIRE_INT(out.n, want);
    stop_finish(&s);
    str_free(&out);
}

// Few letters, so that strings overlap with the text, with each other and with themselves.
TEST(random_texts_match_a_search)
{
    for (int round = 0; round < 20000; round++) {
        char text[60], letters[STOP_STRINGS_MAX][8];
        struct stop_string string[STOP_STRINGS_MAX];
        unsigned n = below(sizeof(text)), n_strings = below(round % 10 ? 5 : STOP_STRINGS_MAX + 1);
        unsigned alphabet = 1 + below(3);
        for (unsigned i = 0; i < n; i++)
            text[i] = (char)('a' + below(alphabet + 1));
        for (unsigned i = 0; i < n_strings; i++) {
            string[i] = (struct stop_string){ letters[i], 1 + below(8) };
            for (unsigned j = 0; j < string[i].n; j++)
                letters[i][j] = (char)('a' + below(alphabet + 1));
        }
        check_pieces(text, n, string, n_strings, 1 + below(12));
    }
}

static void check_text(const char *const *piece, const struct stop_string *string, uint32_t n,
                       const char *want, bool stopped)
{
    struct stop s;
    struct str out = {0};
    bool done = false;
    REQUIRE(stop_init(&s, string, n) == 0);
    str_puts(&out, "");
    for (; *piece; piece++)
        done = stop_push(&s, *piece, strlen(*piece), &out);
    done |= stop_flush(&s, &out);
    REQUIRE_STR(out.p, want);
    REQUIRE_INT(done, stopped);
    stop_finish(&s);
    str_free(&out);
}

TEST(examples)
{
    static const struct stop_string user[] = { { "\nUser:", 6 } };
    static const struct stop_string nested[] = { { "b", 1 }, { "abc", 3 } };
    check_text((const char *[]){ "Hi\n", "Us", "er: x", NULL }, user, 1, "Hi", true);
    check_text((const char *[]){ "Hi\n", "Us", "es", NULL }, user, 1, "Hi\nUses", false);
    check_text((const char *[]){ "Hi\n", "Us", NULL }, user, 1, "Hi\nUs", false);
    check_text((const char *[]){ "x\n\nUser:", NULL }, user, 1, "x\n", true);
    check_text((const char *[]){ "\nUser:", NULL }, user, 1, "", true);
    check_text((const char *[]){ "xa", "b", "c", NULL }, nested, 2, "x", true);
    check_text((const char *[]){ "xa", "b", "d", NULL }, nested, 2, "xa", true);
    check_text((const char *[]){ "xa", "b", NULL }, nested, 2, "xa", true);
    check_text((const char *[]){ "any", "thing", NULL }, NULL, 0, "anything", false);
}

TEST(bytes_of_any_value)
{
    static const struct stop_string zero[] = { { "\0\xff", 2 } };
    check_pieces("ab\0\0\xff" "c", 6, zero, 1, 1);
    check_pieces("ab\0\0\xfe" "c", 6, zero, 1, 2);
}

// A text that almost matches a long string again and again: linear, so this takes no time.
TEST(near_misses_are_linear)
{
    char *text = malloc(4 << 20), string[STOP_BYTES_MAX];
    struct stop s;
    struct str out = {0};
    REQUIRE(text);
    memset(text, 'a', 4 << 20);
    memset(string, 'a', sizeof(string));
    string[sizeof(string) - 1] = 'b';
    REQUIRE(stop_init(&s, &(struct stop_string){ string, sizeof(string) }, 1) == 0);
    REQUIRE(!stop_push(&s, text, 4 << 20, &out));
    REQUIRE_INT(out.n, (4 << 20) - (STOP_BYTES_MAX - 1));
    REQUIRE(stop_push(&s, "b", 1, &out));
    REQUIRE_INT(out.n, (4 << 20) - (STOP_BYTES_MAX - 1));
    stop_finish(&s);
    str_free(&out);
    free(text);
}
