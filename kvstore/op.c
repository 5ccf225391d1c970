// The life of a block's operation: from submit through disk requests to its result.
//
// An operation waits in a queue by priority until there are disk requests for it. One is at most
// CHUNK_BYTES long; a short transfer goes on where it stopped. A put writes header and payload in
// one go and then waits for the commit that names it. A get believes nothing: a whole block is
// hashed and compared with the index, a part with the slot's own sums, which are themselves
// compared with the index first.
#include <errno.h>
#include <string.h>
#include "kvstore/store.h"

static struct entry *entry_of(struct kv_store *s, const struct kv_io *io)
{
    return &s->table.entry[io->priv.entry];
}

static uint64_t slot_offset(struct kv_store *s, const struct entry *e)
{
    return (uint64_t)e->slot * s->segments.segment[e->segment].slot_bytes;
}

static void enqueue(struct kv_store *s, struct kv_io *io)
{
    io->priv.in_queue = true;
    io_list_add(&s->queue[io->priority], io);
}

static void wait_for_put(struct entry *e, struct kv_io *io)
{
    struct kv_io **end = &e->puts;
    while (*end)
        end = &(*end)->priv.wait_next;
    io->priv.wait_next = NULL;
    *end = io;
}

void op_changed(struct kv_store *s, struct kv_io *io, int result)
{
    assert(s->n_changing > 0);
    s->n_changing--;
    struct kv_io *next, *flushes = s->flushes.first;
    io_list_init(&s->flushes);
    for (struct kv_io *f = flushes; f; f = next) {
        next = f->priv.next;
        if (io->priv.seq < f->priv.seq && --f->priv.flush_left == 0)
            io_end(s, f, 0);
        else
            io_list_add(&s->flushes, f);
    }
    io_end(s, io, result);
}

// ---- starting ----------------------------------------------------------------------------------

static void start_get(struct kv_store *s, struct kv_io *io)
{
    struct entry *e = block_find(s, &io->key);
    if (e && e->state == ENTRY_WRITING) {
        wait_for_put(e, io);
        return;
    }
    if (!e || e->bytes > s->p.block_bytes_max || io->offset_bytes > e->bytes ||
        io->bytes > e->bytes - io->offset_bytes) {
        io_end(s, io, -ENOENT);
        return;
    }
    e->reads++;
    block_evictable(s, e);
    block_use(s, e);
    io->priv.entry = entry_number(&s->table, e);
    enqueue(s, io);
}

// A key that is there already: a put of it is a use.
static void put_again(struct kv_store *s, struct entry *e, struct kv_io *io)
{
    if (e->state == ENTRY_WRITING) {
        wait_for_put(e, io);
        return;
    }
    if (e->expires_s)
        e->expires_s = io->ttl_s ? MAX(e->expires_s, s->time_s + io->ttl_s) : 0;
    block_use(s, e);
    op_changed(s, io, 0);
}

static int put_refusal(struct kv_store *s, const struct kv_io *io)
{
    if (s->stats.degraded)
        return -EIO;
    uint64_t written = s->wear_bytes + s->wear_coming_bytes + slot_bytes_for(io->bytes);
    if (s->p.write_bytes_per_day && written > s->p.write_bytes_per_day) {
        s->stats.over_budget++;
        return -EDQUOT;
    }
    return room_for_entry(s);
}

static int put_new(struct kv_store *s, struct kv_io *io)
{
    int r = put_refusal(s, io);
    struct entry *e = r ? NULL : table_add(&s->table, &io->key);
    if (!e)
        return r;
    e->state = ENTRY_WRITING;
    e->bytes = io->bytes;
    r = room_take(s, e, slot_bytes_for(io->bytes));
    if (r) {
        table_hide(&s->table, e);
        table_free(&s->table, e);
        return r;
    }
    e->generation = e->pin_generation = s->generation++;
    e->expires_s = io->ttl_s ? s->time_s + io->ttl_s : 0;
    io->priv.wear_bytes = slot_bytes_for(io->bytes);
    s->wear_coming_bytes += io->priv.wear_bytes;
    s->n_writing++;
    block_use(s, e);
    e->use_dirty = false;
    io->priv.entry = entry_number(&s->table, e);
    wait_for_put(e, io);
    enqueue(s, io);
    return 0;
}

