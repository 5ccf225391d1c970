// See session_format.h.
#include <errno.h>
#include <string.h>
#include "engine/run/session_format.h"
#include "base/base.h"

#define RECORD_VERSION 1u
#define FILE_VERSION 1u
#define RECORD_FIXED_BYTES 160u
#define FLAG_PIN 1u
#define FLAG_IMPORTED 2u
#define FLAG_ATTN 4u
#define FLAGS_ALL (FLAG_PIN | FLAG_IMPORTED | FLAG_ATTN)

static const char record_magic[8] = "godwitSN", file_magic[8] = "godwitSX";

// ---- fields ----

static void put_bytes(uint8_t **to, const void *p, size_t n)
{
    memcpy(*to, p, n);
    *to += n;
}

static void put_u32(uint8_t **to, uint32_t v)
{
    uint8_t b[4] = {(uint8_t)v, (uint8_t)(v >> 8), (uint8_t)(v >> 16), (uint8_t)(v >> 24)};
    put_bytes(to, b, sizeof b);
}

static void put_u64(uint8_t **to, uint64_t v)
{
    put_u32(to, (uint32_t)v);
    put_u32(to, (uint32_t)(v >> 32));
}

static void get_bytes(const uint8_t **from, void *p, size_t n)
{
    memcpy(p, *from, n);
    *from += n;
}

static uint32_t get_u32(const uint8_t **from)
{
    uint8_t b[4];
    get_bytes(from, b, sizeof b);
    return b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
}

static uint64_t get_u64(const uint8_t **from)
{
    uint64_t low = get_u32(from);
    return low | (uint64_t)get_u32(from) << 32;
}

// ---- records ----

static size_t head_bytes(const struct session_meta *m)
{
    return RECORD_FIXED_BYTES + strlen(m->id) + strlen(m->parent) + strlen(m->metadata);
}

size_t session_record_bytes(const struct session_meta *m)
{
    assert(m->n_tokens <= SESSION_TOKENS_MAX);
    return head_bytes(m) + m->n_tokens * sizeof(int32_t);
}

void session_record_write(const struct session_meta *m, const int32_t *token, uint8_t *dst)
{
    uint8_t *p = dst;
    size_t n_id = strlen(m->id), n_parent = strlen(m->parent), n_metadata = strlen(m->metadata);
    put_bytes(&p, record_magic, sizeof record_magic);
    put_u32(&p, RECORD_VERSION);
    put_u32(&p, (uint32_t)head_bytes(m));
    put_u32(&p, m->n_tokens);
    put_u32(&p, (m->pin ? FLAG_PIN : 0) | (m->imported ? FLAG_IMPORTED : 0) |
                (m->has_attn ? FLAG_ATTN : 0));
    put_u32(&p, m->ttl_s);
    put_u32(&p, m->parent_tokens);
    put_u64(&p, (uint64_t)m->created_s);
    put_u64(&p, (uint64_t)m->used_s);
    put_u32(&p, m->attn.selector);
    put_u32(&p, m->attn.budget_tokens);
    put_u32(&p, m->attn.window_tokens);
    put_u32(&p, m->attn.sink_tokens);
    put_bytes(&p, m->model.b, HASH_BYTES);
    put_bytes(&p, m->nonce.b, HASH_BYTES);
    put_u32(&p, (uint32_t)n_id);
    put_u32(&p, (uint32_t)n_parent);
    put_u32(&p, (uint32_t)n_metadata);
    put_u32(&p, 0);
    put_u64(&p, 0);
    put_u64(&p, 0);
    assert(p == dst + RECORD_FIXED_BYTES);
    put_bytes(&p, m->id, n_id);
    put_bytes(&p, m->parent, n_parent);
    put_bytes(&p, m->metadata, n_metadata);
    for (uint32_t i = 0; i < m->n_tokens; i++)
        put_u32(&p, (uint32_t)token[i]);
}

// A string of n bytes in a field for at most `max`, NUL-terminated by the zeros that are there.
static bool get_text(const uint8_t **from, char *dst, size_t n, size_t max)
{
    if (n > max || memchr(*from, '\0', n))
        return false;
    get_bytes(from, dst, n);
    return true;
}

static int damaged(struct err *err)
{
    return err_set(err, -EINVAL, "no record of a session, or a damaged one");
}

