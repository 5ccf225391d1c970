// Template text to tokens; find_tag, text_end and tag_end are the rules of white space.
#include "engine/text/jinja/lexer.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "base/base.h"
#include "engine/text/jinja/jstr.h"
#include "engine/text/jinja/unicode.h"
#include "engine/text/utf8.h"

static const struct { const char *text; enum jtok type;
} operators[] = {
    // two characters before one
    {"//", T_FLOORDIV}, {"**", T_POW},   {"==", T_EQ},      {"!=", T_NE},      {">=", T_GE},
    {"<=", T_LE},       {"+", T_ADD},    {"-", T_SUB},      {"/", T_DIV},      {"*", T_MUL},
    {"%", T_MOD},       {"~", T_TILDE},  {"[", T_LBRACKET}, {"]", T_RBRACKET}, {"(", T_LPAREN},
    {")", T_RPAREN},    {"{", T_LBRACE}, {"}", T_RBRACE},   {">", T_GT},       {"<", T_LT},
    {"=", T_ASSIGN},    {".", T_DOT},    {":", T_COLON},    {"|", T_PIPE},     {",", T_COMMA},
    {";", T_SEMICOLON},
};

const char *jtok_name(enum jtok type)
{
    static const char *const names[] = {
        [T_EOF] = "end of template",
        [T_DATA] = "template data",
        [T_VAR_BEGIN] = "begin of print statement",
        [T_VAR_END] = "end of print statement",
        [T_BLOCK_BEGIN] = "begin of statement block",
        [T_BLOCK_END] = "end of statement block",
        [T_NAME] = "name",
        [T_STRING] = "string",
        [T_INT] = "integer",
        [T_FLOAT] = "float",
    };
    if (type < ARRAY_LEN(names))
        return names[type];
    for (size_t i = 0; i < ARRAY_LEN(operators); i++) {
        if (operators[i].type == type)
            return operators[i].text;
    }
    return "token";
}

struct jlexer jlex_start(struct jx *x, const char *src, size_t n)
{
    if (n > JX_SOURCE_MAX)
        jx_fail(x, -E2BIG, "a template longer than %d MiB", JX_SOURCE_MAX >> 20);
    if (!utf8_valid(src, n))
        jx_fail(x, -EINVAL, "a template that is not UTF-8");
    char *to = jx_alloc(x, n + 1);
    size_t len = 0;
    for (size_t i = 0; i < n; i++) {
        if (src[i] == '\r' && i + 1 < n && src[i + 1] == '\n')
            continue;
        to[len++] = src[i] == '\r' ? '\n' : src[i];
    }
    if (len && to[len - 1] == '\n')
        len--;
    return (struct jlexer){ .x = x, .src = to, .n = len, .line = 1, .line_start = true };
}

static _Noreturn void bad(struct jlexer *l, const char *why)
{
    l->x->line = l->line;
    jx_fail(l->x, -EINVAL, "%s", why);
}

static bool at_text(const struct jlexer *l, size_t at, const char *text)
{
    size_t n = strlen(text);
    return at <= l->n && l->n - at >= n && memcmp(l->src + at, text, n) == 0;
}

static void move_to(struct jlexer *l, size_t to)
{
    for (; l->at < to; l->at++)
        l->line += l->src[l->at] == '\n';
}

static size_t past_space(const struct jlexer *l, size_t at)
{
    const struct jstr s = { .p = l->src, .n = l->n };
    size_t next;
    while (at < l->n && u_space(jstr_char(&s, at, &next)))
        at = next;
    return at;
}

static size_t before_space(const struct jlexer *l, size_t from, size_t to)
{
    const struct jstr s = { .p = l->src, .n = l->n };
    size_t next;
    while (to > from && u_space(jstr_char(&s, jstr_prev(&s, to), &next)))
        to = jstr_prev(&s, to);
    return to;
}

// The end of a tag that closes with `close` at `at`, an optional sign included; 0: it is not there.
// A minus takes the white space behind it, a block or comment without a sign takes one newline.
static size_t tag_end(struct jlexer *l, size_t at, const char *close)
{
    bool is_var = close[0] == '}';
    char sign = at < l->n ? l->src[at] : '\0';
    bool has_sign = sign == '-' || (sign == '+' && !is_var);
    if (!at_text(l, at + has_sign, close))
        return 0;
    size_t end = at + has_sign + 2;
    if (has_sign && sign == '-')
        return past_space(l, end);
    if (!has_sign && !is_var && end < l->n && l->src[end] == '\n')
        end++;
    return end;
}

