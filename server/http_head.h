// The head of an HTTP request, checked strictly: what one parser would read differently from
// another is refused, since a proxy in front may be that other parser.
//
// The first head of a connection is checked as bytes, before libmicrohttpd sees them; the heads of
// later requests as the fields that libmicrohttpd made of them.
// Source: RFC 9112 sections 2.2, 3, 5, 6.3 and 11.2; RFC 9110 section 5.
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "server/errors.h"

#define HEAD_BYTES_MAX ((size_t)16 << 10)
#define HEAD_TARGET_MAX ((size_t)8 << 10)
#define HEAD_FIELDS_MAX 100
#define HEAD_LENGTH_MAX ((uint64_t)1 << 60)     // of a body, whatever the route allows

struct http_head {
    size_t   n_bytes;                   // with the empty line
    unsigned n_fields;
    unsigned minor;                     // of HTTP/1.x
    bool     has_host, has_length, chunked;
    uint64_t length_bytes;              // of the body when has_length
};

// Returns 1: a whole good head lies at p; 0: more bytes are needed; -1: refused, f filled.
int http_head_parse(const char *p, size_t n, struct http_head *ret, struct fault *f);

// Takes one field into h, which starts zeroed but for `minor`. Returns 0 or -1.
int http_head_field(struct http_head *h, const char *name, size_t n_name, const char *value,
                    size_t n_value, struct fault *f);
// What can be said when all fields were taken. Returns 0 or -1.
int http_head_end(const struct http_head *h, struct fault *f);

// The host of a Host field without its port, lower case, into buf. False: it does not fit.
bool http_host_name(const char *value, char *buf, size_t size);
// localhost, a name below it, or a loopback address.
bool http_host_is_loopback(const char *name);
