// Sequences: their memory, their one state machine, and which of their rows need logits.
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "engine/run/seq.h"
#include "engine/kv/key.h"
#include "base/base.h"

int seq_init(struct sequence *s, const struct seq_params *p)
{
    assert(p->n_tokens > 0 && p->n_tokens <= p->n_max && p->n_max <= CTX_MAX);
    struct sequence r = {
        .state = SEQ_WAITING, .root = p->root, .reuse = p->reuse, .client = p->client,
        .n_prompt = p->n_tokens, .n_tokens = p->n_tokens, .n_max = p->n_max,
        .out_to = p->score ? p->n_tokens - 1 : 0,
    };
    r.token = malloc(p->n_max * sizeof *r.token);
    r.key = calloc(MAX(p->n_max / KV_BLOCK_TOKENS, 1), sizeof *r.key);
    if (!r.token || !r.key || kv_table_init(&r.table, p->n_max) < 0) {
        free(r.token);
        free(r.key);
        return -ENOMEM;
    }
    memcpy(r.token, p->token, p->n_tokens * sizeof *r.token);
    if (r.reuse)
        seq_make_keys(&r, r.n_tokens / KV_BLOCK_TOKENS);
    *s = r;
    return 0;
}

void seq_finish(struct sequence *s)
{
    kv_table_finish(&s->table);
    free(s->token);
    free(s->key);
    *s = (struct sequence){0};
}

void seq_move(struct sequence *s, enum seq_state to)
{
    static const bool allowed[SEQ_STATE_COUNT][SEQ_STATE_COUNT] = {
        [SEQ_WAITING] = {[SEQ_LOADING] = true, [SEQ_PREFILL] = true, [SEQ_DONE] = true},
        [SEQ_LOADING] = {[SEQ_WAITING] = true, [SEQ_PREFILL] = true, [SEQ_DONE] = true},
        [SEQ_PREFILL] = {[SEQ_WAITING] = true, [SEQ_DECODE] = true, [SEQ_DONE] = true},
        [SEQ_DECODE] = {[SEQ_WAITING] = true, [SEQ_DONE] = true},
    };
    assert(to < SEQ_STATE_COUNT);
    assert(allowed[s->state][to]);
    // Only a running sequence holds blocks.
    if (to == SEQ_WAITING || to == SEQ_DONE)
        assert(s->table.n_blocks == 0);
    if (to == SEQ_DECODE)
        assert(seq_pending(s) == 0);
    s->state = to;
}

void seq_push(struct sequence *s, int32_t token)
{
    assert(s->state == SEQ_DECODE);
    assert(seq_pending(s) == 0);
    assert(s->n_tokens < s->n_max);
    s->token[s->n_tokens++] = token;
}

void seq_make_keys(struct sequence *s, uint32_t n)
{
    assert(n <= s->n_tokens / KV_BLOCK_TOKENS);
    for (; s->n_keys < n; s->n_keys++) {
        uint32_t pos = s->n_keys * KV_BLOCK_TOKENS;
        const struct hash *parent = s->n_keys ? &s->key[s->n_keys - 1] : &s->root;
        kv_key_next(parent, pos, &s->token[pos], &s->key[s->n_keys]);
    }
}

uint32_t seq_n_reusable(const struct sequence *s)
{
    if (!s->reuse)
        return 0;
    uint32_t n = s->n_tokens - 1;
    if (s->out_from < s->out_to)
        n = MIN(n, s->out_from);
    return n / KV_BLOCK_TOKENS;
}

uint32_t seq_n_outputs(const struct sequence *s, uint32_t from, uint32_t to)
{
    uint32_t lo = MAX(from, s->out_from), hi = MIN(to, s->out_to);
    return (lo < hi ? hi - lo : 0) + (to == s->n_tokens && s->out_to < to);
}

bool seq_is_output(const struct sequence *s, uint32_t row)
{
    return row == s->n_tokens - 1 || (row >= s->out_from && row < s->out_to);
}
