// GET /metrics: Prometheus text.
#include "base/base.h"
#include "server/api/api.h"

struct gauge {                          // of every model
    const char *name, *type, *help;
    double    (*of)(const struct engine_stats *s, const struct engine_info *i);
};

#define STAT(id, expr) \
    static double get_##id(const struct engine_stats *s, const struct engine_info *i) \
    { \
        (void)s; \
        (void)i; \
        return (double)(expr); \
    }
STAT(running, s->running)
STAT(waiting, s->waiting)
STAT(kv_usage, i->kv_blocks ? (double)s->kv_blocks_used / i->kv_blocks : 0)
STAT(kv_used, s->kv_blocks_used)
STAT(kv_cached, s->kv_blocks_cached)
STAT(kv_blocks, i->kv_blocks)
STAT(kv_block_bytes, i->kv_block_bytes)
STAT(device_bytes, s->kv.device_pages * s->kv.page_bytes)
STAT(host_bytes, s->kv.host_pages * s->kv.page_bytes)
STAT(device_reads, s->kv.device_reads)
STAT(host_reads, s->kv.host_reads)
STAT(moved_in, s->kv.moved_in * s->kv.page_bytes)
STAT(moved_out, s->kv.moved_out * s->kv.page_bytes)
STAT(store_blocks, s->store.blocks)
STAT(store_bytes, s->store.used_bytes)
STAT(store_capacity, s->store.capacity_bytes)
STAT(store_queued, s->store.queued)
STAT(store_degraded, s->store.degraded)
STAT(store_read_blocks, s->store.read_blocks)
STAT(store_read_bytes, s->store.read_bytes)
STAT(store_read_failures, s->store.read_failures)
STAT(store_loads, s->store.loads)
STAT(store_load_seconds, (double)s->store.load_ns / 1e9)
STAT(store_written_blocks, s->store.written_blocks)
STAT(store_written_bytes, s->store.written_bytes)
STAT(store_write_failures, s->store.write_failures)
STAT(store_write_drops, s->store.write_drops)
STAT(store_disk_written, s->store.disk_written_bytes)
STAT(store_disk_errors, s->store.disk_errors)
STAT(page_memory, s->paging.pages.memory_pages)
STAT(page_resident, s->paging.pages.resident_pages)
STAT(page_dirty, s->paging.dirty_blocks)
STAT(page_hits, s->paging.pages.hits)
STAT(page_faults, s->paging.pages.faults)
STAT(page_prefetches, s->paging.pages.prefetches)
STAT(page_evictions, s->paging.pages.evictions)
STAT(page_wait_seconds, (double)s->paging.pages.wait_ns / 1e9)
STAT(page_fetched, s->paging.fetched_pages)
STAT(page_fetched_bytes, s->paging.fetched_bytes)
STAT(page_missed, s->paging.missed)
STAT(page_lost, s->paging.lost_blocks)
STAT(sessions, s->sessions.n)
STAT(sessions_busy, s->sessions.busy)
STAT(sessions_unsaved, s->sessions.unsaved)
STAT(session_failures, s->sessions.save_failures)
STAT(read, s->blocks_read)
STAT(held, s->blocks_held)
STAT(steps, s->steps)
STAT(rows, s->step_rows)
STAT(step_seconds, (double)s->step_ns / 1e9)
STAT(preemptions, s->preemptions)
STAT(rejected, s->requests_rejected)
STAT(nonfinite, s->nonfinite)
STAT(failed, s->failed)

