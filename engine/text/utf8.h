// UTF-8 in pieces: a stream of token bytes becomes whole characters.
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct str;

// Decodes the character at p[0..n), n > 0. Returns its bytes (1..4) and *cp, or 0 where the bytes
// are no valid character (also surrogates, overlong forms and > U+10FFFF).
size_t utf8_decode(const char *p, size_t n, uint32_t *cp);
// Writes cp (a valid scalar value) to dst (4 bytes). Returns its length.
size_t utf8_encode(uint32_t cp, char *dst);
bool   utf8_valid(const char *p, size_t n);

// Holds back an unfinished character between pushes.
struct utf8_stream { char held[4]; uint8_t n_held; };
// Appends to out the characters that p[0..n) completes. Bytes that can never become a character
// turn into U+FFFD, one per maximal ill-formed part (Unicode 15, table 3-8).
void utf8_push(struct utf8_stream *s, const char *p, size_t n, struct str *out);
// At the end of the text: what is held becomes one U+FFFD.
void utf8_flush(struct utf8_stream *s, struct str *out);
