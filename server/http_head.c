// Strict checks of request heads; see http_head.h.
#include "server/http_head.h"
#include <arpa/inet.h>
#include <ctype.h>
#include <string.h>
#include <strings.h>
#include "base/base.h"

static bool is_token_char(unsigned char c)
{
    return isalnum(c) || (c && strchr("!#$%&'*+-.^_`|~", c));
}

static bool is_token(const char *p, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (!is_token_char((unsigned char)p[i]))
            return false;
    }
    return n > 0;
}

static bool has_control(const char *p, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)p[i];
        if ((c < 0x20 && c != '\t') || c == 0x7f)
            return true;
    }
    return false;
}

static bool name_is(const char *p, size_t n, const char *name)
{
    return n == strlen(name) && strncasecmp(p, name, n) == 0;
}

static int bad(struct fault *f, const char *what)
{
    return fault_set(f, ERROR_bad_http, NULL, "Bad request: %s.", what);
}

static int take_length(struct http_head *h, const char *p, size_t n, struct fault *f)
{
    uint64_t v = 0;
    if (h->has_length)
        return bad(f, "more than one Content-Length");
    for (size_t i = 0; i < n; i++) {
        if (p[i] < '0' || p[i] > '9' || __builtin_mul_overflow(v, 10, &v) ||
            __builtin_add_overflow(v, (uint64_t)(p[i] - '0'), &v))
            return bad(f, "Content-Length is no number");
    }
    if (!n)
        return bad(f, "Content-Length is no number");
    if (v > HEAD_LENGTH_MAX)            // libmicrohttpd would refuse it in HTML
        return fault_set(f, ERROR_body_too_large, NULL, "The body is too large.");
    h->has_length = true;
    h->length_bytes = v;
    return 0;
}

static int take_host(struct http_head *h, const char *p, size_t n, struct fault *f)
{
    if (h->has_host)
        return bad(f, "more than one Host");
    h->has_host = true;
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)p[i];
        if (!isalnum(c) && !(c && strchr("-._~:[]%!$&'()*+,;=", c)))
            return bad(f, "Host holds characters that no host has");
    }
    return 0;
}

int http_head_field(struct http_head *h, const char *name, size_t n_name, const char *value,
                    size_t n_value, struct fault *f)
{
    if (++h->n_fields > HEAD_FIELDS_MAX)
        return fault_set(f, ERROR_headers_too_large, NULL, "More than %d header fields.",
                         HEAD_FIELDS_MAX);
    if (!is_token(name, n_name))
        return bad(f, "a field name holds characters that are not allowed");
    if (has_control(value, n_value))
        return bad(f, "a field value holds control characters");
    if (name_is(name, n_name, "content-length"))
        return take_length(h, value, n_value, f);
    if (name_is(name, n_name, "host"))
        return take_host(h, value, n_value, f);
    if (!name_is(name, n_name, "transfer-encoding"))
        return 0;
    if (h->chunked || !name_is(value, n_value, "chunked"))
        return bad(f, "only the transfer encoding 'chunked' is known");
    h->chunked = true;
    return 0;
}

int http_head_end(const struct http_head *h, struct fault *f)
{
    if (h->chunked && h->has_length)
        return bad(f, "Content-Length beside Transfer-Encoding");
    if (h->chunked && h->minor == 0)
        return bad(f, "Transfer-Encoding in HTTP/1.0");
    if (!h->has_host && h->minor > 0)
        return bad(f, "no Host field");
    return 0;
}

// ---- bytes --------------------------------------------------------------------------------------

static int parse_version(const char *p, size_t n, struct http_head *h, struct fault *f)
{
    if (n != 8 || memcmp(p, "HTTP/", 5) != 0 || !isdigit((unsigned char)p[5]) || p[6] != '.' ||
        !isdigit((unsigned char)p[7]))
        return bad(f, "not an HTTP request");
    if (p[5] != '1' || p[7] > '1')
        return fault_set(f, ERROR_http_version, NULL,
                         "Only HTTP/1.0 and HTTP/1.1 are spoken here.");
    h->minor = (unsigned)(p[7] - '0');
    return 0;
}

