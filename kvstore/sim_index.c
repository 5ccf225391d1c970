// The index of the simulated machine: what is committed stays, whatever happens to the machine.
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "kvstore/sim.h"

struct sim_index { struct index base; struct kv_sim *m; bool broken; };

static struct sim_index *of(struct index *x) { return (struct sim_index *)x; }

static struct index_block *find_block(struct sim_index_data *d, const struct index_block *at)
{
    for (uint32_t i = 0; i < d->n_blocks; i++)
        if (d->block[i].segment == at->segment && d->block[i].slot == at->slot)
            return &d->block[i];
    return NULL;
}

static struct sim_named *find_named(struct sim_index_data *d, const char *name)
{
    for (uint32_t i = 0; i < d->n_named; i++)
        if (strcmp(d->named[i].name, name) == 0)
            return &d->named[i];
    return NULL;
}

static void clear(struct sim_index_data *d)
{
    for (uint32_t i = 0; i < d->n_named; i++)
        free(d->named[i].p);
    d->n_named = d->n_blocks = 0;
    d->has_meta = false;
}

void sim_index_data_finish(struct sim_index_data *d)
{
    clear(d);
    free(d->block);
    free(d->named);
    *d = (struct sim_index_data){0};
}

static void put_block(struct sim_index_data *d, const struct index_change *c)
{
    struct index_block *b = find_block(d, &c->block);
    if (!b) {
        if (d->n_blocks == d->n_blocks_max) {
            d->n_blocks_max = MAX(64, d->n_blocks_max * 2);
            d->block = realloc(d->block, d->n_blocks_max * sizeof(*d->block));
            assert(d->block);
        }
        b = &d->block[d->n_blocks++];
    }
    *b = c->block;
    index_block_seal(b, &c->key);
}

static void put_named(struct sim_index_data *d, const struct index_change *c)
{
    struct index_named h = {c->expires_s, c->n_pins, c->value_bytes, 0};
    size_t pin_bytes = (size_t)c->n_pins * HASH_BYTES;
    size_t n = sizeof(h) + pin_bytes + c->value_bytes;
    struct sim_named *r = find_named(d, c->name);
    if (!r) {
        if (d->n_named == d->n_named_max) {
            d->n_named_max = MAX(16, d->n_named_max * 2);
            d->named = realloc(d->named, d->n_named_max * sizeof(*d->named));
            assert(d->named);
        }
        r = &d->named[d->n_named++];
        *r = (struct sim_named){0};
        memcpy(r->name, c->name, strlen(c->name));
    }
    free(r->p);
    r->n = (uint32_t)n;
    r->p = malloc(n);
    assert(r->p);
    memcpy(r->p, &h, sizeof(h));
    if (pin_bytes)
        memcpy(r->p + sizeof(h), c->pin, pin_bytes);
    if (c->value_bytes)
        memcpy(r->p + sizeof(h) + pin_bytes, c->value, c->value_bytes);
    h.check = index_named_check(c->name, r->p, n);
    memcpy(r->p, &h, sizeof(h));
}

static void apply(struct sim_index_data *d, const struct index_change *c)
{
    struct index_block *b;
    struct sim_named *r;
    switch (c->kind) {
    case INDEX_BLOCK: put_block(d, c); break;
    case INDEX_FORGET:
        b = find_block(d, &c->block);
        if (b && b->generation <= c->block.generation)
            *b = d->block[--d->n_blocks];
        break;
    case INDEX_NAMED: put_named(d, c); break;
    case INDEX_UNNAME:
        if ((r = find_named(d, c->name))) {
            free(r->p);
            *r = d->named[--d->n_named];
        }
        break;
    case INDEX_META:
        d->meta = c->meta;
        index_meta_seal(&d->meta);
        d->has_meta = true;
        break;
    case INDEX_NOTHING: break;
    }
}

