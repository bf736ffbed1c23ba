/* One flow on several cores: idle workers seal and open packets for a saturated one.
 *
 * A flow stays with its worker, the owner, so one core bounds it. About half of the owner's time is the cipher. So the owner
 * lays out its super-packets and received trains as jobs, and idle workers (helpers) run some of them:
 *   1. out: the owner reserves nonces and places in send slots, in order. A job segments the super-packet and seals it into
 *      these places. The owner pushes a train when all jobs up to its last packet are done                 (spread_out.c)
 *   2. in: a job opens the messages of one train in place. The owner checks and delivers them in order     (inbound.c)
 *   3. the owner runs jobs, too. It waits only for a job that a helper has begun
 *   4. all jobs are done when the owner's pass ends. Tables and keys change only between passes (gate.c), so they stay the
 *      same during a job. A helper reads the job and its keypair, and it uses its own object of the key
 *   5. helpers are used only while they raise throughput                                                   (spread_trial.c) */
#ifndef UDPRING_TUNNEL_WORKER_SPREAD_H
#define UDPRING_TUNNEL_WORKER_SPREAD_H
#include "../tun/segment.h"

#include "spread_trial.h"
#include "state.h"

enum { SPREAD_READY = 1, SPREAD_BEGUN, SPREAD_DONE };

/* A packet to seal. place NULL: it was dropped and counted. Owner and thread: those of its job. Nothing to free. */
struct spread_packet {
    uint8_t *place;
    uint64_t counter;
    uint32_t full;              /* length with padding */
    bool failed;
};

/* A super-packet to seal, or a train to open. Owner: the worker that laid it out. Thread: the one that has begun it, else the owner's.
 * Nothing to free. */
struct spread_job {
    void (*run)(struct spread_job *job, uint32_t worker);
    struct keypair *keypair;
    union {
        struct {
            struct flow_packet *source;
            uint32_t count;
            struct segmenter segmenter;
            struct spread_packet packet[SPREAD_PACKETS];
        } out;
        struct {
            const struct udpring_packet *train;
            uint64_t opened, failed;    /* messages, by bit. The owner opens those in neither */
        } in;
    };
};
_Static_assert(SPREAD_PACKETS <= 64, "a bit for each message");

/* Owner: a worker, where there are several. Thread: its own, but for the fields marked "any". Freed by spread_close(). */
struct spread {
    /* any */
    uint32_t state[SPREAD_JOBS];        /* atomic: SPREAD_READY, SPREAD_BEGUN or SPREAD_DONE, of the first `used` jobs */
    uint32_t helpers;                   /* atomic: workers that help this one now */
    uint32_t called;                    /* atomic, of this worker as a helper: 0, SPREAD_SLEEPS, or SPREAD_CALLED + caller's number */

    uint32_t used, done;                /* jobs of this pass. The first `done` of them are done, and handled by the owner */
    bool laying_out;                    /* the next job is being laid out */
    uint32_t trains, pushed;            /* trains held back in this pass. How many of them were pushed */
    struct {
        uint32_t slot, after;           /* pushed when the first `after` jobs are done */
    } train[OUT_SLOTS];
    uint64_t called_ns;                 /* when this worker last called a helper */
    uint64_t waits;                     /* times that this worker waited in its ring */
    int32_t helps;                      /* number of the worker that it helps. -1: none */
    bool forced;                        /* by a test: spread_on stays as it is */
    struct spread_trial trial;
    struct spread_job job[SPREAD_JOBS];
};
enum { SPREAD_SLEEPS = 1, SPREAD_CALLED };

int spread_open(struct spread **spread) UR_MUST_CHECK;   /* 0 or -ENOMEM */
void spread_close(struct spread *spread);

/* The owner. */
/* Room for the next job of this pass, or NULL. */
static inline struct spread_job *spread_room(struct spread *spread)
{
    return spread->used < SPREAD_JOBS ? &spread->job[spread->used] : NULL;
}
/* The job in that room is laid out. Any worker may run it, and a helper is called if enough jobs are ready. */
void spread_publish(struct worker *worker);
/* The same, but the owner runs it now. */
void spread_publish_done(struct worker *worker);
/* True: no worker had begun the job, and none will. The caller does its work in another way. */
bool spread_take_back(struct spread *spread, uint32_t number);
static inline bool spread_is_done(const struct spread *spread, uint32_t number)
{
    return __atomic_load_n(&spread->state[number], __ATOMIC_ACQUIRE) == SPREAD_DONE;
}
/* Returns when the job is done. Until then the caller runs it, or others. */
void spread_finish(struct worker *worker, uint32_t number);
/* Holds a closed train back until the jobs laid out so far are done (spread_out.c). */
static inline void spread_hold(struct spread *spread, uint32_t slot)
{
    uint32_t train = spread->trains++ % OUT_SLOTS;   /* each has a slot of its own until it is pushed */
    spread->train[train].slot = slot;
    spread->train[train].after = spread->used + spread->laying_out;
}
/* Once a pass: updates worker->spread_on. */
void spread_see(struct worker *worker);

/* A helper. */
void spread_sleep(struct worker *worker);    /* before the worker waits in its ring, */
void spread_wake(struct worker *worker);     /* and after it */
/* Runs jobs of the worker that called, for at most SPREAD_STINT_NS or until SPREAD_IDLE_NS without one. */
void spread_help(struct worker *worker);
static inline bool spread_helps(const struct worker *worker)
{
    return ur_unlikely(worker->spread != NULL) && worker->spread->helps >= 0;
}
void spread_stop_helping(struct worker *worker);
#endif
