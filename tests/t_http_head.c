// Request heads: what is taken, what is refused with which error, and that a head which comes byte
// by byte ends the same way as one that comes whole.
#include "server/http_head.h"
#include "tests/test.h"

static int parse(const char *p, size_t n, enum api_error *error, struct http_head *h)
{
    struct fault f = {0};
    int r = http_head_parse(p, n, h, &f);
    *error = r < 0 ? f.error : API_ERROR_COUNT;
    return r;
}

static void good(const char *text)
{
    struct http_head h;
    enum api_error e;
    size_t n = strlen(text);
    if (parse(text, n, &e, &h) != 1)
        TEST_FAIL("not taken (%d): %s", e, text);
    REQUIRE_INT(h.n_bytes, n);
    for (size_t i = 0; i < n; i++)
        REQUIRE_INT(parse(text, i, &e, &h), 0);
}

#define HOST "Host: localhost\r\n"

TEST(takes)
{
    good("GET / HTTP/1.1\r\n" HOST "\r\n");
    good("GET / HTTP/1.0\r\n\r\n");
    good("POST /v1/x?a=b HTTP/1.1\r\nhOST: [::1]:80\r\ncontent-length:   12  \r\n"
         "X-A: \xe9 b\r\n\r\n");
    good("POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n");
    good("GET / HTTP/1.1\r\n" HOST "Accept:\r\n\r\n");
}

TEST(reads_the_length)
{
    static const char text[] = "POST / HTTP/1.1\r\n" HOST
                               "Content-Length: 1152921504606846976\r\n\r\n";
    static const char more[] = "POST / HTTP/1.1\r\n" HOST
                               "Content-Length: 18446744073709551615\r\n\r\n";
    struct http_head h;
    enum api_error e;
    REQUIRE(parse(text, strlen(text), &e, &h) == 1);
    REQUIRE(h.has_length && h.length_bytes == HEAD_LENGTH_MAX);
    REQUIRE(parse(more, strlen(more), &e, &h) == -1 && e == ERROR_body_too_large);
}

TEST(refuses)
{
    static const struct { const char *text; enum api_error error; } rows[] = {
        { "\x16\x03\x01\x02", ERROR_bad_http },
        { "GET\r\n", ERROR_bad_http },
        { "GET /\r\n", ERROR_bad_http },
        { "GET / HTTP/1.1\nHost: a\n\n", ERROR_bad_http },
        { "GET / HTTP/1.1\r\nHost: a\n\r\n", ERROR_bad_http },
        { "GET / HTTP/1.1\r\n\r\n", ERROR_bad_http },
        { "GET / HTTP/1.1\r\n" HOST HOST "\r\n", ERROR_bad_http },
        { "GET / HTTP/1.1\r\n" HOST "A : b\r\n\r\n", ERROR_bad_http },
        { "GET / HTTP/1.1\r\n" HOST "A: b\r\n c\r\n\r\n", ERROR_bad_http },
        { "GET / HTTP/1.1\r\n" HOST "A: b\x01\r\n\r\n", ERROR_bad_http },
        { "GET / HTTP/1.1\r\n" HOST "A: b\rc\r\n\r\n", ERROR_bad_http },
        { "GET / HTTP/1.1\r\n" HOST "no colon\r\n\r\n", ERROR_bad_http },
        { "GET / HTTP/1.1\r\n" HOST ": x\r\n\r\n", ERROR_bad_http },
        { "GET / HTTP/1.1\r\nHost: a b\r\n\r\n", ERROR_bad_http },
        { "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", ERROR_bad_http },
        { "GET /\x01 HTTP/1.1\r\n" HOST "\r\n", ERROR_bad_http },
        { "GET  / HTTP/1.1\r\n" HOST "\r\n", ERROR_bad_http },
        { "G{T / HTTP/1.1\r\n" HOST "\r\n", ERROR_bad_http },
        { "GET / HTTP/2.0\r\n" HOST "\r\n", ERROR_http_version },
        { "GET / HTTP/1.2\r\n" HOST "\r\n", ERROR_http_version },
        { "GET / JUNK/1.1\r\n" HOST "\r\n", ERROR_bad_http },
        { "POST / HTTP/1.1\r\n" HOST "Content-Length: 1\r\nContent-Length: 1\r\n\r\n",
         ERROR_bad_http },
        { "POST / HTTP/1.1\r\n" HOST "Content-Length: 1, 1\r\n\r\n", ERROR_bad_http },
        { "POST / HTTP/1.1\r\n" HOST "Content-Length: -1\r\n\r\n", ERROR_bad_http },
        { "POST / HTTP/1.1\r\n" HOST "Content-Length: +5\r\n\r\n", ERROR_bad_http },
        { "POST / HTTP/1.1\r\n" HOST "Content-Length: 0x5\r\n\r\n", ERROR_bad_http },
        { "POST / HTTP/1.1\r\n" HOST "Content-Length:\r\n\r\n", ERROR_bad_http },
        { "POST / HTTP/1.1\r\n" HOST "Content-Length: 18446744073709551616\r\n\r\n",
         ERROR_bad_http },
        { "POST / HTTP/1.1\r\n" HOST "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
          ERROR_bad_http },
        { "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: gzip, chunked\r\n\r\n", ERROR_bad_http },
        { "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", ERROR_bad_http },
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
        struct http_head h;
        enum api_error e;
        if (parse(rows[i].text, strlen(rows[i].text), &e, &h) != -1 || e != rows[i].error)
            TEST_FAIL("row %zu: error %d: %s", i, e, rows[i].text);
    }
    struct http_head h;
    enum api_error e;
    static const char nul[] = "GET / HTTP/1.1\r\n" HOST "A: b\0c\r\n\r\n";
    REQUIRE(parse(nul, sizeof(nul) - 1, &e, &h) == -1 && e == ERROR_bad_http);
}

// A head that never ends is refused once it is too long, whatever it is too long of.
static enum api_error flood(const char *head, const char *part)
{
    size_t n_head = strlen(head), n_part = strlen(part), n = n_head;
    static char buf[HEAD_BYTES_MAX + 1];
    struct http_head h;
    enum api_error e = API_ERROR_COUNT;
    memcpy(buf, head, n_head);
    for (; n + n_part <= sizeof(buf); n += n_part)
        memcpy(buf + n, part, n_part);
    memset(buf + n, 'x', sizeof(buf) - n);
    parse(buf, sizeof(buf), &e, &h);
    return e;
}

TEST(limits)
{
    REQUIRE_INT(flood("GET /", "a"), ERROR_url_too_long);
    REQUIRE_INT(flood("GET / HTTP/1.1\r\nA: ", "a"), ERROR_headers_too_large);
    REQUIRE_INT(flood("GET / HTTP/1.1\r\n", "A: b\r\n"), ERROR_headers_too_large);
}

TEST(hosts)
{
    char name[64];
    static const char *const ours[] = {
        "localhost", "LOCALHOST:8080", "127.0.0.1", "127.9.9.9:1", "[::1]:8080", "a.localhost",
    };
    static const char *const foreign[] = {
        "example.com", "localhost.example.com", "127.0.0.1.nip.io", "10.0.0.1", "[::2]", "",
    };
    for (size_t i = 0; i < sizeof(ours) / sizeof(*ours); i++)
        REQUIRE(http_host_name(ours[i], name, sizeof(name)) && http_host_is_loopback(name));
    for (size_t i = 0; i < sizeof(foreign) / sizeof(*foreign); i++)
        REQUIRE(!http_host_name(foreign[i], name, sizeof(name)) || !http_host_is_loopback(name));
}

TEST_MAIN
