// UTF-8, whole and in pieces. Well-formed sequences are those of Unicode 15, table 3-7.
#include "engine/text/utf8.h"
#include <string.h>
#include "base/base.h"
#include "base/str.h"

#define REPLACEMENT "\xef\xbf\xbd"      // U+FFFD

// Bytes of the character that b begins; 0: no character begins with it.
static size_t length_of(uint8_t b)
{
    return b < 0x80 ? 1 : b < 0xc2 ? 0 : b < 0xe0 ? 2 : b < 0xf0 ? 3 : b < 0xf5 ? 4 : 0;
}

// The second byte is where overlong forms, surrogates and what lies beyond U+10FFFF are told.
static bool second_fits(uint8_t first, uint8_t second)
{
    uint8_t lo = first == 0xe0 ? 0xa0 : first == 0xf0 ? 0x90 : 0x80;
    uint8_t hi = first == 0xed ? 0x9f : first == 0xf4 ? 0x8f : 0xbf;
    return second >= lo && second <= hi;
}

// How many bytes of p[0..n), n > 0, begin a well-formed character: 0 to its *length. Fewer than
// that are a maximal ill-formed part, unless the text ends there.
static size_t prefix_of(const uint8_t *p, size_t n, size_t *length)
{
    *length = length_of(p[0]);
    if (*length == 0)
        return 0;
    if (*length == 1 || n == 1 || !second_fits(p[0], p[1]))
        return 1;
    size_t k = 2;
    while (k < *length && k < n && (p[k] & 0xc0) == 0x80)
        k++;
    return k;
}

size_t utf8_decode(const char *p, size_t n, uint32_t *cp)
{
    assert(n > 0);
    const uint8_t *b = (const uint8_t *)p;
    size_t length;
    if (prefix_of(b, n, &length) < length || length == 0)
        return 0;
    uint32_t v = length == 1 ? b[0] : b[0] & (0x7fu >> length);
    for (size_t i = 1; i < length; i++)
        v = v << 6 | (b[i] & 0x3f);
    *cp = v;
    return length;
}

size_t utf8_encode(uint32_t cp, char *dst)
{
    assert(cp <= 0x10ffff && (cp < 0xd800 || cp > 0xdfff));
    if (cp < 0x80) {
        dst[0] = (char)cp;
        return 1;
    }
    size_t length = cp < 0x800 ? 2 : cp < 0x10000 ? 3 : 4;
    for (size_t i = length - 1; i > 0; i--, cp >>= 6)
        dst[i] = (char)(0x80 | (cp & 0x3f));
    dst[0] = (char)((0xf00u >> length & 0xff) | cp);
    return length;
}

bool utf8_valid(const char *p, size_t n)
{
    uint32_t cp;
    for (size_t i = 0, length; i < n; i += length) {
        length = utf8_decode(p + i, n - i, &cp);
        if (length == 0)
            return false;
    }
    return true;
}

// Goes on with the character that is held. Returns the bytes of p that it took.
static size_t finish_held(struct utf8_stream *s, const uint8_t *p, size_t n, struct str *out)
{
    size_t used = 0, length;
    while (used < n) {
        s->held[s->n_held] = (char)p[used];
        if (prefix_of((const uint8_t *)s->held, s->n_held + 1u, &length) <= s->n_held) {
            utf8_flush(s, out);         // p[used] begins something else
            return used;
        }
        used++;
        if (++s->n_held == length) {
            str_add(out, s->held, length);
            s->n_held = 0;
            return used;
        }
    }
    return used;
}

void utf8_push(struct utf8_stream *s, const char *text, size_t n, struct str *out)
{
    const uint8_t *p = (const uint8_t *)text;
    size_t at = s->n_held ? finish_held(s, p, n, out) : 0;
    size_t good = at;                   // p[good..at) is well-formed and not yet written
    while (at < n) {
        size_t length, k = prefix_of(p + at, n - at, &length);
        if (k == length && k > 0) {
            at += k;
            continue;
        }
        str_add(out, p + good, at - good);
        if (at + k == n && k > 0) {
            memcpy(s->held, p + at, k);
            s->n_held = (uint8_t)k;
        } else {
            str_puts(out, REPLACEMENT);
        }
        at += MAX(k, (size_t)1);
        good = at;
    }
    if (good < at)
        str_add(out, p + good, at - good);
}

void utf8_flush(struct utf8_stream *s, struct str *out)
{
    if (s->n_held)
        str_puts(out, REPLACEMENT);
    s->n_held = 0;
}
