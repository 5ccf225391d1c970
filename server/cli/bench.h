// What the files of godwit bench share.
#pragma once
#include "server/cli/cli.h"

struct op_time { const char *label; uint64_t ns, n; };      // all of one operation's dispatches

struct profile {
    struct op_time op[64];              // (n_ops) the dearest first; what is too many is summed up
    uint32_t       n_ops;
    uint64_t       total_ns, steps;
};

// -ENOTSUP: this device does not time operations.
int  profile_check(struct engine *e, struct err *err);
// Between start and stop the device times each operation of every step, one after the other.
int  profile_start(struct profile *p, struct engine *e, struct err *err);
int  profile_stop(struct profile *p, struct engine *e, struct err *err);
void profile_table(const struct profile *p, struct str *out);
void profile_json(const struct profile *p, struct str *out);    // a member, behind another
