// godwit bench --profile: what a step spends on each operation of the device.
#include <stdlib.h>
#include <string.h>
#include "base/base.h"
#include "base/clock.h"
#include "server/cli/bench.h"

int profile_check(struct engine *e, struct err *err)
{
    uint64_t steps;
    return engine_profile(e, false, NULL, NULL, &steps, err);
}

static void add_op(void *ctx, const char *label, uint64_t ns, uint64_t n)
{
    struct profile *p = ctx;
    if (p->n_ops == ARRAY_LEN(p->op))
        p->op[p->n_ops - 1].label = "others";
    else
        p->op[p->n_ops++].label = label;
    p->op[p->n_ops - 1].ns += ns;
    p->op[p->n_ops - 1].n += n;
    p->total_ns += ns;
}

int profile_start(struct profile *p, struct engine *e, struct err *err)
{
    *p = (struct profile){0};
    return engine_profile(e, true, NULL, NULL, &p->steps, err);
}

static int by_time(const void *a, const void *b)
{
    const struct op_time *x = a, *y = b;
    return (x->ns < y->ns) - (x->ns > y->ns);
}

int profile_stop(struct profile *p, struct engine *e, struct err *err)
{
    uint64_t steps = p->steps;
    int r = engine_profile(e, false, add_op, p, &p->steps, err);
    p->steps -= steps;
    qsort(p->op, p->n_ops, sizeof(p->op[0]), by_time);
    return r;
}

void profile_table(const struct profile *p, struct str *out)
{
    double steps = (double)MAX(p->steps, 1u), ms = (double)NS_PER_MS * steps;
    for (uint32_t i = 0; i < p->n_ops; i++) {
        const struct op_time *o = &p->op[i];
        str_printf(out, "    %-24s %9.3f ms a step, %5.1f %%: %6.1f times %8.2f us\n", o->label,
                   (double)o->ns / ms, 100.0 * (double)o->ns / (double)MAX(p->total_ns, 1u),
                   (double)o->n / steps, (double)o->ns / 1000 / (double)MAX(o->n, 1u));
    }
    str_printf(out, "    %-24s %9.3f ms a step, %llu steps\n", "together",
               (double)p->total_ns / ms, (unsigned long long)p->steps);
}

void profile_json(const struct profile *p, struct str *out)
{
    str_printf(out, ",\"profile\":{\"steps\":%llu,\"ops\":[", (unsigned long long)p->steps);
    for (uint32_t i = 0; i < p->n_ops; i++)
        str_printf(out, "%s{\"label\":\"%s\",\"ns\":%llu,\"n\":%llu}", i ? "," : "", p->op[i].label,
                   (unsigned long long)p->op[i].ns, (unsigned long long)p->op[i].n);
    str_puts(out, "]}");
}
