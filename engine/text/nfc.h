// Unicode normalisation form C, for vocabularies that were trained on it. Only nfc.c uses
// libutf8proc.
#pragma once
#include <stdbool.h>
#include <stddef.h>

struct str;

// False where valid UTF-8 p[0..n) is certainly in form C already; a fast test.
bool nfc_may_change(const char *p, size_t n);
// Appends the form C of valid UTF-8 p[0..n), in linear time also where marks come by the million.
// Check str_ok(out).
void nfc_add(const char *p, size_t n, struct str *out);
