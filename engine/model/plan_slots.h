// Which activation slots the operations of a plan read and write.
#pragma once
#include <assert.h>
#include <stdint.h>
#include "engine/model/plan.h"

typedef uint32_t slot_set;              // slots as bits
static_assert(SLOT_COUNT <= 32, "a set of slots is a word");

static inline slot_set slot_bit(unsigned slot)
{
    return UINT32_C(1) << slot;
}

slot_set op_slots_read(const struct op *op);
// Written; and those of them without regard to what was there.
slot_set op_slots_written(const struct op *op);
slot_set op_slots_overwritten(const struct op *op);
// What operations from i on read of what is in the slots before operation i. A plan that does not
// end in LOGITS leaves all its slots to the caller.
slot_set plan_slots_live(const struct plan *p, uint32_t i);
