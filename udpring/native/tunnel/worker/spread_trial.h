/* Decides by trial whether other workers help a saturated one.
 *
 * Help costs CPU time: a wake-up, cache misses, and waits between workers. It raises throughput only where a core is idle, and a
 * thread cannot see that. So the worker measures:
 *   1. a window is saturated if the worker never waits and has the CPU for seven eighths of the time
 *   2. after SPREAD_WINDOWS saturated windows in a row it tries help
 *   3. help stays on if the worker then moves a sixteenth more bytes in the same time
 *   4. now and then help is off for SPREAD_WINDOWS windows, to compare again
 *   5. after a trial that failed, the worker pauses before the next one, twice as long each time
 *
 * The caller passes the time. */
#ifndef UDPRING_TUNNEL_WORKER_SPREAD_TRIAL_H
#define UDPRING_TUNNEL_WORKER_SPREAD_TRIAL_H
#include "../../base.h"

/* The worker's counters at one time. All only grow. Owner and thread: the caller. Nothing to free. */
struct spread_sample {
    uint64_t now;
    uint64_t cpu_ns;            /* of its thread */
    uint64_t bytes;             /* of packets that it moved */
    uint64_t waits;             /* times that it waited in its ring */
};

/* Owner: the worker, zero at first. Thread: the worker. Nothing to free. */
struct spread_trial {
    struct spread_sample last;  /* when the window began. now 0: none has */
    bool on;                    /* others may help */
    bool proven;                /* the last comparison was in favour of help */
    bool skip;                  /* ignore the next window: help has just begun or ended */
    uint32_t run;               /* measured windows of this phase */
    uint32_t saturated;         /* of these */
    uint32_t length;            /* windows of help before the next comparison */
    uint64_t bytes, ns;         /* of these windows */
    double alone, helped;       /* bytes a nanosecond. 0: unknown */
    uint64_t penalty_ns, not_before_ns;
};

/* Call at the end of each window. Returns whether others may help from now on. */
bool spread_trial_see(struct spread_trial *trial, const struct spread_sample *sample);
#endif
