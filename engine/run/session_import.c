// A session out of a file, which comes in pieces and is trusted in nothing.
//
// Its head is checked before any block; each block goes into the store when its own hash is right,
// under a key that only this session has. The session itself is made at the end, with one record
// that pins them: so a file that stops being right leaves nothing but blocks that nobody finds,
// which are evicted in time.
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "engine/run/sessions_priv.h"

#define BUFFERS_BYTES (UINT64_C(64) << 20)
#define SLOTS_MAX 16

enum part { PART_FILE, PART_RECORD, PART_SUM, PART_FRAME, PART_PAYLOAD, PART_NONE };

struct import_slot {
    struct session_op op;
    uint8_t          *buf;              // (io_bytes)
    bool              used;
};

struct session_import {
    struct sessions *s;
    struct hash      owner;
    char             id[SESSION_ID_MAX + 1];    // "": the file's

    enum part        part;              // that is being read
    uint8_t         *to;                // where to: `small`, the record, a slot
    size_t           have, need;        // bytes of it
    uint8_t          small[SESSION_FILE_BYTES];
    struct hash_state sum;              // of the head
    struct hash      head_sum;

    struct session_file  file;
    struct session_meta  m;
    struct session_frame frame;
    uint8_t         *record;
    int32_t         *text;              // (m.n_tokens)
    struct hash     *key;               // (n_keys)
    uint32_t         n_keys, n_frames;  // blocks of the text; frames read
    uint32_t         index_min;         // of the next frame
    uint32_t         block_bytes, io_bytes, n_slots;
    struct import_slot *at, slot[SLOTS_MAX];
};

static_assert(SESSION_FILE_BYTES >= SESSION_FRAME_BYTES && SESSION_FILE_BYTES >= HASH_BYTES,
              "`small` holds every part but records and payloads");

static int damaged(struct err *err, const char *what)
{
    return err_set(err, -EINVAL, "%s of the file is damaged", what);
}

static int no_memory(struct err *err)
{
    return err_set(err, -ENOMEM, "no memory for a session");
}

static void expect(struct session_import *i, enum part part, uint8_t *to, size_t need)
{
    i->part = part;
    i->to = to;
    i->need = need;
    i->have = 0;
}

static void expect_frame(struct session_import *i)
{
    if (i->n_frames < i->file.n_blocks)
        expect(i, PART_FRAME, i->small, SESSION_FRAME_BYTES);
    else
        expect(i, PART_NONE, NULL, 0);
}

// ---- the head ----

static int take_file(struct session_import *i, struct err *err)
{
    struct session_identity own;
    int r = session_file_read(i->small, &i->file, err);
    session_identity(i->s->e, &own);
    if (r == 0)
        r = session_identity_check(&i->file.identity, &own, err);
    if (r < 0)
        return r;
    hash_add(&i->sum, i->small, SESSION_FILE_BYTES);
    i->record = malloc(i->file.record_bytes);
    if (!i->record)
        return no_memory(err);
    expect(i, PART_RECORD, i->record, i->file.record_bytes);
    return 0;
}

static int check_record(struct session_import *i, const uint8_t *tokens, struct err *err)
{
    const struct session_meta *m = &i->m;
    uint32_t n_vocab = i->s->e->info.n_vocab;
    if (!hash_equal(&m->model, &i->file.identity.model) ||
        i->file.n_blocks > m->n_tokens / KV_BLOCK_TOKENS || (i->file.n_blocks && !m->has_attn))
        return damaged(err, "the record");
    i->text = malloc(MAX(m->n_tokens, 1) * sizeof *i->text);
    if (!i->text)
        return no_memory(err);
    session_tokens_read(tokens, m->n_tokens, i->text);
    for (uint32_t k = 0; k < m->n_tokens; k++)
        if (i->text[k] < 0 || (uint32_t)i->text[k] >= n_vocab)
            return damaged(err, "a token");
    return 0;
}

static int take_record(struct session_import *i, struct err *err)
{
    const uint8_t *tokens;
    hash_add(&i->sum, i->record, i->file.record_bytes);
    hash_end(&i->sum, &i->head_sum);
    int r = session_record_read(i->record, i->file.record_bytes, &i->m, &tokens, err);
    if (r == 0)
        r = check_record(i, tokens, err);
    if (r == 0)
        expect(i, PART_SUM, i->small, HASH_BYTES);
    return r;
}

// Nobody finds a session's blocks who does not have its nonce.
static int take_sum(struct session_import *i, struct err *err)
{
    if (memcmp(i->small, i->head_sum.b, HASH_BYTES) != 0)
        return damaged(err, "the head");
    struct session_info other;
    const char *id = i->id[0] ? i->id : i->m.id;
    if (engine_session_get(i->s->e, &i->owner, id, &other) == 0)
        return err_set(err, -EEXIST, "there is a session \"%s\" already", id);
    i->m.imported = true;
    random_bytes(i->m.nonce.b, HASH_BYTES);
    i->key = session_keys(i->s->e, &i->m, &i->owner, i->text, &i->n_keys);
    if (i->n_keys && !i->key)
        return no_memory(err);
    expect_frame(i);
    return 0;
}

// ---- blocks ----

