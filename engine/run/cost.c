// Learning by normalised least mean squares: each step's error is spread over the three weights in
// proportion to what the step had of each. It cannot blow up, however alike the steps are, and
// along the direction that is seen it is an exponential average.
#include "engine/run/cost.h"
#include "base/base.h"

// Puts the three features on one scale. A decode step of a few rows is mostly the reading of
// weights, so up to STEP_SCALE rows an error counts as the step's rather than as the rows'; and
// around DEPTH_SCALE tokens attention costs about as much as everything else.
#define STEP_SCALE 16.0
#define DEPTH_SCALE 4096.0
// The first steps count for more: their average is all there is.
#define RATE_MIN 0.3
// A step that took longer than this many times the prediction was interrupted: it teaches only so
// much.
#define SURPRISE_MAX 4.0

static void features(struct step_work w, double x[3])
{
    x[0] = STEP_SCALE;
    x[1] = w.rows;
    x[2] = w.depth / DEPTH_SCALE;
}

void cost_init(struct step_cost *c, uint64_t max_step_ns, uint32_t rows)
{
    assert(rows > 0);
    *c = (struct step_cost){.weight = {0, (double)max_step_ns / rows, 0}, .rows_seen = rows / 2};
}

double cost_predict(const struct step_cost *c, struct step_work w)
{
    double x[3], sum = 0;
    features(w, x);
    for (int i = 0; i < 3; i++)
        sum += c->weight[i] * x[i];
    return sum;
}

void cost_learn(struct step_cost *c, struct step_work w, uint64_t measured_ns)
{
    double x[3], norm = 0, predicted = cost_predict(c, w);
    features(w, x);
    for (int i = 0; i < 3; i++)
        norm += x[i] * x[i];
    double rate = MAX(RATE_MIN, 1.0 / ++c->n_learned);
    double error = MIN((double)measured_ns, predicted * SURPRISE_MAX) - predicted;
    for (int i = 0; i < 3; i++)
        c->weight[i] = MAX(c->weight[i] + rate * error * x[i] / norm, 0);
    if (cost_predict(c, w) < 1)
        c->weight[0] = 1;           // never so cheap that SURPRISE_MAX could hold it down for good
    c->rows_seen = MAX(c->rows_seen, (uint32_t)w.rows);
}

struct step_work cost_add(struct step_work w, uint32_t pos0, uint32_t n)
{
    w.rows += n;
    w.depth += (double)n * pos0 + (double)n * (n + 1.0) / 2;
    return w;
}

uint32_t cost_rows_within(const struct step_cost *c, struct step_work w, uint32_t pos0,
                          uint32_t n_max, uint64_t limit_ns)
{
    uint32_t lo = 0, hi = n_max;    // lo fits, more than hi does not
    while (lo < hi) {
        uint32_t n = lo + (hi - lo + 1) / 2;
        if (cost_predict(c, cost_add(w, pos0, n)) <= (double)limit_ns)
            lo = n;
        else
            hi = n - 1;
    }
    return lo;
}
