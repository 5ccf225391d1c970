// godwit fsck: proves a block store that nobody has open, and repairs it on demand.
#include <errno.h>
#include <inttypes.h>
#include "kvstore/kvstore.h"
#include "server/cli/cli.h"

static void add_line(void *ctx, const char *line)
{
    struct cli *c = ctx;
    if (!c->json)
        str_printf(&c->out, "%s\n", line);
}

static void put_json(struct str *out, const struct kv_fsck *f)
{
    str_printf(out, "{\"clean\":%s,\"repaired\":%s,\"blocks\":%" PRIu64 ",\"records\":%" PRIu64
               ",\"bad_blocks\":%" PRIu64 ",\"lost_pins\":%" PRIu64 ",\"bad_files\":%" PRIu64
               ",\"strays\":%" PRIu64 ",\"bad_super\":%s,\"bad_index\":%s}\n",
               kv_fsck_clean(f) ? "true" : "false", f->repaired ? "true" : "false", f->blocks,
               f->records, f->bad_blocks, f->lost_pins, f->bad_files, f->strays,
               f->bad_super ? "true" : "false", f->bad_index ? "true" : "false");
}

static void put_text(struct str *out, const struct kv_fsck *f)
{
    str_printf(out, "%" PRIu64 " good blocks, %" PRIu64 " records, %" PRIu64 " stray slots%s\n",
               f->blocks, f->records, f->strays,
               f->repaired ? ": repaired" : kv_fsck_clean(f) ? ": clean" : "");
}

int cmd_fsck(struct cli *c, struct err *err)
{
    struct kv_fsck f;
    int r = kv_store_fsck(c->model, c->repair, add_line, c, &f, err);
    if (r)
        return r;
    (c->json ? put_json : put_text)(&c->out, &f);
    if (kv_fsck_clean(&f) || f.repaired)
        return 0;
    // The findings are the output, and the status says that there are some.
    if (!str_ok(&c->out))
        return err_set(err, -ENOMEM, "out of memory");
    r = write_out(c->out.p, c->out.n, err);
    return r ? r : err_set(err, -EUCLEAN, "the store is damaged; --repair drops what is bad");
}
