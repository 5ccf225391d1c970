// The daemon's configuration: one table of options serves flags, the configuration file and --help.
// The only reader of the environment.
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/arena.h"
#include "base/err.h"
#include "base/log.h"

#define CONFIG_LIST_MAX 16

struct config_list { const char *item[CONFIG_LIST_MAX]; uint32_t n; };

struct config {
    struct arena arena;                 // owns the strings

    struct config_list model;           // [NAME=]FILE
    struct config_list model_alias;     // ALIAS, ALIAS=NAME, or "*"
    const char *listen, *admin;         // ADDRESS:PORT; admin may be "off"
    const char *api_key_file;           // NULL: no keys
    const char *device, *kv;
    const char *kv_store;               // NULL: none
    const char *attention, *cors_origin, *allow_host, *log_level;
    uint64_t    gpu_layers, threads, ctx_tokens, kv_memory_bytes, seqs_max, queue_max, max_step_ms;
    uint64_t    kv_device_bytes;        // UINT64_MAX: what there is
    uint64_t    kv_store_bytes, kv_store_bytes_per_day;     // 0: no limit of the day
    uint64_t    budget_tokens, window_tokens, sink_tokens;
    uint64_t    request_timeout_s, header_timeout_s, body_timeout_s, write_timeout_s;
    uint64_t    idle_timeout_s, drain_timeout_s, ping_s;
    uint64_t    connections_max, connections_per_address_max, body_max_bytes, http_threads;
    uint64_t    import_max_bytes;
    bool        exact, allow_public, no_prefix_cache, no_warmup;

    // From the environment that systemd makes.
    const char *notify_socket;          // NULL: none
    const char *cache_dir;              // NULL: none
    uint32_t    listen_fds;             // sockets passed, from descriptor 3 on
    const char *listen_fd_names;        // separated by ':', or NULL
    uint64_t    watchdog_us;            // 0: none
    bool        journal;                // stderr is the journal
    enum log_level log_max;
};

// Reads argv, --config and the environment. Prints for --help and --version.
// Returns 0, 1 when there is nothing more to do, or -EINVAL, -ENOENT, -ENOMEM with one line in err.
int  config_read(struct config *ret, int argc, char **argv, struct err *err);
void config_free(struct config *c);
