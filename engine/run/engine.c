// Opening and closing an engine: model, executor, block pool, scheduler, thread.
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include "engine/exec/mem.h"
#include "engine/exec/split.h"
#include "engine/model/content.h"
#include "engine/run/paged.h"
#include "engine/run/sessions.h"
#include "engine/run/stored.h"
#include "base/clock.h"

#define SEQS_DEFAULT 64
#define QUEUE_DEFAULT 256
#define STEP_MS_DEFAULT 100
#define QUEUE_LIMIT 65536
// Rows of a step: what a prompt chunk can use well. Rows with logits: each costs a vocabulary of
// floats.
#define ROWS_DEFAULT 512
#define OUTPUTS_DEFAULT 64

// ---- model ----

static char *piece_dup(const struct tokenizer *t, int32_t id)
{
    size_t n = 0;
    const char *p = id < 0 ? "" : tokenizer_piece(t, id, true, &n);
    return strndup(p, n);
}

static void open_template(struct engine *e)
{
    struct gguf_str src;
    int r = gguf_string(e->model->file, "tokenizer.chat_template", &src, &e->tmpl_err);
    if (r == 0)
        r = template_open(&e->tmpl, src.p, src.n, &e->tmpl_err);
    else if (r == -ENOENT)
        err_set(&e->tmpl_err, r, "%s", "the model file has no chat template");
}

static void count_weights(const struct gguf *g, struct engine_info *info)
{
    for (size_t i = 0; i < gguf_n_tensors(g); i++) {
        const struct tensor *t = gguf_tensor_at(g, i);
        uint64_t n = 1;
        for (int d = 0; d < TENSOR_DIMS_MAX; d++)
            n *= t->dim[d];
        info->n_params += n;
        info->weight_bytes += t->bytes;
    }
}

static int open_model(struct engine *e, const struct engine_params *p, struct err *err)
{
    int r = model_open(&e->model, p->model_path, err);
    if (r < 0)
        return r;
    r = tokenizer_open(&e->tok, e->model->file, err);
    if (r < 0)
        return r;
    uint32_t n_named = tokenizer_n_vocab(e->tok);
    if (n_named > e->model->cfg.n_vocab)
        return err_set(err, -EINVAL, "the vocabulary has %u tokens, the model only %u", n_named,
                       e->model->cfg.n_vocab);
    open_template(e);
    e->file = strdup(p->model_path);
    e->bos = piece_dup(e->tok, tokenizer_bos(e->tok));
    e->eos = piece_dup(e->tok, tokenizer_eos(e->tok));
    if (!e->file || !e->bos || !e->eos)
        return err_set(err, -ENOMEM, "no memory for an engine");
    const struct model_cfg *cfg = &e->model->cfg;
    e->info.arch = cfg->arch;
    e->info.name = cfg->name;
    e->info.file = e->file;
    e->info.n_layers = cfg->n_layers;
    e->info.n_vocab = cfg->n_vocab;
    e->info.ctx_train_tokens = cfg->n_ctx_train;
    e->info.has_template = e->tmpl != NULL;
    e->info.fingerprint = e->model->fingerprint;
    count_weights(e->model->file, &e->info);
    return 0;
}

// ---- executor ----

static int set_limits(struct engine *e, const struct engine_params *p, struct err *err)
{
    struct sched_params *l = &e->limits;
    uint32_t queue_max = p->queue_max ? p->queue_max : QUEUE_DEFAULT;
    l->seqs_max = p->seqs_max ? p->seqs_max : SEQS_DEFAULT;
    if (l->seqs_max > BATCH_SEQS_MAX)
        return err_set(err, -EINVAL, "%u sequences at once, at most %u", l->seqs_max,
                       BATCH_SEQS_MAX);
    if (queue_max > QUEUE_LIMIT)
        return err_set(err, -EINVAL, "%u waiting requests, at most %u", queue_max, QUEUE_LIMIT);
    l->rows_max = MAX(ROWS_DEFAULT, ALIGN_UP(l->seqs_max * 2, KV_BLOCK_TOKENS));
    l->outputs_max = MAX(OUTPUTS_DEFAULT, l->seqs_max);
    l->live_max = l->seqs_max + queue_max;
    l->max_step_ns = (p->max_step_ms ? p->max_step_ms : STEP_MS_DEFAULT) * NS_PER_MS;
    return 0;
}

