// Fuzzes the JSON check and what is built behind it: what the check takes, cJSON must take too,
// every value can be walked, and a string that was read and written again is the same string.
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "base/base.h"
#include "server/json.h"

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);

static void same_again(const char *text)
{
    struct str quoted = {0};
    struct json_doc *d = NULL;
    json_put_text(&quoted, text);
    int r = json_open(&d, quoted.p, quoted.n, NULL);
    assert(r == 0 && strcmp(json_text(json_root(d)), text) == 0);
    (void)r;
    json_close(d);
    str_free(&quoted);
}

// The depth is bounded by the check.
static void walk(const struct json *v)
{
    if (json_is_string(v))
        same_again(json_text(v));
    if (json_is_number(v))
        assert(json_double(v) - json_double(v) == 0);
    if (!json_is_object(v) && !json_is_array(v))
        return;
    for (const struct json *e = json_first(v); e; e = json_next(e)) {
        if (json_is_object(v))
            same_again(json_key(e));
        walk(e);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
    struct json_doc *d = NULL;
    struct err err = {0};
    int r = json_open(&d, (const char *)p, n, &err);
    assert(r == 0 || (r == -EINVAL && err.msg[0]));
    if (r == 0)
        walk(json_root(d));
    json_close(d);
    return 0;
}
