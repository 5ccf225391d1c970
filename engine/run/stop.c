// Stop strings: one search automaton for each, advanced byte by byte.
#include "engine/run/stop.h"
#include <errno.h>
#include <string.h>
#include "base/base.h"

// Longest proper border (both prefix and suffix) of each prefix of p.
static void find_borders(const char *p, uint16_t n, uint16_t *border)
{
    border[0] = 0;
    border[1] = 0;
    for (uint16_t i = 1, k = 0; i < n; i++) {
        while (k && p[i] != p[k])
            k = border[k];
        k += p[i] == p[k];
        border[i + 1] = k;
    }
}

static bool add_string(struct stop *s, struct stop_string string, struct stop_state *ret)
{
    assert(string.n > 0 && string.n <= STOP_BYTES_MAX);
    uint16_t *border = arena_calloc(&s->mem, string.n + 1, sizeof(*border));
    char *p = arena_memdup(&s->mem, string.p, string.n);
    if (!border || !p)
        return false;
    find_borders(p, (uint16_t)string.n, border);
    *ret = (struct stop_state){ p, border, (uint16_t)string.n, 0 };
    return true;
}

int stop_init(struct stop *s, const struct stop_string *string, uint32_t n)
{
    struct stop r = { .n = n, .begin = UINT64_MAX };
    assert(n <= STOP_STRINGS_MAX);
    r.string = arena_calloc(&r.mem, n, sizeof(*r.string));
    bool ok = r.string;
    for (uint32_t i = 0; ok && i < n; i++)
        ok = add_string(&r, string[i], &r.string[i]);
    if (!ok) {
        stop_finish(&r);
        return -ENOMEM;
    }
    *s = r;
    return 0;
}

void stop_finish(struct stop *s)
{
    arena_reset(&s->mem);
    str_free(&s->held);
    *s = (struct stop){0};
}

// One more byte of text for one string. Returns whether the string is complete with it.
static bool advance(struct stop_state *t, char c)
{
    if (t->matched == t->n)
        t->matched = t->border[t->n];
    while (t->matched && t->p[t->matched] != c)
        t->matched = t->border[t->matched];
    t->matched += t->p[t->matched] == c;
    return t->matched == t->n;
}

// Where the earliest match begins that exists or may still come of what is there.
static uint64_t earliest(const struct stop *s)
{
    uint64_t at = MIN(s->begin, s->pos);
    for (uint32_t i = 0; i < s->n; i++)
        at = MIN(at, s->pos - s->string[i].matched);
    return at;
}

static void push_byte(struct stop *s, char c)
{
    s->pos++;
    for (uint32_t i = 0; i < s->n; i++)
        if (advance(&s->string[i], c))
            s->begin = MIN(s->begin, s->pos - s->string[i].n);
    s->done = s->begin != UINT64_MAX && earliest(s) == s->begin;
}

// Moves the text before `to` from held, which ends at pos, to out.
static void give_out(struct stop *s, uint64_t to, struct str *out)
{
    size_t n = (size_t)(to - (s->pos - s->held.n));
    if (n == 0)
        return;
    str_add(out, s->held.p, n);
    s->held.n -= n;
    memmove(s->held.p, s->held.p + n, s->held.n);
}

bool stop_push(struct stop *s, const char *p, size_t n, struct str *out)
{
    if (s->done || n == 0)
        return s->done;
    if (s->n == 0) {
        str_add(out, p, n);
        return false;
    }
    size_t i = 0;
    while (i < n && !s->done)
        push_byte(s, p[i++]);
    str_add(&s->held, p, i);
    if (!str_ok(&s->held)) {
        out->failed = true;
        return s->done;
    }
    give_out(s, earliest(s), out);
    return s->done;
}

bool stop_flush(struct stop *s, struct str *out)
{
    if (!s->done && str_ok(&s->held))
        give_out(s, MIN(s->begin, s->pos), out);
    s->done = s->begin != UINT64_MAX;
    str_clear(&s->held);
    return s->done;
}
