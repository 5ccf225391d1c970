// The engine's side of a stream: one producer (the engine thread), one consumer (the reader).
//
// A stream never makes the engine wait: it is a list of chunks of packed deltas that grows as
// needed, bounded by what the request may produce. A reader that keeps up makes it reuse one chunk
// for ever.
//
// Reader and engine hold one reference each, so either may leave first. The lock is a leaf, except
// that wake() is called with it held: that is what lets stream_close() promise that no wake() comes
// after it returned. wake() may only unblock the reader: it must not call into the stream, and must
// not take a lock that anyone holds while calling stream_*().
//
// Parking: the reader finds nothing and is parked; the engine adds something, and if the reader is
// parked clears that and calls wake() once.
#pragma once
#include <stdbool.h>
#include "engine/engine.h"

// Returns 0 or -ENOMEM.
int  stream_create(struct stream **ret, void (*wake)(void *ctx), void *wake_ctx);
// A TEXT or PROMPT delta, copied. Returns 0 or -ENOMEM (the delta is lost: the request must end).
int  stream_push(struct stream *s, const struct delta *d);
// The DONE delta, which always finds room. The engine's reference ends.
void stream_finish(struct stream *s, const struct delta *done);
// The reader asked for the end or is gone. Takes no lock.
bool stream_cancelled(const struct stream *s);