static void finish_tag(struct jlexer *l, size_t end)
{
    move_to(l, end);
    l->line_start = l->src[end - 1] == '\n';
    l->state = LEX_ROOT;
}

// Where the text [from, tag) ends once the white space before a tag is taken off: all of it with a
// minus, the indentation of the tag's line without a sign.
static size_t text_end(const struct jlexer *l, size_t from, size_t tag, char sign, bool is_var)
{
    if (sign == '-')
        return before_space(l, from, tag);
    if (sign == '+' || is_var)
        return tag;
    size_t line = tag;
    while (line > from && l->src[line - 1] != '\n')
        line--;
    if (line == from && !l->line_start)
        return tag;
    return before_space(l, line, tag) == line ? line : tag;
}

// {% raw %}: the place behind it, or 0.
static size_t raw_begin(const struct jlexer *l, size_t tag)
{
    size_t at = tag + 2;
    if (at < l->n && (l->src[at] == '-' || l->src[at] == '+'))
        at++;
    at = past_space(l, at);
    if (!at_text(l, at, "raw"))
        return 0;
    at = past_space(l, at + 3);
    if (at_text(l, at, "-%}"))
        return past_space(l, at + 3);
    return at_text(l, at, "%}") ? at + 2 : 0;
}

static void skip_comment(struct jlexer *l, size_t inside)
{
    const char *hit = memmem(l->src + inside, l->n - inside, "#}", 2);
    if (!hit)
        bad(l, "Missing end of comment tag");
    size_t at = (size_t)(hit - l->src);
    if (at > inside && (l->src[at - 1] == '-' || l->src[at - 1] == '+'))
        at--;
    finish_tag(l, tag_end(l, at, "#}"));
}

static struct jtoken data_token(const struct jlexer *l, size_t from, size_t to)
{
    return (struct jtoken){ .type = T_DATA, .line = l->line, .p = l->src + from, .n = to - from };
}

// Moves behind the opening of the tag at l->at, into the state it begins.
static void enter_tag(struct jlexer *l)
{
    size_t tag = l->at, raw;
    char kind = l->src[tag + 1], sign = tag + 2 < l->n ? l->src[tag + 2] : '\0';
    size_t inside = tag + 2 + (sign == '-' || sign == '+');
    if (kind == '#') {
        skip_comment(l, inside);
    } else if (kind == '%' && (raw = raw_begin(l, tag)) != 0) {
        move_to(l, raw);
        l->line_start = l->src[raw - 1] == '\n';
        l->state = LEX_RAW;
    } else {
        move_to(l, inside);
        l->state = kind == '{' ? LEX_VAR : LEX_BLOCK;
    }
}

static size_t find_tag(const struct jlexer *l, size_t at)
{
    for (; at + 1 < l->n; at++) {
        if (l->src[at] == '{' && strchr("{%#", l->src[at + 1]) && l->src[at + 1])
            return at;
    }
    return l->n;
}

// The text up to the next tag, which may be empty, or the beginning of the tag that stands here.
static struct jtoken root(struct jlexer *l)
{
    size_t from = l->at, tag = find_tag(l, from);
    struct jtoken t = data_token(l, from, tag);
    if (from == l->n) {
        t.type = T_EOF;
    } else if (tag > from) {
        char sign = tag + 2 < l->n ? l->src[tag + 2] : '\0';
        if (tag < l->n)
            t.n = text_end(l, from, tag, sign, l->src[tag + 1] == '{') - from;
        move_to(l, tag);
    } else {
        enter_tag(l);
        t.type = l->state == LEX_VAR ? T_VAR_BEGIN : l->state == LEX_BLOCK ? T_BLOCK_BEGIN : T_DATA;
    }
    return t;
}

static struct jtoken raw(struct jlexer *l)
{
    size_t from = l->at;
    if (from == l->n)
        return (struct jtoken){ .type = T_EOF, .line = l->line };   // as jinja2
    for (size_t tag = from; (tag = find_tag(l, tag)) < l->n; tag++) {
        if (l->src[tag + 1] != '%')
            continue;
        char sign = tag + 2 < l->n ? l->src[tag + 2] : '\0';
        size_t at = past_space(l, tag + 2 + (sign == '-' || sign == '+'));
        if (!at_text(l, at, "endraw"))
            continue;
        size_t end = tag_end(l, past_space(l, at + 6), "%}");
        if (!end)
            continue;
        struct jtoken t = data_token(l, from, text_end(l, from, tag, sign, false));
        finish_tag(l, end);
        return t;
    }
    bad(l, "Missing end of raw directive");
}

