/* Whether other workers help a saturated one, by trial.
 *
 * Help costs CPU time: a wake-up, a second cache, and waiting for each other. It pays only where a core is idle, and a thread
 * cannot see that. So the worker compares. It is saturated in a window in which it never waits and has the CPU for seven
 * eighths of the time. After some such windows in a row it tries help, and goes on if it then moves a sixteenth more bytes in
 * the same time. From time to time it does without for some windows and compares again. After a trial that did not pay, it waits
 * before the next one, twice as long each time.
 *
 * The caller gives the time. */
#ifndef UDPRING_TUNNEL_WORKER_SPREAD_TRIAL_H
#define UDPRING_TUNNEL_WORKER_SPREAD_TRIAL_H
#include "../../base.h"

/* The worker's counters at one time. They only grow. Owner and thread: the caller. Nothing to free. */
struct spread_sample {
    uint64_t now;
    uint64_t cpu_ns;            /* of its thread */
    uint64_t bytes;             /* of packets that it moved */
    uint64_t waits;             /* times that it had nothing to do */
};

/* Owner: the worker, zero at first. Thread: the worker. Nothing to free. */
struct spread_trial {
    struct spread_sample last;  /* when the window began; now 0: none has */
    bool on;                    /* others may help */
    bool proven;                /* help has paid the last time */
    bool skip;                  /* the next window is no measurement: help has just begun or ended */
    uint32_t run;               /* windows that count, of this phase */
    uint32_t saturated;         /* of these */
    uint32_t length;            /* windows of help before the next comparison */
    uint64_t bytes, ns;         /* of these windows */
    double alone, helped;       /* bytes a nanosecond; 0: unknown */
    uint64_t penalty_ns, not_before_ns;
};

/* When a window has ended: whether others may help from now on. */
bool spread_trial_see(struct spread_trial *trial, const struct spread_sample *sample);
#endif
