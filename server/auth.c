// API keys; see auth.h.
#include "server/auth.h"
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/base.h"

#define KEY_LINE_MAX 1024

struct keys { struct hash *hash; unsigned n, cap; };    // hash: owned (cap)

static int add(struct keys *k, const char *key, size_t n, struct err *err)
{
    if (k->n == k->cap) {
        unsigned cap = k->cap ? k->cap * 2 : 16;
        struct hash *p = realloc(k->hash, cap * sizeof(*p));
        if (!p)
            return err_set(err, -ENOMEM, "out of memory");
        k->hash = p;
        k->cap = cap;
    }
    hash_bytes(key, n, &k->hash[k->n++]);
    return 0;
}

static int add_line(struct keys *k, const char *line, struct err *err)
{
    while (isspace((unsigned char)*line))
        line++;
    size_t n = strlen(line);
    while (n && isspace((unsigned char)line[n - 1]))
        n--;
    if (!n || *line == '#')
        return 0;
    const char *colon = memchr(line, ':', n);
    const char *key = colon ? colon + 1 : line;
    n -= (size_t)(key - line);
    return n ? add(k, key, n, err) : err_set(err, -EINVAL, "an empty key");
}

int keys_load(struct keys **ret, const char *path, struct err *err)
{
    char line[KEY_LINE_MAX];
    int r = 0;
    struct keys *k = calloc(1, sizeof(*k));
    FILE *f = fopen(path, "re");
    if (!f || !k) {
        r = err_set(err, f ? -ENOMEM : -errno, "%s", f ? "out of memory" : strerror(errno));
        goto out;
    }
    while (r == 0 && fgets(line, sizeof(line), f)) {
        if (!strchr(line, '\n') && !feof(f))
            r = err_set(err, -EINVAL, "a line is too long");
        else
            r = add_line(k, line, err);
    }
    if (r == 0 && k->n == 0)
        r = err_set(err, -EINVAL, "no key in it");
    if (r)
        goto out;
    *ret = k;
    k = NULL;
out:
    explicit_bzero(line, sizeof(line));
    if (f)
        fclose(f);
    keys_free(k);
    return r;
}

void keys_free(struct keys *k)
{
    if (!k)
        return;
    free(k->hash);
    free(k);
}

bool keys_match(const struct keys *k, const char *key, struct caller *ret)
{
    struct hash h;
    bool found = false;
    hash_bytes(key ? key : "", key ? strlen(key) : 0, &h);
    for (unsigned i = 0; i < k->n; i++)
        found |= hash_equal_secret(&h, &k->hash[i]);
    found &= key != NULL && *key;
    if (found && ret) {
        // The salt is not the stored hash itself, so that it may go into cache keys.
        static const char purpose[] = "godwit cache salt";
        struct hash_state s;
        hash_start(&s);
        hash_add(&s, purpose, sizeof(purpose));
        hash_add(&s, h.b, sizeof(h.b));
        hash_end(&s, &ret->salt);
        ret->client = hash_short(&ret->salt);
    }
    return found;
}
