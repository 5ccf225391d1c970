// Fuzzes what is read of sessions: records from a store, heads and frames of files that strangers
// send. What is taken can be written again, and is the same.
#include <stdlib.h>
#include <string.h>
#include "engine/run/session_format.h"
#include "base/base.h"

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);

static void records(const uint8_t *p, size_t n)
{
    struct session_meta m;
    const uint8_t *tokens;
    if (session_record_read(p, n, &m, &tokens, NULL) != 0)
        return;
    assert(session_record_bytes(&m) == n && session_id_ok(m.id));
    assert(tokens + m.n_tokens * sizeof(int32_t) == p + n);
    int32_t *token = malloc(MAX(m.n_tokens, 1) * sizeof *token);
    uint8_t *again = malloc(n);
    assert(token && again);
    session_tokens_read(tokens, m.n_tokens, token);
    session_record_write(&m, token, again);
    struct session_meta same;
    assert(session_record_read(again, n, &same, NULL, NULL) == 0);
    assert(same.n_tokens == m.n_tokens && strcmp(same.metadata, m.metadata) == 0);
    free(token);
    free(again);
}

static void files(const uint8_t *p)
{
    struct session_file f, same;
    uint8_t again[SESSION_FILE_BYTES];
    if (session_file_read(p, &f, NULL) != 0)
        return;
    session_file_write(&f, again);
    assert(session_file_read(again, &same, NULL) == 0);
    assert(same.n_blocks == f.n_blocks && same.record_bytes == f.record_bytes);
    assert(session_identity_check(&same.identity, &f.identity, NULL) == 0);
}

static void frames(const uint8_t *p)
{
    struct session_frame f;
    uint8_t again[SESSION_FRAME_BYTES];
    if (session_frame_read(p, &f) != 0)
        return;
    session_frame_write(&f, again);
    assert(memcmp(again, p, sizeof again) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
    records(p, n);
    if (n >= SESSION_FILE_BYTES)
        files(p);
    if (n >= SESSION_FRAME_BYTES)
        frames(p);
    return 0;
}
