// godwit store: what a block store holds. Only for one that no server has open; a running server
// tells the same in /metrics.
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include "kvstore/kvstore.h"
#include "server/cli/cli.h"
#include "server/json.h"

#define POLL_NS UINT64_C(100000000)

static void put_key(struct str *out, const struct hash *key)
{
    for (int i = 0; i < HASH_BYTES; i++)
        str_printf(out, "%02x", key->b[i]);
}

static int stats(struct cli *c, struct kv_store *s, struct err *err)
{
    struct kv_stats st;
    kv_store_stats(s, &st);
    const struct { const char *name; uint64_t value; } row[] = {
        {"blocks", st.blocks}, {"records", st.records}, {"data_bytes", st.data_bytes},
        {"used_bytes", st.used_bytes}, {"pinned_bytes", st.pinned_bytes},
        {"written_today_bytes", st.written_today_bytes},
        {"written_total_bytes", st.written_total_bytes}};
    (void)err;
    for (size_t i = 0; i < sizeof(row) / sizeof(row[0]); i++)
        str_printf(&c->out, c->json ? "%s\"%s\":%" PRIu64 : "%s%-20s %" PRIu64 "\n",
                   c->json ? i ? "," : "{" : "", row[i].name, row[i].value);
    str_puts(&c->out, c->json ? "}\n" : "");
    return 0;
}

static void put_block(struct cli *c, const struct kv_block_info *b)
{
    str_puts(&c->out, c->json ? "{\"key\":\"" : "block  ");
    put_key(&c->out, &b->key);
    str_printf(&c->out, c->json ? "\",\"bytes\":%u,\"pins\":%u,\"last_use\":%" PRIu64
                                  ",\"expires\":%" PRIu64 "}\n"
                                : "  %u bytes, %u pins, use %" PRIu64 ", expires %" PRIu64 "\n",
               b->bytes, b->pins, b->last_use, b->expires_s);
}

static void put_record(struct cli *c, const struct kv_record_info *r)
{
    str_puts(&c->out, c->json ? "{\"record\":" : "record ");
    json_put_text(&c->out, r->name);
    str_printf(&c->out, c->json ? ",\"bytes\":%u,\"pins\":%u,\"expires\":%" PRIu64 "}\n"
                                : "  %u bytes, %u pins, expires %" PRIu64 "\n",
               r->value_bytes, r->n_pins, r->expires_s);
}

static int ls(struct cli *c, struct kv_store *s, struct err *err)
{
    struct kv_record_info record;
    struct kv_block_info block;
    uint32_t cursor = 0;
    (void)err;
    while (kv_store_next_record(s, &cursor, &record))
        put_record(c, &record);
    cursor = 0;
    while (kv_store_next(s, &cursor, &block))
        put_block(c, &block);
    return 0;
}

static int evict(struct cli *c, struct kv_store *s, struct err *err)
{
    if (!c->bytes)
        return err_set(err, CLI_USAGE, "evict needs --bytes");
    uint64_t bytes = kv_store_evict(s, c->bytes);
    while (!kv_store_idle(s))
        kv_store_poll(s, POLL_NS);
    str_printf(&c->out, c->json ? "{\"evicted_bytes\":%" PRIu64 "}\n" : "%" PRIu64 " bytes\n",
               bytes);
    return 0;
}

int cmd_store(struct cli *c, struct err *err)
{
    static const struct {
        const char *name;
        int       (*run)(struct cli *c, struct kv_store *s, struct err *err);
        bool        changes;
    } action[] = {{"stats", stats, false}, {"ls", ls, false}, {"evict", evict, true}};
    struct kv_store_params p = {.path = c->file, .backend = "posix"};
    struct kv_store *s;
    for (size_t i = 0; i < sizeof(action) / sizeof(action[0]); i++) {
        if (strcmp(c->model, action[i].name) != 0)
            continue;
        p.read_only = !action[i].changes;
        int r = kv_store_open(&s, &p, err);
        if (r)
            return r;
        r = action[i].run(c, s, err);
        kv_store_close(s);
        return r;
    }
    return err_set(err, CLI_USAGE, "what is \"%.80s\"? stats, ls or evict", c->model);
}
