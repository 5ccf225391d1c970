// JSON from strangers: what is taken, what is refused and how it is named, and that both take
// linear time and bounded memory.
#include <math.h>
#include "base/clock.h"
#include "server/errors.h"
#include "server/json.h"
#include "tests/test.h"

static int check(const char *text)
{
    struct err err = {0};
    return json_check(text, strlen(text), NULL, &err);
}

TEST(takes)
{
    static const char *const good[] = {
        "{}", "[]", " \t\r\n{} \n", "0", "-0", "1e5", "-1.5E-3", "true", "false", "null", "\"\"",
        "{\"a\":1,\"b\":[1,2,{\"a\":1}],\"c\":{\"a\":1}}", "[[],[[]],{}]", "\"\\u00e9\"",
        "\"\\ud83d\\ude00\"", "\"\xf0\x9f\x98\x80\"", "\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"",
        "[1 , 2]", "{\"a\" : 1 , \"A\" : 2}", "1.7976931348623157e308", "\"\x7f\"",
    };
    for (size_t i = 0; i < sizeof(good) / sizeof(*good); i++) {
        if (check(good[i]) != 0)
            TEST_FAIL("refused: %s", good[i]);
    }
}

TEST(refuses)
{
    static const char *const bad[] = {
        "", " ", "{", "}", "[", "]", "[1", "[1,", "[1,]", "{\"a\"", "{\"a\":", "{\"a\":1",
        "{\"a\":1,", "{\"a\":1,}", "{a:1}", "{1:1}", "{\"a\" 1}", "[1 2]", "{}{}", "{} x", "nul",
        "nulll", "True",
        "01", "+1", ".5", "1.", "1e", "1e+", "-", "--1", "0x10", "NaN", "Infinity", "1e999",
        "-1e999", "'a'", "\"a", "\"\\x\"", "\"\\u12\"", "\"\\u12g4\"", "\"\\u0000\"",
        "\"a\\u0000b\"",
        "\"\\ud800\"", "\"\\udc00\"", "\"\\ud800\\ud800\"", "\"\\ud800x\"", "\"\n\"", "\"\t\"",
        "\"\xff\"", "\"\xc0\xaf\"", "\"\xed\xa0\x80\"", "\"\xf4\x90\x80\x80\"", "\"\xe2\x82\"",
        "\xef\xbb\xbf{}", "{\"a\":1,\"a\":2}", "{\"a\":1,\"\\u0061\":2}",
        "{\"x\":{\"b\":1,\"b\":1}}",
        "[1}", "{\"a\":1]", "/**/1", "[1]]",
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        if (check(bad[i]) == 0)
            TEST_FAIL("taken: %s", bad[i]);
    }
    REQUIRE(json_check("\"a\0b\"", 5, NULL, NULL) != 0);
    REQUIRE(json_check("1\0", 2, NULL, NULL) != 0);
}

TEST(error_has_the_place)
{
    struct err err = {0};
    REQUIRE(json_check("{\"a\":tru}", 9, NULL, &err) == -22);
    REQUIRE(strstr(err.msg, "byte 5"));
}

TEST(depth)
{
    char text[2 * JSON_DEPTH_MAX + 8] = {0};
    memset(text, '[', JSON_DEPTH_MAX);
    memset(text + JSON_DEPTH_MAX, ']', JSON_DEPTH_MAX);
    REQUIRE(check(text) == 0);
    memset(text, '[', JSON_DEPTH_MAX + 1);
    memset(text + JSON_DEPTH_MAX + 1, ']', JSON_DEPTH_MAX + 1);
    REQUIRE(check(text) != 0);
    size_t n = 1000000;
    char *deep = malloc(n);
    memset(deep, '[', n);
    REQUIRE(json_check(deep, n, NULL, NULL) != 0);
    free(deep);
}

static char *repeat(const char *head, const char *part, unsigned n, const char *tail)
{
    struct str s = {0};
    str_puts(&s, head);
    for (unsigned i = 0; i < n; i++)
        str_printf(&s, part, i);
    str_puts(&s, tail);
    return s.p;
}

TEST(many_values)
{
    char *text = repeat("[", "0,", JSON_VALUES_MAX - 2, "0]");
    REQUIRE(check(text) == 0);
    free(text);
    text = repeat("[", "0,", JSON_VALUES_MAX, "0]");
    REQUIRE(check(text) != 0);
    free(text);
}

// 100,000 keys: with a search per key this would take minutes.
TEST(many_keys_in_linear_time)
{
    char *text = repeat("{\"o\":{", "\"k%u\":0,", 100000, "\"end\":0}}");
    uint64_t start = clock_now_ns();
    REQUIRE(check(text) == 0);
    REQUIRE(clock_now_ns() - start < 5 * NS_PER_S);
    free(text);
    text = repeat("{\"o\":{", "\"k%u\":0,", 100000, "\"k77\":0}}");
    REQUIRE(check(text) != 0);
    free(text);
}