static void start_put(struct kv_store *s, struct kv_io *io)
{
    struct entry *e = table_find(&s->table, &io->key);
    if (e && e->in_use_list && block_expired(s, e)) {
        block_kill(s, e);
        e = NULL;
    }
    // One that may not be durable stays until its successor is.
    if (e && !e->unproven) {
        put_again(s, e, io);
        return;
    }
    int r = s->room.first ? -EAGAIN : put_new(s, io);
    if (r == -EAGAIN)
        io_list_add(&s->room, io);
    else if (r)
        op_changed(s, io, r);
    s->stats.no_space += r == -ENOSPC;
}

static bool put_waits_for_room(const struct kv_store *s, const struct hash *key)
{
    for (const struct kv_io *io = s->room.first; io; io = io->priv.next)
        if (io->kind == KV_IO_PUT && hash_equal(&io->key, key))
            return true;
    return false;
}

static void start_delete(struct kv_store *s, struct kv_io *io)
{
    struct entry *e = table_find(&s->table, &io->key);
    if (put_waits_for_room(s, &io->key)) {
        io_list_add(&s->room, io);
        return;
    }
    if (e && e->state == ENTRY_WRITING) {
        wait_for_put(e, io);
        return;
    }
    if (!e) {                           // the index may have it still: that has to end as well
        io_list_add(&s->record_changes, io);
        return;
    }
    // Forgotten first, then its header is wiped, so that a rebuilt index does not bring it back.
    io->priv.entry = entry_number(&s->table, e);
    s->stats.deleted++;
    wait_for_put(e, io);
    block_kill(s, e);
}

static void start_flush(struct kv_store *s, struct kv_io *io)
{
    io->priv.flush_left = s->n_changing;
    if (s->n_changing)
        io_list_add(&s->flushes, io);
    else
        io_end(s, io, 0);
}

static void start(struct kv_store *s, struct kv_io *io)
{
    switch (io->kind) {
    case KV_IO_GET: start_get(s, io); break;
    case KV_IO_PUT: start_put(s, io); break;
    case KV_IO_DELETE: start_delete(s, io); break;
    case KV_IO_FLUSH: start_flush(s, io); break;
    case KV_IO_RECORD_GET:
    case KV_IO_RECORD_PUT:
    case KV_IO_RECORD_DELETE: record_submit(s, io); break;
    }
}

static bool is_block_io_ok(const struct kv_store *s, const struct kv_io *io)
{
    return io->bytes > 0 && io->bytes % KV_UNIT_BYTES == 0 && io->bytes <= s->p.block_bytes_max &&
           io->offset_bytes % KV_UNIT_BYTES == 0 && (uintptr_t)io->buf % KV_UNIT_BYTES == 0 &&
           io->buf != NULL;
}

void kv_store_submit(struct kv_store *s, struct kv_io *io)
{
    assert(io->done && io->priority < KV_PRIORITY_COUNT);
    assert((io->kind != KV_IO_GET && io->kind != KV_IO_PUT) || is_block_io_ok(s, io));
    memset(&io->priv, 0, sizeof(io->priv));
    io->priv.seq = ++s->seq;
    io->result = 0;
    s->stats.gets += io->kind == KV_IO_GET;
    s->stats.puts += io->kind == KV_IO_PUT;
    s->n_changing += io->kind == KV_IO_PUT || io->kind == KV_IO_DELETE ||
                     io->kind == KV_IO_RECORD_PUT || io->kind == KV_IO_RECORD_DELETE;
    start(s, io);
    op_dispatch(s);
}

