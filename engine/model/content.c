// Hashing all weights: pieces of fixed size, each with its own hash, and a hash over those. So the
// result does not depend on the number of threads.
#include "engine/model/content.h"
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sched.h>
#include <stdlib.h>
#include "base/base.h"

#define PIECE_BYTES (UINT64_C(16) << 20)
#define THREADS_MAX 64

struct piece { const uint8_t *p; size_t n; struct hash hash; };

struct work {
    struct piece   *piece;              // (n)
    size_t          n;
    atomic_size_t   next, done;
    atomic_bool     stop;
};

static size_t n_pieces(const struct tensor *t) { return DIV_UP(t->bytes, PIECE_BYTES); }

static int cut(struct work *w, const struct gguf *g)
{
    for (size_t i = 0; i < gguf_n_tensors(g); i++)
        w->n += n_pieces(gguf_tensor_at(g, i));
    w->piece = calloc(MAX(w->n, 1), sizeof *w->piece);
    if (!w->piece)
        return -ENOMEM;
    size_t at = 0;
    for (size_t i = 0; i < gguf_n_tensors(g); i++) {
        const struct tensor *t = gguf_tensor_at(g, i);
        for (uint64_t from = 0; from < t->bytes; from += PIECE_BYTES)
            w->piece[at++] = (struct piece){
                (const uint8_t *)t->data + from, MIN(PIECE_BYTES, t->bytes - from), {{0}},
            };
    }
    return 0;
}

static bool hash_next(struct work *w)
{
    size_t i = atomic_fetch_add(&w->next, 1);
    if (i >= w->n || atomic_load(&w->stop))
        return false;
    hash_bytes(w->piece[i].p, w->piece[i].n, &w->piece[i].hash);
    atomic_fetch_add(&w->done, 1);
    return true;
}

static void *help(void *ctx)
{
    while (hash_next(ctx))
        ;
    return NULL;
}

static uint32_t usable_cores(void)
{
    cpu_set_t set;
    return sched_getaffinity(0, sizeof set, &set) == 0 ? (uint32_t)CPU_COUNT(&set) : 1;
}

// The caller's thread works too, and tells how far it is.
static int hash_all(struct work *w, uint32_t threads, content_progress *progress, void *ctx)
{
    pthread_t helper[THREADS_MAX];
    uint32_t n = 0, want = MIN(threads ? threads : usable_cores(), THREADS_MAX);
    while (n + 1 < want && pthread_create(&helper[n], NULL, help, w) == 0)
        n++;
    int r = 0;
    while (r == 0 && hash_next(w))
        if (progress && progress(ctx, atomic_load(&w->done) * PIECE_BYTES, w->n * PIECE_BYTES) != 0)
            r = -ECANCELED;
    atomic_store(&w->stop, r < 0);
    while (n > 0)
        pthread_join(helper[--n], NULL);
    return r;
}

int model_content(const struct model *m, uint32_t threads, content_progress *progress, void *ctx,
                  struct hash *ret, struct err *err)
{
    struct work w = {0};
    struct hash_state s;
    int r = gguf_check_size(m->file, err);
    if (r < 0)
        return r;
    r = cut(&w, m->file);
    if (r == 0)
        r = hash_all(&w, threads, progress, ctx);
    if (r < 0) {
        free(w.piece);
        return err_set(err, r, "%s", r == -ENOMEM ? "no memory to hash a model" : "stopped");
    }
    hash_start(&s);
    hash_add(&s, &m->fingerprint, sizeof m->fingerprint);
    for (size_t i = 0; i < w.n; i++)
        hash_add(&s, &w.piece[i].hash, sizeof w.piece[i].hash);
    hash_end(&s, ret);
    free(w.piece);
    return 0;
}
