// Numbers and texts put into a width.
#include "engine/text/jinja/format.h"
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include "base/base.h"

enum { PRECISION_MAX = 300, NUMBER_TEXT = 1024 };

static void pad(struct jbuild *b, const struct jspec *s, size_t n)
{
    static const struct jstr space = { .p = " ", .n = 1, .ascii = true };
    jbuild_fill(b, s->fill.n ? &s->fill : &space, n);
}

// Puts `text`, whose first `head` bytes are sign and prefix, into the width.
void jput_padded(struct jbuild *b, const struct jspec *s, struct jstr *text, size_t head,
                 char align)
{
    size_t n, width = (size_t)MAX(s->width, 0);
    jlength(b->x, jstring(text), &n);
    size_t room = width > n ? width - n : 0;
    if (width > JX_STR_MAX)
        jx_fail(b->x, -E2BIG, "a text longer than %d MiB", JX_STR_MAX >> 20);
    align = s->align ? s->align : align;
    size_t left = align == '<' ? 0 : align == '^' ? room / 2 : room;
    if (align == '=') {
        jbuild_sub(b, text, 0, head);
        pad(b, s, room);
        jbuild_sub(b, text, head, text->n);
        return;
    }
    pad(b, s, left);
    jbuild_str(b, text);
    pad(b, s, room - left);
}

void jput_text(struct jbuild *b, const struct jspec *s, struct jstr *text)
{
    if (s->precision >= 0)
        text = jstr_sub(b->x, text, 0, jstr_offset(b->x, text, (size_t)s->precision));
    jput_padded(b, s, text, 0, '<');
}

static void add_commas(char *digits, size_t size)
{
    size_t n = strspn(digits, "0123456789");
    for (size_t i = 3; i < n; i += 3) {
        size_t at = n - i, len = strlen(digits);
        if (len + 2 > size)
            return;
        memmove(digits + at + 1, digits + at, len - at + 1);
        digits[at] = ',';
    }
}

static void put_number(struct jbuild *b, const struct jspec *s, bool negative, const char *prefix,
                       char digits[NUMBER_TEXT])
{
    char buf[NUMBER_TEXT + 8];
    if (s->comma)
        add_commas(digits, NUMBER_TEXT);
    const char *sign = negative ? "-" : s->sign == '+' ? "+" : s->sign == ' ' ? " " : "";
    snprintf(buf, sizeof(buf), "%s%s%s", sign, prefix, digits);
    struct jspec with = *s;
    if (s->zero && !s->align) {
        with.align = '=';
        with.fill = (struct jstr){ .p = "0", .n = 1, .ascii = true };
    }
    jput_padded(b, &with, jstr_copy(b->x, buf, strlen(buf), JS_TEMPLATE),
                strlen(sign) + strlen(prefix), '>');
}

static void binary_digits(uint64_t u, char *to)
{
    int n = u ? 64 - __builtin_clzll(u) : 1;
    for (int i = 0; i < n; i++)
        to[i] = (char)('0' + (u >> (n - 1 - i) & 1));
    to[n] = '\0';
}

void jput_int(struct jbuild *b, const struct jspec *s, int64_t v)
{
    char digits[NUMBER_TEXT];
    uint64_t u = v < 0 ? -(uint64_t)v : (uint64_t)v;
    const char *prefix = "";
    switch (s->type) {
    case 'x': snprintf(digits, sizeof(digits), "%" PRIx64, u); prefix = "0x"; break;
    case 'X': snprintf(digits, sizeof(digits), "%" PRIX64, u); prefix = "0X"; break;
    case 'o': snprintf(digits, sizeof(digits), "%" PRIo64, u); prefix = "0o"; break;
    case 'b': binary_digits(u, digits); prefix = "0b"; break;
    default: snprintf(digits, sizeof(digits), "%" PRIu64, u); break;
    }
    put_number(b, s, v < 0, s->alt ? prefix : "", digits);
}

void jput_float(struct jbuild *b, const struct jspec *s, double d, char type)
{
    char digits[NUMBER_TEXT];
    int precision = s->precision < 0 ? 6 : (int)MIN(s->precision, (int64_t)PRECISION_MAX + 1);
    if (precision > PRECISION_MAX)
        jx_fail(b->x, -E2BIG, "more than %d digits behind the point", PRECISION_MAX);
    double a = fabs(d);
    switch (type) {
    case 'e': snprintf(digits, sizeof(digits), "%.*e", precision, a); break;
    case 'E': snprintf(digits, sizeof(digits), "%.*E", precision, a); break;
    case 'g': snprintf(digits, sizeof(digits), "%.*g", precision, a); break;
    case 'G': snprintf(digits, sizeof(digits), "%.*G", precision, a); break;
    case '%': snprintf(digits, sizeof(digits), "%.*f%%", precision, a * 100); break;
    case 'r': jfloat_text(a, digits); break;
    default: snprintf(digits, sizeof(digits), "%.*f", precision, a); break;
    }
    put_number(b, s, signbit(d) && !isnan(d), "", digits);
}