static int parse_kv_type(const char *name, bool exact, enum kv_type *ret, struct err *err)
{
    if (!name) {
        *ret = exact ? KV_F32 : KV_F16;
        return 0;
    }
    int r = kv_type_parse(name, ret);
    return r < 0 ? err_set(err, r, "no KV type is called \"%s\"", name) : 0;
}

// The device, the CPU, or both.
static int open_device(struct engine *e, const struct engine_params *p, struct err *err)
{
    const char *name = p->device ? p->device : "auto";
    const struct executor_ops *ops = executor_find(name);
    if (!ops)
        return err_set(err, -EINVAL, "no device is called \"%s\"", name);
    struct executor_params xp = {
        .threads = p->threads, .exact = p->exact, .device_arg = executor_arg(name),
        .cache_dir = p->cache_dir,
    };
    uint32_t n_layers = e->model->cfg.n_layers;
    if (!p->gpu_limited)
        return ops->open(&e->x, &xp, err);
    if (p->gpu_layers > 0 && ops != &executor_vulkan)
        return err_set(err, -EINVAL, "no GPU for %u layers: device \"%s\" is %s", p->gpu_layers,
                       name, ops->name);
    if (p->gpu_layers > 0 && p->gpu_layers < n_layers)
        return split_open(&e->x, ops, &xp, n_layers - p->gpu_layers, n_layers, err);
    if (p->gpu_layers == 0 && ops == &executor_vulkan) {
        ops = &executor_cpu;
        xp.device_arg = NULL;
    }
    return ops->open(&e->x, &xp, err);
}

static int open_executor(struct engine *e, const struct engine_params *p, struct err *err)
{
    int r = open_device(e, p, err);
    if (r < 0)
        return r;
    const struct executor_ops *ops = e->x->ops;
    ops->describe(e->x, e->device, sizeof e->device);
    if (ops->rows_usual)
        e->limits.rows_max = MAX(e->limits.rows_max, ops->rows_usual(e->x));
    struct load_params lp = {
        .rows_max = e->limits.rows_max, .seqs_max = e->limits.seqs_max,
        .outputs_max = e->limits.outputs_max,
        .progress = p->progress, .progress_ctx = p->progress_ctx,
    };
    r = parse_kv_type(p->kv_k, p->exact, &lp.k_type, err);
    if (r == 0)
        r = parse_kv_type(p->kv_v, p->exact, &lp.v_type, err);
    if (r == 0)
        r = kv_layout_init(&e->layout, &e->model->cfg, lp.k_type, lp.v_type, 0, err);
    if (r == 0)
        r = ops->load(e->x, e->model, e->model->plan, &lp, &e->prog, err);
    e->info.device = e->device;
    e->info.kv_k = kv_type_name(lp.k_type);
    e->info.kv_v = kv_type_name(lp.v_type);
    return r;
}

// ---- blocks ----

static uint64_t device_room(const struct engine *e)
{
    return e->x->ops->kv_room ? e->x->ops->kv_room(e->prog) : 0;
}

// Blocks for a pool of which nothing else is known. A device's own memory is there to be used, of
// the machine's others want some.
static uint64_t usual_blocks(const struct engine *e, const struct engine_params *p,
                             uint64_t per_seq)
{
    uint64_t block = e->layout.block_bytes, room = device_room(e);
    if (room && p->kv_limited)
        room = MIN(p->kv_device_bytes, room) + mem_machine_bytes() / 4;
    if (room)
        return MIN(room / block, e->limits.seqs_max * per_seq);
    return CLAMP(mem_machine_bytes() / 4 / block, per_seq, 4 * per_seq);
}

static int no_room(const struct engine *e, const struct engine_params *p, struct err *err)
{
    unsigned long long block = e->layout.block_bytes, have = p->kv_memory_bytes;
    if (have)
        return err_set(err, -ENOSPC, "%llu bytes of KV memory, one block has %llu", have, block);
    return err_set(err, -ENOSPC, "%s: no room is left for a KV block of %llu bytes; fewer "
                   "--gpu-layers leave more to the CPU", e->x->ops->name, block);
}

// With a store, n blocks are what memory has room for, and the pool gets what the store has.
static int open_paging(struct engine *e, const struct engine_params *p, uint64_t *n,
                       struct err *err)
{
    if (!e->x->ops->kv_page || !stored_wanted(p))
        return 0;
    uint64_t bytes = p->kv_memory_bytes ? p->kv_memory_bytes : *n * e->layout.block_bytes;
    int r = paged_create(&e->paged, e, bytes, err);
    if (r == 0 && !p->kv_blocks)
        *n = paged_blocks(e->paged, stored_capacity(p));
    return r;
}

