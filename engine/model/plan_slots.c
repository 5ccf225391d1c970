// What an operation reads and writes, by its kind, and what the rest of a plan still needs.
#include "engine/model/plan_slots.h"

static slot_set set_of(const uint8_t *slot, unsigned n)
{
    slot_set s = 0;
    for (unsigned i = 0; i < n; i++)
        s |= slot_bit(slot[i]);
    return s;
}

slot_set op_slots_written(const struct op *op)
{
    switch (op->kind) {
    case OP_EMBED:
    case OP_NORM:
    case OP_ATTN:
    case OP_GLU:
    case OP_QKV_STORE: return set_of(op->dst, 1);
    case OP_MATMUL: return set_of(op->dst, op->flags & OP_GLU_OUT ? 1 : op->n_w);
    case OP_GATHER: return set_of(op->dst, op->n_w);
    case OP_ROPE: return set_of(op->dst, 2);
    default: return 0;                  // into the blocks, or logits
    }
}

slot_set op_slots_overwritten(const struct op *op)
{
    bool in_place = op->kind == OP_ROPE || op->kind == OP_QKV_STORE || op->flags & OP_ADD;
    return in_place ? 0 : op_slots_written(op);
}

slot_set op_slots_read(const struct op *op)
{
    slot_set s = op->flags & OP_ADD ? op_slots_written(op) : 0;
    switch (op->kind) {
    case OP_NORM:
    case OP_ATTN: return s | set_of(op->src, 1);
    case OP_MATMUL:
    case OP_LOGITS:
        return s | set_of(op->src, 1) | (op->added.w ? set_of(&op->added.slot, 1) : 0);
    case OP_ROPE: return set_of(op->dst, 2);
    case OP_GLU:
    case OP_KV_WRITE: return set_of(op->src, 2);
    case OP_GATHER: return set_of(op->src, op->n_w);
    case OP_QKV_STORE: return set_of(op->dst, 1) | set_of(op->src, 2);
    default: return s;
    }
}

slot_set plan_slots_live(const struct plan *p, uint32_t i)
{
    slot_set read = 0, written = 0;
    for (; i < p->n_ops; i++) {
        read |= op_slots_read(&p->op[i]) & ~written;
        written |= op_slots_overwritten(&p->op[i]);
    }
    if (p->op[p->n_ops - 1].kind != OP_LOGITS)
        read |= (slot_bit(SLOT_COUNT) - 1) & ~written;
    return read;
}