void op_retry_room(struct kv_store *s)
{
    struct kv_io *next, *waiting = s->room.first;
    io_list_init(&s->room);
    for (struct kv_io *io = waiting; io; io = next) {
        next = io->priv.next;
        start(s, io);
    }
}

// ---- disk requests -----------------------------------------------------------------------------

// Urgent requests find some free whatever is prefetched and written.
static bool has_request(const struct kv_store *s, const struct kv_io *io)
{
    uint32_t limit = s->p.inflight_max;
    if (io->priority >= KV_PREFETCH)
        limit -= limit / 4;
    return s->in_flight < limit;
}

static struct disk_io *take_request(struct kv_store *s, struct kv_io *io)
{
    if (!has_request(s, io))
        return NULL;
    struct disk_io *q = s->free_request;
    s->free_request = q->next;
    *q = (struct disk_io){.write = io->kind != KV_IO_GET, .n_iov = 1, .owner = io,
                          .file = entry_of(s, io)->segment};
    return q;
}

static void send(struct kv_store *s, struct kv_io *io, struct disk_io *q)
{
    io->priv.n_parts++;
    s->in_flight++;
    s->disk->ops->submit(s->disk, q);
}

static bool take_header(struct kv_store *s, struct kv_io *io)
{
    if (!io->priv.header && s->n_free_headers)
        io->priv.header = s->free_header[--s->n_free_headers];
    return io->priv.header != NULL;
}

static void free_header(struct kv_store *s, struct kv_io *io)
{
    if (io->priv.header)
        s->free_header[s->n_free_headers++] = io->priv.header;
    io->priv.header = NULL;
}

static bool is_whole(const struct kv_io *io, const struct entry *e)
{
    return io->offset_bytes == 0 && io->bytes == e->bytes;
}

// Requests for the rest of the payload; false: there are too few.
static bool issue_payload(struct kv_store *s, struct kv_io *io)
{
    const struct entry *e = entry_of(s, io);
    uint64_t at = slot_offset(s, e) + slot_header_bytes(e->bytes) + io->offset_bytes;
    while (io->priv.issued_bytes < io->bytes) {
        struct disk_io *q = take_request(s, io);
        if (!q)
            return false;
        uint32_t n = MIN(CHUNK_BYTES, io->bytes - io->priv.issued_bytes);
        q->offset_bytes = at + io->priv.issued_bytes;
        q->iov[0] = (struct iovec){(uint8_t *)io->buf + io->priv.issued_bytes, n};
        io->priv.issued_bytes += n;
        send(s, io, q);
    }
    return true;
}

static bool issue_get(struct kv_store *s, struct kv_io *io)
{
    const struct entry *e = entry_of(s, io);
    if (!is_whole(io, e) && !e->sums && !io->priv.header) {
        struct disk_io *q = has_request(s, io) && take_header(s, io) ? take_request(s, io) : NULL;
        if (!q)
            return false;
        q->offset_bytes = slot_offset(s, e);
        q->iov[0] = (struct iovec){io->priv.header, slot_header_bytes(e->bytes)};
        send(s, io, q);
    }
    return issue_payload(s, io);
}

static void encode_header(struct kv_store *s, struct kv_io *io, struct entry *e)
{
    struct slot_header h = {.segment = s->segments.segment[e->segment].id, .slot = e->slot,
                            .generation = e->generation, .expires_s = e->expires_s,
                            .payload_bytes = e->bytes};
    memcpy(h.uuid, s->uuid, UUID_BYTES);
    memcpy(h.key, e->key.b, HASH_BYTES);
    unit_sums(io->buf, e->bytes, s->scratch);
    e->sum = sums_sum(s->scratch, units_of(e->bytes));
    slot_encode(io->priv.header, &h, s->scratch);
}

