// The identity of a model with all its weights: files that differ only in numbers have the same
// header, so this reads everything, on several threads.
#pragma once
#include "engine/model/model.h"

// Called on the caller's thread now and then. Non-zero stops the work.
typedef int content_progress(void *ctx, uint64_t done_bytes, uint64_t total_bytes);

// progress may be NULL. threads 0: one per core. Returns 0, -ECANCELED (by progress), -EIO (the
// file shrank), -ENOMEM.
int model_content(const struct model *m, uint32_t threads, content_progress *progress, void *ctx,
                  struct hash *ret, struct err *err);
