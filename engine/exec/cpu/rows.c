// Row-wise operations. A row goes through a whole chain of them on one thread, while it is in the
// cache.
#include <string.h>
#include "engine/exec/cpu/cpu.h"
#include "base/base.h"

static void embed(struct cpu_program *g, const struct op *op, uint32_t row)
{
    const struct tensor *t = op->w[0];
    uint32_t width = (uint32_t)t->dim[0], token = (uint32_t)g->batch->token[row];
    assert(token < t->dim[1]);
    size_t row_bytes = width / t->quant->block_elems * t->quant->block_bytes;
    float *dst = slot_row(g, op->dst[0], row);
    t->quant->decode((const uint8_t *)t->data + token * row_bytes, width, dst);
    if (op->embed.scale != 1.0f)
        g->cpu->vec->scale(dst, dst, width, op->embed.scale);
}

static void norm(struct cpu_program *g, const struct cpu_op *o, uint32_t row)
{
    const struct op *op = o->op;
    const float *src = slot_row(g, op->src[0], row);
    float *dst = slot_row(g, op->dst[0], row);
    uint32_t width = g->plan->slot_width[op->src[0]], piece = op->norm.piece;
    for (uint32_t i = 0; i < width; i += piece)
        g->cpu->vec->norm(dst + i, src + i, o->vector[0], piece, op->norm.eps, op->norm.scale,
                          op->flags & OP_ADD);
}

static void glu(struct cpu_program *g, const struct op *op, uint32_t row)
{
    const struct vec *v = g->cpu->vec;
    (op->glu.act == ACT_SILU ? v->glu_silu : v->glu_gelu_tanh)(
        slot_row(g, op->dst[0], row), slot_row(g, op->src[0], row), slot_row(g, op->src[1], row),
        g->plan->slot_width[op->dst[0]]);
}

static void gather(struct cpu_program *g, const struct op *op, uint32_t row)
{
    for (unsigned i = 0; i < op->n_w; i++)
        memcpy(slot_row(g, op->dst[i], row), slot_row(g, op->src[i], g->batch->out_row[row]),
               g->plan->slot_width[op->dst[i]] * sizeof(float));
}

static void run_op(struct cpu_program *g, const struct cpu_op *o, uint32_t row)
{
    switch (o->op->kind) {
    case OP_EMBED: embed(g, o->op, row); break;
    case OP_NORM: norm(g, o, row); break;
    case OP_ROPE: rope_run(g, o->op, row); break;
    case OP_GLU: glu(g, o->op, row); break;
    case OP_GATHER: gather(g, o->op, row); break;
    default: assert(!"not a row-wise operation");
    }
}

void rows_run(struct cpu_program *g, const struct phase *ph, uint32_t row0, uint32_t row1)
{
    bool exact = g->cpu->exact;
    for (uint32_t row = row0; row < row1; row++) {
        for (uint32_t i = 0; i < ph->n_ops; i++)
            run_op(g, &g->op[ph->op0 + i], row);
        if (ph->prepare == PREPARE_NONE)
            continue;
        uint32_t width = g->plan->slot_width[ph->prepare];
        cpu_act_prepare(slot_row(g, ph->prepare, row), width, exact,
                        (uint8_t *)g->act.p + row * cpu_act_bytes(width, exact));
    }
}
