// Opening a model: file, configuration, tensors, plan.
#include "engine/model/model.h"
#include <errno.h>
#include <stdlib.h>
#include "engine/model/bind.h"
#include "engine/model/plan.h"

// Identity for content keys: the header says which tensors with which metadata, cfg what of it is
// in force.
static void fingerprint(struct model *m)
{
    struct hash header;
    struct hash_state s;
    gguf_header_hash(m->file, &header);
    hash_start(&s);
    hash_add(&s, &header, sizeof(header));
    hash_add(&s, &m->cfg, sizeof(m->cfg));
    hash_end(&s, &m->fingerprint);
}

int model_open(struct model **ret, const char *path, struct err *err)
{
    struct model *m = calloc(1, sizeof(*m));
    if (!m)
        return err_set(err, -ENOMEM, "no memory for a model");
    int r = gguf_open(&m->file, path, err);
    if (!r)
        r = model_cfg_read(m->file, &m->cfg, err);
    if (!r)
        r = model_bind(m->file, &m->cfg, &m->weights, err);
    if (!r)
        r = plan_build(&m->plan, &m->cfg, &m->weights, err);
    if (r) {
        model_close(m);
        return r;
    }
    fingerprint(m);
    *ret = m;
    return 0;
}

void model_close(struct model *m)
{
    if (!m)
        return;
    plan_free(m->plan);
    free(m->weights.layer);
    gguf_close(m->file);
    free(m);
}