int session_record_read(const uint8_t *p, size_t n, struct session_meta *ret,
                        const uint8_t **tokens, struct err *err)
{
    const uint8_t *at = p + sizeof record_magic;
    struct session_meta m = {0};
    if (n < RECORD_FIXED_BYTES || memcmp(p, record_magic, sizeof record_magic) != 0)
        return damaged(err);
    uint32_t version = get_u32(&at);
    if (version != RECORD_VERSION)
        return err_set(err, -ENOTSUP, "a session of format %u; this program knows %u", version,
                       RECORD_VERSION);
    uint32_t n_head = get_u32(&at);
    m.n_tokens = get_u32(&at);
    uint32_t flags = get_u32(&at);
    m.ttl_s = get_u32(&at);
    m.parent_tokens = get_u32(&at);
    m.created_s = (int64_t)get_u64(&at);
    m.used_s = (int64_t)get_u64(&at);
    uint32_t selector = get_u32(&at);
    m.attn.budget_tokens = get_u32(&at);
    m.attn.window_tokens = get_u32(&at);
    m.attn.sink_tokens = get_u32(&at);
    get_bytes(&at, m.model.b, HASH_BYTES);
    get_bytes(&at, m.nonce.b, HASH_BYTES);
    uint32_t n_id = get_u32(&at), n_parent = get_u32(&at), n_metadata = get_u32(&at);
    // Sums in 64 bits: none of these numbers is believed yet.
    uint64_t n_texts = (uint64_t)n_id + n_parent + n_metadata;
    if (n_head != RECORD_FIXED_BYTES + n_texts || m.n_tokens > SESSION_TOKENS_MAX ||
        n != n_head + (uint64_t)m.n_tokens * sizeof(int32_t) || flags & ~FLAGS_ALL ||
        selector >= SELECTOR_COUNT || m.created_s < 0 || m.used_s < 0)
        return damaged(err);
    at = p + RECORD_FIXED_BYTES;
    if (!get_text(&at, m.id, n_id, SESSION_ID_MAX) ||
        !get_text(&at, m.parent, n_parent, SESSION_ID_MAX) ||
        !get_text(&at, m.metadata, n_metadata, SESSION_METADATA_MAX) || !session_id_ok(m.id) ||
        (n_parent && !session_id_ok(m.parent)))
        return damaged(err);
    m.pin = flags & FLAG_PIN;
    m.imported = flags & FLAG_IMPORTED;
    m.has_attn = flags & FLAG_ATTN;
    m.attn.selector = (uint8_t)selector;
    *ret = m;
    if (tokens)
        *tokens = at;
    return 0;
}

void session_tokens_read(const uint8_t *p, uint32_t n_tokens, int32_t *dst)
{
    for (uint32_t i = 0; i < n_tokens; i++)
        dst[i] = (int32_t)get_u32(&p);
}

// ---- files ----

void session_file_write(const struct session_file *f, uint8_t dst[SESSION_FILE_BYTES])
{
    const struct kv_layout *l = &f->identity.layout;
    uint8_t *p = dst;
    memset(dst, 0, SESSION_FILE_BYTES);
    put_bytes(&p, file_magic, sizeof file_magic);
    put_u32(&p, FILE_VERSION);
    put_u32(&p, KV_BLOCK_TOKENS);
    put_u32(&p, f->record_bytes);
    put_u32(&p, f->n_blocks);
    put_u32(&p, f->identity.exact);
    put_bytes(&p, f->identity.model.b, HASH_BYTES);
    put_bytes(&p, f->identity.executor.b, HASH_BYTES);
    put_u32(&p, l->k_type);
    put_u32(&p, l->v_type);
    put_u32(&p, l->n_layers);
    put_u32(&p, l->n_kv_heads);
    put_u32(&p, l->head_dim);
    put_u32(&p, l->layout_version);
    put_u64(&p, l->k_slice_bytes);
    put_u64(&p, l->v_slice_bytes);
    put_u64(&p, l->digest_head_bytes);
    put_u64(&p, l->block_bytes);
    assert(p <= dst + SESSION_FILE_BYTES);
}

