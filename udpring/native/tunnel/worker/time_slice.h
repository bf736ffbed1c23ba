/* The worker's time slice and policy: how soon it gets a CPU that other threads keep busy.
 *
 * Since Linux 6.12 a thread may ask for a slice of its own (sched_setattr(2)). With a shorter one it runs sooner after each
 * wake-up, and for a shorter time. Its share of the CPU stays the same. Packets then wait less for the CPU.
 *
 * While many datagrams come (DATAGRAMS_MANY), and under bulk transfers alone (sparse.h), the worker has the kernel's slice and
 * SCHED_BATCH: when it wakes up, it does not take the CPU from a thread that runs. So more packets gather for each wake-up.
 * A policy that the user set stays.
 *
 * Owner: the worker, zero at first. Thread: the worker. Nothing to free. */
#ifndef UDPRING_TUNNEL_WORKER_TIME_SLICE_H
#define UDPRING_TUNNEL_WORKER_TIME_SLICE_H
#include "../../base.h"

struct time_slice {
    bool is_short, is_batch, refused;
};

/* For the calling thread: a short slice, or the kernel's and SCHED_BATCH. System calls only where that changes, and none after
 * one was refused. */
void time_slice_shorten(struct time_slice *slice, bool shorten);
#endif