static bool name_char(char c, bool first)
{
    bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
    return letter || (unsigned char)c >= 0x80 || (!first && c >= '0' && c <= '9');
}

static bool digit_of(char c, int base, int *ret)
{
    char low = (char)(c | 32);
    int d = c >= '0' && c <= '9' ? c - '0' : low >= 'a' && low <= 'f' ? low - 'a' + 10 : 99;
    *ret = d;
    return d < base;
}

// Digits that single underscores may separate.
static size_t digits(const struct jlexer *l, size_t at, int base)
{
    int d;
    size_t end = at;
    for (size_t i = at; i < l->n; i++) {
        if (digit_of(l->src[i], base, &d))
            end = i + 1;
        else if (l->src[i] != '_' || end != i || (i == at && base == 10))
            break;
    }
    return end;
}

// A float needs a fraction or an exponent with digits. Returns its end, or 0.
static size_t float_end(const struct jlexer *l)
{
    size_t at = digits(l, l->at, 10), end = 0;
    if (l->at > 0 && l->src[l->at - 1] == '.')
        return 0;
    if (at < l->n && l->src[at] == '.' && digits(l, at + 1, 10) > at + 1)
        end = at = digits(l, at + 1, 10);
    if (at < l->n && (l->src[at] | 32) == 'e') {
        size_t exp = at + 1;
        if (exp < l->n && (l->src[exp] == '+' || l->src[exp] == '-'))
            exp++;
        if (digits(l, exp, 10) > exp)
            end = digits(l, exp, 10);
    }
    return end;
}

static struct jval float_value(struct jlexer *l, size_t end)
{
    char *buf = jx_alloc(l->x, end - l->at + 1);
    size_t n = 0;
    for (size_t i = l->at; i < end; i++) {
        if (l->src[i] != '_')
            buf[n++] = l->src[i];
    }
    return jfloat(strtod(buf, NULL));
}

static struct jtoken number(struct jlexer *l, struct jtoken t)
{
    size_t end = float_end(l), at = l->at;
    if (end) {
        t.type = T_FLOAT;
        t.val = float_value(l, end);
        move_to(l, end);
        return t;
    }
    char c = l->src[at], kind = at + 1 < l->n ? (char)(l->src[at + 1] | 32) : '\0';
    int base = c != '0' ? 10 : kind == 'x' ? 16 : kind == 'o' ? 8 : kind == 'b' ? 2 : 10, d;
    size_t from = base == 10 ? at : at + 2;
    end = digits(l, from, base);
    if (c == '0' && (base == 10 || end == from))        // zeros only
        end = at + strspn(l->src + at, "0");
    int64_t v = 0;
    for (size_t i = from; i < end; i++) {
        if (digit_of(l->src[i], base, &d) &&
            (__builtin_mul_overflow(v, base, &v) || __builtin_add_overflow(v, d, &v)))
            bad(l, "an integer beyond 64 bits");
    }
    t.type = T_INT;
    t.val = jint(v);
    move_to(l, end);
    return t;
}

static uint32_t string_hex(struct jlexer *l, size_t *at, size_t end, int n)
{
    uint32_t v = 0;
    int d;
    for (int i = 0; i < n; i++, ++*at) {
        if (*at >= end || !digit_of(l->src[*at], 16, &d))
            bad(l, "a truncated escape in a string");
        v = v << 4 | (uint32_t)d;
    }
    return v;
}

static void string_char(struct jlexer *l, struct jbuild *b, uint32_t cp)
{
    if (cp > 0x10ffff || (cp >= 0xd800 && cp <= 0xdfff))
        bad(l, "an escape that is no character");
    jbuild_char(b, cp, JS_TEMPLATE);
}