static bool issue_put(struct kv_store *s, struct kv_io *io)
{
    struct entry *e = entry_of(s, io);
    if (!io->priv.issued_bytes) {
        struct disk_io *q = has_request(s, io) && take_header(s, io) ? take_request(s, io) : NULL;
        if (!q)
            return false;
        encode_header(s, io, e);
        uint32_t head = slot_header_bytes(e->bytes);
        uint32_t n = MIN(io->bytes, CHUNK_BYTES - MIN(head, CHUNK_BYTES / 2));
        q->offset_bytes = slot_offset(s, e);
        q->iov[0] = (struct iovec){io->priv.header, head};
        q->iov[1] = (struct iovec){io->buf, n};
        q->n_iov = 2;
        io->priv.issued_bytes = n;
        send(s, io, q);
    }
    return issue_payload(s, io);
}

static bool issue_delete(struct kv_store *s, struct kv_io *io)
{
    struct disk_io *q = has_request(s, io) && take_header(s, io) ? take_request(s, io) : NULL;
    if (!q)
        return false;
    memset(io->priv.header, 0, KV_UNIT_BYTES);
    q->offset_bytes = slot_offset(s, entry_of(s, io));
    q->iov[0] = (struct iovec){io->priv.header, KV_UNIT_BYTES};
    send(s, io, q);
    return true;
}

static bool issue(struct kv_store *s, struct kv_io *io)
{
    if (io->priv.status)
        return true;                    // it has failed: no more of it
    return io->kind == KV_IO_GET ? issue_get(s, io) :
           io->kind == KV_IO_PUT ? issue_put(s, io) : issue_delete(s, io);
}

// ---- the ends ----------------------------------------------------------------------------------

static bool is_header_of(struct kv_store *s, const struct entry *e, const struct slot_header *h)
{
    return memcmp(h->uuid, s->uuid, UUID_BYTES) == 0 && h->slot == e->slot &&
           h->segment == s->segments.segment[e->segment].id && h->generation == e->generation &&
           memcmp(h->key, e->key.b, HASH_BYTES) == 0 && h->payload_bytes == e->bytes &&
           h->sum == e->sum;
}

// The sums of the block's units from what was read, or from memory. NULL: they cannot be believed.
static const uint64_t *believed_sums(struct kv_store *s, struct kv_io *io, struct entry *e)
{
    struct slot_header h;
    const uint64_t *sums = NULL;
    if (e->sums)
        return e->sums;
    if (slot_decode(io->priv.header, &h) == 0 && is_header_of(s, e, &h))
        sums = slot_sums(io->priv.header, &h);
    if (sums && e->state == ENTRY_LIVE)
        block_keep_sums(s, e, sums);
    return sums;
}

static bool verify(struct kv_store *s, struct kv_io *io, struct entry *e)
{
    uint32_t n = units_of(io->bytes);
    unit_sums(io->buf, io->bytes, s->scratch);
    if (is_whole(io, e))
        return sums_sum(s->scratch, n) == e->sum;
    const uint64_t *sums = believed_sums(s, io, e);
    return sums && memcmp(sums + units_of((uint32_t)io->offset_bytes), s->scratch,
                          n * sizeof(*sums)) == 0;
}

// Is it the block's fault? What the system had no memory or no turn for may be read next time.
static bool is_lost(int status) { return status == -EIO || status == -ENODATA; }

static void end_get(struct kv_store *s, struct kv_io *io)
{
    struct entry *e = entry_of(s, io);
    int r = io->priv.status;
    // Its sums were dropped from memory meanwhile: once more, with the header.
    if (r == 0 && !is_whole(io, e) && !e->sums && !io->priv.header) {
        io->priv.issued_bytes = 0;
        enqueue(s, io);
        return;
    }
    bool bad = r == 0 && !verify(s, io, e);
    bool failed = r && r != -ECANCELED;
    s->stats.corrupt += bad && e->state == ENTRY_LIVE;
    s->stats.read_errors += failed;
    free_header(s, io);
    e->reads--;
    if ((bad || is_lost(r)) && e->state == ENTRY_LIVE)
        block_kill(s, e);
    block_evictable(s, e);
    block_release(s, e);
    if (r == 0 && !bad) {
        s->stats.hits++;
        s->stats.get_bytes += io->bytes;
    }
    io_end(s, io, r == -ECANCELED ? r : bad || failed ? -ENOENT : 0);
}

