// Layers of a plan as a plan of their own, for executors that share a model.
#pragma once
#include <stdint.h>
#include "base/err.h"

struct plan;

// The operations of layers [layer0, layer0 + n_layers), which become layers [0, n_layers); what
// comes before the first layer goes with it, and the output with the last. Slots that none of them
// touches get no width. src is a plan of a whole model and not rewritten. *ret is the caller's
// (plan_free). Returns 0 or -ENOMEM.
int plan_cut(struct plan **ret, const struct plan *src, uint32_t layer0, uint32_t n_layers,
             struct err *err);
// Slots that layers from `layer` on read as the layers before left them: enum slot as bits.
uint32_t plan_cut_slots(const struct plan *p, uint32_t layer);
