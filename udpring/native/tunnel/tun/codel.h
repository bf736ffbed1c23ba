/* CoDel, the control law: which packets of a queue are dropped or marked, so that no queue stands (RFC 8289).
 *
 * A queue may hold packets for longer than CODEL_TARGET_NS during a burst. If every packet of CODEL_INTERVAL_NS waited longer,
 * one is dropped, and the next ones at ever shorter distances until the wait is short again. The names are those of the RFC.
 *
 * Owner: the queue it is embedded in, zero at first. Thread: the worker. Nothing to free. The caller gives the time. */
#ifndef UDPRING_TUNNEL_TUN_CODEL_H
#define UDPRING_TUNNEL_TUN_CODEL_H
#include "../../base.h"

/* RFC 8289 4.2 and 4.3. */
#define CODEL_TARGET_NS 5000000ull
#define CODEL_INTERVAL_NS 100000000ull

struct codel {
    uint64_t first_above_ns;    /* when the wait will have been too long for an interval. 0: it is not too long */
    uint64_t drop_next_ns;
    uint32_t count, last_count; /* drops since the state began. When it began last */
    bool dropping;
};

/* For the packet at the head: it waited for sojourn_ns. few: no more than one packet of full size is queued. Whether it is one
 * that may be dropped (RFC 8289 5.5, dodequeue). */
bool codel_may_drop(struct codel *codel, uint64_t now, uint64_t sojourn_ns, bool few);
/* The queue is empty. */
void codel_empty(struct codel *codel);
/* Whether the packet at the head is to be dropped, which is counted. may_drop: of it. */
bool codel_begins(struct codel *codel, uint64_t now, bool may_drop);    /* not dropping: the first of a series */
bool codel_goes_on(struct codel *codel, uint64_t now, bool may_drop);   /* dropping: one more, or the series ends */
/* The next time, after a drop that codel_goes_on() ordered. */
void codel_dropped(struct codel *codel);
#endif