static int put_result(int status)
{
    bool is_full = status == -ENOSPC || status == -EFBIG || status == -EDQUOT;
    return is_full ? -ENOSPC : status == -ECANCELED ? status : -EIO;
}

static void end_put(struct kv_store *s, struct kv_io *io)
{
    struct entry *e = entry_of(s, io);
    int status = io->priv.status;
    free_header(s, io);
    s->wear_coming_bytes -= io->priv.wear_bytes;
    io->priv.wear_bytes = 0;
    s->n_writing--;
    if (status == 0) {
        commit_entry(s, e);
        return;
    }
    if (status != -ECANCELED) {
        s->stats.write_errors++;
        count_failure(s);
    }
    // The index does not name the slot, but the disk may be bad there.
    if (put_result(status) == -EIO) {
        block_quarantine(s, e);
    } else {
        block_hide(s, e);
        e->forgotten = true;
    }
    op_put_done(s, e, put_result(status));
}

static void end_delete(struct kv_store *s, struct kv_io *io)
{
    struct entry *e = entry_of(s, io);
    free_header(s, io);
    s->stats.write_errors += io->priv.status != 0;
    e->wiped = true;
    wait_for_put(e, io);                // for the sync of the next group
    commit_entry(s, e);
}

static void end_op(struct kv_store *s, struct kv_io *io)
{
    if (io->kind == KV_IO_GET)
        end_get(s, io);
    else if (io->kind == KV_IO_PUT)
        end_put(s, io);
    else
        end_delete(s, io);
}

// What held an unproven block keeps its successor.
static void replace_older(struct kv_store *s, struct entry *e)
{
    struct entry *old = table_older(&s->table, e);
    if (!old)
        return;
    e->pin_generation = old->pin_generation;
    e->pins = old->pins;
    e->holds += old->holds;
    block_kill(s, old);
}

// The other way round: it is found again.
static void return_holds(struct kv_store *s, const struct entry *e)
{
    struct entry *old = table_find(&s->table, &e->key);
    if (!old)
        return;
    old->holds += e->holds;
    block_evictable(s, old);
}

void op_put_done(struct kv_store *s, struct entry *e, int result)
{
    struct kv_io *next, *waiting = e->puts;
    e->puts = NULL;
    s->retry_records = true;
    if (result == 0) {
        replace_older(s, e);
        block_live(s, e);
        s->failures = 0;
        s->stats.stored++;
        s->stats.stored_bytes += e->bytes;
    } else {
        return_holds(s, e);
        block_release(s, e);
    }
    bool deleted = false;               // a put behind a deletion is a new one
    for (struct kv_io *io = waiting; io; io = next) {
        next = io->priv.wait_next;
        deleted |= io->kind == KV_IO_DELETE;
        if (io->kind == KV_IO_PUT && !deleted)
            op_changed(s, io, result);
        else
            start(s, io);
    }
}

void op_forgotten(struct kv_store *s, struct entry *e, int result, bool is_gone)
{
    struct kv_io *next, *waiting = e->puts;
    e->puts = NULL;
    if (is_gone && waiting && !e->wiped) {
        assert(!waiting->priv.wait_next);
        enqueue(s, waiting);
        return;
    }
    for (struct kv_io *io = waiting; io; io = next) {
        next = io->priv.wait_next;
        op_changed(s, io, io->priv.status ? -EIO : result);
    }
    if (is_gone) {
        e->forgotten = true;
        block_release(s, e);
    } else if (!s->index_broken) {
        commit_entry(s, e);             // it has to be, some time
    }
}

