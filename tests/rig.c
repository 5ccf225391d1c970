// See rig.h.
#include "tests/rig.h"
#include <errno.h>

// ---- the executor -----------------------------------------------------------------------------

static struct executor *shared;
static uint32_t shared_threads;
static bool shared_fast;

static const char *device_name(void)
{
    const char *name = getenv("TEST_DEVICE");
    return name && *name ? name : "cpu";
}

bool rig_is_cpu(void)
{
    return strcmp(device_name(), "cpu") == 0;
}

void rig_forget(void)
{
    if (shared)
        shared->ops->close(shared);
    shared = NULL;
}

static void open_shared(const struct rig *r)
{
    struct err err;
    const char *name = device_name();
    const struct executor_ops *ops =
        strncmp(name, "vulkan", 6) == 0 ? &executor_vulkan : executor_find(name);
    const struct executor_params p = {
        .threads = shared_threads, .exact = !r->fast, .device_arg = executor_arg(name),
    };
    REQUIRE(ops);
    int code = ops->open(&shared, &p, &err);
    if (code == -ENODEV)
        SKIP("%s", err.msg);
    REQUIRE_OK(code, err);
}

struct executor *rig_executor(const struct rig *r)
{
    static bool at_exit;
    uint32_t threads = r->threads ? r->threads : RIG_THREADS;
    if (shared && (shared_threads != threads || shared_fast != r->fast))
        rig_forget();
    shared_threads = threads;
    shared_fast = r->fast;
    if (!shared)
        open_shared(r);
    if (!at_exit)
        at_exit = atexit(rig_forget) == 0;
    return shared;
}

// ---- a small model by hand --------------------------------------------------------------------

const struct tensor *rig_tensor(struct rig *r, uint32_t n_in, uint32_t n_out, float scale,
                                float offset)
{
    struct tensor *t = &r->tensor[r->n_tensors++];
    size_t n = (size_t)n_in * n_out;
    float *p = malloc(n * sizeof(float));
    REQUIRE(r->n_tensors <= RIG_TENSORS_MAX && p);
    for (size_t i = 0; i < n; i++)
        p[i] = random_float() * scale + offset;
    *t = (struct tensor){
        .name = "test", .quant = &quants[QUANT_f32], .dim = { n_in, n_out, 1, 1 }, .n_dims = 2,
        .data = p, .bytes = n * sizeof(float),
    };
    return t;
}

struct op *rig_op(struct rig *r, enum op_kind kind)
{
    REQUIRE(r->plan.n_ops < RIG_OPS_MAX);
    struct op *op = &r->op[r->plan.n_ops++];
    *op = (struct op){ .kind = kind };
    r->plan.op = r->op;
    return op;
}

void rig_init(struct rig *r, uint32_t heads, uint32_t kv_heads, uint32_t dim)
{
    *r = (struct rig){ .k_type = KV_F32, .v_type = KV_F32 };
    struct model_cfg *c = &r->model.cfg;
    c->n_layers = 1;
    c->n_heads = heads;
    c->n_kv_heads = kv_heads;
    c->head_dim = dim;
    c->n_vocab = 50;
    uint32_t *w = r->plan.slot_width;
    w[SLOT_Q] = w[SLOT_A] = heads * dim;
    w[SLOT_K] = w[SLOT_V] = kv_heads * dim;
}

void rig_close(struct rig *r)
{
    if (r->g)
        r->x->ops->unload(r->g);
    r->g = NULL;
    r->x = NULL;
}

void rig_finish(struct rig *r)
{
    rig_close(r);
    for (uint32_t i = 0; i < r->n_tensors; i++)
        free((void *)(uintptr_t)r->tensor[i].data);
}

void rig_open(struct rig *r, uint32_t n_blocks)
{
    struct err err;
    struct load_params lp = {
        .rows_max = RIG_ROWS_MAX, .seqs_max = 64, .outputs_max = RIG_ROWS_MAX,
        .k_type = r->k_type, .v_type = r->v_type,
    };
    r->plan.op = r->op;
    r->x = rig_executor(r);
    REQUIRE_OK(r->x->ops->load(r->x, &r->model, &r->plan, &lp, &r->g, &err), err);
    r->n_blocks = n_blocks;
    if (n_blocks)
        REQUIRE_OK(r->x->ops->kv_alloc(r->g, n_blocks, &r->layout, &err), err);
}

// ---- steps ------------------------------------------------------------------------------------

void rig_step(struct rig *r, struct batch *b)
{
    struct err err;
    REQUIRE_OK(r->x->ops->submit(r->g, b, &err), err);
    REQUIRE_OK(r->x->ops->wait(r->g, UINT64_MAX, &err), err);
}

struct batch_seq rig_step_one(struct rig *r, const uint32_t *table, uint32_t n_blocks,
                              uint32_t pos0, uint32_t n, struct attn_policy attn)
{
    struct batch_seq seq = {
        .block = table, .n_blocks = n_blocks, .n_rows = n, .pos0 = pos0, .attn = attn,
    };
    struct batch b = { .n_rows = n, .n_seqs = 1, .seq = &seq };
    rig_step(r, &b);
    return seq;
}

// ---- slots ------------------------------------------------------------------------------------

void rig_fill_slot(struct rig *r, struct ref *ref, enum slot s, float scale)
{
    size_t n = (size_t)ref->n * r->plan.slot_width[s];
    float *x = malloc(n * sizeof(float));
    for (size_t i = 0; i < n; i++)
        ref->slot[s][i] = x[i] = random_float() * scale;
    r->x->ops->slot_write(r->g, s, 0, ref->n, x);
    free(x);
}

double rig_slot_error(struct rig *r, const struct ref *ref, enum slot s)
{
    size_t n = (size_t)ref->n * r->plan.slot_width[s];
    float *x = malloc(n * sizeof(float));
    r->x->ops->slot_read(r->g, s, 0, ref->n, x);
    double e = ref_error(x, ref->slot[s], n);
    free(x);
    return e;
}
