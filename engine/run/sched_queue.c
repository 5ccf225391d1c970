// Clients of the scheduler: their queues, and whose turn it is.
//
// Each client counts the rows computed for it. Whoever has the fewest goes first, so clients with
// work get equal shares. One that comes new or back from idling starts level with the least served:
// it can neither save up turns nor shed what it used.
#include "engine/run/sched_priv.h"
#include "base/base.h"

static struct sched_client *client_find(struct sched *s, uint64_t id)
{
    for (uint32_t i = 0; i < s->n_clients; i++)
        if (s->client[i].id == id && (s->client[i].n_live > 0 || s->client[i].served > 0))
            return &s->client[i];
    return NULL;
}

// The idle client with the smallest count: forgetting that one loses the least.
static struct sched_client *client_new(struct sched *s, uint64_t id)
{
    struct sched_client *best = NULL;
    for (uint32_t i = 0; i < s->n_clients; i++) {
        struct sched_client *c = &s->client[i];
        if (c->n_live == 0 && (!best || c->served < best->served))
            best = c;
    }
    assert(best);
    *best = (struct sched_client){.id = id};
    return best;
}

static void raise_floor(struct sched *s)
{
    uint64_t least = UINT64_MAX;
    for (uint32_t i = 0; i < s->n_clients; i++)
        if (s->client[i].n_live > 0)
            least = MIN(least, s->client[i].served);
    if (least != UINT64_MAX)
        s->floor = MAX(s->floor, least);
}

void sched_add(struct sched *s, struct sequence *q)
{
    assert(q->state == SEQ_WAITING && q->table.n_blocks == 0 && q->n_computed == 0);
    assert(s->n_running + s->n_waiting < s->p.live_max);
    assert(DIV_UP(q->n_max, KV_BLOCK_TOKENS) <= kv_pool_n_blocks(s->pool));
    raise_floor(s);
    struct sched_client *c = client_find(s, q->client);
    if (!c)
        c = client_new(s, q->client);
    if (c->n_live++ == 0)
        c->served = MAX(c->served, s->floor);
    q->client_slot = (uint32_t)(c - s->client);
    q->arrival = ++s->n_arrived;
    sched_enqueue(s, q);
}

void sched_leave(struct sched *s, struct sequence *q)
{
    struct sched_client *c = &s->client[q->client_slot];
    assert(c->n_live > 0);
    if (--c->n_live == 0 && s->n_running + s->n_waiting == 0)
        s->floor = MAX(s->floor, c->served);    // nobody was kept waiting by what it used
}

void sched_enqueue(struct sched *s, struct sequence *q)
{
    struct sequence **at = &s->client[q->client_slot].first;
    while (*at && (*at)->arrival < q->arrival)
        at = &(*at)->next;
    q->next = *at;
    *at = q;
    s->n_waiting++;
}

void sched_dequeue(struct sched *s, struct sequence *q)
{
    struct sequence **at = &s->client[q->client_slot].first;
    while (*at != q) {
        assert(*at);
        at = &(*at)->next;
    }
    *at = q->next;
    q->next = NULL;
    s->n_waiting--;
}

struct sequence *sched_first_waiting(const struct sched *s, const struct sched_client *c)
{
    struct sequence *q = c->first;
    while (q && q->deferred == s->step_no)
        q = q->next;
    return q;
}

static bool has_prefill(const struct sched *s, const struct sched_client *c)
{
    for (uint32_t i = 0; i < s->n_running; i++) {
        const struct sequence *q = s->running[i];
        if (&s->client[q->client_slot] == c && q->state == SEQ_PREFILL &&
            q->planned != s->step_no && !q->held)
            return true;
    }
    return false;
}

struct sched_client *sched_next_client(struct sched *s, unsigned flags)
{
    bool admits = !s->closed && s->n_running < s->p.seqs_max;
    struct sched_client *best = NULL;
    for (uint32_t i = 0; i < s->n_clients; i++) {
        struct sched_client *c = &s->client[i];
        if (c->n_live == 0 || (best && c->served >= best->served))
            continue;
        bool ready = flags & SCHED_IDLE_ONLY
                         ? c->n_running == 0 && c->first
                         : has_prefill(s, c) || (admits && sched_first_waiting(s, c));
        if (ready)
            best = c;
    }
    return best;
}
