// API keys. Only their hashes stay in memory, and comparing takes the same time whatever was sent.
#pragma once
#include "base/err.h"
#include "server/http.h"

struct keys;                            // immutable once loaded

// One key a line, perhaps as NAME:KEY; blank lines and lines that begin with '#' are skipped.
// Returns 0, the negative errno of reading, or -EINVAL: no key in it, or a line too long.
int  keys_load(struct keys **ret, const char *path, struct err *err);
void keys_free(struct keys *k);         // NULL is fine
// key may be NULL. On a match fills *ret (may be NULL) and returns true.
bool keys_match(const struct keys *k, const char *key, struct caller *ret);
