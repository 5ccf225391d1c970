// RoPE: angles in double, one table per step that all layers share.
#include <errno.h>
#include <math.h>
#include "engine/exec/cpu/cpu.h"
#include "engine/exec/rope_freq.h"

int rope_init(struct cpu_program *g, struct rope_table *t, const struct rope_cfg *cfg,
              struct err *err)
{
    size_t half = cfg->n_rot / 2, rows = g->params.rows_max;
    t->n_rot = cfg->n_rot;
    t->used = true;
    t->magnitude = rope_magnitude(cfg);
    if (mem_map(&t->freq, half * sizeof(double)) ||
        mem_map(&t->cos, rows * half * sizeof(float)) ||
        mem_map(&t->sin, rows * half * sizeof(float)))
        return err_set(err, -ENOMEM, "no memory for RoPE tables of %zu rows", rows);
    rope_frequencies(cfg, g->model->weights.rope_freqs, t->freq.p);
    return 0;
}

void rope_finish(struct rope_table *t)
{
    mem_unmap(&t->cos);
    mem_unmap(&t->sin);
    mem_unmap(&t->freq);
}

void rope_fill(const struct cpu_program *g, struct rope_table *t, uint32_t row)
{
    uint32_t half = t->n_rot / 2;
    const double *freq = t->freq.p;
    float *cos_row = (float *)t->cos.p + (size_t)row * half;
    float *sin_row = (float *)t->sin.p + (size_t)row * half;
    for (uint32_t i = 0; i < half; i++) {
        double s, c;
        sincos(g->row_pos[row] * freq[i], &s, &c);
        cos_row[i] = (float)(c * (double)t->magnitude);
        sin_row[i] = (float)(s * (double)t->magnitude);
    }
}

void rope_run(const struct cpu_program *g, const struct op *op, uint32_t row)
{
    const struct model_cfg *c = g->cfg;
    const struct rope_table *t = &g->rope[op->rope.local];
    enum rope_kind kind = op->rope.local ? c->rope_local.kind : c->rope.kind;
    const struct vec *v = g->cpu->vec;
    size_t at = (size_t)row * (t->n_rot / 2);
    const float *cos_row = (const float *)t->cos.p + at, *sin_row = (const float *)t->sin.p + at;
    for (unsigned i = 0; i < 2; i++) {
        float *head = slot_row(g, op->dst[i], row);
        uint32_t n_heads = i == 0 ? c->n_heads : c->n_kv_heads;
        for (uint32_t h = 0; h < n_heads; h++, head += c->head_dim) {
            if (kind == ROPE_ADJACENT)
                v->rope_adjacent(head, cos_row, sin_row, t->n_rot);
            else if (kind == ROPE_HALVES)
                v->rope_halves(head, cos_row, sin_row, t->n_rot);
        }
    }
}
