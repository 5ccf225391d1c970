// Counters and histograms, and their Prometheus text. Names follow vLLM's behind `godwit_`.
// Thread-safety: any thread; all fields are atomic.
#pragma once
#include <stdatomic.h>
#include <stdint.h>
#include "base/str.h"

#define HISTOGRAM_BUCKETS_MAX 24

struct histogram {
    _Atomic uint64_t bucket[HISTOGRAM_BUCKETS_MAX + 1];     // not cumulative; the last is +Inf
    _Atomic uint64_t sum_ns;
};
void histogram_add(struct histogram *h, uint64_t ns);

enum finished {
    FINISHED_STOP, FINISHED_LENGTH, FINISHED_TOOL_CALLS, FINISHED_ABORT, FINISHED_TIMEOUT,
    FINISHED_ERROR, FINISHED_COUNT,
};

struct model_metrics {
    struct histogram first_token, inter_token, e2e, queue, prefill, decode;
    _Atomic uint64_t finished[FINISHED_COUNT];
    _Atomic uint64_t prompt_tokens, cached_tokens, generated_tokens;    // generated: as they come
};

#define METRIC_CODES 28
struct http_metrics {
    _Atomic uint64_t responses[METRIC_CODES];   // by place in a table of known codes
    _Atomic uint64_t refused_at_door;
};
void http_metrics_count(struct http_metrics *m, unsigned status);

// ---- text ---------------------------------------------------------------------------------------

// "# HELP" and "# TYPE" of a family.
void metrics_family(struct str *out, const char *name, const char *type, const char *help);
// labels: "" or `a="b"`, escaped by the caller's choice of values.
void metrics_value(struct str *out, const char *name, const char *labels, double value);
void metrics_histogram(struct str *out, const char *name, const char *labels,
                       struct histogram *h);
void metrics_responses(struct str *out, struct http_metrics *m);
const char *finished_name(enum finished f);
// `model="NAME"` with what Prometheus wants escaped.
void metrics_label(struct str *out, const char *key, const char *value);