// The escape behind the backslash at *at - 1; *at moves behind it.
static void string_escape(struct jlexer *l, struct jbuild *b, size_t *at, size_t end)
{
    static const char from[] = "\\'\"abfnrtv", to[] = "\\'\"\a\b\f\n\r\t\v";
    char c = l->src[(*at)++];
    const char *hit = strchr(from, c);
    uint32_t cp = 0;
    if (c == '\n')
        return;
    if (hit && c) {
        jbuild_add(b, &to[hit - from], 1, JS_TEMPLATE);
    } else if (c == 'x' || c == 'u' || c == 'U') {
        cp = string_hex(l, at, end, c == 'x' ? 2 : c == 'u' ? 4 : 8);
        if (cp >= 0xd800 && cp < 0xdc00 && at_text(l, *at, "\\u")) {
            *at += 2;
            cp = 0x10000 + ((cp - 0xd800) << 10) + (string_hex(l, at, end, 4) - 0xdc00);
        }
        string_char(l, b, cp);
    } else if (c >= '0' && c <= '7') {
        --*at;
        for (int i = 0; i < 3 && *at < end && l->src[*at] >= '0' && l->src[*at] <= '7'; i++)
            cp = cp << 3 | (uint32_t)(l->src[(*at)++] - '0');
        string_char(l, b, cp);
    } else if (c == 'N') {
        bad(l, "named characters in strings are not supported");
    } else {
        jbuild_text(b, "\\");   // unknown: stays as written
        jbuild_add(b, &c, 1, JS_TEMPLATE);
    }
}

static struct jtoken string(struct jlexer *l, struct jtoken t)
{
    char quote = l->src[l->at];
    size_t end = l->at + 1;
    while (end < l->n && l->src[end] != quote)
        end += l->src[end] == '\\' ? 2 : 1;
    if (end >= l->n)
        bad(l, "a string has no end");
    struct jbuild b = jbuild_start(l->x);
    for (size_t at = l->at + 1; at < end;) {
        const char *stop = memchr(l->src + at, '\\', end - at);
        size_t to = stop ? (size_t)(stop - l->src) : end;
        jbuild_add(&b, l->src + at, to - at, JS_TEMPLATE);
        at = to;
        if (stop) {
            at++;
            string_escape(l, &b, &at, end);
        }
    }
    t.type = T_STRING;
    t.val = jstring(jbuild_end(&b));
    move_to(l, end + 1);
    return t;
}

static void balance(struct jlexer *l, char c)
{
    if (strchr("([{", c)) {
        if (l->n_open == JX_PARSE_DEPTH) {
            l->x->line = l->line;
            jx_fail(l->x, -E2BIG, "brackets nested more than %d deep", JX_PARSE_DEPTH);
        }
        l->open[l->n_open++] = c == '(' ? ')' : c == '[' ? ']' : '}';
    } else if (strchr(")]}", c)) {
        if (l->n_open == 0 || l->open[--l->n_open] != c)
            bad(l, "a closing bracket that does not match");
    }
}

static struct jtoken operator(struct jlexer *l, struct jtoken t)
{
    for (size_t i = 0; i < ARRAY_LEN(operators); i++) {
        if (!at_text(l, l->at, operators[i].text))
            continue;
        balance(l, operators[i].text[0]);
        t.type = operators[i].type;
        move_to(l, l->at + strlen(operators[i].text));
        return t;
    }
    bad(l, "an unexpected character");
}

// One token inside a tag.
static struct jtoken inside(struct jlexer *l)
{
    const char *close = l->state == LEX_VAR ? "}}" : "%}";
    move_to(l, past_space(l, l->at));
    size_t end = l->n_open ? 0 : tag_end(l, l->at, close);
    struct jtoken t = { .line = l->line, .p = l->src + l->at };
    if (end) {
        t.type = l->state == LEX_VAR ? T_VAR_END : T_BLOCK_END;
        finish_tag(l, end);
        return t;
    }
    if (l->at == l->n)
        return t;               // T_EOF
    char c = l->src[l->at];
    if (c >= '0' && c <= '9') {
        t = number(l, t);
    } else if (name_char(c, true)) {
        t.type = T_NAME;
        while (l->at < l->n && name_char(l->src[l->at], false))
            l->at++;
    } else if (c == '\'' || c == '"') {
        t = string(l, t);
    } else {
        t = operator(l, t);
    }
    t.n = (size_t)(l->src + l->at - t.p);
    return t;
}

struct jtoken jlex_next(struct jlexer *l)
{
    for (;;) {
        jx_step(l->x, 1);
        struct jtoken t = l->state == LEX_ROOT ? root(l) : l->state == LEX_RAW ? raw(l) : inside(l);
        if (t.type != T_DATA || t.n)
            return t;
    }
}
