// What the files of the scheduler share.
#pragma once
#include "engine/run/sched.h"

struct sched_client {
    uint64_t         id;
    uint64_t         served;        // rows computed for it; the least served goes first
    uint32_t         n_live;        // sequences waiting and running; 0: idle, may be reused
    uint32_t         n_running;
    struct sequence *first;         // its queue, the oldest first
};

struct sched {
    struct sched_params  p;
    struct kv_pool      *pool;      // borrowed
    struct sched_client *client;    // (n_clients)
    uint32_t             n_clients;
    uint64_t             floor;     // `served` of a client that comes new: it starts level
    struct sequence    **running;   // (n_running), at most seqs_max, the oldest first
    uint32_t             n_running, n_waiting;
    uint64_t             n_arrived, preemptions, step_no;
    struct step_cost     cost;
    struct sched_step    step;
    uint32_t             n_decodes; // leading items of the step
    bool                 closed;    // no admission any more in this step
    uint32_t             room;      // blocks that it may still begin
    bool                 withheld;  // somebody is not in it who could be: held, or no room
};

enum sched_next_flags { SCHED_IDLE_ONLY = 1 };  // only clients of whom nothing runs

// The least served client that has a prompt to go on with or to start; NULL: none.
struct sched_client *sched_next_client(struct sched *s, unsigned flags);
// The oldest waiting sequence of c that this step did not pass over; NULL: none.
struct sequence *sched_first_waiting(const struct sched *s, const struct sched_client *c);

void sched_enqueue(struct sched *s, struct sequence *q);        // by age
void sched_dequeue(struct sched *s, struct sequence *q);
void sched_leave(struct sched *s, struct sequence *q);          // its client has one less
