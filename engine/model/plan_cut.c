// Operations stand in the order of their layers, so a cut is a place in the list.
#include "engine/model/plan_cut.h"
#include <errno.h>
#include <stdlib.h>
#include "base/base.h"
#include "engine/model/plan_slots.h"

static uint32_t first_op(const struct plan *p, uint32_t layer)
{
    uint32_t i = 0;
    while (i < p->n_ops && p->op[i].layer < layer)
        i++;
    return i;
}

int plan_cut(struct plan **ret, const struct plan *src, uint32_t layer0, uint32_t n_layers,
             struct err *err)
{
    uint32_t from = first_op(src, layer0), n = first_op(src, layer0 + n_layers) - from;
    struct plan *p = calloc(1, sizeof(*p));
    struct op *ops = calloc((size_t)n + 1, sizeof(*ops));
    if (!p || !ops) {
        free(p);
        free(ops);
        return err_set(err, -ENOMEM, "no memory for a plan of %u operations", n);
    }
    slot_set used = 0;
    for (uint32_t i = 0; i < n; i++) {
        ops[i] = src->op[from + i];
        assert(ops[i].layer >= layer0 && !ops[i].added.w && !ops[i].normed.w);
        ops[i].layer = (uint16_t)(ops[i].layer - layer0);
        used |= op_slots_read(&ops[i]) | op_slots_written(&ops[i]);
    }
    *p = (struct plan){ .op = ops, .n_ops = n };
    for (unsigned s = 0; s < SLOT_COUNT; s++)
        p->slot_width[s] = used & slot_bit(s) ? src->slot_width[s] : 0;
    *ret = p;
    return 0;
}

uint32_t plan_cut_slots(const struct plan *p, uint32_t layer)
{
    return plan_slots_live(p, first_op(p, layer));
}