// Would the index be longer than it may be?
static bool is_full(struct sim_index_data *d, const struct index_change *c, uint32_t n)
{
    uint64_t entries = d->n_blocks + d->n_named;
    for (uint32_t i = 0; i < n; i++) {
        bool is_block = c[i].kind == INDEX_BLOCK || c[i].kind == INDEX_FORGET;
        if (c[i].skip || c[i].kind == INDEX_META || c[i].kind == INDEX_NOTHING)
            continue;
        bool is_there = is_block ? find_block(d, &c[i].block) != NULL
                                 : find_named(d, c[i].name) != NULL;
        bool is_put = c[i].kind == INDEX_BLOCK || c[i].kind == INDEX_NAMED;
        entries = entries + (is_put && !is_there) - (!is_put && is_there);
    }
    return d->n_limit && entries > d->n_limit;
}

static int sim_index_commit(struct index *x, const struct index_change *c, uint32_t n)
{
    struct sim_index *s = of(x);
    const struct kv_sim_faults *f = sim_faults(s->m);
    if (s->broken || !sim_step(s->m)) {
        s->broken = true;
        return -EIO;
    }
    if (sim_chance(s->m, f->commit_enospc) || is_full(sim_index_data(s->m), c, n))
        return -ENOSPC;
    s->broken = sim_chance(s->m, f->commit_eio);
    if (s->broken && kv_sim_random(s->m, 2))
        return -EIO;                    // not done; else it is done all the same
    for (uint32_t i = 0; i < n; i++)
        if (!c[i].skip)
            apply(sim_index_data(s->m), &c[i]);
    s->broken |= !sim_step(s->m);
    return s->broken ? -EIO : 0;
}

static int sim_index_load(struct index *x, const struct index_visitor *v, struct err *err)
{
    struct sim_index_data *d = sim_index_data(of(x)->m);
    struct index_named h;
    bool ok = !d->damaged;
    if (!d->exists)
        return -ENOENT;
    for (uint32_t i = 0; ok && i < d->n_blocks; i++) {
        struct hash key;
        memcpy(key.b, d->block[i].key, HASH_BYTES);
        ok = index_block_ok(&d->block[i]) && v->block(v->ctx, &key, &d->block[i]);
    }
    if (ok && d->has_meta)
        ok = index_meta_ok(&d->meta) && v->meta(v->ctx, &d->meta);
    for (uint32_t i = 0; ok && i < d->n_named; i++)
        ok = index_named_decode(d->named[i].name, d->named[i].p, d->named[i].n, &h) == 0 &&
             v->named(v->ctx, d->named[i].name, &h, d->named[i].p + sizeof(h));
    return ok ? 0 : err_set(err, -EUCLEAN, "the index is damaged");
}

static int sim_index_reset(struct index *x, struct err *err)
{
    struct sim_index_data *d = sim_index_data(of(x)->m);
    if (!sim_step(of(x)->m))
        return err_set(err, -EIO, "the machine is down");
    clear(d);
    d->exists = true;
    d->damaged = false;
    return 0;
}

static int sim_index_read_named(struct index *x, const char *name, void *p, uint32_t n,
                                uint32_t *bytes)
{
    const struct sim_named *r = find_named(sim_index_data(of(x)->m), name);
    struct index_named h;
    if (!r)
        return -ENOENT;
    if (index_named_decode(name, r->p, r->n, &h))
        return -EIO;
    *bytes = h.value_bytes;
    if (n < h.value_bytes)
        return -ENOBUFS;
    if (h.value_bytes)
        memcpy(p, r->p + sizeof(h) + (size_t)h.n_pins * HASH_BYTES, h.value_bytes);
    return 0;
}

static uint64_t sim_index_bytes(struct index *x)
{
    return sim_index_data(of(x)->m)->n_blocks * sizeof(struct index_block);
}

static uint64_t sim_index_written(struct index *x)
{
    (void)x;
    return 0;
}

static void sim_index_close(struct index *x, bool clean)
{
    (void)clean;
    free(x);
}

static const struct index_ops sim_ops = {
    .load = sim_index_load, .check = sim_index_load, .reset = sim_index_reset,
    .commit = sim_index_commit, .read_named = sim_index_read_named, .bytes = sim_index_bytes,
    .written = sim_index_written, .close = sim_index_close,
};

int index_sim_open(struct index **ret, struct kv_sim *m, struct err *err)
{
    struct sim_index *s = calloc(1, sizeof(*s));
    if (!s)
        return err_set(err, -ENOMEM, "out of memory");
    *s = (struct sim_index){.base = {&sim_ops}, .m = m};
    *ret = &s->base;
    return 0;
}