static const struct gauge gauges[] = {
    { "num_requests_running", "gauge", "Sequences that run.", get_running },
    { "num_requests_waiting", "gauge", "Requests that wait.", get_waiting },
    { "kv_cache_usage_perc", "gauge", "Part of the KV blocks in use, 0 to 1.", get_kv_usage },
    { "kv_blocks_used", "gauge", "KV blocks in use.", get_kv_used },
    { "kv_blocks_cached", "gauge", "KV blocks kept for reuse.", get_kv_cached },
    { "kv_blocks", "gauge", "KV blocks there are.", get_kv_blocks },
    { "kv_block_bytes", "gauge", "Bytes of a KV block.", get_kv_block_bytes },
    { "kv_device_bytes", "gauge", "Bytes of KV pages in a device's own memory.", get_device_bytes },
    { "kv_host_bytes", "gauge", "Bytes of KV pages beside them, in pinned host memory.",
      get_host_bytes },
    { "kv_device_page_reads_total", "counter",
      "KV pages that steps read in the device's memory, where some are the host's.",
      get_device_reads },
    { "kv_host_page_reads_total", "counter", "KV pages that steps read in pinned host memory.",
      get_host_reads },
    { "kv_moved_in_bytes_total", "counter", "KV pages copied to the device.", get_moved_in },
    { "kv_moved_out_bytes_total", "counter", "KV pages copied from the device to the host.",
      get_moved_out },
    { "kv_store_blocks", "gauge", "KV blocks in the store on disk.", get_store_blocks },
    { "kv_store_bytes", "gauge", "Bytes of them.", get_store_bytes },
    { "kv_store_capacity_bytes", "gauge", "What the store may take; 0: there is none.",
      get_store_capacity },
    { "kv_store_queued_blocks", "gauge", "KV blocks still to be written.", get_store_queued },
    { "kv_store_degraded", "gauge", "1: the store takes no more blocks.", get_store_degraded },
    { "kv_store_read_blocks_total", "counter", "KV blocks restored.", get_store_read_blocks },
    { "kv_store_read_bytes_total", "counter", "Bytes of them.", get_store_read_bytes },
    { "kv_store_read_failures_total", "counter",
      "Times that a stored block failed or was late, and was computed.", get_store_read_failures },
    { "kv_store_loads_total", "counter", "Sequences that waited for the store.", get_store_loads },
    { "kv_store_load_seconds_total", "counter", "How long they waited.", get_store_load_seconds },
    { "kv_store_written_blocks_total", "counter", "KV blocks stored.", get_store_written_blocks },
    { "kv_store_written_bytes_total", "counter", "Bytes of them.", get_store_written_bytes },
    { "kv_store_write_failures_total", "counter", "KV blocks that the store did not take.",
      get_store_write_failures },
    { "kv_store_write_drops_total", "counter", "KV blocks given up before they were written.",
      get_store_write_drops },
    { "kv_store_disk_written_bytes_total", "counter", "Bytes written, with headers and index.",
      get_store_disk_written },
    { "kv_store_disk_errors_total", "counter", "Failures of the disk, and damaged blocks.",
      get_store_disk_errors },
    { "kv_memory_pages", "gauge", "With paging: KV pages, each one layer of a block, that memory "
      "has room for.", get_page_memory },
    { "kv_resident_pages", "gauge", "KV pages in memory.", get_page_resident },
    { "kv_dirty_blocks", "gauge", "KV blocks that are only in memory as yet.", get_page_dirty },
    { "kv_page_hits_total", "counter", "KV pages read where they lay, each about once a step.",
      get_page_hits },
    { "kv_page_faults_total", "counter", "KV pages that rows waited for or did not get.",
      get_page_faults },
    { "kv_page_prefetches_total", "counter", "KV pages fetched before a row came for them.",
      get_page_prefetches },
    { "kv_page_evictions_total", "counter", "KV pages that left memory.", get_page_evictions },
    { "kv_page_wait_seconds_total", "counter", "How long threads waited for KV pages.",
      get_page_wait_seconds },
    { "kv_page_fetched_total", "counter", "KV pages read from the store.", get_page_fetched },
    { "kv_page_fetched_bytes_total", "counter", "Bytes of them.", get_page_fetched_bytes },
    { "kv_page_missed_total", "counter", "Times that a sequence sat out a step for want of pages.",
      get_page_missed },
    { "kv_page_lost_blocks_total", "counter",
      "KV blocks that could not be read back and were computed again.", get_page_lost },
    { "sessions", "gauge", "Sessions.", get_sessions },
    { "sessions_running", "gauge", "Sessions that a request runs on.", get_sessions_busy },
    { "sessions_unsaved", "gauge", "Sessions still to be written.", get_sessions_unsaved },
    { "session_save_failures_total", "counter", "Sessions that could not be written.",
      get_session_failures },
    { "attention_blocks_read_total", "counter", "KV blocks that attention read.", get_read },
    { "attention_blocks_held_total", "counter", "KV blocks that attention could have read.",
      get_held },
    { "steps_total", "counter", "Steps.", get_steps },
    { "step_rows_total", "counter", "Rows of all steps.", get_rows },
    { "step_seconds_total", "counter", "Time within steps.", get_step_seconds },
    { "num_preemptions_total", "counter", "Sequences put back into the queue.", get_preemptions },
    { "requests_rejected_total", "counter", "Requests that the engine did not take.",
      get_rejected },
    { "requests_nonfinite_total", "counter",
      "Requests that failed because a logit was no finite number.", get_nonfinite },
    { "engine_failed", "gauge", "1: the executor is lost.", get_failed },
};

