// A model on two executors: the first layers on the CPU, the others and the output on another.
//
// Each half is a program of its own executor, loaded with a cut of the plan (plan_cut.h) and a
// model of fewer layers: an executor does not know that it is one of two, and takes in only the
// weights that its operations name. A step runs the first half, moves the rows of the slots that
// the second one reads (the residual stream), and runs that with the same batch. A block of the
// pool is a block of each half, with the same number; in host memory the first's bytes come first.
#pragma once
#include "engine/exec/executor.h"

struct split_executor {
    struct executor     x;
    struct executor_ops ops;            // x.ops: without what the second executor cannot do
    struct executor    *half[2];        // owned: the CPU, and the other
    uint32_t            n_layers[2];
};

// cpu_layers, at least 1 and fewer than n_layers, are the CPU's; the others run on an executor of
// `ops`, opened with p. Programs take only models of n_layers layers. Returns 0 or what either
// executor's open() does.
int split_open(struct executor **ret, const struct executor_ops *ops,
               const struct executor_params *p, uint32_t cpu_layers, uint32_t n_layers,
               struct err *err);