int session_file_read(const uint8_t p[SESSION_FILE_BYTES], struct session_file *ret,
                      struct err *err)
{
    const uint8_t *at = p + sizeof file_magic;
    struct session_file f = {0};
    struct kv_layout *l = &f.identity.layout;
    if (memcmp(p, file_magic, sizeof file_magic) != 0)
        return err_set(err, -EINVAL, "this is no file of a session");
    uint32_t version = get_u32(&at);
    if (version != FILE_VERSION)
        return err_set(err, -ENOTSUP, "a file of format %u; this program knows %u", version,
                       FILE_VERSION);
    uint32_t block_tokens = get_u32(&at);
    f.record_bytes = get_u32(&at);
    f.n_blocks = get_u32(&at);
    f.identity.exact = get_u32(&at) != 0;
    get_bytes(&at, f.identity.model.b, HASH_BYTES);
    get_bytes(&at, f.identity.executor.b, HASH_BYTES);
    l->k_type = (enum kv_type)get_u32(&at);
    l->v_type = (enum kv_type)get_u32(&at);
    l->n_layers = get_u32(&at);
    l->n_kv_heads = get_u32(&at);
    l->head_dim = get_u32(&at);
    l->layout_version = get_u32(&at);
    l->k_slice_bytes = get_u64(&at);
    l->v_slice_bytes = get_u64(&at);
    l->digest_head_bytes = get_u64(&at);
    l->block_bytes = get_u64(&at);
    size_t record_max = RECORD_FIXED_BYTES + 2 * SESSION_ID_MAX + SESSION_METADATA_MAX +
                        SESSION_TOKENS_MAX * sizeof(int32_t);
    if (block_tokens != KV_BLOCK_TOKENS)
        return err_set(err, -ESTALE, "its blocks have %u tokens, ours %u", block_tokens,
                       KV_BLOCK_TOKENS);
    if (f.record_bytes < RECORD_FIXED_BYTES || f.record_bytes > record_max ||
        f.n_blocks > SESSION_TOKENS_MAX / KV_BLOCK_TOKENS)
        return err_set(err, -EINVAL, "the head of the file is damaged");
    *ret = f;
    return 0;
}

static bool same_layout(const struct kv_layout *a, const struct kv_layout *b)
{
    return a->k_type == b->k_type && a->v_type == b->v_type && a->n_layers == b->n_layers &&
           a->n_kv_heads == b->n_kv_heads && a->head_dim == b->head_dim &&
           a->layout_version == b->layout_version && a->k_slice_bytes == b->k_slice_bytes &&
           a->v_slice_bytes == b->v_slice_bytes &&
           a->digest_head_bytes == b->digest_head_bytes && a->block_bytes == b->block_bytes;
}

int session_identity_check(const struct session_identity *file,
                           const struct session_identity *own, struct err *err)
{
    if (!hash_equal(&file->model, &own->model))
        return err_set(err, -ESTALE, "the session is of another model");
    if (!same_layout(&file->layout, &own->layout))
        return err_set(err, -ESTALE, "the session has another layout of KV blocks");
    if (!hash_equal(&file->executor, &own->executor) || file->exact != own->exact)
        return err_set(err, -ESTALE, "the session was computed by another executor");
    return 0;
}

// ---- frames ----

void session_frame_write(const struct session_frame *f, uint8_t dst[SESSION_FRAME_BYTES])
{
    uint8_t *p = dst;
    put_u32(&p, f->index);
    put_u32(&p, f->whole);
    put_bytes(&p, f->sum.b, HASH_BYTES);
}

int session_frame_read(const uint8_t p[SESSION_FRAME_BYTES], struct session_frame *ret)
{
    struct session_frame f;
    f.index = get_u32(&p);
    uint32_t state = get_u32(&p);
    f.whole = state == 1;
    get_bytes(&p, f.sum.b, HASH_BYTES);
    if (state > 1)
        return -EINVAL;
    *ret = f;
    return 0;
}

void session_frame_sum(const struct hash *head, const struct session_frame *f,
                       const uint8_t *payload, size_t n, struct hash *ret)
{
    uint8_t b[8], *p = b;
    struct hash_state s;
    put_u32(&p, f->index);
    put_u32(&p, f->whole);
    hash_start(&s);
    hash_add(&s, head->b, HASH_BYTES);
    hash_add(&s, b, sizeof b);
    hash_add(&s, payload, n);
    hash_end(&s, ret);
}
