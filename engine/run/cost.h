// What a step will take, learned from the steps before it.
//
//   time = step + row * rows + depth * (sum of the rows' positions)
//
// Thread-safety: none. Pure: times come in as arguments.
#pragma once
#include <stdint.h>

struct step_work {
    double rows;
    double depth;                   // sum over rows of the row's position, in tokens
};

struct step_cost {
    double   weight[3];             // ns per step, per row, per row and position; scaled
    uint32_t rows_seen;             // the largest step measured so far
    uint32_t n_learned;             // steps
};

// Until it learns it believes that `rows` rows fill max_step_ns.
void   cost_init(struct step_cost *c, uint64_t max_step_ns, uint32_t rows);
double cost_predict(const struct step_cost *c, struct step_work w);     // ns
void   cost_learn(struct step_cost *c, struct step_work w, uint64_t measured_ns);

// w with n more rows of one sequence, from position pos0 on.
struct step_work cost_add(struct step_work w, uint32_t pos0, uint32_t n);
// How many rows of one sequence, at most n_max, still fit beside w in limit_ns.
uint32_t cost_rows_within(const struct step_cost *c, struct step_work w, uint32_t pos0,
                          uint32_t n_max, uint64_t limit_ns);