struct counter { const char *name, *help; size_t offset; };
#define COUNTER(field) offsetof(struct model_metrics, field)
static const struct counter counters[] = {
    { "prompt_tokens_total", "Prompt tokens of requests that ended.", COUNTER(prompt_tokens) },
    { "generation_tokens_total", "Generated tokens.", COUNTER(generated_tokens) },
    { "prefix_cache_queries_total", "Prompt tokens looked for in the prefix cache.",
      COUNTER(prompt_tokens) },
    { "prefix_cache_hits_total", "Prompt tokens found in the prefix cache.",
      COUNTER(cached_tokens) },
};

struct timing { const char *name, *help; size_t offset; };
#define TIMING(field) offsetof(struct model_metrics, field)
static const struct timing timings[] = {
    { "time_to_first_token_seconds", "From submission to the first token.", TIMING(first_token) },
    { "inter_token_latency_seconds", "Between tokens of a stream.", TIMING(inter_token) },
    { "e2e_request_latency_seconds", "From submission to the end.", TIMING(e2e) },
    { "request_queue_time_seconds", "Waiting for a place in a batch.", TIMING(queue) },
    { "request_prefill_time_seconds", "From the queue to the first token.", TIMING(prefill) },
    { "request_decode_time_seconds", "From the first token to the last.", TIMING(decode) },
};

static void put_gauges(struct str *out, struct models *m)
{
    struct engine_stats stats[CONFIG_LIST_MAX];
    for (uint32_t i = 0; i < m->n; i++)
        engine_stats(m->entry[i].engine, &stats[i]);
    for (size_t g = 0; g < ARRAY_LEN(gauges); g++) {
        metrics_family(out, gauges[g].name, gauges[g].type, gauges[g].help);
        for (uint32_t i = 0; i < m->n; i++)
            metrics_value(out, gauges[g].name, m->entry[i].label,
                          gauges[g].of(&stats[i], engine_info(m->entry[i].engine)));
    }
}

static void put_counters(struct str *out, struct models *m)
{
    for (size_t k = 0; k < ARRAY_LEN(counters); k++) {
        metrics_family(out, counters[k].name, "counter", counters[k].help);
        for (uint32_t i = 0; i < m->n; i++) {
            char *base = (char *)&m->entry[i].metrics;
            _Atomic uint64_t *v = (_Atomic uint64_t *)(void *)(base + counters[k].offset);
            metrics_value(out, counters[k].name, m->entry[i].label, (double)atomic_load(v));
        }
    }
}

static void put_timings(struct str *out, struct models *m)
{
    for (size_t t = 0; t < ARRAY_LEN(timings); t++) {
        metrics_family(out, timings[t].name, "histogram", timings[t].help);
        for (uint32_t i = 0; i < m->n; i++) {
            char *base = (char *)&m->entry[i].metrics;
            metrics_histogram(out, timings[t].name, m->entry[i].label,
                              (struct histogram *)(void *)(base + timings[t].offset));
        }
    }
}

static void put_finished(struct str *out, struct models *m)
{
    metrics_family(out, "request_success_total", "counter", "Requests that ended, by reason.");
    for (uint32_t i = 0; i < m->n; i++) {
        for (int f = 0; f < FINISHED_COUNT; f++)
            str_printf(out, "godwit_request_success_total{%s,finished_reason=\"%s\"} %llu\n",
                       m->entry[i].label, finished_name((enum finished)f),
                       (unsigned long long)atomic_load(&m->entry[i].metrics.finished[f]));
    }
}

static void put_http(struct str *out, struct app *a)
{
    struct http_counts n = {0};
    if (a->main)
        http_counts(a->main, &n);
    metrics_responses(out, &a->http_metrics);
    metrics_family(out, "http_connections", "gauge", "Open connections of the API.");
    metrics_value(out, "http_connections", "", n.connections);
    metrics_family(out, "http_connections_total", "counter", "Connections taken by the API.");
    metrics_value(out, "http_connections_total", "", (double)n.accepted);
    metrics_family(out, "http_calls", "gauge", "Requests that wait for something.");
    metrics_value(out, "http_calls", "", n.calls);
    metrics_family(out, "http_refused_total", "counter", "Connections refused at the door.");
    metrics_value(out, "http_refused_total", "",
                  (double)atomic_load(&a->http_metrics.refused_at_door));
}

void api_metrics(struct call *c)
{
    struct app *a = app_of(c);
    put_http(&c->out, a);
    if (app_state(a) != APP_LOADING) {
        put_gauges(&c->out, &a->models);
        put_counters(&c->out, &a->models);
        put_timings(&c->out, &a->models);
        put_finished(&c->out, &a->models);
    }
    call_answer(c, 200, "text/plain; version=0.0.4; charset=utf-8");
}
