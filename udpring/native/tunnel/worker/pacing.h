/* Giving way to who reads what we deliver.
 *
 * UDP has no flow control: what is written to the TUN device faster than an application reads it fills the buffer of its
 * socket (by default some 270 small datagrams, or 90 of full size) and then is lost. Where the reader waits for this very
 * CPU, the worker itself is what keeps it from reading. So it gives way (sched_yield) each so many datagrams. That costs
 * nothing to speak of when nobody waits. When others than the reader take the CPU for long, giving way is put off for a
 * multiple of that time, so that the worker keeps most of its share.
 *
 * Owner: the worker, zero at first. Thread: the worker. Nothing to free. No clock: the time is told. */
#ifndef UDPRING_TUNNEL_WORKER_PACING_H
#define UDPRING_TUNNEL_WORKER_PACING_H
#include "../../base.h"

struct pacing {
    uint64_t datagrams;         /* delivered when it was last due */
    uint64_t not_before_ns;
};

/* Is it time to give way? `datagrams` delivered so far; only grows. */
bool pacing_due(struct pacing *pacing, uint64_t now, uint64_t datagrams);
/* It was done, and took this long. */
void pacing_gave_way(struct pacing *pacing, uint64_t began, uint64_t ended);
#endif