TEST(shape)
{
    static const char text[] = " {\"a\" : [1, 2] ,\"b\":{\"c\":{}},\"d\":\"x\" } ";
    struct json_doc *d;
    struct err err = {0};
    REQUIRE_OK(json_open(&d, text, strlen(text), &err), err);
    struct json_span a = json_raw(d, "a"), b = json_raw(d, "b"), x = json_raw(d, "d");
    REQUIRE(a.n == 6 && memcmp(a.p, "[1, 2]", 6) == 0);
    REQUIRE(b.n == 8 && memcmp(b.p, "{\"c\":{}}", 8) == 0);
    REQUIRE(x.n == 3 && memcmp(x.p, "\"x\"", 3) == 0);
    REQUIRE(json_raw(d, "c").p == NULL && json_raw(d, "A").p == NULL);
    json_close(d);
}

TEST(getters)
{
    static const char text[] = "{\"s\":\"a\\u00e9\",\"n\":1.5,\"i\":7,\"big\":9007199254740994,"
                               "\"neg\":-1,\"t\":true,\"z\":null,\"o\":{\"k\":1},\"l\":[1,2,3]}";
    struct json_doc *d;
    struct err err = {0};
    struct fault f = {0};
    REQUIRE_OK(json_open(&d, text, strlen(text), &err), err);
    const struct json *o = json_root(d), *v = NULL;
    const char *s = NULL;
    double x = 0;
    uint32_t u = 0;
    bool t = false;
    REQUIRE(json_get_text(o, "s", &s, &f) == 1);
    REQUIRE_STR(s, "a\xc3\xa9");
    REQUIRE(json_get_text(o, "z", &s, &f) == 0 && json_get_text(o, "none", &s, &f) == 0);
    REQUIRE(json_get_text(o, "S", &s, &f) == 0);
    REQUIRE(json_get_number(o, "n", 0, 2, &x, &f) == 1 && x == 1.5);
    REQUIRE(json_get_u32(o, "i", 0, 10, &u, &f) == 1 && u == 7);
    REQUIRE(json_get_bool(o, "t", &t, &f) == 1 && t);
    REQUIRE(json_get_object(o, "o", &v, &f) == 1 && json_count(v) == 1);
    REQUIRE(json_get_array(o, "l", &v, &f) == 1 && json_count(v) == 3);
    REQUIRE(json_get_number(o, "n", 0, 1, &x, &f) == -1);
    REQUIRE_STR(f.param, "n");
    fault_at(&f, "outer[%u]", 3);
    REQUIRE(json_get_u32(o, "n", 0, 10, &u, &f) == -1);
    REQUIRE_STR(f.param, "outer[3].n");
    REQUIRE(json_get_u32(o, "big", 0, UINT32_MAX, &u, &f) == -1);
    REQUIRE(json_get_u32(o, "neg", 0, UINT32_MAX, &u, &f) == -1);
    REQUIRE(json_get_u32(o, "s", 0, UINT32_MAX, &u, &f) == -1);
    REQUIRE(json_get_bool(o, "i", &t, &f) == -1 && json_get_object(o, "l", &v, &f) == -1);
    REQUIRE(u == 7 && x == 1.5);
    json_close(d);
}

TEST(writer)
{
    struct str s = {0};
    json_put_string(&s, "a\"\\\n\x01\x7f\xc3\xa9\xff!", 10);
    REQUIRE_STR(s.p, "\"a\\\"\\\\\\n\\u0001\\u007f\xc3\xa9\xef\xbf\xbd!\"");
    str_clear(&s);
    json_put_string(&s, "\xe2\x82", 2);
    REQUIRE(check(s.p) == 0);
    str_clear(&s);
    json_put_double(&s, -INFINITY);
    REQUIRE(check(s.p) == 0);
    str_free(&s);
}

TEST(fault_form)
{
    struct fault f = {0};
    struct str s = {0};
    REQUIRE(fault_set(&f, ERROR_invalid_value, "n", "'%s' is wrong", "n\"") == -1);
    fault_json(&s, &f);
    REQUIRE_STR(s.p,
                "{\"error\":{\"message\":\"'n\\\"' is wrong\",\"type\":\"invalid_request_error\","
                     "\"param\":\"n\",\"code\":\"invalid_value\"}}");
    str_clear(&s);
    REQUIRE(fault_no_memory(&f) == -1 && api_error_status(f.error) == 503);
    fault_json(&s, &f);
    REQUIRE_STR(s.p, "{\"error\":{\"message\":\"Out of memory.\",\"type\":\"server_error\","
                     "\"param\":null,\"code\":\"overloaded\"}}");
    str_free(&s);
}

TEST_MAIN
