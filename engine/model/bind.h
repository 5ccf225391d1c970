// Names to struct fields, once: after model_bind no tensor is looked up by name.
#pragma once
#include "engine/model/model.h"

// Fills *w from the file and checks every shape against cfg; sets cfg->n_vocab from the embedding.
// w->layer is (n_layers), allocated here, freed by the caller. On failure *w is untouched.
// Returns 0, -EINVAL (missing tensor or wrong shape, named), -ENOTSUP, -ENOMEM.
int model_bind(const struct gguf *g, struct model_cfg *cfg, struct weights *w, struct err *err);
