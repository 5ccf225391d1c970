// Counters, histograms and the Prometheus text format 0.0.4.
#include "server/metrics.h"
#include <stdio.h>
#include "base/base.h"
#include "base/clock.h"

// One set of bounds for all latencies: 1 ms to 10 min. Bounds in seconds.
static const double bounds[] = {
    0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 5, 10,
    20, 40, 60, 120, 300, 600,
};
static_assert(ARRAY_LEN(bounds) <= HISTOGRAM_BUCKETS_MAX, "buckets");

void histogram_add(struct histogram *h, uint64_t ns)
{
    double s = (double)ns / (double)NS_PER_S;
    size_t i = 0;
    while (i < ARRAY_LEN(bounds) && s > bounds[i])
        i++;
    atomic_fetch_add_explicit(&h->bucket[i], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&h->sum_ns, ns, memory_order_relaxed);
}

static const unsigned codes[METRIC_CODES] = {
    200, 204, 400, 401, 403, 404, 405, 413, 414, 429, 431, 500, 503, 504, 505,
};

void http_metrics_count(struct http_metrics *m, unsigned status)
{
    for (size_t i = 0; i < METRIC_CODES; i++) {
        if (codes[i] == status || codes[i] == 0) {      // the first free place: all others
            atomic_fetch_add_explicit(&m->responses[i], 1, memory_order_relaxed);
            return;
        }
    }
}

void metrics_family(struct str *out, const char *name, const char *type, const char *help)
{
    str_printf(out, "# HELP godwit_%s %s\n# TYPE godwit_%s %s\n", name, help, name, type);
}

void metrics_value(struct str *out, const char *name, const char *labels, double value)
{
    if (*labels)
        str_printf(out, "godwit_%s{%s} %.17g\n", name, labels, value);
    else
        str_printf(out, "godwit_%s %.17g\n", name, value);
}

void metrics_histogram(struct str *out, const char *name, const char *labels,
                       struct histogram *h)
{
    const char *comma = *labels ? "," : "";
    uint64_t sum = 0;
    for (size_t i = 0; i < ARRAY_LEN(bounds); i++) {
        sum += atomic_load(&h->bucket[i]);
        str_printf(out, "godwit_%s_bucket{%s%sle=\"%g\"} %llu\n", name, labels, comma, bounds[i],
                   (unsigned long long)sum);
    }
    sum += atomic_load(&h->bucket[ARRAY_LEN(bounds)]);
    str_printf(out, "godwit_%s_bucket{%s%sle=\"+Inf\"} %llu\n", name, labels, comma,
               (unsigned long long)sum);
    str_printf(out, "godwit_%s_sum{%s} %.9g\n", name, labels,
               (double)atomic_load(&h->sum_ns) / (double)NS_PER_S);
    str_printf(out, "godwit_%s_count{%s} %llu\n", name, labels, (unsigned long long)sum);
}

void metrics_responses(struct str *out, struct http_metrics *m)
{
    metrics_family(out, "http_responses_total", "counter", "Answers by status code.");
    for (size_t i = 0; i < METRIC_CODES; i++) {
        uint64_t n = atomic_load(&m->responses[i]);
        char label[32];
        if (codes[i])
            snprintf(label, sizeof(label), "code=\"%u\"", codes[i]);
        else
            snprintf(label, sizeof(label), "code=\"other\"");
        if (n)
            metrics_value(out, "http_responses_total", label, (double)n);
        if (!codes[i])
            return;
    }
}

const char *finished_name(enum finished f)
{
    static const char *const names[FINISHED_COUNT] = {
        "stop", "length", "tool_calls", "abort", "timeout", "error",
    };
    return names[f];
}

void metrics_label(struct str *out, const char *key, const char *value)
{
    str_printf(out, "%s=\"", key);
    for (; *value; value++) {
        if (*value == '\\' || *value == '"')
            str_putc(out, '\\');
        if ((unsigned char)*value >= 0x20)
            str_putc(out, *value);
    }
    str_putc(out, '"');
}
