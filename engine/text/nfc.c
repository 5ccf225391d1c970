// Form C from utf8proc's tables. The reordering of combining marks is ours, because the library's
// takes quadratic time on a long run of them, which any client can send.
#include "engine/text/nfc.h"
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>
#include "base/base.h"
#include "base/str.h"
#include "engine/text/utf8.h"

#define RUN_SHORT 16                    // marks that are sorted by insertion
#define DECOMPOSED_MAX 4                // characters that one decomposes to without compatibility

bool nfc_may_change(const char *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if ((uint8_t)p[i] >= 0xcc)      // the first byte of U+0300, the first character that can
            return true;
    return false;
}

static unsigned class_of(int32_t c)
{
    return (unsigned)utf8proc_get_property(c)->combining_class & 255;
}

static void sort_short(int32_t *c, size_t n)
{
    for (size_t i = 1; i < n; i++) {
        int32_t moving = c[i];
        size_t j = i;
        for (; j && class_of(c[j - 1]) > class_of(moving); j--)
            c[j] = c[j - 1];
        c[j] = moving;
    }
}

// Stable counting sort; tmp holds n.
static void sort_long(int32_t *c, size_t n, int32_t *tmp)
{
    size_t at[257] = {0};
    for (size_t i = 0; i < n; i++)
        at[class_of(c[i]) + 1]++;
    for (int k = 0; k < 256; k++)
        at[k + 1] += at[k];
    for (size_t i = 0; i < n; i++)
        tmp[at[class_of(c[i])]++] = c[i];
    memcpy(c, tmp, n * sizeof(*c));
}

// Canonical ordering: each run of characters with a non-zero class, sorted by class.
static void reorder(int32_t *c, size_t n, int32_t *tmp)
{
    for (size_t i = 0; i < n;) {
        size_t end = i;
        while (end < n && class_of(c[end]) != 0)
            end++;
        if (end - i <= RUN_SHORT)
            sort_short(c + i, end - i);
        else
            sort_long(c + i, end - i, tmp);
        i = end + 1;
    }
}

static size_t decompose(const char *p, size_t n, int32_t *c)
{
    size_t len = 0;
    int boundary = 0;
    for (size_t i = 0; i < n;) {
        uint32_t cp = 0;
        size_t k = utf8_decode(p + i, n - i, &cp);
        assert(k);
        utf8proc_ssize_t m = utf8proc_decompose_char(
            (int32_t)cp, c + len, DECOMPOSED_MAX, UTF8PROC_DECOMPOSE | UTF8PROC_STABLE, &boundary);
        assert(m > 0 && m <= DECOMPOSED_MAX);
        len += (size_t)m;
        i += k;
    }
    return len;
}

// Composes c[0..n) in pieces that begin at each U+11A7: it composes with nothing, but the library
// takes it for a Hangul final and loses it.
static void compose(int32_t *c, size_t n, struct str *out)
{
    for (size_t i = 0, end; i < n; i = end) {
        end = i + 1;
        while (end < n && c[end] != 0x11a7)
            end++;
        utf8proc_ssize_t m = utf8proc_normalize_utf32(c + i, (utf8proc_ssize_t)(end - i),
                                                      UTF8PROC_COMPOSE | UTF8PROC_STABLE);
        assert(m > 0 && (size_t)m <= end - i);
        for (utf8proc_ssize_t k = 0; k < m; k++) {
            char buf[4];
            str_add(out, buf, utf8_encode((uint32_t)c[i + (size_t)k], buf));
        }
    }
}

void nfc_add(const char *p, size_t n, struct str *out)
{
    size_t bytes;
    int32_t *c = NULL;                  // (n_chars * DECOMPOSED_MAX), then as much scratch
    size_t chars = 0;
    for (size_t i = 0; i < n; i++)
        chars += ((uint8_t)p[i] & 0xc0) != 0x80;
    if (mul_size(chars, 2 * DECOMPOSED_MAX * sizeof(*c), &bytes))
        c = malloc(bytes + 1);
    if (!c) {
        out->failed = true;
        return;
    }
    size_t len = decompose(p, n, c);
    reorder(c, len, c + chars * DECOMPOSED_MAX);
    compose(c, len, out);
    free(c);
}
