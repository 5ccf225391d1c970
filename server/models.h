// The models that are served: names, aliases and their engines.
#pragma once
#include <stdatomic.h>
#include "engine/engine.h"
#include "server/config.h"
#include "server/metrics.h"

struct model_entry {
    const char    *name, *file;         // borrowed from the registry's arena
    struct engine *engine;              // NULL until it is open
    struct model_metrics metrics;
    const char    *label;               // of its metrics: model="NAME"
    int64_t        created_s;
    bool           store_failed, store_degraded;    // it was said
};

struct models {                         // names are fixed by models_init, engines by models_open
    struct arena arena;
    struct model_entry entry[CONFIG_LIST_MAX];
    uint32_t     n;
    struct { const char *alias; struct model_entry *entry; } alias[CONFIG_LIST_MAX];
    uint32_t     n_aliases;
    bool         any_name;              // alias '*'
    struct attn_policy attn;            // of requests that name none
};

// Names and aliases from the configuration. Returns 0, -EINVAL (twice the same name, unknown name).
int  models_init(struct models *m, const struct config *c, struct err *err);
// Opens every engine. progress may be NULL. On failure those that were opened stay for
// models_close.
int  models_open(struct models *m, const struct config *c,
                 int (*progress)(void *ctx, uint64_t done_bytes, uint64_t total_bytes), void *ctx,
                 struct err *err);
void models_close(struct models *m);
// NULL or "": the default. Returns NULL for an unknown name.
struct model_entry *models_find(struct models *m, const char *name);
// Fills an attention policy from its name ("native" too) and the sizes that are not 0 (sinks: not
// UINT32_MAX). Returns 0 or -ENOENT.
int  attention_from(struct attn_policy *p, const char *name, uint32_t budget, uint32_t window,
                    uint32_t sinks);