// A slot whose block is stored, or was refused, or that never had one.
static struct import_slot *free_slot(struct session_import *i)
{
    struct import_slot *free = NULL;
    pthread_mutex_lock(&i->s->lock);
    for (;;) {
        for (uint32_t k = 0; k < i->n_slots && !free; k++)
            if (!i->slot[k].used || i->slot[k].op.finished)
                free = &i->slot[k];
        if (free)
            break;
        pthread_cond_wait(&i->s->changed, &i->s->lock);
    }
    free->used = false;
    pthread_mutex_unlock(&i->s->lock);
    return free;
}

static void wait_slots(struct session_import *i)
{
    for (uint32_t k = 0; k < i->n_slots; k++) {
        if (i->slot[k].used)
            session_op_wait(&i->slot[k].op);
        i->slot[k].used = false;
    }
}

static int take_frame(struct session_import *i, struct err *err)
{
    if (session_frame_read(i->small, &i->frame) < 0 || i->frame.index < i->index_min ||
        i->frame.index >= i->n_keys)
        return damaged(err, "a block");
    i->index_min = i->frame.index + 1;
    i->at = free_slot(i);
    if (!i->at->buf)
        i->at->buf = aligned_alloc(KV_UNIT_BYTES, i->io_bytes);
    if (!i->at->buf)
        return no_memory(err);
    expect(i, PART_PAYLOAD, i->at->buf, i->block_bytes);
    return 0;
}

// A block that the store does not take is computed again, when it is needed.
static int take_payload(struct session_import *i, struct err *err)
{
    struct import_slot *t = i->at;
    struct hash sum;
    session_frame_sum(&i->head_sum, &i->frame, t->buf, i->block_bytes, &sum);
    if (!hash_equal(&sum, &i->frame.sum))
        return damaged(err, "a block");
    i->n_frames++;
    expect_frame(i);
    if (!i->frame.whole)
        return 0;
    memset(t->buf + i->block_bytes, 0, i->io_bytes - i->block_bytes);
    session_op_init(&t->op, i->s);
    t->op.io = (struct kv_io){
        .kind = KV_IO_PUT, .priority = KV_WRITE_BEHIND, .key = i->key[i->frame.index],
        .buf = t->buf, .bytes = i->io_bytes,
    };
    t->used = true;
    session_op_post(i->s, &t->op);
    return 0;
}

// ---- the file ----

int engine_import_open(struct session_import **ret, struct engine *e, const struct hash *owner,
                       const char *id, struct err *err)
{
    if (!e->sessions)
        return err_set(err, -ENOTSUP, "there is no block store");
    if (id && !session_id_ok(id))
        return err_set(err, -EINVAL, "an id has 1 to %d letters, digits, '_', '-' and '.'",
                       SESSION_ID_MAX);
    struct session_import *i = calloc(1, sizeof *i);
    if (!i)
        return no_memory(err);
    i->s = e->sessions;
    i->owner = *owner;
    if (id)
        memcpy(i->id, id, strlen(id) + 1);
    i->block_bytes = (uint32_t)e->layout.block_bytes;
    i->io_bytes = ALIGN_UP(i->block_bytes, KV_UNIT_BYTES);
    i->n_slots = (uint32_t)CLAMP(BUFFERS_BYTES / i->io_bytes, 1, SLOTS_MAX);
    hash_start(&i->sum);
    expect(i, PART_FILE, i->small, SESSION_FILE_BYTES);
    *ret = i;
    return 0;
}

static int take_part(struct session_import *i, struct err *err)
{
    switch (i->part) {
    case PART_FILE:    return take_file(i, err);
    case PART_RECORD:  return take_record(i, err);
    case PART_SUM:     return take_sum(i, err);
    case PART_FRAME:   return take_frame(i, err);
    case PART_PAYLOAD: return take_payload(i, err);
    case PART_NONE:    break;
    }
    return damaged(err, "the end");
}

int engine_import_feed(struct session_import *i, const void *p, size_t n, struct err *err)
{
    const uint8_t *from = p;
    int r = 0;
    while (n > 0 && r == 0) {
        size_t part = MIN(n, i->need - i->have);
        if (part > 0)
            memcpy(i->to + i->have, from, part);
        from += part;
        n -= part;
        i->have += part;
        if (i->have == i->need)
            r = take_part(i, err);
    }
    return r;
}

int engine_import_end(struct session_import *i, struct session_info *ret, struct err *err)
{
    if (i->part != PART_NONE)
        return err_set(err, -EINVAL, "the file ends too early");
    wait_slots(i);
    struct session *x = session_new(i->s, &i->owner, i->id[0] ? i->id : i->m.id);
    if (!x)
        return no_memory(err);
    x->m.n_tokens = i->m.n_tokens;
    x->m.ttl_s = i->m.ttl_s;
    x->m.pin = i->m.pin;
    x->m.imported = true;
    x->m.nonce = i->m.nonce;
    x->m.has_attn = i->m.has_attn;
    x->m.attn = i->m.attn;
    memcpy(x->m.metadata, i->m.metadata, sizeof x->m.metadata);
    x->text = i->text;
    x->key = i->key;
    x->n_keys = i->n_keys;
    i->text = NULL;
    i->key = NULL;
    return session_publish(i->s, x, ret, err);
}

void engine_import_close(struct session_import *i)
{
    if (!i)
        return;
    wait_slots(i);
    for (uint32_t k = 0; k < i->n_slots; k++)
        free(i->slot[k].buf);
    free(i->record);
    free(i->text);
    free(i->key);
    free(i);
}