// How many blocks the pool gets, and how long a sequence may become.
static int size_pool(struct engine *e, const struct engine_params *p, uint32_t *n_blocks,
                     struct err *err)
{
    uint64_t ctx = p->ctx_tokens ? p->ctx_tokens : MIN(e->model->cfg.n_ctx_train, CTX_MAX);
    if (ctx > CTX_MAX)
        return err_set(err, -EINVAL, "a context of %u tokens, at most %u", p->ctx_tokens, CTX_MAX);
    uint64_t per_seq = DIV_UP(ctx, KV_BLOCK_TOKENS), block = e->layout.block_bytes;
    uint64_t n = p->kv_blocks ? p->kv_blocks : p->kv_memory_bytes / block;
    if (!p->kv_blocks && !p->kv_memory_bytes)
        n = usual_blocks(e, p, per_seq);
    if (n == 0)
        return no_room(e, p, err);
    int r = open_paging(e, p, &n, err);
    if (r < 0)
        return r;
    n = MIN(n, UINT32_MAX / 4 / e->layout.n_layers);
    if (!p->ctx_tokens)
        ctx = MIN(ctx, n * KV_BLOCK_TOKENS);
    e->info.ctx_tokens = (uint32_t)ctx;
    e->info.kv_blocks = *n_blocks = (uint32_t)n;
    return 0;
}

// Pages that the device has no room for lie in the host's memory, though nobody asked for a limit.
static void limit_device(struct engine *e, const struct engine_params *p, uint32_t n_blocks)
{
    const struct kv_layout *l = &e->layout;
    uint64_t room = device_room(e), most = p->kv_limited ? p->kv_device_bytes : UINT64_MAX;
    uint64_t digests = n_blocks * (uint64_t)l->digest_bytes;
    if (room)
        most = MIN(most, room - MIN(room, digests));
    if (e->x->ops->kv_limit && most < UINT64_MAX)
        e->x->ops->kv_limit(e->prog, most);
}

// What content keys name besides the text. Blocks that outlive the process need all of the model:
// files with the same header may have other weights.
static int name_blocks(struct engine *e, const struct engine_params *p, struct err *err)
{
    const struct executor_ops *ops = e->x->ops;
    char line[sizeof e->device];
    struct hash_state s;
    (ops->arithmetic ? ops->arithmetic : ops->describe)(e->x, line, sizeof line);
    hash_start(&s);
    hash_add(&s, &(uint8_t){EXECUTOR_VERSION}, 1);
    hash_add(&s, line, strlen(line));
    hash_end(&s, &e->kv_executor);
    e->kv_model = e->info.fingerprint;
    if (!stored_wanted(p))
        return 0;
    return model_content(e->model, p->threads, p->progress, p->progress_ctx, &e->kv_model, err);
}

static int open_stored(struct engine *e, const struct engine_params *p, struct err *err)
{
    int r = name_blocks(e, p, err);
    if (r < 0 || !stored_wanted(p))
        return r;
    if (!e->prefix_cache)
        return err_set(err, -EINVAL, "a block store without a prefix cache is of no use");
    r = stored_open(&e->stored, e, p, err);
    e->limits.is_stored = stored_has;
    e->limits.is_stored_ctx = e->stored;
    if (e->paged) {
        e->limits.room = paged_room;
        e->limits.room_ctx = e->paged;
    }
    return r < 0 ? r : sessions_open(&e->sessions, e, err);
}

static int open_pool(struct engine *e, const struct engine_params *p, struct err *err)
{
    uint32_t n_blocks = 0;
    int r = size_pool(e, p, &n_blocks, err);
    if (r == 0)
        limit_device(e, p, n_blocks);
    if (r == 0)
        r = e->x->ops->kv_alloc(e->prog, n_blocks, &e->layout, err);
    if (r == 0)
        r = kv_pool_create(&e->pool, n_blocks, err);
    if (r == 0)
        r = open_stored(e, p, err);
    if (r == 0)
        r = sched_create(&e->sched, &e->limits, e->pool, err);
    if (r == 0 && e->x->ops->kv_homes)
        e->x->ops->kv_homes(e->prog, &e->stats.kv);
    if (r == 0)
        paged_stats(e->paged, &e->stats.paging);
    e->info.kv_block_bytes = e->layout.block_bytes;
    return r;
}

