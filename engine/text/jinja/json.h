// JSON text to values. Order of keys and the spelling class of numbers are kept: 1 is an int, 1.0
// and 1e3 are floats, an integer beyond 64 bits is a J_BIG that prints, compares and dumps as
// written but takes no part in arithmetic. Of equal keys the last value wins, at the first one's
// place. An escape of half a surrogate pair becomes U+FFFD. NaN and Infinity are no JSON.
#pragma once
#include "engine/text/jinja/value.h"

// Parses p[0..n), all of it, into values whose strings are of source JS_DATA. Takes linear time.
// Fails with -EINVAL for what is not JSON (`what` names the text) and -E2BIG beyond JX_JSON_DEPTH.
struct jval json_parse(struct jx *x, const char *p, size_t n, const char *what);
// As json_parse, but what is not JSON is no failure: returns false.
bool json_try(struct jx *x, const char *p, size_t n, struct jval *ret);
