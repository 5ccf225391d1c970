// Character classes and case, on libutf8proc's tables.
#include "engine/text/jinja/unicode.h"
#include <utf8proc.h>
#include "base/base.h"

bool u_space(uint32_t cp)
{
    return (cp >= 9 && cp <= 13) || (cp >= 28 && cp <= 32) || cp == 0x85 || cp == 0xa0 ||
           cp == 0x1680 || (cp >= 0x2000 && cp <= 0x200a) || cp == 0x2028 || cp == 0x2029 ||
           cp == 0x202f || cp == 0x205f || cp == 0x3000;
}

bool u_line_break(uint32_t cp)
{
    return (cp >= 10 && cp <= 13) || (cp >= 28 && cp <= 30) || cp == 0x85 || cp == 0x2028 ||
           cp == 0x2029;
}

static utf8proc_category_t category(uint32_t cp)
{
    return utf8proc_category((utf8proc_int32_t)cp);
}

bool u_printable(uint32_t cp)
{
    switch (category(cp)) {
    case UTF8PROC_CATEGORY_CC: case UTF8PROC_CATEGORY_CF: case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO: case UTF8PROC_CATEGORY_CN: case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP: return false;
    case UTF8PROC_CATEGORY_ZS: return cp == ' ';
    default: return true;
    }
}

bool u_alpha(uint32_t cp)
{
    utf8proc_category_t c = category(cp);
    return c >= UTF8PROC_CATEGORY_LU && c <= UTF8PROC_CATEGORY_LO;
}

bool u_decimal(uint32_t cp)
{
    return category(cp) == UTF8PROC_CATEGORY_ND;
}

bool u_digit(uint32_t cp)
{
    return u_decimal(cp) || cp == 0xb2 || cp == 0xb3 || cp == 0xb9 || cp == 0x2070 ||
           (cp >= 0x2074 && cp <= 0x2079) || (cp >= 0x2080 && cp <= 0x2089) ||
           (cp >= 0x2460 && cp <= 0x2468);
}

bool u_numeric(uint32_t cp)
{
    utf8proc_category_t c = category(cp);
    return u_digit(cp) || c == UTF8PROC_CATEGORY_NL || c == UTF8PROC_CATEGORY_NO;
}

bool u_upper(uint32_t cp)
{
    return category(cp) == UTF8PROC_CATEGORY_LU;
}

bool u_lower(uint32_t cp)
{
    return category(cp) == UTF8PROC_CATEGORY_LL || cp == 0xaa || cp == 0xba;
}

bool u_cased(uint32_t cp)
{
    return u_upper(cp) || u_lower(cp) || category(cp) == UTF8PROC_CATEGORY_LT;
}

// Characters whose upper case is more than one character (Unicode's SpecialCasing, without the
// Greek iota forms). title: the form at the head of a word, 0: as upper.
static const struct special { uint32_t cp, upper[3], title[2]; } specials[] = {
    { 0xdf, { 'S', 'S' }, { 'S', 's' } },
    { 0x149, { 0x2bc, 'N' }, { 0 } },
    { 0x1f0, { 'J', 0x30c }, { 0 } },
    { 0x390, { 0x399, 0x308, 0x301 }, { 0 } },
    { 0x3b0, { 0x3a5, 0x308, 0x301 }, { 0 } },
    { 0x587, { 0x535, 0x552 }, { 0x535, 0x582 } },
    { 0x1e96, { 'H', 0x331 }, { 0 } },
    { 0x1e97, { 'T', 0x308 }, { 0 } },
    { 0x1e98, { 'W', 0x30a }, { 0 } },
    { 0x1e99, { 'Y', 0x30a }, { 0 } },
    { 0x1e9a, { 'A', 0x2be }, { 0 } },
    { 0xfb00, { 'F', 'F' }, { 'F', 'f' } },
    { 0xfb01, { 'F', 'I' }, { 'F', 'i' } },
    { 0xfb02, { 'F', 'L' }, { 'F', 'l' } },
    { 0xfb03, { 'F', 'F', 'I' }, { 0 } },
    { 0xfb04, { 'F', 'F', 'L' }, { 0 } },
    { 0xfb05, { 'S', 'T' }, { 'S', 't' } },
    { 0xfb06, { 'S', 'T' }, { 'S', 't' } },
};

static const struct special *special(uint32_t cp)
{
    for (size_t i = 0; i < ARRAY_LEN(specials); i++) {
        if (specials[i].cp == cp)
            return &specials[i];
    }
    return NULL;
}

static size_t copy(const uint32_t *from, size_t max, uint32_t ret[3])
{
    size_t n = 0;
    for (; n < max && from[n]; n++)
        ret[n] = from[n];
    return n;
}

size_t u_to_upper(uint32_t cp, uint32_t ret[3])
{
    const struct special *s = cp < 0x80 ? NULL : special(cp);
    if (s)
        return copy(s->upper, 3, ret);
    ret[0] = (uint32_t)utf8proc_toupper((utf8proc_int32_t)cp);
    return 1;
}

size_t u_to_lower(uint32_t cp, uint32_t ret[3])
{
    if (cp == 0x130) {
        ret[0] = 'i';
        ret[1] = 0x307;
        return 2;
    }
    ret[0] = (uint32_t)utf8proc_tolower((utf8proc_int32_t)cp);
    return 1;
}

size_t u_to_title(uint32_t cp, uint32_t ret[3])
{
    const struct special *s = cp < 0x80 ? NULL : special(cp);
    if (s)
        return s->title[0] ? copy(s->title, 2, ret) : copy(s->upper, 3, ret);
    ret[0] = (uint32_t)utf8proc_totitle((utf8proc_int32_t)cp);
    return 1;
}