// ---- thread ----

static int open_thread(struct engine *e, struct err *err)
{
    e->batch_token = calloc(e->limits.rows_max, sizeof *e->batch_token);
    e->batch_seq = calloc(e->limits.seqs_max, sizeof *e->batch_seq);
    e->batch_out = calloc(e->limits.outputs_max, sizeof *e->batch_out);
    e->batch_want = calloc(e->limits.outputs_max, sizeof *e->batch_want);
    e->row = malloc(e->info.n_vocab * sizeof *e->row);
    if (!e->batch_token || !e->batch_seq || !e->batch_out || !e->batch_want || !e->row ||
        sampler_scratch_init(&e->scratch, e->info.n_vocab) < 0)
        return err_set(err, -ENOMEM, "no memory for an engine");
    e->batch = (struct batch){
        .token = e->batch_token, .seq = e->batch_seq, .out_row = e->batch_out,
    };
    e->queue_end = &e->queue;
    e->stats.last_step_ns = clock_now_ns();
    int r = pthread_create(&e->thread, NULL, engine_main, e);
    return r ? err_set(err, -r, "no thread for the engine: %s", strerror(r)) : 0;
}

static int init_locks(struct engine *e, struct err *err)
{
    pthread_cond_init(&e->call_done, NULL);
    pthread_mutex_init(&e->lock, NULL);
    e->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return e->wake_fd < 0 ? err_set(err, -errno, "no eventfd: %s", strerror(errno)) : 0;
}

// Everything but the thread; takes half-opened engines.
static void engine_free(struct engine *e)
{
    sessions_stop(e->sessions);
    stored_close(e->stored);
    sessions_close(e->sessions);
    sched_destroy(e->sched);
    kv_pool_destroy(e->pool);
    paged_destroy(e->paged);
    if (e->prog)
        e->x->ops->unload(e->prog);
    if (e->x)
        e->x->ops->close(e->x);
    template_close(e->tmpl);
    tokenizer_close(e->tok);
    model_close(e->model);
    free(e->batch_token);
    free(e->batch_seq);
    free(e->batch_out);
    free(e->batch_want);
    free(e->row);
    sampler_scratch_finish(&e->scratch);
    str_free(&e->text);
    str_free(&e->shown);
    free(e->file);
    free(e->bos);
    free(e->eos);
    if (e->wake_fd >= 0)
        close(e->wake_fd);
    pthread_cond_destroy(&e->call_done);
    pthread_mutex_destroy(&e->lock);
    free(e);
}

int engine_open(struct engine **ret, const struct engine_params *p, struct err *err)
{
    struct engine *e = calloc(1, sizeof *e);
    if (!e)
        return err_set(err, -ENOMEM, "no memory for an engine");
    e->exact = p->exact;
    e->prefix_cache = p->prefix_cache == 0;
    int r = init_locks(e, err);
    if (r == 0)
        r = set_limits(e, p, err);
    if (r == 0)
        r = open_model(e, p, err);
    if (r == 0)
        r = open_executor(e, p, err);
    if (r == 0)
        r = open_pool(e, p, err);
    if (r == 0)
        r = open_thread(e, err);
    if (r < 0) {
        engine_free(e);
        return r;
    }
    *ret = e;
    return 0;
}

void engine_close(struct engine *e)
{
    if (!e)
        return;
    pthread_mutex_lock(&e->lock);
    e->draining = e->closing = true;
    pthread_mutex_unlock(&e->lock);
    engine_wake(e);
    pthread_join(e->thread, NULL);
    assert(e->n_live == 0 && !e->jobs && !e->queue);
    engine_free(e);
}

void engine_drain(struct engine *e)
{
    pthread_mutex_lock(&e->lock);
    e->draining = true;
    pthread_mutex_unlock(&e->lock);
}

const struct engine_info *engine_info(const struct engine *e) { return &e->info; }
const struct tokenizer *engine_tokenizer(const struct engine *e) { return e->tok; }

void engine_stats(struct engine *e, struct engine_stats *ret)
{
    pthread_mutex_lock(&e->lock);
    *ret = e->stats;
    ret->waiting = e->n_live - e->stats.running;    // also those the thread did not take yet
    pthread_mutex_unlock(&e->lock);
    sessions_stats(e->sessions, &ret->sessions);
    ret->store.queued += ret->sessions.unsaved;
}
