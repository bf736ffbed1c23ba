/* How long a worker lets datagrams gather before it looks for them again: what interrupt moderation is to a network card.
 *
 * A worker that is quicker than whoever sends wakes for every few datagrams, and then the waking costs more than the work.
 * So while datagrams arrive fast and few at a time, it rests for a fraction of a millisecond between two passes. It does not
 * before a pass that follows silence: one datagram alone is never held up.
 *
 * Only what waiting can merge is counted, each direction by itself: single UDP packets read from the TUN device, and buffers
 * (a datagram or a train) received that held UDP. TCP is not: it paces itself by its answers, and delaying those costs throughput. UDP may do the
 * same; when the rate falls because of the waiting, the waiting ends and is not tried again for a second.
 *
 * Owner: the worker, one a direction, zero at first. Thread: the worker. Nothing to free. No clock: the time is told. */
#ifndef UDPRING_TUNNEL_WORKER_MODERATION_H
#define UDPRING_TUNNEL_WORKER_MODERATION_H
#include "../../base.h"

struct moderation {
    uint64_t window_ns, items, passes;  /* when the window began, and the counters then; 0: none has */
    uint64_t expected;                  /* the rate that waiting must not spoil: the least of the windows before it began */
    uint64_t wait_ns;                   /* 0: not waiting */
    uint64_t not_before_ns;             /* waiting has spoilt a rate: not again until then */
    uint32_t run;                       /* windows in a row that speak for beginning, or for ending */
};

/* Nanoseconds to rest before the next pass, 0 for none. `items` and `passes` only grow. */
uint64_t moderation_wait(struct moderation *moderation, uint64_t now, uint64_t items, uint64_t passes);
#endif
