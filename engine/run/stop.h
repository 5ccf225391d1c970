// Stop strings over a stream of text: what could still become one is held back; the earliest match
// ends the text and is never shown.
//
// Earliest means by where a match begins. So with the strings "b" and "abc" the text "xab" waits
// for one more character: "xabc" is cut to "x", "xabd" to "xa". However a text is cut into pieces,
// the result is that of a search in the whole. Time is linear in the text.
// Thread-safety: none; one per sequence.
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/arena.h"
#include "base/str.h"
#include "engine/engine.h"

struct stop_state {             // of one string, as in Knuth, Morris and Pratt's search
    const char     *p;
    const uint16_t *border;     // (n + 1) longest proper border of each prefix
    uint16_t        n;
    uint16_t        matched;    // bytes of the string that the text so far ends with
};

struct stop {
    struct arena       mem;
    struct stop_state *string;  // (n)
    uint32_t           n;
    struct str         held;    // text not given out yet
    uint64_t           pos;     // bytes of text so far
    uint64_t           begin;   // where the earliest match begins; UINT64_MAX: none yet
    bool               done;    // nothing can come before it any more
};

// Copies the strings; none is empty or longer than STOP_BYTES_MAX. n may be 0.
// Returns 0 or -ENOMEM.
int  stop_init(struct stop *s, const struct stop_string *string, uint32_t n);
void stop_finish(struct stop *s);       // a zeroed one is fine

// Adds a piece of text; appends to out what is safe to show. Returns true once the text has ended
// at a stop string; later pieces are ignored. A failed allocation marks out.
bool stop_push(struct stop *s, const char *p, size_t n, struct str *out);
// The end of the text: appends what was held back. Returns true if it ended at a stop string (one
// that was waiting for an earlier one to complete).
bool stop_flush(struct stop *s, struct str *out);