// ---- dispatch and completion -------------------------------------------------------------------

void op_dispatch(struct kv_store *s)
{
    for (uint32_t p = 0; p < KV_PRIORITY_COUNT; p++) {
        struct kv_io *io;
        while ((io = s->queue[p].first) && has_request(s, io) && issue(s, io)) {
            io_list_take(&s->queue[p]);
            io->priv.in_queue = false;
            if (io->priv.n_parts == 0)
                end_op(s, io);
        }
    }
    s->disk->ops->kick(s->disk);
}

static void skip(struct disk_io *q, uint32_t n)
{
    q->offset_bytes += n;
    for (; n > 0 && n >= q->iov[0].iov_len; q->n_iov--) {
        n -= (uint32_t)q->iov[0].iov_len;
        q->iov[0] = q->iov[1];
    }
    q->iov[0].iov_base = (uint8_t *)q->iov[0].iov_base + n;
    q->iov[0].iov_len -= n;
}

// What is still to be done of a request? Returns 0 (nothing), -EAGAIN (again) or a failure.
static int progress(struct kv_store *s, struct disk_io *q)
{
    int r = q->result;
    if (r >= 0 && (uint32_t)r == disk_io_bytes(q))
        return 0;
    assert(r < 0 || (uint32_t)r < disk_io_bytes(q));
    if (r == 0)
        return q->write ? -ENOSPC : -ENODATA;
    if (++q->tries > TRIES_MAX)
        return r == -EAGAIN ? -EBUSY : r < 0 ? r : -EIO;
    if (r > 0) {
        s->stats.short_transfers++;
        skip(q, (uint32_t)r & ~(KV_UNIT_BYTES - 1));
        return -EAGAIN;
    }
    s->stats.retries += r == -EAGAIN || r == -EINTR;
    return r == -EINTR ? -EAGAIN : r;
}

// What was set aside of the budget when the put began is spent.
static void count_put(struct kv_store *s, struct kv_io *io, uint32_t bytes)
{
    uint32_t coming = MIN(bytes, io->priv.wear_bytes);
    io->priv.wear_bytes -= coming;
    s->wear_coming_bytes -= coming;
    count_wear(s, bytes);
    s->stats.disk_written_bytes += bytes;
}

static void request_done(struct kv_store *s, struct disk_io *q)
{
    struct kv_io *io = q->owner;
    if (q->write && q->result > 0)
        count_put(s, io, (uint32_t)q->result);
    int r = progress(s, q);
    if (r == -EAGAIN) {
        s->disk->ops->submit(s->disk, q);
        return;
    }
    if (r && !io->priv.status)
        io->priv.status = r;
    q->next = s->free_request;
    s->free_request = q;
    s->in_flight--;
    if (--io->priv.n_parts == 0 && !io->priv.in_queue)
        end_op(s, io);
}

void op_reaped(struct kv_store *s, struct disk_io *list)
{
    struct disk_io *next;
    for (struct disk_io *q = list; q; q = next) {
        next = q->next;
        request_done(s, q);
    }
}

// ---- cancelling --------------------------------------------------------------------------------

void kv_store_cancel(struct kv_store *s, struct kv_io *io)
{
    if (io_list_remove(&s->room, io)) {
        op_changed(s, io, -ECANCELED);
        return;
    }
    if (io->kind == KV_IO_GET && io->priv.in_queue && io->priv.n_parts == 0) {
        io_list_remove(&s->queue[io->priority], io);
        io->priv.in_queue = false;
        io->priv.status = -ECANCELED;
        end_op(s, io);
        return;
    }
    for (uint32_t i = 0; io->kind == KV_IO_GET && i < s->p.inflight_max; i++)
        if (s->request[i].owner == io)
            s->disk->ops->cancel(s->disk, &s->request[i]);
    s->disk->ops->kick(s->disk);
}
