// godwit devices: what a model can run on here, what each device can do, and which one auto takes.
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include "server/cli/cli.h"
#include "server/json.h"

#define GIB ((double)(1 << 30))

// "a b" as ["a","b"].
static void put_words(struct str *out, const char *words)
{
    str_putc(out, '[');
    for (const char *p = words; *p;) {
        size_t n = strcspn(p, " ");
        json_put_string(out, p, n);
        p += n + (p[n] == ' ');
        if (*p)
            str_putc(out, ',');
    }
    str_putc(out, ']');
}

static void put_json(struct str *out, const struct device *d)
{
    str_puts(out, "{\"device\":");
    json_put_text(out, d->name);
    str_printf(out, ",\"auto\":%s,\"software\":%s,\"usable\":%s,\"missing\":",
               d->is_auto ? "true" : "false", d->software ? "true" : "false",
               d->missing[0] ? "false" : "true");
    json_put_text(out, d->missing);
    str_puts(out, ",\"driver\":");
    json_put_text(out, d->driver);
    str_printf(out, ",\"memory_bytes\":%" PRIu64 ",\"free_bytes\":%" PRIu64 ",\"abilities\":",
               d->memory_bytes, d->free_bytes);
    put_words(out, d->abilities);
    str_puts(out, ",\"unbuilt\":");
    put_words(out, d->unbuilt);
    str_putc(out, '}');
}

static void put_line(struct str *out, const char *what, const char *text)
{
    if (text[0])
        str_printf(out, "    %-9s %s\n", what, text);
}

static void put_text(struct str *out, const struct device *d)
{
    str_printf(out, "%s%s%s\n", d->name, d->is_auto ? "  (auto)" : "",
               d->missing[0] ? "  (cannot be used)" : d->software ? "  (only by name)" : "");
    put_line(out, "lacks", d->missing);
    put_line(out, "driver", d->driver);
    str_printf(out, "    %-9s %.1f GiB, %.1f free\n", "memory", (double)d->memory_bytes / GIB,
               (double)d->free_bytes / GIB);
    put_line(out, "can", d->abilities);
    put_line(out, "not built", d->unbuilt);
}

int cmd_devices(struct cli *c, struct err *err)
{
    struct device *device;
    uint32_t n;
    int r = devices_list(&device, &n, err);
    if (r)
        return r;
    if (c->json)
        str_puts(&c->out, "{\"devices\":[");
    for (uint32_t i = 0; i < n; i++) {
        if (c->json && i > 0)
            str_putc(&c->out, ',');
        (c->json ? put_json : put_text)(&c->out, &device[i]);
    }
    if (c->json)
        str_puts(&c->out, "]}\n");
    free(device);
    return 0;
}
