// The registry of models; see models.h.
#include "server/models.h"
#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include "base/base.h"
#include "base/clock.h"

static const char *base_name(struct arena *a, const char *file)
{
    const char *slash = strrchr(file, '/');
    const char *name = slash ? slash + 1 : file;
    size_t n = strlen(name);
    if (n > 5 && strcmp(name + n - 5, ".gguf") == 0)
        n -= 5;
    return arena_memdup(a, name, n);
}

static const char *make_label(struct arena *a, const char *name)
{
    struct str s = {0};
    metrics_label(&s, "model", name);
    const char *label = str_ok(&s) ? arena_strdup(a, s.p) : NULL;
    str_free(&s);
    return label;
}

static struct model_entry *find_name(struct models *m, const char *name)
{
    for (uint32_t i = 0; i < m->n; i++) {
        if (strcmp(m->entry[i].name, name) == 0)
            return &m->entry[i];
    }
    return NULL;
}

static int add_model(struct models *m, const char *spec, struct err *err)
{
    const char *eq = strchr(spec, '='), *slash = strchr(spec, '/');
    bool named = eq && (!slash || eq < slash);
    struct model_entry *e = &m->entry[m->n];
    e->file = arena_strdup(&m->arena, named ? eq + 1 : spec);
    if (!e->file)
        return err_set(err, -ENOMEM, "out of memory");
    e->name = named ? arena_memdup(&m->arena, spec, (size_t)(eq - spec))
                    : base_name(&m->arena, e->file);
    if (!e->name)
        return err_set(err, -ENOMEM, "out of memory");
    if (!*e->name || !*e->file)
        return err_set(err, -EINVAL, "model: \"%s\" is not [NAME=]FILE", spec);
    if (find_name(m, e->name))
        return err_set(err, -EINVAL, "model: the name \"%s\" stands twice", e->name);
    e->label = make_label(&m->arena, e->name);
    if (!e->label)
        return err_set(err, -ENOMEM, "out of memory");
    e->created_s = clock_unix_s();
    m->n++;
    return 0;
}

static int add_alias(struct models *m, const char *spec, struct err *err)
{
    const char *eq = strchr(spec, '=');
    struct model_entry *e = eq ? find_name(m, eq + 1) : &m->entry[0];
    if (!e)
        return err_set(err, -EINVAL, "model-alias: no model has the name \"%s\"", eq + 1);
    if (strcmp(spec, "*") == 0) {
        m->any_name = true;
        return 0;
    }
    size_t n = eq ? (size_t)(eq - spec) : strlen(spec);
    const char *alias = arena_memdup(&m->arena, spec, n);
    if (!alias)
        return err_set(err, -ENOMEM, "out of memory");
    m->alias[m->n_aliases].alias = alias;
    m->alias[m->n_aliases++].entry = e;
    return 0;
}

int models_init(struct models *m, const struct config *c, struct err *err)
{
    int r = 0;
    for (uint32_t i = 0; i < c->model.n && r == 0; i++)
        r = add_model(m, c->model.item[i], err);
    for (uint32_t i = 0; i < c->model_alias.n && r == 0; i++)
        r = add_alias(m, c->model_alias.item[i], err);
    return r;
}

int attention_from(struct attn_policy *p, const char *name, uint32_t budget, uint32_t window,
                   uint32_t sinks)
{
    struct attn_policy a = attn_policy_dense();
    if (strcmp(name, "native") != 0 && attn_policy_init(&a, name) < 0)
        return -ENOENT;
    if (budget)
        a.budget_tokens = budget;
    if (window)
        a.window_tokens = window;
    if (sinks != UINT32_MAX)
        a.sink_tokens = sinks;
    *p = a;
    return 0;
}

// "f16" for both, or "q8_0,f16" for K and V.
static void split_kv(struct models *m, const char *kv, struct engine_params *p)
{
    const char *comma = kv ? strchr(kv, ',') : NULL;
    p->kv_k = comma ? arena_memdup(&m->arena, kv, (size_t)(comma - kv)) : kv;
    p->kv_v = comma ? comma + 1 : kv;
}

// A store has one owner, so each model has its own.
static int set_store(struct models *m, const struct config *c, const struct model_entry *e,
                     struct engine_params *p, struct err *err)
{
    if (!c->kv_store)
        return 0;
    struct str path = {0};
    str_printf(&path, "%s/%s", c->kv_store, e->name);
    p->kv_store = str_ok(&path) ? arena_strdup(&m->arena, path.p) : NULL;
    str_free(&path);
    if (!p->kv_store)
        return err_set(err, -ENOMEM, "out of memory");
    if (mkdir(c->kv_store, 0700) < 0 && errno != EEXIST)
        return err_set(err, -errno, "kv-store %s: %s", c->kv_store, strerror(errno));
    p->kv_store_bytes = c->kv_store_bytes / m->n;
    p->kv_store_bytes_per_day = c->kv_store_bytes_per_day ? MAX(c->kv_store_bytes_per_day / m->n, 1)
                                                          : 0;
    return 0;
}

int models_open(struct models *m, const struct config *c,
                int (*progress)(void *ctx, uint64_t done_bytes, uint64_t total_bytes), void *ctx,
                struct err *err)
{
    struct engine_params p = {
        .device = c->device, .cache_dir = c->cache_dir, .threads = (uint32_t)c->threads,
        .exact = c->exact,
        .gpu_limited = c->gpu_layers < LAYERS_MAX, .gpu_layers = (uint32_t)c->gpu_layers,
        .ctx_tokens = (uint32_t)c->ctx_tokens, .kv_memory_bytes = c->kv_memory_bytes,
        .kv_limited = c->kv_device_bytes != UINT64_MAX, .kv_device_bytes = c->kv_device_bytes,
        .seqs_max = (uint32_t)c->seqs_max, .queue_max = (uint32_t)c->queue_max,
        .max_step_ms = (uint32_t)c->max_step_ms, .prefix_cache = c->no_prefix_cache,
        .progress = progress, .progress_ctx = ctx,
    };
    split_kv(m, c->kv, &p);
    if (attention_from(&p.attn, c->attention, (uint32_t)c->budget_tokens,
                       (uint32_t)c->window_tokens, (uint32_t)c->sink_tokens) < 0)
        return err_set(err, -EINVAL, "attention: \"%s\" is unknown", c->attention);
    m->attn = p.attn;
    for (uint32_t i = 0; i < m->n; i++) {
        p.model_path = m->entry[i].file;
        int r = set_store(m, c, &m->entry[i], &p, err);
        if (r == 0)
            r = engine_open(&m->entry[i].engine, &p, err);
        if (r) {
            err_prefix(err, "%s", m->entry[i].name);
            return r;
        }
    }
    return 0;
}

void models_close(struct models *m)
{
    for (uint32_t i = 0; i < m->n; i++) {
        engine_close(m->entry[i].engine);
        m->entry[i].engine = NULL;
    }
    arena_reset(&m->arena);
}

struct model_entry *models_find(struct models *m, const char *name)
{
    if (!name || !*name)
        return &m->entry[0];
    struct model_entry *e = find_name(m, name);
    for (uint32_t i = 0; i < m->n_aliases && !e; i++) {
        if (strcmp(m->alias[i].alias, name) == 0)
            e = m->alias[i].entry;
    }
    return e || !m->any_name ? e : &m->entry[0];
}