static int parse_request_line(const char *p, size_t n, struct http_head *h, struct fault *f)
{
    const char *end = p + n, *sp1 = memchr(p, ' ', n);
    if (!sp1 || !is_token(p, (size_t)(sp1 - p)))
        return bad(f, "not an HTTP request");
    const char *target = sp1 + 1, *sp2 = memchr(target, ' ', (size_t)(end - target));
    if (!sp2 || sp2 == target)
        return bad(f, "not an HTTP request");
    if ((size_t)(sp2 - target) > HEAD_TARGET_MAX)
        return fault_set(f, ERROR_url_too_long, NULL, "The URL is longer than %zu bytes.",
                         HEAD_TARGET_MAX);
    if (has_control(target, (size_t)(sp2 - target)) ||
        memchr(target, '\t', (size_t)(sp2 - target)))
        return bad(f, "control characters in the URL");
    return parse_version(sp2 + 1, (size_t)(end - sp2 - 1), h, f);
}

static int parse_field_line(const char *p, size_t n, struct http_head *h, struct fault *f)
{
    const char *colon = memchr(p, ':', n), *v, *end = p + n;
    if (p[0] == ' ' || p[0] == '\t')
        return bad(f, "a folded header field");
    if (!colon)
        return bad(f, "a header field without ':'");
    v = colon + 1;
    while (v < end && (*v == ' ' || *v == '\t'))
        v++;
    while (end > v && (end[-1] == ' ' || end[-1] == '\t'))
        end--;
    return http_head_field(h, p, (size_t)(colon - p), v, (size_t)(end - v), f);
}

// What is already wrong with a head that has not ended.
static int check_unfinished(const char *p, size_t n, struct fault *f)
{
    const char *line_end = memchr(p, '\n', n);
    size_t n_line = line_end ? (size_t)(line_end - p) : n;
    const char *sp = memchr(p, ' ', n_line);
    if (!is_token(p, sp ? (size_t)(sp - p) : MIN(n_line, (size_t)1)))
        return bad(f, "not an HTTP request");
    if (sp && n_line - (size_t)(sp - p) > HEAD_TARGET_MAX + 16)
        return fault_set(f, ERROR_url_too_long, NULL, "The URL is longer than %zu bytes.",
                         HEAD_TARGET_MAX);
    if (n > HEAD_BYTES_MAX)
        return fault_set(f, ERROR_headers_too_large, NULL, "The header is longer than %zu bytes.",
                         HEAD_BYTES_MAX);
    return 0;
}

int http_head_parse(const char *p, size_t n, struct http_head *ret, struct fault *f)
{
    struct http_head h = {0};
    size_t at = 0;
    for (unsigned line = 0; at < n; line++) {
        const char *nl = memchr(p + at, '\n', n - at);
        if (!nl)
            break;
        size_t n_line = (size_t)(nl - (p + at));
        if (n_line == 0 || nl[-1] != '\r')
            return bad(f, "a line that does not end with CR LF");
        n_line--;
        if (memchr(p + at, '\0', n_line) || memchr(p + at, '\r', n_line))
            return bad(f, "control characters in the header");
        if (n_line == 0 && line > 0) {
            h.n_bytes = at + 2;
            if (h.n_bytes > HEAD_BYTES_MAX || http_head_end(&h, f) < 0)
                return h.n_bytes > HEAD_BYTES_MAX ? check_unfinished(p, n, f) : -1;
            *ret = h;
            return 1;
        }
        int r = line == 0 ? parse_request_line(p, n_line, &h, f)
                          : parse_field_line(p + at, n_line, &h, f);
        if (r)
            return r;
        at += n_line + 2;
    }
    return n ? check_unfinished(p, n, f) : 0;
}

// ---- hosts --------------------------------------------------------------------------------------

bool http_host_name(const char *value, char *buf, size_t size)
{
    size_t n = strlen(value);
    const char *end = value[0] == '[' ? strchr(value, ']') : strchr(value, ':');
    if (value[0] == '[' && end)
        end++;
    if (end)
        n = (size_t)(end - value);
    if (n >= size)
        return false;
    for (size_t i = 0; i < n; i++)
        buf[i] = (char)tolower((unsigned char)value[i]);
    buf[n] = '\0';
    return true;
}

bool http_host_is_loopback(const char *name)
{
    size_t n = strlen(name);
    struct in_addr a;
    if (strcmp(name, "localhost") == 0 || strcmp(name, "[::1]") == 0)
        return true;
    if (n > 10 && strcmp(name + n - 10, ".localhost") == 0)
        return true;
    return inet_pton(AF_INET, name, &a) == 1 && (ntohl(a.s_addr) >> 24) == 127;
}
