/* Yielding the CPU to the applications that read the delivered datagrams.
 *
 * UDP has no flow control. Datagrams that come faster than the application reads them fill the buffer of its socket (by default
 * some 270 small ones, or 90 of full size), and then are lost. If the application waits for the worker's CPU, the worker itself
 * keeps it from reading. So the worker calls sched_yield after a number of datagrams, which costs next to nothing when
 * no thread waits. If other threads then keep the CPU for long, the next yield is delayed by a multiple of that time, so that
 * the worker keeps most of its share.
 *
 * Owner: the worker, zero at first. Thread: the worker. Nothing to free. The caller gives the time. */
#ifndef UDPRING_TUNNEL_WORKER_PACING_H
#define UDPRING_TUNNEL_WORKER_PACING_H
#include "../../base.h"

struct pacing {
    uint64_t datagrams;         /* delivered when it was last due */
    uint64_t not_before_ns;
};

/* Whether to yield now. `datagrams`: delivered so far. Only grows. */
bool pacing_due(struct pacing *pacing, uint64_t now, uint64_t datagrams);
/* It was done, and took this long. */
void pacing_gave_way(struct pacing *pacing, uint64_t began, uint64_t ended);
#endif
